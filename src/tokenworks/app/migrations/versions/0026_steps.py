"""What a release has to know of schemas that are younger than its own, and how far backfills came."""

from alembic import op

revision = "0026"
down_revision = "0021"

TABLES = """
-- A release runs on a younger schema where no step says that it is compatible with younger releases alone.
CREATE TABLE schema_step (
    revision text PRIMARY KEY,
    compatible_from text NOT NULL CHECK (compatible_from <= revision),
    at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE schema_backfill (
    revision text PRIMARY KEY,
    after text,
    done_at timestamptz
);
"""


def upgrade() -> None:
    op.execute(TABLES)
