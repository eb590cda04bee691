"""From what was metered to a usage record: who counted, what the plan's policy waives, what each bucket pays."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from tokenworks.catalog import Counts
from tokenworks.charging import LOSS_CAUSES, Loss, UsageRecord
from tokenworks.gateway.counting import COUNTS_WAITING_MAX, Counted
from tokenworks.gateway.dialects import Usage
from tokenworks.gateway.holding import Holding
from tokenworks.gateway.keys import DEFAULT_POLICY
from tokenworks.gateway.stream import FILTERED

log = structlog.get_logger()
NO_COUNTS: Final = Counts()
# Of each choice: tokens that end it or mark its parts, and show as nothing.
HIDDEN_TOKENS_MAX: Final = 64


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

    def _complete(self, usage: Usage | None, upstream_id: str | None, progress: Counts) -> None:
        if usage is not None:
            self._completed(usage.counts, usage.total, list(usage.flags), "provider", upstream_id)
            return

        def counted(found: Counted | None) -> None:
            if found is None:
                self._completed(self._estimate(progress), None, ["no_usage"], "estimate", upstream_id)
                return
            output = 0 if self.protocol == "embeddings" else max(found.output, progress.output)
            counts = Counts(fresh_input=found.input, output=min(output, self.need.output_tokens))
            self._completed(counts, None, ["no_usage"], "tokenizer", upstream_id)

        self._count(counted)

    def _count(self, counted: Callable[[Counted | None], None], *, answer: bool = True) -> None:
        """Have the model's own tokenizer count the request and its answer, in a thread; None where it can't be."""
        gateway = self.gateway
        assert self.place is not None
        tokenizer = gateway.tokenizers.get(self.place.deployment.tokenizer or "")
        too_large = self.streaming and self.size > gateway.settings.response_bytes_max
        if tokenizer is None or too_large or gateway.counting >= COUNTS_WAITING_MAX:
            counted(None)
            return
        chunks, streamed = list(self.chunks) if answer else [], self.streaming

        def work() -> Counted:
            return Counted(
                tokenizer.count_request(self.protocol, self.body),
                tokenizer.count_answer(self.protocol, chunks, streamed=streamed),
            )

        def done(future: "asyncio.Future[Counted]") -> None:
            gateway.counting -= 1
            self.counting = False
            if future.exception() is not None:
                log.error("exchange.count_failed", error=type(future.exception()).__name__)
            counted(None if future.exception() is not None else future.result())

        gateway.counting += 1
        self.counting = True
        gateway.loop.run_in_executor(None, work).add_done_callback(done)

    def _completed(
        self, counts: Counts, total: int | None, flags: list[str], counted_by: str, upstream_id: str | None
    ) -> None:
        assert self.user is not None
        policy = self.user.policy
        reason, losses = "completed", list[Loss]()
        if not counts[4] and not counts[5] and not counts[6] and self.protocol != "embeddings":
            reason = "empty_answer"
            if policy.empty_answer == "nothing":
                losses.append(Loss("empty_answer", 1, counts))
        elif policy is not DEFAULT_POLICY:
            if policy.content_filtered == "nothing" and self._filtered():
                reason = "content_filtered"
                losses.append(Loss("content_filtered", 1, counts))
            elif policy.cache_hit == "nothing" and counts.cached_input:
                losses.append(Loss("cache_hit", 0, Counts(cached_input=counts.cached_input)))
        surplus = self._surplus(counts) if counted_by == "provider" else NO_COUNTS
        if surplus is not NO_COUNTS:
            flags = [*flags, "implausible"]
            waived = losses[0].counts if losses else NO_COUNTS
            # Of what the policy waives anyway nothing is lost twice.
            beyond = Counts(*(max(0, more - less) for more, less in zip(surplus, waived, strict=True)))
            if any(beyond):
                whole = not losses and beyond == counts
                losses.append(Loss("implausible", int(whole), beyond))
        self._record("complete", reason, counted_by, counts, total, flags, upstream_id, losses)

    def _surplus(self, counts: Counts) -> Counts:
        """What a provider reports beyond what can be: more input than the deployment takes, more output than it was asked for, or
        than there are bytes of it. It stays in the record, and the operator bears it until it is reconciled.
        """
        assert self.place is not None
        deployment = self.place.deployment
        over_in = counts.input_tokens - deployment.context_tokens
        over_out = counts.output - self.need.output_tokens
        if not deployment.hides_reasoning and self.protocol != "embeddings":
            shown = self.meter.shown_bytes if self.meter is not None else sum(map(len, self.chunks))
            over_out = max(over_out, counts.output - shown - HIDDEN_TOKENS_MAX * self.parsed.choices)
        if over_in <= 0 and over_out <= 0:
            return NO_COUNTS
        surplus, left = [0] * len(counts), max(0, over_in)
        for at in (0, 1, 2, 3, 7):
            surplus[at] = min(counts[at], left)
            left -= surplus[at]
        surplus[4] = min(counts.output, max(0, over_out))
        return Counts(*surplus)

    def _filtered(self) -> bool:
        """Whether the provider's filter ended the answer. Inside a text the quotes would be escaped."""
        if self.meter is not None:
            return self.meter.filtered
        return any(FILTERED.search(chunk) for chunk in self.chunks)

    def _estimate(self, progress: Counts) -> Counts:
        """A provider that reports nothing: counted from bytes, four to a token, marked as such."""
        size = 0 if self.streaming else len(self.chunks[0]) if self.chunks else 0
        output = 0 if self.protocol == "embeddings" else max(progress.output, size // 4)
        return Counts(fresh_input=max(1, len(self.body) // 4), output=min(output, self.need.output_tokens))

    def _interrupted(self, reason: str) -> None:
        """It stopped half-way: charged from what is known to have been produced."""
        meter = self.meter
        counts = meter.counts() if meter is not None else NO_COUNTS
        if meter is None or not any(counts):
            self._end_attempt()
            self._drop_attempt()
            self._release_hold()
            self._after_interrupt(reason)
            return
        assert self.user is not None
        policy = self.user.policy
        counted_by, total, flags = "progress", None, list[str]()
        charge = "produced"
        if reason == "client_gone":
            charge = policy.client_gone_in_content
            if meter.usage is not None and meter.usage.counts.output >= meter.progress:
                # The provider had said it all.
                charge = policy.client_gone_after_content
                counts, total, flags = meter.usage.counts, meter.usage.total, list(meter.usage.flags)
                counted_by = "provider"
        elif reason == "upstream_timeout":
            charge = policy.upstream_timeout
        elif reason in {"upstream_error", "event_too_large"}:
            charge = policy.upstream_error
        upstream_id = meter.upstream_id or None

        def record(counts: Counts, counted_by: str) -> None:
            cause = reason if reason in LOSS_CAUSES else "upstream_error"
            losses = [Loss(cause, 1, counts)] if charge == "nothing" else []
            self._record("interrupted", reason, counted_by, counts, total, flags, upstream_id, losses)

        if meter.usage is not None or self.place is None:
            record(counts, counted_by)
            return

        def counted(found: Counted | None) -> None:
            # Chat reports its input only at the end, which did not come.
            if found is None:
                record(counts, counted_by)
            else:
                record(counts._replace(fresh_input=found.input), "tokenizer")

        self._count(counted, answer=False)

    def _record(
        self,
        state: str,
        reason: str,
        counted_by: str,
        counts: Counts,
        total: int | None,
        flags: list[str],
        upstream_id: str | None,
        losses: list[Loss],
    ) -> None:
        gateway, hold, user = self.gateway, self.hold, self.user
        assert hold is not None
        assert user is not None
        self.spent_tokens = sum(counts)
        self._end_attempt()
        clock_ms = time.time_ns() // 1_000_000
        if not losses:
            parts, unpaid = gateway.slices.commit(hold, counts, gateway.clock.boot_ns)
        else:
            parts, unpaid = gateway.slices.commit_charged(hold, counts, losses, gateway.clock.boot_ns)
            if any(any(loss.counts) for loss in losses):
                flags = [*flags, "waived"]
        self.hold = None
        stats = gateway.stats
        counters = stats.c
        counters[state] += 1
        counters["tokens_input"] += counts.input_tokens
        counters["tokens_output"] += counts.output_tokens
        latency_ms = int((gateway.loop.time() - self.began_s) * 1000)
        first_byte_ms = self.first_byte_ms
        if first_byte_ms is not None:
            stats.first_byte_ms.append(first_byte_ms)
        stats.latency_ms.append(latency_ms)
        gateway.client.finish(
            UsageRecord(
                user.account_id, self.usage_id, self.request_id, self.attempt_no, user.key_id, user.member_id, self.protocol, self.model,
                self.deployment, state, reason, counted_by, self.started_ms, clock_ms, first_byte_ms, latency_ms, counts, total, parts,
                losses, flags, upstream_id, self.rated == self.model, self.asked, self.choice, unpaid,
            ),
            self._durable, reason if state == "interrupted" else "",
        )  # fmt: skip
        if hold.account.closing:
            gateway.client.released(hold.account)
