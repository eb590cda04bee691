"""Each partition of usage says by a CHECK what its bounds say, so that the next step may attach the whole of it without reading it.

PostgreSQL skips the scan of a table that is attached where its CHECKs prove the bound; it does not look at bounds that it has already.
The constraint is one that every row meets, so nothing is refused by it, whichever release writes.
"""

from typing import Any, Final

from alembic import op

revision = "0032"
down_revision = "0031"

COMPATIBLE_FROM = "0026"
LOCKS = dict.fromkeys(("usage_h0", "usage_h1", "usage_h2", "usage_h3"), "AccessExclusiveLock")

CONSTRAINT: Final = "usage_ends_before"
BATCH_MAX: Final = 1

# (partition of a month, where it ends) of those of two levels.
PARTS: Final = """SELECT relid::regclass::text,
        substring(pg_get_expr(c.relpartbound, c.oid) FROM $$ TO \\('([0-9a-f-]{36})'\\)$$)
    FROM pg_partition_tree('usage') t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf AND t.level = 2"""


def upgrade() -> None:
    # NOT VALID reads no row while the table is locked.
    for part, end in op.get_bind().exec_driver_sql(PARTS.replace("%", "%%")).fetchall():
        op.execute(f"ALTER TABLE {part} ADD CONSTRAINT {CONSTRAINT} CHECK (usage_id < '{end}') NOT VALID")


def _left(connection: Any, after: str | None) -> list[str]:
    """Partitions whose constraint is not known to hold, by name."""
    rows = connection.execute(
        """SELECT conrelid::regclass::text FROM pg_constraint
           WHERE conname = %s AND NOT convalidated AND conrelid::regclass::text > %s ORDER BY 1""",
        (CONSTRAINT, after or ""),
    ).fetchall()
    return [row[0] for row in rows]


def backfill(connection: Any, after: str | None) -> str | None:
    """Read one partition beside its readers and writers."""
    left = _left(connection, after)
    if not left:
        return None
    connection.execute(f"ALTER TABLE {left[0]} VALIDATE CONSTRAINT {CONSTRAINT}".encode())
    return left[0] if len(left) > 1 else None


def backfill_rows(connection: Any, after: str | None) -> int:
    """Partitions from `after` on."""
    return len(_left(connection, after))
