"""Transfers between members' caps, the history of balances, and what is paid out to who has left."""

from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = """
CREATE TABLE transfer (
    transfer_id uuid NOT NULL,
    account_id uuid NOT NULL,
    from_bucket_id uuid NOT NULL,
    to_bucket_id uuid NOT NULL CHECK (to_bucket_id <> from_bucket_id),
    from_member_id uuid NOT NULL,
    to_member_id uuid NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    reason text NOT NULL,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL,
    idempotency_key text NOT NULL,
    PRIMARY KEY (account_id, transfer_id),
    UNIQUE (account_id, idempotency_key)
);
CREATE INDEX transfer_id ON transfer (transfer_id);
CREATE INDEX transfer_from ON transfer (account_id, from_bucket_id);
CREATE INDEX transfer_to ON transfer (account_id, to_bucket_id);
-- What a history of balances shows: few rows beside those of usage.
CREATE INDEX entry_moves ON entry (account_id, entry_id) WHERE kind IN ('issue', 'expire', 'withdraw', 'rollover', 'adjust');
CREATE INDEX top_up_subscriber ON top_up (subscriber_id, top_up_id);
CREATE TABLE payout (
    payout_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    method text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    currency text NOT NULL,
    entry_id uuid NOT NULL,
    reference text NOT NULL,
    paid_at timestamptz NOT NULL,
    UNIQUE (method, reference)
);
CREATE TRIGGER transfer_is_history BEFORE UPDATE OR DELETE ON transfer FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER payout_is_history BEFORE UPDATE OR DELETE ON payout FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(TABLES)
