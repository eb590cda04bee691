"""What is declared of models, models by intent, where subscribers are at home, and what was asked for where a model was chosen."""

from alembic import op

revision = "0010"
down_revision = "0009"

TABLES = """
CREATE TABLE model_card (
    name text PRIMARY KEY,
    content jsonb NOT NULL
);
CREATE TABLE model_intent (
    name text PRIMARY KEY,
    content jsonb NOT NULL
);
ALTER TABLE subscriber ADD COLUMN home_region text;
ALTER TABLE usage ADD COLUMN asked text, ADD COLUMN choice text;
"""


def upgrade() -> None:
    op.execute(TABLES)
