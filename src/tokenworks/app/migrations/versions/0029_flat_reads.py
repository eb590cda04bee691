"""Reads that cost what an account's own rows cost: indexes, usage by day, and a change table that does not grow for ever.

Usage by day is written by a trigger, in the statement that inserts usage: whichever release settles it, the two are equal. What was
settled before the trigger is filled in batches: the difference of what the records are and what the trigger has counted, both in one
snapshot, in rows of no journal, which the trigger never writes. So settlement waits for no batch, and a batch that is done twice does
no harm.
"""

from typing import Any, Final

from alembic import op

from tokenworks.app.database.schema import Index

revision = "0029"
down_revision = "0028"

COMPATIBLE_FROM = "0026"
# A trigger is made beside readers; settlement waits for the statement that makes it.
LOCKS = {"usage": "ShareRowExclusiveLock"}
INDEXES = (
    Index("posting_receivable", "posting", "(account_id) INCLUDE (amount) WHERE ledger_account = 'receivable'"),
    Index("usage_flagged", "usage", "(usage_id) WHERE flags <> '{}'"),
    # By hashes: half as large as the ids, and an upstream's id may be longer than what an index can hold.
    Index("usage_member", "usage", "(uuid_hash_extended(member_id, 0), usage_id)"),
    # What a later request names is a response: nobody names a chat completion.
    Index("usage_response", "usage", "(hashtextextended(upstream_id, 0)) WHERE protocol = 'responses' AND upstream_id IS NOT NULL"),
    Index("bucket_by_id", "bucket", "(bucket_id)"),
    Index("product_account", "product", "(account_id)"),
    Index("change_at", "change", "(changed_at)"),
)  # fmt: skip

HASH_PARTITIONS: Final = 4
ACCOUNTS_IN_BATCH_MAX: Final = 500
NO_JOURNAL: Final = "00000000-0000-0000-0000-000000000000"

TABLES = """
-- The newest transaction of which a change was deleted: whoever has not read up to it has missed something.
CREATE TABLE change_gone (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    txid xid8 NOT NULL
);
INSERT INTO change_gone (txid) VALUES ('0');

-- What requests that ended on a day of UTC+8 used, by host (journal), so that hosts never wait for each other's row. A record is counted
-- in the row of what its first part was drawn from: that unit, or '' for what is no balance. What its further parts drew from balances
-- is in rows of their units.
CREATE TABLE usage_day (
    account_id uuid NOT NULL,
    member_id uuid NOT NULL,
    journal_id uuid NOT NULL,
    day date NOT NULL,
    unit text NOT NULL,
    records bigint NOT NULL CHECK (records >= 0),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    amount bigint NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account_id, day, member_id, journal_id, unit)
) PARTITION BY HASH (account_id);
"""

# Of {rows}: a table or transition table with the columns of usage.
SUMS = """SELECT {rows}.account_id, member_id, {journal} AS journal_id, (ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date AS day,
        CASE WHEN p->>4 = 'balance' THEN p->>3 ELSE '' END AS unit,
        count(*) FILTER (WHERE n IS NULL OR n = 1) AS records,
        coalesce(sum(fresh_input + cached_input + cache_write + audio_input + cache_write_1h) FILTER (WHERE n IS NULL OR n = 1), 0) AS input_tokens,
        coalesce(sum(output + reasoning + audio_output) FILTER (WHERE n IS NULL OR n = 1), 0) AS output_tokens,
        coalesce(sum((p->>5)::bigint) FILTER (WHERE p->>4 = 'balance'), 0) AS amount
    FROM {rows} LEFT JOIN LATERAL jsonb_array_elements(parts) WITH ORDINALITY e(p, n) ON n = 1 OR p->>4 = 'balance'"""

ROLL_UP = f"""
CREATE FUNCTION usage_rolls_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_day AS d (account_id, member_id, journal_id, day, unit, records, input_tokens, output_tokens, amount)
    {SUMS.format(rows="added", journal="journal_id")}
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 4, 2, 3, 5
    ON CONFLICT (account_id, day, member_id, journal_id, unit) DO UPDATE SET records = d.records + excluded.records,
        input_tokens = d.input_tokens + excluded.input_tokens, output_tokens = d.output_tokens + excluded.output_tokens,
        amount = d.amount + excluded.amount;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_rolls_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION usage_rolls_up();
"""

FILL = f"""WITH batch AS MATERIALIZED (SELECT account_id FROM account WHERE account_id > %(after)s::uuid ORDER BY account_id LIMIT %(limit)s),
    counted AS (
        {SUMS.format(rows="usage", journal="%(nobody)s::uuid")} JOIN batch USING (account_id) GROUP BY 1, 2, 3, 4, 5),
    kept AS (
        SELECT account_id, member_id, day, unit, sum(records) AS records, sum(input_tokens) AS input_tokens,
            sum(output_tokens) AS output_tokens, sum(amount) AS amount
        FROM usage_day JOIN batch USING (account_id) WHERE journal_id <> %(nobody)s GROUP BY 1, 2, 3, 4),
    filled AS (
        INSERT INTO usage_day AS d (account_id, member_id, journal_id, day, unit, records, input_tokens, output_tokens, amount)
        SELECT account_id, member_id, c.journal_id, day, unit, c.records - coalesce(k.records, 0), c.input_tokens - coalesce(k.input_tokens, 0),
            c.output_tokens - coalesce(k.output_tokens, 0), c.amount - coalesce(k.amount, 0)
        FROM counted c LEFT JOIN kept k USING (account_id, member_id, day, unit)
        WHERE (c.records, c.input_tokens, c.output_tokens, c.amount)
            IS DISTINCT FROM (k.records, k.input_tokens, k.output_tokens, k.amount)
        ON CONFLICT (account_id, day, member_id, journal_id, unit) DO UPDATE SET records = excluded.records,
            input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, amount = excluded.amount)
    SELECT max(account_id::text), count(*) FROM batch"""


def upgrade() -> None:
    op.execute(TABLES)
    for h in range(HASH_PARTITIONS):
        # Rows of today are added to over and over: room on the page keeps their indexes as they are.
        op.execute(
            f"CREATE TABLE usage_day_h{h} PARTITION OF usage_day "
            f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h}) WITH (fillfactor = 80)"
        )
    op.execute(ROLL_UP)


def backfill(connection: Any, after: str | None) -> str | None:
    """Usage by day of what the trigger did not see. By account, at most `ACCOUNTS_IN_BATCH_MAX` at a time."""
    last, count = connection.execute(
        FILL, {"after": after or NO_JOURNAL, "limit": ACCOUNTS_IN_BATCH_MAX, "nobody": NO_JOURNAL}
    ).fetchone()
    return last if count == ACCOUNTS_IN_BATCH_MAX else None
