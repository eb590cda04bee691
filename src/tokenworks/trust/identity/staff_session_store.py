"""The SQL of staff sessions."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

_COLUMNS = """session_id, staff_id, name, role, listener, method, t.created_at, expires_at, address, client, seen_at, seen_address"""


def add(
    connection: Connection,
    session_id: UUID,
    staff_id: UUID,
    mac: bytes,
    pepper_version: int,
    listener: str,
    method: str,
    at: datetime,
    ends: datetime,
    address: str | None,
    client: str | None,
) -> None:
    connection.execute(
        """INSERT INTO staff_session (session_id, staff_id, token_mac, pepper_version, listener, method, created_at, expires_at, address,
                                      client, seen_at, seen_address)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (session_id, staff_id, mac, pepper_version, listener, method, at, ends, address, client, at, address),
    )


def end_beyond(connection: Connection, staff_id: UUID, keep: int, at: datetime) -> None:
    """End the oldest live sessions of a staff member, so that at most `keep` are left."""
    connection.execute(
        """UPDATE staff_session SET ended_at = %(at)s WHERE session_id IN (
               SELECT session_id FROM staff_session WHERE staff_id = %(s)s AND ended_at IS NULL AND expires_at > %(at)s
               ORDER BY session_id DESC OFFSET %(keep)s)""",
        {"at": at, "s": staff_id, "keep": keep},
    )


def find(
    connection: Connection, macs: list[bytes], listener: str, now: datetime, seen_since: datetime
) -> TupleRow | None:
    """A live session of an active staff member, in the order of `StaffSession`'s fields."""
    return connection.execute(
        f"""SELECT {_COLUMNS} FROM staff_session t JOIN staff s USING (staff_id)
            WHERE t.token_mac = ANY(%s) AND listener = %s AND ended_at IS NULL AND expires_at > %s AND seen_at > %s
              AND s.revoked_at IS NULL""".encode(),
        (macs, listener, now, seen_since),
    ).fetchone()


def store_use(connection: Connection, session_id: UUID, at: datetime, address: str | None) -> None:
    connection.execute(
        "UPDATE staff_session SET seen_at = %s, seen_address = coalesce(%s, seen_address) WHERE session_id = %s",
        (at, address, session_id),
    )


def live(
    connection: Connection, staff_id: UUID | None, now: datetime, seen_since: datetime, limit: int
) -> list[TupleRow]:
    """Live sessions of a staff member, or of all, newest first, in the order of `StaffSession`'s fields."""
    return connection.execute(
        f"""SELECT {_COLUMNS} FROM staff_session t JOIN staff s USING (staff_id)
            WHERE (%(s)s::uuid IS NULL OR staff_id = %(s)s) AND ended_at IS NULL AND expires_at > %(now)s AND seen_at > %(seen)s
              AND s.revoked_at IS NULL
            ORDER BY session_id DESC LIMIT %(limit)s""".encode(),
        {"s": staff_id, "now": now, "seen": seen_since, "limit": limit},
    ).fetchall()


def end(connection: Connection, staff_id: UUID, session_id: UUID, at: datetime) -> bool:
    return (
        connection.execute(
            "UPDATE staff_session SET ended_at = %s WHERE session_id = %s AND staff_id = %s AND ended_at IS NULL",
            (at, session_id, staff_id),
        ).rowcount
        == 1
    )


def is_of(connection: Connection, staff_id: UUID, session_id: UUID) -> bool:
    row = connection.execute(
        "SELECT 1 FROM staff_session WHERE session_id = %s AND staff_id = %s", (session_id, staff_id)
    ).fetchone()
    return row is not None


def end_all(
    connection: Connection,
    staff_id: UUID,
    at: datetime,
    keep: UUID | None = None,
    method: str | None = None,
) -> int:
    return connection.execute(
        """UPDATE staff_session SET ended_at = %(at)s
           WHERE staff_id = %(s)s AND ended_at IS NULL AND expires_at > %(at)s AND session_id IS DISTINCT FROM %(keep)s::uuid
             AND (%(method)s::text IS NULL OR method = %(method)s)""",
        {"at": at, "s": staff_id, "keep": keep, "method": method},
    ).rowcount


def delete_old(connection: Connection, before: datetime) -> None:
    connection.execute("DELETE FROM staff_session WHERE expires_at < %s", (before,))
