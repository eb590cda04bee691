"""The SQL of what providers are asked for."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.model import Collection

_COLUMNS = "collection_id, subscriber_id, bill_id, method, reference, amount_nano, asked_nano, currency, state, asked_at"


def add(connection: Connection, made: Collection) -> None:
    connection.execute(
        f"INSERT INTO collection ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),
        (made.collection_id, made.subscriber_id, made.bill_id, made.method, made.reference, made.amount_nano, made.asked_nano,
         made.currency, made.state, made.asked_at),
    )  # fmt: skip


def asked_of(connection: Connection, bill_id: UUID, method: str) -> Collection | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM collection WHERE bill_id = %s AND method = %s AND state = 'asked'".encode(),
        (bill_id, method),
    ).fetchone()
    return None if row is None else Collection(*row)


def asked(
    connection: Connection, methods: Sequence[str], after: UUID, but: Sequence[UUID], limit: int
) -> list[Collection]:
    """What has no answer, oldest first, but for some."""
    rows = connection.execute(
        f"""SELECT {_COLUMNS} FROM collection WHERE state = 'asked' AND method = ANY(%s) AND collection_id > %s
            AND collection_id <> ALL(%s::uuid[]) ORDER BY collection_id LIMIT %s""".encode(),
        (list(methods), after, list(but), limit),
    )
    return [Collection(*row) for row in rows]


def answer(connection: Connection, collection_id: UUID, state: str, at: datetime) -> None:
    connection.execute(
        "UPDATE collection SET state = %s, answered_at = %s WHERE collection_id = %s AND state = 'asked'",
        (state, at, collection_id),
    )
