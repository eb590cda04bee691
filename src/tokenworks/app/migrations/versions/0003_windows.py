"""Windowed allowances: so many calls or prompts in any 5 hours, any week."""

from alembic import op

revision = "0003"
down_revision = "0002"

HASH_PARTITIONS = 4

TABLES = """
ALTER TABLE bucket DROP CONSTRAINT bucket_kind_check;
ALTER TABLE bucket ADD CONSTRAINT bucket_kind_check CHECK (kind IN ('balance', 'cap', 'window'));
ALTER TABLE bucket ADD COLUMN window_s bigint CHECK (window_s > 0);
ALTER TABLE bucket ADD COLUMN window_quantity bigint CHECK (window_quantity > 0);
ALTER TABLE bucket ADD CONSTRAINT bucket_window CHECK ((kind = 'window') = (window_s IS NOT NULL));
-- Whether a person asked; what goes on with a tool's result is no prompt.
ALTER TABLE usage ADD COLUMN prompt boolean NOT NULL DEFAULT true;
-- What was used of a window and has not come back yet.
CREATE TABLE window_use (
    account_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    used_at timestamptz NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    PRIMARY KEY (account_id, bucket_id, usage_id)
) PARTITION BY HASH (account_id);
CREATE INDEX window_use_at ON window_use (account_id, bucket_id, used_at);
"""


def upgrade() -> None:
    op.execute(TABLES)
    for h in range(HASH_PARTITIONS):
        op.execute(
            f"CREATE TABLE window_use_h{h} PARTITION OF window_use "
            f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h})"
        )
