"""The messages of charging as types: the frames between a worker and its host's recorder, the operations in the journal, the usage record.

A message is an array of its fields in the order in which they stand here (`array_like`); an operation's first element is its kind
(`tag`). A field is added at the end and with a default, so that what a release before wrote is still read; any other change takes a new
frame kind or a new `wire.VERSION`, and for the journal a new kind of payload (`payload.py`).

Invariants of those who send and read them
- An acknowledged message is on disk.
- A message number is used once: a worker numbers its batches 1, 2, 3, …, and the recorder takes each number once.
- What the journal holds settles the same, whichever release wrote it.

This module has types alone and no logic: a compiler of the rest leaves it out, since a compiled Struct loses its configuration and its
`Literal`s. Ids are 32 hex digits, amounts are in the smallest part of a bucket's unit, times are milliseconds since 1970 unless their
name says otherwise.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Raw, Struct

from tokenworks.catalog import Counts

State = Literal["complete", "interrupted"]
CountedBy = Literal["provider", "progress", "tokenizer", "estimate"]
BucketKind = Literal["balance", "cap", "window"]
WorkerId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Verdict(IntEnum):
    """What the recorder says of a request for slices. The numbers are those of `wire.verdict_code`."""

    ENOUGH = 0
    NOTHING_LEFT = 1
    ELSEWHERE = 2
    """Other hosts or workers hold what would cover it: it may be there in a moment."""
    AWAY = 3
    """The database does not answer, or the recorder does not."""
    PAYS_AS_IT_GOES = 4
    """Nothing is left, and what is missing would be bought, but not for a count of tokens."""
    WINDOW_USED_UP = 16
    """A window's quantity is used up; the number of seconds until the first use comes back stands beside it."""


# Words that several messages use.


class Need(Struct, frozen=True, array_like=True, gc=False):
    """What a request may cost at most: one request, tokens in and tokens out."""

    requests: int
    input_tokens: int
    output_tokens: int


class BucketTerms(Struct, frozen=True, array_like=True, gc=False):
    """What never changes in a bucket. `windows`: buckets of which as much is drawn beside it (so much in any 5 hours, a week)."""

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
    """The most of each; 0 is no limit."""

    limit_id: str
    requests_per_min: int
    tokens_per_min: int
    streams_max: int


class QueueEntry(NamedTuple):
    """What a request says of itself that would rather wait than be refused."""

    queue: str
    account_id: str
    weight: int
    service: int
    wait_ms: int


class Amount(Struct, frozen=True, array_like=True, gc=False):
    """So much of one grant: used by a record, or given back."""

    bucket_id: str
    grant_id: str
    amount: int


class HeldAmount(Struct, frozen=True, array_like=True, gc=False):
    """What an attempt holds of one bucket, and what one request and one token of each class cost there."""

    bucket_id: str
    grant_id: str
    rate_version: str
    unit: str
    kind: BucketKind
    amount: int
    weights: tuple[int, ...]


# The usage record, which is JSON in the journal and goes to the database as it came.


class Part(NamedTuple):
    """What one bucket pays of a record. `counts` is None where the part pays for the whole record."""

    bucket_id: str
    grant_id: str
    rate_version: str
    unit: str
    kind: BucketKind
    amount: int
    requests: int
    counts: Counts | None


class Loss(NamedTuple):
    """What the operator bears of a record, and why: `requests` (0 or 1) and tokens by class."""

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
    # Whether a person asked; else it goes on with a tool's result, which a plan of prompts does not count.
    prompt: bool = True
    # What the client asked for, and why it got this model, where it named an intent and not a model.
    asked: str | None = None
    choice: str | None = None
    # (requests, tokens) that neither the hold nor the host could pay: settlement draws them from what the account has left.
    unpaid: tuple[int, Counts] | None = None
    # Tokens that may have been produced and are not charged: they count for the account's loss budget of the day.
    risk_tokens: int = 0
    # By which id the client named the request, and (deployment, cause) of the attempts before this one: with `choice` they
    # are one text of the row (`routing_note`).
    client_request_id: str | None = None
    tried: list[tuple[str, str]] | None = None


class LegacyUsageRecord(UsageRecord):
    """As journals of releases before schema 0011 have it: (requests, tokens by class) that the operator bears, without a cause."""

    loss: tuple[int, Counts] | None  # type: ignore[assignment]


# Operations in the journal.


class Attempt(Struct, array_like=True, gc=False):
    """One try of a request at one deployment: what its start and its record say of it."""

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
    """An attempt's beginning and what it holds, in order. A hold grows while its stream runs: `held` is what it is by now."""

    held: list[HeldAmount]


class Start(AttemptStart, tag=0):
    """An attempt began."""


class Progress(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """What is known to have been produced so far, and what is held by now."""

    usage_id: str
    counts: Counts
    first_byte_ms: int | None
    now_ms: int
    held: list[HeldAmount]


class Finish(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """An attempt ended, with its record as JSON: the recorder has to know only what it used of what."""

    usage_id: str
    account_id: str
    used: list[Amount]
    record: bytes


class FinishAtRisk(Finish, frozen=True, tag=2):
    """A finish with tokens that may have been produced and are not charged. One without them is read as this type, too."""

    ended_ms: int = 0
    risk_tokens: int = 0


class Drop(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An attempt gave nothing: it leaves no record."""

    usage_id: str


JournalOp = Start | Progress | FinishAtRisk | Drop
"""An operation as it is read."""
WrittenOp = Start | Progress | Finish | Drop
"""An operation as it is written: one without a risk is two fields shorter."""


class OpenAttempt(Struct, array_like=True, gc=False):
    """An attempt that has not ended, with the last progress that was reported of it. As in a checkpoint."""

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
    """One message of a worker to the journal. The bytes of this frame go into the journal as they came."""

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
    """What a worker still has of a grant, free and held together, as of the last message that the recorder knows."""

    account_id: str
    bucket_id: str
    grant_id: str
    outstanding: int


class SliceRequest(Struct, frozen=True, array_like=True, gc=False):
    """A request that the worker's slices do not cover, and what it has free of each bucket. `soft`: a slice runs low and is filled up
    ahead; no client waits.
    """

    number: int
    account_id: str
    cap_ids: Sequence[str]
    model: str
    need: Need
    free: dict[str, int]
    prefetch: bool


class SliceReturn(Struct, frozen=True, array_like=True, gc=False):
    """What a worker returns of its slices. `recall_number` 0: without being asked."""

    recall_number: int
    account_id: str
    amounts: list[Amount]


class LimitRequest(Struct, frozen=True, array_like=True, gc=False):
    """May a request of about so many tokens begin under all of these limits?"""

    number: int
    tokens: int
    limits: Sequence[Limit]


class LimitReturn(Struct, frozen=True, array_like=True, gc=False):
    """What was reserved of a limit and not used: `tokens` below zero were used beyond. `ended`: the request is over."""

    limit_id: str
    slot: int
    requests: int
    tokens: int
    ended: bool


class LimitSlot(Struct, array_like=True, gc=False):
    """What began in one slot (a tenth of a second) of a limit's minute."""

    slot: int
    requests: int
    tokens: int


class LimitState(Struct, frozen=True, array_like=True, gc=False):
    """For a new recorder: what a worker has in flight under a limit, and what began within the minute."""

    limit: Limit
    in_flight: int
    slots: list[LimitSlot]


class QueueRequest(Struct, frozen=True, array_like=True, gc=False):
    """Which of these limits has room for a request of about so many tokens, now or within its time to wait?"""

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
    """A question for the wiring. The type of `argument` is that of the question's name."""

    number: int
    name: str
    argument: Raw


# Recorder to worker.


class Welcome(Struct, frozen=True, array_like=True, gc=False):
    """The last message of this worker that is in the journal."""

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
    """Give back what is free of these buckets; `closing`: and what is released later."""

    number: int
    account_id: str
    bucket_ids: list[str]
    closing: bool


class LimitAnswer(Struct, frozen=True, array_like=True, gc=False):
    """Milliseconds to wait (0: begin), which of the limits is short, what of it, and the slot that the request began in."""

    number: int
    wait_ms: int
    which: int
    what: int
    slot: int


class QueueAnswer(LimitAnswer, frozen=True):
    """`which`: the limit that has room. `counted_tokens`: as how many tokens the request counts for its account's share."""

    counted_tokens: int


class Reply(Struct, frozen=True, array_like=True, gc=False):
    """The answer to a `Request`. Its type is that of the question's name; nil where the recorder could not answer."""

    number: int
    answer: Raw


class Publication(Struct, frozen=True, array_like=True, gc=False):
    """News for every worker. The type of `content` is that of its name."""

    name: str
    content: Raw
