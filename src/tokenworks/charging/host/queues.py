"""Queues for deployments, the host's side: one queue for each model, in the recorder, since all workers share a deployment's limits.

A request names the limits of the deployments that it may use, in order of preference, and the answer says which one has room. If
none has, the request waits for its time to wait. Queued requests are served by class, then by which account has been served least
for its plan's weight (`factory.FairQueue`). The last slots of a deployment are reserved for accounts below their fair share, so that
their next requests need not wait. Queues are not money: when the process is gone, workers send their requests to the next recorder.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tokenworks.charging import wire
from tokenworks.charging.host.limit_window import STREAMS
from tokenworks.charging.host.limits import STREAMS_AGAIN_MS, HostLimits, Send
from tokenworks.charging.messages import Limit, QueueAnswer, QueueRequest, QueueReturn
from tokenworks.factory import FLEX, FairQueue, Waiter, headroom
from tokenworks.kernel import Clock

NS_PER_MS: Final = 1_000_000
# In the place of what of a limit is short: the queue is full, or the request's time to wait is over.
SHED, TIMED_OUT = 3, 4


class HostQueues:
    """All queues of this host. A queue has at most `waiting_max` requests."""

    def __init__(self, limits: HostLimits, send: Send, clock: Clock, waiting_max: int) -> None:
        self._limits = limits
        self._send = send
        self._clock = clock
        self._waiting_max = waiting_max
        self._queues: dict[str, FairQueue] = {}
        # Of each queued request, by (worker, number): the limits that it may run under.
        self._limits_of: dict[tuple[str, int], Sequence[Limit]] = {}
        # By worker: the requests in flight of (queue, account).
        self._running: dict[str, Counter[tuple[str, str]]] = {}
        # For the metrics: requests that were refused as a queue was full, or as their time to wait was over.
        self.shed = 0
        self.timed_out = 0
        limits.on_room = self.pump

    @property
    def waiting(self) -> int:
        """How many requests are queued."""
        return sum(len(queue) for queue in self._queues.values())

    def _now_ms(self) -> int:
        return self._clock.boot_ns() // NS_PER_MS

    def request(self, worker_id: str, request: QueueRequest) -> None:
        """Admit a request under the first of its limits that has room, or queue it. It is answered with `QUEUE_ANSWER`."""
        entry, limits, tokens = request.queued, request.limits, request.tokens
        queue = self._queues.get(entry.queue)
        if queue is None:
            queue = self._queues[entry.queue] = FairQueue(self._waiting_max)
        now_ms = self._now_ms()
        ticket = worker_id, request.number
        waiter = Waiter(
            ticket, entry.account_id, entry.weight, entry.service, tokens, tuple(limit.limit_id for limit in limits),
            now_ms + entry.wait_ms,
        )  # fmt: skip
        self._limits_of[ticket] = limits
        if not self._limits.open:
            self._join(queue, waiter)
            return
        if not queue.must_queue(waiter.service) and self._admit(entry.queue, queue, waiter, set()):
            return
        # A request is refused at once if no limit can have room within its time to wait.
        shortest: tuple[int, int, int] | None = None
        for at, limit in enumerate(limits):
            short = self._limits.room(limit, tokens, now_ms)
            wait = (STREAMS_AGAIN_MS, STREAMS) if short is None else short
            if shortest is None or wait[0] < shortest[0]:
                shortest = wait[0], at, wait[1]
        assert shortest is not None
        if shortest[0] > entry.wait_ms:
            self._refuse(waiter, *shortest)
            return
        self._join(queue, waiter)
        self._pump(entry.queue, queue)

    def _join(self, queue: FairQueue, waiter: Waiter) -> None:
        shed = queue.join(waiter)
        if shed is not None:
            self.shed += 1
            self._refuse(shed, STREAMS_AGAIN_MS, 0, SHED)

    def cancel(self, worker_id: str, number: int) -> None:
        """Take a request out of its queue: its client is gone."""
        for queue in self._queues.values():
            waiter = queue.leave((worker_id, number))
            if waiter is not None:
                self._refuse(waiter, 1, 0, TIMED_OUT)

    def request_ended(self, worker_id: str, returned: QueueReturn) -> None:
        """A request that was admitted from a queue is over. Its limits were given back before."""
        name, account_id = returned.queue, returned.account_id
        running = self._running.get(worker_id)
        if running is not None and running[name, account_id] > 0:
            running[name, account_id] -= 1
        queue = self._queues.get(name)
        if queue is not None:
            queue.ended(account_id, returned.counted_tokens, returned.used_tokens, self._now_ms())
            self._pump(name, queue)

    def worker_lost(self, worker_id: str) -> None:
        for ticket in [ticket for ticket in self._limits_of if ticket[0] == worker_id]:
            del self._limits_of[ticket]
        now_ms = self._now_ms()
        for queue in self._queues.values():
            queue.drop(lambda waiter: waiter.ticket[0] == worker_id)  # type: ignore[index]
        for (name, account_id), count in self._running.pop(worker_id, Counter()).items():
            for _ in range(count):
                self._queues[name].ended(account_id, 0, 0, now_ms)
        self.pump()

    def pump(self) -> None:
        """Admit queued requests, as there may be room."""
        if self._limits.open:
            for name, queue in self._queues.items():
                if len(queue):
                    self._pump(name, queue)

    def _pump(self, name: str, queue: FairQueue) -> None:
        full: set[tuple[str, ...]] = set()
        while True:
            for waiter in queue.in_order():
                if waiter.deployments not in full and self._admit(name, queue, waiter, full):
                    break
            else:
                return

    def _admit(self, name: str, queue: FairQueue, waiter: Waiter, full: set[tuple[str, ...]]) -> bool:
        """Admit a request if one of its limits has room. Sets of limits that have no room for any request are added to `full`."""
        now_ms = self._now_ms()
        ticket: tuple[str, int] = waiter.ticket  # type: ignore[assignment]
        limits = self._limits_of[ticket]
        slots = sum(self._limits.streams_max(limit) for limit in limits)
        taken = None
        any_room = False
        for at, limit in enumerate(limits):
            if self._limits.room(limit, waiter.tokens, now_ms) is not None:
                continue
            any_room = True
            streams_max = self._limits.streams_max(limit)
            is_last = bool(streams_max) and streams_max - self._limits.streams(limit) <= headroom(streams_max)
            # The last slots of a limit are reserved for accounts below their fair share.
            if is_last and (
                waiter.service == FLEX or queue.has_share(waiter.account_id, waiter.weight, slots, now_ms)
            ):
                continue
            taken = at
            break
        if taken is None:
            if not any_room and not any(limit.tokens_per_min for limit in limits):
                full.add(waiter.deployments)
            return False
        queue.leave(ticket)
        del self._limits_of[ticket]
        slot = self._limits.take(ticket[0], limits[taken], waiter.tokens, now_ms)
        counted = queue.began(waiter.account_id, waiter.weight, waiter.tokens, now_ms)
        self._running.setdefault(ticket[0], Counter())[name, waiter.account_id] += 1
        self._send(ticket[0], wire.QUEUE_ANSWER, [QueueAnswer(ticket[1], 0, taken, 0, slot, counted)])
        return True

    def _refuse(self, waiter: Waiter, wait_ms: int, which: int, what: int) -> None:
        ticket: tuple[str, int] = waiter.ticket  # type: ignore[assignment]
        self._limits_of.pop(ticket, None)
        answer = QueueAnswer(ticket[1], max(1, wait_ms), which, what, 0, 0)
        self._send(ticket[0], wire.QUEUE_ANSWER, [answer])

    def tend(self) -> None:
        """Called once a second: refuse requests whose time to wait is over; admit others, as limits free up with time."""
        now_ms = self._now_ms()
        for name, queue in list(self._queues.items()):
            for waiter in queue.overdue(now_ms):
                self.timed_out += 1
                self._refuse(waiter, STREAMS_AGAIN_MS, 0, TIMED_OUT)
            queue.forget_idle(now_ms)
            if queue.idle:
                del self._queues[name]
        for worker_id, running in list(self._running.items()):
            self._running[worker_id] = +running
        self.pump()
