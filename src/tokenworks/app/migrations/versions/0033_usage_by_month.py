"""Usage is partitioned in one level, by month: the account is in the key, and spreads it where a database is distributed.

Where there are records, the months that are there stay as they are, as one partition of the new table: the range that ends where the
last of them ends. They are of two levels (the hash of the account, the month), and are not written anew. Months after them are of one.
A new installation has no others. Statements name `usage`, and months are made by `ensure_usage_month`, as in the releases before.

The daily run of chains reads what was posted of an account since its last run: by an index, however long its history is.
"""

from alembic import op

from tokenworks.app.database.schema import Index

revision = "0033"
down_revision = "0032"

COMPATIBLE_FROM = "0026"
LOCKS = dict.fromkeys(("usage", "usage_h0", "usage_h1", "usage_h2", "usage_h3"), "AccessExclusiveLock")

INDEXES = (Index("entry_posted", "entry", "(account_id, posted_at)"),)

# A month is attached rather than made as a partition: that waits for nobody who reads or settles.
MONTHS = r"""
CREATE OR REPLACE FUNCTION ensure_usage_month(month timestamptz) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    first timestamptz := date_trunc('month', month, 'UTC');
    after timestamptz := (date_trunc('month', first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    low uuid := rpad(lpad(to_hex((extract(epoch FROM first) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
    high uuid := rpad(lpad(to_hex((extract(epoch FROM after) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
    name text := to_char(first AT TIME ZONE 'UTC', 'YYYYMM');
    part text := 'usage_' || name;
    -- Months up to here are of two levels.
    two_levels_end uuid := (SELECT substring(pg_get_expr(relpartbound, oid) FROM ' TO \(''([0-9a-f-]{36})''\)')::uuid
        FROM pg_class WHERE oid = to_regclass('public.usage_two_levels'));
BEGIN
    IF high <= two_levels_end THEN
        FOR h IN 0..3 LOOP
            part := format('usage_h%s_%s', h, name);
            IF to_regclass('public.' || part) IS NULL THEN
                EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)', part, 'usage_h' || h, low, high);
                PERFORM refuse_truncate_of(part::regclass);
            END IF;
        END LOOP;
    ELSIF to_regclass('public.' || part) IS NULL THEN
        LOCK TABLE ONLY public.usage IN SHARE UPDATE EXCLUSIVE MODE;
        IF to_regclass('public.' || part) IS NULL THEN
            EXECUTE format('CREATE TABLE public.%I (LIKE public.usage INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
            EXECUTE format('ALTER TABLE public.usage ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', part, low, high);
            PERFORM refuse_truncate_of(('public.' || part)::regclass);
        END IF;
    END IF;
END $$;
"""

# One statement after the other under one lock: none reads a row of usage.
STEP = r"""
DO $$
DECLARE
    old regclass;
    one record;
    starts timestamptz[];
    ends uuid;
BEGIN
    LOCK TABLE usage IN ACCESS EXCLUSIVE MODE;
    -- Of months: where they begin (48 bits of milliseconds lead the id), and where the last one ends.
    SELECT array_agg(DISTINCT to_timestamp(('x' || left(replace(bounds[1], '-', ''), 12))::bit(48)::bigint / 1000.0)), max(bounds[2])::uuid
        INTO starts, ends
        FROM (SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([0-9a-f-]{36})''\) TO \(''([0-9a-f-]{36})''\)') AS bounds
              FROM pg_partition_tree('usage') t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf AND t.level = 2) months;
    DROP TRIGGER usage_is_history ON usage;
    DROP TRIGGER usage_rolls_up ON usage;
    old := 'usage'::regclass;
    ALTER TABLE usage RENAME TO usage_two_levels;
    FOR one IN SELECT relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = old LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', one.relname, 'usage_two_levels' || substr(one.relname, 6));
    END LOOP;

    CREATE TABLE usage (LIKE usage_two_levels INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (account_id, usage_id))
        PARTITION BY RANGE (usage_id);
    EXECUTE format('ALTER TABLE usage OWNER TO %I', (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = old));
    FOR one IN SELECT relname, pg_get_indexdef(indexrelid) AS definition FROM pg_index JOIN pg_class c ON c.oid = indexrelid
        WHERE indrelid = old AND NOT indisprimary
    LOOP
        EXECUTE regexp_replace(one.definition, 'INDEX \S+ ON (ONLY )?\S+ USING',
            format('INDEX %I ON usage USING', 'usage' || substr(one.relname, 17)));
    END LOOP;
    -- What others than the server's role may do: that of the server is what `init` gives.
    FOR one IN SELECT a.privilege_type, a.is_grantable, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) a WHERE c.oid = old AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON usage TO %s%s', one.privilege_type, one.grantee, CASE WHEN one.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        EXECUTE format('REVOKE ALL ON usage_two_levels FROM %s CASCADE', one.grantee);
    END LOOP;

    IF (SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(old) WHERE isleaf) > 0 THEN
        EXECUTE format('ALTER TABLE usage ATTACH PARTITION usage_two_levels FOR VALUES FROM (MINVALUE) TO (%L)', ends);
        FOR one IN SELECT conrelid::regclass AS part FROM pg_constraint WHERE conname = 'usage_ends_before' LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT usage_ends_before', one.part);
        END LOOP;
    ELSE
        DROP TABLE usage_two_levels;
    END IF;
    CREATE TRIGGER usage_is_history BEFORE UPDATE OR DELETE ON usage FOR EACH ROW EXECUTE FUNCTION refuse_change();
    CREATE TRIGGER usage_rolls_up AFTER INSERT ON usage REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage_rolls_up();
    PERFORM refuse_truncate_of('usage');
    PERFORM ensure_usage_month(start) FROM unnest(starts) start;
END $$;
"""


def upgrade() -> None:
    # No parameters, and nothing of it is one: text as it stands.
    op.get_bind().exec_driver_sql(MONTHS.replace("%", "%%"))
    op.get_bind().exec_driver_sql(STEP.replace("%", "%%"))
