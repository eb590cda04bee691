"""Facts of models that an operator imports: they lie over the shipped catalogue of models, and no request waits for them."""

from alembic import op

revision = "0034"
down_revision = "0033"

COMPATIBLE_FROM = "0026"
LOCKS: dict[str, str] = {}

TABLES = """
-- Not in model_card: a host of an earlier release reads that table, and refuses fields that it does not know.
CREATE TABLE model_facts (
    name text PRIMARY KEY,
    content jsonb NOT NULL
);
"""


def upgrade() -> None:
    op.execute(TABLES)
