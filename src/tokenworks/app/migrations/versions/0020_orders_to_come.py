"""Orders that begin later, products that the credit limit holds back, and what a payment provider was asked for."""

from alembic import op

revision = "0020"
down_revision = "0019"

TABLES = """
ALTER TABLE product_order ADD COLUMN starts_at timestamptz;
-- How what is ordered for later is to be delivered; that of a product is in its own row.
ALTER TABLE product_order ADD COLUMN delivery text;
CREATE INDEX product_order_starts ON product_order (starts_at, order_id) WHERE state = 'acknowledged';
CREATE INDEX product_order_waiting ON product_order (subscriber_id, order_id) WHERE state = 'acknowledged';

-- Suspended by the credit limit, not by a wish: it goes on by itself.
ALTER TABLE product ADD COLUMN held_at timestamptz;
CREATE INDEX product_held ON product (product_id) WHERE held_at IS NOT NULL;
UPDATE product p SET held_at = p.suspended_at
WHERE p.state = 'suspended' AND p.cycle_end <= p.suspended_at AND EXISTS (SELECT 1 FROM notification n
    WHERE n.subscriber_id = p.subscriber_id AND n.kind = 'credit_limit' AND n.ref = p.product_id || ':' || p.cycle_no);

-- Written and committed before a provider is asked for money: what is 'asked' is asked again, with the same reference.
CREATE TABLE collection (
    collection_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    bill_id uuid NOT NULL REFERENCES bill,
    method text NOT NULL CHECK (method <> ''),
    reference text NOT NULL CHECK (reference <> ''),
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    asked_nano bigint,
    currency text NOT NULL,
    state text NOT NULL CHECK (state IN ('asked', 'declined', 'booked')),
    asked_at timestamptz NOT NULL,
    answered_at timestamptz,
    CHECK ((state = 'asked') = (answered_at IS NULL))
);
-- A provider is asked for one thing at a time for a bill.
CREATE UNIQUE INDEX collection_asked ON collection (bill_id, method) WHERE state = 'asked';
CREATE INDEX collection_subscriber ON collection (subscriber_id, collection_id);
CREATE INDEX collection_open ON collection (collection_id) WHERE state = 'asked';

ALTER TABLE failed_job DROP CONSTRAINT failed_job_job_check;
ALTER TABLE failed_job ADD CONSTRAINT failed_job_job_check
    CHECK (job IN ('cycle', 'credit', 'refund', 'bill', 'start', 'collection'));
"""


def upgrade() -> None:
    op.execute(TABLES)
