"""The SQL of subscribers, orders and products."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import ContractPrice, Member, Order, Product, Subscriber, TopUp, WorkOrder

Connection = psycopg.Connection[tuple[Any, ...]]

_SUBSCRIBER = """subscriber_id, account_id, phone, name, created_at, state, audiences, language, broadband, real_name, bill_day,
    credit_limit_nano, cap_nano, spend_locked, spill_over, restricted, regions, home_region"""


def _subscriber(row: tuple[Any, ...]) -> Subscriber:
    values = list(row)
    for at in (6, 16):
        values[at] = None if row[at] is None else tuple(row[at])
    return Subscriber(*values)


def add_subscriber(connection: Connection, subscriber: Subscriber, owner_id: UUID) -> bool:
    row = connection.execute(
        """INSERT INTO subscriber (subscriber_id, account_id, phone, name, created_at, audiences, language, broadband, bill_day)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1""",
        (
            subscriber.subscriber_id,
            subscriber.account_id,
            subscriber.phone,
            subscriber.name,
            subscriber.created_at,
            None if subscriber.audiences is None else list(subscriber.audiences),
            subscriber.language,
            subscriber.broadband,
            subscriber.bill_day,
        ),
    ).fetchone()
    if row is not None:
        connection.execute(
            "INSERT INTO member (member_id, account_id, subscriber_id, name, role) VALUES (%s, %s, %s, %s, 'owner')",
            (owner_id, subscriber.account_id, subscriber.subscriber_id, subscriber.name or "owner"),
        )
    return row is not None


def find_subscriber(
    connection: Connection,
    *,
    subscriber_id: UUID | None = None,
    phone: str | None = None,
    broadband: str | None = None,
    account_id: UUID | None = None,
) -> Subscriber | None:
    row = connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber
            WHERE subscriber_id = %s OR account_id = %s
                OR (phone = %s AND state <> 'closed') OR (broadband = %s AND state <> 'closed')""".encode(),
        (subscriber_id, account_id, phone, broadband),
    ).fetchone()
    return None if row is None else _subscriber(row)


def subscribers(connection: Connection, after: UUID | None, limit: int) -> list[Subscriber]:
    rows = connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id > %s ORDER BY subscriber_id LIMIT %s".encode(),
        (after or UUID(int=0), limit),
    )
    return [_subscriber(row) for row in rows]


def search_subscribers(connection: Connection, text: str, limit: int) -> list[Subscriber]:
    """By a part of the name, or the last digits of the number."""
    part = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    digits = text if text.isascii() and text.isdigit() and len(text) >= 4 else None
    rows = connection.execute(
        f"""SELECT {_SUBSCRIBER} FROM subscriber WHERE name ILIKE %s OR phone LIKE '%%' || %s::text
            ORDER BY state = 'closed', subscriber_id LIMIT %s""".encode(),
        (f"%{part}%", digits, limit),
    )
    return [_subscriber(row) for row in rows]


def owner_of(connection: Connection, subscriber_id: UUID) -> UUID:
    row = connection.execute(
        "SELECT member_id FROM member WHERE subscriber_id = %s AND role = 'owner'", (subscriber_id,)
    ).fetchone()
    assert row is not None, f"subscriber {subscriber_id} has no owner"
    return UUID(str(row[0]))


_MEMBER = "member_id, account_id, subscriber_id, name, role, parent_id, cap_tokens, cap_period, created_at, phone, state"


def add_member(connection: Connection, member: Member) -> bool:
    """False where the subscriber has a member of that name."""
    row = connection.execute(
        f"INSERT INTO member ({_MEMBER}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING RETURNING 1".encode(),
        (member.member_id, member.account_id, member.subscriber_id, member.name, member.role, member.parent_id,
         member.cap_tokens, member.cap_period, member.created_at, member.phone, member.state),
    ).fetchone()  # fmt: skip
    return row is not None


def members(connection: Connection, subscriber_id: UUID) -> list[Member]:
    rows = connection.execute(
        f"SELECT {_MEMBER} FROM member WHERE subscriber_id = %s ORDER BY created_at, member_id".encode(),
        (subscriber_id,),
    )
    return [Member(*row) for row in rows]


def line_of(connection: Connection, member_id: UUID) -> list[Member]:
    """A member and the departments above it."""
    rows = connection.execute(
        f"""WITH RECURSIVE up AS (
                SELECT {_MEMBER}, 1 AS level FROM member WHERE member_id = %s
                UNION ALL
                SELECT m.member_id, m.account_id, m.subscriber_id, m.name, m.role, m.parent_id, m.cap_tokens,
                       m.cap_period, m.created_at, m.phone, m.state, level + 1
                FROM member m JOIN up ON m.member_id = up.parent_id WHERE level < 4)
            SELECT {_MEMBER} FROM up ORDER BY level""".encode(),
        (member_id,),
    )
    return [Member(*row) for row in rows]


def memberships(connection: Connection, phone: str) -> list[Member]:
    """Of somebody with this number, in other people's accounts, invited or active."""
    rows = connection.execute(
        f"SELECT {_MEMBER} FROM member WHERE phone = %s AND state <> 'left' ORDER BY created_at, member_id".encode(),
        (phone,),
    )
    return [Member(*row) for row in rows]


def move_memberships(connection: Connection, phone: str, to: str) -> None:
    """In other people's accounts; where the new number is a member already, the old one has left."""
    connection.execute(
        """UPDATE member m SET state = 'left' WHERE phone = %s AND state <> 'left' AND EXISTS (
               SELECT 1 FROM member o WHERE o.subscriber_id = m.subscriber_id AND o.phone = %s AND o.state <> 'left')""",
        (phone, to),
    )
    connection.execute("UPDATE member SET phone = %s WHERE phone = %s AND state <> 'left'", (to, phone))


def set_member_state(connection: Connection, member_id: UUID, state: str) -> None:
    connection.execute("UPDATE member SET state = %s WHERE member_id = %s", (state, member_id))


def set_cap(connection: Connection, member_id: UUID, tokens: int | None, period: str | None) -> None:
    connection.execute(
        "UPDATE member SET cap_tokens = %s, cap_period = %s WHERE member_id = %s", (tokens, period, member_id)
    )


def set_parent(connection: Connection, member_id: UUID, parent_id: UUID | None) -> None:
    connection.execute("UPDATE member SET parent_id = %s WHERE member_id = %s", (parent_id, member_id))


# Locks here are FOR NO KEY UPDATE: they exclude each other, and not the rows of other tables that refer to what is locked.
# Those come after an account's lock, so that waiting for them would close a ring.


def lock_subscribers(connection: Connection, subscriber_ids: Sequence[UUID]) -> None:
    connection.execute(
        "SELECT 1 FROM subscriber WHERE subscriber_id = ANY(%s) ORDER BY subscriber_id FOR NO KEY UPDATE",
        (list(subscriber_ids),),
    )


def lock_subscriber(connection: Connection, subscriber_id: UUID) -> Subscriber | None:
    """Orders of one subscriber come one after the other."""
    row = connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id = %s FOR NO KEY UPDATE".encode(),
        (subscriber_id,),
    ).fetchone()
    return None if row is None else _subscriber(row)


def lock_subscriber_of(connection: Connection, account_id: UUID) -> Subscriber | None:
    row = connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE account_id = %s FOR NO KEY UPDATE".encode(),
        (account_id,),
    ).fetchone()
    return None if row is None else _subscriber(row)


def set_subscriber(connection: Connection, subscriber_id: UUID, **fields: object) -> None:
    """Change some columns."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE subscriber SET {sets} WHERE subscriber_id = %(_id)s".encode(),
        {**fields, "_id": subscriber_id},
    )


def phone_is_taken(connection: Connection, phone: str) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM subscriber WHERE phone = %s AND state <> 'closed'", (phone,)
        ).fetchone()
        is not None
    )


def add_phone_history(
    connection: Connection, subscriber_id: UUID, phone: str, reason: str, at: datetime
) -> None:
    connection.execute(
        "INSERT INTO phone_history (phone_history_id, subscriber_id, phone, reason, changed_at) VALUES (%s, %s, %s, %s, %s)",
        (uuid7(), subscriber_id, phone, reason, at),
    )


def add_consent(connection: Connection, subscriber_id: UUID, purpose: str, given: bool, at: datetime) -> None:
    connection.execute(
        "INSERT INTO consent (consent_id, subscriber_id, purpose, given, at) VALUES (%s, %s, %s, %s, %s)",
        (uuid7(), subscriber_id, purpose, given, at),
    )


def consents(connection: Connection, subscriber_id: UUID) -> dict[str, bool]:
    """What was said last of each purpose."""
    rows = connection.execute(
        "SELECT DISTINCT ON (purpose) purpose, given FROM consent WHERE subscriber_id = %s ORDER BY purpose, consent_id DESC",
        (subscriber_id,),
    )
    return dict(rows.fetchall())


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
    o.state, o.completed_at, o.reason"""


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
                                      state, ordered_at, action, product_id, amount_nano, currency, completed_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (order.order_id, subscriber.subscriber_id, subscriber.account_id, order.offering_id, order.offering_version,
         idempotency_key, order.state, order.ordered_at, order.action, order.product_id, order.amount_nano, order.currency,
         order.completed_at),
    )  # fmt: skip


def end_order(
    connection: Connection, order_id: UUID, state: str, at: datetime, amount_nano: int, reason: str | None
) -> None:
    connection.execute(
        "UPDATE product_order SET state = %s, completed_at = %s, amount_nano = amount_nano + %s, reason = %s WHERE order_id = %s",
        (state, at, amount_nano, reason, order_id),
    )


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


def orders_in_change(connection: Connection, limit: int) -> list[UUID]:
    """Changes whose old buckets may still be granted, oldest first."""
    rows = connection.execute(
        "SELECT order_id FROM product_order WHERE state = 'inProgress' AND action = 'modify' ORDER BY order_id LIMIT %s",
        (limit,),
    )
    return [row[0] for row in rows]


def lock_order(connection: Connection, order_id: UUID) -> tuple[str, dict[str, Any]] | None:
    """An order's state and what was asked, locked."""
    row = connection.execute(
        "SELECT state, asked FROM product_order WHERE order_id = %s FOR NO KEY UPDATE", (order_id,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


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
              p.cycle_start, p.cycle_end, p.parent_id, p.delivery, p.price_nano, p.step_no, p.next_version, p.ends_after_cycle"""
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


def due_products(connection: Connection, now: datetime, limit: int) -> list[UUID]:
    rows = connection.execute(
        "SELECT product_id FROM product WHERE state = 'active' AND cycle_end <= %s ORDER BY product_id LIMIT %s",
        (now, limit),
    )
    return [row[0] for row in rows]


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


_WORK = """work_order_id, order_id, product_id, subscriber_id, port, offering_id, delivery, action, state, attempts, reason,
    created_at, broadband, pushed_at, push_tries, push_error"""


def add_work_order(connection: Connection, work: WorkOrder) -> None:
    connection.execute(
        """INSERT INTO work_order (work_order_id, order_id, product_id, subscriber_id, port, offering_id, delivery, action, state,
                                   attempts, reason, created_at, asked_at, push_due, broadband)
           SELECT %(id)s, %(order)s, %(product)s, %(subscriber)s, %(port)s, %(offering)s, %(delivery)s, %(action)s, %(state)s,
                  %(attempts)s, %(reason)s, %(at)s, %(at)s, %(at)s, coalesce(
                      (SELECT broadband FROM work_order WHERE product_id = %(product)s AND action = 'deliver'),
                      (SELECT broadband FROM subscriber WHERE subscriber_id = %(subscriber)s))
           ON CONFLICT DO NOTHING""",
        {
            "id": work.work_order_id, "order": work.order_id, "product": work.product_id, "subscriber": work.subscriber_id,
            "port": work.port, "offering": work.offering_id, "delivery": work.delivery, "action": work.action,
            "state": work.state, "attempts": work.attempts, "reason": work.reason, "at": work.created_at,
        },
    )  # fmt: skip


def withdraw_delivery(connection: Connection, delivered: WorkOrder, at: datetime) -> None:
    """Ask for a delivery to be taken away that was done, or may have been. Once for a product."""
    withdrawn = replace(
        delivered,
        work_order_id=uuid7(),
        action="withdraw",
        state="open",
        attempts=1,
        reason=None,
        created_at=at,
    )
    add_work_order(connection, withdrawn)


def close_delivery(connection: Connection, work: WorkOrder, reason: str, at: datetime) -> None:
    """An open delivery that is wanted no more. The delivering system may be at it, where it has got it."""
    answer_work_order(connection, work.work_order_id, "refused", work.attempts, reason, at)
    if work.pushed_at is not None:
        withdraw_delivery(connection, work, at)


def work_orders(connection: Connection, state: str | None, limit: int) -> list[WorkOrder]:
    rows = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE %(s)s::text IS NULL OR state = %(s)s ORDER BY work_order_id LIMIT %(n)s".encode(),
        {"s": state, "n": limit},
    )
    return [WorkOrder(*row) for row in rows]


def work_order(connection: Connection, work_order_id: UUID) -> WorkOrder | None:
    row = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE work_order_id = %s".encode(), (work_order_id,)
    ).fetchone()
    return None if row is None else WorkOrder(*row)


def work_orders_page(
    connection: Connection, state: str | None, offset: int, limit: int
) -> tuple[list[WorkOrder], int]:
    values = {"s": state, "offset": offset, "limit": limit}
    where = "FROM work_order WHERE %(s)s::text IS NULL OR state = %(s)s"
    rows = connection.execute(
        f"SELECT {_WORK} {where} ORDER BY work_order_id OFFSET %(offset)s LIMIT %(limit)s".encode(), values
    ).fetchall()
    count = connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return [WorkOrder(*row) for row in rows], int(count[0])


def lease_work_orders(
    connection: Connection, ports: list[str], now: datetime, until: datetime, limit: int
) -> list[WorkOrder]:
    columns = ", ".join(f"w.{name.strip()}" for name in _WORK.split(","))
    rows = connection.execute(
        f"""WITH due AS (SELECT work_order_id FROM work_order
                         WHERE state = 'open' AND push_due <= %s AND port = ANY(%s)
                         ORDER BY push_due, work_order_id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
            UPDATE work_order w SET push_due = %s, push_tries = push_tries + 1 FROM due
            WHERE w.work_order_id = due.work_order_id RETURNING {columns}""".encode(),
        (now, ports, limit, until),
    ).fetchall()
    return sorted((WorkOrder(*row) for row in rows), key=lambda work: work.work_order_id)


def pushed(connection: Connection, work_order_id: UUID, at: datetime, due: datetime) -> None:
    connection.execute(
        """UPDATE work_order SET pushed_at = %s, push_due = %s, push_tries = 0, push_error = NULL
           WHERE work_order_id = %s AND state = 'open'""",
        (at, due, work_order_id),
    )


def not_pushed(connection: Connection, work_order_id: UUID, due: datetime, error: str | None) -> None:
    connection.execute(
        "UPDATE work_order SET push_due = %s, push_error = coalesce(%s, push_error) WHERE work_order_id = %s",
        (due, error, work_order_id),
    )


def ask_again(connection: Connection, work_order_id: UUID, at: datetime) -> None:
    """It is asked for once more, from now on."""
    connection.execute(
        """UPDATE work_order SET asked_at = %s, push_due = %s, push_tries = 0, pushed_at = NULL
           WHERE work_order_id = %s""",
        (at, at, work_order_id),
    )


def unanswered(connection: Connection, asked_before: datetime, limit: int) -> list[UUID]:
    rows = connection.execute(
        """SELECT work_order_id FROM work_order WHERE state = 'open' AND action = 'deliver' AND asked_at <= %s
           ORDER BY work_order_id LIMIT %s""",
        (asked_before, limit),
    )
    return [row[0] for row in rows]


def subscriber_of_work_order(connection: Connection, work_order_id: UUID) -> UUID | None:
    row = connection.execute(
        "SELECT subscriber_id FROM work_order WHERE work_order_id = %s", (work_order_id,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def lock_work_order(connection: Connection, work_order_id: UUID) -> WorkOrder | None:
    row = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE work_order_id = %s FOR NO KEY UPDATE".encode(),
        (work_order_id,),
    ).fetchone()
    return None if row is None else WorkOrder(*row)


def delivery_of(connection: Connection, product_id: UUID) -> WorkOrder | None:
    row = connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE product_id = %s AND action = 'deliver' FOR NO KEY UPDATE".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else WorkOrder(*row)


def answer_work_order(
    connection: Connection, work_order_id: UUID, state: str, attempts: int, reason: str | None, at: datetime
) -> None:
    connection.execute(
        "UPDATE work_order SET state = %s, attempts = %s, reason = %s, answered_at = %s WHERE work_order_id = %s",
        (state, attempts, reason, at, work_order_id),
    )
