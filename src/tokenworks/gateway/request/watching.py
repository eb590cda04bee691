"""Observes requests that are over: adds them to the sums by model and deployment, and writes their lines to the log."""

from time import perf_counter
from typing import Final

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.state import HeldRequest
from tokenworks.gateway.request_log import RequestLine, RequestLog
from tokenworks.gateway.series import COMPLETE, INTERRUPTED, LEFT, NONE, OUTCOMES, REFUSED, Series

_US_PER_S: Final = 1_000_000


class RequestObserver:
    __slots__ = ("_log", "_series")

    def __init__(self, request_log: RequestLog, series: Series) -> None:
        self._log = request_log
        self._series = series

    def ended(self, exchange: HeldRequest, now_s: float) -> None:
        """Note a request that is over, whatever its outcome. `now_s`: the loop's time."""
        record, series, failures = exchange.record, self._series, exchange.failures
        if record is not None and failures is None and record.state == "complete":
            # The usual case.
            series.of(record.model, record.deployment).recorded(record, COMPLETE)
            added_us = 0
            if exchange.over_s:
                waited_s = exchange.sent_s - exchange.arrived_s - exchange.queued_ms / 1000
                added_us = int((waited_s + perf_counter() - exchange.over_s) * _US_PER_S)
                series.added_us[exchange.protocol].append(added_us)
            if self._log.wants():
                self._write(exchange, COMPLETE, record.deployment, record.model, None, now_s, added_us)
            return
        if record is not None and record.state == "replayed":
            # No deployment produced anything for it, so its tokens are in no sum.
            series.of(record.model, NONE).outcomes[COMPLETE] += 1
            if self._log.wants():
                self._write(exchange, COMPLETE, NONE, record.model, None, now_s, 0)
            return
        # A name that a client wrote must not become a model's: a request without a model has no deployments.
        model = exchange.model if exchange.views else NONE
        # A deployment to which no connection was made is in `tried` alone.
        deployment = exchange.deployment or (exchange.tried[-1] if exchange.tried else NONE)
        row = series.of(model, deployment)
        for name, _ in failures or ():
            series.failed(model, name)
        if record is not None:
            outcome, cause = (COMPLETE if record.state == "complete" else INTERRUPTED), record.reason
            row.recorded(record, outcome)
            if outcome == COMPLETE:
                # The request was served after failed attempts, so it is no failure.
                if self._log.wants():
                    self._write(exchange, COMPLETE, deployment, model, None, now_s, 0)
                return
        elif exchange.answered:
            row.outcomes[COMPLETE] += 1
            if self._log.wants():
                self._write(exchange, COMPLETE, deployment, model, exchange.answered, now_s, 0)
            return
        else:
            refusal = exchange.refusal
            outcome = LEFT if refusal is None else REFUSED
            cause = "client_gone" if refusal is None else refusal.code
            row.outcomes[outcome] += 1
        if self._log.wants_failure(cause, deployment, now_s):
            self._write(exchange, outcome, deployment, model, cause, now_s, 0)

    def _write(
        self,
        exchange: HeldRequest,
        outcome: int,
        deployment: str,
        model: str,
        cause: str | None,
        now_s: float,
        added_us: int,
    ) -> None:
        user = exchange.user if exchange.is_known else None
        record, refusal = exchange.record, exchange.refusal
        if cause is None and record is not None and record.reason != "completed":
            cause = record.reason
        self._log.write(
            RequestLine(
                time=self._log.time(),
                event="request",
                request_id=exchange.request_id,
                client_request_id=exchange.head.client_request_id,
                usage_id=None
                if record is None or record.usage_id == exchange.request_id
                else record.usage_id,
                account_id=None if user is None else user.account_id,
                member_id=None if user is None else user.member_id,
                key_id=None if user is None else user.key_id,
                protocol=exchange.protocol,
                model=None if model == NONE else model,
                deployment=None if deployment == NONE else deployment,
                outcome=OUTCOMES[outcome],
                status=200 if refusal is None else refusal.status,
                cause=cause,
                attempts=exchange.attempt_no,
                tried=exchange.failures,
                upstream_id=None if record is None else record.upstream_id,
                choice=exchange.choice,
                places=len(exchange.views),
                tokens=None
                if record is None
                else {name: n for name, n in zip(TOKEN_CLASSES, record.c, strict=True) if n},
                losses=[loss.cause for loss in record.loss] if record is not None and record.loss else None,
                streamed=exchange.streams,
                queued_ms=exchange.queued_ms,
                first_byte_ms=exchange.first_byte_ms,
                latency_ms=int((now_s - exchange.began_s) * 1000),
                added_us=added_us,
            )
        )

    def refused(self, refusal: Refusal, request_id: str, head: Head | None, now_s: float) -> None:
        """Note a request that was refused before it became an exchange."""
        if self._log.wants_failure(refusal.code, NONE, now_s):
            own_id = None if head is None else head.client_request_id
            self._log.write(
                RequestLine(self._log.time(), "request", request_id, own_id, outcome=OUTCOMES[REFUSED], status=refusal.status, cause=refusal.code)
            )  # fmt: skip
