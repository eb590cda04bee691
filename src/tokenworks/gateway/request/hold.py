"""What a request holds: at first, more as its stream goes, the rest where not all is covered.

A visible stream holds `stream_hold_tokens` of output and grows. A token shows as at least one byte, so the bytes shown
bound the tokens from above: what is over the hold is at most one upstream chunk, and the error of the input estimate.
What can't be cut (not streamed, or hidden reasoning) holds its whole output maximum, or the upstream is asked for less.
"""

from typing import Final

from tokenworks.charging import COUNT_NEED, FOLLOW_UP, Hold, Need, Shortage, Verdict
from tokenworks.charging.worker.client_waits import HoldWaiter
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.estimate import TEMPLATE_TOKENS, at_risk_tokens, bound_input, read_bytes
from tokenworks.gateway.protocol.fields import is_prompt
from tokenworks.gateway.request.refusals import no_hold
from tokenworks.gateway.request.state import ArrivedRequest, HeldRequest
from tokenworks.gateway.shared import Shared

# No output maximum is written where the context leaves less than this beside the input's bound.
OUTPUT_ROOM_TOKENS_MIN: Final = 256
# A text has at least a token for so many bytes: what the input surely takes of the context.
INPUT_BYTES_PER_TOKEN_MAX: Final = 16
# What is left is not worth a request where it covers fewer output tokens than this.
REST_TOKENS_MIN: Final = 16


class Holds:
    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    # What it can cost.

    def size(self, request: HeldRequest) -> None:
        """Work out what the request can cost: its input by the bound from its bytes, its output by its maximum."""
        parsed, user, route = request.parsed, request.user, request.route
        request.rated = request.model
        request.denied = request.estimated = False
        if request.free:
            request.need, request.held_output = COUNT_NEED, 0
            request.maximum = None
            request.input_bound = request.beside_text = 0
            return
        if user.counts_prompts and not is_prompt(parsed, request.protocol):
            request.rated = FOLLOW_UP + request.model
        context = route.context_tokens
        # Which of the places will serve it is not known yet: the one where the input costs most bounds it.
        first, *others = route.rules
        most, _, request.beside_text = bound_input(parsed, request.protocol, first, request.stored_tokens)
        for rules in others:
            bound = bound_input(parsed, request.protocol, rules, request.stored_tokens)
            most = max(most, bound.tokens)
            request.beside_text = max(request.beside_text, bound.beside_text)
        request.input_bound = inputs = min(most, context * parsed.inputs)
        request.maximum = _maximum_to_send(request, inputs)
        output = _output_bound(request, context)
        request.need = Need(1, inputs, output)
        hidden = route.hides_reasoning or parsed.hidden_reasoning
        at_first = self._shared.settings.stream_hold_tokens
        request.cuttable = parsed.stream and not hidden and output > at_first
        request.held_output = at_first if request.cuttable else output

    def estimate_tokens(self, request: HeldRequest) -> int:
        """About how many tokens the request uses, for the limits of its key."""
        return 0 if request.free else input_estimate(request) + request.held_output

    # The hold.

    def take(self, request: HeldRequest) -> bool:
        """Hold what is needed of what is free in this worker's slices. False where it has to be asked for."""
        shared, user = self._shared, request.user
        account = shared.slices.account(user.account_id)
        if account.asking:
            return False
        need = _needed(request)
        request.hold = shared.slices.hold(account, user.cap_ids, request.rated, need, shared.clock.boot_ns())
        if request.hold is None:
            return False
        if account.low:
            shared.client.fill(account, user.cap_ids, request.rated, need)
        return True

    def request_hold(self, request: HeldRequest, held: HoldWaiter) -> None:
        """Ask the recorder for the hold; `held(hold, verdict, back_s)` comes later."""
        shared, user = self._shared, request.user
        account = shared.slices.account(user.account_id)
        request.pending_hold = shared.client.ask(account, user.cap_ids, request.rated, _needed(request), held)

    def may_hold_less(self, request: HeldRequest) -> bool:
        """Whether counting the input may bring it under what is left, where its bound is over it."""
        return not (request.free or request.estimated or input_estimate(request) >= request.need.input_tokens)

    def hold_less(self, request: HeldRequest, found: TokenizerCounts | None) -> bool:
        """Need no more than the tokenizer counted, or, where none did, than is likely and the account's loss budget allows.

        False where that is not less.
        """
        if found is not None:
            tokens = min(request.input_bound, found.input + request.beside_text)
        else:
            tokens = input_estimate(request)
            risk = request.input_bound - tokens
            if self._shared.risk.take(request.user.account_id, risk):
                request.at_risk += risk
            else:
                # The loss budget of this account is spent: the worst case is held.
                tokens = request.input_bound
        if tokens >= request.need.input_tokens:
            return False
        request.need = Need(1, tokens, request.need.output_tokens)
        return True

    def hold_rest(self, request: HeldRequest) -> bool:
        """The account does not cover all of it. Where it covers the input and some output, that much is made: a stream
        ends there, and of what can't be cut the upstream is asked for no more.
        """
        shared, user, need, parsed = self._shared, request.user, request.need, request.parsed
        account = shared.slices.account(user.account_id)
        if parsed.output_tokens is not None and account.held:
            return False  # others of this account run: what they don't use may cover all of this one soon
        least = min(need.output_tokens, REST_TOKENS_MIN * parsed.choices)
        hold, output = shared.slices.hold_most(
            account, user.cap_ids, request.rated, _needed(request), shared.clock.boot_ns()
        )
        if hold is None:
            return False
        if output < least or not parsed.output_field:
            self.give(hold)
            return False
        request.hold, request.held_output = hold, output
        if not request.cuttable:
            # It can't be cut: the upstream makes no more than what is held.
            request.maximum = output // parsed.choices
        return True

    def refusal(self, request: HeldRequest, verdict: Verdict, back_s: int) -> Refusal:
        """Why nothing is held."""
        shortage: Shortage | None = None
        if verdict == Verdict.NOTHING_LEFT:
            media = not request.free and request.parsed.has_media
            name = "free_rider_media_refused" if media else "free_rider_over_balance"
            self._shared.stats.c[name] += 1
            shortage = self._shortage(request)
        return no_hold(verdict, request.user, shortage, back_s)

    def _shortage(self, request: HeldRequest) -> Shortage | None:
        """What the request lacks: the least with which it would be made, or, where that much is there, all that it asks for. None
        where all of that is there and others of this account hold it just now.
        """
        shared, user, need = self._shared, request.user, request.need
        account = shared.slices.account(user.account_id)
        least = 0
        if not request.free:
            least = min(need.output_tokens, REST_TOKENS_MIN * request.parsed.choices)
        for output in (least, request.held_output):
            less = Need(need.requests, need.input_tokens, output)
            found = shared.slices.shortage(account, user.cap_ids, request.rated, less, shared.clock.boot_ns())
            if found.needed > found.left or found.cap_left is not None:
                return found
        return None

    # In mid-stream.

    def extend(self, request: HeldRequest, shown_bytes: int, extended: HoldWaiter) -> None:
        """Hold more before what was shown reaches what is held. Where that has to be asked for, `extended(hold, verdict, back_s)` comes later."""
        shared, hold, user = self._shared, request.hold, request.user
        if hold is None or request.pending_hold is not None:
            return
        held_output, account = request.held_output, hold.account
        step = shared.settings.stream_hold_tokens
        more = min(max(step, shown_bytes - held_output + step), request.need.output_tokens - held_output)
        need = Need(0, 0, more)
        got: Hold | None = None
        if not account.asking:
            got = shared.slices.hold(
                account,
                user.cap_ids,
                request.rated,
                need,
                shared.clock.boot_ns(),
                paid_whole=hold.paid_whole,
            )
        request.more_output = more
        if got is not None:
            self.add(request, hold, got)
            if account.low:
                shared.client.fill(account, user.cap_ids, request.rated, need)
            return
        request.pending_hold = shared.client.ask(account, user.cap_ids, request.rated, need, extended)

    def add(self, request: HeldRequest, hold: Hold, got: Hold) -> None:
        """An extension was granted."""
        self._shared.slices.merge(hold, got)
        request.held_output += request.more_output

    def extend_rest(self, request: HeldRequest, hold: Hold) -> bool:
        """The last of it: as much as there is here."""
        shared = self._shared
        got, output = shared.slices.hold_most(
            hold.account,
            request.user.cap_ids,
            request.rated,
            Need(0, 0, request.more_output),
            shared.clock.boot_ns(),
            paid_whole=hold.paid_whole,
        )
        if got is None:
            return False
        shared.slices.merge(hold, got)
        request.held_output += output
        return True

    # After.

    def release(self, request: ArrivedRequest) -> None:
        """Give back what the request holds, if anything."""
        if request.hold is not None:
            hold, request.hold = request.hold, None
            self.give(hold)

    def give(self, hold: Hold) -> None:
        self._shared.slices.release(hold)
        self._shared.client.released(hold.account)

    def end(self, request: HeldRequest) -> None:
        """The request is over: its limits and its part of the loss budget. What was refused before anything was sent does not count."""
        if request.at_risk:
            self._shared.risk.give(request.user.account_id, request.at_risk)
            request.at_risk = 0
        if request.admission is not None:
            admission, request.admission = request.admission, None
            begun = bool(request.attempt_no or request.counted_here)
            self._shared.client.admissions.end(admission, request.spent_tokens, begun=begun)


def _needed(request: HeldRequest) -> Need:
    """What is held before anything is sent."""
    return COUNT_NEED if request.free else Need(1, request.need.input_tokens, request.held_output)


def _maximum_to_send(request: HeldRequest, input_tokens: int) -> int | None:
    """The output maximum of each choice that the upstream is told; None where none is written.

    What the client gave is sent. Where it gave none, one is written only where neither the gateway can cut the
    answer (it is not streamed, or reasons out of sight) nor the engine ends it by itself.
    """
    parsed, route = request.parsed, request.route
    if parsed.output_tokens is not None or not parsed.output_field:
        return parsed.output_tokens
    visible = parsed.stream and not route.hides_reasoning and not parsed.hidden_reasoning
    if visible or route.caps_output:
        return None
    room = route.context_tokens - input_tokens
    return None if room < OUTPUT_ROOM_TOKENS_MIN else min(route.output_tokens, room)


def _output_bound(request: HeldRequest, context: int) -> int:
    """The most output tokens that the request can make, of all its choices."""
    parsed = request.parsed
    if not parsed.output_field:
        return 0
    most = context - min(context - 1, parsed.text_bytes // INPUT_BYTES_PER_TOKEN_MAX)
    if request.maximum is not None:
        most = min(most, request.maximum)
    return most * parsed.choices


def input_estimate(request: HeldRequest) -> int:
    """About how many tokens the input has, where nobody counted it: its text by what it needs in any script, the rest (media,
    tools, what is stored) by its bound. Never more than the whole bound.
    """
    beside = max(0, request.beside_text - TEMPLATE_TOKENS)  # a template takes about what its JSON does
    return min(request.input_bound, at_risk_tokens(read_bytes(request.parsed)) + beside)
