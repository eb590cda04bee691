"""Challenges of one-time codes, sessions that are seen; work orders that are pushed, listeners and what is sent to them; tokens of staff that
end, approvals, fingerprints of peppers."""

from alembic import op
from sqlalchemy import text

from tokenworks.trust import skeleton

revision = "0016"
down_revision = "0015"

SIGN_IN = """
-- A code goes with a challenge, which its asker alone has: attempts count there. `address` is who asked: an IPv4 address, or the
-- /64 network of an IPv6 one.
ALTER TABLE sign_in_code ADD COLUMN challenge_mac bytea UNIQUE;
ALTER TABLE sign_in_code ADD COLUMN asker_attempts integer NOT NULL DEFAULT 0;
ALTER TABLE sign_in_code ADD COLUMN digits integer NOT NULL DEFAULT 6;
ALTER TABLE sign_in_code ADD COLUMN sent boolean NOT NULL DEFAULT true;
ALTER TABLE sign_in_code ADD COLUMN expires_at timestamptz;
UPDATE sign_in_code SET expires_at = created_at + interval '5 minutes';
ALTER TABLE sign_in_code ALTER COLUMN expires_at SET NOT NULL;
-- A host of the release before writes none.
ALTER TABLE sign_in_code ALTER COLUMN expires_at SET DEFAULT now() + interval '5 minutes';

ALTER TABLE session ADD COLUMN pepper_version integer;
ALTER TABLE session ADD COLUMN address text;
ALTER TABLE session ADD COLUMN client text;
ALTER TABLE session ADD COLUMN seen_at timestamptz;
ALTER TABLE session ADD COLUMN seen_address text;
"""

DELIVERY = """
-- A work order is pushed to the delivering system, repeated until it answers, and times out.
ALTER TABLE work_order ADD COLUMN asked_at timestamptz;
UPDATE work_order SET asked_at = created_at;
ALTER TABLE work_order ALTER COLUMN asked_at SET DEFAULT now();
ALTER TABLE work_order ALTER COLUMN asked_at SET NOT NULL;
ALTER TABLE work_order ADD COLUMN push_due timestamptz;
UPDATE work_order SET push_due = created_at;
ALTER TABLE work_order ALTER COLUMN push_due SET DEFAULT now();
ALTER TABLE work_order ALTER COLUMN push_due SET NOT NULL;
ALTER TABLE work_order ADD COLUMN push_tries integer NOT NULL DEFAULT 0;
ALTER TABLE work_order ADD COLUMN pushed_at timestamptz;
ALTER TABLE work_order ADD COLUMN push_error text;
-- Where it is delivered, as it was when it was asked for: a closed subscriber has no number any more.
ALTER TABLE work_order ADD COLUMN broadband text;
UPDATE work_order w SET broadband = s.broadband FROM subscriber s WHERE s.subscriber_id = w.subscriber_id;

CREATE TABLE hub_listener (
    listener_id uuid PRIMARY KEY,
    api text NOT NULL,
    callback text NOT NULL,
    query text NOT NULL,
    generation integer NOT NULL,
    pepper_version integer NOT NULL,
    overlap_until timestamptz,
    overlap_version integer,
    made_by text NOT NULL,
    created_at timestamptz NOT NULL,
    removed_at timestamptz
);
CREATE INDEX hub_listener_live ON hub_listener (api) WHERE removed_at IS NULL;
CREATE TABLE hub_event (
    event_no bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    api text NOT NULL,
    event_type text NOT NULL,
    ref uuid NOT NULL,
    subscriber_id uuid NOT NULL,
    state text,
    expanded_at timestamptz
);
CREATE INDEX hub_event_open ON hub_event (event_no) WHERE expanded_at IS NULL;
CREATE TABLE hub_delivery (
    delivery_id uuid PRIMARY KEY,
    listener_id uuid REFERENCES hub_listener,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL,
    begun_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    replays integer NOT NULL DEFAULT 0,
    tried_at timestamptz,
    status integer,
    error text,
    delivered_at timestamptz,
    given_up_at timestamptz
);
CREATE UNIQUE INDEX hub_delivery_once ON hub_delivery (event_id, coalesce(listener_id, '00000000-0000-0000-0000-000000000000'));
CREATE INDEX hub_delivery_due ON hub_delivery (next_at) WHERE delivered_at IS NULL AND given_up_at IS NULL;

-- What happens to orders, products, bills, payments and work orders, in its transaction, whoever does it: where anybody listens.
CREATE FUNCTION tell_hub() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := to_jsonb(NEW);
BEGIN
    IF EXISTS (SELECT 1 FROM hub_listener WHERE api = TG_ARGV[0] AND removed_at IS NULL) THEN
        INSERT INTO hub_event (event_id, at, api, event_type, ref, subscriber_id, state)
        VALUES (gen_random_uuid(), now(), TG_ARGV[0],
                TG_ARGV[1] || CASE TG_OP WHEN 'INSERT' THEN 'CreateEvent' ELSE 'StateChangeEvent' END,
                (said ->> TG_ARGV[2])::uuid, (said ->> 'subscriber_id')::uuid, said ->> 'state');
    END IF;
    RETURN NULL;
END $$;
"""
STAFF = """
-- The peppers of the works: a host whose own are others is refused.
CREATE TABLE pepper (
    version integer PRIMARY KEY,
    fingerprint bytea NOT NULL,
    added_at timestamptz NOT NULL,
    used_since timestamptz,
    retired_at timestamptz
);
ALTER TABLE api_key ADD COLUMN used_at timestamptz;

-- Tokens of staff end by themselves; those that are there end in 90 days.
CREATE TABLE staff_token (
    token_id uuid PRIMARY KEY,
    staff_id uuid NOT NULL REFERENCES staff,
    token_mac bytea NOT NULL UNIQUE,
    pepper_version integer,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    used_address text
);
CREATE INDEX staff_token_staff ON staff_token (staff_id);
INSERT INTO staff_token (token_id, staff_id, token_mac, created_at, expires_at)
SELECT gen_random_uuid(), staff_id, token_mac, created_at, now() + interval '90 days' FROM staff WHERE revoked_at IS NULL;
ALTER TABLE staff ALTER COLUMN token_mac DROP NOT NULL;
ALTER TABLE staff ADD COLUMN skeleton text;

ALTER TABLE audit ADD COLUMN address text;

-- Two persons for money above a limit. `asker` is what the name of whoever asked looks like.
CREATE TABLE approval (
    approval_id uuid PRIMARY KEY,
    action text NOT NULL,
    ref text NOT NULL,
    key text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    asked_by text NOT NULL,
    asker text NOT NULL,
    asked_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'approved', 'refused', 'used')),
    decided_by text,
    decided_at timestamptz,
    used_at timestamptz
);
CREATE INDEX approval_asked ON approval (action, ref, key);
"""
# (table, its id, the API, the resource, whether it has states)
_TOLD = (
    ("product_order", "order_id", "productOrdering", "ProductOrder", True),
    ("product", "product_id", "productInventory", "Product", True),
    ("bill", "bill_id", "customerBill", "CustomerBill", True),
    ("payment", "payment_id", "payment", "Payment", False),
    ("work_order", "work_order_id", "serviceOrdering", "ServiceOrder", True),
)


def _name_looks() -> None:
    """What the names of the staff look like. Of names that look alike the oldest has it; the others keep theirs, told apart."""
    connection = op.get_bind()
    seen = set()
    for staff_id, name in connection.execute(
        text("SELECT staff_id, name FROM staff ORDER BY created_at, staff_id")
    ).fetchall():
        looks = skeleton(name)
        if not looks or looks in seen:
            looks = f"{looks}#{staff_id}"
        seen.add(looks)
        connection.execute(
            text("UPDATE staff SET skeleton = :looks WHERE staff_id = :id"), {"looks": looks, "id": staff_id}
        )
    op.execute("CREATE UNIQUE INDEX staff_skeleton ON staff (skeleton)")


def upgrade() -> None:
    op.execute(SIGN_IN)
    op.execute(DELIVERY)
    op.execute(STAFF)
    _name_looks()
    for table, id_, api, resource, states in _TOLD:
        call = f"EXECUTE FUNCTION tell_hub('{api}', '{resource}', '{id_}')"
        op.execute(f"CREATE TRIGGER {table}_made AFTER INSERT ON {table} FOR EACH ROW {call}")
        if states:
            op.execute(
                f"CREATE TRIGGER {table}_changed AFTER UPDATE OF state ON {table} FOR EACH ROW "
                f"WHEN (OLD.state IS DISTINCT FROM NEW.state) {call}"
            )
