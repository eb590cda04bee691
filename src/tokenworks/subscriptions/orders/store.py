"""The SQL of orders and products, caps, prices and notices; that of people is in `people_store`, of work orders in `work_store`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import (
    CYCLE_STOPPERS,
    ContractPrice,
    Order,
    Product,
    Subscriber,
    Suspension,
    TopUp,
)

Connection = psycopg.Connection[tuple[Any, ...]]


def set_cap(connection: Connection, member_id: UUID, tokens: int | None, period: str | None) -> None:
    connection.execute(
        "UPDATE member SET cap_tokens = %s, cap_period = %s, cap_set_at = clock_timestamp() WHERE member_id = %s",
        (tokens, period, member_id),
    )


def set_parent(connection: Connection, member_id: UUID, parent_id: UUID | None) -> None:
    connection.execute("UPDATE member SET parent_id = %s WHERE member_id = %s", (parent_id, member_id))


def lock_subscribers(connection: Connection, subscriber_ids: Sequence[UUID]) -> None:
    connection.execute(
        "SELECT 1 FROM subscriber WHERE subscriber_id = ANY(%s) ORDER BY subscriber_id FOR NO KEY UPDATE",
        (list(subscriber_ids),),
    )


def begin_suspension(connection: Connection, found: Suspension) -> None:
    connection.execute(
        """INSERT INTO suspension (suspension_id, subscriber_id, cause, reason, began_at) VALUES (%s, %s, %s, %s, %s)""",
        (found.suspension_id, found.subscriber_id, found.cause, found.reason, found.began_at),
    )


def end_suspensions(
    connection: Connection, subscriber_id: UUID, cause: str | None, at: datetime, reason: str | None
) -> None:
    """Of one cause, or of all."""
    connection.execute(
        """UPDATE suspension SET ended_at = %(at)s, end_reason = %(reason)s
           WHERE subscriber_id = %(id)s AND ended_at IS NULL AND (%(cause)s::text IS NULL OR cause = %(cause)s)""",
        {"id": subscriber_id, "cause": cause, "at": at, "reason": reason},
    )


def suspensions(connection: Connection, subscriber_id: UUID, limit: int) -> list[Suspension]:
    """Newest first."""
    rows = connection.execute(
        """SELECT suspension_id, subscriber_id, cause, reason, began_at, ended_at, end_reason FROM suspension
           WHERE subscriber_id = %s ORDER BY began_at DESC, suspension_id DESC LIMIT %s""",
        (subscriber_id, limit),
    )
    return [Suspension(*row) for row in rows]


def set_contract_price(
    connection: Connection,
    subscriber_id: UUID,
    offering_id: str,
    price_nano: int,
    valid_from: datetime,
    valid_until: datetime | None,
    contract: str,
) -> None:
    connection.execute(
        """INSERT INTO contract_price (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (subscriber_id, offering_id, price_nano, valid_from, valid_until, contract),
    )


def contract_price(connection: Connection, subscriber_id: UUID, offering_id: str, at: datetime) -> int | None:
    row = connection.execute(
        """SELECT price_nano FROM contract_price WHERE subscriber_id = %s AND offering_id = %s AND valid_from <= %s
               AND (valid_until IS NULL OR valid_until > %s) ORDER BY valid_from DESC LIMIT 1""",
        (subscriber_id, offering_id, at, at),
    ).fetchone()
    return None if row is None else int(row[0])


def contract_prices(connection: Connection, subscriber_id: UUID) -> list[ContractPrice]:
    rows = connection.execute(
        """SELECT offering_id, price_nano, valid_from, valid_until, contract FROM contract_price WHERE subscriber_id = %s
           ORDER BY offering_id, valid_from""",
        (subscriber_id,),
    )
    return [ContractPrice(*row) for row in rows]


def add_notification(
    connection: Connection, subscriber_id: UUID, kind: str, ref: str, content: dict[str, Any], at: datetime
) -> bool:
    """Once per (subscriber, kind, ref)."""
    row = connection.execute(
        """INSERT INTO notification (notification_id, subscriber_id, kind, ref, content, created_at, next_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (uuid7(), subscriber_id, kind, ref, Jsonb(content), at, at),
    ).fetchone()
    return row is not None


def lease_notifications(
    connection: Connection, now: datetime, until: datetime, limit: int
) -> list[tuple[Any, ...]]:
    return connection.execute(
        """WITH due AS (SELECT notification_id FROM notification
                        WHERE next_at <= %s AND delivered_at IS NULL AND given_up_at IS NULL
                        ORDER BY next_at, notification_id LIMIT %s FOR UPDATE SKIP LOCKED)
           UPDATE notification n SET next_at = %s, attempts = attempts + 1 FROM due
           WHERE n.notification_id = due.notification_id
           RETURNING n.notification_id, subscriber_id, kind, ref, content, created_at, attempts""",
        (now, limit, until),
    ).fetchall()


def end_notification(connection: Connection, notification_id: UUID, column: str, at: datetime) -> None:
    connection.execute(
        f"UPDATE notification SET {column} = %s WHERE notification_id = %s".encode(), (at, notification_id)
    )


def retry_notification(connection: Connection, notification_id: UUID, at: datetime) -> None:
    connection.execute(
        "UPDATE notification SET next_at = %s WHERE notification_id = %s", (at, notification_id)
    )


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
    """An order and its subscriber."""
    row = connection.execute(
        f"SELECT {_ORDER}, o.subscriber_id FROM product_order o WHERE o.order_id = %s".encode(), (order_id,)
    ).fetchone()
    return None if row is None else (Order(*row[:-1]), row[-1])


def _page(
    connection: Connection, columns: str, table: str, order: str, subscriber_id: UUID | None, offset: int, limit: int
) -> tuple[list[tuple[Any, ...]], int]:  # fmt: skip
    """A page of a subscriber's rows, or of all, and how many there are."""
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
    rows, count = _page(
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
    """A subscriber's orders that wait for their start, the first to begin first."""
    rows = connection.execute(
        f"""SELECT {_ORDER} FROM product_order o WHERE o.subscriber_id = %s AND o.state = 'acknowledged'
            ORDER BY o.starts_at, o.order_id""".encode(),
        (subscriber_id,),
    )
    return [Order(*row) for row in rows]


def due_starts(connection: Connection, now: datetime, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Orders whose start has come, the earliest first, but for some."""
    rows = connection.execute(
        """SELECT order_id FROM product_order WHERE state = 'acknowledged' AND starts_at <= %s
               AND order_id <> ALL(%s::uuid[]) ORDER BY starts_at, order_id LIMIT %s""",
        (now, list(but), limit),
    )
    return [row[0] for row in rows]


def was_stopped_since(connection: Connection, subscriber_id: UUID, since: datetime) -> bool:
    """Whether a suspension that stops new cycles held at a time, or after it."""
    row = connection.execute(
        """SELECT EXISTS (SELECT 1 FROM suspension WHERE subscriber_id = %s AND cause = ANY(%s)
               AND (ended_at IS NULL OR ended_at > %s))""",
        (subscriber_id, list(CYCLE_STOPPERS), since),
    ).fetchone()
    assert row is not None
    return bool(row[0])


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
    """Orders that change or end a product and wait: `pending` for its cycle's end, `inProgress` for its grants."""
    rows = connection.execute(
        "SELECT order_id FROM product_order WHERE product_id = %s AND state = %s AND action <> 'add' ORDER BY order_id",
        (product_id, state),
    )
    return [row[0] for row in rows]


def orders_with_credits(connection: Connection, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Changes and cancellations whose old buckets may still be granted, oldest first, but for some."""
    rows = connection.execute(
        """SELECT order_id FROM product_order WHERE state = 'inProgress' AND action IN ('modify', 'delete')
               AND order_id <> ALL(%s::uuid[]) ORDER BY order_id LIMIT %s""",
        (list(but), limit),
    )
    return [row[0] for row in rows]


def lock_order(connection: Connection, order_id: UUID) -> tuple[str, dict[str, Any], UUID] | None:
    """An order's state, what was asked, and its account, locked."""
    row = connection.execute(
        "SELECT state, asked, account_id FROM product_order WHERE order_id = %s FOR NO KEY UPDATE",
        (order_id,),
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])


def set_asked(connection: Connection, order_id: UUID, asked: dict[str, Any]) -> None:
    connection.execute("UPDATE product_order SET asked = %s WHERE order_id = %s", (Jsonb(asked), order_id))


def add_product(connection: Connection, subscriber: Subscriber, product: Product) -> None:
    connection.execute(
        """INSERT INTO product (product_id, order_id, subscriber_id, account_id, offering_version, state, renews, cycle_no,
                                started_at, cycle_start, cycle_end, parent_id, delivery, price_nano)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (product.product_id, product.order_id, subscriber.subscriber_id, subscriber.account_id, product.offering_version,
         product.state, product.renews, product.cycle_no, product.started_at, product.cycle_start, product.cycle_end,
         product.parent_id, product.delivery, product.price_nano),
    )  # fmt: skip


def set_product(connection: Connection, product_id: UUID, **fields: object) -> None:
    """Change some columns."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE product SET {sets} WHERE product_id = %(_id)s".encode(), {**fields, "_id": product_id}
    )


_PRODUCT = """p.product_id, p.order_id, v.offering_id, p.offering_version, p.state, p.renews, p.cycle_no, p.started_at,
              p.cycle_start, p.cycle_end, p.parent_id, p.delivery, p.price_nano, p.step_no, p.next_version, p.ends_after_cycle,
              p.charge_id, p.held_at IS NOT NULL"""
_FROM_PRODUCT = "FROM product p JOIN offering v USING (offering_version)"


def newest_offering_version(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute(
        """SELECT offering_version FROM product WHERE account_id = %s
           ORDER BY (state = 'active') DESC, started_at DESC, product_id DESC LIMIT 1""",
        (account_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def products(connection: Connection, subscriber_id: UUID) -> list[Product]:
    rows = connection.execute(
        f"SELECT {_PRODUCT} {_FROM_PRODUCT} WHERE p.subscriber_id = %s ORDER BY p.product_id".encode(),
        (subscriber_id,),
    )
    return [Product(*row) for row in rows]


def products_of_order(connection: Connection, order_id: UUID) -> list[Product]:
    rows = connection.execute(
        f"SELECT {_PRODUCT} {_FROM_PRODUCT} WHERE p.order_id = %s ORDER BY p.product_id".encode(), (order_id,)
    )
    return [Product(*row) for row in rows]


def lock_person(connection: Connection, subscriber_id: UUID) -> None:
    """For a transaction: whoever is known to be the same person waits. Nothing where that is not known."""
    connection.execute(
        """SELECT pg_advisory_xact_lock(7461005, hashtext(encode(identity_hash, 'hex'))) FROM subscriber
           WHERE subscriber_id = %s AND identity_hash IS NOT NULL""",
        (subscriber_id,),
    )


def times_had(
    connection: Connection, people: Sequence[UUID], offering_id: str, besides: UUID | None = None
) -> int:
    """How many products of one person's subscribers are, were or will be of an offering. What
    failed, or was taken back before it was delivered, does not count.
    """
    row = connection.execute(
        """SELECT count(*) FROM product p JOIN offering v USING (offering_version) JOIN product_order o ON o.order_id = p.order_id
           WHERE p.subscriber_id = ANY(%(people)s::uuid[])
               AND p.product_id IS DISTINCT FROM %(besides)s::uuid AND p.state <> 'aborted'
               AND (p.state = 'pendingActive' OR NOT EXISTS (SELECT 1 FROM work_order w
                       WHERE w.product_id = p.product_id AND w.action = 'deliver' AND w.state <> 'done'))
               AND (v.offering_id = %(offering)s OR (o.product_id = p.product_id AND o.offering_id = %(offering)s)
                   OR EXISTS (SELECT 1 FROM product_order m WHERE m.subscriber_id = p.subscriber_id
                              AND m.product_id = p.product_id AND m.offering_id = %(offering)s AND m.action = 'modify' AND m.state NOT IN ('rejected', 'cancelled', 'failed')))""",
        {"people": list(people), "offering": offering_id, "besides": besides},
    ).fetchone()
    assert row is not None
    return int(row[0])


def subscriber_of_product(connection: Connection, product_id: UUID) -> UUID | None:
    row = connection.execute(
        "SELECT subscriber_id FROM product WHERE product_id = %s", (product_id,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def parts_of(connection: Connection, product_id: UUID) -> list[UUID]:
    """The products of a bundle."""
    rows = connection.execute(
        "SELECT product_id FROM product WHERE parent_id = %s ORDER BY product_id", (product_id,)
    )
    return [row[0] for row in rows]


def product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s".encode(), (product_id,)
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def lock_product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber, locked."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s FOR NO KEY UPDATE OF p".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def due_products(connection: Connection, now: datetime, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Products whose cycle has ended, but for some. One that would renew waits while a suspension of its subscriber stops that.
    A bundle comes before its parts: it was made before them.
    """
    rows = connection.execute(
        """SELECT p.product_id FROM product p JOIN subscriber s USING (subscriber_id)
           WHERE p.state = 'active' AND p.cycle_end <= %s AND p.product_id <> ALL(%s::uuid[])
               AND (NOT s.suspended_by && %s::text[] OR NOT p.renews OR p.ends_after_cycle)
           ORDER BY p.product_id LIMIT %s""",
        (now, list(but), list(CYCLE_STOPPERS), limit),
    )
    return [row[0] for row in rows]


def held_products(connection: Connection, after: UUID, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Products that the credit limit holds back, in order, but for some and for those whose subscriber begins no cycles."""
    rows = connection.execute(
        """SELECT p.product_id FROM product p JOIN subscriber s USING (subscriber_id)
           WHERE p.held_at IS NOT NULL AND p.state = 'suspended' AND p.product_id > %s AND p.product_id <> ALL(%s::uuid[])
               AND NOT s.suspended_by && %s::text[]
           ORDER BY p.product_id LIMIT %s""",
        (after, list(but), list(CYCLE_STOPPERS), limit),
    )
    return [row[0] for row in rows]


def versions_sold(connection: Connection, offering_id: str | None) -> list[tuple[Any, ...]]:
    """(offering, version, live products, of which move, first and last start) of what is live."""
    return connection.execute(
        """SELECT v.offering_id, p.offering_version, count(*), count(p.next_version), min(p.started_at), max(p.started_at)
           FROM product p JOIN offering v USING (offering_version)
           WHERE p.ended_at IS NULL AND (%(id)s::text IS NULL OR v.offering_id = %(id)s)
           GROUP BY 1, 2 ORDER BY 1, 5, 2""",
        {"id": offering_id},
    ).fetchall()


def holders(connection: Connection, offering_version: str, after: UUID, limit: int) -> list[tuple[Any, ...]]:
    """(product, subscriber, state, cycle's end, next version) of the live products of a version, by product."""
    return connection.execute(
        """SELECT product_id, subscriber_id, state, cycle_end, next_version FROM product
           WHERE offering_version = %s AND ended_at IS NULL AND product_id > %s ORDER BY product_id LIMIT %s""",
        (offering_version, after, limit),
    ).fetchall()


def add_uncharged(connection: Connection, product_id: UUID, count: int) -> None:
    """So many more of a product's cycles or steps cost nothing."""
    connection.execute(
        "UPDATE product SET uncharged = uncharged + %s WHERE product_id = %s", (count, product_id)
    )


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
    """Newest first."""
    rows, count = _page(connection, _TOP_UP, "top_up", "top_up_id DESC", subscriber_id, offset, limit)
    return [TopUp(*row) for row in rows], count


def add_top_up(connection: Connection, made: TopUp, idempotency_key: str) -> None:
    connection.execute(
        f"INSERT INTO top_up ({_TOP_UP}, idempotency_key) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        (made.top_up_id, made.subscriber_id, made.product_id, made.steps, made.amount_nano, made.made_at, idempotency_key),
    )  # fmt: skip
