"""The SQL of authenticators, recovery codes and refused sign-ins of staff."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow


class TotpRow(NamedTuple):
    """An authenticator. `used_step`: the newest time step of which a code was used."""

    totp_id: UUID
    staff_id: UUID
    secret_sealed: bytes
    used_step: int | None


_COLUMNS = "totp_id, staff_id, secret_sealed, used_step"


def _totp(row: TupleRow | None) -> TotpRow | None:
    return None if row is None else TotpRow(row[0], row[1], bytes(row[2]), row[3])


def begin(
    connection: Connection,
    totp_id: UUID,
    staff_id: UUID,
    sealed: bytes,
    link_mac: bytes,
    at: datetime,
    link_ends: datetime,
) -> None:
    """Store an authenticator that is not confirmed yet, in place of an earlier one that was not confirmed."""
    connection.execute(
        "UPDATE staff_totp SET ended_at = %s WHERE staff_id = %s AND confirmed_at IS NULL AND ended_at IS NULL",
        (at, staff_id),
    )
    connection.execute(
        """INSERT INTO staff_totp (totp_id, staff_id, secret_sealed, link_mac, link_expires_at, made_at)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (totp_id, staff_id, sealed, link_mac, link_ends, at),
    )


def find_begun(connection: Connection, link_macs: list[bytes], now: datetime) -> TotpRow | None:
    """The authenticator of a link that is neither used nor expired."""
    return _totp(
        connection.execute(
            f"""SELECT {_COLUMNS} FROM staff_totp
                WHERE link_mac = ANY(%s) AND confirmed_at IS NULL AND ended_at IS NULL AND link_expires_at > %s""".encode(),
            (link_macs, now),
        ).fetchone()
    )


def find_confirmed(connection: Connection, staff_id: UUID) -> TotpRow | None:
    return _totp(
        connection.execute(
            f"""SELECT {_COLUMNS} FROM staff_totp
                WHERE staff_id = %s AND confirmed_at IS NOT NULL AND ended_at IS NULL""".encode(),
            (staff_id,),
        ).fetchone()
    )


def confirm(connection: Connection, totp: TotpRow, step: int, at: datetime) -> None:
    """Put an authenticator into force, in place of the one before."""
    connection.execute(
        """UPDATE staff_totp SET ended_at = %s
           WHERE staff_id = %s AND confirmed_at IS NOT NULL AND ended_at IS NULL""",
        (at, totp.staff_id),
    )
    connection.execute(
        "UPDATE staff_totp SET confirmed_at = %s, used_step = %s WHERE totp_id = %s", (at, step, totp.totp_id)
    )


def use_step(connection: Connection, totp_id: UUID, step: int) -> None:
    connection.execute("UPDATE staff_totp SET used_step = %s WHERE totp_id = %s", (step, totp_id))


def add_recovery_codes(connection: Connection, totp_id: UUID, codes: Sequence[tuple[UUID, bytes]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO staff_recovery_code (code_id, totp_id, code_mac) VALUES (%s, %s, %s)",
            [(code_id, totp_id, mac) for code_id, mac in codes],
        )


def use_recovery_code(connection: Connection, totp_id: UUID, macs: list[bytes], at: datetime) -> bool:
    return (
        connection.execute(
            "UPDATE staff_recovery_code SET used_at = %s WHERE totp_id = %s AND code_mac = ANY(%s) AND used_at IS NULL",
            (at, totp_id, macs),
        ).rowcount
        == 1
    )


def count_recovery_codes(connection: Connection, totp_id: UUID) -> int:
    row = connection.execute(
        "SELECT count(*) FROM staff_recovery_code WHERE totp_id = %s AND used_at IS NULL", (totp_id,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def add_attempt(
    connection: Connection, attempt_id: UUID, staff_id: UUID | None, asker: str, at: datetime
) -> None:
    connection.execute(
        "INSERT INTO staff_attempt (attempt_id, staff_id, asker, at) VALUES (%s, %s, %s, %s)",
        (attempt_id, staff_id, asker, at),
    )


def nth_newest_attempt(
    connection: Connection, staff_id: UUID | None, asker: str, count: int, since: datetime
) -> datetime | None:
    """When the `count`-th newest refused sign-in since a time was: of an account, or (None) of an asker; None if there are fewer."""
    row = connection.execute(
        """SELECT at FROM staff_attempt
           WHERE (staff_id = %(staff)s OR (%(staff)s::uuid IS NULL AND asker = %(asker)s)) AND at > %(since)s
           ORDER BY at DESC OFFSET %(offset)s LIMIT 1""",
        {"staff": staff_id, "asker": asker, "since": since, "offset": count - 1},
    ).fetchone()
    return None if row is None else row[0]


def forget_attempts(connection: Connection, staff_id: UUID) -> None:
    connection.execute("DELETE FROM staff_attempt WHERE staff_id = %s", (staff_id,))


def delete_old(connection: Connection, before: datetime) -> None:
    connection.execute("DELETE FROM staff_attempt WHERE at < %s", (before,))
