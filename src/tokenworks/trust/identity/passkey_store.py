"""The SQL of passkeys and of the challenges that were answered."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow


class PasskeyRow(NamedTuple):
    passkey_id: UUID
    subscriber_id: UUID
    member_id: UUID
    credential_id: bytes
    public_key: bytes
    rp_id: str
    sign_count: int
    transports: list[str]
    is_synced: bool
    name_sealed: bytes | None
    created_at: datetime
    used_at: datetime | None
    cloned_at: datetime | None


_COLUMNS = ", ".join(PasskeyRow._fields)


def _row(row: TupleRow) -> PasskeyRow:
    return PasskeyRow(*row)


def lock_member(connection: Connection, member_id: UUID) -> None:
    """Let the additions of one member run one after the other."""
    key = int.from_bytes(member_id.bytes[-8:], "big", signed=True)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))


def add(connection: Connection, row: PasskeyRow) -> bool:
    """Add a passkey. Returns False if the credential is known already."""
    made = connection.execute(
        f"""INSERT INTO passkey ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (credential_id) DO NOTHING RETURNING 1""".encode(),
        row,
    ).fetchone()
    return made is not None


def of_member(connection: Connection, member_id: UUID) -> list[PasskeyRow]:
    """The passkeys of a member, newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM passkey WHERE member_id = %s ORDER BY passkey_id DESC".encode(), (member_id,)
    )
    return [_row(row) for row in rows]


def lock_credential(connection: Connection, credential_id: bytes) -> PasskeyRow | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM passkey WHERE credential_id = %s FOR UPDATE".encode(), (credential_id,)
    ).fetchone()
    return None if row is None else _row(row)


def store_use(connection: Connection, passkey_id: UUID, sign_count: int, at: datetime) -> None:
    connection.execute(
        "UPDATE passkey SET sign_count = %s, used_at = %s WHERE passkey_id = %s", (sign_count, at, passkey_id)
    )


def mark_cloned(connection: Connection, passkey_id: UUID, at: datetime) -> None:
    connection.execute("UPDATE passkey SET cloned_at = %s WHERE passkey_id = %s", (at, passkey_id))


def set_name(connection: Connection, passkey_id: UUID, member_id: UUID, name_sealed: bytes) -> bool:
    done = connection.execute(
        "UPDATE passkey SET name_sealed = %s WHERE passkey_id = %s AND member_id = %s",
        (name_sealed, passkey_id, member_id),
    )
    return done.rowcount == 1


def remove(connection: Connection, passkey_id: UUID, member_id: UUID) -> bool:
    done = connection.execute(
        "DELETE FROM passkey WHERE passkey_id = %s AND member_id = %s", (passkey_id, member_id)
    )
    return done.rowcount == 1


def remove_of_subscriber(connection: Connection, subscriber_id: UUID) -> None:
    connection.execute("DELETE FROM passkey WHERE subscriber_id = %s", (subscriber_id,))


def remove_of_members(connection: Connection, member_ids: Sequence[UUID]) -> None:
    connection.execute("DELETE FROM passkey WHERE member_id = ANY(%s)", (list(member_ids),))


def use_challenge(connection: Connection, challenge_mac: bytes, expires_at: datetime) -> bool:
    """Use a challenge up. Returns False if it was used before."""
    row = connection.execute(
        "INSERT INTO passkey_challenge (challenge_mac, expires_at) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING 1",
        (challenge_mac, expires_at),
    ).fetchone()
    return row is not None


def delete_expired(connection: Connection, before: datetime) -> None:
    connection.execute("DELETE FROM passkey_challenge WHERE expires_at < %s", (before,))
