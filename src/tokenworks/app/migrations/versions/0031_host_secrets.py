"""Which secrets each host has loaded, so that a pepper or a wrapping key is used only when all of them have it."""

from alembic import op

revision = "0031"
down_revision = "0030"

COMPATIBLE_FROM = "0026"
LOCKS: dict[str, str] = {}

TABLES = """
-- By fingerprints these are the works' own. A host of an earlier release has no row: it has not said what it has.
CREATE TABLE host_secrets (
    journal_id uuid PRIMARY KEY,
    peppers integer[] NOT NULL,
    issues_under integer,
    wrapping integer[] NOT NULL,
    webhook_fingerprint bytea,
    reported_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    op.execute(TABLES)
