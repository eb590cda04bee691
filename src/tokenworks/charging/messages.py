"""The messages of charging as types: the frames between a worker and its host's recorder, the operations in the journal, the usage record.

A message is an array of its fields in the order in which they are declared (`array_like`); an operation's first element is its kind
(`tag`). A new field is added at the end and has a default, so that what an earlier release wrote can still be read. Any other change
needs a new frame kind or a new `wire.VERSION`, and for the journal a new kind of payload (`payload.py`).

Invariants
- An acknowledged message is on disk.
- A message number is used once: a worker numbers its batches 1, 2, 3, …, and the recorder takes each number once.
- What the journal holds settles the same, whichever release wrote it.

This module has only types and no logic, so that it need not be compiled: a compiled Struct loses its configuration and its `Literal`s.
Ids are 32 hex digits, amounts are in the smallest part of a bucket's unit, times are milliseconds since 1970 unless their
name says otherwise.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Raw, Struct

from tokenworks.catalog import Counts

State = Literal["complete", "interrupted", "replayed"]
CountedBy = Literal["provider", "progress", "tokenizer", "estimate"]
BucketKind = Literal["balance", "cap", "window"]
WorkerId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Verdict(IntEnum):
    """The recorder's answer to a request for slices. The numbers are those of `wire.verdict_code`."""

    ENOUGH = 0
    NOTHING_LEFT = 1
    ELSEWHERE = 2
    """Other hosts or workers hold what would cover the request: it may be free in a moment."""
    AWAY = 3
    """The database or the recorder does not answer."""
    PAYS_AS_IT_GOES = 4
    """Nothing is left. For a request, more would be bought; for a count of tokens, nothing is bought."""
    WINDOW_USED_UP = 16
    """A window's quantity is used up. Beside this verdict stand the seconds until the earliest use leaves the window."""


# Types that several messages use.


class Need(Struct, frozen=True, array_like=True, gc=False):
    """What a request may cost at most: one request, tokens in and tokens out."""

    requests: int
    input_tokens: int
    output_tokens: int


class BucketTerms(Struct, frozen=True, array_like=True, gc=False):
    """What never changes of a bucket. `windows`: buckets that are charged the same beside this one (a quantity for any 5 hours, a week)."""

    bucket_id: str
    account_id: str
    kind: BucketKind
    unit: str
    priority: int
    valid_until_ms: int | None
    model_classes: tuple[str, ...]
    rate_version: str
    windows: tuple[str, ...] = ()


class Limit(NamedTuple):
    """A protective limit: the most of each, 0 for no limit."""

    limit_id: str
    requests_per_min: int
    tokens_per_min: int
    streams_max: int


class QueueEntry(NamedTuple):
    """Where a request is queued: the queue, its account with its weight and class of service, and how long it waits at most."""

    queue: str
    account_id: str
    weight: int
    service: int
    wait_ms: int


class Amount(Struct, frozen=True, array_like=True, gc=False):
    """An amount of one grant: used by a record, or returned."""

    bucket_id: str
    grant_id: str
    amount: int


class HeldAmount(Struct, frozen=True, array_like=True, gc=False):
    """What an attempt holds of one bucket. `weights`: what one request and one token of each class cost there."""

    bucket_id: str
    grant_id: str
    rate_version: str
    unit: str
    kind: BucketKind
    amount: int
    weights: tuple[int, ...]


# The usage record. It is JSON in the journal, and settlement passes that JSON to the database.


class Part(NamedTuple):
    """What one bucket pays of a record. `counts` is None if the part pays for the whole record."""

    bucket_id: str
    grant_id: str
    rate_version: str
    unit: str
    kind: BucketKind
    amount: int
    requests: int
    counts: Counts | None


class Loss(NamedTuple):
    """What the operator bears of a record: `requests` (0 or 1) and tokens by class. `cause` is one of `LOSS_CAUSES`."""

    cause: str
    requests: int
    counts: Counts


class UsageRecord(Struct, omit_defaults=True):
    """A usage record as the journal keeps it and the settling statement reads it."""

    account_id: str
    usage_id: str
    request_id: str
    attempt_no: int
    key_id: str
    member_id: str
    protocol: str
    model: str
    deployment: str
    state: State
    reason: str
    counted_by: CountedBy
    started_ms: int
    ended_ms: int
    first_byte_ms: int | None
    latency_ms: int
    c: Counts
    provider_total: int | None
    parts: list[Part]
    loss: list[Loss]
    flags: list[str]
    upstream_id: str | None
    # False where the request continues with a tool's result, which a plan that counts prompts does not count.
    prompt: bool = True
    # The name that the client requested, and why the request got this model, if the name is an intent's and not a model's.
    asked: str | None = None
    choice: str | None = None
    # (requests, tokens) that neither the hold nor the host could pay: settlement charges them to what the account has left.
    unpaid: tuple[int, Counts] | None = None
    # Tokens that may have been produced and are not charged: they count for the account's loss budget of the day.
    risk_tokens: int = 0
    # The client's own id of the request, and (deployment, cause) of the attempts before this one. With `choice` they are one text in
    # the database (`routing_note`).
    client_request_id: str | None = None
    tried: list[tuple[str, str]] | None = None
    # Of a `replayed` record: the record whose answer was given again, and the share of its charge in percent (`replay.share_of`).
    replay_of: str | None = None
    replay_percent: int | None = None
    # The client's own words on the request, by name; in the database they are in that text, too.
    tags: dict[str, str] | None = None


class LegacyUsageRecord(UsageRecord):
    """A usage record of a release before schema 0011: its loss is (requests, tokens by class), without a cause."""

    loss: tuple[int, Counts] | None  # type: ignore[assignment]


# Operations in the journal.


class Attempt(Struct, array_like=True, gc=False):
    """One attempt of a request at one deployment: the fields that its start and its record share."""

    usage_id: str
    account_id: str
    request_id: str
    attempt_no: int
    key_id: str
    member_id: str
    protocol: str
    model: str
    deployment: str
    started_ms: int


class AttemptStart(Attempt):
    """The start of an attempt and what it holds, in order. `held` is replaced as the hold grows with its stream."""

    held: list[HeldAmount]


class Start(AttemptStart, tag=0):
    """An attempt began."""


class Progress(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """What the attempt is known to have produced so far, and what it holds by now."""

    usage_id: str
    counts: Counts
    first_byte_ms: int | None
    now_ms: int
    held: list[HeldAmount]


class Finish(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """An attempt ended. `record` is its usage record as JSON, which the recorder does not decode: `used` has what it needs."""

    usage_id: str
    account_id: str
    used: list[Amount]
    record: bytes


class FinishAtRisk(Finish, frozen=True, tag=2):
    """A finish with tokens that may have been produced and are not charged. A finish without them is read as this type, too."""

    ended_ms: int = 0
    risk_tokens: int = 0


class Drop(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An attempt produced nothing: it leaves no record."""

    usage_id: str


JournalOp = Start | Progress | FinishAtRisk | Drop
"""An operation as it is read."""
WrittenOp = Start | Progress | Finish | Drop
"""An operation as it is written: a finish without a risk is two fields shorter."""


class OpenAttempt(Struct, array_like=True, gc=False):
    """An attempt that has not ended, with its last reported progress, as a checkpoint has it."""

    worker_id: str
    start: AttemptStart
    counts: Counts | None
    first_byte_ms: int | None
    progress_ms: int


class Checkpoint(Struct, frozen=True, array_like=True, gc=False):
    """All that is open where a segment begins: attempts, and the last message of each worker."""

    attempts: list[OpenAttempt]
    last_message: dict[str, int]


class JournalBatch(Struct, frozen=True, array_like=True, gc=False):
    """One message of a worker to the journal. The bytes of this frame are written to the journal unchanged."""

    number: int
    ops: list[JournalOp]


class WrittenBatch(Struct, frozen=True, array_like=True, gc=False):
    """`JournalBatch` as a worker writes it."""

    number: int
    ops: Sequence[WrittenOp]


# Worker to recorder.


class Hello(Struct, frozen=True, array_like=True, gc=False):
    """The first frame of a connection."""

    worker_id: WorkerId
    pid: int


class SliceState(Struct, frozen=True, array_like=True, gc=False):
    """What a worker has of a grant, free and held together, as of the last message that the recorder knows."""

    account_id: str
    bucket_id: str
    grant_id: str
    outstanding: int


class SliceRequest(Struct, frozen=True, array_like=True, gc=False):
    """A request for slices, as the worker's slices do not cover a hold. `free`: what the worker has free of each bucket. `prefetch`: a
    slice runs low and is filled up ahead; no client waits.
    """

    number: int
    account_id: str
    cap_ids: Sequence[str]
    model: str
    need: Need
    free: dict[str, int]
    prefetch: bool


class SliceReturn(Struct, frozen=True, array_like=True, gc=False):
    """What a worker returns of its slices. `recall_number` is 0 if no recall asked for it."""

    recall_number: int
    account_id: str
    amounts: list[Amount]


class LimitRequest(Struct, frozen=True, array_like=True, gc=False):
    """A request of about so many tokens is to be admitted under all of these limits."""

    number: int
    tokens: int
    limits: Sequence[Limit]


class LimitReturn(Struct, frozen=True, array_like=True, gc=False):
    """What was reserved of a limit and not used. `tokens` is negative if more was used. `ended`: the request is over."""

    limit_id: str
    slot: int
    requests: int
    tokens: int
    ended: bool


class LimitSlot(Struct, array_like=True, gc=False):
    """The requests that began in one slot (a tenth of a second) of a limit's minute, and their tokens."""

    slot: int
    requests: int
    tokens: int


class LimitState(Struct, frozen=True, array_like=True, gc=False):
    """For a new recorder: what a worker has in flight under a limit, and what began within the minute."""

    limit: Limit
    in_flight: int
    slots: list[LimitSlot]


class QueueRequest(Struct, frozen=True, array_like=True, gc=False):
    """A request of about so many tokens is to be admitted under one of these limits, now or within its time to wait."""

    number: int
    tokens: int
    limits: Sequence[Limit]
    queued: QueueEntry


class QueueReturn(Struct, frozen=True, array_like=True, gc=False):
    """A request that was admitted from a queue is over."""

    queue: str
    account_id: str
    counted_tokens: int
    used_tokens: int


class Request(Struct, frozen=True, array_like=True, gc=False):
    """A question to the wiring. `name` decides the type of `argument`."""

    number: int
    name: str
    argument: Raw


# Recorder to worker.


class Welcome(Struct, frozen=True, array_like=True, gc=False):
    """The answer to `Hello`: the number of the worker's last message that is in the journal."""

    last_number: int


class Ack(Struct, frozen=True, array_like=True, gc=False):
    """Every message up to this one is on disk."""

    number: int


class SliceGrant(Struct, frozen=True, array_like=True, gc=False):
    """More of a grant, or (amount 0) a renewal of its lease, which ends at a time of the host's boot clock."""

    account_id: str
    grant_id: str
    terms: BucketTerms
    amount: int
    spend_until_boot_ns: int


class SliceAnswer(Struct, frozen=True, array_like=True, gc=False):
    """The answer to a `SliceRequest`; `code` is a verdict and its seconds (`wire.verdict_code`)."""

    number: int
    code: int


class Recall(Struct, frozen=True, array_like=True, gc=False):
    """The worker is to return what it has free of these buckets; if `closing`, also what requests release later."""

    number: int
    account_id: str
    bucket_ids: list[str]
    closing: bool


class LimitAnswer(Struct, frozen=True, array_like=True, gc=False):
    """`wait_ms` 0: the request is admitted, in `slot`. Else how long to wait, `which` of the limits is short, and `what` of it."""

    number: int
    wait_ms: int
    which: int
    what: int
    slot: int


class LimitLeft(NamedTuple):
    """What this host's minute of a limit still admits; 0 as well where the limit has no maximum of it."""

    requests: int
    tokens: int


class AdmittedAnswer(LimitAnswer, frozen=True):
    """`left`: of each of the limits, in their order; empty for a request that is not admitted, and from an earlier release."""

    left: tuple[LimitLeft, ...] = ()


class QueueAnswer(LimitAnswer, frozen=True):
    """`which`: the limit that has room. `counted_tokens`: as how many tokens the request counts in its account's share."""

    counted_tokens: int


class Reply(Struct, frozen=True, array_like=True, gc=False):
    """The answer to a `Request`. The question's name decides its type; nil if the recorder could not answer."""

    number: int
    answer: Raw


class Publication(Struct, frozen=True, array_like=True, gc=False):
    """Content for every worker. `name` decides its type."""

    name: str
    content: Raw
