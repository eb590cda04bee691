"""The SQL of codes, sessions, staff and the audit trail."""

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from tokenworks.trust.store import Connection


class CodeRow(NamedTuple):
    code_id: UUID
    code_mac: bytes
    attempts: int
    asker_attempts: int
    digits: int
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


_CODE = "code_id, code_mac, attempts, asker_attempts, digits, created_at, expires_at, used_at"


def lock_codes(connection: Connection, mac: bytes) -> None:
    """Codes of one number, and those of one asker, are asked for one after the other."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(mac[:8], "big", signed=True),))


def nth_newest_code(
    connection: Connection, asker: str, identifier_mac: bytes | None, count: int, since: datetime
) -> datetime | None:
    """When the `count`-th newest code since a time was asked for by an asker, for one number or for all; None where there are
    fewer.
    """
    row = connection.execute(
        """SELECT created_at FROM sign_in_code
           WHERE address = %(asker)s AND (%(mac)s::bytea IS NULL OR identifier_mac = %(mac)s) AND created_at > %(since)s
           ORDER BY created_at DESC OFFSET %(offset)s LIMIT 1""",
        {"asker": asker, "mac": identifier_mac, "since": since, "offset": count - 1},
    ).fetchone()
    return None if row is None else row[0]


def count_codes(connection: Connection, identifier_mac: bytes, since: datetime) -> int:
    row = connection.execute(
        "SELECT count(*) FROM sign_in_code WHERE identifier_mac = %s AND created_at > %s",
        (identifier_mac, since),
    ).fetchone()
    return 0 if row is None else int(row[0])


def _code(row: tuple[Any, ...] | None) -> CodeRow | None:
    return None if row is None else CodeRow(row[0], bytes(row[1]), *row[2:])


def newest_sent(connection: Connection, identifier_mac: bytes) -> CodeRow | None:
    """The code that was sent to a number last."""
    return _code(
        connection.execute(
            f"""SELECT {_CODE} FROM sign_in_code WHERE identifier_mac = %s AND sent
                ORDER BY created_at DESC, code_id DESC LIMIT 1""".encode(),
            (identifier_mac,),
        ).fetchone()
    )


def add_code(
    connection: Connection,
    code_id: UUID,
    identifier_mac: bytes,
    asker: str,
    code_mac: bytes,
    challenge_mac: bytes,
    at: datetime,
    expires: datetime,
    digits: int,
    *,
    sent: bool,
) -> None:
    connection.execute(
        """INSERT INTO sign_in_code (code_id, identifier_mac, address, code_mac, challenge_mac, created_at, expires_at, digits,
                                     sent)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (code_id, identifier_mac, asker, code_mac, challenge_mac, at, expires, digits, sent),
    )


def lock_newest_code(
    connection: Connection, identifier_mac: bytes, asker: str, now: datetime
) -> CodeRow | None:
    """The newest code that an asker has for a number, where it is good."""
    return _good(
        connection.execute(
            f"""SELECT {_CODE} FROM sign_in_code WHERE identifier_mac = %s AND address = %s
                ORDER BY created_at DESC, code_id DESC LIMIT 1 FOR UPDATE""".encode(),
            (identifier_mac, asker),
        ).fetchone(),
        now,
    )


def is_challenge_of(connection: Connection, identifier_mac: bytes, challenge_mac: bytes) -> bool:
    row = connection.execute(
        "SELECT 1 FROM sign_in_code WHERE challenge_mac = %s AND identifier_mac = %s",
        (challenge_mac, identifier_mac),
    ).fetchone()
    return row is not None


def lock_challenge(connection: Connection, challenge_mac: bytes, now: datetime) -> CodeRow | None:
    """The code of a challenge, where it is good."""
    return _good(
        connection.execute(
            f"SELECT {_CODE} FROM sign_in_code WHERE challenge_mac = %s FOR UPDATE".encode(),
            (challenge_mac,),
        ).fetchone(),
        now,
    )


def _good(row: tuple[Any, ...] | None, now: datetime) -> CodeRow | None:
    code = _code(row)
    return None if code is None or code.used_at is not None or code.expires_at <= now else code


def attempted(connection: Connection, code_id: UUID, column: str) -> None:
    connection.execute(
        f"UPDATE sign_in_code SET {column} = {column} + 1 WHERE code_id = %s".encode(), (code_id,)
    )


def used(connection: Connection, identifier_mac: bytes, code_mac: bytes, at: datetime) -> None:
    connection.execute(
        "UPDATE sign_in_code SET used_at = %s WHERE identifier_mac = %s AND code_mac = %s AND used_at IS NULL",
        (at, identifier_mac, code_mac),
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
    address: str | None,
    client: str | None,
) -> None:
    connection.execute(
        """INSERT INTO session (session_id, token_mac, subscriber_id, member_id, created_at, expires_at, address, client, seen_at,
                                seen_address)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (session_id, mac, subscriber_id, member_id, at, ends, address, client, at, address),
    )


def find_session(
    connection: Connection, mac: bytes, now: datetime
) -> tuple[UUID, UUID, UUID, datetime | None, str | None] | None:
    """(session, subscriber, member, when and from where it was seen last) of a live one."""
    row = connection.execute(
        """SELECT session_id, subscriber_id, member_id, seen_at, seen_address FROM session
           WHERE token_mac = %s AND ended_at IS NULL AND expires_at > %s""",
        (mac, now),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def seen(connection: Connection, session_id: UUID, at: datetime, address: str | None) -> None:
    connection.execute(
        "UPDATE session SET seen_at = %s, seen_address = coalesce(%s, seen_address) WHERE session_id = %s",
        (at, address, session_id),
    )


def sessions(
    connection: Connection, subscriber_id: UUID, member_id: UUID | None, now: datetime, limit: int
) -> list[tuple[Any, ...]]:
    """Live ones, newest first."""
    return connection.execute(
        """SELECT session_id, member_id, created_at, expires_at, address, client, seen_at, seen_address FROM session
           WHERE subscriber_id = %(s)s AND (%(m)s::uuid IS NULL OR member_id = %(m)s) AND ended_at IS NULL AND expires_at > %(now)s
           ORDER BY session_id DESC LIMIT %(limit)s""",
        {"s": subscriber_id, "m": member_id, "now": now, "limit": limit},
    ).fetchall()


def end_session(connection: Connection, session_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE session SET ended_at = %s WHERE session_id = %s AND ended_at IS NULL", (at, session_id)
    )


def end_sessions(
    connection: Connection,
    subscriber_id: UUID,
    at: datetime,
    member_id: UUID | None = None,
    keep: UUID | None = None,
) -> int:
    return connection.execute(
        """UPDATE session SET ended_at = %(at)s
           WHERE subscriber_id = %(s)s AND (%(m)s::uuid IS NULL OR member_id = %(m)s) AND ended_at IS NULL
             AND session_id IS DISTINCT FROM %(keep)s::uuid""",
        {"at": at, "s": subscriber_id, "m": member_id, "keep": keep},
    ).rowcount


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


def add_audit(
    connection: Connection,
    audit_id: UUID,
    at: datetime,
    actor: str,
    role: str,
    action: str,
    ref: str,
    before: object,
    after: object,
) -> None:
    def text(value: object) -> Jsonb | None:
        return None if value is None else Jsonb(json.loads(json.dumps(value, default=str)))

    connection.execute(
        """INSERT INTO audit (audit_id, at, actor, role, action, ref, before, after)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
        (audit_id, at, actor, role, action, ref, text(before), text(after)),
    )


def audits(
    connection: Connection, ref: str | None, offset: int, limit: int
) -> tuple[list[dict[str, object]], int]:
    names = ("audit_id", "at", "actor", "role", "action", "ref", "before", "after")
    where = {"ref": ref, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"""SELECT {", ".join(names)} FROM audit WHERE %(ref)s::text IS NULL OR ref = %(ref)s
            ORDER BY audit_id DESC OFFSET %(offset)s LIMIT %(limit)s""".encode(),
        where,
    ).fetchall()
    row = connection.execute(
        "SELECT count(*) FROM audit WHERE %(ref)s::text IS NULL OR ref = %(ref)s", where
    ).fetchone()
    assert row is not None
    return [dict(zip(names, found, strict=True)) for found in rows], int(row[0])
