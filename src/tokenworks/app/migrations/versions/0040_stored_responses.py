"""Stored responses beside the answers that are given again: another kind of row in the same table, with its limits, sealing and erasure.

A host of an earlier release reads no row of the new kind by name; it deletes those that are over, and those of an erased person.
"""

from alembic import op
from psycopg import Connection

revision = "0040"
down_revision = "0039"

COMPATIBLE_FROM = "0026"
LOCKS = {"replay_answer": "AccessExclusiveLock"}

# NOT VALID reads no row while the table is locked; the backfill reads them beside their readers and writers.
KINDS = """
ALTER TABLE replay_answer DROP CONSTRAINT replay_answer_kind_check;
ALTER TABLE replay_answer ADD CONSTRAINT replay_answer_kind_check
    CHECK (kind IN ('idempotency_key', 'response_cache', 'stored_response')) NOT VALID;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(KINDS)


def backfill(connection: Connection, _after: str | None) -> str | None:
    """Read the rows that were there before."""
    if backfill_rows(connection, None):
        connection.execute("ALTER TABLE replay_answer VALIDATE CONSTRAINT replay_answer_kind_check")
    return None


def backfill_rows(connection: Connection, _after: str | None) -> int:
    """Constraints that are not known to hold: one or none."""
    row = connection.execute(
        """SELECT count(*) FROM pg_constraint
           WHERE conname = 'replay_answer_kind_check' AND conrelid = 'replay_answer'::regclass AND NOT convalidated"""
    ).fetchone()
    assert row is not None
    return int(row[0])
