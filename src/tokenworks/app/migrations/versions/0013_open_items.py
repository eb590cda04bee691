"""What is open on a bill: credits that settle the bill they correct, reversals, cases to reconcile, numbers without gaps."""

from alembic import op

revision = "0013"
down_revision = "0012"

TABLES = """
-- A credit of a charge that is on a bill takes so much off that bill, in whole fen; the rounding has an entry of its own.
ALTER TABLE charge ADD COLUMN settles_bill_id uuid;
ALTER TABLE charge ADD COLUMN settles_line_no integer;
ALTER TABLE charge ADD COLUMN settled_nano bigint CHECK (settled_nano >= 0);
ALTER TABLE charge ADD COLUMN settled_tax_nano bigint;
ALTER TABLE charge ADD COLUMN settled_entry_id uuid;
ALTER TABLE charge ADD CONSTRAINT charge_settles_one_bill CHECK (settles_bill_id IS NULL
    OR (bill_id IS NULL AND of_charge_id IS NOT NULL AND settles_line_no IS NOT NULL AND settled_nano IS NOT NULL
        AND settled_tax_nano IS NOT NULL));
DROP INDEX charge_unbilled;
CREATE INDEX charge_unbilled ON charge (subscriber_id, charged_at) WHERE bill_id IS NULL AND settles_bill_id IS NULL;
CREATE INDEX charge_settles ON charge (account_id, settles_bill_id) WHERE settles_bill_id IS NOT NULL;
CREATE INDEX charge_credit_waits ON charge (account_id)
    WHERE of_charge_id IS NOT NULL AND bill_id IS NULL AND settles_bill_id IS NULL;

-- How a bill is collected, how often the carrier did not, and since when it is open again after a payment was reversed.
ALTER TABLE bill ADD COLUMN channel text NOT NULL DEFAULT 'phone' CHECK (channel IN ('phone', 'direct'));
ALTER TABLE bill ADD COLUMN file_failures integer NOT NULL DEFAULT 0 CHECK (file_failures >= 0);
ALTER TABLE bill ADD COLUMN reopened_at timestamptz;
DROP INDEX bill_unpaid;
CREATE INDEX bill_unpaid ON bill (greatest(due_at, reopened_at)) WHERE state <> 'settled';
ALTER TABLE charge_file_line DROP CONSTRAINT charge_file_line_state_check;
ALTER TABLE charge_file_line ADD CONSTRAINT charge_file_line_state_check
    CHECK (state IN ('sent', 'accepted', 'rejected', 'reversed'));
DROP INDEX charge_file_line_once;
CREATE UNIQUE INDEX charge_file_line_once ON charge_file_line (bill_id) WHERE state = 'sent';
UPDATE bill b SET file_failures = (SELECT count(*) FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'rejected')
WHERE EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'rejected');

-- What was asked for with a payment's reference: null where all that was open.
ALTER TABLE payment ADD COLUMN asked_nano bigint;
-- Why something was written off.
ALTER TABLE payment ADD COLUMN reason text;
CREATE INDEX payment_bill ON payment (bill_id);
CREATE INDEX payout_subscriber ON payout (subscriber_id);
CREATE TABLE payment_reversal (
    payment_id uuid PRIMARY KEY REFERENCES payment,
    reversal_id uuid NOT NULL UNIQUE,
    account_id uuid NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    entry_id uuid NOT NULL,
    reason text NOT NULL,
    reversed_at timestamptz NOT NULL
);
-- Money whose place a person has to find: staff lists these and closes them.
CREATE TABLE reconciliation_case (
    case_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    bill_id uuid REFERENCES bill,
    payment_id uuid REFERENCES payment,
    kind text NOT NULL CHECK (kind IN ('surplus', 'rejected', 'paid_out', 'unbooked')),
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    resolution text,
    CHECK ((closed_at IS NULL) = (resolution IS NULL))
);
CREATE INDEX reconciliation_case_open ON reconciliation_case (case_id) WHERE closed_at IS NULL;
CREATE UNIQUE INDEX reconciliation_case_rejected ON reconciliation_case (bill_id) WHERE kind = 'rejected' AND closed_at IS NULL;

ALTER TABLE credit_note ADD COLUMN line_no integer;
ALTER TABLE credit_note ADD COLUMN credit_charge_ids uuid[];
ALTER TABLE refund ADD COLUMN batch_id uuid;

-- Documents are numbered in the transaction that makes them: what is rolled back leaves no gap.
CREATE TABLE document_number (
    kind text PRIMARY KEY,
    last bigint NOT NULL CHECK (last >= 0)
);
CREATE TABLE document_gap (
    kind text NOT NULL REFERENCES document_number,
    number bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (kind, number)
);

ALTER TABLE phone_history DROP CONSTRAINT phone_history_reason_check;
ALTER TABLE phone_history ADD CONSTRAINT phone_history_reason_check CHECK (reason IN ('change', 'port_in', 'port_out', 'new_owner'));
"""

# Credits that wait for a next bill, of charges that are on one: they take their amount off that one from now on.
SETTLE_CREDITS = """
WITH late AS MATERIALIZED (
    SELECT k.account_id, k.charge_id, -k.amount_nano AS nano, -k.tax_nano AS tax, c.bill_id, c.line_no, c.vat_percent
    FROM charge k JOIN charge c ON c.account_id = k.account_id AND c.charge_id = k.of_charge_id
    WHERE k.of_charge_id IS NOT NULL AND k.bill_id IS NULL AND k.settles_bill_id IS NULL AND c.bill_id IS NOT NULL
), line AS MATERIALIZED (
    SELECT c.account_id, c.bill_id, c.line_no, sum(c.amount_nano)::bigint AS charged, sum(c.credited_nano)::bigint AS credited
    FROM charge c JOIN (SELECT DISTINCT account_id, bill_id, line_no FROM late) l USING (account_id, bill_id, line_no) GROUP BY 1, 2, 3
), step AS (
    SELECT late.*, charged, (charged + 5000000) / 10000000 AS line_fen,
        (credited - sum(nano) OVER (PARTITION BY late.account_id, late.bill_id, late.line_no)
            + sum(nano) OVER (PARTITION BY late.account_id, late.bill_id, late.line_no ORDER BY charge_id))::bigint AS after
    FROM late JOIN line USING (account_id, bill_id, line_no)
), fen AS (
    SELECT *, CASE WHEN after = charged THEN line_fen ELSE least(line_fen, (after + 5000000) / 10000000) END AS after_fen,
        least(line_fen, (after - nano + 5000000) / 10000000) AS before_fen
    FROM step
), made AS MATERIALIZED (
    SELECT account_id, charge_id, nano, tax, bill_id, line_no, 10000000 * (after_fen - before_fen) AS settled,
        10000000 * (div(2::numeric * after_fen * vat_percent + 100 + vat_percent, 2 * (100 + vat_percent))
            - div(2::numeric * before_fen * vat_percent + 100 + vat_percent, 2 * (100 + vat_percent)))::bigint AS settled_tax,
        gen_random_uuid() AS entry_id
    FROM fen
), moved AS (
    SELECT *, nano - settled AS more, settled_tax - tax AS more_tax FROM made WHERE settled <> nano OR settled_tax <> tax
), entered AS (
    INSERT INTO entry (account_id, entry_id, kind, ref) SELECT account_id, entry_id, 'round', 'credit:' || charge_id FROM moved
), posted AS (
    INSERT INTO posting (account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount)
    SELECT account_id, entry_id, side, CASE side WHEN 1 THEN 'receivable' WHEN 2 THEN 'tax' ELSE 'rounding' END, 'CNY', NULL,
        CASE side WHEN 1 THEN more WHEN 2 THEN more_tax ELSE -more - more_tax END
    FROM moved, generate_series(1, 3) side
)
UPDATE charge k SET settles_bill_id = m.bill_id, settles_line_no = m.line_no, settled_nano = m.settled,
    settled_tax_nano = m.settled_tax,
    settled_entry_id = CASE WHEN m.settled <> m.nano OR m.settled_tax <> m.tax THEN m.entry_id END
FROM made m WHERE k.account_id = m.account_id AND k.charge_id = m.charge_id
"""

# Amount less credits and payments; what exceeds it goes to the subscriber's other bills, oldest first.
OPEN = """
WITH own AS (
    SELECT b.bill_id, b.subscriber_id, b.period_end, b.amount_nano AS billed, b.amount_nano
        - coalesce((SELECT sum(settled_nano) FROM charge k WHERE k.account_id = b.account_id AND k.settles_bill_id = b.bill_id), 0)
        - coalesce((SELECT sum(p.amount_nano) FROM payment p WHERE p.bill_id = b.bill_id), 0) AS nano,
        EXISTS (SELECT 1 FROM charge_file_line l WHERE l.bill_id = b.bill_id AND l.state = 'sent') AS sent
    FROM bill b
), free AS (
    SELECT subscriber_id, sum(greatest(0, -nano)) - coalesce((SELECT sum(o.amount_nano) FROM payout o
        WHERE o.subscriber_id = own.subscriber_id), 0) AS nano
    FROM own GROUP BY subscriber_id
), left_open AS (
    SELECT bill_id, billed, sent, (greatest(0, own.nano) - least(greatest(0, own.nano), greatest(0, free.nano - (sum(greatest(0, own.nano))
        OVER (PARTITION BY subscriber_id ORDER BY period_end, bill_id) - greatest(0, own.nano)))))::bigint AS nano
    FROM own JOIN free USING (subscriber_id)
)
UPDATE bill b SET remaining_nano = l.nano, state = CASE WHEN l.nano = 0 THEN 'settled' WHEN l.nano < l.billed THEN 'partiallyPaid'
    WHEN l.sent THEN 'sent' ELSE 'new' END
FROM left_open l WHERE b.bill_id = l.bill_id
"""

CARRY = """
INSERT INTO reconciliation_case (case_id, subscriber_id, bill_id, kind, amount_nano, opened_at)
SELECT gen_random_uuid(), subscriber_id, bill_id, 'rejected', remaining_nano, now() FROM bill
WHERE remaining_nano > 0 AND file_failures >= 3;
-- What the carrier collected beyond what was open was not booked: a person says whose it is.
INSERT INTO reconciliation_case (case_id, subscriber_id, bill_id, payment_id, kind, amount_nano, opened_at)
SELECT gen_random_uuid(), b.subscriber_id, b.bill_id, p.payment_id, 'unbooked', l.amount_nano - coalesce(p.amount_nano, 0), now()
FROM charge_file_line l JOIN charge_file f USING (charge_file_id) JOIN bill b USING (bill_id)
    LEFT JOIN payment p ON p.method = 'phone_bill' AND p.reference = f.layout || ':' || f.sequence_no || ':' || l.line_no
WHERE l.state = 'accepted' AND l.amount_nano > coalesce(p.amount_nano, 0);

ALTER TABLE credit_note DISABLE TRIGGER credit_note_is_history;
UPDATE credit_note n SET line_no = c.line_no FROM charge k JOIN charge c ON c.account_id = k.account_id AND c.charge_id = k.of_charge_id
WHERE k.account_id = n.account_id AND k.charge_id = n.charge_id;
ALTER TABLE credit_note ENABLE TRIGGER credit_note_is_history;

-- Refunds of one request: the others had the key with a number behind it.
UPDATE refund r SET batch_id = coalesce((SELECT f.refund_id FROM refund f WHERE f.order_id = r.order_id
    AND r.idempotency_key ~ '#[0-9]+$' AND f.idempotency_key = regexp_replace(r.idempotency_key, '#[0-9]+$', '')), r.refund_id);
UPDATE refund SET idempotency_key = NULL WHERE batch_id <> refund_id;
CREATE INDEX refund_batch ON refund (batch_id);
CREATE INDEX refund_order ON refund (order_id);

-- A host of the release before, still running, must not number by itself.
DROP SEQUENCE bill_number;
DROP SEQUENCE credit_note_number;
INSERT INTO document_number (kind, last)
SELECT 'bill', coalesce(max(split_part(bill_no, '-', 2)::bigint), 0) FROM bill
UNION ALL SELECT 'credit_note', coalesce(max(split_part(credit_note_no, '-', 2)::bigint), 0) FROM credit_note;
INSERT INTO document_gap (kind, number, reason)
SELECT 'bill', n, 'numbered by a sequence: a run that was cut off' FROM document_number d, generate_series(1, d.last) n
WHERE d.kind = 'bill' AND NOT EXISTS (SELECT 1 FROM bill WHERE split_part(bill_no, '-', 2)::bigint = n)
UNION ALL
SELECT 'credit_note', n, 'numbered by a sequence: a note that was not kept' FROM document_number d, generate_series(1, d.last) n
WHERE d.kind = 'credit_note' AND NOT EXISTS (SELECT 1 FROM credit_note WHERE split_part(credit_note_no, '-', 2)::bigint = n);
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(SETTLE_CREDITS)
    op.execute(OPEN)
    op.execute(CARRY)
    op.execute(
        "CREATE TRIGGER payment_reversal_is_history BEFORE UPDATE OR DELETE ON payment_reversal "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
