"""The SQL of a bucket's end. Its product or its validity closes a bucket; the remainder expires, is withdrawn or rolls over."""

from datetime import datetime
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.ledger.store import notify_hosts, post
from tokenworks.kernel import uuid7


def finish_closing(connection: Connection, account_id: UUID, bucket_id: UUID, now: datetime) -> None:
    """Remove the remainder of a bucket that is closing or past its validity. The granted quantity follows when grants close."""
    row = connection.execute(
        """SELECT kind, unit, remaining, closing, valid_until, rollover_left FROM bucket
           WHERE account_id = %s AND bucket_id = %s FOR UPDATE""",
        (account_id, bucket_id),
    ).fetchone()
    assert row is not None
    kind, unit, remaining, closing, valid_until, rollover_left = row
    if closing is None and valid_until is not None and valid_until <= now:
        closing = "expire" if rollover_left is None else "rollover"
        connection.execute(
            "UPDATE bucket SET closing = %s WHERE account_id = %s AND bucket_id = %s",
            (closing, account_id, bucket_id),
        )
    if closing == "rollover" and remaining:
        remaining -= _roll_over(connection, account_id, bucket_id, min(remaining, rollover_left))
    if closing is None or not remaining:
        return
    column, ledger_account = ("withdrawn", "withdrawn") if closing == "withdraw" else ("expired", "breakage")
    connection.execute(
        f"""UPDATE bucket SET remaining = 0, {column} = {column} + %s
            WHERE account_id = %s AND bucket_id = %s""",
        (remaining, account_id, bucket_id),
    )
    if kind == "balance":
        post(
            connection, account_id, closing, str(bucket_id),
            [("customer_liability", unit, bucket_id, -remaining), (ledger_account, unit, bucket_id, remaining)],
        )  # fmt: skip


def _roll_over(connection: Connection, account_id: UUID, bucket_id: UUID, amount: int) -> int:
    """Move `amount` of an ended bucket's remainder to its rollover bucket. Returns how much was moved.

    The first call makes the rollover bucket: it is spent first, is valid for one more cycle, and belongs to the same charge. If the
    rollover bucket is itself closing, nothing is moved.
    """
    if not amount:
        return 0
    row = connection.execute(
        "SELECT rollover_to FROM bucket WHERE account_id = %s AND bucket_id = %s", (account_id, bucket_id)
    ).fetchone()
    assert row is not None
    to = row[0]
    if to is None:
        to = uuid7()
        connection.execute(
            """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                                   valid_until, model_classes, rate_version, charge_id, paused)
               SELECT account_id, %s, product_id, kind, unit, 0, 0, greatest(0, priority - 1), valid_until, rollover_until,
                      model_classes, rate_version, charge_id, paused
               FROM bucket WHERE account_id = %s AND bucket_id = %s""",
            (to, account_id, bucket_id),
        )
    moved = connection.execute(
        """UPDATE bucket SET total = total + %s, remaining = remaining + %s
           WHERE account_id = %s AND bucket_id = %s AND closing IS NULL RETURNING unit""",
        (amount, amount, account_id, to),
    ).fetchone()
    if moved is None:
        return 0
    connection.execute(
        """UPDATE bucket SET remaining = remaining - %(x)s, withdrawn = withdrawn + %(x)s,
                             rollover_left = rollover_left - %(x)s, rollover_to = %(to)s
           WHERE account_id = %(account)s AND bucket_id = %(bucket)s""",
        {"x": amount, "to": to, "account": account_id, "bucket": bucket_id},
    )
    post(
        connection, account_id, "rollover", str(bucket_id),
        [("customer_liability", moved[0], bucket_id, -amount), ("customer_liability", moved[0], to, amount)],
    )  # fmt: skip
    notify_hosts(connection, account_id)
    return amount


def start_closing(
    connection: Connection,
    account_id: UUID,
    product_id: UUID,
    reason: str,
    now: datetime,
    *,
    charge_id: UUID | None = None,
    uncharged: bool = False,
    kind: str | None = None,
) -> list[UUID]:
    """Close a product's buckets (optionally only those of one charge, of no charge, or of one kind): forbid new grants and remove
    the remainder. Returns the buckets that still have grants.
    """
    pending = []
    rows = connection.execute(
        """SELECT bucket_id, granted FROM bucket WHERE account_id = %(account)s AND product_id = %(product)s
               AND closing IS NULL AND (%(charge)s::uuid IS NULL OR charge_id = %(charge)s)
               AND (NOT %(uncharged)s OR charge_id IS NULL) AND (%(kind)s::text IS NULL OR kind = %(kind)s) ORDER BY bucket_id FOR UPDATE""",
        {
            "account": account_id,
            "product": product_id,
            "charge": charge_id,
            "uncharged": uncharged,
            "kind": kind,
        },
    ).fetchall()
    for bucket_id, granted in rows:
        connection.execute(
            "UPDATE bucket SET closing = %s WHERE account_id = %s AND bucket_id = %s",
            (reason, account_id, bucket_id),
        )
        finish_closing(connection, account_id, bucket_id, now)
        if granted:
            pending.append(bucket_id)
    notify_hosts(connection, account_id)
    return pending


def expire_due(connection: Connection, now: datetime, limit: int) -> int:
    """Expire at most `limit` buckets whose validity has passed. Returns how many."""
    rows = connection.execute(
        """SELECT account_id, bucket_id FROM bucket WHERE valid_until <= %s AND remaining > 0
           ORDER BY account_id, bucket_id LIMIT %s""",
        (now, limit),
    ).fetchall()
    for account_id, bucket_id in rows:
        with connection.transaction():
            finish_closing(connection, account_id, bucket_id, now)
            notify_hosts(connection, account_id)
    return len(rows)
