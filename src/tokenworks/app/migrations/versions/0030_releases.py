"""Each host says which release it runs, and since when.

A host of an earlier release moves `seen_at` alone: what the row says of its release is true where `release_seen_at` is the same instant.
"""

from alembic import op

revision = "0030"
down_revision = "0029"

COMPATIBLE_FROM = "0026"
LOCKS = {"journal": "AccessExclusiveLock"}

TABLES = """
ALTER TABLE journal ADD COLUMN release text, ADD COLUMN release_schema text, ADD COLUMN release_since timestamptz,
    ADD COLUMN release_seen_at timestamptz;
"""


def upgrade() -> None:
    op.execute(TABLES)
