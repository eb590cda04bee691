"""Suspensions by cause, the keyed hash of who a subscriber is, and how often a cap was raised."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
ALTER TABLE subscriber ADD COLUMN suspended_by text[] NOT NULL DEFAULT '{}';
ALTER TABLE subscriber ADD COLUMN identity_hash bytea;
ALTER TABLE subscriber ADD COLUMN cap_raises integer NOT NULL DEFAULT 0;
CREATE INDEX subscriber_identity ON subscriber (identity_hash) WHERE identity_hash IS NOT NULL;

CREATE TABLE suspension (
    suspension_id uuid PRIMARY KEY,
    subscriber_id uuid NOT NULL REFERENCES subscriber,
    cause text NOT NULL CHECK (cause IN ('payment', 'operator', 'fraud', 'lost_phone', 'own_wish')),
    reason text,
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text
);
CREATE INDEX suspension_subscriber ON suspension (subscriber_id, suspension_id);
CREATE UNIQUE INDEX suspension_open ON suspension (subscriber_id, cause) WHERE ended_at IS NULL;

-- Of what is suspended (or frozen) already the cause is known where dunning did it; everything else was the operator's.
INSERT INTO suspension (suspension_id, subscriber_id, cause, reason, began_at)
SELECT gen_random_uuid(), s.subscriber_id, CASE WHEN d.since IS NULL THEN 'operator' ELSE 'payment' END,
       'suspended before causes were kept', coalesce(d.since, now())
FROM subscriber s JOIN account a USING (account_id) LEFT JOIN (SELECT subscriber_id, min(taken_at) AS since FROM dunning
                             WHERE step = 'suspend' AND lifted_at IS NULL GROUP BY 1) d USING (subscriber_id)
WHERE s.state = 'suspended' OR (s.state = 'active' AND a.state = 'frozen');
UPDATE subscriber s SET state = 'suspended', suspended_by = ARRAY[x.cause] FROM suspension x WHERE x.subscriber_id = s.subscriber_id;
""")
