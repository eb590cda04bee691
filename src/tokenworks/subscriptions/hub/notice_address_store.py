"""The SQL of what people chose for notices, and of the addresses that they gave."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

_ADDRESS = """notice_address_id, person_id, subscriber_id, channel, address_sealed, generation, pepper_version, made_at,
    confirmed_at, overlap_until, overlap_version"""


def choices(connection: Connection, person_ids: Sequence[UUID]) -> dict[tuple[UUID, str, str], bool]:
    """(person, kind, channel) -> what the person chose."""
    rows = connection.execute(
        "SELECT person_id, kind, channel, wanted FROM notice_choice WHERE person_id = ANY(%s)",
        (list(person_ids),),
    )
    return {(row[0], row[1], row[2]): bool(row[3]) for row in rows}


def choose(
    connection: Connection,
    person_id: UUID,
    subscriber_id: UUID,
    kind: str,
    channel: str,
    wanted: bool,
    at: datetime,
) -> None:
    connection.execute(
        """INSERT INTO notice_choice (person_id, subscriber_id, kind, channel, wanted, chosen_at) VALUES (%s, %s, %s, %s, %s, %s)
           ON CONFLICT (person_id, kind, channel) DO UPDATE SET wanted = excluded.wanted, chosen_at = excluded.chosen_at""",
        (person_id, subscriber_id, kind, channel, wanted, at),
    )


def addresses(connection: Connection, person_ids: Sequence[UUID]) -> list[TupleRow]:
    return connection.execute(
        f"SELECT {_ADDRESS} FROM notice_address WHERE person_id = ANY(%s)".encode(), (list(person_ids),)
    ).fetchall()


def lock_address(connection: Connection, address_id: UUID) -> TupleRow | None:
    return connection.execute(
        f"SELECT {_ADDRESS} FROM notice_address WHERE notice_address_id = %s FOR UPDATE".encode(),
        (address_id,),
    ).fetchone()


def add_address(
    connection: Connection,
    address_id: UUID,
    person_id: UUID,
    subscriber_id: UUID,
    channel: str,
    sealed: bytes,
    pepper_version: int,
    at: datetime,
    confirmed_at: datetime | None,
) -> None:
    """Add an address in the place of the person's address of the channel, if there is one."""
    delete_address(connection, person_id, channel)
    connection.execute(
        """INSERT INTO notice_address (notice_address_id, person_id, subscriber_id, channel, address_sealed, pepper_version, made_at,
               confirmed_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
        (address_id, person_id, subscriber_id, channel, sealed, pepper_version, at, confirmed_at),
    )


def delete_address(connection: Connection, person_id: UUID, channel: str) -> bool:
    return bool(
        connection.execute(
            "DELETE FROM notice_address WHERE person_id = %s AND channel = %s", (person_id, channel)
        ).rowcount
    )


def confirm(connection: Connection, address_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE notice_address SET confirmed_at = %s WHERE notice_address_id = %s AND confirmed_at IS NULL",
        (at, address_id),
    )


def rotate(connection: Connection, address_id: UUID, version: int, before: int, until: datetime) -> None:
    connection.execute(
        """UPDATE notice_address SET generation = generation + 1, pepper_version = %s, overlap_version = %s, overlap_until = %s
           WHERE notice_address_id = %s""",
        (version, before, until, address_id),
    )


# Requests to confirm an address.


def add_request(
    connection: Connection,
    request_id: UUID,
    subscriber_id: UUID,
    person_id: UUID,
    address_hash: bytes,
    at: datetime,
) -> None:
    connection.execute(
        """INSERT INTO notice_request (notice_request_id, subscriber_id, person_id, address_hash, asked_at)
           VALUES (%s, %s, %s, %s, %s)""",
        (request_id, subscriber_id, person_id, address_hash, at),
    )


def lock_requests(connection: Connection, of: bytes) -> None:
    """Let concurrent requests for one address, or of one account, wait for each other, so that none of them passes its limit."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(of[:8], "big", signed=True),))


def requests(
    connection: Connection, subscriber_id: UUID, address_hash: bytes, since: datetime
) -> tuple[int, int]:
    """Requests since an instant: (for the address, of the account)."""
    row = connection.execute(
        """SELECT (SELECT count(*) FROM notice_request WHERE address_hash = %(hash)s AND asked_at > %(since)s),
               (SELECT count(*) FROM notice_request WHERE subscriber_id = %(id)s AND asked_at > %(since)s)""",
        {"hash": address_hash, "id": subscriber_id, "since": since},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def delete_requests(connection: Connection, before: datetime) -> None:
    connection.execute("DELETE FROM notice_request WHERE asked_at < %s", (before,))


def forget(connection: Connection, subscriber_id: UUID | None, person_id: UUID | None) -> None:
    """Delete choices, addresses and requests of an erased subscriber with its members, or of one erased member."""
    for statement in (
        "DELETE FROM notice_choice WHERE subscriber_id = %s OR person_id = %s",
        "DELETE FROM notice_address WHERE subscriber_id = %s OR person_id = %s",
        "DELETE FROM notice_request WHERE subscriber_id = %s OR person_id = %s",
    ):
        connection.execute(statement.encode(), (subscriber_id, person_id))
