"""A metered request's state: which fields exist from which moment on.

A request is one object from its arrival to its end; its type says how far it is. A function that takes a `Known` reads
what is known once the key and the body are; it can't be handed a request that has merely `Arrived`. A field of a later
stage is unset before its moment: reading it is an AttributeError, and no field is None to say "not yet".

    Arrived  its head and body are here
    Known    the key is known, the body is read, and it has (or looks for) a model
    Held     what it can cost is known and held; it looks for a deployment

Each attempt at a deployment is an object of its own, so that a new attempt knows nothing of the last one's answer:

    Placed     it has a deployment, and is or will be on its way there
    Answering  what came from there
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Final, NamedTuple

from tokenworks.charging import Admission, Hold, Limit, Need, SliceWait, UsageRecord
from tokenworks.factory import Candidate, Choice, DeploymentView, PlacementRequest
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import Parsed
from tokenworks.gateway.protocol.meter import StreamMeter
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Route

# What the gateway adds is measured of requests that came in one of so many milliseconds: a measurement costs what ten lines do.
MEASURED_EVERY_MS: Final = 8


class ArrivedRequest:
    """A request's head and body are here. What can happen to any request, however early, is noted here, too."""

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
        "conn",
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
        "paused",
        "pending_hold",
        "places",
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
        "streams",
        "tried",
        "usage_id",
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
        """`began_s`: monotonic seconds. `free`: it counts tokens, which produces nothing and costs nothing."""
        self.conn: ClientConnection | None = conn  # None: the client has gone, or has its answer
        self.head = head
        self.body = body
        self.protocol = protocol
        self.free = free
        self.request_id = shared.ids.next()
        self.started_ms = shared.ids.ms  # of the latest attempt, once there is one
        self.began_s = began_s
        self.address = conn.address
        self.is_known = False  # by its key: from then on it has a user
        self.ended = False
        # What it got so far.
        self.model = ""
        self.intent: str | None = None  # that was named in place of a model
        self.choice: str | None = None  # why it got this model for its intent
        self.places: Sequence[DeploymentView] = ()
        self.tried: list[str] = []
        self.attempt_no = 0
        self.usage_id = ""  # of the attempt in flight
        self.deployment = ""  # of the latest attempt
        self.hold: Hold | None = None
        # What it waits for.
        self.pending_hold: SliceWait | None = None
        self.queue_number = 0  # of what waits for room at the deployments
        self.queued_ms = 0
        self.deferred = False  # it looks for a deployment again with the next tick
        self.counting = False  # a tokenizer, or an account, has to answer before it can end
        self.counted_here: bool | None = (
            None  # of count_tokens: whether our own tokenizer answered; None: not asked
        )
        # What its client got.
        self.streams = False  # it asked for a stream
        self.headed = False  # the response's head has left, maybe with pings alone
        self.response_head = b""
        self.sent = False  # content has left, so no other place may be tried
        self.first_byte_ms: int | None = None
        self.written_s = shared.wheel.now_s  # when something was last written
        self.paused = 0  # why the upstream is not read: bits of `attempt`
        self.kept_bytes = 0  # of the worker's memory budget
        # For whoever looks at it afterwards (`watching`). Of what this gateway added to its time: when it came (0.0: it is not
        # measured), when it was first sent, when the upstream was done.
        self.arrived_s = 0.0 if self.started_ms % MEASURED_EVERY_MS else perf_counter()
        self.sent_s: float
        self.over_s = 0.0
        self.admission: Admission | None = None  # under the limits of key, member, subscriber
        self.at_risk = 0  # tokens that it may cost beyond its hold, in the account's loss budget
        self.spent_tokens = 0
        self.record: UsageRecord | None = None
        self.answered = ""  # why it was answered whole and has no record
        self.refusal: Refusal | None = None
        self.failures: list[tuple[str, str]] | None = (
            None  # (deployment, cause) of attempts that gave nothing
        )


class KnownRequest(ArrivedRequest):
    """Its key is known (`set_user`), and its body is read (`set_parsed`)."""

    __slots__ = (
        "ask",
        "choices",
        "cuttable",
        "flex",
        "last_refusal",
        "object_place",
        "parsed",
        "queue_until_s",
        "restricted",
        "route",
        "stored_tokens",
        "user",
    )

    user: KeyEntry
    parsed: Parsed
    route: Route  # from the moment on at which it has a model
    flex: bool  # it may wait for the cheapest deployment
    choices: list[Choice]  # the next best models for its intent
    restricted: bool  # it got the cheaper model of its plan, for nothing was left for its own
    object_place: str  # where the upstream objects that it names were made
    stored_tokens: int  # of upstream objects that it goes on with
    ask: PlacementRequest | None  # what placement is asked; None until that was worked out for the model
    cuttable: bool  # a visible stream: its hold grows as it goes, and it ends where nothing is left
    queue_until_s: float  # when it stops waiting for room; 0.0: it did not wait yet
    last_refusal: Refusal | None  # of the attempts so far

    def set_user(self, user: KeyEntry) -> None:
        self.user = user
        self.is_known = True
        user.in_flight += 1

    def set_parsed(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.streams = parsed.stream
        self.flex = parsed.flex
        self.choices = []
        self.restricted = False
        self.object_place = ""
        self.stored_tokens = 0
        self.ask = None
        self.cuttable = False
        self.queue_until_s = 0.0
        self.last_refusal = None


class HeldRequest(KnownRequest):
    """What it can cost is known (`hold.Holds.size`), and held where `hold` is not None."""

    __slots__ = (
        "asked_s",
        "beside_text",
        "denied",
        "estimated",
        "held_output",
        "input_bound",
        "maximum",
        "more_output",
        "need",
        "rated",
        "room",
    )

    rated: str  # under which name charging rates it: the model's, marked where it is no prompt
    need: Need  # what it costs at most
    held_output: int  # output tokens that are held
    maximum: int | None  # of each choice, as the upstream is told
    input_bound: int  # tokens that the input has at most
    beside_text: int  # of them, what is no text: media, tools, a template, what is stored
    estimated: bool  # its input was counted or estimated, since the bound did not fit
    denied: bool  # the last extension
    more_output: int  # tokens that the extension in flight asks for
    room: "CapacityRequest"  # what it waits for at the deployments
    asked_s: float  # since when


class CapacityRequest(NamedTuple):
    """Deployments that are at limits of their own: any of them will do, in this order.

    `service`: a class of the recorder's queues; `otherwise`: the deployment that takes it where none has room at once.
    """

    candidates: Sequence[Candidate]
    limits: tuple[Limit, ...]
    service: int
    wait_ms: int
    otherwise: Candidate | None


class PlacedAttempt:
    """An attempt: it has a deployment, is on its way there, and holds a slot of it until it is `over`."""

    __slots__ = ("admission", "dropped", "foreseen_ms", "over", "place", "request", "upstream")

    request: HeldRequest
    place: DeploymentView
    foreseen_ms: float  # to its first token
    admission: Admission | None  # under the deployment's limits
    over: bool
    upstream: UpstreamConnection | None
    dropped: tuple[str, ...]  # fields that were not sent on


class AnsweredAttempt(PlacedAttempt):
    """What came from the deployment. `meter` is there where it is a stream, `chunks` where it is not (yet)."""

    __slots__ = (
        "chunks",
        "drain_until_s",
        "iterated",
        "measuring",
        "meter",
        "progress_at",
        "refused_status",
        "reported",
        "size",
        "stopped_s",
        "stopping",
        "undecided",
    )

    def __init__(
        self, request: HeldRequest, chosen: Candidate, admission: Admission | None, progress_tokens: int
    ) -> None:
        """`progress_tokens`: what its stream makes until its progress is reported."""
        self.request = request
        self.place = chosen.place
        self.foreseen_ms = chosen.first_token_ms
        self.admission = admission
        self.over = False
        self.upstream = None
        self.dropped = ()
        self.meter: StreamMeter | None = None
        self.undecided = False  # a stream was asked for, and what came does not say yet whether it is one
        self.refused_status = 0  # of an upstream answer that is no success
        self.chunks: list[bytes] = []
        self.size = 0  # of what is in them
        self.iterated = False  # its usage is the sum of several samplings, of which not all is shown
        self.measuring: bool | None = False  # its text, by the tokenizer; None: that can't be
        self.reported = False  # its progress, to the journal
        self.progress_at = progress_tokens
        self.stopping = False  # its stream has stopped, and its usage is late
        self.stopped_s = 0  # since when
        self.drain_until_s = 0.0  # its client has gone, and it is read until then
