"""The shop and the bill: charges with their revenue, order steps, spend control, bills, payments, dunning."""

from alembic import op

revision = "0006"
down_revision = "0005"

HASH_PARTITIONS = 4

TABLES = """
-- Which version of an offering is sold from when.
ALTER TABLE offering_current ADD COLUMN from_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE offering_current DROP CONSTRAINT offering_current_pkey;
ALTER TABLE offering_current ADD PRIMARY KEY (offering_id, from_at);

-- What a subscriber owes for one cycle, one step, one change or one credit: the money side of the ledger.
-- amount = floor(price * share_num / share_den), or its negative; net = amount - tax;
-- net = recognised + broken (breakage) + refunded + what is still owed to the subscriber.
CREATE TABLE charge (
    account_id uuid NOT NULL,
    charge_id uuid NOT NULL,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    product_id uuid REFERENCES product,
    offering_version text REFERENCES offering,
    kind text NOT NULL CHECK (kind IN ('cycle', 'step', 'change', 'credit', 'refund', 'adjustment')),
    number integer NOT NULL,
    charged_at timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    description text NOT NULL,
    description_zh text NOT NULL,
    price_nano bigint NOT NULL CHECK (price_nano >= 0),
    share_num bigint NOT NULL DEFAULT 1 CHECK (share_num >= 0),
    share_den bigint NOT NULL DEFAULT 1 CHECK (share_den > 0),
    amount_nano bigint NOT NULL,
    vat_percent integer NOT NULL CHECK (vat_percent BETWEEN 0 AND 100),
    tax_nano bigint NOT NULL,
    currency text NOT NULL,
    entry_id uuid NOT NULL,
    of_charge_id uuid,
    quantity bigint NOT NULL DEFAULT 0 CHECK (quantity >= 0),
    recognise text NOT NULL CHECK (recognise IN ('usage', 'time', 'none')),
    recognised_nano bigint NOT NULL DEFAULT 0 CHECK (recognised_nano >= 0),
    broken_nano bigint NOT NULL DEFAULT 0 CHECK (broken_nano >= 0),
    refunded_nano bigint NOT NULL DEFAULT 0 CHECK (refunded_nano >= 0),
    credited_nano bigint NOT NULL DEFAULT 0 CHECK (credited_nano >= 0),
    closed_at timestamptz,
    bill_id uuid,
    line_no integer,
    PRIMARY KEY (account_id, charge_id),
    CHECK (abs(amount_nano) = div(price_nano::numeric * share_num, share_den)),
    CHECK (recognise = 'none' OR amount_nano - tax_nano >= recognised_nano + broken_nano + refunded_nano)
) PARTITION BY HASH (account_id);
CREATE INDEX charge_unbilled ON charge (subscriber_id, charged_at) WHERE bill_id IS NULL;
CREATE INDEX charge_open ON charge (account_id) WHERE closed_at IS NULL;
CREATE INDEX charge_bill ON charge (bill_id);
CREATE UNIQUE INDEX charge_number ON charge (account_id, product_id, kind, number) WHERE kind IN ('cycle', 'step');

ALTER TABLE bucket ADD COLUMN charge_id uuid;
ALTER TABLE bucket ADD COLUMN paused boolean NOT NULL DEFAULT false;
-- What is left at its end goes on until then, up to so much, in another bucket.
ALTER TABLE bucket ADD COLUMN rollover_left bigint CHECK (rollover_left >= 0);
ALTER TABLE bucket ADD COLUMN rollover_until timestamptz;
ALTER TABLE bucket ADD COLUMN rollover_to uuid;
ALTER TABLE bucket ADD CONSTRAINT bucket_rollover_terms CHECK ((rollover_left IS NULL) = (rollover_until IS NULL));
ALTER TABLE bucket DROP CONSTRAINT bucket_closing_check;
ALTER TABLE bucket ADD CONSTRAINT bucket_closing_check CHECK (closing IN ('expire', 'withdraw', 'rollover'));
CREATE INDEX bucket_charge ON bucket (account_id, charge_id);

ALTER TABLE subscriber ADD COLUMN state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended', 'closed'));
ALTER TABLE subscriber ADD COLUMN audiences text[];
ALTER TABLE subscriber ADD COLUMN language text NOT NULL DEFAULT 'zh' CHECK (language IN ('zh', 'en'));
ALTER TABLE subscriber ADD COLUMN broadband text UNIQUE;
ALTER TABLE subscriber ADD COLUMN real_name text NOT NULL DEFAULT 'unknown'
    CHECK (real_name IN ('unknown', 'pending', 'verified', 'refused'));
ALTER TABLE subscriber ADD COLUMN bill_day integer NOT NULL DEFAULT 1 CHECK (bill_day BETWEEN 1 AND 28);
ALTER TABLE subscriber ADD COLUMN credit_limit_nano bigint CHECK (credit_limit_nano >= 0);
ALTER TABLE subscriber ADD COLUMN cap_nano bigint NOT NULL DEFAULT 50000000000 CHECK (cap_nano >= 0);
ALTER TABLE subscriber ADD COLUMN spend_locked boolean NOT NULL DEFAULT false;
ALTER TABLE subscriber ADD COLUMN spill_over boolean NOT NULL DEFAULT false;
ALTER TABLE subscriber ADD COLUMN restricted boolean NOT NULL DEFAULT false;
ALTER TABLE subscriber ADD COLUMN closed_at timestamptz;
ALTER TABLE subscriber DROP CONSTRAINT subscriber_phone_key;
CREATE UNIQUE INDEX subscriber_phone ON subscriber (phone) WHERE state <> 'closed';
CREATE TABLE phone_history (
    phone_history_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    phone text NOT NULL,
    reason text NOT NULL CHECK (reason IN ('change', 'port_in', 'port_out')),
    changed_at timestamptz NOT NULL
);
CREATE INDEX phone_history_subscriber ON phone_history (subscriber_id);
CREATE TABLE consent (
    consent_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    purpose text NOT NULL,
    given boolean NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX consent_subscriber ON consent (subscriber_id, purpose, consent_id);
CREATE TABLE contract_price (
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    offering_id text NOT NULL,
    price_nano bigint NOT NULL CHECK (price_nano >= 0),
    valid_from timestamptz NOT NULL,
    valid_until timestamptz,
    contract text NOT NULL,
    PRIMARY KEY (subscriber_id, offering_id, valid_from)
);

ALTER TABLE product_order DROP CONSTRAINT product_order_state_check;
ALTER TABLE product_order ADD CONSTRAINT product_order_state_check CHECK (state IN
    ('acknowledged', 'rejected', 'pending', 'held', 'inProgress', 'cancelled', 'completed', 'failed', 'partial'));
ALTER TABLE product_order ADD COLUMN action text NOT NULL DEFAULT 'add' CHECK (action IN ('add', 'modify', 'delete', 'noChange'));
ALTER TABLE product_order ADD COLUMN product_id uuid;
ALTER TABLE product_order ADD COLUMN amount_nano bigint NOT NULL DEFAULT 0;
ALTER TABLE product_order ADD COLUMN currency text NOT NULL DEFAULT 'CNY';
ALTER TABLE product_order ADD COLUMN completed_at timestamptz;
ALTER TABLE product_order ADD COLUMN reason text;
ALTER TABLE product_order ADD COLUMN asked jsonb NOT NULL DEFAULT '{}';
CREATE INDEX product_order_open ON product_order (order_id) WHERE state IN ('acknowledged', 'pending', 'inProgress');
CREATE INDEX product_order_subscriber ON product_order (subscriber_id, order_id);
ALTER TABLE product DROP CONSTRAINT product_state_check;
ALTER TABLE product ADD CONSTRAINT product_state_check CHECK (state IN
    ('pendingActive', 'active', 'suspended', 'cancelled', 'aborted', 'expired'));
ALTER TABLE product ADD COLUMN parent_id uuid REFERENCES product;
ALTER TABLE product ADD COLUMN delivery text;
ALTER TABLE product ADD COLUMN suspended_at timestamptz;
ALTER TABLE product ADD COLUMN price_nano bigint;
ALTER TABLE product ADD COLUMN step_no integer NOT NULL DEFAULT 0;
ALTER TABLE product ADD COLUMN next_version text REFERENCES offering;
ALTER TABLE product ADD COLUMN ends_after_cycle boolean NOT NULL DEFAULT false;

-- What another system delivers: it takes these and answers.
CREATE TABLE work_order (
    work_order_id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES product_order,
    product_id uuid NOT NULL REFERENCES product,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    port text NOT NULL,
    offering_id text NOT NULL,
    delivery text,
    action text NOT NULL CHECK (action IN ('deliver', 'withdraw')),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'refused')),
    attempts integer NOT NULL DEFAULT 1,
    reason text,
    created_at timestamptz NOT NULL,
    answered_at timestamptz,
    UNIQUE (product_id, action)
);
CREATE INDEX work_order_open ON work_order (work_order_id) WHERE state = 'open';

-- Who is to be told of something, once: the outbox of webhooks and messages.
CREATE TABLE notification (
    notification_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    kind text NOT NULL,
    ref text NOT NULL,
    content jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    delivered_at timestamptz,
    given_up_at timestamptz,
    UNIQUE (subscriber_id, kind, ref)
);
CREATE INDEX notification_due ON notification (next_at) WHERE delivered_at IS NULL AND given_up_at IS NULL;

CREATE SEQUENCE bill_number;
CREATE SEQUENCE credit_note_number;
CREATE TABLE bill (
    bill_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    bill_no text NOT NULL UNIQUE,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    issued_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    currency text NOT NULL,
    amount_nano bigint NOT NULL,
    tax_nano bigint NOT NULL,
    remaining_nano bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('new', 'sent', 'partiallyPaid', 'settled')),
    UNIQUE (subscriber_id, period_end)
);
CREATE INDEX bill_unpaid ON bill (due_at) WHERE state <> 'settled';
CREATE TABLE bill_line (
    bill_id uuid NOT NULL REFERENCES bill,
    line_no integer NOT NULL,
    account_id uuid NOT NULL,
    product_id uuid,
    offering_version text,
    kind text NOT NULL,
    description text NOT NULL,
    description_zh text NOT NULL,
    charges integer NOT NULL,
    charged_nano bigint NOT NULL,
    amount_nano bigint NOT NULL,
    vat_percent integer NOT NULL,
    tax_nano bigint NOT NULL,
    entry_id uuid,
    PRIMARY KEY (bill_id, line_no)
);
CREATE TABLE credit_note (
    credit_note_id uuid PRIMARY KEY,
    credit_note_no text NOT NULL UNIQUE,
    bill_id uuid NOT NULL REFERENCES bill,
    account_id uuid NOT NULL,
    charge_id uuid NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    tax_nano bigint NOT NULL,
    reason text NOT NULL,
    issued_at timestamptz NOT NULL,
    idempotency_key text UNIQUE
);
CREATE TABLE refund (
    refund_id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES product_order,
    account_id uuid NOT NULL,
    charge_id uuid NOT NULL,
    part text NOT NULL CHECK (part IN ('whole', 'unused', 'amount')),
    asked_nano bigint,
    reason text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'done')),
    credit_charge_id uuid,
    amount_nano bigint,
    idempotency_key text UNIQUE,
    asked_at timestamptz NOT NULL,
    done_at timestamptz
);
CREATE INDEX refund_pending ON refund (refund_id) WHERE state = 'pending';
CREATE UNIQUE INDEX refund_once ON refund (charge_id) WHERE part <> 'amount';
CREATE TABLE payment (
    payment_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    account_id uuid NOT NULL,
    bill_id uuid REFERENCES bill,
    method text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    currency text NOT NULL,
    entry_id uuid NOT NULL,
    reference text NOT NULL,
    paid_at timestamptz NOT NULL,
    UNIQUE (method, reference)
);
CREATE INDEX payment_subscriber ON payment (subscriber_id, payment_id);
CREATE TABLE charge_file (
    charge_file_id uuid PRIMARY KEY,
    layout text NOT NULL,
    sequence_no integer NOT NULL,
    lines integer NOT NULL,
    amount_nano bigint NOT NULL,
    sha256 text NOT NULL,
    content text NOT NULL,
    made_at timestamptz NOT NULL,
    acknowledged_at timestamptz,
    UNIQUE (layout, sequence_no)
);
CREATE TABLE charge_file_line (
    charge_file_id uuid NOT NULL REFERENCES charge_file,
    line_no integer NOT NULL,
    bill_id uuid NOT NULL REFERENCES bill,
    amount_nano bigint NOT NULL,
    state text NOT NULL DEFAULT 'sent' CHECK (state IN ('sent', 'accepted', 'rejected')),
    reason text,
    PRIMARY KEY (charge_file_id, line_no)
);
CREATE UNIQUE INDEX charge_file_line_once ON charge_file_line (bill_id) WHERE state <> 'rejected';
CREATE TABLE dunning (
    bill_id uuid NOT NULL REFERENCES bill,
    step text NOT NULL CHECK (step IN ('remind', 'restrict', 'suspend', 'close')),
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    taken_at timestamptz NOT NULL,
    lifted_at timestamptz,
    PRIMARY KEY (bill_id, step)
);
CREATE INDEX dunning_subscriber ON dunning (subscriber_id) WHERE lifted_at IS NULL;

-- Steps of pay-as-you-go that somebody bought by hand.
CREATE TABLE top_up (
    top_up_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    product_id uuid NOT NULL REFERENCES product,
    steps integer NOT NULL CHECK (steps > 0),
    amount_nano bigint NOT NULL,
    idempotency_key text NOT NULL,
    made_at timestamptz NOT NULL,
    UNIQUE (subscriber_id, idempotency_key)
);
-- Balances moved by hand wait for a second person.
CREATE TABLE adjustment (
    adjustment_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    bucket_id uuid NOT NULL,
    amount bigint NOT NULL CHECK (amount <> 0),
    unit text NOT NULL,
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL,
    idempotency_key text UNIQUE,
    decided_by text CHECK (decided_by <> asked_by),
    decided_at timestamptz,
    state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'done', 'refused'))
);
"""

# A line of before: its tax was not split off, and its revenue follows from now on.
CARRY = """
INSERT INTO charge (account_id, charge_id, subscriber_id, product_id, offering_version, kind, number, charged_at, period_start,
    period_end, description, description_zh, price_nano, amount_nano, vat_percent, tax_nano, currency, entry_id, quantity, recognise)
SELECT l.account_id, l.line_id, l.subscriber_id, l.product_id, p.offering_version, 'cycle', l.cycle_no, l.cycle_start, l.cycle_start,
    b.valid_until, l.description, o.content::jsonb->>'name_zh', l.amount_nano, l.amount_nano, 0, 0, l.currency, l.entry_id,
    coalesce(b.quantity, 0), CASE WHEN b.quantity IS NULL THEN 'time' ELSE 'usage' END
FROM phone_bill_line l JOIN product p USING (product_id) JOIN offering o ON o.offering_version = p.offering_version
LEFT JOIN LATERAL (SELECT sum(total)::bigint AS quantity, max(valid_until) AS valid_until FROM bucket
    WHERE product_id = l.product_id AND kind = 'balance' AND valid_from = l.cycle_start) b ON true;
UPDATE bucket b SET charge_id = c.charge_id FROM charge c
WHERE b.account_id = c.account_id AND b.product_id = c.product_id AND b.kind = 'balance' AND b.valid_from = c.period_start;
UPDATE product_order o SET product_id = p.product_id, completed_at = o.ordered_at,
    amount_nano = coalesce((SELECT amount_nano FROM phone_bill_line l WHERE l.product_id = p.product_id AND cycle_no = 1), 0)
FROM product p WHERE p.order_id = o.order_id;
DROP TABLE phone_bill_line;
"""


def upgrade() -> None:
    op.execute(TABLES)
    for h in range(HASH_PARTITIONS):
        op.execute(
            f"CREATE TABLE charge_h{h} PARTITION OF charge FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {h})"
        )
    op.execute(CARRY)
    for table in ("bill_line", "credit_note", "payment", "consent", "phone_history"):
        op.execute(
            f"CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
