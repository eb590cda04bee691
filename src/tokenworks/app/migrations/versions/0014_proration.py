"""One proration policy in every operation; zeros that are no rows; jobs that fail apart from the others."""

from alembic import op

revision = "0014"
down_revision = "0013"

UP = """
-- The charge that pays for the running cycle; none where it cost nothing.
ALTER TABLE product ADD COLUMN charge_id uuid;
-- How many of its cycles and steps cost nothing, so that they have no charge.
ALTER TABLE product ADD COLUMN uncharged integer NOT NULL DEFAULT 0 CHECK (uncharged >= 0);
UPDATE product p SET charge_id = (
    SELECT c.charge_id FROM charge c
    WHERE c.account_id = p.account_id AND c.product_id = p.product_id AND c.kind IN ('cycle', 'change') AND c.amount_nano > 0
    ORDER BY c.charged_at DESC, c.charge_id DESC LIMIT 1);
CREATE INDEX product_offering_version ON product (offering_version) WHERE ended_at IS NULL;

-- Of what a charge brought: what was used or still there when the refund was asked for; what is used of it since is not given back.
ALTER TABLE refund ADD COLUMN kept bigint CHECK (kept >= 0);
UPDATE refund r SET kept = greatest(0, c.quantity - coalesce(
    (SELECT sum(b.expired)::bigint FROM bucket b WHERE b.account_id = c.account_id AND b.charge_id = c.charge_id), 0))
FROM charge c
WHERE r.state = 'pending' AND r.part = 'unused' AND c.account_id = r.account_id AND c.charge_id = r.charge_id;

-- What waits for grants to close: one credit, or one of each part of a bundle.
UPDATE product_order SET asked = jsonb_build_object('why', 'changed', 'credits', jsonb_build_array(jsonb_build_object(
    'charge_id', asked->>'charge_id', 'num', asked->'left_s', 'den', asked->'length_s')))
WHERE state = 'inProgress' AND action = 'modify' AND asked ? 'charge_id';

-- Buckets that a share which rounded to nothing left: nothing was ever in them.
DELETE FROM bucket b WHERE kind = 'balance' AND total = 0 AND rollover_to IS NULL
    AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.account_id = b.account_id AND g.bucket_id = b.bucket_id)
    AND NOT EXISTS (SELECT 1 FROM posting p WHERE p.account_id = b.account_id AND p.bucket_id = b.bucket_id)
    AND NOT EXISTS (SELECT 1 FROM bucket r WHERE r.account_id = b.account_id AND r.rollover_to = b.bucket_id);

-- Jobs that raised, one row for each thing that they are about: tried again at `next_at`, until they are in quarantine.
CREATE TABLE failed_job (
    job text NOT NULL CHECK (job IN ('cycle', 'credit', 'refund', 'bill')),
    ref uuid NOT NULL,
    state text NOT NULL DEFAULT 'retrying' CHECK (state IN ('retrying', 'quarantined')),
    attempts integer NOT NULL CHECK (attempts > 0),
    reason text NOT NULL,
    first_failed_at timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    PRIMARY KEY (job, ref)
);
"""


def upgrade() -> None:
    op.execute(UP)
