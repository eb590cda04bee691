"""The types of the ledger, frozen and pure: buckets as people see them, balance moves, failed jobs, hosts.

Quantities are integers in the bucket's unit (thousandths of a token, call or credit).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as people see it. `left`: the quantity that can still be spent, in the remainder and in open grants."""

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
    # A window allows `window_quantity` in any period of `window_s` seconds. Its total grows as uses return to it.
    window_s: int | None = None
    window_quantity: int | None = None
    # The member whose cap this bucket is, for the period of its validity.
    cap_of: UUID | None = None

    @property
    def left(self) -> int:
        return self.remaining + self.granted - self.granted_used

    @property
    def spent(self) -> int:
        return self.used + self.granted_used


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """The ledger's answer to a grant request: the quantity added to the grant, and the bucket's remainder.

    `behind`: nothing was added, because another host has waited longer.
    """

    grant_id: str
    added: int
    remaining: int
    spend_for_s: float
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of a part of one member's cap to another member. `amount` is in thousandths of a token."""

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
    """A change of a bucket's balance that is no usage. `amount` is in thousandths of the bucket's unit; negative: a decrease."""

    move_id: UUID
    at: datetime
    kind: Literal["issue", "expire", "withdraw", "rollover", "adjust", "transfer"]
    bucket_id: UUID
    unit: str
    amount: int
    ref: str


# Jobs that run for one product, order, refund or subscriber at a time: the next cycle; a credit or refund that waited for grants to
# close; a bill; the start of a scheduled order; a collection by a payment provider.
JobName = Literal["cycle", "credit", "refund", "bill", "start", "collection"]
JobState = Literal["retrying", "quarantined"]


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that raised. `ref` is its product (cycle), order (credit), refund, or subscriber (bill)."""

    job: JobName
    ref: UUID
    state: JobState
    attempts: int
    reason: str
    first_failed_at: datetime
    failed_at: datetime
    next_at: datetime


def by_shard(account_ids: Iterable[UUID]) -> list[tuple[int, list[UUID]]]:
    """Group accounts by shard: (shard, its accounts), both ascending. The shard is the last hexadecimal digit of the account's id
    (`shard_of` in the schema). A statement for many accounts names one shard.
    """
    shards: dict[int, list[UUID]] = {}
    for account_id in sorted(set(account_ids)):
        shards.setdefault(account_id.int & 15, []).append(account_id)
    return sorted(shards.items())


class Release(NamedTuple):
    """The release of Tokenworks that a host runs, and the schema that this release expects."""

    release: str
    schema: str


class Host(NamedTuple):
    """A host that has not left. `release` and `since` are None if its release is too old to report them. `alive`: it was seen within
    the last seconds, by the database's clock.
    """

    host: str
    release: Release | None
    since: datetime | None
    seen_at: datetime
    alive: bool
