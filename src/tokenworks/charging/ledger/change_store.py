"""The SQL of news to hosts: what changed, read by each host from where it is, and deleted when it is old."""

from datetime import timedelta

from psycopg import Connection

DELETED_AT_ONCE_MAX = 10_000

Change = tuple[int, str, str]
"""(sequence, kind, ref)"""


def horizon(connection: Connection) -> str:
    """Whatever is not visible now has a transaction id from here on."""
    row = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return str(row[0])


def changes(connection: Connection, since: str) -> list[Change] | None:
    """What transactions from an earlier `horizon` on said, in order; None where some of it is deleted."""
    rows = connection.execute(
        "SELECT seq, kind, ref FROM change WHERE txid >= %s::xid8 ORDER BY seq", (since,)
    ).fetchall()
    # After the rows: what is deleted in between is seen to be.
    gone = connection.execute("SELECT txid >= %s::xid8 FROM change_gone", (since,)).fetchone()
    return None if gone is None or gone[0] else [(seq, kind, ref) for seq, kind, ref in rows]


def delete_old_changes(connection: Connection, keep: timedelta) -> int:
    """Delete what is older, oldest first, and keep up to which transaction. Returns how many; more are left where that is
    `DELETED_AT_ONCE_MAX`.
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
