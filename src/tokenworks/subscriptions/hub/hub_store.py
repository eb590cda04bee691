"""The SQL of listeners, events and deliveries."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from tokenworks.subscriptions.hub.service import Listener

_LOCK = 7461005
REMOVED = "the listener was removed"
_LISTENER = """listener_id, api, callback, query, generation, pepper_version, overlap_until, overlap_version, made_by, created_at"""
_EVENT = "event_id, at, api, event_type, ref, subscriber_id, state"
_DELIVERY = """delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, created_at, attempts, replays, delivered_at, given_up_at,
    tried_at, status, error"""


def lock_listeners(connection: Connection) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def add_listener(connection: Connection, listener: "Listener") -> None:
    connection.execute(
        f"INSERT INTO hub_listener ({_LISTENER}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),
        (listener.listener_id, listener.api, listener.callback, listener.query, listener.generation, listener.pepper_version,
         listener.overlap_until, listener.overlap_version, listener.made_by, listener.created_at),
    )  # fmt: skip


def listeners(connection: Connection) -> list[TupleRow]:
    return connection.execute(
        f"SELECT {_LISTENER} FROM hub_listener WHERE removed_at IS NULL ORDER BY listener_id".encode()
    ).fetchall()


def remove_listener(connection: Connection, listener_id: UUID, at: datetime) -> None:
    connection.execute("UPDATE hub_listener SET removed_at = %s WHERE listener_id = %s", (at, listener_id))
    connection.execute(
        """UPDATE hub_delivery SET given_up_at = %s, error = %s
           WHERE listener_id = %s AND delivered_at IS NULL AND given_up_at IS NULL""",
        (at, REMOVED, listener_id),
    )


def rotate_listener(
    connection: Connection, listener_id: UUID, version: int, before: int, until: datetime
) -> None:
    connection.execute(
        """UPDATE hub_listener SET generation = generation + 1, pepper_version = %s, overlap_version = %s, overlap_until = %s
           WHERE listener_id = %s""",
        (version, before, until, listener_id),
    )


def lock_events(connection: Connection, limit: int) -> list[TupleRow]:
    return connection.execute(
        f"""SELECT {_EVENT} FROM hub_event WHERE expanded_at IS NULL ORDER BY event_no LIMIT %s
            FOR UPDATE SKIP LOCKED""".encode(),
        (limit,),
    ).fetchall()


def mark_expanded(connection: Connection, event_id: UUID, at: datetime) -> None:
    connection.execute("UPDATE hub_event SET expanded_at = %s WHERE event_id = %s", (at, event_id))


def add_delivery(
    connection: Connection,
    delivery_id: UUID,
    listener_id: UUID | None,
    event_id: UUID,
    event_type: str,
    subscriber_id: UUID,
    body_sealed: bytes,
    at: datetime,
) -> None:
    connection.execute(
        """INSERT INTO hub_delivery (delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, created_at,
               begun_at, next_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (delivery_id, listener_id, event_id, event_type, subscriber_id, body_sealed, at, at, at),
    )


def lease_deliveries(
    connection: Connection, now: datetime, until: datetime, limit: int, excluded: list[UUID], *, own: bool
) -> list[TupleRow]:
    columns = ", ".join(f"d.{name.strip()}" for name in _DELIVERY.split(","))
    return connection.execute(
        f"""WITH due AS (SELECT delivery_id FROM hub_delivery
                         WHERE next_at <= %(now)s AND delivered_at IS NULL AND given_up_at IS NULL
                           AND (listener_id IS NOT NULL OR %(own)s)
                           AND coalesce(listener_id, '00000000-0000-0000-0000-000000000000') <> ALL(%(excluded)s)
                         ORDER BY next_at, delivery_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
            UPDATE hub_delivery d SET next_at = %(until)s, attempts = attempts + 1 FROM due
            WHERE d.delivery_id = due.delivery_id RETURNING {columns}""".encode(),
        {"now": now, "until": until, "limit": limit, "own": own, "excluded": excluded},
    ).fetchall()


def end_delivery(
    connection: Connection, delivery_id: UUID, column: str, at: datetime, status: int | None, error: str | None
) -> None:  # fmt: skip
    connection.execute(
        f"UPDATE hub_delivery SET {column} = %s, tried_at = %s, status = %s, error = %s WHERE delivery_id = %s".encode(),
        (at, at, status, error, delivery_id),
    )


def postpone(connection: Connection, delivery_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE hub_delivery SET next_at = %s, attempts = attempts - 1 WHERE delivery_id = %s",
        (at, delivery_id),
    )


def retry_delivery(
    connection: Connection, delivery_id: UUID, at: datetime, next_at: datetime, status: int | None, error: str
) -> None:
    connection.execute(
        "UPDATE hub_delivery SET next_at = %s, tried_at = %s, status = %s, error = %s WHERE delivery_id = %s",
        (next_at, at, status, error, delivery_id),
    )


def give_up(
    connection: Connection, listener_id: UUID | None, begun_until: datetime, at: datetime, status: int | None, error: str
) -> None:  # fmt: skip
    """Give up the deliveries of a listener (None: of the operator's own webhook) that began at or before `begun_until`."""
    connection.execute(
        """UPDATE hub_delivery SET given_up_at = %s, status = %s, error = %s
           WHERE listener_id IS NOT DISTINCT FROM %s AND begun_at <= %s AND delivered_at IS NULL AND given_up_at IS NULL""",
        (at, status, error, listener_id, begun_until),
    )


def postpone_all(connection: Connection, listener_id: UUID | None, until: datetime) -> None:
    connection.execute(
        """UPDATE hub_delivery SET next_at = %s
           WHERE listener_id IS NOT DISTINCT FROM %s AND next_at < %s AND delivered_at IS NULL AND given_up_at IS NULL""",
        (until, listener_id, until),
    )


def delivery(connection: Connection, delivery_id: UUID) -> TupleRow:
    row = connection.execute(
        f"SELECT {_DELIVERY} FROM hub_delivery WHERE delivery_id = %s".encode(), (delivery_id,)
    ).fetchone()
    assert row is not None
    return row


def lock_delivery(connection: Connection, delivery_id: UUID) -> TupleRow | None:
    return connection.execute(
        f"SELECT {_DELIVERY} FROM hub_delivery WHERE delivery_id = %s FOR UPDATE".encode(), (delivery_id,)
    ).fetchone()


def replay(connection: Connection, delivery_id: UUID, at: datetime) -> None:
    connection.execute(
        """UPDATE hub_delivery SET replays = replays + 1, attempts = 0, next_at = %s, begun_at = %s, delivered_at = NULL,
               given_up_at = NULL WHERE delivery_id = %s""",
        (at, at, delivery_id),
    )


_STATES = {
    "waits": "delivered_at IS NULL AND given_up_at IS NULL",
    "delivered": "delivered_at IS NOT NULL",
    "given_up": "given_up_at IS NOT NULL",
}


def deliveries(
    connection: Connection, state: str | None, listener_id: UUID | None, offset: int, limit: int
) -> tuple[list[TupleRow], int]:
    where = f"FROM hub_delivery WHERE (%(l)s::uuid IS NULL OR listener_id = %(l)s) AND {'true' if state is None else _STATES[state]}"
    values = {"l": listener_id, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {_DELIVERY} {where} ORDER BY delivery_id DESC OFFSET %(offset)s LIMIT %(limit)s".encode(),
        values,
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return rows, int(count[0])


def delete_old(connection: Connection, before: datetime) -> None:
    """Delete old deliveries and events. A delivery that still waits is deleted, too: no process sends it, for instance because
    the operator's own webhook was removed.
    """
    connection.execute(
        """DELETE FROM hub_delivery WHERE created_at < %(b)s
           AND (delivered_at < %(b)s OR given_up_at < %(b)s OR delivered_at IS NULL AND given_up_at IS NULL AND begun_at < %(b)s)""",
        {"b": before},
    )
    connection.execute("DELETE FROM hub_event WHERE expanded_at < %s", (before,))


def delete_of_erased(connection: Connection, subscriber_id: UUID | None) -> None:
    """Delete the delivered and given-up deliveries of a subscriber who is erased (None: of all erased subscribers)."""
    connection.execute(
        """DELETE FROM hub_delivery d USING subscriber s
           WHERE d.subscriber_id = s.subscriber_id AND (d.delivered_at IS NOT NULL OR d.given_up_at IS NOT NULL)
               AND (s.subscriber_id = %(id)s OR (%(id)s::uuid IS NULL AND s.erased_at IS NOT NULL))""",
        {"id": subscriber_id},
    )


def lock_waiting(connection: Connection, subscriber_id: UUID) -> list[tuple[UUID, bytes]]:
    """Lock the deliveries of a subscriber that are still to be sent: (id, sealed body) of each."""
    rows = connection.execute(
        """SELECT delivery_id, body_sealed FROM hub_delivery
           WHERE subscriber_id = %s AND delivered_at IS NULL AND given_up_at IS NULL AND body_sealed IS NOT NULL
           ORDER BY delivery_id FOR UPDATE""",
        (subscriber_id,),
    )
    return [(row[0], bytes(row[1])) for row in rows]


def set_body(connection: Connection, delivery_id: UUID, body_sealed: bytes) -> None:
    connection.execute(
        "UPDATE hub_delivery SET body_sealed = %s WHERE delivery_id = %s", (body_sealed, delivery_id)
    )
