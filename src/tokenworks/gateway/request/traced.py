"""Spans of a traced request: one for each attempt from its beginning to its end, and one for the request. No content is in them, nothing
that the client wrote (its names of models and ids included), no key, account or phone number.
"""

from typing import Final

from tokenworks.factory import DeploymentView
from tokenworks.gateway.protocol.finishes import whole_finishes
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest, PlacedAttempt
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.span_records import AttemptSpan, RequestSpans
from tokenworks.gateway.tracing import ATTEMPTS_MAX, RequestTrace, new_span_id

_TEXT_CHARS_MAX: Final = 200
CLIENT_GONE: Final = "client_gone"


def begin_attempt(shared: Shared, trace: RequestTrace, attempt: PlacedAttempt) -> None:
    """An attempt at a deployment begins. Beyond `ATTEMPTS_MAX` the latest span makes room."""
    view: DeploymentView = attempt.view
    deployment = view.deployment
    if len(trace.attempts) >= ATTEMPTS_MAX:
        trace.attempts.pop()
        trace.left_out += 1
    trace.attempts.append(
        AttemptSpan(
            new_span_id(),
            shared.clock.civil_ms(),
            view.name,
            deployment.vendor or deployment.profile,
            deployment.upstream_model[:_TEXT_CHARS_MAX],
            attempt.protocol,
            deployment.host,
            deployment.port,
        )
    )


def end_attempt(shared: Shared, trace: RequestTrace, attempt: PlacedAttempt) -> None:
    """The attempt that began last has ended; its answer is still at hand."""
    if not trace.attempts or not isinstance(attempt, AnsweredAttempt):
        return
    span, request = trace.attempts[-1], attempt.request
    span.ended_ms = shared.clock.civil_ms()
    if request.first_byte_ms is not None:
        span.first_chunk_ms = max(0, trace.began_ms + request.first_byte_ms - span.began_ms)
    # An attempt that another may follow has left its cause as the latest of the failures.
    failures = request.failures
    if failures is not None and len(failures) == len(trace.attempts) + trace.left_out:
        span.cause = failures[-1][1]
    meter = attempt.meter
    if meter is not None:
        span.finishes = meter.finishes
        span.upstream_id = _short(meter.upstream_id)
        if meter.usage is not None:
            span.counts = tuple(meter.usage.counts)
    elif attempt.chunks and not attempt.refused_status and not request.free:
        span.finishes = whole_finishes(attempt.chunks[0], attempt.protocol)


def keep_spans(shared: Shared, trace: RequestTrace, request: HeldRequest) -> None:
    """The request is over: hand its spans to the exporter."""
    tracer = shared.tracer
    if tracer is None:
        return
    ended_ms = max(trace.began_ms, shared.clock.civil_ms())
    record, refusal = request.record, request.refusal
    if record is not None:
        cause = record.reason if record.state == "interrupted" else ""
    elif refusal is not None:
        cause = refusal.code
    else:
        cause = "" if request.answered else CLIENT_GONE
    if trace.attempts:
        last = trace.attempts[-1]
        last.ended_ms = last.ended_ms or ended_ms
        if not last.cause:
            last.cause = cause
        if record is not None and record.state != "replayed":
            last.counts, last.upstream_id = tuple(record.c), _short(record.upstream_id)
    if refusal is not None and not request.headed:
        status = refusal.status
    else:
        status = 0 if cause == CLIENT_GONE and not request.headed else 200
    tracer.keep(
        RequestSpans(
            trace.trace_id,
            trace.span_id,
            trace.parent_id,
            request.request_id,
            request.protocol,
            trace.began_ms,
            ended_ms,
            # A name that a client wrote must not become a model's: a request without a model has no deployments.
            model=request.model[:_TEXT_CHARS_MAX] if request.views else "",
            status=status,
            cause=cause,
            usage_id="" if record is None else record.usage_id,
            attempts=trace.attempts,
            attempts_left_out=trace.left_out,
            streamed=request.streams,
            counts_tokens=request.free,
            replayed=record is not None and record.state == "replayed",
            queued_ms=request.queued_ms,
        )
    )


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_TEXT_CHARS_MAX]
