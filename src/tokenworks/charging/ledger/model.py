"""The words of the ledger, frozen and pure: buckets as people see them, their moves, jobs that failed, hosts.

Quantities are integers in the bucket's unit (thousandths of a token, call or credit).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as people see it. `left` is what can still be spent: the remainder and what open grants have not used."""

    bucket_id: UUID
    product_id: UUID | None
    kind: str
    unit: str
    total: int
    remaining: int
    granted: int
    granted_used: int
    used: int
    expired: int
    withdrawn: int
    priority: int
    valid_from: datetime
    valid_until: datetime | None
    model_classes: tuple[str, ...]
    rate_version: str
    closing: str | None
    # Of a window: so much in any so many seconds. Its total grows as uses come back.
    window_s: int | None = None
    window_quantity: int | None = None
    # The member that it is the cap of, in the period that it is valid.
    cap_of: UUID | None = None

    @property
    def left(self) -> int:
        return self.remaining + self.granted - self.granted_used

    @property
    def spent(self) -> int:
        return self.used + self.granted_used


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """The ledger's answer to a grant: what was added to which grant, and what the bucket has left."""

    grant_id: str
    added: int
    remaining: int
    spend_for_s: float
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """A part of one member's cap that another member has instead; `amount` in thousandths of a token."""

    transfer_id: UUID
    account_id: UUID
    from_bucket_id: UUID
    to_bucket_id: UUID
    from_member_id: UUID
    to_member_id: UUID
    amount: int
    reason: str
    made_by: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class BalanceMove:
    """What came to a bucket (below zero: what went) otherwise than by usage; `amount` in thousandths of its unit."""

    move_id: UUID
    at: datetime
    kind: Literal["issue", "expire", "withdraw", "rollover", "adjust", "transfer"]
    bucket_id: UUID
    unit: str
    amount: int
    ref: str


# What is done for one product, order, refund or subscriber at a time: its next cycle; a credit or a refund that waited for
# grants; its bill; the start of an order for later; what a payment provider was asked for.
JobName = Literal["cycle", "credit", "refund", "bill", "start", "collection"]
JobState = Literal["retrying", "quarantined"]


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that raised: `ref` is its product (cycle), order (credit), refund or subscriber (bill)."""

    job: JobName
    ref: UUID
    state: JobState
    attempts: int
    reason: str
    first_failed_at: datetime
    failed_at: datetime
    next_at: datetime


def by_shard(account_ids: Iterable[UUID]) -> list[tuple[int, list[UUID]]]:
    """Accounts by the declared shard key, which is an account's last hexadecimal digit (`shard_of` of the schema): (shard, its
    accounts), both ascending. A statement for many accounts names one shard.
    """
    shards: dict[int, list[UUID]] = {}
    for account_id in sorted(set(account_ids)):
        shards.setdefault(account_id.int & 15, []).append(account_id)
    return sorted(shards.items())


class Release(NamedTuple):
    """What a host runs."""

    release: str
    schema: str


class Host(NamedTuple):
    """A host that has not left in order. `release` and `since` are None where it is of a release that did not say so; `alive`: it was
    heard within the last seconds, by the database's clock.
    """

    host: str
    release: Release | None
    since: datetime | None
    seen_at: datetime
    alive: bool
