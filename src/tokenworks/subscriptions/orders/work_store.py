"""The SQL of work orders. The broadband number of a work order is encrypted under the subscriber's key."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import WorkOrder
from tokenworks.subscriptions.people import people_store
from tokenworks.trust import PersonVault

# The associated data of the encrypted number, with its row and person.
_PLACE = "work_order.broadband"
_WORK = """work_order_id, order_id, product_id, subscriber_id, port, offering_id, delivery, action, state, attempts, reason,
    created_at, broadband_sealed, pushed_at, push_tries, push_error"""
# The index of the encrypted number in `_WORK`.
_BROADBAND = 12


def _work_orders(vault: PersonVault, rows: Sequence[TupleRow]) -> list[WorkOrder]:
    """Work orders with their broadband numbers decrypted; None for a subscriber who was erased."""
    keys = vault.keys(row[3] for row in rows)
    found = []
    for row in rows:
        values, key, sealed = list(row), keys.get(row[3]), row[_BROADBAND]
        values[_BROADBAND] = None if key is None or sealed is None else key.open(_PLACE, row[0], sealed)
        found.append(WorkOrder(*values))
    return found


def _work_order_of(vault: PersonVault, row: TupleRow | None) -> WorkOrder | None:
    return None if row is None else _work_orders(vault, [row])[0]


def add_work_order(vault: PersonVault, work: WorkOrder) -> None:
    """Add a work order, with the broadband number of the delivery of the same product, else the subscriber's number now."""
    broadband = (
        work.broadband or _delivered_to(vault, work.product_id) or _number_of(vault, work.subscriber_id)
    )
    key = None if broadband is None else vault.key(work.subscriber_id)
    columns = {
        "work_order_id": work.work_order_id, "order_id": work.order_id, "product_id": work.product_id,
        "subscriber_id": work.subscriber_id, "port": work.port, "offering_id": work.offering_id, "delivery": work.delivery,
        "action": work.action, "state": work.state, "attempts": work.attempts, "reason": work.reason,
        "created_at": work.created_at, "asked_at": work.created_at, "push_due": work.created_at,
        "broadband_sealed":
            None if key is None or broadband is None else key.seal(_PLACE, work.work_order_id, broadband),
    }  # fmt: skip
    vault.connection.execute(
        f"""INSERT INTO work_order ({", ".join(columns)}) VALUES ({", ".join(f"%({name})s" for name in columns)})
            ON CONFLICT DO NOTHING""".encode(),
        columns,
    )


def _delivered_to(vault: PersonVault, product_id: UUID) -> str | None:
    row = vault.connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE product_id = %s AND action = 'deliver'".encode(), (product_id,)
    ).fetchone()
    found = _work_order_of(vault, row)
    return None if found is None else found.broadband


def _number_of(vault: PersonVault, subscriber_id: UUID) -> str | None:
    found = people_store.find_subscriber(vault, subscriber_id=subscriber_id)
    return None if found is None else found.broadband


def withdraw_delivery(vault: PersonVault, delivered: WorkOrder, at: datetime) -> None:
    """Add the work order that withdraws a delivery that was done, or may have been. A product has one of these at most."""
    withdrawn = replace(
        delivered,
        work_order_id=uuid7(),
        action="withdraw",
        state="open",
        attempts=1,
        reason=None,
        created_at=at,
    )
    add_work_order(vault, withdrawn)


def close_delivery(vault: PersonVault, work: WorkOrder, reason: str, at: datetime) -> None:
    """Refuse an open delivery that is no longer wanted, and withdraw it if the delivering system has got it."""
    answer_work_order(vault.connection, work.work_order_id, "refused", work.attempts, reason, at)
    if work.pushed_at is not None:
        withdraw_delivery(vault, work, at)


def work_orders(vault: PersonVault, state: str | None, limit: int) -> list[WorkOrder]:
    rows = vault.connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE %(s)s::text IS NULL OR state = %(s)s ORDER BY work_order_id LIMIT %(n)s".encode(),
        {"s": state, "n": limit},
    ).fetchall()
    return _work_orders(vault, rows)


def work_orders_of(connection: Connection, order_id: UUID) -> list[UUID]:
    """The open deliveries of an order."""
    rows = connection.execute(
        """SELECT work_order_id FROM work_order WHERE order_id = %s AND action = 'deliver' AND state = 'open'
           ORDER BY work_order_id""",
        (order_id,),
    )
    return [row[0] for row in rows]


def work_order(vault: PersonVault, work_order_id: UUID) -> WorkOrder | None:
    row = vault.connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE work_order_id = %s".encode(), (work_order_id,)
    ).fetchone()
    return _work_order_of(vault, row)


def work_orders_page(
    vault: PersonVault, state: str | None, offset: int, limit: int
) -> tuple[list[WorkOrder], int]:
    values = {"s": state, "offset": offset, "limit": limit}
    where = "FROM work_order WHERE %(s)s::text IS NULL OR state = %(s)s"
    rows = vault.connection.execute(
        f"SELECT {_WORK} {where} ORDER BY work_order_id OFFSET %(offset)s LIMIT %(limit)s".encode(), values
    ).fetchall()
    count = vault.connection.execute(f"SELECT count(*) {where}".encode(), values).fetchone()
    assert count is not None
    return _work_orders(vault, rows), int(count[0])


def lease_work_orders(
    vault: PersonVault, ports: list[str], now: datetime, until: datetime, limit: int
) -> list[WorkOrder]:
    columns = ", ".join(f"w.{name.strip()}" for name in _WORK.split(","))
    rows = vault.connection.execute(
        f"""WITH due AS (SELECT work_order_id FROM work_order
                         WHERE state = 'open' AND push_due <= %s AND port = ANY(%s)
                         ORDER BY push_due, work_order_id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
            UPDATE work_order w SET push_due = %s, push_tries = push_tries + 1 FROM due
            WHERE w.work_order_id = due.work_order_id RETURNING {columns}""".encode(),
        (now, ports, limit, until),
    ).fetchall()
    return sorted(_work_orders(vault, rows), key=lambda work: work.work_order_id)


def mark_pushed(connection: Connection, work_order_id: UUID, at: datetime, due: datetime) -> None:
    connection.execute(
        """UPDATE work_order SET pushed_at = %s, push_due = %s, push_tries = 0, push_error = NULL
           WHERE work_order_id = %s AND state = 'open'""",
        (at, due, work_order_id),
    )


def set_next_push(connection: Connection, work_order_id: UUID, due: datetime, error: str | None) -> None:
    connection.execute(
        "UPDATE work_order SET push_due = %s, push_error = coalesce(%s, push_error) WHERE work_order_id = %s",
        (due, error, work_order_id),
    )


def repeat_request(connection: Connection, work_order_id: UUID, at: datetime) -> None:
    """Make a work order due at an instant, as if it were new: its time-out begins again."""
    connection.execute(
        """UPDATE work_order SET asked_at = %s, push_due = %s, push_tries = 0, pushed_at = NULL
           WHERE work_order_id = %s""",
        (at, at, work_order_id),
    )


def any_open(connection: Connection, subscriber_id: UUID) -> bool:
    """True if a work order of this subscriber has no answer."""
    row = connection.execute(
        "SELECT 1 FROM work_order WHERE subscriber_id = %s AND state = 'open' LIMIT 1", (subscriber_id,)
    ).fetchone()
    return row is not None


def unanswered(connection: Connection, asked_before: datetime, limit: int) -> list[UUID]:
    """Open deliveries that were requested at or before an instant."""
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


def lock_work_order(vault: PersonVault, work_order_id: UUID) -> WorkOrder | None:
    row = vault.connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE work_order_id = %s FOR NO KEY UPDATE".encode(),
        (work_order_id,),
    ).fetchone()
    return _work_order_of(vault, row)


def delivery_of(vault: PersonVault, product_id: UUID) -> WorkOrder | None:
    """Lock the work order that delivers a product."""
    row = vault.connection.execute(
        f"SELECT {_WORK} FROM work_order WHERE product_id = %s AND action = 'deliver' FOR NO KEY UPDATE".encode(),
        (product_id,),
    ).fetchone()
    return _work_order_of(vault, row)


def answer_work_order(
    connection: Connection, work_order_id: UUID, state: str, attempts: int, reason: str | None, at: datetime
) -> None:
    connection.execute(
        "UPDATE work_order SET state = %s, attempts = %s, reason = %s, answered_at = %s WHERE work_order_id = %s",
        (state, attempts, reason, at, work_order_id),
    )
