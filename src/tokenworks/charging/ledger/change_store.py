"""The SQL of the change feed: each host polls it from its own position; old changes are deleted."""

from datetime import timedelta

from psycopg import Connection

DELETED_AT_ONCE_MAX = 10_000

Change = tuple[int, str, str]
"""(sequence, kind, ref)"""


def horizon(connection: Connection) -> str:
    """A transaction id below which every change is visible now."""
    row = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return str(row[0])


def changes(connection: Connection, since: str) -> list[Change] | None:
    """The changes of transactions from an earlier `horizon` on, in order. None if some of them are deleted."""
    rows = connection.execute(
        "SELECT seq, kind, ref FROM change WHERE txid >= %s::xid8 ORDER BY seq", (since,)
    ).fetchall()
    # This is read after the rows, so that a deletion between the two statements is noticed.
    deleted = connection.execute("SELECT txid >= %s::xid8 FROM change_gone", (since,)).fetchone()
    return None if deleted is None or deleted[0] else [(seq, kind, ref) for seq, kind, ref in rows]


def delete_old_changes(connection: Connection, keep: timedelta) -> int:
    """Delete changes that are older than `keep`, oldest first, and store the last deleted transaction id. Returns how many were
    deleted; if that is `DELETED_AT_ONCE_MAX`, more may be left.
    """
    with connection.transaction():
        connection.execute("SELECT 1 FROM change_gone FOR UPDATE")
        row = connection.execute(
            """WITH old AS (SELECT seq FROM change WHERE changed_at < now() - %s::interval
                                AND txid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY changed_at LIMIT %s),
                    deleted AS (DELETE FROM change c USING old WHERE c.seq = old.seq RETURNING c.txid)
               SELECT count(*), max(txid)::text FROM deleted""",
            (keep, DELETED_AT_ONCE_MAX),
        ).fetchone()
        assert row is not None
        if row[0]:
            connection.execute("UPDATE change_gone SET txid = greatest(txid, %s::xid8)", (row[1],))
    return int(row[0])
