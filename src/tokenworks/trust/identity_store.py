"""The SQL of codes, sessions, staff and the audit trail."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tokenworks.trust.store import Connection


def lock_codes(connection: Connection, identifier_mac: bytes) -> None:
    """Codes of one number are asked for one after the other."""
    connection.execute(
        "SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(identifier_mac[:8], "big", signed=True),)
    )


def nth_newest_code(
    connection: Connection, column: str, value: object, count: int, since: datetime
) -> datetime | None:
    """When the `count`-th newest code since a time was made; None where there are fewer."""
    row = connection.execute(
        f"SELECT created_at FROM sign_in_code WHERE {column} = %s AND created_at > %s ORDER BY created_at DESC OFFSET %s LIMIT 1".encode(),
        (value, since, count - 1),
    ).fetchone()
    return None if row is None else row[0]


def add_code(
    connection: Connection, code_id: UUID, identifier_mac: bytes, address: str, code_mac: bytes, at: datetime
) -> None:
    connection.execute(
        """INSERT INTO sign_in_code (code_id, identifier_mac, address, code_mac, created_at)
           VALUES (%s, %s, %s, %s, %s)""",
        (code_id, identifier_mac, address, code_mac, at),
    )


def lock_newest_code(
    connection: Connection, identifier_mac: bytes, since: datetime
) -> tuple[UUID, bytes, int] | None:
    """(id, MAC, attempts) of the newest code, where it is unused and not older."""
    row = connection.execute(
        """SELECT code_id, code_mac, attempts, used_at, created_at FROM sign_in_code WHERE identifier_mac = %s
           ORDER BY created_at DESC, code_id DESC LIMIT 1 FOR UPDATE""",
        (identifier_mac,),
    ).fetchone()
    if row is None or row[3] is not None or row[4] <= since:
        return None
    return row[0], bytes(row[1]), row[2]


def attempted(connection: Connection, code_id: UUID, used_at: datetime | None) -> None:
    connection.execute(
        "UPDATE sign_in_code SET attempts = attempts + 1, used_at = %s WHERE code_id = %s", (used_at, code_id)
    )


def delete_old(connection: Connection, codes_before: datetime, sessions_before: datetime) -> None:
    connection.execute("DELETE FROM sign_in_code WHERE created_at < %s", (codes_before,))
    connection.execute("DELETE FROM session WHERE expires_at < %s", (sessions_before,))


def add_session(
    connection: Connection,
    session_id: UUID,
    mac: bytes,
    subscriber_id: UUID,
    member_id: UUID,
    at: datetime,
    ends: datetime,
) -> None:
    connection.execute(
        """INSERT INTO session (session_id, token_mac, subscriber_id, member_id, created_at, expires_at)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (session_id, mac, subscriber_id, member_id, at, ends),
    )


def find_session(connection: Connection, mac: bytes, now: datetime) -> tuple[UUID, UUID, UUID] | None:
    row = connection.execute(
        """SELECT session_id, subscriber_id, member_id FROM session
           WHERE token_mac = %s AND ended_at IS NULL AND expires_at > %s""",
        (mac, now),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def end_session(connection: Connection, session_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE session SET ended_at = %s WHERE session_id = %s AND ended_at IS NULL", (at, session_id)
    )


def end_sessions(connection: Connection, subscriber_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE session SET ended_at = %s WHERE subscriber_id = %s AND ended_at IS NULL", (at, subscriber_id)
    )


def add_staff(connection: Connection, staff_id: UUID, name: str, role: str, mac: bytes, at: datetime) -> bool:
    row = connection.execute(
        """INSERT INTO staff (staff_id, name, role, token_mac, created_at) VALUES (%s, %s, %s, %s, %s)
           ON CONFLICT (name) DO NOTHING RETURNING 1""",
        (staff_id, name, role, mac, at),
    ).fetchone()
    return row is not None


def all_staff(connection: Connection) -> list[dict[str, object]]:
    cursor = connection.execute("SELECT name, role, created_at, revoked_at FROM staff ORDER BY name")
    return [dict(zip(("name", "role", "created_at", "revoked_at"), row, strict=True)) for row in cursor]


def revoke_staff(connection: Connection, name: str, at: datetime) -> bool:
    return (
        connection.execute(
            "UPDATE staff SET revoked_at = %s WHERE name = %s AND revoked_at IS NULL", (at, name)
        ).rowcount
        == 1
    )


def find_staff(connection: Connection, mac: bytes) -> tuple[str, Any] | None:
    row = connection.execute(
        "SELECT name, role FROM staff WHERE token_mac = %s AND revoked_at IS NULL", (mac,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


def codes_of(connection: Connection, identifier_mac: bytes) -> list[dict[str, object]]:
    names = ("created_at", "address", "attempts", "used_at")
    rows = connection.execute(
        f"SELECT {', '.join(names)} FROM sign_in_code WHERE identifier_mac = %s ORDER BY created_at".encode(),
        (identifier_mac,),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def delete_codes(connection: Connection, identifier_mac: bytes) -> None:
    connection.execute("DELETE FROM sign_in_code WHERE identifier_mac = %s", (identifier_mac,))


def add_audit(
    connection: Connection,
    audit_id: UUID,
    at: datetime,
    actor: str,
    role: str,
    action: str,
    ref: str,
    person_id: UUID,
    details: bytes | None,
) -> None:
    connection.execute(
        """INSERT INTO audit (audit_id, at, actor, role, action, ref, person_id, details)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
        (audit_id, at, actor, role, action, ref, person_id, details),
    )


AUDIT_COLUMNS: Final = ("audit_id", "at", "actor", "role", "action", "ref", "person_id", "details")


def audits(
    connection: Connection, ref: str | None, offset: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    where = {"ref": ref, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"""SELECT {", ".join(AUDIT_COLUMNS)} FROM audit WHERE %(ref)s::text IS NULL OR ref = %(ref)s
            ORDER BY audit_id DESC OFFSET %(offset)s LIMIT %(limit)s""".encode(),
        where,
    ).fetchall()
    row = connection.execute(
        "SELECT count(*) FROM audit WHERE %(ref)s::text IS NULL OR ref = %(ref)s", where
    ).fetchone()
    assert row is not None
    return [dict(zip(AUDIT_COLUMNS, found, strict=True)) for found in rows], int(row[0])
