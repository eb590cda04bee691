"""The SQL of products (table `product`)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.subscriptions.model import CYCLE_STOPPERS, Product, Subscriber

_PRODUCT = """p.product_id, p.order_id, v.offering_id, p.offering_version, p.state, p.renews, p.cycle_no, p.started_at,
              p.cycle_start, p.cycle_end, p.parent_id, p.delivery, p.price_nano, p.step_no, p.next_version, p.ends_after_cycle,
              p.charge_id, p.held_at IS NOT NULL"""
_FROM_PRODUCT = "FROM product p JOIN offering v USING (offering_version)"


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
    """Set the named columns of a product."""
    sets = ", ".join(f"{name} = %({name})s" for name in fields)
    connection.execute(
        f"UPDATE product SET {sets} WHERE product_id = %(_id)s".encode(), {**fields, "_id": product_id}
    )


def add_uncharged(connection: Connection, product_id: UUID, count: int) -> None:
    """Count cycles or steps of a product that cost nothing, and have no charge."""
    connection.execute(
        "UPDATE product SET uncharged = uncharged + %s WHERE product_id = %s", (count, product_id)
    )


def product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """A product and its subscriber's id."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s".encode(), (product_id,)
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


def lock_product(connection: Connection, product_id: UUID) -> tuple[Product, UUID] | None:
    """Lock a product: the product and its subscriber's id."""
    row = connection.execute(
        f"SELECT {_PRODUCT}, p.subscriber_id {_FROM_PRODUCT} WHERE p.product_id = %s FOR NO KEY UPDATE OF p".encode(),
        (product_id,),
    ).fetchone()
    return None if row is None else (Product(*row[:-1]), row[-1])


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


def parts_of(connection: Connection, product_id: UUID) -> list[UUID]:
    """The ids of the products that are the parts of a bundle."""
    rows = connection.execute(
        "SELECT product_id FROM product WHERE parent_id = %s ORDER BY product_id", (product_id,)
    )
    return [row[0] for row in rows]


def subscriber_of_product(connection: Connection, product_id: UUID) -> UUID | None:
    row = connection.execute(
        "SELECT subscriber_id FROM product WHERE product_id = %s", (product_id,)
    ).fetchone()
    return None if row is None else UUID(str(row[0]))


def newest_offering_version(connection: Connection, account_id: UUID) -> str | None:
    row = connection.execute(
        """SELECT offering_version FROM product WHERE account_id = %s
           ORDER BY (state = 'active') DESC, started_at DESC, product_id DESC LIMIT 1""",
        (account_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def due_products(connection: Connection, now: datetime, excluded: Sequence[UUID], limit: int) -> list[UUID]:
    """Active products whose cycle has ended, without the excluded ones, and without those that would renew while a suspension of
    their subscriber stops that. A bundle comes before its parts, since its id is older.
    """
    rows = connection.execute(
        """SELECT p.product_id FROM product p JOIN subscriber s USING (subscriber_id)
           WHERE p.state = 'active' AND p.cycle_end <= %s AND p.product_id <> ALL(%s::uuid[])
               AND (NOT s.suspended_by && %s::text[] OR NOT p.renews OR p.ends_after_cycle)
           ORDER BY p.product_id LIMIT %s""",
        (now, list(excluded), list(CYCLE_STOPPERS), limit),
    )
    return [row[0] for row in rows]


def held_products(connection: Connection, after: UUID, excluded: Sequence[UUID], limit: int) -> list[UUID]:
    """Products that the credit limit holds, by id, without the excluded ones and without those of subscribers whose suspension
    stops new cycles.
    """
    rows = connection.execute(
        """SELECT p.product_id FROM product p JOIN subscriber s USING (subscriber_id)
           WHERE p.held_at IS NOT NULL AND p.state = 'suspended' AND p.product_id > %s AND p.product_id <> ALL(%s::uuid[])
               AND NOT s.suspended_by && %s::text[]
           ORDER BY p.product_id LIMIT %s""",
        (after, list(excluded), list(CYCLE_STOPPERS), limit),
    )
    return [row[0] for row in rows]


def versions_sold(connection: Connection, offering_id: str | None) -> list[TupleRow]:
    """(offering id, version, live products, those with a next version, first start, last start) of the versions with live
    products.
    """
    return connection.execute(
        """SELECT v.offering_id, p.offering_version, count(*), count(p.next_version), min(p.started_at), max(p.started_at)
           FROM product p JOIN offering v USING (offering_version)
           WHERE p.ended_at IS NULL AND (%(id)s::text IS NULL OR v.offering_id = %(id)s)
           GROUP BY 1, 2 ORDER BY 1, 5, 2""",
        {"id": offering_id},
    ).fetchall()


def holders(connection: Connection, offering_version: str, after: UUID, limit: int) -> list[TupleRow]:
    """(product id, subscriber id, state, cycle's end, next version) of the live products of a version, by product id."""
    return connection.execute(
        """SELECT product_id, subscriber_id, state, cycle_end, next_version FROM product
           WHERE offering_version = %s AND ended_at IS NULL AND product_id > %s ORDER BY product_id LIMIT %s""",
        (offering_version, after, limit),
    ).fetchall()


def lock_person(connection: Connection, subscriber_id: UUID) -> None:
    """Lock a person until the transaction ends, against all subscribers with the same identity. No lock if there is no identity."""
    connection.execute(
        """SELECT pg_advisory_xact_lock(7461005, hashtext(encode(identity_hash, 'hex'))) FROM subscriber
           WHERE subscriber_id = %s AND identity_hash IS NOT NULL""",
        (subscriber_id,),
    )


def times_had(
    connection: Connection, people: Sequence[UUID], offering_id: str, besides: UUID | None = None
) -> int:
    """The number of products of these subscribers (one person's) that are, were or will be of an offering. A product that failed,
    or was withdrawn before its delivery, does not count.
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
