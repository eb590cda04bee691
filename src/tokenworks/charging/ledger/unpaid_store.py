"""The SQL of the unpaid part of a record: settlement draws it from what the account has left, in the settling transaction.

Invariant: each token of a record is paid by one part or borne by one loss. A draw here passes through a grant of the journal that is
inserted as closed (amount = used), so it moves quantity from the bucket's `remaining` to its `used`, and never below zero.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import sub
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow

from tokenworks.catalog import Counts, Share, first_tokens, split
from tokenworks.charging.errors import RecordRefused
from tokenworks.charging.ledger.window_store import refill_windows
from tokenworks.charging.messages import BucketTerms, Loss, Part, UsageRecord
from tokenworks.charging.model import (
    FOLLOW_UP,
    NO_GRANT,
    PER_UNIT,
    RateLookup,
    hold_rate,
    spending_order,
)
from tokenworks.kernel import uuid7

BEYOND_HOLD: Final = "beyond_hold"
# A quote inside a JSON string is escaped, so this text is always a field's name.
UNPAID_MARK: Final = b'"unpaid":'


class _LockedBucket:
    """A locked bucket of the account, and its quantity that is granted to no host."""

    __slots__ = ("remaining", "terms", "usable")

    def __init__(self, terms: BucketTerms, remaining: int, *, usable: bool) -> None:
        self.terms = terms
        self.remaining = remaining
        self.usable = usable


def lock_buckets(connection: Connection, account_ids: Iterable[str]) -> None:
    """Lock the open buckets of these accounts, in ascending order, before any grant is locked."""
    for account_id in sorted(account_ids):
        connection.execute(
            "SELECT 1 FROM bucket WHERE account_id = %s AND closing IS NULL ORDER BY bucket_id FOR UPDATE",
            (UUID(account_id),),
        )


def draw_unpaid(
    connection: Connection, journal_id: UUID, record: UsageRecord, rates: RateLookup, now: datetime
) -> set[str]:
    """Pay `record.unpaid` from the account's buckets in spending order, within its caps and the buckets' windows. The rest becomes the
    loss `beyond_hold`. Changes the record; returns the grants that were made for it.

    A frozen account pays. Buckets of a suspended product and closing buckets pay nothing. No pay-as-you-go step is bought. The
    account's buckets must be locked by `lock_buckets`. Raises `RecordRefused` if the record contradicts itself.
    """
    if record.unpaid is None:
        return set()
    requests, counts = record.unpaid
    if requests not in {0, 1} or min(counts) < 0 or any(part.counts is None for part in record.parts):
        raise RecordRefused("its unpaid part contradicts the record")
    account_id = UUID(record.account_id)
    found = _buckets(connection, account_id, now)
    caps = [found.get(part.bucket_id) for part in record.parts if part.kind == "cap"]
    tokens_max = min((cap.remaining // PER_UNIT if cap else 0 for cap in caps), default=sum(counts))
    payable = left = first_tokens(counts, tokens_max)
    grants: set[str] = set()

    def draw(bucket: _LockedBucket, share: Share) -> None:
        grant_id = _draw(connection, journal_id, account_id, bucket, share.amount, now)
        grants.add(grant_id)
        terms = bucket.terms
        record.parts.append(
            Part(
                terms.bucket_id, grant_id, terms.rate_version, terms.unit, terms.kind, share.amount,
                0 if terms.kind == "cap" else share.requests, share.counts,
            )
        )  # fmt: skip

    model = record.model if record.prompt else FOLLOW_UP + record.model
    for bucket in sorted(
        (b for b in found.values() if b.terms.kind == "balance" and b.usable),
        key=lambda b: spending_order(b.terms),
    ):
        rate = hold_rate(bucket.terms, rates, model)
        # A bucket that is counted in requests pays a whole request or nothing.
        if rate is None or (rate.whole and not requests):
            continue
        windows = [found[window] for window in bucket.terms.windows if window in found]
        available = min(bucket.remaining, *(window.remaining for window in windows), 2**63)
        (share,), requests_after, after = split([(rate.weights, available)], left, requests)
        if (rate.whole and requests_after) or (any(left) and not any(share.counts)):
            continue
        draw(bucket, share)
        for window in windows:
            draw(window, share)
        requests, left = requests_after, after
        if not requests and not any(left):
            break
    paid = Counts(*map(sub, payable, left))
    for cap in caps:
        if cap is not None and any(paid):
            draw(cap, Share(PER_UNIT * sum(paid), 0, paid))
    lost = Counts(*map(sub, counts, paid))
    if requests or any(lost):
        record.loss = [*record.loss, Loss(BEYOND_HOLD, requests, lost)]
        record.risk_tokens += sum(lost)
    record.unpaid = None
    return grants


def _buckets(connection: Connection, account_id: UUID, now: datetime) -> dict[str, _LockedBucket]:
    rows = _read(connection, account_id, now)
    if any(row[1] == "window" for row in rows):
        refill_windows(connection, account_id, now)
        rows = _read(connection, account_id, now)
    windows: dict[UUID, list[str]] = {}
    for bucket_id, kind, *_, product_id, _, _ in rows:
        if kind == "window" and product_id is not None:
            windows.setdefault(product_id, []).append(bucket_id.hex)
    found: dict[str, _LockedBucket] = {}
    for bucket_id, kind, unit, priority, valid_until_ms, model_classes, rate_version, product_id, remaining, usable in rows:  # fmt: skip
        terms = BucketTerms(
            bucket_id.hex, account_id.hex, kind, unit, priority, valid_until_ms, tuple(model_classes), rate_version,
            tuple(windows.get(product_id, ())) if kind == "balance" else (),
        )  # fmt: skip
        found[terms.bucket_id] = _LockedBucket(terms, remaining, usable=usable)
    return found


def _read(connection: Connection, account_id: UUID, now: datetime) -> Sequence[TupleRow]:
    return connection.execute(
        """SELECT bucket_id, kind, unit, priority, (extract(epoch FROM valid_until) * 1000)::bigint, model_classes,
                  rate_version, product_id, remaining,
                  NOT paused AND valid_from <= %(now)s AND (valid_until IS NULL OR valid_until > %(now)s)
           FROM bucket WHERE account_id = %(account)s AND closing IS NULL ORDER BY bucket_id""",
        {"account": account_id, "now": now},
    ).fetchall()


def _draw(
    connection: Connection,
    journal_id: UUID,
    account_id: UUID,
    bucket: _LockedBucket,
    amount: int,
    now: datetime,
) -> str:
    """Move `amount` of a bucket from `remaining` to `used`, through a grant that is inserted as closed. Returns the grant."""
    if not amount:
        return NO_GRANT
    assert amount <= bucket.remaining, "a bucket would be overdrawn"
    bucket.remaining -= amount
    grant_id, bucket_id = uuid7(), UUID(bucket.terms.bucket_id)
    connection.execute(
        """UPDATE bucket SET remaining = remaining - %s, used = used + %s
           WHERE account_id = %s AND bucket_id = %s""",
        (amount, amount, account_id, bucket_id),
    )
    connection.execute(
        """INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, used, state, spend_until, closed_at)
           VALUES (%s, %s, %s, %s, %s, %s, 'closed', %s, %s)""",
        (account_id, grant_id, bucket_id, journal_id, amount, amount, now, now),
    )
    return grant_id.hex


__all__ = ["UNPAID_MARK", "draw_unpaid", "lock_buckets"]
