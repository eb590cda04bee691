"""The words of charging, frozen and pure: holds, records, buckets as people see them.

Quantities are integers in the bucket's unit (thousandths of a token, call or credit).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec

from tokenworks.catalog import TOKEN_CLASSES, BucketSpec, Counts, Weights
from tokenworks.charging.messages import (
    Attempt,
    BucketTerms,
    CountedBy,
    Loss,
    Need,
    Part,
    State,
    UsageRecord,
    UsageRecordBeforeCauses,
)

# Thousandths of a token, call or credit.
PER_UNIT: Final = 1000
# A cap counts every token as one, whatever it costs; requests are free.
CAP_RATE: Final = "cap"
# Before the model's name where a request is no prompt (its last item is a tool's result): no model's name begins so.
FOLLOW_UP: Final = "+"
# Of what costs nothing: it draws on no grant.
NO_GRANT: Final = "0" * 32
WHOLE_UNITS: Final = frozenset({"call", "prompt"})
CAP_WEIGHTS: Final = Weights(0, *[PER_UNIT] * len(TOKEN_CLASSES))

ClosingReason = Literal["expire", "withdraw", "rollover"]
RateLookup = Callable[[str, str], tuple[str, Weights] | None]
"""(rate version, model) -> (model class, weights), or None where the card does not sell the model."""


# What an account must be able to pay for a count of tokens, which spends nothing, so that nothing is bought for it either. No
# other request holds so little.
COUNT_NEED: Final = Need(1, 1, 0)
NO_NEED: Final = Need(0, 0, 0)


@dataclass(frozen=True, slots=True)
class HoldRate:
    """The most that a request, an input token and an output token can cost in one bucket."""

    request: int
    input_token: int
    output_token: int
    # Counted in requests: it pays a whole request, or nothing of it.
    whole: bool
    weights: Weights
    # The same as a plain tuple, request apart: what the hot path multiplies with.
    class_weights: tuple[int, ...]


LOSS_CAUSES: Final[dict[str, str]] = {
    "beyond_hold": "more than was held, and nothing was left of the account when it was settled",
    "beyond_maximum": "output beyond the maximum that the upstream was sent",
    "implausible": "reported beyond what an honest answer of its kind can have",
    "client_gone": "the client left, and the plan charges nothing for it",
    "upstream_error": "the upstream broke off, and the plan charges nothing for it",
    "upstream_timeout": "the upstream fell silent, and the plan charges nothing for it",
    "worker_lost": "the worker died, and the hold did not cover what it had reported",
    "failed_attempt": "an attempt that failed or that another one replaced, though the upstream produced",
    "no_memory": "the worker had no room for an answer that was produced",
    "response_too_large": "an answer beyond response_bytes_max",
    "empty_answer": "an answer without content, for which the plan charges nothing",
    "content_filtered": "an answer that the provider's filter ended, for which the plan charges nothing",
    "cache_hit": "input that the provider had cached, for which the plan charges nothing",
    "late": "settled after its grant was written off, when its bucket had nothing left",
    "unnamed": "recorded by a release that named no causes",
}
"""Why the operator bears what was produced: cause -> what it means. `ledger verify` refuses any other."""


def usage_record(
    attempt: Attempt,
    *,
    state: State,
    reason: str,
    counted_by: CountedBy,
    ended_ms: int,
    first_byte_ms: int | None,
    latency_ms: int,
    counts: Counts,
    provider_total: int | None,
    parts: list[Part],
    loss: list[Loss],
    flags: list[str],
    upstream_id: str | None,
) -> UsageRecord:
    """The record of an attempt; what few records have is set on it. Not by the Struct's own names: CPython takes 6 µs for a call with
    more than 16 of them.
    """
    return UsageRecord(
        attempt.account_id,
        attempt.usage_id,
        attempt.request_id,
        attempt.attempt_no,
        attempt.key_id,
        attempt.member_id,
        attempt.protocol,
        attempt.model,
        attempt.deployment,
        state,
        reason,
        counted_by,
        attempt.started_ms,
        ended_ms,
        first_byte_ms,
        latency_ms,
        counts,
        provider_total,
        parts,
        loss,
        flags,
        upstream_id,
    )


encode_record: Callable[[UsageRecord], bytes] = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UsageRecord).decode
_decode_before: Final = msgspec.json.Decoder(UsageRecordBeforeCauses).decode


def decode_record(text: bytes) -> UsageRecord:
    """A record of a journal, of this release or an earlier one. Raises `msgspec.DecodeError`."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        before = _decode_before(text)
    values = {name: getattr(before, name) for name in UsageRecord.__struct_fields__}
    return UsageRecord(**values | {"loss": [] if before.loss is None else [Loss("unnamed", *before.loss)]})


def losses_of(row: list[Any] | None) -> list[Loss]:
    """The losses of a usage row. A host of an earlier release, still running on this schema, writes [requests, [tokens]]."""
    if row and not isinstance(row[0], list):
        row = [["unnamed", *row]]
    return [Loss(cause, requests, Counts(*counts)) for cause, requests, counts in row or ()]


def losses_shown(row: list[Any] | None) -> list[dict[str, Any]]:
    """The losses of a usage row as people and programs read them: cause, requests, and the classes that lost something."""
    return [
        {
            "cause": cause,
            "requests": requests,
            "counts": {name: count for name, count in counts._asdict().items() if count},
        }
        for cause, requests, counts in losses_of(row)
    ]


def spending_order(terms: BucketTerms) -> tuple[int, int, str]:
    """Buckets are spent by priority, then expiry, then id."""
    return (terms.priority, terms.valid_until_ms or 2**62, terms.bucket_id)


def hold_rate(terms: BucketTerms, lookup: RateLookup, model: str) -> HoldRate | None:
    """What a request for `model` costs at most in a bucket, or None where the bucket may not pay for it."""
    if terms.kind == "cap":
        weights = CAP_WEIGHTS
    else:
        found = lookup(terms.rate_version, model.removeprefix(FOLLOW_UP))
        if found is None or ("*" not in terms.model_classes and found[0] not in terms.model_classes):
            return None
        weights = found[1]
        if terms.unit == "prompt" and model.startswith(FOLLOW_UP):
            weights = weights._replace(request=0)
    return HoldRate(
        weights.request,
        weights.most_input,
        weights.most_output,
        terms.unit in WHOLE_UNITS,
        weights,
        tuple(weights[1:]),
    )


def is_nothing(need: Need) -> bool:
    return not (need.requests or need.input_tokens or need.output_tokens)


def cover(rate: HoldRate, available: int, need: Need) -> tuple[int, Need]:
    """How much of `need` a bucket with `available` can hold: the quantity, and what is left to hold elsewhere.

    Whole requests and tokens only; the request first, then input, then output. A bucket that is counted in requests
    pays no remainder of one that another bucket began; one that is counted in tokens takes the request only with a token.
    """
    if rate.whole and not need.requests:
        return 0, need
    requests = need.requests if not rate.request else min(need.requests, available // rate.request)
    taken = requests * rate.request
    if requests < need.requests:
        return taken, Need(need.requests - requests, need.input_tokens, need.output_tokens)
    inputs = (
        need.input_tokens
        if not rate.input_token
        else min(need.input_tokens, (available - taken) // rate.input_token)
    )
    if not inputs and need.input_tokens:
        return 0, need
    taken += inputs * rate.input_token
    if inputs < need.input_tokens:
        return taken, Need(0, need.input_tokens - inputs, need.output_tokens)
    outputs = (
        need.output_tokens
        if not rate.output_token
        else min(need.output_tokens, (available - taken) // rate.output_token)
    )
    if not inputs and not outputs and need.output_tokens and not rate.whole:
        return 0, need
    taken += outputs * rate.output_token
    return taken, Need(0, 0, need.output_tokens - outputs)


def most(weights: Weights, need: Need) -> int:
    """The most that `need` can cost by these weights."""
    return (
        need.requests * weights.request
        + need.input_tokens * weights.most_input
        + need.output_tokens * weights.most_output
    )


def cost(rate: HoldRate, need: Need) -> int:
    """What holding all of `need` takes of one bucket."""
    return (
        need.requests * rate.request
        + need.input_tokens * rate.input_token
        + need.output_tokens * rate.output_token
    )


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
class Granted:
    """The ledger's answer to a grant: what was added to which grant, and what the bucket has left."""

    grant_id: str
    added: int
    remaining: int
    spend_for_s: float
    behind: bool = False


# Money: what is owed, and what is moved by hand.

ChargeKind = Literal["cycle", "step", "change", "credit", "refund", "adjustment"]


@dataclass(frozen=True, slots=True)
class Charge:
    """One thing that a subscriber owes for, or is credited (negative). Amounts include VAT."""

    charge_id: UUID
    account_id: UUID
    subscriber_id: UUID
    product_id: UUID | None
    offering_version: str | None
    kind: ChargeKind
    number: int
    charged_at: datetime
    period_start: datetime
    period_end: datetime | None
    description: str
    description_zh: str
    price_nano: int
    share_num: int
    share_den: int
    amount_nano: int
    vat_percent: int
    tax_nano: int
    currency: str
    entry_id: UUID
    of_charge_id: UUID | None
    quantity: int
    recognise: Literal["usage", "time", "none"]
    recognised_nano: int
    broken_nano: int
    refunded_nano: int
    credited_nano: int
    closed_at: datetime | None
    bill_id: UUID | None
    line_no: int | None
    # Of a credit whose charge is on a bill: what it takes off that bill's line, in whole fen, and the rounding's entry.
    settles_bill_id: UUID | None = None
    settles_line_no: int | None = None
    settled_nano: int | None = None
    settled_tax_nano: int | None = None
    settled_entry_id: UUID | None = None

    @property
    def net_nano(self) -> int:
        return self.amount_nano - self.tax_nano

    @property
    def owed_nano(self) -> int:
        """What is paid for and not delivered yet: the customer liability of this charge."""
        if self.recognise == "none":
            return 0
        return self.net_nano - self.recognised_nano - self.broken_nano - self.refunded_nano


@dataclass(frozen=True, slots=True)
class Sale:
    """What is sold: to whom, for which time, at which price, and how much of it (`share_num / share_den` of the price)."""

    account_id: UUID
    subscriber_id: UUID
    product_id: UUID
    offering_version: str
    rate_version: str
    kind: ChargeKind
    number: int
    period_start: datetime
    period_end: datetime | None
    description: str
    description_zh: str
    price_nano: int
    currency: str
    vat_percent: int
    specs: Sequence[BucketSpec]
    recognise: Literal["usage", "time"]
    # (whole units at most, None for all; until when) of what is left at the period's end.
    rollover: tuple[int | None, datetime] | None = None
    share_num: int = 1
    share_den: int = 1
    # The quantity comes, and costs nothing.
    free: bool = False


@dataclass(frozen=True, slots=True)
class BillLine:
    """What a bill says of some charges: `charged_nano` exactly, `amount_nano` in whole fen, tax included."""

    bill_id: UUID
    line_no: int
    account_id: UUID
    product_id: UUID | None
    offering_version: str | None
    kind: ChargeKind
    description: str
    description_zh: str
    charges: int
    charged_nano: int
    amount_nano: int
    vat_percent: int
    tax_nano: int
    entry_id: UUID | None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`amount` in thousandths of the bucket's unit, below zero to take away."""

    adjustment_id: UUID
    account_id: UUID
    bucket_id: UUID
    amount: int
    unit: str
    reason: str
    asked_by: str
    asked_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    state: Literal["asked", "done", "refused"]


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
