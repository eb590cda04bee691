"""The SQL of product orders (table `product_order`)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from tokenworks.subscriptions.model import CreditRequest, Order, Subscriber

_ORDER = """o.order_id, o.product_id, o.offering_id, o.offering_version, o.ordered_at, o.amount_nano, o.currency, false, o.action,
    o.state, o.completed_at, o.reason, o.starts_at, o.delivery,
    o.starts_at IS NULL OR EXISTS (SELECT 1 FROM product p WHERE p.product_id = o.product_id)"""


def find_order(connection: Connection, subscriber_id: UUID, idempotency_key: str) -> Order | None:
    row = connection.execute(
        f"SELECT {_ORDER} FROM product_order o WHERE o.subscriber_id = %s AND o.idempotency_key = %s".encode(),
        (subscriber_id, idempotency_key),
    ).fetchone()
    return None if row is None else Order(*row)


def order(connection: Connection, order_id: UUID) -> tuple[Order, UUID] | None:
    """An order and its subscriber's id."""
    row = connection.execute(
        f"SELECT {_ORDER}, o.subscriber_id FROM product_order o WHERE o.order_id = %s".encode(), (order_id,)
    ).fetchone()
    return None if row is None else (Order(*row[:-1]), row[-1])


def page_of_subscriber(
    connection: Connection, columns: str, table: str, order: str, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[TupleRow], int]:  # fmt: skip
    """A page of one subscriber's rows (None: of all subscribers' rows), and the number of all of them."""
    where = f"FROM {table} WHERE %(id)s::uuid IS NULL OR subscriber_id = %(id)s"
    names = {"id": subscriber_id, "offset": offset, "limit": limit}
    rows = connection.execute(
        f"SELECT {columns} {where} ORDER BY {order} OFFSET %(offset)s LIMIT %(limit)s".encode(), names
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), names).fetchone()
    assert count is not None
    return rows, int(count[0])


def orders(
    connection: Connection, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[Order], int]:
    """Newest first."""
    rows, count = page_of_subscriber(
        connection, _ORDER, "product_order o", "o.order_id DESC", subscriber_id, offset, limit
    )
    return [Order(*row) for row in rows], count


def add_order(
    connection: Connection, subscriber: Subscriber, order: Order, idempotency_key: str | None
) -> None:
    connection.execute(
        """INSERT INTO product_order (order_id, subscriber_id, account_id, offering_id, offering_version, idempotency_key,
                                      state, ordered_at, action, product_id, amount_nano, currency, completed_at, starts_at,
                                      delivery)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (order.order_id, subscriber.subscriber_id, subscriber.account_id, order.offering_id, order.offering_version,
         idempotency_key, order.state, order.ordered_at, order.action, order.product_id, order.amount_nano, order.currency,
         order.completed_at, order.starts_at, order.delivery),
    )  # fmt: skip


def orders_to_come(connection: Connection, subscriber_id: UUID) -> list[Order]:
    """A subscriber's orders that wait for their start, in the order of their starts."""
    rows = connection.execute(
        f"""SELECT {_ORDER} FROM product_order o WHERE o.subscriber_id = %s AND o.state = 'acknowledged'
            ORDER BY o.starts_at, o.order_id""".encode(),
        (subscriber_id,),
    )
    return [Order(*row) for row in rows]


def due_starts(connection: Connection, now: datetime, excluded: Sequence[UUID], limit: int) -> list[UUID]:
    """Orders whose start has come, the earliest first, without the excluded ones."""
    rows = connection.execute(
        """SELECT order_id FROM product_order WHERE state = 'acknowledged' AND starts_at <= %s
               AND order_id <> ALL(%s::uuid[]) ORDER BY starts_at, order_id LIMIT %s""",
        (now, list(excluded), limit),
    )
    return [row[0] for row in rows]


def end_order(
    connection: Connection, order_id: UUID, state: str, at: datetime, amount_nano: int, reason: str | None
) -> None:
    connection.execute(
        "UPDATE product_order SET state = %s, completed_at = %s, amount_nano = amount_nano + %s, reason = %s WHERE order_id = %s",
        (state, at, amount_nano, reason, order_id),
    )


def set_order_state(connection: Connection, order_id: UUID, state: str) -> None:
    connection.execute("UPDATE product_order SET state = %s WHERE order_id = %s", (state, order_id))


def add_amount(connection: Connection, order_id: UUID, amount_nano: int) -> None:
    connection.execute(
        "UPDATE product_order SET amount_nano = amount_nano + %s WHERE order_id = %s", (amount_nano, order_id)
    )


def waiting_orders(connection: Connection, product_id: UUID, state: str) -> list[UUID]:
    """Orders that change or end a product and wait: `pending` ones for the end of its cycle, `inProgress` ones for its grants."""
    rows = connection.execute(
        "SELECT order_id FROM product_order WHERE product_id = %s AND state = %s AND action <> 'add' ORDER BY order_id",
        (product_id, state),
    )
    return [row[0] for row in rows]


def orders_with_credits(connection: Connection, excluded: Sequence[UUID], limit: int) -> list[UUID]:
    """Changes and cancellations whose old buckets may still have open grants, oldest first, without the excluded ones."""
    rows = connection.execute(
        """SELECT order_id FROM product_order WHERE state = 'inProgress' AND action IN ('modify', 'delete')
               AND order_id <> ALL(%s::uuid[]) ORDER BY order_id LIMIT %s""",
        (list(excluded), limit),
    )
    return [row[0] for row in rows]


def lock_order(connection: Connection, order_id: UUID) -> tuple[str, CreditRequest, UUID] | None:
    """Lock an order: (state, what it gives back, account)."""
    row = connection.execute(
        "SELECT state, asked, account_id FROM product_order WHERE order_id = %s FOR NO KEY UPDATE",
        (order_id,),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def set_credit_request(connection: Connection, order_id: UUID, request: CreditRequest) -> None:
    connection.execute("UPDATE product_order SET asked = %s WHERE order_id = %s", (Jsonb(request), order_id))
