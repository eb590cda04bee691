"""The SQL of buckets: adding them, reading them as terms (for hosts) and as `Bucket` (for people), pausing them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.charging.ledger.model import Bucket
from tokenworks.charging.ledger.store import post
from tokenworks.charging.ledger.window_store import refill_windows
from tokenworks.charging.messages import BucketTerms
from tokenworks.kernel import uuid7


def add_bucket(
    connection: Connection,
    *,
    account_id: UUID,
    product_id: UUID | None,
    kind: str,
    unit: str,
    total: int,
    priority: int,
    valid_from: datetime,
    valid_until: datetime | None,
    model_classes: Sequence[str],
    rate_version: str,
    window_s: int | None = None,
    charge_id: UUID | None = None,
    rollover: tuple[int, datetime] | None = None,
) -> UUID:
    """Add a bucket. `rollover`: (the most that rolls over at the bucket's end, until when that is valid)."""
    assert total or kind != "balance", "a zero is not a row"
    bucket_id = uuid7()
    connection.execute(
        """INSERT INTO bucket (account_id, bucket_id, product_id, kind, unit, total, remaining, priority, valid_from,
                               valid_until, model_classes, rate_version, window_s, window_quantity, charge_id,
                               rollover_left, rollover_until)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (account_id, bucket_id, product_id, kind, unit, total, total, priority, valid_from, valid_until,
         list(model_classes), rate_version, window_s, None if window_s is None else total, charge_id,
         *(rollover or (None, None))),
    )  # fmt: skip
    if kind == "balance" and total:
        post(
            connection, account_id, "issue", str(bucket_id),
            [("issued", unit, bucket_id, -total), ("customer_liability", unit, bucket_id, total)],
        )  # fmt: skip
    return bucket_id


def load_terms(connection: Connection, account_id: UUID, now: datetime) -> list[tuple[BucketTerms, int]]:
    """The buckets that can be spent now, each with the quantity that the ledger can still grant.

    Buckets of prompts are included when they are used up: a request that continues with a tool's result costs no prompt.
    """
    refill_windows(connection, account_id, now)
    return terms_of(account_id, connection.execute(TERMS, {"account": account_id, "now": now}))


TERMS: Final = """SELECT bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining,
       CASE WHEN kind = 'balance' THEN ARRAY(
           SELECT w.bucket_id FROM bucket w WHERE w.account_id = %(account)s AND w.product_id = b.product_id
               AND w.kind = 'window' ORDER BY w.bucket_id) ELSE '{}' END
    FROM bucket b JOIN account a USING (account_id)
    WHERE b.account_id = %(account)s AND a.state = 'open' AND closing IS NULL AND NOT paused
      AND valid_from <= %(now)s AND (valid_until IS NULL OR valid_until > %(now)s)
      AND (remaining + granted > 0 OR (unit = 'prompt' AND kind = 'balance'))"""


def terms_of(account_id: UUID, rows: Iterable[TupleRow]) -> list[tuple[BucketTerms, int]]:
    """Rows of `TERMS` as terms, each with the quantity that the ledger can still grant."""
    return [
        (
            BucketTerms(
                bucket_id=bucket_id.hex,
                account_id=account_id.hex,
                kind=kind,
                unit=unit,
                priority=priority,
                valid_until_ms=None if valid_until is None else int(valid_until.timestamp() * 1000),
                model_classes=tuple(model_classes),
                rate_version=rate_version,
                windows=tuple(window.hex for window in windows),
            ),
            remaining,
        )
        for bucket_id, kind, unit, priority, valid_until, model_classes, rate_version, remaining, windows in rows
    ]


HAS_UNIT: Final = """SELECT EXISTS (SELECT 1 FROM bucket WHERE account_id = %s AND unit = %s AND kind = 'balance'
    AND closing IS NULL AND (valid_until IS NULL OR valid_until > %s))"""


def has_unit(connection: Connection, account_id: UUID, unit: str, now: datetime) -> bool:
    row = connection.execute(HAS_UNIT, (account_id, unit, now)).fetchone()
    return bool(row and row[0])


def free_of(connection: Connection, account_id: UUID, product_id: UUID, now: datetime) -> int:
    row = connection.execute(
        """SELECT coalesce(sum(remaining), 0)::bigint FROM bucket WHERE account_id = %s AND product_id = %s
               AND kind = 'balance' AND closing IS NULL AND (valid_until IS NULL OR valid_until > %s)""",
        (account_id, product_id, now),
    ).fetchone()
    return int(row[0]) if row else 0


def set_paused(connection: Connection, account_id: UUID, product_id: UUID, *, paused: bool) -> None:
    connection.execute(
        "UPDATE bucket SET paused = %s WHERE account_id = %s AND product_id = %s",
        (paused, account_id, product_id),
    )


def buckets(connection: Connection, account_id: UUID) -> list[Bucket]:
    rows = connection.execute(
        """SELECT b.bucket_id, product_id, kind, unit, total, remaining, granted,
                  coalesce((SELECT sum(g.used) FROM grants g WHERE g.account_id = %(account)s
                            AND g.bucket_id = b.bucket_id AND g.state = 'open'), 0)::bigint,
                  used, expired, withdrawn, priority, valid_from, valid_until, model_classes, rate_version, closing,
                  window_s, window_quantity, cap_of
           FROM bucket b WHERE b.account_id = %(account)s ORDER BY priority, valid_until NULLS LAST, bucket_id""",
        {"account": account_id},
    )
    return [
        Bucket(
            bucket_id=row[0], product_id=row[1], kind=row[2], unit=row[3], total=row[4], remaining=row[5], granted=row[6],
            granted_used=row[7], used=row[8], expired=row[9], withdrawn=row[10], priority=row[11], valid_from=row[12],
            valid_until=row[13], model_classes=tuple(row[14]), rate_version=row[15], closing=row[16], window_s=row[17],
            window_quantity=row[18], cap_of=row[19],
        )
        for row in rows
    ]  # fmt: skip
