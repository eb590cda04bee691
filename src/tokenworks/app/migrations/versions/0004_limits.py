"""Protective limits: requests and tokens a minute, requests at once; leased to hosts where several live."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
CREATE TABLE rate_limit (
    limit_id uuid PRIMARY KEY,
    scope text NOT NULL CHECK (scope IN ('key', 'member', 'subscriber', 'deployment')),
    ref text NOT NULL,
    account_id uuid,
    requests_per_min bigint CHECK (requests_per_min > 0),
    tokens_per_min bigint CHECK (tokens_per_min > 0),
    streams_max bigint CHECK (streams_max > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (scope, ref),
    CHECK (coalesce(requests_per_min, tokens_per_min, streams_max) IS NOT NULL),
    CHECK ((scope = 'deployment') = (account_id IS NULL))
);
CREATE TABLE limit_lease (
    limit_id uuid NOT NULL REFERENCES rate_limit ON DELETE CASCADE,
    lease_id uuid NOT NULL,
    journal_id uuid NOT NULL,
    leased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    requests bigint NOT NULL CHECK (requests >= 0),
    tokens bigint NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (limit_id, lease_id)
);
CREATE TABLE limit_streams (
    limit_id uuid NOT NULL REFERENCES rate_limit ON DELETE CASCADE,
    journal_id uuid NOT NULL,
    streams bigint NOT NULL CHECK (streams >= 0),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (limit_id, journal_id)
);
ALTER TABLE journal ADD COLUMN seen_at timestamptz;
"""


def upgrade() -> None:
    op.execute(TABLES)
