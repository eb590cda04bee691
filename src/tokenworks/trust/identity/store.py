"""The SQL of codes, sessions, staff and the audit trail."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow, TupleRow, dict_row

from tokenworks.trust.identity.roles import StaffRole


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
    """Lock the codes of one number or of one asker for this transaction, so that requests for them run one after the other."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(mac[:8], "big", signed=True),))


def nth_newest_code(
    connection: Connection, asker: str, identifier_macs: list[bytes] | None, count: int, since: datetime
) -> datetime | None:
    """When an asker requested its `count`-th newest code since a time, for one number or for all; None if there are fewer."""
    row = connection.execute(
        """SELECT created_at FROM sign_in_code
           WHERE address = %(asker)s AND (%(macs)s::bytea[] IS NULL OR identifier_mac = ANY(%(macs)s)) AND created_at > %(since)s
           ORDER BY created_at DESC OFFSET %(offset)s LIMIT 1""",
        {"asker": asker, "macs": identifier_macs, "since": since, "offset": count - 1},
    ).fetchone()
    return None if row is None else row[0]


def count_codes(connection: Connection, identifier_macs: list[bytes], since: datetime) -> int:
    row = connection.execute(
        "SELECT count(*) FROM sign_in_code WHERE identifier_mac = ANY(%s) AND created_at > %s",
        (identifier_macs, since),
    ).fetchone()
    return 0 if row is None else int(row[0])


def _code(row: TupleRow | None) -> CodeRow | None:
    return None if row is None else CodeRow(row[0], bytes(row[1]), *row[2:])


def newest_sent(connection: Connection, identifier_macs: list[bytes]) -> CodeRow | None:
    """The last code that was sent to a number."""
    return _code(
        connection.execute(
            f"""SELECT {_CODE} FROM sign_in_code WHERE identifier_mac = ANY(%s) AND sent
                ORDER BY created_at DESC, code_id DESC LIMIT 1""".encode(),
            (identifier_macs,),
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
    connection: Connection, identifier_macs: list[bytes], asker: str, now: datetime
) -> CodeRow | None:
    """The newest code that an asker requested for a number; None if it is used or expired."""
    return _good(
        connection.execute(
            f"""SELECT {_CODE} FROM sign_in_code WHERE identifier_mac = ANY(%s) AND address = %s
                ORDER BY created_at DESC, code_id DESC LIMIT 1 FOR UPDATE""".encode(),
            (identifier_macs, asker),
        ).fetchone(),
        now,
    )


def mark_not_sent(connection: Connection, challenge_macs: list[bytes], at: datetime) -> None:
    """Mark the code of a challenge as not sent, for all challenges that share it."""
    connection.execute(
        """UPDATE sign_in_code SET sent = false, expires_at = least(expires_at, %s) WHERE (identifier_mac, code_mac) IN (
               SELECT identifier_mac, code_mac FROM sign_in_code WHERE challenge_mac = ANY(%s))""",
        (at, challenge_macs),
    )


def is_challenge_of(
    connection: Connection, identifier_macs: list[bytes], challenge_macs: list[bytes]
) -> bool:
    row = connection.execute(
        "SELECT 1 FROM sign_in_code WHERE challenge_mac = ANY(%s) AND identifier_mac = ANY(%s)",
        (challenge_macs, identifier_macs),
    ).fetchone()
    return row is not None


def lock_challenge(connection: Connection, challenge_macs: list[bytes], now: datetime) -> CodeRow | None:
    """The code of a challenge; None if it is used or expired."""
    return _good(
        connection.execute(
            f"SELECT {_CODE} FROM sign_in_code WHERE challenge_mac = ANY(%s) FOR UPDATE".encode(),
            (challenge_macs,),
        ).fetchone(),
        now,
    )


def _good(row: TupleRow | None, now: datetime) -> CodeRow | None:
    code = _code(row)
    return None if code is None or code.used_at is not None or code.expires_at <= now else code


def count_attempt(connection: Connection, code_id: UUID, column: str) -> None:
    connection.execute(
        f"UPDATE sign_in_code SET {column} = {column} + 1 WHERE code_id = %s".encode(), (code_id,)
    )


def use_up_code(connection: Connection, identifier_macs: list[bytes], code_mac: bytes, at: datetime) -> None:
    connection.execute(
        "UPDATE sign_in_code SET used_at = %s WHERE identifier_mac = ANY(%s) AND code_mac = %s AND used_at IS NULL",
        (at, identifier_macs, code_mac),
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
    pepper_version: int,
    proved_at: datetime | None,
) -> None:
    connection.execute(
        """INSERT INTO session (session_id, token_mac, subscriber_id, member_id, created_at, expires_at, address, client, seen_at,
                                seen_address, pepper_version, proved_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (
            session_id, mac, subscriber_id, member_id, at, ends, address, client, at, address, pepper_version, proved_at,
        ),
    )  # fmt: skip


def proved_at(connection: Connection, session_id: UUID) -> datetime | None:
    """When the person of a session gave a code or used a passkey; None if a host of an earlier release opened the session."""
    row = connection.execute("SELECT proved_at FROM session WHERE session_id = %s", (session_id,)).fetchone()
    return None if row is None else row[0]


def lock_session(connection: Connection, session_id: UUID) -> bool:
    """Lock a session, so that whatever ends it waits for this transaction. Returns False if it has ended."""
    row = connection.execute(
        "SELECT 1 FROM session WHERE session_id = %s AND ended_at IS NULL FOR UPDATE", (session_id,)
    ).fetchone()
    return row is not None


def find_session(
    connection: Connection, macs: list[bytes], now: datetime
) -> tuple[UUID, UUID, UUID, datetime | None, str | None] | None:
    """(session, subscriber, member, time of the last use, its address) of a live session."""
    row = connection.execute(
        """SELECT session_id, subscriber_id, member_id, seen_at, seen_address FROM session
           WHERE token_mac = ANY(%s) AND ended_at IS NULL AND expires_at > %s""",
        (macs, now),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def store_session_use(connection: Connection, session_id: UUID, at: datetime, address: str | None) -> None:
    connection.execute(
        "UPDATE session SET seen_at = %s, seen_address = coalesce(%s, seen_address) WHERE session_id = %s",
        (at, address, session_id),
    )


def sessions(
    connection: Connection, subscriber_id: UUID, member_id: UUID | None, now: datetime, limit: int
) -> list[TupleRow]:
    """Live sessions, newest first, in the order of `Session`'s fields."""
    return connection.execute(
        """SELECT session_id, member_id, created_at, expires_at, address, client, seen_at, seen_address FROM session
           WHERE subscriber_id = %(s)s AND (%(m)s::uuid IS NULL OR member_id = %(m)s) AND ended_at IS NULL AND expires_at > %(now)s
           ORDER BY session_id DESC LIMIT %(limit)s""",
        {"s": subscriber_id, "m": member_id, "now": now, "limit": limit},
    ).fetchall()


def places(connection: Connection, subscriber_id: UUID, member_id: UUID, limit: int) -> tuple[int, list[str]]:
    """(a member's stored sessions, ended ones too; the addresses from which they were opened, counted up to `limit`)."""
    rows = connection.execute(
        """SELECT address FROM session WHERE subscriber_id = %s AND member_id = %s ORDER BY session_id DESC LIMIT %s""",
        (subscriber_id, member_id, limit),
    ).fetchall()
    return len(rows), [row[0] for row in rows if row[0] is not None]


def end_session(connection: Connection, session_id: UUID, at: datetime) -> bool:
    done = connection.execute(
        "UPDATE session SET ended_at = %s WHERE session_id = %s AND ended_at IS NULL", (at, session_id)
    )
    return done.rowcount == 1


def has_session(connection: Connection, subscriber_id: UUID, session_id: UUID) -> bool:
    row = connection.execute(
        "SELECT 1 FROM session WHERE session_id = %s AND subscriber_id = %s", (session_id, subscriber_id)
    ).fetchone()
    return row is not None


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


def end_sessions_of(connection: Connection, member_ids: list[UUID], at: datetime) -> None:
    connection.execute(
        "UPDATE session SET ended_at = %s WHERE member_id = ANY(%s) AND ended_at IS NULL", (at, member_ids)
    )


def add_staff(
    connection: Connection, staff_id: UUID, name: str, skeleton: str, role: str, at: datetime
) -> bool:
    row = connection.execute(
        """INSERT INTO staff (staff_id, name, skeleton, role, created_at) VALUES (%s, %s, %s, %s, %s)
           ON CONFLICT DO NOTHING RETURNING 1""",
        (staff_id, name, skeleton, role, at),
    ).fetchone()
    return row is not None


def staff_of_skeleton(connection: Connection, skeleton: str) -> str | None:
    row = connection.execute("SELECT name FROM staff WHERE skeleton = %s", (skeleton,)).fetchone()
    return None if row is None else str(row[0])


def add_staff_token(
    connection: Connection,
    token_id: UUID,
    staff_id: UUID,
    mac: bytes,
    pepper_version: int,
    at: datetime,
    ends: datetime,
) -> None:
    connection.execute(
        """INSERT INTO staff_token (token_id, staff_id, token_mac, pepper_version, created_at, expires_at)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (token_id, staff_id, mac, pepper_version, at, ends),
    )


def lock_staff(connection: Connection, name: str) -> UUID | None:
    row = connection.execute(
        "SELECT staff_id FROM staff WHERE name = %s AND revoked_at IS NULL FOR UPDATE", (name,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def end_staff_tokens(connection: Connection, staff_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE staff_token SET expires_at = %s WHERE staff_id = %s AND expires_at > %s", (at, staff_id, at)
    )


def all_staff(connection: Connection) -> list[dict[str, object]]:
    names = ("name", "role", "created_at", "revoked_at", "token_expires_at", "seen_at", "seen_address")
    cursor = connection.execute(
        """SELECT name, role, s.created_at, revoked_at, (SELECT max(expires_at) FROM staff_token t WHERE t.staff_id = s.staff_id),
                  l.used_at, l.used_address
           FROM staff s LEFT JOIN LATERAL (SELECT used_at, used_address FROM staff_token t
               WHERE t.staff_id = s.staff_id AND used_at IS NOT NULL ORDER BY used_at DESC LIMIT 1) l ON true
           ORDER BY name"""
    )
    return [dict(zip(names, row, strict=True)) for row in cursor]


def revoke_staff(connection: Connection, name: str, at: datetime) -> bool:
    return (
        connection.execute(
            "UPDATE staff SET revoked_at = %s WHERE name = %s AND revoked_at IS NULL", (at, name)
        ).rowcount
        == 1
    )


def find_staff(
    connection: Connection, macs: list[bytes], now: datetime
) -> tuple[str, StaffRole, UUID, datetime | None, str | None] | None:
    """(name, role, token, time of the last use, its address) of a live staff token."""
    row = connection.execute(
        """SELECT name, role, token_id, used_at, used_address FROM staff_token t JOIN staff s USING (staff_id)
           WHERE t.token_mac = ANY(%s) AND s.revoked_at IS NULL AND expires_at > %s""",
        (macs, now),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def store_staff_use(connection: Connection, token_id: UUID, at: datetime, address: str | None) -> None:
    connection.execute(
        "UPDATE staff_token SET used_at = %s, used_address = coalesce(%s, used_address) WHERE token_id = %s",
        (at, address, token_id),
    )


def codes_of(connection: Connection, identifier_macs: list[bytes]) -> list[dict[str, object]]:
    names = ("created_at", "address", "attempts", "used_at")
    rows = connection.execute(
        f"SELECT {', '.join(names)} FROM sign_in_code WHERE identifier_mac = ANY(%s) ORDER BY created_at".encode(),
        (identifier_macs,),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def delete_codes(connection: Connection, identifier_macs: list[bytes]) -> None:
    connection.execute("DELETE FROM sign_in_code WHERE identifier_mac = ANY(%s)", (identifier_macs,))


def forget_places(connection: Connection, subscriber_id: UUID, member_ids: list[UUID]) -> None:
    connection.execute(
        """UPDATE session SET address = NULL, client = NULL, seen_address = NULL
           WHERE subscriber_id = %s OR member_id = ANY(%s)""",
        (subscriber_id, member_ids),
    )


def forget_places_of_member(connection: Connection, member_id: UUID) -> None:
    connection.execute(
        "UPDATE session SET address = NULL, client = NULL, seen_address = NULL WHERE member_id = %s",
        (member_id,),
    )


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
    address: str | None,
) -> None:
    connection.execute(
        """INSERT INTO audit (audit_id, at, actor, role, action, ref, person_id, details, address)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (audit_id, at, actor, role, action, ref, person_id, details, address),
    )


def audits(connection: Connection, ref: str | None, offset: int, limit: int) -> tuple[list[DictRow], int]:
    where = {"ref": ref, "offset": offset, "limit": limit}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """SELECT audit_id, at, actor, role, action, ref, person_id, details, address FROM audit
               WHERE %(ref)s::text IS NULL OR ref = %(ref)s ORDER BY audit_id DESC OFFSET %(offset)s LIMIT %(limit)s""",
            where,
        ).fetchall()
    row = connection.execute(
        "SELECT count(*) FROM audit WHERE %(ref)s::text IS NULL OR ref = %(ref)s", where
    ).fetchone()
    assert row is not None
    return rows, int(row[0])
