"""Tokens of the hour's cache write, losses with their causes, and what is lost of an account in a day.

A fleet under migration may still write losses without a cause, in journals and rows: they are read as `unnamed`.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

HASH_PARTITIONS = 4

TABLES = """
ALTER TABLE usage ADD COLUMN cache_write_1h bigint NOT NULL DEFAULT 0 CHECK (cache_write_1h >= 0);
-- History keeps what it says: [requests, [tokens]] becomes [["unnamed", requests, [tokens]]].
ALTER TABLE usage DISABLE TRIGGER usage_is_history;
UPDATE usage SET loss = jsonb_build_array(jsonb_build_array('unnamed', loss->0, loss->1))
WHERE jsonb_typeof(loss->0) = 'number';
ALTER TABLE usage ENABLE TRIGGER usage_is_history;
-- What may have been produced for an account on a day (UTC) and is not charged.
CREATE TABLE account_loss (
    account_id uuid NOT NULL,
    day date NOT NULL,
    risk_tokens bigint NOT NULL CHECK (risk_tokens > 0),
    PRIMARY KEY (account_id, day)
) PARTITION BY HASH (account_id);
CREATE INDEX account_loss_day ON account_loss (day, risk_tokens);
"""


def upgrade() -> None:
    op.execute(TABLES)
    for h in range(HASH_PARTITIONS):
        op.execute(
            f"CREATE TABLE account_loss_h{h} PARTITION OF account_loss "
            f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h})"
        )
