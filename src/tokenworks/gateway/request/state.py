"""A metered request's state: the fields, and the stage from which on each of them exists.

A request is one object from its arrival to its end; its type is its stage. A function that takes a `KnownRequest` may read the key and
the body, and mypy refuses to hand it an `ArrivedRequest`. A field of a later stage is unset before it: to read the field raises an
AttributeError, and no field is None to mean "not yet".

    ArrivedRequest  its head and body are here
    KnownRequest    its key is known and its body parsed; it has, or looks for, a model
    HeldRequest     its cost is bounded and held; it has, or looks for, a deployment

Each attempt at a deployment is an object of its own, so that a new attempt has nothing of the last one's answer:

    PlacedAttempt    it has a deployment
    AnsweredAttempt  it has, or waits for, an answer
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Final, NamedTuple

from msgspec import Raw

from tokenworks.charging import Admission, Hold, Limit, Need, SliceWait, UsageRecord
from tokenworks.factory import Candidate, Choice, CredentialSlot, DeploymentView, PlacementRequest
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import Parsed, tags_of
from tokenworks.gateway.protocol.meter import StreamMeter
from tokenworks.gateway.request.answer_copy import AnswerCopy
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Route
from tokenworks.gateway.tracing import RequestTrace
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import Answer
from tokenworks.gateway.translate.translation import StreamTranslator, Translation

# The time that the gateway adds is measured for requests of one in this many milliseconds, since a measurement costs CPU.
MEASURED_EVERY_MS: Final = 8


class ArrivedRequest:
    """A request whose head and body are here, with the fields that every request has, however early it ends."""

    __slots__ = (
        "address",
        "admission",
        "answered",
        "arrived_s",
        "at_risk",
        "attempt_no",
        "began_s",
        "body",
        "choice",
        "compaction",
        "conn",
        "copy",
        "counted_here",
        "counting",
        "deferred",
        "deployment",
        "ended",
        "failures",
        "first_byte_ms",
        "free",
        "head",
        "headed",
        "hold",
        "intent",
        "is_known",
        "kept_bytes",
        "model",
        "over_s",
        "passed_over",
        "paused",
        "pending_hold",
        "protocol",
        "queue_number",
        "queued_ms",
        "record",
        "refusal",
        "request_id",
        "response_head",
        "sent",
        "sent_s",
        "spent_tokens",
        "started_ms",
        "stored",
        "stored_bytes",
        "streams",
        "trace",
        "translated",
        "tried",
        "usage_id",
        "views",
        "written_s",
    )

    def __init__(
        self,
        shared: Shared,
        conn: ClientConnection,
        head: Head,
        body: bytes,
        protocol: str,
        began_s: float,
        *,
        free: bool,
    ) -> None:
        """`began_s`: monotonic seconds. `free`: a `count_tokens` request, which produces no tokens and costs nothing."""
        self.conn: ClientConnection | None = conn  # None: the client has gone, or has its answer
        self.head = head
        self.body, self.protocol = body, protocol
        self.free = free
        self.request_id = shared.ids.next()
        self.started_ms = shared.ids.ms  # of the latest attempt, once there is one
        self.began_s = began_s
        self.address = conn.address
        self.is_known = self.ended = False  # known: the key is, and `user` is set
        # What the request has got so far.
        self.model = ""
        self.intent: str | None = None  # named by the client in place of a model
        self.choice: str | None = None  # why the intent chose this model
        self.views: Sequence[DeploymentView] = ()
        self.tried: list[str] = []
        self.translated: TranslatedRequest | None = None  # for a deployment of another protocol
        self.attempt_no = self.passed_over = 0  # passed over: of those tried, nothing was sent to so many
        self.usage_id = ""  # of the attempt in flight
        self.deployment = ""  # of the latest attempt
        self.hold: Hold | None = None
        # What the request waits for.
        self.pending_hold: SliceWait | None = None
        self.queue_number = 0  # of the request for capacity at deployments
        self.queued_ms = 0
        self.deferred = False  # the next tick looks for a deployment again
        self.counting = False  # the request can't end before a tokenizer or the recorder has answered
        self.counted_here: bool | None = None  # of count_tokens: our own tokenizer answered; None: not asked
        # What the client has got.
        self.streams = False  # the client asked for a stream
        self.headed = False  # the response's head has left, maybe with pings alone
        self.response_head = b""
        self.sent = False  # content has left, so no other deployment may be tried
        self.first_byte_ms: int | None = None
        self.written_s = shared.wheel.now_s  # when something was last written
        self.paused = 0  # why the upstream is paused: bits of `attempt`
        self.kept_bytes = 0  # of the worker's memory budget
        # For the log and the sums. What this gateway adds: from arrival (0.0: not measured) to the first attempt, and after the answer.
        self.arrived_s = 0.0 if self.started_ms % MEASURED_EVERY_MS else perf_counter()
        self.sent_s: float
        self.over_s = 0.0
        self.admission: Admission | None = None  # under the limits of key, member, subscriber
        self.at_risk = 0  # tokens that the request may cost beyond its hold, in the account's loss budget
        self.spent_tokens = 0
        self.record: UsageRecord | None = None
        self.answered = ""  # why a complete answer has no record
        self.refusal: Refusal | None = None
        self.failures: list[tuple[str, str]] | None = None  # (deployment, cause) of each that failed
        self.copy: AnswerCopy | None = None  # for the response cache, the log, or of a stream to be stored
        self.stored: ResponseToStore | None = None  # what is stored with its response
        self.stored_bytes = 0  # of the worker's memory budget, for the response that it continues
        self.compaction: Compaction | None = None  # None: the request asks for none
        self.trace: RequestTrace | None = None  # None: the request has no spans
        if shared.tracer is not None:
            self.trace = shared.tracer.begin(head.headers.get(b"traceparent"), self.started_ms)


class Compaction:
    """What a request has that asks for a compaction. `relayed`: its deployment compacts, and its answer is passed on; else the answer is
    a summary. `by_route`: asked by the route for it, and not by an item of the input. `streams`: the client asked for a stream. `users`:
    the user's messages, which stay. `key`, `sealed_key`: of the summary. `content`: the sealed summary, once there is one.
    """

    __slots__ = ("by_route", "content", "key", "relayed", "sealed_key", "streams", "users")

    def __init__(
        self, relayed: bool, by_route: bool, streams: bool, users: list[Raw], key: bytes, sealed_key: bytes
    ) -> None:
        self.relayed = relayed
        self.by_route = by_route
        self.streams = streams
        self.users = users
        self.key = key
        self.sealed_key = sealed_key
        self.content = ""


class ResponseToStore:
    """The part of a stored response that its request has. `items`: its whole input, with what it continues; `previous_id`: of the
    response that it continues, or None. `metadata`: of a chat completion, whose messages are its items.
    """

    __slots__ = ("items", "metadata", "previous_id")

    def __init__(self, items: list[Raw], previous_id: str | None, metadata: Raw | None = None) -> None:
        self.items = items
        self.previous_id = previous_id
        self.metadata = metadata


class TranslatedRequest:
    """A request in the protocol of deployments that do not speak the client's.

    `parsed`: its body, by the lists of that protocol; `dropped`: names of the client's fields that are not carried; `target`: the
    peculiarities for which it was written; `memory_bytes`: its part of the worker's memory budget.
    """

    __slots__ = ("dropped", "memory_bytes", "parsed", "protocol", "target", "translation")

    def __init__(
        self,
        translation: Translation,
        target: Target,
        parsed: Parsed,
        dropped: tuple[str, ...],
        memory_bytes: int,
    ) -> None:
        self.protocol = translation.upstream_protocol
        self.translation = translation
        self.target = target
        self.parsed = parsed
        self.dropped = dropped
        self.memory_bytes = memory_bytes


class KnownRequest(ArrivedRequest):
    """A request whose key is known (`set_user`) and whose body is parsed (`set_parsed`)."""

    __slots__ = (
        "choices",
        "cuttable",
        "fallbacks",
        "falls_back",
        "flex",
        "last_refusal",
        "logs_content",
        "native",
        "object_deployment",
        "own_body",
        "parsed",
        "placement_request",
        "queue_until_s",
        "restricted",
        "route",
        "shown_model",
        "stored_tokens",
        "tags",
        "user",
        "wants_cost",
    )

    user: KeyEntry
    parsed: Parsed
    route: Route  # set with the model
    native: (
        int  # of `views`: so many at the beginning speak the client's protocol, and the others are after them
    )
    flex: bool  # the request may wait for the cheapest deployment
    choices: list[Choice]  # the next best models for its intent
    fallbacks: tuple[
        str, ...
    ]  # names of the models to fall back to after those, by the client, the key or the plan
    falls_back: bool  # it had such models
    own_body: (
        bytes | None
    )  # as its client sent it, if it is logged or may be a repeat, and has been given another one
    shown_model: str  # the name of its model in the answer: as the client, the key or the plan wrote it
    restricted: bool  # it got the plan's cheaper model, since nothing was left for the model that it named
    object_deployment: str  # the deployment that made the upstream objects that the request names
    stored_tokens: int  # of upstream objects that the request continues
    placement_request: PlacementRequest | None  # None until it is made for the model
    cuttable: bool  # a visible stream, which extends its hold and ends when nothing is left
    queue_until_s: float  # when it stops waiting for capacity; 0.0: it has not waited yet
    last_refusal: Refusal | None  # of the attempts so far
    logs_content: bool  # its key had its log on when the request came: a change concerns later requests
    tags: dict[str, str] | None  # of its usage record
    wants_cost: bool  # the client requests the cost in the answer

    def set_user(self, user: KeyEntry) -> None:
        self.user = user
        self.is_known = True
        self.logs_content = user.logs_content
        self.own_body = None
        user.in_flight += 1

    def set_parsed(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.streams = parsed.stream
        self.flex = parsed.flex
        self.choices = []
        self.fallbacks = ()
        self.falls_back = False
        self.shown_model = parsed.model
        self.restricted = False
        self.object_deployment = ""
        self.stored_tokens = 0
        self.placement_request = None
        self.cuttable = False
        self.queue_until_s = 0.0
        self.last_refusal = None
        self.wants_cost = parsed.wants_cost or self.head.wants_cost
        self.tags = None
        if parsed.tagged or self.head.tags is not None:
            self._set_tags(parsed)

    def _set_tags(self, parsed: Parsed) -> None:
        found = tags_of(parsed.outer_fields if parsed.scan is None else parsed.fields, self.head.tags or {})
        self.tags = found.values or None
        parsed.dropped += found.left_out


class HeldRequest(KnownRequest):
    """A request whose cost is bounded (`hold.Holds.size`) and, if `hold` is not None, held."""

    __slots__ = (
        "asked_s",
        "beside_text",
        "capacity_request",
        "denied",
        "estimated",
        "held_output",
        "input_bound",
        "maximum",
        "more_output",
        "need",
        "rated",
    )

    rated: str  # the name under which charging rates it: the model's, marked if it is no prompt
    need: Need  # the most that it costs
    held_output: int  # output tokens that are held
    maximum: int | None  # output tokens of each choice, as sent to the upstream
    input_bound: int  # the most tokens that the input has
    beside_text: int  # of them those that are no text: media, tools, a template, stored objects
    estimated: bool  # its input was counted or estimated, since the bound did not fit what is left
    denied: bool  # the last extension of the hold was denied
    more_output: int  # tokens of the pending extension
    capacity_request: "CapacityRequest"  # the latest request for capacity
    asked_s: float  # when capacity was requested


class CapacityRequest(NamedTuple):
    """A request for capacity at one of several deployments with limits of their own, the best first.

    `service`: a class of the recorder's queues. `otherwise`: the deployment that takes the request if none of them has capacity at
    once.
    """

    candidates: Sequence[Candidate]
    limits: tuple[Limit, ...]
    service: int
    wait_ms: int
    otherwise: Candidate | None


class PlacedAttempt:
    """An attempt that has a deployment, and a slot there until it is `over`."""

    __slots__ = (
        "admission",
        "dropped",
        "foreseen_ms",
        "heads_number",
        "over",
        "parsed",
        "protocol",
        "request",
        "slot",
        "translated",
        "upstream",
        "view",
    )

    request: HeldRequest
    view: DeploymentView
    protocol: str  # in which the deployment is spoken to, and its answer is metered
    parsed: Parsed  # the body, in that protocol
    translated: TranslatedRequest | None  # None: the deployment speaks the client's protocol
    foreseen_ms: float  # predicted time to its first token
    admission: Admission | None  # under the deployment's limits
    over: bool
    upstream: UpstreamConnection | None
    dropped: tuple[str, ...]  # fields that were not sent on
    slot: CredentialSlot | None  # the credential that it was sent with; None: the deployment has one or none
    heads_number: int  # of the worker's credentials when it was sent


class AnsweredAttempt(PlacedAttempt):
    """An attempt with its deployment's answer: a stream has a `meter`, any other answer is in `chunks`."""

    __slots__ = (
        "chunks",
        "drain_until_s",
        "end",
        "end_failed",
        "iterated",
        "measuring",
        "meter",
        "progress_at",
        "refused_status",
        "reported",
        "size",
        "stopped_s",
        "stopping",
        "translator",
        "undecided",
        "whole",
    )

    def __init__(
        self,
        request: HeldRequest,
        chosen: Candidate,
        admission: Admission | None,
        progress_tokens: int,
        translated: TranslatedRequest | None = None,
    ) -> None:
        """`progress_tokens`: a stream's progress is reported after this many. `translated`: the request, if the deployment does not
        speak the client's protocol.
        """
        self.request = request
        self.translated = translated
        if translated is None:
            self.protocol, self.parsed = request.protocol, request.parsed
        else:
            self.protocol, self.parsed = translated.protocol, translated.parsed
        self.view = chosen.view
        self.foreseen_ms = chosen.first_token_ms
        self.admission = admission
        self.over = False
        self.upstream = None
        self.dropped = ()
        self.slot = None
        self.heads_number = 0
        self.meter: StreamMeter | None = None
        self.translator: StreamTranslator | None = None  # of a translated stream
        self.whole: Answer | None = None  # a translated answer that is not streamed
        self.end: bytes | None = None  # the last events of a translated stream
        self.end_failed = False  # they could not be translated
        self.undecided = (
            False  # a stream was requested, and the first bytes do not show yet whether this is one
        )
        self.refused_status = 0  # of an upstream answer that is no success
        self.chunks: list[bytes] = []
        self.size = 0  # bytes in `chunks`
        self.iterated = False  # the usage is the sum of several samplings, not all of which are shown
        self.measuring: bool | None = False  # the tokenizer measures the text; None: it can't
        self.reported = False  # progress was reported to the journal
        self.progress_at = progress_tokens
        self.stopping = False  # the stream has stopped, and its usage is late
        self.stopped_s = 0  # when it stopped
        self.drain_until_s = 0.0  # the client has gone, and the answer is read until then; 0.0: it has not
