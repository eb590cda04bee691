"""Where a subscriber's data may go."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("ALTER TABLE subscriber ADD COLUMN regions text[]")
