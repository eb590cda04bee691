"""Usage counted with the model's own tokenizer."""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = """
ALTER TABLE usage DROP CONSTRAINT usage_counted_by_check;
ALTER TABLE usage ADD CONSTRAINT usage_counted_by_check
    CHECK (counted_by IN ('provider', 'progress', 'tokenizer', 'estimate'));
"""


def upgrade() -> None:
    op.execute(TABLES)
