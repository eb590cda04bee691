"""From what was metered to a usage record: who counted, what is loss and why, what each bucket pays.

What the upstream reports within what was held and sent is charged. What it reports beyond the hold is taken from what
the account still has before it is loss. Nothing is waived without a cause in the record.
"""

from collections.abc import Callable, Sequence
from operator import sub
from typing import Final

import structlog

from tokenworks.catalog import Counts
from tokenworks.charging import (
    LOSS_CAUSES,
    CountedBy,
    Hold,
    Loss,
    Need,
    State,
    UsageRecord,
    Verdict,
    is_nothing,
    usage_record,
)
from tokenworks.gateway.counting import Counted, Job
from tokenworks.gateway.estimate import least_input, least_shown
from tokenworks.gateway.holding import Holding
from tokenworks.gateway.keys import DEFAULT_POLICY
from tokenworks.gateway.outcome import FILTERED
from tokenworks.gateway.plausible import Asked, Shown, bound, is_usual
from tokenworks.gateway.shown import shown_of_body
from tokenworks.gateway.stream import read_whole
from tokenworks.gateway.usage import Usage

log = structlog.get_logger()
NO_COUNTS: Final = Counts()
NO_LOSSES: Final[tuple[Loss, ...]] = ()
# Output classes in the order in which what is beyond a maximum is taken from them.
_OUTPUT: Final = ("output", "reasoning", "audio_output")


class Recording(Holding):
    __slots__ = ()

    def _end_attempt(self) -> None:
        """The deployment is done with it."""
        raise NotImplementedError

    def _drop_attempt(self) -> None:
        """It gave nothing: it leaves no record."""
        raise NotImplementedError

    def _after_interrupt(self, reason: str) -> None:
        """Tell the client that it is not whole."""
        raise NotImplementedError

    def _durable(self, interrupted: str) -> None:
        """The record is on disk."""
        raise NotImplementedError

    # A whole answer.

    def _complete(self, usage: Usage | None, upstream_id: str | None, progress: Counts) -> None:
        if usage is not None:
            self.iterated = usage.iterated
            self._completed(usage.counts, usage.total, list(usage.flags), "provider", upstream_id)
            return

        def counted(found: Counted | None) -> None:
            if found is None:
                self._completed(self._estimate(progress), None, ["no_usage"], "estimate", upstream_id)
                return
            output = 0 if self.protocol == "embeddings" else max(found.output, progress.output)
            counts = Counts(fresh_input=found.input, output=output)
            self._completed(counts, None, ["no_usage"], "tokenizer", upstream_id)

        self._count(counted)

    def _count(self, counted: Callable[[Counted | None], None], *, answer: bool = True) -> None:
        """Have the host's tokenizer process count the request, and its answer; None where it can't, or not in time."""
        gateway, meter = self.gateway, self.meter
        tokenizer = self.place.deployment.tokenizer if self.place is not None else self.route.tokenizer
        if tokenizer is None:
            counted(None)
            return
        # What a stream showed is kept as its texts; any other answer is read by the tokenizer's process.
        texts = tuple(meter.kept) if answer and meter is not None else ()
        chunks = tuple(self.chunks) if answer and meter is None else ()
        self.counting = True

        def done(found: Counted | None) -> None:
            self.counting = False
            counted(found)

        gateway.counter.count(Job(tokenizer, self.protocol, self.body, chunks, False, texts), done)

    def _completed(
        self,
        counts: Counts,
        total: int | None,
        flags: list[str],
        counted_by: CountedBy,
        upstream_id: str | None,
    ) -> None:
        """Losses of a whole answer: by the plan's policy, beyond the maximum that was sent, beyond what can be."""
        assert self.user is not None
        policy = self.user.policy
        reason, losses = "completed", list[Loss]()
        if self._is_empty(counts):
            reason = "empty_answer"
            if self._waives(policy.empty_answer):
                losses.append(Loss("empty_answer", 1, counts))
        elif policy is not DEFAULT_POLICY:
            if self._waives(policy.content_filtered) and self._filtered():
                reason = "content_filtered"
                losses.append(Loss("content_filtered", 1, counts))
            elif self._waives(policy.cache_hit) and counts.cached_input:
                losses.append(Loss("cache_hit", 0, Counts(cached_input=counts.cached_input)))
        if not losses or losses[0].cause == "cache_hit":
            self._bound_losses(counts, counted_by, losses, flags)
        meter = self.meter
        if meter is not None and (meter.hidden or meter.calls > 1 or self.parsed.hidden_reasoning):
            counters = self.gateway.stats.c
            counters["free_rider_hidden_output"] += counts.output_tokens > meter.shown_bytes
            counters["free_rider_tool_calls"] += meter.calls > 1
        self._settle("complete", reason, counted_by, counts, total, flags, upstream_id, losses)

    def _is_empty(self, counts: Counts) -> bool:
        """Whether output was asked for and none came. A prompt that is scored or echoed, or a cache that is filled, is served."""
        if counts.output_tokens or self.protocol == "embeddings" or self.parsed.output_tokens == 0:
            return False
        return not self._shown_bytes()

    def _shown_bytes(self) -> int:
        """Bytes of all text that the answer shows."""
        if self.meter is not None:
            return self.meter.shown_bytes
        return read_whole(self.protocol, self.chunks[0]).shown_bytes if self.chunks else 0

    def _waives(self, policy: str) -> bool:
        """Whether the plan has the operator bear it, and the account's loss budget of today is not spent."""
        assert self.user is not None
        return policy == "nothing" and not self.gateway.risk.spent(self.user.account_id)

    def _bound_losses(
        self, counts: Counts, counted_by: CountedBy, losses: list[Loss], flags: list[str]
    ) -> None:
        if self.maximum is not None and self.protocol != "embeddings":
            over = counts.output_tokens - self.maximum * self.parsed.choices
            if over > 0:
                losses.append(Loss("beyond_maximum", 0, _output_part(counts, over)))
                flags.append("beyond_maximum")
                self.gateway.stats.c["beyond_maximum_tokens"] += over
        if counted_by != "provider" or (not losses and self.meter is None and self._is_usual(counts)):
            return
        beyond = bound(_less(counts, losses), self._what_was_asked(), self._what_was_shown(counts))
        if any(beyond.counts):
            losses.append(Loss("implausible", 0, beyond.counts))
        flags += beyond.flags

    def _is_usual(self, counts: Counts) -> bool:
        """Whether the bounds of an answer that is not streamed need no closer look."""
        parsed, place = self.parsed, self.place
        assert place is not None
        if (
            parsed.has_media
            or parsed.objects
            or parsed.links
            or self.iterated
            or self.protocol == "embeddings"
        ):
            return False
        body_bytes = len(self.chunks[0]) if self.chunks else 0
        return is_usual(counts, parsed.text_bytes, place.deployment.context_tokens, body_bytes)

    def _what_was_asked(self) -> Asked:
        assert self.place is not None
        parsed, deployment = self.parsed, self.place.deployment
        free_text = not parsed.has_media and not parsed.objects and not parsed.links
        return Asked(
            self.protocol,
            deployment.context_tokens,
            parsed.inputs,
            parsed.choices,
            parsed.text_bytes if free_text else None,
            deployment.hides_reasoning or parsed.hidden_reasoning,
        )

    def _what_was_shown(self, counts: Counts) -> Shown:
        meter = self.meter
        if meter is not None:
            return Shown(meter.shown_bytes, meter.calls, self.iterated or meter.hidden or meter.filtered)
        shown = shown_of_body(self.chunks[0] if self.chunks else b"", self.protocol, counts)
        return shown._replace(hidden=True) if self.iterated else shown

    def _filtered(self) -> bool:
        """Whether the provider's filter ended the answer. Inside a text the quotes would be escaped."""
        if self.meter is not None:
            return self.meter.filtered
        return any(FILTERED.search(chunk) for chunk in self.chunks)

    def _estimate(self, progress: Counts) -> Counts:
        """A provider that reports nothing: counted from bytes, four to a token, marked as such."""
        output = 0 if self.protocol == "embeddings" else max(progress.output, self._shown_bytes() // 4)
        return Counts(
            fresh_input=max(1, self.parsed.text_bytes // 4), output=min(output, self.need.output_tokens)
        )

    # An answer that stopped half-way.

    def _interrupted(self, reason: str, *, charge: str | None = None) -> None:
        """It stopped half-way: charged from what is known to have been produced, as the plan's policy says of the reason."""
        meter = self.meter
        assert self.user is not None
        if (
            meter is not None
            and meter.usage is not None
            and self._usage_is_whole(meter.usage, meter.progress)
        ):
            usage = meter.usage
            charge = charge or self._charge_of(reason, said_all=meter.stopped)
            self._settle_interrupted(reason, charge, usage.counts, usage.total, list(usage.flags), "provider")
            return
        charge = charge or self._charge_of(reason, said_all=False)
        known = meter.counts() if meter is not None else NO_COUNTS

        def counted(found: Counted | None) -> None:
            counted_by: CountedBy = "progress"
            counts = self._least(known)
            if found is not None:
                counts = known._replace(
                    fresh_input=known.fresh_input if known.input_tokens else found.input,
                    output=max(known.output, found.output),
                )
                counted_by = "tokenizer"
            self._settle_interrupted(reason, charge, counts, None, [], counted_by)

        self._count(counted)

    @staticmethod
    def _usage_is_whole(usage: Usage, progress: int) -> bool:
        """Whether what was reported covers what was shown: a start's report says nothing of the output yet."""
        return usage.counts.output_tokens >= progress

    def _least(self, known: Counts) -> Counts:
        """What was surely produced: the input where the upstream did not say it, the text that was shown."""
        meter = self.meter
        output = known.output
        if meter is not None:
            output = max(output, least_shown(meter.shown_bytes, meter.progress))
        fresh = known.fresh_input if known.input_tokens else least_input(self.parsed, self.protocol)
        return known._replace(fresh_input=fresh, output=output)

    def _charge_of(self, reason: str, *, said_all: bool) -> str:
        """What the plan's policy charges of an attempt that ended for this reason."""
        assert self.user is not None
        policy = self.user.policy
        if reason == "client_gone":
            if said_all:
                return policy.client_gone_after_content
            begun = self.meter is not None and self.meter.begun
            return policy.client_gone_in_content if begun else policy.client_gone_before_content
        if reason == "upstream_timeout":
            return policy.upstream_timeout
        if reason in {"upstream_error", "event_too_large", "response_too_large"}:
            return policy.upstream_error
        return "produced"

    def _settle_interrupted(
        self,
        reason: str,
        charge: str,
        counts: Counts,
        total: int | None,
        flags: list[str],
        counted_by: CountedBy,
    ) -> None:
        losses = list[Loss]()
        if self._waives(charge):
            losses.append(Loss(reason if reason in LOSS_CAUSES else "upstream_error", 1, counts))
        else:
            self._bound_losses(counts, "progress", losses, flags)
        upstream_id = None if self.meter is None else self.meter.upstream_id or None
        self._settle("interrupted", reason, counted_by, counts, total, flags, upstream_id, losses)

    # The record.

    def _settle(
        self,
        state: State,
        reason: str,
        counted_by: CountedBy,
        counts: Counts,
        total: int | None,
        flags: list[str],
        upstream_id: str | None,
        losses: list[Loss],
    ) -> None:
        """Have the account cover what is charged beyond the hold, then write the record."""
        gateway, hold, user = self.gateway, self.hold, self.user
        assert hold is not None
        assert user is not None
        covered = counts.input_tokens <= self.need.input_tokens and counts.output_tokens <= self.held_output
        if covered or hold.paid_whole:
            self._record(state, reason, counted_by, counts, total, flags, upstream_id, losses)
            return

        def record() -> None:
            self._record(state, reason, counted_by, counts, total, flags, upstream_id, losses)

        charged = _less(counts, losses) if losses else counts
        more = Need(
            0,
            max(0, charged.input_tokens - self.need.input_tokens),
            max(0, charged.output_tokens - self.held_output),
        )
        if is_nothing(more):
            record()
            return
        account, boot_ns = hold.account, gateway.clock.boot_ns
        got = gateway.slices.hold(account, user.cap_ids, self.rated, more, boot_ns())
        if got is not None:
            gateway.slices.merge(hold, got)
            record()
            return

        def answered(got: Hold | None, _verdict: Verdict, _back_s: int) -> None:
            self.counting = False
            self.asking = None
            if got is not None:
                gateway.slices.merge(hold, got)
            # Else what is free in the slices here is drawn, and the rest by settlement.
            record()

        self.counting = True
        self.asking = gateway.client.ask(account, user.cap_ids, self.rated, more, answered)

    def _record(
        self,
        state: State,
        reason: str,
        counted_by: CountedBy,
        counts: Counts,
        total: int | None,
        flags: list[str],
        upstream_id: str | None,
        losses: Sequence[Loss] = NO_LOSSES,
    ) -> None:
        gateway, hold, user = self.gateway, self.hold, self.user
        assert hold is not None
        assert user is not None
        self.spent_tokens = sum(counts)
        self._end_attempt()
        clock_ms = self.gateway.clock.civil_ms()
        if losses:
            parts, unpaid = gateway.slices.commit_charged(hold, counts, losses, gateway.clock.boot_ns)
            if any(any(loss.counts) for loss in losses):
                flags = [*flags, "waived"]
        else:
            parts, unpaid = gateway.slices.commit(hold, counts, gateway.clock.boot_ns)
        self.hold = None
        # Its tokens and times are counted by model and deployment when it is over (`series`).
        gateway.stats.c[state] += 1
        risk_tokens = self._risk_of(counted_by, counts, losses)
        if risk_tokens:
            gateway.risk.lost(user.account_id, risk_tokens)
        latency_ms = int((gateway.loop.time() - self.began_s) * 1000)
        first_byte_ms = self.first_byte_ms
        self.record = record = usage_record(
            self._attempt(),
            state=state,
            reason=reason,
            counted_by=counted_by,
            ended_ms=clock_ms,
            first_byte_ms=first_byte_ms,
            latency_ms=latency_ms,
            counts=counts,
            provider_total=total,
            parts=parts,
            loss=list(losses),
            flags=flags,
            upstream_id=upstream_id,
        )
        record.unpaid = unpaid
        self._describe(record)
        gateway.client.finish(record, self._durable, reason if state == "interrupted" else "", risk_tokens)
        if hold.account.closing:
            gateway.client.released(hold.account)

    def _record_loss(self, cause: str, usage: Usage, upstream_id: str | None) -> None:
        """An attempt that failed and reports tokens all the same: they are loss, and the hold stays for the next attempt."""
        gateway, user = self.gateway, self.user
        assert user is not None
        tokens = sum(usage.counts)
        gateway.risk.lost(user.account_id, tokens)
        now_s = gateway.loop.time()
        record = usage_record(
            self._attempt(),
            state="interrupted",
            reason=cause,
            counted_by="provider",
            ended_ms=self.gateway.clock.civil_ms(),
            first_byte_ms=None,
            latency_ms=int((now_s - self.began_s) * 1000),
            counts=usage.counts,
            provider_total=usage.total,
            parts=[],
            loss=[Loss(cause, 1, usage.counts)],
            flags=list(usage.flags),
            upstream_id=upstream_id,
        )
        self._describe(record)
        gateway.client.finish(record, _nothing, "", tokens)
        self.usage_id = ""

    def _describe(self, record: UsageRecord) -> None:
        """What the client asked for, and how the request came to this attempt."""
        record.prompt = self.rated == self.model
        record.asked, record.choice = self.asked, self.choice
        record.client_request_id, record.tried = self.head.client_request_id, self.failures

    def _risk_of(self, counted_by: CountedBy, counts: Counts, losses: Sequence[Loss]) -> int:
        """Tokens that may have been produced and are not charged: loss by record, and what nobody counted."""
        lost = sum(sum(loss.counts) for loss in losses) if losses else 0
        if counted_by != "progress" or self.protocol == "embeddings":
            return lost
        shown = self.meter.shown_bytes if self.meter is not None else 0
        likely = self._input_estimate() + shown // 3
        return lost + max(0, likely - counts.input_tokens - counts.output)


def _nothing(_: str) -> None:
    """Nobody waits for this record."""


def _less(counts: Counts, losses: Sequence[Loss]) -> Counts:
    for loss in losses:
        counts = Counts(*map(sub, counts, loss.counts))
    return counts


def _output_part(counts: Counts, tokens: int) -> Counts:
    """So many of the output tokens, from the classes in order."""
    taken: dict[str, int] = {}
    for name in _OUTPUT:
        taken[name] = min(tokens, getattr(counts, name))
        tokens -= taken[name]
    return Counts(**taken)
