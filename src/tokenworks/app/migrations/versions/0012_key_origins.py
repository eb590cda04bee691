"""Origins of pages that may use a key."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("ALTER TABLE api_key ADD COLUMN origins text[]")
