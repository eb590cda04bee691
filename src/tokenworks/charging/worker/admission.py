"""Protective limits, the worker's side: it asks the recorder, and remembers what it began, for the next recorder."""

from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from tokenworks.charging import wire
from tokenworks.charging.host.limits import SLOT_MS, WINDOW_SLOTS
from tokenworks.charging.messages import (
    Limit,
    LimitAnswer,
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

ASKED_MAX: Final = 100_000
# What is short where nobody answers.
NO_ANSWER: Final = -1
NS_PER_MS: Final = 1_000_000


class Admission:
    """One request that was admitted under its limits; `slot` is when. `queued`, `counted`: from which queue, as how many tokens."""

    __slots__ = ("counted", "limits", "queued", "slot", "tokens")

    def __init__(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        slot: int,
        queued: QueueEntry | None = None,
        counted: int = 0,
    ) -> None:
        self.limits = limits
        self.tokens = tokens
        self.slot = slot
        self.queued = queued
        self.counted = counted


AdmissionCallback = Callable[[Admission | None, int, Limit, int], None]
"""(admission, or None and: milliseconds to wait, the limit that is reached, what of it: streams, requests, tokens, or `NO_ANSWER`)"""


class _Asked:
    __slots__ = ("asked_ms", "limits", "queued", "tokens", "waiter")

    def __init__(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        waiter: AdmissionCallback | None,
        queued: QueueEntry | None,
        asked_ms: int,
    ) -> None:
        self.limits = limits
        self.tokens = tokens
        self.waiter = waiter
        self.queued = queued
        self.asked_ms = asked_ms

    @property
    def until_ms(self) -> int:
        """Until when it is worth waiting for room."""
        return self.asked_ms + (0 if self.queued is None else self.queued.wait_ms)


class _Begun:
    __slots__ = ("in_flight", "limit", "slots")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.slots: deque[tuple[int, int, int]] = deque()


class Admissions:
    def __init__(self, clock: Clock, schedule: Callable[[], None]) -> None:
        self._clock = clock
        self._schedule = schedule
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._forgotten: list[int] = []
        self._queue_backs: list[QueueReturn] = []
        self._asks: list[int] = []
        self._backs: list[LimitReturn] = []
        self._begun: dict[str, _Begun] = {}

    def request(
        self,
        limits: tuple[Limit, ...],
        tokens: int,
        answered: AdmissionCallback,
        queued: QueueEntry | None = None,
    ) -> int:
        """Ask for one request of about so many tokens under all of `limits`; `queued`: under any one of them, and it would wait.
        Returns its number, 0 where it is answered already.
        """
        if len(self._asked) >= ASKED_MAX:
            answered(None, 1000, limits[0], 0)
            return 0
        self._number += 1
        self._asked[self._number] = _Asked(limits, tokens, answered, queued, self._now_ms())
        self._asks.append(self._number)
        self._schedule()
        return self._number

    def _now_ms(self) -> int:
        return self._clock.boot_ns() // NS_PER_MS

    def cancel(self, number: int) -> None:
        """Nobody waits for the answer any more: the recorder answers at once, if it has not."""
        if number in self._asked:
            self._forgotten.append(number)
            self._schedule()

    def give_up(self, wait_s: float) -> None:
        """The recorder did not answer in time. Should it admit what is given up, that ends at once."""
        latest_ms = self._now_ms() - int(wait_s * 1000)
        late = [n for n, asked in self._asked.items() if asked.until_ms < latest_ms and asked.waiter]
        for number in late:
            asked = self._asked[number]
            waiter, asked.waiter = asked.waiter, None
            assert waiter is not None
            self.cancel(number)
            self._tell(waiter, None, 1000, asked.limits[0], NO_ANSWER)

    def end(self, admission: Admission, used_tokens: int, *, begun: bool) -> None:
        """The request is over and used so many tokens; `begun` False: nothing was ever sent, it does not count."""
        if admission.queued is not None:
            queued = admission.queued
            self._queue_backs.append(
                QueueReturn(queued.queue, queued.account_id, admission.counted, used_tokens)
            )
        for limit in admission.limits:
            reserved = (
                min(admission.tokens, limit.tokens_per_min) if limit.tokens_per_min else admission.tokens
            )
            requests = 0 if begun else 1
            self._backs.append(
                LimitReturn(limit.limit_id, admission.slot, requests, reserved - used_tokens, True)
            )
            known = self._begun.get(limit.limit_id)
            if known is not None:
                known.in_flight -= 1
                known.slots.append((admission.slot, -requests, used_tokens - reserved))
        self._schedule()

    def frames(self) -> list[bytes]:
        """What there is to say to the recorder."""
        out = []
        if self._backs:
            out.append(wire.frame(wire.LIMIT_RETURN, wire.encode(self._backs)))
            self._backs = []
        if self._queue_backs:
            out.append(wire.frame(wire.QUEUE_RETURN, wire.encode(self._queue_backs)))
            self._queue_backs = []
        if self._asks:
            limited, waiting = list[LimitRequest](), list[QueueRequest]()
            for number in self._asks:
                if number not in self._asked:
                    continue
                asked = self._asked[number]
                if asked.queued is None:
                    limited.append(LimitRequest(number, asked.tokens, asked.limits))
                else:
                    left_ms = max(0, asked.until_ms - self._now_ms())
                    queued = asked.queued._replace(wait_ms=left_ms)
                    waiting.append(QueueRequest(number, asked.tokens, asked.limits, queued))
            self._asks = []
            if limited:
                out.append(wire.frame(wire.LIMIT_REQUEST, wire.encode(limited)))
            if waiting:
                out.append(wire.frame(wire.QUEUE_REQUEST, wire.encode(waiting)))
        # After what is asked: it may be among it.
        if self._forgotten:
            out.append(wire.frame(wire.QUEUE_LEAVE, wire.encode(self._forgotten)))
            self._forgotten = []
        return out

    def state(self) -> bytes:
        """For a new recorder: what is in flight, and what was begun within the minute. What waits is asked again."""
        first = self._now_ms() // SLOT_MS - WINDOW_SLOTS - 1
        rows = []
        for limit_id, known in list(self._begun.items()):
            while known.slots and known.slots[0][0] < first:
                known.slots.popleft()
            if not known.slots and not known.in_flight:
                del self._begun[limit_id]
                continue
            sums: dict[int, LimitSlot] = {}
            for slot, requests, tokens in known.slots:
                begun = sums.setdefault(slot, LimitSlot(slot, 0, 0))
                begun.requests += requests
                begun.tokens += tokens
            rows.append(LimitState(known.limit, known.in_flight, list(sums.values())))
        # What was given up is not asked again: its recorder is gone with the answer.
        self._asked = {number: asked for number, asked in self._asked.items() if asked.waiter}
        self._asks = list(self._asked)
        self._backs = []
        self._queue_backs = []
        self._forgotten = []
        return wire.frame(wire.LIMIT_STATE, wire.encode(rows))

    def answered(self, answer: LimitAnswer) -> None:
        asked = self._asked.pop(answer.number, None)
        if asked is None:
            return
        limits, tokens, queued = asked.limits, asked.tokens, asked.queued
        wait_ms, which, slot = answer.wait_ms, answer.which, answer.slot
        counted = answer.counted_tokens if isinstance(answer, QueueAnswer) else 0
        admission = None
        if not wait_ms:
            admission = Admission(
                limits if queued is None else (limits[which],), tokens, slot, queued, counted
            )
            for limit in admission.limits:
                known = self._begun.setdefault(limit.limit_id, _Begun(limit))
                known.limit = limit
                known.in_flight += 1
                reserved = min(tokens, limit.tokens_per_min) if limit.tokens_per_min else tokens
                known.slots.append((slot, 1, reserved))
                while known.slots[0][0] < slot - WINDOW_SLOTS - 1:
                    known.slots.popleft()
        if asked.waiter is not None:
            self._tell(asked.waiter, admission, wait_ms, limits[which], answer.what)
        elif admission is not None:
            self.end(admission, 0, begun=False)

    @staticmethod
    def _tell(
        waiter: AdmissionCallback, admission: Admission | None, wait_ms: int, limit: Limit, what: int
    ) -> None:
        try:
            waiter(admission, wait_ms, limit, what)
        except Exception:  # one waiter's failure must not wedge those behind it
            log.exception("admission.waiter_failed")
