"""Waiting for a deployment, the host's side: one queue a model, in the recorder, since all workers share what a deployment takes.

A request names the deployments that it may have, in its order, and is told which one has room. Where none has, it waits until
its time is over: who waits is served by class, then by who has had the least for his plan's weight (`factory.FairQueue`).
Who has his share of what the model's deployments take at once leaves the last of each to others, so that who comes next need
not wait. Nothing here is money: a queue may be lost with the process that kept it, and is then asked for anew.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tokenworks.charging import wire
from tokenworks.charging.host.limits import STREAMS, STREAMS_AGAIN_MS, HostLimits, Send
from tokenworks.charging.messages import Limit, QueueAnswer, QueueRequest, QueueReturn
from tokenworks.factory import FLEX, FairQueue, Waiter, headroom
from tokenworks.kernel import Clock

NS_PER_MS: Final = 1_000_000
# Beside what of a limit is short: too many wait, or it waited as long as it would.
SHED, WAITED = 3, 4


class HostQueues:
    def __init__(self, limits: HostLimits, send: Send, clock: Clock, waiting_max: int) -> None:
        self._limits = limits
        self._send = send
        self._clock = clock
        self._waiting_max = waiting_max
        self._queues: dict[str, FairQueue] = {}
        self._asked: dict[tuple[str, int], Sequence[Limit]] = {}
        self._running: dict[str, Counter[tuple[str, str]]] = {}  # by worker: (queue, account)
        # For the metrics: who was let go, and whose time was over.
        self.shed = 0
        self.timed_out = 0
        limits.on_room = self.pump

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return sum(len(queue) for queue in self._queues.values())

    def _now_ms(self) -> int:
        return self._clock.boot_ns() // NS_PER_MS

    def ask(self, worker_id: str, request: QueueRequest) -> None:
        """Which of these has room for the request, now or soon? Answered with `QUEUE_ANSWER`."""
        asked, found, tokens = request.queued, request.limits, request.tokens
        queue = self._queues.get(asked.queue)
        if queue is None:
            queue = self._queues[asked.queue] = FairQueue(self._waiting_max)
        now_ms = self._now_ms()
        ticket = worker_id, request.number
        waiter = Waiter(
            ticket, asked.account_id, asked.weight, asked.service, tokens, tuple(limit.limit_id for limit in found),
            now_ms + asked.wait_ms,
        )  # fmt: skip
        self._asked[ticket] = found
        if not self._limits.open:
            self._join(queue, waiter)
            return
        if not queue.must_queue(waiter.service) and self._admit(asked.queue, queue, waiter, set()):
            return
        # Where it is known that the wait is longer than it would wait, it need not.
        shortest: tuple[int, int, int] | None = None
        for at, limit in enumerate(found):
            short = self._limits.room(limit, tokens, now_ms)
            wait = (STREAMS_AGAIN_MS, STREAMS) if short is None else short
            if shortest is None or wait[0] < shortest[0]:
                shortest = wait[0], at, wait[1]
        assert shortest is not None
        if shortest[0] > asked.wait_ms:
            self._refuse(waiter, *shortest)
            return
        self._join(queue, waiter)
        self._pump(asked.queue, queue)

    def _join(self, queue: FairQueue, waiter: Waiter) -> None:
        shed = queue.join(waiter)
        if shed is not None:
            self.shed += 1
            self._refuse(shed, STREAMS_AGAIN_MS, 0, SHED)

    def forget(self, worker_id: str, number: int) -> None:
        """Nobody waits for it any more."""
        for queue in self._queues.values():
            waiter = queue.leave((worker_id, number))
            if waiter is not None:
                self._refuse(waiter, 1, 0, WAITED)

    def ended(self, worker_id: str, ended: QueueReturn) -> None:
        """A request that was admitted from a queue is over; its limits have heard of it already."""
        queue, account_id = ended.queue, ended.account_id
        running = self._running.get(worker_id)
        if running is not None and running[queue, account_id] > 0:
            running[queue, account_id] -= 1
        found = self._queues.get(queue)
        if found is not None:
            found.ended(account_id, ended.counted_tokens, ended.used_tokens, self._now_ms())
            self._pump(queue, found)

    def worker_lost(self, worker_id: str) -> None:
        for ticket in [ticket for ticket in self._asked if ticket[0] == worker_id]:
            del self._asked[ticket]
        now_ms = self._now_ms()
        for queue in self._queues.values():
            queue.drop(lambda waiter: waiter.ticket[0] == worker_id)  # type: ignore[index]
        for (name, account_id), count in self._running.pop(worker_id, Counter()).items():
            for _ in range(count):
                self._queues[name].ended(account_id, 0, 0, now_ms)
        self.pump()

    def pump(self) -> None:
        """There may be room."""
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
        """Begin it where there is room. `full` gets those places that have none for anybody."""
        now_ms = self._now_ms()
        ticket: tuple[str, int] = waiter.ticket  # type: ignore[assignment]
        found = self._asked[ticket]
        slots = sum(self._limits.streams_max(limit) for limit in found)
        taken = None
        any_room = False
        for at, limit in enumerate(found):
            if self._limits.room(limit, waiter.tokens, now_ms) is not None:
                continue
            any_room = True
            most = self._limits.streams_max(limit)
            last = bool(most) and most - self._limits.streams(limit) <= headroom(most)
            # The last of it is for who comes next, not for who has his share.
            if last and (
                waiter.service == FLEX or queue.has_share(waiter.account_id, waiter.weight, slots, now_ms)
            ):
                continue
            taken = at
            break
        if taken is None:
            if not any_room and not any(limit.tokens_per_min for limit in found):
                full.add(waiter.deployments)
            return False
        queue.leave(ticket)
        del self._asked[ticket]
        slot = self._limits.take(ticket[0], found[taken], waiter.tokens, now_ms)
        counted = queue.began(waiter.account_id, waiter.weight, waiter.tokens, now_ms)
        self._running.setdefault(ticket[0], Counter())[name, waiter.account_id] += 1
        self._send(ticket[0], wire.QUEUE_ANSWER, [QueueAnswer(ticket[1], 0, taken, 0, slot, counted)])
        return True

    def _refuse(self, waiter: Waiter, wait_ms: int, which: int, what: int) -> None:
        ticket: tuple[str, int] = waiter.ticket  # type: ignore[assignment]
        self._asked.pop(ticket, None)
        answer = QueueAnswer(ticket[1], max(1, wait_ms), which, what, 0, 0)
        self._send(ticket[0], wire.QUEUE_ANSWER, [answer])

    def tend(self) -> None:
        """Once a second: who has waited long enough, and what came free with time alone."""
        now_ms = self._now_ms()
        for name, queue in list(self._queues.items()):
            for waiter in queue.overdue(now_ms):
                self.timed_out += 1
                self._refuse(waiter, STREAMS_AGAIN_MS, 0, WAITED)
            queue.forget_idle(now_ms)
            if queue.idle:
                del self._queues[name]
        for worker_id, running in list(self._running.items()):
            self._running[worker_id] = +running
        self.pump()
