"""Reads that cost what an account's own rows cost: indexes, usage by day, and a change table that does not grow for ever.

Usage by day is written by a trigger, in the statement that inserts usage: whichever release settles it, the two are equal.
"""

from alembic import op

revision = "0024"
down_revision = "0019"

HASH_PARTITIONS = 4

TABLES = """
CREATE INDEX posting_receivable ON posting (account_id) INCLUDE (amount) WHERE ledger_account = 'receivable';
CREATE INDEX usage_flagged ON usage (usage_id) WHERE flags <> '{}';
CREATE INDEX usage_by_id ON usage (usage_id);
CREATE INDEX usage_member ON usage (account_id, member_id, usage_id);
-- By a hash: an upstream's id may be longer than what an index can hold.
CREATE INDEX usage_upstream ON usage (account_id, hashtextextended(upstream_id, 0), usage_id) WHERE upstream_id IS NOT NULL;
CREATE INDEX bucket_by_id ON bucket (bucket_id);
CREATE INDEX product_account ON product (account_id);
CREATE INDEX change_at ON change (changed_at);

-- The newest transaction of which a change was deleted: whoever has not read up to it has missed something.
CREATE TABLE change_gone (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    txid xid8 NOT NULL
);
INSERT INTO change_gone (txid) VALUES ('0');

-- What requests that ended on a day of UTC+8 used, by host (journal), so that hosts never wait for each other's row.
CREATE TABLE usage_day (
    account_id uuid NOT NULL,
    day date NOT NULL,
    member_id uuid NOT NULL,
    key_id uuid NOT NULL,
    model text NOT NULL,
    journal_id uuid NOT NULL,
    records bigint NOT NULL CHECK (records > 0),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    PRIMARY KEY (account_id, day, member_id, key_id, model, journal_id)
) PARTITION BY HASH (account_id);
-- What of it was drawn from balances, in thousandths of a unit.
CREATE TABLE usage_day_charged (
    account_id uuid NOT NULL,
    day date NOT NULL,
    member_id uuid NOT NULL,
    key_id uuid NOT NULL,
    model text NOT NULL,
    journal_id uuid NOT NULL,
    unit text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account_id, day, member_id, key_id, model, journal_id, unit)
) PARTITION BY HASH (account_id);
"""

# Of `usage` in the migration, of the rows that a statement added in the trigger.
DAYS = """SELECT account_id, (ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date, member_id, key_id, model, journal_id, count(*),
        sum(fresh_input + cached_input + cache_write + audio_input + cache_write_1h), sum(output + reasoning + audio_output)
    FROM usage GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6"""
CHARGED = """SELECT account_id, (ended_at AT TIME ZONE 'UTC' + interval '8 hours')::date, member_id, key_id, model, journal_id, p->>3,
        sum((p->>5)::bigint)
    FROM usage, jsonb_array_elements(parts) p WHERE p->>4 = 'balance'
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7"""

ROLL_UP = """
CREATE FUNCTION usage_rolls_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_day AS d (account_id, day, member_id, key_id, model, journal_id, records, input_tokens, output_tokens)
    <days added>
    ON CONFLICT (account_id, day, member_id, key_id, model, journal_id) DO UPDATE SET records = d.records + excluded.records,
        input_tokens = d.input_tokens + excluded.input_tokens, output_tokens = d.output_tokens + excluded.output_tokens;
    INSERT INTO usage_day_charged AS d (account_id, day, member_id, key_id, model, journal_id, unit, amount)
    <charged added>
    ON CONFLICT (account_id, day, member_id, key_id, model, journal_id, unit) DO UPDATE SET amount = d.amount + excluded.amount;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_rolls_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION usage_rolls_up();
-- What is there: nobody inserts usage before this transaction ends.
INSERT INTO usage_day <days>;
INSERT INTO usage_day_charged <charged>;
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table in ("usage_day", "usage_day_charged"):
        for h in range(HASH_PARTITIONS):
            op.execute(
                f"CREATE TABLE {table}_h{h} PARTITION OF {table} "
                f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h}) WITH (fillfactor = 70)"
            )
    roll_up = ROLL_UP.replace("<days>", DAYS).replace("<charged>", CHARGED)
    for name, text in (("<days added>", DAYS), ("<charged added>", CHARGED)):
        roll_up = roll_up.replace(name, text.replace("FROM usage", "FROM added"))
    op.execute(roll_up)
