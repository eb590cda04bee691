"""The SQL of subscribers, orders and products."""

from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from tokenworks.subscriptions.model import BillLine, Member, Order, Product, Subscriber

Connection = psycopg.Connection[tuple[Any, ...]]

_SUBSCRIBER = "subscriber_id, account_id, phone, name, created_at"


def add_subscriber(connection: Connection, subscriber: Subscriber, owner_id: UUID) -> bool:
    row = connection.execute(
        """INSERT INTO subscriber (subscriber_id, account_id, phone, name, created_at)
           VALUES (%s, %s, %s, %s, %s) ON CONFLICT (phone) DO NOTHING RETURNING 1""",
        (
            subscriber.subscriber_id,
            subscriber.account_id,
            subscriber.phone,
            subscriber.name,
            subscriber.created_at,
        ),
    ).fetchone()
    if row is not None:
        connection.execute(
            "INSERT INTO member (member_id, account_id, subscriber_id, name, role) VALUES (%s, %s, %s, %s, 'owner')",
            (owner_id, subscriber.account_id, subscriber.subscriber_id, subscriber.name or "owner"),
        )
    return row is not None


def find_subscriber(
    connection: Connection, *, subscriber_id: UUID | None = None, phone: str | None = None
) -> Subscriber | None:
    row = connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id = %s OR phone = %s".encode(),
        (subscriber_id, phone),
    ).fetchone()
    return None if row is None else Subscriber(*row)


def subscribers(connection: Connection, after: UUID | None, limit: int) -> list[Subscriber]:
    rows = connection.execute(
        f"SELECT {_SUBSCRIBER} FROM subscriber WHERE subscriber_id > %s ORDER BY subscriber_id LIMIT %s".encode(),
        (after or UUID(int=0), limit),
    )
    return [Subscriber(*row) for row in rows]


def owner_of(connection: Connection, subscriber_id: UUID) -> UUID:
    row = connection.execute(
        "SELECT member_id FROM member WHERE subscriber_id = %s AND role = 'owner'", (subscriber_id,)
    ).fetchone()
    assert row is not None, f"subscriber {subscriber_id} has no owner"
    return UUID(str(row[0]))


_MEMBER = "member_id, account_id, subscriber_id, name, role, parent_id, cap_tokens, cap_period, created_at"


def add_member(connection: Connection, member: Member) -> bool:
    """False where the subscriber has a member of that name."""
    row = connection.execute(
        f"INSERT INTO member ({_MEMBER}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (subscriber_id, name) DO NOTHING RETURNING 1".encode(),
        (member.member_id, member.account_id, member.subscriber_id, member.name, member.role, member.parent_id,
         member.cap_tokens, member.cap_period, member.created_at),
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
                       m.cap_period, m.created_at, level + 1
                FROM member m JOIN up ON m.member_id = up.parent_id WHERE level < 4)
            SELECT {_MEMBER} FROM up ORDER BY level""".encode(),
        (member_id,),
    )
    return [Member(*row) for row in rows]


def set_cap(connection: Connection, member_id: UUID, tokens: int | None, period: str | None) -> None:
    connection.execute(
        "UPDATE member SET cap_tokens = %s, cap_period = %s WHERE member_id = %s", (tokens, period, member_id)
    )


def lock_subscriber(connection: Connection, subscriber_id: UUID) -> None:
    """Orders of one subscriber come one after the other."""
    connection.execute("SELECT 1 FROM subscriber WHERE subscriber_id = %s FOR UPDATE", (subscriber_id,))


def find_order(connection: Connection, subscriber_id: UUID, idempotency_key: str) -> Order | None:
    row = connection.execute(
        """SELECT o.order_id, p.product_id, o.offering_id, o.offering_version, o.ordered_at, l.amount_nano, l.currency
           FROM product_order o JOIN product p USING (order_id)
           JOIN phone_bill_line l ON l.product_id = p.product_id AND l.cycle_no = 1
           WHERE o.subscriber_id = %s AND o.idempotency_key = %s""",
        (subscriber_id, idempotency_key),
    ).fetchone()
    return None if row is None else Order(row[0], row[1], row[2], row[3], row[4], row[5], row[6], new=False)


def add_order(
    connection: Connection, subscriber: Subscriber, order: Order, idempotency_key: str | None
) -> None:
    connection.execute(
        """INSERT INTO product_order (order_id, subscriber_id, account_id, offering_id, offering_version, idempotency_key,
                                      state, ordered_at) VALUES (%s, %s, %s, %s, %s, %s, 'completed', %s)""",
        (order.order_id, subscriber.subscriber_id, subscriber.account_id, order.offering_id, order.offering_version,
         idempotency_key, order.ordered_at),
    )  # fmt: skip


def add_product(connection: Connection, subscriber: Subscriber, product: Product) -> None:
    connection.execute(
        """INSERT INTO product (product_id, order_id, subscriber_id, account_id, offering_version, state, renews, cycle_no,
                                started_at, cycle_start, cycle_end) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (product.product_id, product.order_id, subscriber.subscriber_id, subscriber.account_id, product.offering_version,
         product.state, product.renews, product.cycle_no, product.started_at, product.cycle_start, product.cycle_end),
    )  # fmt: skip


def add_line(connection: Connection, subscriber: Subscriber, line: BillLine, entry_id: UUID) -> None:
    connection.execute(
        """INSERT INTO phone_bill_line (line_id, subscriber_id, account_id, product_id, cycle_no, cycle_start, description,
                                        amount_nano, currency, entry_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (line.line_id, subscriber.subscriber_id, subscriber.account_id, line.product_id, line.cycle_no, line.cycle_start,
         line.description, line.amount_nano, line.currency, entry_id),
    )  # fmt: skip


_PRODUCT = """p.product_id, p.order_id, o.offering_id, p.offering_version, p.state, p.renews, p.cycle_no, p.started_at,
              p.cycle_start, p.cycle_end"""


def newest_offering_version(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute(
        """SELECT offering_version FROM product WHERE account_id = %s
           ORDER BY (state = 'active') DESC, started_at DESC, product_id DESC LIMIT 1""",
        (account_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def products(connection: Connection, subscriber_id: UUID) -> list[Product]:
    rows = connection.execute(
        f"""SELECT {_PRODUCT} FROM product p JOIN product_order o USING (order_id)
            WHERE p.subscriber_id = %s ORDER BY p.product_id""".encode(),
        (subscriber_id,),
    )
    return [Product(*row) for row in rows]


def lock_product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber, locked."""
    row = connection.execute(
        f"""SELECT {_PRODUCT}, p.subscriber_id FROM product p JOIN product_order o USING (order_id)
            WHERE p.product_id = %s FOR UPDATE OF p""".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def due_products(connection: Connection, now: datetime, limit: int) -> list[UUID]:
    rows = connection.execute(
        "SELECT product_id FROM product WHERE state = 'active' AND cycle_end <= %s ORDER BY product_id LIMIT %s",
        (now, limit),
    )
    return [row[0] for row in rows]


def begin_cycle(
    connection: Connection, product_id: UUID, cycle_no: int, start: datetime, end: datetime | None
) -> None:
    connection.execute(
        "UPDATE product SET cycle_no = %s, cycle_start = %s, cycle_end = %s WHERE product_id = %s",
        (cycle_no, start, end, product_id),
    )


def end_product(connection: Connection, product_id: UUID, state: str, at: datetime) -> None:
    connection.execute(
        "UPDATE product SET state = %s, ended_at = %s WHERE product_id = %s", (state, at, product_id)
    )


def lines(connection: Connection, subscriber_id: UUID) -> list[BillLine]:
    rows = connection.execute(
        """SELECT line_id, product_id, cycle_no, cycle_start, description, amount_nano, currency
           FROM phone_bill_line WHERE subscriber_id = %s ORDER BY cycle_start, line_id""",
        (subscriber_id,),
    )
    return [BillLine(*row) for row in rows]
