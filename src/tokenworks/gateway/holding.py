"""A request in flight and what it holds: at first, more as its stream goes, the rest where not all is covered.

A visible stream holds `stream_hold_tokens` of output and grows. A token shows as at least one byte, so the bytes shown
bound the tokens from above: what is over the hold is at most one upstream chunk, and the error of the input estimate.
What can't be cut (not streamed, or hidden reasoning) holds its whole output maximum, or the upstream is asked for less.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

from tokenworks.charging import (
    COUNT_NEED,
    FOLLOW_UP,
    Admission,
    Attempt,
    Hold,
    Limit,
    Need,
    Shortage,
    SliceWait,
    Start,
    UsageRecord,
    Verdict,
)
from tokenworks.factory import Ask, Choice, Place
from tokenworks.gateway.counting import Counted
from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.estimate import TEMPLATE_TOKENS, at_risk_tokens, bound_input, read_bytes
from tokenworks.gateway.fields import Parsed, is_prompt
from tokenworks.gateway.head import Head
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.refusals import CUT, no_hold, over_limit
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import Route
from tokenworks.gateway.stream import StreamMeter
from tokenworks.gateway.upstream import UpstreamConnection

if TYPE_CHECKING:
    from tokenworks.gateway.gateway import Gateway

# No output maximum is written where the context leaves less than this beside the input's bound.
OUTPUT_ROOM_TOKENS_MIN: Final = 256
# A text has at least a token for so many bytes: what the input surely takes of the context.
INPUT_BYTES_PER_TOKEN_MAX: Final = 16
# What is left is not worth a request where it covers fewer output tokens than this.
REST_TOKENS_MIN: Final = 16
# What the gateway adds is measured of requests that came in one of so many milliseconds: a measurement costs what ten lines do.
MEASURED_EVERY_MS: Final = 8
_FOR_CLIENT, _FOR_HOLD = 1, 2


class Holding:
    __slots__ = (
        "address",
        "admission",
        "answered",
        "arrived_s",
        "ask",
        "asked",
        "asking",
        "at_risk",
        "attempt_no",
        "began_s",
        "beside_text",
        "body",
        "choice",
        "choices",
        "chunks",
        "conn",
        "counted_here",
        "counting",
        "cuttable",
        "denied",
        "deployment",
        "drain_until_s",
        "dropped",
        "ended",
        "estimated",
        "failures",
        "first_byte_ms",
        "flex",
        "foreseen_ms",
        "free",
        "gateway",
        "head",
        "headed",
        "held_output",
        "hold",
        "input_bound",
        "iterated",
        "kept_bytes",
        "last_refusal",
        "maximum",
        "measuring",
        "meter",
        "model",
        "need",
        "object_place",
        "over_s",
        "parsed",
        "paused",
        "place",
        "place_admission",
        "places",
        "progress_at",
        "protocol",
        "queue_number",
        "queue_until_s",
        "queued_ms",
        "rated",
        "record",
        "refusal",
        "refused_status",
        "reported",
        "request_id",
        "response_head",
        "restricted",
        "route",
        "sent",
        "sent_s",
        "size",
        "spent_tokens",
        "started_ms",
        "stopped_s",
        "stored_tokens",
        "streaming",
        "streams",
        "tried",
        "undecided",
        "upstream",
        "usage_id",
        "user",
        "written_s",
    )  # fmt: skip

    def __init__(
        self,
        gateway: "Gateway",
        conn: ClientConnection,
        head: Head,
        body: bytes,
        protocol: str,
        began_s: float,
        *,
        free: bool,
    ) -> None:
        self.gateway = gateway
        self.conn: ClientConnection | None = conn
        self.head = head
        self.body = body
        self.protocol = protocol
        self.free = free  # count_tokens: produces nothing, costs nothing
        self.request_id = gateway.ids.next()
        self.started_ms = gateway.ids.ms
        self.began_s = began_s
        self.user: KeyEntry | None = None
        self.parsed: Parsed
        self.model = ""
        self.rated = ""  # under which name charging rates it: the model's, marked where it is no prompt
        self.need: Need
        self.route: Route
        self.places: Sequence[Place] = ()
        self.place: Place | None = None
        self.tried: list[str] = []
        self.ask: Ask | None = None  # what placement knows of it
        self.asked: str | None = None  # the intent that was named in place of a model
        self.choice: str | None = None  # and why it got this model
        self.choices: list[Choice] = []  # the next best ones
        self.flex = False  # it may wait for the cheapest deployment
        self.foreseen_ms = 0.0  # to its first token, where it is sent
        self.queue_number = 0  # of what waits for room at the deployments
        self.queue_until_s = 0.0
        self.queued_ms = 0
        self.attempt_no = 0
        self.usage_id = ""
        self.deployment = ""
        self.hold: Hold | None = None
        self.held_output = 0  # output tokens in it
        self.cuttable = (
            False  # a visible stream: its hold grows as it goes, and it ends where nothing is left
        )
        self.denied = False  # the last extension
        self.restricted = False
        self.asking: SliceWait | None = None
        self.admission: Admission | None = None  # under the limits of key, member, subscriber
        self.place_admission: Admission | None = None  # under the deployment's
        self.spent_tokens = 0
        self.address = conn.address
        self.maximum: int | None = None  # of each choice, as the upstream is told
        self.input_bound = 0  # tokens that the input has at most
        self.beside_text = 0  # of them, what is no text: media, tools, a template, what is stored
        self.object_place = ""  # where the upstream objects that it names were made
        self.stored_tokens = 0  # of upstream objects that it goes on with
        self.estimated = False  # its input was counted or estimated, since the bound did not fit
        self.at_risk = 0  # tokens that it may cost beyond its hold, in the account's loss budget
        self.streams = False  # its client asked for a stream
        self.headed = False  # the response's head has left, maybe with pings alone
        self.undecided = False  # a stream was asked for, and what came does not say yet whether it is one
        self.refused_status = 0  # of an upstream answer that is no success
        self.reported = False  # its progress, to the journal
        self.measuring: bool | None = False  # its text, by the tokenizer; None: that can't be
        self.dropped: tuple[str, ...] = ()  # fields that were not sent on
        self.iterated = False  # its usage is the sum of several samplings, of which not all is shown
        self.kept_bytes = 0  # of the worker's memory budget
        self.written_s = gateway.wheel.now_s  # when something was last written to the client
        self.stopped_s = 0  # since when its stream waits for its usage event
        self.drain_until_s = 0.0  # its client has gone, and it is read until then
        self.upstream: UpstreamConnection | None = None
        self.meter: StreamMeter | None = None
        self.streaming = False
        self.response_head = b""
        self.chunks: list[bytes] = []  # the answer, or of a stream what its tokenizer has to count
        self.counting = False
        # Of count_tokens: whether our own tokenizer answered; None before it was asked.
        self.counted_here: bool | None = None
        self.size = 0
        self.sent = False  # content has left, so no other place may be tried
        self.first_byte_ms: int | None = None
        self.progress_at = gateway.settings.progress_tokens
        self.last_refusal: Refusal | None = None
        self.paused = 0
        self.ended = False
        # For whoever looks at it afterwards (`watching`). Of what this gateway added to its time: when it came (0.0: it is not
        # measured), when it was first sent, when the upstream was done.
        self.arrived_s = 0.0 if self.started_ms % MEASURED_EVERY_MS else perf_counter()
        self.sent_s: float
        self.over_s = 0.0
        self.record: UsageRecord | None = None
        self.answered = ""  # why it was answered whole and has no record
        self.refusal: Refusal | None = None
        self.failures: list[tuple[str, str]] | None = (
            None  # (deployment, cause) of attempts that gave nothing
        )

    def _try(self) -> None:
        """It is held: send it."""
        raise NotImplementedError

    def refuse(self, refusal: Refusal) -> None:
        raise NotImplementedError

    def _check_model(self) -> Refusal | None:
        """Why the model can't have the request, by what is declared of it."""
        raise NotImplementedError

    def _take_places(self, route: Route) -> None:
        """The places of a route; of a request that goes on with an upstream's object the one where that was made."""
        made_at = self.object_place
        self.places = [p for p in route.places if p.name == made_at] if made_at else route.places

    def _next_choice(self) -> bool:
        """Whether there is another model for its intent; it is taken then."""
        raise NotImplementedError

    def _cut(self, verdict: Verdict) -> None:
        """What is held is spent, and there is no more."""
        raise NotImplementedError

    def _count(self, counted: Callable[[Counted | None], None], *, answer: bool = True) -> None:
        """Have the request counted by its model's tokenizer."""
        raise NotImplementedError

    def _finish(self) -> None:
        """It is over, and says nothing."""
        raise NotImplementedError

    # Before upstream.

    def _hold(self) -> None:
        """Reserve what the request can cost: its input by the bound from its bytes, its output by its maximum."""
        gateway, parsed, user, route = self.gateway, self.parsed, self.user, self.route
        assert user is not None
        self.rated = self.model
        if self.free:
            self.need, self.held_output = COUNT_NEED, 0
            if user.limits and self.admission is None:
                gateway.client.admissions.ask(user.limits, 0, self._admitted)
            else:
                self._reserve(COUNT_NEED)
            return
        if user.counts_prompts and not is_prompt(parsed, self.protocol):
            self.rated = FOLLOW_UP + self.model
        context = route.context_tokens
        # Which of the places will serve it is not known yet: the one where the input costs most bounds it.
        first, *others = route.rules
        most, _, self.beside_text = bound_input(parsed, self.protocol, first, self.stored_tokens)
        for rules in others:
            bound = bound_input(parsed, self.protocol, rules, self.stored_tokens)
            most = max(most, bound.tokens)
            self.beside_text = max(self.beside_text, bound.beside_text)
        self.input_bound = inputs = min(most, context * parsed.inputs)
        self.maximum = self._maximum_to_send(inputs)
        output = self._output_bound(context)
        self.need = need = Need(1, inputs, output)
        hidden = route.hides_reasoning or parsed.hidden_reasoning
        self.cuttable = parsed.stream and not hidden and output > gateway.settings.stream_hold_tokens
        self.held_output = gateway.settings.stream_hold_tokens if self.cuttable else output
        self.estimated = False
        if user.limits and self.admission is None:
            tokens = self._input_estimate() + self.held_output
            gateway.client.admissions.ask(user.limits, tokens, self._admitted)
            return
        self._reserve(Need(1, need.input_tokens, self.held_output))

    def _maximum_to_send(self, input_tokens: int) -> int | None:
        """The output maximum of each choice that the upstream is told; None where none is written.

        What the client gave is sent. Where it gave none, one is written only where neither the gateway can cut the
        answer (it is not streamed, or reasons out of sight) nor the engine ends it by itself.
        """
        parsed, route = self.parsed, self.route
        if parsed.output_tokens is not None or not parsed.output_field:
            return parsed.output_tokens
        visible = parsed.stream and not route.hides_reasoning and not parsed.hidden_reasoning
        if visible or route.caps_output:
            return None
        room = route.context_tokens - input_tokens
        return None if room < OUTPUT_ROOM_TOKENS_MIN else min(route.output_tokens, room)

    def _output_bound(self, context: int) -> int:
        """The most output tokens that the request can make, of all its choices."""
        if not self.parsed.output_field:
            return 0
        most = context - min(context - 1, self.parsed.text_bytes // INPUT_BYTES_PER_TOKEN_MAX)
        if self.maximum is not None:
            most = min(most, self.maximum)
        return most * self.parsed.choices

    def _input_estimate(self) -> int:
        """About how many tokens the input has, where nobody counted it: its text by what it needs in any script, the rest (media,
        tools, what is stored) by its bound. Never more than the whole bound.
        """
        beside = max(0, self.beside_text - TEMPLATE_TOKENS)  # a template takes about what its JSON does
        return min(self.input_bound, at_risk_tokens(read_bytes(self.parsed)) + beside)

    def _admitted(self, admission: Admission | None, wait_ms: int, limit: Limit, what: int) -> None:
        user = self.user
        assert user is not None
        self.admission = admission
        if self.conn is None:
            self.over()
        elif admission is None:
            scope = user.limit_scopes[user.limits.index(limit)] if limit in user.limits else "key"
            self.refuse(over_limit(scope, limit, what, wait_ms))
        else:
            self._reserve(Need(1, self.need.input_tokens, self.held_output))

    def over(self) -> None:
        """The request is over. What was refused before anything was sent does not count."""
        if self.at_risk and self.user is not None:
            self.gateway.risk.give(self.user.account_id, self.at_risk)
            self.at_risk = 0
        if self.admission is not None:
            admission, self.admission = self.admission, None
            begun = bool(self.attempt_no or self.counted_here)
            self.gateway.client.admissions.end(admission, self.spent_tokens, begun=begun)

    def _reserve(self, need: Need) -> None:
        gateway, user = self.gateway, self.user
        assert user is not None
        account = gateway.slices.account(user.account_id)
        if not account.asking:
            self.hold = gateway.slices.hold(account, user.cap_ids, self.rated, need, gateway.clock.boot_ns())
            if self.hold is not None:
                if account.low:
                    gateway.client.fill(account, user.cap_ids, self.rated, need)
                self._try()
                return
        self.asking = gateway.client.ask(account, user.cap_ids, self.rated, need, self._held)

    def _hold_less_input(self) -> bool:
        """The bound of the input does not fit what is left: count it, or hold the estimate where the operator's risk allows.

        True where the hold is tried again with less.
        """
        if self.estimated or self.free or self._input_estimate() >= self.need.input_tokens:
            return False
        self.estimated = True
        self._count(self._input_counted, answer=False)
        return True

    def _input_counted(self, found: Counted | None) -> None:
        """The tokenizer counted the input; None where there is none, or it did not answer in time."""
        if self.conn is None:
            self._finish()
            return
        if self.gateway.cutting:
            self.refuse(CUT)
            return
        if found is not None:
            tokens = min(self.input_bound, found.input + self.beside_text)
        else:
            tokens = self._input_estimate()
            assert self.user is not None
            risk = self.input_bound - tokens
            if self.gateway.risk.take(self.user.account_id, risk):
                self.at_risk += risk
            else:
                tokens = self.input_bound  # the loss budget of this account is spent: the worst case is held
        if tokens >= self.need.input_tokens:
            self._not_held(Verdict.NOTHING_LEFT)
            return
        self.need = Need(1, tokens, self.need.output_tokens)
        self._reserve(Need(1, tokens, self.held_output))

    def _hold_rest(self) -> bool:
        """The account does not cover all of it. Where it covers the input and some output, that much is made: a stream
        ends there, and of what can't be cut the upstream is asked for no more.
        """
        gateway, user, need = self.gateway, self.user, self.need
        assert user is not None
        account = gateway.slices.account(user.account_id)
        if self.parsed.output_tokens is not None and account.held:
            return False  # others of this account run: what they don't use may cover all of this one soon
        least = min(need.output_tokens, REST_TOKENS_MIN * self.parsed.choices)
        hold, output = gateway.slices.hold_most(
            account,
            user.cap_ids,
            self.rated,
            Need(1, need.input_tokens, self.held_output),
            gateway.clock.boot_ns(),
        )
        if hold is None:
            return False
        if output < least or not self.parsed.output_field:
            self._release(hold)
            return False
        self.hold, self.held_output = hold, output
        if not self.cuttable:
            # It can't be cut: the upstream makes no more than what is held.
            self.maximum = output // self.parsed.choices
        return True

    def _restrict(self) -> bool:
        """The plan goes on with a cheaper model where nothing is left for the one that was asked for."""
        user = self.user
        assert user is not None
        other = user.policy.restrict_to
        if other is None or self.restricted or other == self.model:
            return False
        route = self.gateway.snapshot.routes.get((other, self.protocol))
        if route is None:
            return False
        before = self.model, self.route, self.places
        self.model, self.route = other, route
        self._take_places(route)
        if not self.places or self._check_model() is not None:
            self.model, self.route, self.places = before
            return False
        self.restricted = True
        self._hold()
        return True

    def _held(self, hold: Hold | None, verdict: Verdict, back_s: int) -> None:
        self.asking = None
        if self.conn is None:
            if hold is not None:
                self._release(hold)
            return
        if hold is not None or (self.free and verdict == Verdict.PAYS_AS_IT_GOES):
            self.hold = hold
            self._try()
        elif verdict != Verdict.NOTHING_LEFT or not self._hold_less_input():
            self._not_held(verdict, back_s)

    def _not_held(self, verdict: Verdict, back_s: int = 0) -> None:
        """The account does not cover the request as it is."""
        assert self.user is not None
        if verdict == Verdict.NOTHING_LEFT:
            if self._hold_rest():
                self._try()
                return
            if self._next_choice():
                # The plan does not pay for this model: for the next best it may.
                self._hold()
                return
            if self._restrict():
                return
            media = not self.free and self.parsed.has_media
            self.gateway.stats.c["free_rider_media_refused" if media else "free_rider_over_balance"] += 1
        shortage = self._shortage() if verdict == Verdict.NOTHING_LEFT else None
        self.refuse(no_hold(verdict, self.user, shortage, back_s))

    def _shortage(self) -> Shortage | None:
        """What the request lacks: the least with which it would be made, or, where that much is there, all that it asks for. None
        where all of that is there and others of this account hold it just now.
        """
        gateway, user, need = self.gateway, self.user, self.need
        assert user is not None
        account = gateway.slices.account(user.account_id)
        least = min(need.output_tokens, REST_TOKENS_MIN * self.parsed.choices) if not self.free else 0
        for output in (least, self.held_output):
            less = Need(need.requests, need.input_tokens, output)
            found = gateway.slices.shortage(account, user.cap_ids, self.rated, less, gateway.clock.boot_ns())
            if found.needed > found.left or found.cap_left is not None:
                return found
        return None

    def _attempt(self) -> Attempt:
        """The attempt in flight, as its record names it."""
        user = self.user
        assert user is not None
        return Attempt(
            usage_id=self.usage_id,
            account_id=user.account_id,
            request_id=self.request_id,
            attempt_no=self.attempt_no,
            key_id=user.key_id,
            member_id=user.member_id,
            protocol=self.protocol,
            model=self.model,
            deployment=self.deployment,
            started_ms=self.started_ms,
        )

    def start_op(self) -> Start:
        """For the journal: the attempt in flight and what it holds."""
        user, hold = self.user, self.hold
        assert user is not None
        assert hold is not None
        return Start(
            usage_id=self.usage_id,
            account_id=user.account_id,
            request_id=self.request_id,
            attempt_no=self.attempt_no,
            key_id=user.key_id,
            member_id=user.member_id,
            protocol=self.protocol,
            model=self.model,
            deployment=self.deployment,
            started_ms=self.started_ms,
            held=hold.held(),
        )

    # In mid-stream.

    def _extend(self, meter: StreamMeter) -> None:
        """Hold more before what was shown reaches what is held; wait for it where it has."""
        gateway, hold, user = self.gateway, self.hold, self.user
        assert user is not None
        if hold is None or self.held_output >= self.need.output_tokens or meter.terminal:
            return
        if self.denied and meter.shown_bytes <= self.held_output:
            return
        self.denied = False
        if self.asking is None:
            step = gateway.settings.stream_hold_tokens
            more = min(
                max(step, meter.shown_bytes - self.held_output + step),
                self.need.output_tokens - self.held_output,
            )
            need = Need(0, 0, more)
            account = hold.account
            got = (
                gateway.slices.hold(
                    account,
                    user.cap_ids,
                    self.rated,
                    need,
                    gateway.clock.boot_ns(),
                    paid_whole=hold.paid_whole,
                )
                if not account.asking
                else None
            )
            if got is not None:
                gateway.slices.merge(hold, got)
                self.held_output += more
                if account.low:
                    gateway.client.fill(account, user.cap_ids, self.rated, need)
                return
            self.asking = gateway.client.ask(
                account,
                user.cap_ids,
                self.rated,
                need,
                lambda held, verdict, _back_s: self._extended(held, verdict, more),
            )
        if meter.shown_bytes > self.held_output:
            self.pause(for_hold=True)

    def _extended(self, got: Hold | None, verdict: Verdict, more: int) -> None:
        self.asking = None
        hold, meter = self.hold, self.meter
        if hold is None or meter is None:  # it ended meanwhile
            if got is not None:
                self._release(got)
            return
        if got is not None:
            self.gateway.slices.merge(hold, got)
            self.held_output += more
        elif meter.shown_bytes <= self.held_output:
            self.denied = True  # asked again when what is held is spent, and not with every chunk until then
        elif not self._extend_rest(more):
            self._cut(verdict)
            return
        if self.held_output < meter.shown_bytes and self.held_output < self.need.output_tokens:
            self._extend(meter)
        if self.asking is None:
            self.resume(for_hold=True)

    def _extend_rest(self, more: int) -> bool:
        """The last of it: as much as there is here."""
        gateway, hold, user = self.gateway, self.hold, self.user
        assert user is not None
        assert hold is not None
        got, output = gateway.slices.hold_most(
            hold.account,
            user.cap_ids,
            self.rated,
            Need(0, 0, more),
            gateway.clock.boot_ns(),
            paid_whole=hold.paid_whole,
        )
        if got is None:
            return False
        gateway.slices.merge(hold, got)
        self.held_output += output
        return True

    # Upstream is not read while the client can't take more, or while a hold is waited for.

    def pause(self, *, for_hold: bool = False) -> None:
        before = self.paused
        self.paused |= _FOR_HOLD if for_hold else _FOR_CLIENT
        if not before and self.upstream is not None:
            self.upstream.pause()

    def resume(self, *, for_hold: bool = False) -> None:
        before = self.paused
        self.paused &= ~(_FOR_HOLD if for_hold else _FOR_CLIENT)
        if before and not self.paused and self.upstream is not None:
            self.upstream.resume(self._idle_timeout_s())

    def _idle_timeout_s(self) -> int:
        """How long the upstream may be silent between two bytes."""
        own = None if self.place is None else self.place.deployment.idle_timeout_s
        return own or self.gateway.settings.upstream_idle_timeout_s

    # After.

    def _release_hold(self) -> None:
        if self.hold is not None:
            hold, self.hold = self.hold, None
            self._release(hold)

    def _release(self, hold: Hold) -> None:
        self.gateway.slices.release(hold)
        self.gateway.client.released(hold.account)
