"""Keys that an import took from another system, by the MAC of the SHA-256 of their text there.

`kept`: the key's text is that of the other system, and its row in `api_key` has the same MAC. A host of an earlier release refuses such
a text by its form.
"""

from alembic import op

revision = "0039"
down_revision = "0037"

COMPATIBLE_FROM = "0026"
LOCKS: dict[str, str] = {}

TABLES = """
CREATE TABLE imported_key (
    foreign_mac bytea PRIMARY KEY,
    key_id uuid NOT NULL,
    kept boolean NOT NULL,
    imported_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    op.execute(TABLES)
