"""Protective limits, the worker's side: requests for admission, and what was admitted, which the next recorder is told."""

from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from tokenworks.charging import wire
from tokenworks.charging.host.limit_window import SLOT_MS, WINDOW_SLOTS
from tokenworks.charging.messages import (
    AdmittedAnswer,
    Limit,
    LimitAnswer,
    LimitLeft,
    LimitRequest,
    LimitReturn,
    LimitSlot,
    LimitState,
    QueueAnswer,
    QueueEntry,
    QueueRequest,
    QueueReturn,
)
from tokenworks.kernel import Clock

log = structlog.get_logger()

# The most requests that wait for admission.
PENDING_MAX: Final = 100_000
# In the place of what is short (`STREAMS` …) where the recorder does not answer.
NO_ANSWER: Final = -1
NS_PER_MS: Final = 1_000_000


class Admission:
    """One request that was admitted under its limits, in `slot` of the limits' minute. `queued`: the queue that it was in, if any;
    `counted`: as how many tokens it counts there. `left`: what this host's minute of each limit still admits, as of then; empty if the
    recorder does not say.
    """

    __slots__ = ("counted", "left", "limits", "queued", "slot", "tokens")

    def __init__(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        slot: int,
        queued: QueueEntry | None = None,
        counted: int = 0,
        left: tuple[LimitLeft, ...] = (),
    ) -> None:
        self.limits = limits
        self.left = left
        self.tokens = tokens
        self.slot = slot
        self.queued = queued
        self.counted = counted


AdmissionCallback = Callable[[Admission | None, int, Limit, int], None]
"""Called with the admission, or None and: milliseconds to wait, the limit that is reached, what of it is short (streams, requests,
tokens, or `NO_ANSWER`)."""


class _PendingAdmission:
    """A request for admission that is not answered. `callback` is None where it was given up."""

    __slots__ = ("callback", "limits", "queued", "requested_ms", "tokens")

    def __init__(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        callback: AdmissionCallback | None,
        queued: QueueEntry | None,
        requested_ms: int,
    ) -> None:
        self.limits = limits
        self.tokens = tokens
        self.callback = callback
        self.queued = queued
        self.requested_ms = requested_ms

    @property
    def until_ms(self) -> int:
        """Until when the request waits for room, in milliseconds since boot."""
        return self.requested_ms + (0 if self.queued is None else self.queued.wait_ms)


class _LimitUse:
    """What this worker has in flight under a limit, and what it began lately: (slot, requests, tokens)."""

    __slots__ = ("in_flight", "limit", "slots")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.slots: deque[tuple[int, int, int]] = deque()


class Admissions:
    """All requests for admission of this worker. `schedule` is called when there are frames to be sent."""

    def __init__(self, clock: Clock, schedule: Callable[[], None]) -> None:
        self._clock = clock
        self._schedule = schedule
        self._number = 0
        self._pending: dict[int, _PendingAdmission] = {}
        self._cancelled: list[int] = []
        self._queue_returns: list[QueueReturn] = []
        self._unsent: list[int] = []
        self._limit_returns: list[LimitReturn] = []
        self._limit_uses: dict[str, _LimitUse] = {}

    def request(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        callback: AdmissionCallback,
        queued: QueueEntry | None = None,
    ) -> int:
        """Request admission for one request of about so many tokens under all of `limits`; if `queued`, under any one of them, and the
        request may wait for it. Return its number for `cancel`, or 0 if it is answered already.
        """
        if len(self._pending) >= PENDING_MAX:
            callback(None, 1000, limits[0], 0)
            return 0
        self._number += 1
        self._pending[self._number] = _PendingAdmission(limits, tokens, callback, queued, self._now_ms())
        self._unsent.append(self._number)
        self._schedule()
        return self._number

    def _now_ms(self) -> int:
        return self._clock.boot_ns() // NS_PER_MS

    def cancel(self, number: int) -> None:
        """Take a request out of its queue: its client is gone. The recorder answers at once, if it has not yet."""
        if number in self._pending:
            self._cancelled.append(number)
            self._schedule()

    def give_up(self, wait_s: float) -> None:
        """Give up requests that the recorder did not answer in time. An admission that comes later is ended at once."""
        latest_ms = self._now_ms() - int(wait_s * 1000)
        overdue = [
            n for n, pending in self._pending.items() if pending.until_ms < latest_ms and pending.callback
        ]
        for number in overdue:
            pending = self._pending[number]
            callback, pending.callback = pending.callback, None
            assert callback is not None
            self.cancel(number)
            self._call(callback, None, 1000, pending.limits[0], NO_ANSWER)

    def end(self, admission: Admission, used_tokens: int, *, begun: bool) -> None:
        """End an admitted request, which used so many tokens. `begun` False: nothing was sent to a deployment, so it does not count."""
        if admission.queued is not None:
            queued = admission.queued
            self._queue_returns.append(
                QueueReturn(queued.queue, queued.account_id, admission.counted, used_tokens)
            )
        for limit in admission.limits:
            reserved = (
                min(admission.tokens, limit.tokens_per_min) if limit.tokens_per_min else admission.tokens
            )
            requests = 0 if begun else 1
            self._limit_returns.append(
                LimitReturn(limit.limit_id, admission.slot, requests, reserved - used_tokens, True)
            )
            use = self._limit_uses.get(limit.limit_id)
            if use is not None:
                use.in_flight -= 1
                use.slots.append((admission.slot, -requests, used_tokens - reserved))
        self._schedule()

    def frames(self) -> list[bytes]:
        """Take the frames that are to be sent to the recorder."""
        out = []
        if self._limit_returns:
            out.append(wire.frame(wire.LIMIT_RETURN, wire.encode(self._limit_returns)))
            self._limit_returns = []
        if self._queue_returns:
            out.append(wire.frame(wire.QUEUE_RETURN, wire.encode(self._queue_returns)))
            self._queue_returns = []
        if self._unsent:
            limit_requests, queue_requests = list[LimitRequest](), list[QueueRequest]()
            for number in self._unsent:
                if number not in self._pending:
                    continue
                pending = self._pending[number]
                if pending.queued is None:
                    limit_requests.append(LimitRequest(number, pending.tokens, pending.limits))
                else:
                    left_ms = max(0, pending.until_ms - self._now_ms())
                    queued = pending.queued._replace(wait_ms=left_ms)
                    queue_requests.append(QueueRequest(number, pending.tokens, pending.limits, queued))
            self._unsent = []
            if limit_requests:
                out.append(wire.frame(wire.LIMIT_REQUEST, wire.encode(limit_requests)))
            if queue_requests:
                out.append(wire.frame(wire.QUEUE_REQUEST, wire.encode(queue_requests)))
        # After the requests, as one of them may be cancelled.
        if self._cancelled:
            out.append(wire.frame(wire.QUEUE_LEAVE, wire.encode(self._cancelled)))
            self._cancelled = []
        return out

    def state(self) -> bytes:
        """For a new recorder: what is in flight, and what began within the minute. Requests that wait are sent again."""
        first = self._now_ms() // SLOT_MS - WINDOW_SLOTS - 1
        rows = []
        for limit_id, use in list(self._limit_uses.items()):
            while use.slots and use.slots[0][0] < first:
                use.slots.popleft()
            if not use.slots and not use.in_flight:
                del self._limit_uses[limit_id]
                continue
            sums: dict[int, LimitSlot] = {}
            for slot, requests, tokens in use.slots:
                begun = sums.setdefault(slot, LimitSlot(slot, 0, 0))
                begun.requests += requests
                begun.tokens += tokens
            rows.append(LimitState(use.limit, use.in_flight, list(sums.values())))
        # What was given up is not sent again: its answer is lost with its recorder.
        self._pending = {number: pending for number, pending in self._pending.items() if pending.callback}
        self._unsent = list(self._pending)
        self._limit_returns = []
        self._queue_returns = []
        self._cancelled = []
        return wire.frame(wire.LIMIT_STATE, wire.encode(rows))

    def answered(self, answer: LimitAnswer) -> None:
        pending = self._pending.pop(answer.number, None)
        if pending is None:
            return
        limits, tokens, queued = pending.limits, pending.tokens, pending.queued
        wait_ms, which, slot = answer.wait_ms, answer.which, answer.slot
        counted = answer.counted_tokens if isinstance(answer, QueueAnswer) else 0
        left = answer.left if isinstance(answer, AdmittedAnswer) else ()
        admission = None
        if not wait_ms:
            admission = Admission(
                limits if queued is None else (limits[which],), tokens, slot, queued, counted, left
            )
            for limit in admission.limits:
                use = self._limit_uses.setdefault(limit.limit_id, _LimitUse(limit))
                use.limit = limit
                use.in_flight += 1
                reserved = min(tokens, limit.tokens_per_min) if limit.tokens_per_min else tokens
                use.slots.append((slot, 1, reserved))
                while use.slots[0][0] < slot - WINDOW_SLOTS - 1:
                    use.slots.popleft()
        if pending.callback is not None:
            self._call(pending.callback, admission, wait_ms, limits[which], answer.what)
        elif admission is not None:
            self.end(admission, 0, begun=False)

    @staticmethod
    def _call(
        callback: AdmissionCallback, admission: Admission | None, wait_ms: int, limit: Limit, what: int
    ) -> None:
        try:
            callback(admission, wait_ms, limit, what)
        except Exception:  # the failure of one callback must not stop the others
            log.exception("admission.waiter_failed")
