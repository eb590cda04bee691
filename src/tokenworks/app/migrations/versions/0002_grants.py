"""Charging that survives trouble: quarantine of refused records, grants in doubt, recall between hosts."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
ALTER TABLE grants DROP CONSTRAINT grants_state_check;
ALTER TABLE grants ADD CONSTRAINT grants_state_check CHECK (state IN ('open', 'closed', 'written_off'));
ALTER TABLE grants ADD COLUMN doubt text;
-- A grant of which nothing is left with its host is open until that host closes it.
ALTER TABLE grants DROP CONSTRAINT grants_amount_check;
ALTER TABLE grants ADD CONSTRAINT grants_amount_check CHECK (amount >= 0);

-- Members of a pool: people, and departments two levels deep. A cap is a bucket for each of its periods.
ALTER TABLE member DROP CONSTRAINT member_role_check;
ALTER TABLE member ADD CONSTRAINT member_role_check CHECK (role IN ('owner', 'member', 'department'));
ALTER TABLE member ADD COLUMN parent_id uuid REFERENCES member;
ALTER TABLE member ADD COLUMN cap_tokens bigint CHECK (cap_tokens > 0);
ALTER TABLE member ADD COLUMN cap_period text CHECK (cap_period IN ('day', 'month', 'total'));
ALTER TABLE member ADD CONSTRAINT member_cap CHECK ((cap_tokens IS NULL) = (cap_period IS NULL));
CREATE UNIQUE INDEX member_name ON member (subscriber_id, name);
ALTER TABLE bucket ADD COLUMN cap_of uuid;
CREATE UNIQUE INDEX bucket_cap ON bucket (account_id, cap_of, valid_from) WHERE cap_of IS NOT NULL;

CREATE TABLE quarantine (
    quarantine_id uuid PRIMARY KEY,
    journal_id uuid NOT NULL,
    seq bigint NOT NULL,
    account_id uuid NOT NULL,
    usage_id text NOT NULL,
    record text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'released', 'dropped')),
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    UNIQUE (journal_id, usage_id)
);
CREATE INDEX quarantine_held ON quarantine (account_id) WHERE state = 'held';

-- Who waits for what other hosts hold, first in, first out per account; answered by each holder.
CREATE TABLE recall (
    recall_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id uuid NOT NULL,
    journal_id uuid NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz
);
CREATE INDEX recall_waiting ON recall (account_id, recall_id) WHERE ended_at IS NULL;
CREATE TABLE recall_answer (
    recall_id bigint NOT NULL REFERENCES recall ON DELETE CASCADE,
    journal_id uuid NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (recall_id, journal_id)
);
"""


def upgrade() -> None:
    op.execute(TABLES)
