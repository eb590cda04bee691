"""The hold of a request: its size, its extension in mid-stream, and the rest of a balance that does not cover all of it.

A visible stream holds `stream_hold_tokens` of output at first and extends the hold as it goes. A token shows as at least one byte, so
the shown bytes bound the output tokens from above: a stream exceeds its hold by at most one upstream chunk and the error of the input
estimate. An answer that can't be cut (not streamed, or with hidden reasoning) holds its whole output maximum, or the upstream is
asked for less.
"""

from typing import Final

from tokenworks.charging import COUNT_NEED, FOLLOW_UP, Hold, Need, Shortage, Verdict
from tokenworks.charging.worker.pending import HoldWaiter
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.estimate import (
    TEMPLATE_TOKENS,
    bound_input,
    estimated_text_tokens,
    model_readable_bytes,
)
from tokenworks.gateway.protocol.fields import is_prompt
from tokenworks.gateway.request.refusals import no_hold
from tokenworks.gateway.request.state import ArrivedRequest, HeldRequest, TranslatedRequest
from tokenworks.gateway.shared import Shared

# No output maximum is sent if the context has fewer tokens than this beside the input's bound.
OUTPUT_ROOM_TOKENS_MIN: Final = 256
# A text has at least one token for this many bytes, which gives the input's least share of the context.
INPUT_BYTES_PER_TOKEN_MAX: Final = 16
# A request is refused if what is left covers fewer output tokens than this.
REST_TOKENS_MIN: Final = 16


class Holds:
    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    # The size.

    def size(self, request: HeldRequest) -> None:
        """Work out what the request can cost: the input by the bound from its bytes, the output by its maximum."""
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
        # The deployment is not known yet, so the one at which the input has most tokens gives the bound.
        first, *others = route.rules
        tokens_max, _, request.beside_text = bound_input(
            parsed, request.protocol, first, request.stored_tokens
        )
        for rules in others:
            bound = bound_input(parsed, request.protocol, rules, request.stored_tokens)
            tokens_max = max(tokens_max, bound.tokens)
            request.beside_text = max(request.beside_text, bound.beside_text)
        hidden = route.hides_reasoning or parsed.hidden_reasoning
        translated = request.translated
        if translated is not None:
            # What the deployment reads is the translated body: the larger of both is held.
            tokens_max = max(tokens_max, translated_bound(request, translated))
            hidden = hidden or translated.parsed.hidden_reasoning
        request.input_bound = inputs = min(tokens_max, context * parsed.inputs)
        request.maximum = _maximum_to_send(request, inputs)
        output = _output_bound(request, context)
        request.need = Need(1, inputs, output)
        at_first = self._shared.settings.stream_hold_tokens
        request.cuttable = parsed.stream and not hidden and output > at_first
        request.held_output = at_first if request.cuttable else output

    def estimate_tokens(self, request: HeldRequest) -> int:
        """An estimate of the tokens that the request uses, for the limits of its key."""
        return 0 if request.free else input_estimate(request) + request.held_output

    # The hold.

    def take(self, request: HeldRequest) -> bool:
        """Take the hold from this worker's slices. False if the recorder has to be asked for it."""
        shared, user = self._shared, request.user
        account = shared.slices.account(user.account_id)
        if account.requests_pending:
            return False
        need = _needed(request)
        request.hold = shared.slices.hold(account, user.cap_ids, request.rated, need, shared.clock.boot_ns())
        if request.hold is None:
            return False
        if account.low:
            shared.client.prefetch(account, user.cap_ids, request.rated, need)
        return True

    def request_hold(self, request: HeldRequest, held: HoldWaiter) -> None:
        """Ask the recorder for the hold; `held(hold, verdict, back_s)` is called later."""
        shared, user = self._shared, request.user
        account = shared.slices.account(user.account_id)
        request.pending_hold = shared.client.request_slices(
            account, user.cap_ids, request.rated, _needed(request), held
        )

    def may_hold_less(self, request: HeldRequest) -> bool:
        """True if the input may be smaller than its bound, so that counting it may let the request fit what is left."""
        return not (request.free or request.estimated or input_estimate(request) >= request.need.input_tokens)

    def hold_less(self, request: HeldRequest, counts: TokenizerCounts | None) -> bool:
        """Reduce the need to the tokens that the tokenizer counted or, without a count, to an estimate whose risk the account's loss
        budget allows. False if that is no reduction.
        """
        if counts is not None:
            tokens = min(request.input_bound, counts.input + request.beside_text)
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
        """Hold the input and as much output as the account covers; False if that is too little. A stream ends when that output is
        reached; for an answer that can't be cut the upstream is asked for no more.
        """
        shared, user, need, parsed = self._shared, request.user, request.need, request.parsed
        account = shared.slices.account(user.account_id)
        if parsed.output_tokens is not None and account.held:
            return False  # the account's other requests may soon release enough for all of this one
        least = min(need.output_tokens, REST_TOKENS_MIN * parsed.choices)
        hold, output = shared.slices.hold_most(
            account, user.cap_ids, request.rated, _needed(request), shared.clock.boot_ns()
        )
        if hold is None:
            return False
        compaction = request.compaction
        if output < least or not parsed.output_field or (compaction is not None and compaction.relayed):
            self.give(hold)
            return False
        request.hold, request.held_output = hold, output
        if not request.cuttable:
            # The answer can't be cut: the upstream is asked for no more than what is held.
            request.maximum = output // parsed.choices
        return True

    def refusal(self, request: HeldRequest, verdict: Verdict, back_s: int) -> Refusal:
        """The refusal of a request that got no hold."""
        shortage: Shortage | None = None
        if verdict == Verdict.NOTHING_LEFT:
            media = not request.free and request.parsed.has_media
            name = "free_rider_media_refused" if media else "free_rider_over_balance"
            self._shared.stats.c[name] += 1
            shortage = self._shortage(request)
        return no_hold(verdict, request.user, shortage, back_s)

    def _shortage(self, request: HeldRequest) -> Shortage | None:
        """The shortage against the least that the request needs or, if the account has that much, against all that it asks for. None if
        the account has all of it and other requests hold it.
        """
        shared, user, need = self._shared, request.user, request.need
        account = shared.slices.account(user.account_id)
        least = 0
        if not request.free:
            least = min(need.output_tokens, REST_TOKENS_MIN * request.parsed.choices)
        for output in (least, request.held_output):
            less = Need(need.requests, need.input_tokens, output)
            shortage = shared.slices.shortage(
                account, user.cap_ids, request.rated, less, shared.clock.boot_ns()
            )
            if shortage.needed > shortage.left or shortage.cap_left is not None:
                return shortage
        return None

    # The extension.

    def extend(self, request: HeldRequest, shown_bytes: int, extended: HoldWaiter) -> None:
        """Extend the hold of a stream. If the recorder has to be asked, `extended(hold, verdict, back_s)` is called later."""
        shared, hold, user = self._shared, request.hold, request.user
        if hold is None or request.pending_hold is not None:
            return
        held_output, account = request.held_output, hold.account
        step = shared.settings.stream_hold_tokens
        more = min(max(step, shown_bytes - held_output + step), request.need.output_tokens - held_output)
        need = Need(0, 0, more)
        extension: Hold | None = None
        if not account.requests_pending:
            extension = shared.slices.hold(
                account,
                user.cap_ids,
                request.rated,
                need,
                shared.clock.boot_ns(),
                paid_whole=hold.paid_whole,
            )
        request.more_output = more
        if extension is not None:
            self.add(request, hold, extension)
            if account.low:
                shared.client.prefetch(account, user.cap_ids, request.rated, need)
            return
        request.pending_hold = shared.client.request_slices(
            account, user.cap_ids, request.rated, need, extended
        )

    def add(self, request: HeldRequest, hold: Hold, extension: Hold) -> None:
        """Add a granted extension to the hold."""
        self._shared.slices.merge(hold, extension)
        request.held_output += request.more_output

    def extend_rest(self, request: HeldRequest, hold: Hold) -> bool:
        """Extend the hold by what this worker's slices still have. False if that is nothing."""
        shared = self._shared
        extension, output = shared.slices.hold_most(
            hold.account,
            request.user.cap_ids,
            request.rated,
            Need(0, 0, request.more_output),
            shared.clock.boot_ns(),
            paid_whole=hold.paid_whole,
        )
        if extension is None:
            return False
        shared.slices.merge(hold, extension)
        request.held_output += output
        return True

    # The end.

    def release(self, request: ArrivedRequest) -> None:
        """Give back the request's hold, if it has one."""
        if request.hold is not None:
            hold, request.hold = request.hold, None
            self.give(hold)

    def give(self, hold: Hold) -> None:
        self._shared.slices.release(hold)
        self._shared.client.released(hold.account)

    def end(self, request: HeldRequest) -> None:
        """The request is over: free its share of the limits and of the loss budget. A request that was refused before an attempt does
        not count against the limits.
        """
        if request.at_risk:
            self._shared.risk.give(request.user.account_id, request.at_risk)
            request.at_risk = 0
        if request.admission is not None:
            admission, request.admission = request.admission, None
            begun = bool(request.attempt_no or request.counted_here)
            self._shared.client.admissions.end(admission, request.spent_tokens, begun=begun)


def translated_bound(request: HeldRequest, translated: TranslatedRequest) -> int:
    """An upper bound of the tokens of a translated input, at the deployment at which it has most."""
    return max(
        [bound_input(translated.parsed, translated.protocol, rules).tokens for rules in request.route.rules]
    )


def outgrows(request: HeldRequest, translated: TranslatedRequest) -> bool:
    """True if the translated request may cost more than is held: its input has more tokens than the bound, or its reasoning is hidden,
    so that the stream can't extend its hold by what it shows.
    """
    if request.cuttable and translated.parsed.hidden_reasoning:
        return True
    capped = min(translated_bound(request, translated), request.route.context_tokens * request.parsed.inputs)
    return capped > request.input_bound


def _needed(request: HeldRequest) -> Need:
    """The first hold."""
    return COUNT_NEED if request.free else Need(1, request.need.input_tokens, request.held_output)


def _maximum_to_send(request: HeldRequest, input_tokens: int) -> int | None:
    """The output maximum of each choice that the upstream is sent; None if none is sent.

    The client's maximum is sent. If it gave none, one is sent only if neither the gateway can cut the answer (not streamed, or with
    hidden reasoning) nor the engine ends it at the end of the context.
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
    """The most output tokens that all choices of the request together can have."""
    parsed = request.parsed
    if not parsed.output_field:
        return 0
    tokens_max = context - min(context - 1, parsed.text_bytes // INPUT_BYTES_PER_TOKEN_MAX)
    if request.maximum is not None:
        tokens_max = min(tokens_max, request.maximum)
    return tokens_max * parsed.choices


def input_estimate(request: HeldRequest) -> int:
    """An estimate of the input's tokens without a tokenizer: the text by a rate that fits every script; media, tools and stored objects
    by their bound. Never more than the input's bound.
    """
    beside = max(
        0, request.beside_text - TEMPLATE_TOKENS
    )  # a template has about as many tokens as the JSON syntax
    return min(request.input_bound, estimated_text_tokens(model_readable_bytes(request.parsed)) + beside)
