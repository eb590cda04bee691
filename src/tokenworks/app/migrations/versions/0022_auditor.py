"""What the auditor recomputes from (when a member's cap was set, how large a key's own cap is), and history that is not emptied.

History refused UPDATE and DELETE; it refuses TRUNCATE as well, in every partition. Months of usage are made by a function that runs
as the owner of the tables, with a fixed search path, so that whoever settles needs no right to make tables.
"""

from alembic import op

revision = "0022"
down_revision = "0021"

TABLES = """
-- A cap's buckets of since it was set are as large as it is; those of before say nothing that could be compared.
ALTER TABLE member ADD COLUMN cap_set_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE api_key ADD COLUMN cap_tokens bigint CHECK (cap_tokens > 0);
UPDATE api_key k SET cap_tokens = b.total / 1000 FROM bucket b
WHERE b.account_id = k.account_id AND b.bucket_id = k.cap_bucket_id AND b.total >= 1000;

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
SELECT refuse_truncate_of(tgrelid::regclass) FROM pg_trigger WHERE tgfoid = 'refuse_change'::regproc AND tgparentid = 0 AND tgname LIKE '%_is_history';

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
