"""The SQL of requests to payment providers (`collection`)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.model import Collection

_COLUMNS = "collection_id, subscriber_id, bill_id, method, reference, amount_nano, asked_nano, currency, state, asked_at"


def add(connection: Connection, collection: Collection) -> None:
    connection.execute(
        f"INSERT INTO collection ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),
        (collection.collection_id, collection.subscriber_id, collection.bill_id, collection.method, collection.reference,
         collection.amount_nano, collection.asked_nano, collection.currency, collection.state, collection.asked_at),
    )  # fmt: skip


def unanswered_of_bill(connection: Connection, bill_id: UUID, method: str) -> Collection | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM collection WHERE bill_id = %s AND method = %s AND state = 'asked'".encode(),
        (bill_id, method),
    ).fetchone()
    return None if row is None else Collection(*row)


def unanswered(
    connection: Connection, methods: Sequence[str], after: UUID, excluded: Sequence[UUID], limit: int
) -> list[Collection]:
    """Collections whose result is not known, oldest first, without the excluded ones."""
    rows = connection.execute(
        f"""SELECT {_COLUMNS} FROM collection WHERE state = 'asked' AND method = ANY(%s) AND collection_id > %s
            AND collection_id <> ALL(%s::uuid[]) ORDER BY collection_id LIMIT %s""".encode(),
        (list(methods), after, list(excluded), limit),
    )
    return [Collection(*row) for row in rows]


def answer(connection: Connection, collection_id: UUID, state: str, at: datetime) -> None:
    connection.execute(
        "UPDATE collection SET state = %s, answered_at = %s WHERE collection_id = %s AND state = 'asked'",
        (state, at, collection_id),
    )
