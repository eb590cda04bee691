"""The SQL of refunds."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection

from tokenworks.billing.model import Refund
from tokenworks.kernel import FORGOTTEN

_REFUND: Final = """refund_id, order_id, account_id, charge_id, part, asked_nano, reason, state, amount_nano, asked_at, done_at,
    batch_id, kept"""


def add_refund(connection: Connection, refund: Refund, idempotency_key: str | None) -> bool:
    """Return False if the charge is refunded already."""
    r = refund
    row = connection.execute(
        f"""INSERT INTO refund ({_REFUND}, idempotency_key) VALUES ({", ".join(["%s"] * 14)})
            ON CONFLICT DO NOTHING RETURNING 1""".encode(),
        (r.refund_id, r.order_id, r.account_id, r.charge_id, r.part, r.asked_nano, r.reason, r.state, r.amount_nano, r.asked_at,
         r.done_at, r.batch_id, r.kept, idempotency_key),
    ).fetchone()  # fmt: skip
    return row is not None


def refunds_of_order(connection: Connection, order_id: UUID) -> list[Refund]:
    rows = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE order_id = %s ORDER BY refund_id".encode(), (order_id,)
    )
    return [Refund(*row) for row in rows]


def refund_by_id(connection: Connection, refund_id: UUID) -> Refund | None:
    row = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE refund_id = %s".encode(), (refund_id,)
    ).fetchone()
    return None if row is None else Refund(*row)


def refunds_of_key(connection: Connection, idempotency_key: str) -> list[Refund]:
    """All refunds of the request that had this idempotency key, whatever its order."""
    rows = connection.execute(
        f"""SELECT {_REFUND}, false FROM refund WHERE batch_id = (SELECT batch_id FROM refund WHERE idempotency_key = %s)
            ORDER BY refund_id""".encode(),
        (idempotency_key,),
    )
    return [Refund(*row) for row in rows]


def pending_refunds(connection: Connection, excluded: Sequence[UUID], limit: int) -> list[UUID]:
    """Oldest first, without the excluded ones."""
    rows = connection.execute(
        """SELECT refund_id FROM refund WHERE state = 'pending' AND refund_id <> ALL(%s::uuid[])
           ORDER BY refund_id LIMIT %s""",
        (list(excluded), limit),
    )
    return [row[0] for row in rows]


def lock_pending_refund(connection: Connection, refund_id: UUID) -> Refund | None:
    """Return None if another worker holds the refund or it is done."""
    row = connection.execute(
        f"SELECT {_REFUND} FROM refund WHERE refund_id = %s AND state = 'pending' FOR UPDATE SKIP LOCKED".encode(),
        (refund_id,),
    ).fetchone()
    return None if row is None else Refund(*row)


def end_refund(
    connection: Connection, refund_id: UUID, credit_charge_id: UUID | None, amount_nano: int, at: datetime
) -> None:
    connection.execute(
        "UPDATE refund SET state = 'done', credit_charge_id = %s, amount_nano = %s, done_at = %s WHERE refund_id = %s",
        (credit_charge_id, amount_nano, at, refund_id),
    )


def forget(connection: Connection, account_id: UUID) -> None:
    """Erase the free text. Nothing else of history can be changed (`refuse_change_but_forgetting`)."""
    connection.execute("UPDATE refund SET reason = %s WHERE account_id = %s", (FORGOTTEN, account_id))
