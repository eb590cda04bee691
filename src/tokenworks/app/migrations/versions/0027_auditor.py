"""What the auditor recomputes from (when a member's cap was set, how large a key's own cap is), and history that is not emptied.

History refused UPDATE and DELETE; it refuses TRUNCATE as well, in every partition. Months of usage are made by a function that runs
as the owner of the tables, with a fixed search path, so that whoever settles needs no right to make tables.
"""

from typing import Any, Final

from alembic import op

revision = "0027"
down_revision = "0026"

COMPATIBLE_FROM = "0026"
_HISTORY = (
    "audit", "bill_line", "consent", "credit_note", "entry", "offering", "payment", "payment_reversal", "payout", "phone_history",
    "posting", "rate_card", "transfer", "usage", "usage_h0", "usage_h1", "usage_h2", "usage_h3",
)  # fmt: skip
# A trigger is made beside readers; who writes waits for the statements that make it.
LOCKS = {
    "member": "AccessExclusiveLock",
    "api_key": "AccessExclusiveLock",
    **dict.fromkeys(_HISTORY, "ShareRowExclusiveLock"),
}

BATCH_MAX: Final = 1000

TABLES = """
-- A cap's buckets of since it was set are as large as it is; those of before say nothing that could be compared.
ALTER TABLE member ADD COLUMN cap_set_at timestamptz NOT NULL DEFAULT now();
-- NOT VALID reads no row while the table is locked: those that are there have none, and what is written from now on is checked.
ALTER TABLE api_key ADD COLUMN cap_tokens bigint;
ALTER TABLE api_key ADD CONSTRAINT api_key_cap_tokens CHECK (cap_tokens > 0) NOT VALID;

-- Hosts of the release before know neither column, and serve beside this one and after the backfill: what they write is completed
-- here. A step that no longer runs beside them takes these triggers away.
CREATE FUNCTION complete_key_cap() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    NEW.cap_tokens := (SELECT total / 1000 FROM bucket WHERE account_id = NEW.account_id AND bucket_id = NEW.cap_bucket_id);
    RETURN NEW;
END $$;
CREATE TRIGGER cap_is_complete BEFORE INSERT ON api_key FOR EACH ROW
    WHEN (NEW.cap_bucket_id IS NOT NULL AND NEW.cap_tokens IS NULL) EXECUTE FUNCTION complete_key_cap();
CREATE FUNCTION date_member_cap() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    NEW.cap_set_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER cap_is_dated BEFORE UPDATE OF cap_tokens, cap_period ON member FOR EACH ROW
    WHEN (NEW.cap_set_at = OLD.cap_set_at) EXECUTE FUNCTION date_member_cap();

-- A trigger FOR EACH STATEMENT of a partitioned table is none of its partitions: each has its own.
CREATE FUNCTION refuse_truncate_of(history regclass) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT history UNION SELECT relid FROM pg_partition_tree(history) LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = part AND tgname = 'history_is_not_emptied') THEN
            EXECUTE format('CREATE TRIGGER history_is_not_emptied BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION refuse_truncate_of FROM PUBLIC;
-- History whose free texts are forgotten has another function, and is emptied no more than the rest.
SELECT refuse_truncate_of(tgrelid::regclass) FROM pg_trigger
    WHERE tgfoid IN ('refuse_change'::regproc, 'refuse_change_but_forgetting'::regproc) AND tgparentid = 0 AND tgname LIKE '%_is_history';

CREATE OR REPLACE FUNCTION ensure_usage_month(month timestamptz) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    first timestamptz := date_trunc('month', month, 'UTC');
    after timestamptz;
    low uuid := rpad(lpad(to_hex((extract(epoch FROM first) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
    high uuid;
    h integer;
    part text;
BEGIN
    after := (date_trunc('month', first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    high := rpad(lpad(to_hex((extract(epoch FROM after) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
    FOR h IN SELECT generate_series(0, (SELECT count(*) - 1 FROM pg_inherits WHERE inhparent = 'usage'::regclass)) LOOP
        part := format('usage_h%s_%s', h, to_char(first AT TIME ZONE 'UTC', 'YYYYMM'));
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, 'usage_h' || h, low, high);
            PERFORM refuse_truncate_of(part::regclass);
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.execute(TABLES)


def backfill(connection: Any, after: str | None) -> str | None:
    """Keys that had a cap before: as large as its bucket. By key id, at most `BATCH_MAX` at a time."""
    rows = connection.execute(
        """WITH batch AS (SELECT account_id, key_id, cap_bucket_id FROM api_key
                          WHERE cap_bucket_id IS NOT NULL AND key_id > %s::uuid ORDER BY key_id LIMIT %s),
                filled AS (UPDATE api_key k SET cap_tokens = b.total / 1000 FROM batch, bucket b
                           WHERE k.account_id = batch.account_id AND k.key_id = batch.key_id AND k.cap_tokens IS NULL
                             AND b.account_id = batch.account_id AND b.bucket_id = batch.cap_bucket_id AND b.total >= 1000)
           SELECT max(key_id::text), count(*) FROM batch""",
        (after or "00000000-0000-0000-0000-000000000000", BATCH_MAX),
    ).fetchone()
    if rows[1] == BATCH_MAX:
        return str(rows[0])
    # Beside readers and writers.
    connection.execute("ALTER TABLE api_key VALIDATE CONSTRAINT api_key_cap_tokens")
    return None


def backfill_rows(connection: Any, after: str | None) -> int:
    """Keys with a cap from `after` on."""
    return int(
        connection.execute(
            "SELECT count(*) FROM api_key WHERE cap_bucket_id IS NOT NULL AND key_id > %s::uuid",
            (after or "00000000-0000-0000-0000-000000000000",),
        ).fetchone()[0]
    )
