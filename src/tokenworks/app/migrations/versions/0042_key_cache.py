"""Keys whose requests wish the response cache by themselves. A host of an earlier release does not read it: its requests wish it by header."""

from alembic import op

revision = "0042"
down_revision = "0041"

COMPATIBLE_FROM = "0026"
LOCKS = {"api_key": "AccessExclusiveLock"}


def upgrade() -> None:
    op.execute("ALTER TABLE api_key ADD COLUMN response_cache boolean")
