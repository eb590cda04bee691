"""The SQL of adjustments of balances."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from tokenworks.charging.ledger import store, whose_store
from tokenworks.charging.money.model import Adjustment
from tokenworks.kernel import FORGOTTEN
from tokenworks.kernel.units import QUANTITY_MAX

_COLUMNS = """adjustment_id, account_id, bucket_id, amount, unit, reason, asked_by, asked_at, decided_by, decided_at, state"""


def _found(connection: Connection, where: str, values: tuple[object, ...]) -> list[Adjustment]:
    with connection.cursor(row_factory=class_row(Adjustment)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM adjustment WHERE {where}".encode(), values).fetchall()


def balance(connection: Connection, bucket_id: UUID) -> tuple[UUID, str] | None:
    """(account, unit) of an open balance; None if the bucket does not exist, is no balance, or is closing."""
    account_id = whose_store.of_bucket(connection, bucket_id)
    if account_id is None:
        return None
    row = connection.execute(
        """SELECT unit FROM bucket WHERE account_id = %s AND bucket_id = %s AND kind = 'balance' AND closing IS NULL""",
        (account_id, bucket_id),
    ).fetchone()
    return None if row is None else (account_id, row[0])


def add(connection: Connection, adjustment: Adjustment, idempotency_key: str | None) -> None:
    a = adjustment
    connection.execute(
        f"INSERT INTO adjustment ({_COLUMNS}, idempotency_key) VALUES ({', '.join(['%s'] * 12)})".encode(),
        (a.adjustment_id, a.account_id, a.bucket_id, a.amount, a.unit, a.reason, a.asked_by, a.asked_at, a.decided_by,
         a.decided_at, a.state, idempotency_key),
    )  # fmt: skip


def of_key(connection: Connection, idempotency_key: str) -> Adjustment | None:
    found = _found(connection, "idempotency_key = %s", (idempotency_key,))
    return found[0] if found else None


def find(connection: Connection, adjustment_id: UUID) -> Adjustment | None:
    found = _found(connection, "adjustment_id = %s", (adjustment_id,))
    return found[0] if found else None


def lock(connection: Connection, adjustment_id: UUID) -> Adjustment | None:
    found = _found(connection, "adjustment_id = %s FOR UPDATE", (adjustment_id,))
    return found[0] if found else None


def all_of(connection: Connection, account_id: UUID | None, limit: int) -> list[Adjustment]:
    return _found(
        connection,
        "%s::uuid IS NULL OR account_id = %s ORDER BY adjustment_id DESC LIMIT %s",
        (account_id, account_id, limit),
    )


def apply(connection: Connection, adjustment: Adjustment) -> bool:
    """Apply an adjustment to its bucket and post it. Returns False, and changes nothing, if the bucket is closing, has less than the
    adjustment takes, or would exceed `QUANTITY_MAX`.
    """
    a = adjustment
    if a.amount > 0:
        change, sign = "total = total + %(x)s, remaining = remaining + %(x)s", 1
    else:
        change, sign = "remaining = remaining - %(x)s, withdrawn = withdrawn + %(x)s", -1
    x = abs(a.amount)
    changed = connection.execute(
        f"""UPDATE bucket SET {change} WHERE account_id = %(account)s AND bucket_id = %(bucket)s AND closing IS NULL
            AND CASE WHEN %(sign)s > 0 THEN total <= %(most)s::bigint - %(x)s::bigint ELSE remaining >= %(x)s END""".encode(),
        {"x": x, "most": QUANTITY_MAX, "account": a.account_id, "bucket": a.bucket_id, "sign": sign},
    ).rowcount
    if not changed:
        return False
    store.post(
        connection, a.account_id, "adjust", str(a.adjustment_id),
        [("customer_liability", a.unit, a.bucket_id, sign * x), ("adjusted", a.unit, None, -sign * x)],
    )  # fmt: skip
    store.notify_hosts(connection, a.account_id)
    return True


def decide(connection: Connection, adjustment_id: UUID, decided_by: str, state: str, at: datetime) -> None:
    connection.execute(
        "UPDATE adjustment SET decided_by = %s, decided_at = %s, state = %s WHERE adjustment_id = %s",
        (decided_by, at, state, adjustment_id),
    )


def forget_reasons(connection: Connection, account_id: UUID) -> None:
    connection.execute("UPDATE adjustment SET reason = %s WHERE account_id = %s", (FORGOTTEN, account_id))
