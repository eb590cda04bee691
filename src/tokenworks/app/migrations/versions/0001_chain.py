"""The chain: catalogue, subscribers, charging, keys, deployments.

Hot tables (bucket, grants, usage, entry, posting) lead their key with account_id and are hash-partitioned
by it; usage is sub-partitioned by the month of its UUIDv7. What is history refuses UPDATE and DELETE.
"""

from alembic import op

revision = "0001"
down_revision = None

HASH_PARTITIONS = 4

TABLES = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is history: it is never changed, only reversed', TG_TABLE_NAME; END $$;

CREATE TABLE change (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind text NOT NULL,
    ref text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX change_txid ON change (txid);

CREATE TABLE rate_card (
    rate_version text PRIMARY KEY,
    rate_card_id text NOT NULL,
    effective_from timestamptz NOT NULL,
    content text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE offering (
    offering_version text PRIMARY KEY,
    offering_id text NOT NULL,
    rate_version text NOT NULL REFERENCES rate_card,
    content text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE offering_current (
    offering_id text PRIMARY KEY,
    offering_version text NOT NULL REFERENCES offering
);

CREATE TABLE model_alias (
    alias text PRIMARY KEY,
    model text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE deployment (
    deployment_id uuid PRIMARY KEY,
    name text NOT NULL,
    content jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);
CREATE UNIQUE INDEX deployment_name ON deployment (name) WHERE removed_at IS NULL;

CREATE TABLE account (
    account_id uuid PRIMARY KEY,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'frozen', 'closed')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE subscriber (
    subscriber_id uuid PRIMARY KEY,
    account_id uuid NOT NULL UNIQUE REFERENCES account,
    phone text NOT NULL UNIQUE CHECK (phone ~ '^\\+[1-9][0-9]{6,14}$'),
    name text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE member (
    member_id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES account,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('owner', 'member')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX member_account ON member (account_id);
CREATE TABLE api_key (
    key_id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES account,
    member_id uuid NOT NULL REFERENCES member,
    key_mac bytea NOT NULL UNIQUE,
    pepper_version integer NOT NULL,
    hint text NOT NULL,
    name text NOT NULL,
    models text[],
    cap_bucket_id uuid,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_key_account ON api_key (account_id);
CREATE TABLE product_order (
    order_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    offering_id text NOT NULL,
    offering_version text NOT NULL REFERENCES offering,
    idempotency_key text,
    state text NOT NULL CHECK (state IN ('completed', 'cancelled')),
    ordered_at timestamptz NOT NULL,
    UNIQUE (subscriber_id, idempotency_key)
);
CREATE TABLE product (
    product_id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES product_order,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    offering_version text NOT NULL REFERENCES offering,
    state text NOT NULL CHECK (state IN ('active', 'cancelled', 'expired')),
    renews boolean NOT NULL,
    cycle_no integer NOT NULL,
    started_at timestamptz NOT NULL,
    cycle_start timestamptz NOT NULL,
    cycle_end timestamptz,
    ended_at timestamptz
);
CREATE INDEX product_due ON product (cycle_end) WHERE state = 'active';
CREATE INDEX product_subscriber ON product (subscriber_id);
CREATE TABLE phone_bill_line (
    line_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    product_id uuid NOT NULL REFERENCES product,
    cycle_no integer NOT NULL,
    cycle_start timestamptz NOT NULL,
    description text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano >= 0),
    currency text NOT NULL,
    entry_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, cycle_no)
);
CREATE INDEX phone_bill_line_subscriber ON phone_bill_line (subscriber_id, cycle_start);

CREATE TABLE journal (
    journal_id uuid PRIMARY KEY,
    host text NOT NULL,
    settled_seq bigint NOT NULL DEFAULT 0,
    settled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE bucket (
    account_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    product_id uuid,
    kind text NOT NULL CHECK (kind IN ('balance', 'cap')),
    unit text NOT NULL,
    total bigint NOT NULL CHECK (total >= 0),
    remaining bigint NOT NULL CHECK (remaining >= 0),
    granted bigint NOT NULL DEFAULT 0 CHECK (granted >= 0),
    used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    expired bigint NOT NULL DEFAULT 0 CHECK (expired >= 0),
    withdrawn bigint NOT NULL DEFAULT 0 CHECK (withdrawn >= 0),
    priority integer NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz,
    model_classes text[] NOT NULL,
    rate_version text NOT NULL,
    closing text CHECK (closing IN ('expire', 'withdraw')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, bucket_id),
    CHECK (total = remaining + granted + used + expired + withdrawn)
) PARTITION BY HASH (account_id);
CREATE INDEX bucket_due ON bucket (valid_until) WHERE remaining > 0;
CREATE TABLE grants (
    account_id uuid NOT NULL,
    grant_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    journal_id uuid NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    used bigint NOT NULL DEFAULT 0 CHECK (used >= 0 AND used <= amount),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    opened_at timestamptz NOT NULL DEFAULT now(),
    spend_until timestamptz NOT NULL,
    closed_at timestamptz,
    PRIMARY KEY (account_id, grant_id)
) PARTITION BY HASH (account_id);
CREATE INDEX grants_open ON grants (journal_id) WHERE state = 'open';
CREATE INDEX grants_bucket ON grants (account_id, bucket_id);
CREATE TABLE usage (
    account_id uuid NOT NULL,
    usage_id uuid NOT NULL,
    request_id text NOT NULL,
    attempt_no integer NOT NULL,
    key_id uuid NOT NULL,
    member_id uuid NOT NULL,
    protocol text NOT NULL,
    model text NOT NULL,
    deployment text NOT NULL,
    state text NOT NULL CHECK (state IN ('complete', 'interrupted')),
    reason text NOT NULL,
    counted_by text NOT NULL CHECK (counted_by IN ('provider', 'progress', 'estimate')),
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    first_byte_ms integer,
    latency_ms integer NOT NULL,
    fresh_input bigint NOT NULL CHECK (fresh_input >= 0),
    cached_input bigint NOT NULL CHECK (cached_input >= 0),
    cache_write bigint NOT NULL CHECK (cache_write >= 0),
    audio_input bigint NOT NULL CHECK (audio_input >= 0),
    output bigint NOT NULL CHECK (output >= 0),
    reasoning bigint NOT NULL CHECK (reasoning >= 0),
    audio_output bigint NOT NULL CHECK (audio_output >= 0),
    provider_total bigint,
    parts jsonb NOT NULL,
    loss jsonb,
    flags text[] NOT NULL,
    upstream_id text,
    journal_id uuid NOT NULL,
    seq bigint NOT NULL,
    entry_id uuid NOT NULL,
    settled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, usage_id)
) PARTITION BY HASH (account_id);
CREATE TABLE entry (
    account_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    kind text NOT NULL,
    ref text NOT NULL,
    posted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, entry_id)
) PARTITION BY HASH (account_id);
CREATE TABLE posting (
    account_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    line_no integer NOT NULL,
    ledger_account text NOT NULL,
    unit text NOT NULL,
    bucket_id uuid,
    amount bigint NOT NULL,
    PRIMARY KEY (account_id, entry_id, line_no)
) PARTITION BY HASH (account_id);

-- Range partitions of usage for one month (UUIDv7: 48 bits of milliseconds lead the id), idempotent.
CREATE FUNCTION ensure_usage_month(month timestamptz) RETURNS void LANGUAGE plpgsql AS $$
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
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table in ("bucket", "grants", "usage", "entry", "posting"):
        sub = " PARTITION BY RANGE (usage_id)" if table == "usage" else ""
        for h in range(HASH_PARTITIONS):
            op.execute(
                f"CREATE TABLE {table}_h{h} PARTITION OF {table} "
                f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h}){sub}"
            )
    for table in ("usage", "entry", "posting", "rate_card", "offering"):
        op.execute(
            f"CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    op.execute("SELECT ensure_usage_month(now() + make_interval(months => m)) FROM generate_series(-1, 3) m")
