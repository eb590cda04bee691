"""The SQL of top-ups: steps of pay-as-you-go that subscribers bought by hand."""

from uuid import UUID

from psycopg import Connection

from tokenworks.subscriptions.model import TopUp
from tokenworks.subscriptions.orders.order_store import page_of_subscriber

_TOP_UP = "top_up_id, subscriber_id, product_id, steps, amount_nano, made_at"


def top_up(connection: Connection, subscriber_id: UUID, idempotency_key: str) -> TopUp | None:
    row = connection.execute(
        f"SELECT {_TOP_UP} FROM top_up WHERE subscriber_id = %s AND idempotency_key = %s".encode(),
        (subscriber_id, idempotency_key),
    ).fetchone()
    return None if row is None else TopUp(*row)


def find_top_up(connection: Connection, top_up_id: UUID) -> TopUp | None:
    row = connection.execute(
        f"SELECT {_TOP_UP} FROM top_up WHERE top_up_id = %s".encode(), (top_up_id,)
    ).fetchone()
    return None if row is None else TopUp(*row)


def top_ups(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[TopUp], int]:
    """A page of top-ups (None: of all subscribers), newest first, and the number of all of them."""
    rows, count = page_of_subscriber(
        connection, _TOP_UP, "top_up", "top_up_id DESC", subscriber_id, offset, limit
    )
    return [TopUp(*row) for row in rows], count


def add_top_up(connection: Connection, new_top_up: TopUp, idempotency_key: str) -> None:
    connection.execute(
        f"INSERT INTO top_up ({_TOP_UP}, idempotency_key) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        (new_top_up.top_up_id, new_top_up.subscriber_id, new_top_up.product_id, new_top_up.steps, new_top_up.amount_nano, new_top_up.made_at, idempotency_key),
    )  # fmt: skip
