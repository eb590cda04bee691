"""From the meter to a usage record: the source of the counts, the losses and their causes, what each bucket pays.

What the upstream reports within the hold and the maximum is charged. What it reports beyond the hold is taken from the rest of the
account before it is a loss. Nothing is waived without a cause in the record.
"""

from collections.abc import Callable, Sequence

from tokenworks.catalog import Counts
from tokenworks.charging import (
    LOSS_CAUSES,
    Attempt,
    CountedBy,
    Hold,
    Loss,
    Need,
    Part,
    Start,
    State,
    UsageRecord,
    Verdict,
    is_nothing,
    usage_record,
)
from tokenworks.gateway.counting import TokenizerCounts, TokenizerJob
from tokenworks.gateway.protocol.estimate import least_input, least_output
from tokenworks.gateway.protocol.usage import Usage
from tokenworks.gateway.request.hold import input_estimate
from tokenworks.gateway.request.losses import NO_COUNTS, Losses, less, shown_bytes
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest
from tokenworks.gateway.shared import Shared


class AttemptCharge:
    """The charge of an attempt: its counts and their source, how the attempt ended, and its losses."""

    __slots__ = (
        "attempt",
        "counted_by",
        "counts",
        "flags",
        "losses",
        "reason",
        "state",
        "total",
        "upstream_id",
    )

    def __init__(
        self,
        attempt: AnsweredAttempt,
        state: State,
        reason: str,
        counted_by: CountedBy,
        counts: Counts,
        total: int | None,
        flags: list[str],
        upstream_id: str | None,
        losses: Sequence[Loss],
    ) -> None:
        """`total`: the upstream's own total of tokens; `upstream_id`: the upstream's id of the answer."""
        self.attempt = attempt
        self.state = state
        self.reason = reason
        self.counted_by = counted_by
        self.counts = counts
        self.total = total
        self.flags = flags
        self.upstream_id = upstream_id
        self.losses = losses


ChargeCallback = Callable[[AttemptCharge], None]
"""Called once, at once or later: the charge is covered as far as the account allows, and the record may be written."""


class Records:
    __slots__ = ("_losses", "_shared")

    def __init__(self, shared: Shared, losses: Losses) -> None:
        self._shared = shared
        self._losses = losses

    # A whole answer.

    def complete(
        self,
        attempt: AnsweredAttempt,
        usage: Usage | None,
        upstream_id: str | None,
        progress: Counts,
        charged: ChargeCallback,
    ) -> None:
        """`usage`: the upstream's report, None if there is none; `progress`: the counts of the shown stream."""
        if usage is not None:
            attempt.iterated = usage.iterated
            self._completed(
                attempt, usage.counts, usage.total, list(usage.flags), "provider", upstream_id, charged
            )
            return
        request = attempt.request

        def counted(found: TokenizerCounts | None) -> None:
            flags = ["no_usage"]
            if found is None:
                estimate = self._estimate(attempt, progress)
                self._completed(attempt, estimate, None, flags, "estimate", upstream_id, charged)
                return
            output = 0 if attempt.protocol == "embeddings" else max(found.output, progress.output)
            counts = Counts(fresh_input=found.input, output=output)
            self._completed(attempt, counts, None, flags, "tokenizer", upstream_id, charged)

        self.count(request, attempt, counted)

    def count(
        self,
        request: HeldRequest,
        attempt: AnsweredAttempt | None,
        counted: Callable[[TokenizerCounts | None], None],
    ) -> None:
        """Have the host's tokenizer process count the request and the attempt's answer. `counted(None)` if it can't, or not in time."""
        if attempt is None or attempt.over:
            tokenizer = request.route.tokenizer
        else:
            tokenizer = attempt.view.deployment.tokenizer
        if tokenizer is None:
            counted(None)
            return
        # The texts of a stream were kept by its meter. The tokenizer process itself reads any other answer.
        texts: tuple[str, ...] = ()
        chunks: tuple[bytes, ...] = ()
        if attempt is not None and attempt.meter is not None:
            texts = tuple(attempt.meter.kept)
        elif attempt is not None:
            chunks = tuple(attempt.chunks)
        # The prompt is counted as the deployment reads it.
        protocol, body, translated = request.protocol, request.body, request.translated
        if translated is not None and (attempt is None or attempt.translated is translated):
            protocol, body = translated.protocol, translated.parsed.body
        request.counting = True

        def done(found: TokenizerCounts | None) -> None:
            request.counting = False
            counted(found)

        self._shared.counter.count(TokenizerJob(tokenizer, protocol, body, chunks, False, texts), done)

    def _completed(
        self,
        attempt: AnsweredAttempt,
        counts: Counts,
        total: int | None,
        flags: list[str],
        counted_by: CountedBy,
        upstream_id: str | None,
        charged: ChargeCallback,
    ) -> None:
        reason, losses = self._losses.of_whole(attempt, counts, counted_by, flags)
        meter, parsed = attempt.meter, attempt.request.parsed
        if meter is not None and (meter.hidden or meter.calls > 1 or parsed.hidden_reasoning):
            counters = self._shared.stats.c
            counters["free_rider_hidden_output"] += counts.output_tokens > meter.shown_bytes
            counters["free_rider_tool_calls"] += meter.calls > 1
        charge = AttemptCharge(
            attempt, "complete", reason, counted_by, counts, total, flags, upstream_id, losses
        )
        self._cover(charge, charged)

    def _estimate(self, attempt: AnsweredAttempt, progress: Counts) -> Counts:
        """Counts for a provider that reports none: from bytes, four to a token. The record says `estimate`."""
        request = attempt.request
        output = 0
        if attempt.protocol != "embeddings":
            output = max(progress.output, shown_bytes(attempt) // 4)
        return Counts(
            fresh_input=max(1, attempt.parsed.text_bytes // 4),
            output=min(output, request.need.output_tokens),
        )

    # An answer that stopped half-way.

    def interrupted(
        self, attempt: AnsweredAttempt, reason: str, charge: str | None, charged: ChargeCallback
    ) -> None:
        """The attempt stopped half-way: charge what is known to have been produced, by `charge` or, if that is None, by the plan's policy
        for the reason.
        """
        request, meter = attempt.request, attempt.meter
        usage = None if meter is None else meter.usage
        if meter is not None and usage is not None and usage.counts.output_tokens >= meter.progress:
            # The report covers what was shown. A report at the start of a stream would have no output yet.
            charge = charge or self._losses.charge_of(attempt, reason, said_all=meter.stopped)
            flags = list(usage.flags)
            self._interrupted(attempt, reason, charge, usage.counts, usage.total, flags, "provider", charged)
            return
        charge_as = charge or self._losses.charge_of(attempt, reason, said_all=False)
        known = meter.counts() if meter is not None else NO_COUNTS

        def counted(found: TokenizerCounts | None) -> None:
            counted_by: CountedBy = "progress"
            counts = _least(attempt, known)
            if found is not None:
                counts = known._replace(
                    fresh_input=known.fresh_input if known.input_tokens else found.input,
                    output=max(known.output, found.output),
                )
                counted_by = "tokenizer"
            self._interrupted(attempt, reason, charge_as, counts, None, [], counted_by, charged)

        self.count(request, attempt, counted)

    def _interrupted(
        self,
        attempt: AnsweredAttempt,
        reason: str,
        charge_as: str,
        counts: Counts,
        total: int | None,
        flags: list[str],
        counted_by: CountedBy,
        charged: ChargeCallback,
    ) -> None:
        losses = list[Loss]()
        if self._losses.waives(attempt.request, charge_as):
            losses.append(Loss(reason if reason in LOSS_CAUSES else "upstream_error", 1, counts))
        else:
            self._losses.bound(attempt, counts, "progress", losses, flags)
        upstream_id = None if attempt.meter is None else attempt.meter.upstream_id or None
        charge = AttemptCharge(
            attempt, "interrupted", reason, counted_by, counts, total, flags, upstream_id, losses
        )
        self._cover(charge, charged)

    # The record.

    def _cover(self, charge: AttemptCharge, charged: ChargeCallback) -> None:
        """Have the account cover what is charged beyond the hold."""
        request, counts = charge.attempt.request, charge.counts
        hold = request.hold
        assert hold is not None
        more_input = counts.input_tokens - request.need.input_tokens
        more_output = counts.output_tokens - request.held_output
        if (more_input <= 0 and more_output <= 0) or hold.paid_whole:
            charged(charge)
            return
        if charge.losses:
            counts = less(counts, charge.losses)
            more_input = counts.input_tokens - request.need.input_tokens
            more_output = counts.output_tokens - request.held_output
        more = Need(0, max(0, more_input), max(0, more_output))
        if is_nothing(more):
            charged(charge)
            return
        shared, cap_ids = self._shared, request.user.cap_ids
        got = shared.slices.hold(hold.account, cap_ids, request.rated, more, shared.clock.boot_ns())
        if got is not None:
            shared.slices.merge(hold, got)
            charged(charge)
            return

        def answered(got: Hold | None, _verdict: Verdict, _back_s: int) -> None:
            request.counting = False
            request.pending_hold = None
            if got is not None:
                shared.slices.merge(hold, got)
            # Without an extension, the commit draws on what is free in the slices here, and settlement on the rest.
            charged(charge)

        request.counting = True
        request.pending_hold = shared.client.request_slices(
            hold.account, cap_ids, request.rated, more, answered
        )

    def write(self, charge: AttemptCharge, durable: Callable[[str], None]) -> None:
        """Draw the charge from the hold and write the record. `durable` is called once it is on disk, with the reason of an
        interruption, or "".
        """
        shared, request = self._shared, charge.attempt.request
        hold, counts, losses = request.hold, charge.counts, charge.losses
        assert hold is not None
        ended_ms = shared.clock.civil_ms()
        flags = charge.flags
        if losses:
            parts, unpaid = shared.slices.commit_charged(hold, counts, losses, shared.clock.boot_ns)
            if any(any(loss.counts) for loss in losses):
                flags = [*flags, "waived"]
        else:
            parts, unpaid = shared.slices.commit(hold, counts, shared.clock.boot_ns)
        request.hold = None
        # Tokens and times are counted by model and deployment when the request is over (`series`).
        shared.stats.c[charge.state] += 1
        risk_tokens = _risk_of(charge)
        if risk_tokens:
            shared.risk.lost(request.user.account_id, risk_tokens)
        request.record = record = self._record(
            charge,
            ended_ms=ended_ms,
            first_byte_ms=request.first_byte_ms,
            parts=parts,
            flags=flags,
            unpaid=unpaid,
        )
        shared.client.finish(
            record, durable, charge.reason if charge.state == "interrupted" else "", risk_tokens
        )
        if hold.account.closing:
            shared.client.released(hold.account)

    def write_failed(self, attempt: AnsweredAttempt) -> None:
        """Record the tokens that a stream reported before it failed without content: they are the operator's loss."""
        meter = attempt.meter
        if attempt.request.usage_id and meter is not None and meter.usage is not None and meter.usage.total:
            self.write_loss(attempt, "failed_attempt", meter.usage, meter.upstream_id or None)

    def write_loss(self, attempt: AnsweredAttempt, cause: str, usage: Usage, upstream_id: str | None) -> None:
        """Record the tokens that a failed attempt reports as loss. The hold stays for the next attempt."""
        shared, request = self._shared, attempt.request
        tokens = sum(usage.counts)
        shared.risk.lost(request.user.account_id, tokens)
        losses = [Loss(cause, 1, usage.counts)]
        flags = list(usage.flags)
        charge = AttemptCharge(
            attempt, "interrupted", cause, "provider", usage.counts, usage.total, flags, upstream_id, losses
        )
        record = self._record(
            charge,
            ended_ms=shared.clock.civil_ms(),
            first_byte_ms=None,
            parts=[],
            flags=flags,
            unpaid=None,
        )
        shared.client.finish(record, _nothing, "", tokens)
        request.usage_id = ""

    def _record(
        self,
        charge: AttemptCharge,
        *,
        ended_ms: int,
        first_byte_ms: int | None,
        parts: list[Part],
        flags: list[str],
        unpaid: tuple[int, Counts] | None,
    ) -> UsageRecord:
        request = charge.attempt.request
        record = usage_record(
            _named(charge.attempt),
            state=charge.state,
            reason=charge.reason,
            counted_by=charge.counted_by,
            ended_ms=ended_ms,
            first_byte_ms=first_byte_ms,
            latency_ms=int((self._shared.loop.time() - request.began_s) * 1000),
            counts=charge.counts,
            provider_total=charge.total,
            parts=parts,
            loss=list(charge.losses),
            flags=flags,
            upstream_id=charge.upstream_id,
        )
        record.unpaid = unpaid
        # The client's wishes, and the failed attempts before this one.
        record.prompt = request.rated == request.model
        record.asked, record.choice = request.intent, request.choice
        record.client_request_id, record.tried = request.head.client_request_id, request.failures
        record.tags = request.tags
        return record

    # The attempt, to the journal.

    def start_op(self, attempt: AnsweredAttempt) -> Start:
        """The attempt in flight and its hold."""
        request = attempt.request
        user, hold = request.user, request.hold
        assert hold is not None
        return Start(
            usage_id=request.usage_id,
            account_id=user.account_id,
            request_id=request.request_id,
            attempt_no=request.attempt_no,
            key_id=user.key_id,
            member_id=user.member_id,
            protocol=attempt.protocol,
            model=request.model,
            deployment=request.deployment,
            started_ms=request.started_ms,
            held=hold.held(),
        )

    def drop(self, request: HeldRequest) -> None:
        """The attempt gave nothing and has no record: remove it from the journal's open attempts."""
        if request.usage_id:
            self._shared.client.drop(request.usage_id)
            request.usage_id = ""


def _named(attempt: AnsweredAttempt) -> Attempt:
    """The attempt in flight, as named in its record: its protocol is the one in which its counts were read."""
    request = attempt.request
    user = request.user
    return Attempt(
        usage_id=request.usage_id,
        account_id=user.account_id,
        request_id=request.request_id,
        attempt_no=request.attempt_no,
        key_id=user.key_id,
        member_id=user.member_id,
        protocol=attempt.protocol,
        model=request.model,
        deployment=request.deployment,
        started_ms=request.started_ms,
    )


def _nothing(_: str) -> None:
    """No response waits for this record."""


def _least(attempt: AnsweredAttempt, known: Counts) -> Counts:
    """Lower bounds of what was produced: the input, if the upstream did not report it, and the shown text."""
    meter = attempt.meter
    output = known.output
    if meter is not None:
        output = max(output, least_output(meter.shown_bytes, meter.progress))
    fresh = known.fresh_input if known.input_tokens else least_input(attempt.parsed, attempt.protocol)
    return known._replace(fresh_input=fresh, output=output)


def _risk_of(charge: AttemptCharge) -> int:
    """Tokens that may have been produced and are not charged: the record's losses, and an estimate of uncounted ones."""
    attempt = charge.attempt
    lost = sum([sum(loss.counts) for loss in charge.losses]) if charge.losses else 0
    if charge.counted_by != "progress" or attempt.protocol == "embeddings":
        return lost
    shown = attempt.meter.shown_bytes if attempt.meter is not None else 0
    likely = input_estimate(attempt.request) + shown // 3
    return lost + max(0, likely - charge.counts.input_tokens - charge.counts.output)
