"""The losses of an attempt: tokens that the operator pays for, by the plan's policy or because their count is implausible."""

from collections.abc import Sequence
from operator import sub
from typing import Final

from tokenworks.catalog import Counts
from tokenworks.charging import CountedBy, Loss
from tokenworks.gateway.keys import DEFAULT_POLICY
from tokenworks.gateway.protocol.outcome import FILTERED
from tokenworks.gateway.protocol.plausible import RequestShape, VisibleOutput, bound, is_plausible
from tokenworks.gateway.protocol.shown import visible_output
from tokenworks.gateway.protocol.stream import read_whole
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest
from tokenworks.gateway.shared import Shared

NO_COUNTS: Final = Counts()
# Output classes in the order in which tokens beyond a maximum are taken from them.
_OUTPUT: Final = ("output", "reasoning", "audio_output")


class Losses:
    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def waives(self, request: HeldRequest, policy: str) -> bool:
        """True if the plan charges nothing and the account's loss budget of today is not spent."""
        return policy == "nothing" and not self._shared.risk.spent(request.user.account_id)

    def of_whole(
        self, attempt: AnsweredAttempt, counts: Counts, counted_by: CountedBy, flags: list[str]
    ) -> tuple[str, list[Loss]]:
        """(reason, losses) of a whole answer: by the plan's policy, beyond the maximum that was sent, and implausible tokens. Adds to
        `flags`.
        """
        request = attempt.request
        policy = request.user.policy
        reason, losses = "completed", list[Loss]()
        if _is_empty(attempt, counts):
            reason = "empty_answer"
            if self.waives(request, policy.empty_answer):
                losses.append(Loss("empty_answer", 1, counts))
        elif policy is not DEFAULT_POLICY:
            if self.waives(request, policy.content_filtered) and is_filtered(attempt):
                reason = "content_filtered"
                losses.append(Loss("content_filtered", 1, counts))
            elif self.waives(request, policy.cache_hit) and counts.cached_input:
                losses.append(Loss("cache_hit", 0, Counts(cached_input=counts.cached_input)))
        if not losses or losses[0].cause == "cache_hit":
            self.bound(attempt, counts, counted_by, losses, flags)
        return reason, losses

    def bound(
        self,
        attempt: AnsweredAttempt,
        counts: Counts,
        counted_by: CountedBy,
        losses: list[Loss],
        flags: list[str],
    ) -> None:
        """Add losses for tokens beyond the maximum that was sent and for implausible tokens."""
        request = attempt.request
        if request.maximum is not None and attempt.protocol != "embeddings":
            over = counts.output_tokens - request.maximum * request.parsed.choices
            if over > 0:
                losses.append(Loss("beyond_maximum", 0, _output_part(counts, over)))
                flags.append("beyond_maximum")
                self._shared.stats.c["beyond_maximum_tokens"] += over
        if counted_by != "provider" or (
            not losses and attempt.meter is None and _needs_no_look(attempt, counts)
        ):
            return
        beyond = bound(less(counts, losses), _what_was_asked(attempt), _what_was_shown(attempt, counts))
        if any(beyond.counts):
            losses.append(Loss("implausible", 0, beyond.counts))
        flags += beyond.flags

    def charge_of(self, attempt: AnsweredAttempt, reason: str, *, said_all: bool) -> str:
        """The charge of the plan's policy for an attempt that ended for this reason. `said_all`: the final usage was reported."""
        policy = attempt.request.user.policy
        if reason == "client_gone":
            if said_all:
                return policy.client_gone_after_content
            begun = attempt.meter is not None and attempt.meter.begun
            return policy.client_gone_in_content if begun else policy.client_gone_before_content
        if reason == "upstream_timeout":
            return policy.upstream_timeout
        if reason in {"upstream_error", "event_too_large", "response_too_large"}:
            return policy.upstream_error
        return "produced"


def shown_bytes(attempt: AnsweredAttempt) -> int:
    """The bytes of text in the answer."""
    if attempt.meter is not None:
        return attempt.meter.shown_bytes
    if not attempt.chunks:
        return 0
    return read_whole(attempt.protocol, attempt.chunks[0]).shown_bytes


def less(counts: Counts, losses: Sequence[Loss]) -> Counts:
    """The counts without the losses."""
    for loss in losses:
        counts = Counts(*map(sub, counts, loss.counts))
    return counts


def _is_empty(attempt: AnsweredAttempt, counts: Counts) -> bool:
    """True if output was requested and none came. To score or echo a prompt, or to fill a cache, is no empty answer."""
    if counts.output_tokens or attempt.protocol == "embeddings" or attempt.parsed.output_tokens == 0:
        return False
    return not shown_bytes(attempt)


def is_filtered(attempt: AnsweredAttempt) -> bool:
    """True if the provider's filter ended the answer. Inside a text the quotes would be escaped."""
    if attempt.meter is not None:
        return attempt.meter.filtered
    return any(FILTERED.search(chunk) for chunk in attempt.chunks)


def _needs_no_look(attempt: AnsweredAttempt, counts: Counts) -> bool:
    """True if the counts of an answer that is not streamed are plausible without a closer check."""
    parsed = attempt.parsed
    if (
        parsed.has_media
        or parsed.objects
        or parsed.links
        or attempt.iterated
        or attempt.protocol == "embeddings"
    ):
        return False
    body_bytes = len(attempt.chunks[0]) if attempt.chunks else 0
    return is_plausible(counts, parsed.text_bytes, attempt.view.deployment.context_tokens, body_bytes)


def _what_was_asked(attempt: AnsweredAttempt) -> RequestShape:
    deployment, parsed = attempt.view.deployment, attempt.parsed
    free_text = not parsed.has_media and not parsed.objects and not parsed.links
    return RequestShape(
        attempt.protocol,
        deployment.context_tokens,
        parsed.inputs,
        parsed.choices,
        parsed.text_bytes if free_text else None,
        deployment.hides_reasoning or parsed.hidden_reasoning,
    )


def _what_was_shown(attempt: AnsweredAttempt, counts: Counts) -> VisibleOutput:
    meter = attempt.meter
    if meter is not None:
        hidden = attempt.iterated or meter.hidden or meter.filtered
        return VisibleOutput(meter.shown_bytes, meter.calls, hidden)
    body = attempt.chunks[0] if attempt.chunks else b""
    shown = visible_output(body, attempt.protocol, counts)
    return shown._replace(hidden=True) if attempt.iterated else shown


def _output_part(counts: Counts, tokens: int) -> Counts:
    """`tokens` of the output tokens, taken from the classes in order."""
    taken: dict[str, int] = {}
    for name in _OUTPUT:
        taken[name] = min(tokens, getattr(counts, name))
        tokens -= taken[name]
    return Counts(**taken)
