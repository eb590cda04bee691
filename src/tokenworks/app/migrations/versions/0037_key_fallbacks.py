"""The models to which a key's requests fall back. A host of an earlier release does not read them: its requests do not fall back."""

from alembic import op

revision = "0037"
down_revision = "0035"

COMPATIBLE_FROM = "0026"
LOCKS = {"api_key": "AccessExclusiveLock"}


def upgrade() -> None:
    op.execute("ALTER TABLE api_key ADD COLUMN fallbacks text[]")
