"""Protective limits, the host's side: requests and tokens a minute, requests at once. Runs in the recorder's loop.

On one host they are exact: the recorder keeps a sliding minute in slots of a tenth of a second, and every worker requests admission
from it. Several hosts lease what they admit from the ledger, in parts of a twentieth of the limit. A lease is spent within
`LEASE_SPEND_S` and counts for a minute longer than that, so the sum over all hosts never exceeds the limit, and stays within a tenth
of it. Without the ledger a host goes on with the share that it had leased. Limits are not money: when all processes that know one
are gone, it starts anew.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from tokenworks.charging import wire
from tokenworks.charging.host.limit_window import (
    REQUESTS,
    SLOT_MS,
    STREAMS,
    TOKENS,
    Lease,
    LeasePool,
    LimitWindow,
    PendingAdmission,
)
from tokenworks.charging.messages import (
    AdmittedAnswer,
    Limit,
    LimitAnswer,
    LimitRequest,
    LimitReturn,
    LimitState,
)
from tokenworks.kernel import Clock, Unavailable

LEASE_SPEND_S: Final = 3.0
LEASE_PARTS: Final = 20
# A new host waits this long before it leases: by then the other hosts know of it.
HOST_JOIN_S: Final = 3.0
# The least time between two calls of the ledger for a limit where it had nothing left, or did not answer.
ASK_AGAIN_MS: Final = 1000
STREAMS_AGAIN_MS: Final = 1000
# Without the ledger a host's share is the mean over twice the time for which a lease counts, as leases come in bursts.
SHARE_MS: Final = 2 * int((60 + LEASE_SPEND_S) * 1000)
# A limit that nothing used for this long is forgotten.
IDLE_MS: Final = 120_000
WAITING_MAX: Final = 100_000
NS_PER_MS: Final = 1_000_000

Send = Callable[[str, int, object], bool]


class LimitPort(Protocol):
    """The calls to the ledger that limits need. Each call may raise `Unavailable`."""

    async def lease_limit(self, limit: Limit, requests: int, tokens: int, streams: int) -> Lease: ...
    async def return_lease(self, limit_id: str, requests: int, tokens: int) -> None: ...


class HostLimits:
    """All protective limits on this host."""

    def __init__(
        self,
        ledger: LimitPort,
        send: Send,
        clock: Clock,
        *,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._send = send
        self._clock = clock
        self._on_fatal = on_fatal
        self._windows: dict[str, LimitWindow] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_ms = self._now_ms()
        self._before_start: list[PendingAdmission] = []
        # True once every worker that may have requests in flight has reported them, or is gone.
        self.open = False
        self.hosts = 1
        self.away_until_ms = 0
        self.away = False  # the ledger did not answer the last call
        self.on_room: Callable[[], None] = lambda: None  # called when a request may fit that did not before

    def _now_ms(self) -> int:
        return self._clock.boot_ns() // NS_PER_MS

    def _window(self, limit: Limit) -> LimitWindow:
        window = self._windows.get(limit.limit_id)
        if window is None:
            window = self._windows[limit.limit_id] = LimitWindow(limit)
        elif window.limit != limit:
            window.limit = limit
        return window

    # Frames of workers.

    def request(self, worker_id: str, request: LimitRequest) -> None:
        """Admit a request under all of its limits, or under none. It is answered with `LIMIT_ANSWER`."""
        pending = PendingAdmission(worker_id, request.number, request.tokens, request.limits)
        if self.open:
            self._decide(pending)
        elif len(self._before_start) < WAITING_MAX:
            self._before_start.append(pending)
        else:
            self._refuse(pending, ASK_AGAIN_MS, 0, STREAMS)

    def return_unused(self, worker_id: str, returned: LimitReturn) -> None:
        """Take back what a request reserved of a limit and did not use."""
        window = self._windows.get(returned.limit_id)
        if window is None:
            return
        slot, requests, tokens = returned.slot, returned.requests, returned.tokens
        now_slot = self._now_ms() // SLOT_MS
        if requests > 0 or tokens > 0:
            window.add(slot, -requests, -max(0, tokens))
        if tokens < 0:
            window.add(now_slot, 0, -tokens)
        if self.hosts > 1:
            window.returned[0] += requests
            window.returned[1] += tokens
        if returned.ended:
            left = window.in_flight.get(worker_id, 0) - 1
            if left > 0:
                window.in_flight[worker_id] = left
            else:
                window.in_flight.pop(worker_id, None)

    def adopt_state(self, worker_id: str, states: Sequence[LimitState]) -> None:
        """Take over what a worker that outlived the last recorder has in flight, and what it began within the minute."""
        for state in states:
            window = self._window(state.limit)
            if state.in_flight:
                window.in_flight[worker_id] = state.in_flight
            for slot in state.slots:
                window.add(slot.slot, slot.requests, slot.tokens)

    # For queues: one limit at a time, without an answer to the worker.

    def room(self, limit: Limit, tokens: int, now_ms: int) -> tuple[int, int] | None:
        """Return (milliseconds to wait, what is short) for a request of so many tokens, or None if it fits."""
        window = self._window(limit)
        window.used_ms = now_ms
        window.prune(now_ms // SLOT_MS)
        if self.hosts == 1 or now_ms < self.away_until_ms:
            return self._short_alone(window, tokens, now_ms)
        short = self._short_leased(window, tokens, now_ms)
        if short is not None and short[0] < 0:
            window.wanted_tokens = max(window.wanted_tokens, self._reserved(limit, tokens))
            self._begin_lease(window)
            return ASK_AGAIN_MS, STREAMS
        return short

    def take(self, worker_id: str, limit: Limit, tokens: int, now_ms: int) -> int:
        """Begin a request under a limit. Return its slot."""
        window = self._windows[limit.limit_id]
        reserved = self._reserved(limit, tokens)
        if self.hosts > 1 and now_ms >= self.away_until_ms:
            self._spend(window, reserved, now_ms)
        slot = now_ms // SLOT_MS
        window.add(slot, 1, reserved)
        window.in_flight[worker_id] = window.in_flight.get(worker_id, 0) + 1
        return slot

    def streams(self, limit: Limit) -> int:
        """How many requests are in flight under a limit on this host."""
        return self._window(limit).streams

    def streams_max(self, limit: Limit) -> int:
        """How many requests may be in flight at once on this host; 0: any number."""
        if self.hosts == 1 or not limit.streams_max:
            return limit.streams_max
        return max(1, self._window(limit).streams_claimed)

    def worker_lost(self, worker_id: str) -> None:
        # A worker that is gone would return nothing that it is granted now.
        self._before_start = [pending for pending in self._before_start if pending.worker_id != worker_id]
        for window in self._windows.values():
            window.in_flight.pop(worker_id, None)
            window.waiting = [pending for pending in window.waiting if pending.worker_id != worker_id]

    def start(self) -> None:
        """Start to admit: every worker has reported what it has in flight, or is gone."""
        self.open = True
        waiting, self._before_start = self._before_start, []
        for pending in waiting:
            self._decide(pending)
        self.on_room()

    # Deciding.

    def _decide(self, pending: PendingAdmission) -> None:
        now_ms = self._now_ms()
        slot = now_ms // SLOT_MS
        alone = self.hosts == 1
        # Of the limits that are short: the longest wait, which limit it is, and what of it is short.
        longest: tuple[int, int, int] | None = None
        for at, limit in enumerate(pending.limits):
            window = self._window(limit)
            window.used_ms = now_ms
            window.prune(slot)
            short = (
                self._short_alone(window, pending.tokens, now_ms)
                if alone or now_ms < self.away_until_ms
                else None
            )
            if short is None and not alone and now_ms >= self.away_until_ms:
                short = self._short_leased(window, pending.tokens, now_ms)
                if short is not None and short[0] < 0:
                    self._wait_for_lease(window, pending)
                    return
            if short is not None and (longest is None or short[0] > longest[0]):
                longest = short[0], at, short[1]
        if longest is not None:
            self._refuse(pending, *longest)
            return
        for limit in pending.limits:
            self.take(pending.worker_id, limit, pending.tokens, now_ms)
        left = tuple([self._windows[limit.limit_id].left() for limit in pending.limits])
        self._send(
            pending.worker_id, wire.LIMIT_ANSWER, [AdmittedAnswer(pending.number, 0, 0, 0, slot, left)]
        )

    @staticmethod
    def _reserved(limit: Limit, tokens: int) -> int:
        """What a request reserves of a limit's tokens: a request that alone is larger than the limit takes all of them."""
        return min(tokens, limit.tokens_per_min) if limit.tokens_per_min else tokens

    def _short_alone(self, window: LimitWindow, requested_tokens: int, now_ms: int) -> tuple[int, int] | None:
        """Return (wait, what is short) by this host's own count. Without the ledger the host's share is the limit."""
        limit = window.limit
        requests, tokens, streams = limit.requests_per_min, limit.tokens_per_min, limit.streams_max
        if self.hosts > 1:
            least = 10 * self.hosts
            requests = requests and max(1, requests // least, sum(row[1] for row in window.leased) // 2)
            tokens = tokens and max(1, tokens // least, sum(row[2] for row in window.leased) // 2)
            streams = streams and max(1, streams // least, window.streams_claimed)
        if streams and window.streams >= streams:
            return STREAMS_AGAIN_MS, STREAMS
        wanted = min(requested_tokens, tokens) if tokens else 0
        return window.wait_ms(now_ms, requests, tokens, wanted)

    def _short_leased(self, window: LimitWindow, tokens: int, now_ms: int) -> tuple[int, int] | None:
        """Return (wait, what is short), or None if the leases cover the request; a wait of -1: a lease has to be requested first."""
        limit = window.limit
        if self._covered(window, tokens, now_ms):
            return None
        if now_ms >= window.denied_until_ms:
            return -1, 0
        if limit.streams_max and window.streams >= window.streams_claimed:
            return window.denied_wait_ms, STREAMS
        return window.denied_wait_ms, REQUESTS if limit.requests_per_min else TOKENS

    def _covered(self, window: LimitWindow, tokens: int, now_ms: int) -> bool:
        limit = window.limit
        if limit.streams_max and window.streams >= window.streams_claimed:
            return False
        live = [pool for pool in window.pools if pool.until_ms > now_ms]
        if limit.requests_per_min and sum(pool.requests for pool in live) < 1:
            return False
        return not limit.tokens_per_min or sum(pool.tokens for pool in live) >= self._reserved(limit, tokens)

    @staticmethod
    def _spend(window: LimitWindow, tokens: int, now_ms: int) -> None:
        requests = 1
        for pool in window.pools:
            if pool.until_ms <= now_ms:
                continue
            took, drew = min(requests, pool.requests), min(tokens, pool.tokens)
            pool.requests -= took
            pool.tokens -= drew
            requests -= took
            tokens -= drew

    def _refuse(self, pending: PendingAdmission, wait_ms: int, which: int, what: int) -> None:
        self._send(
            pending.worker_id, wire.LIMIT_ANSWER, [LimitAnswer(pending.number, wait_ms, which, what, 0)]
        )

    # Between hosts.

    def _wait_for_lease(self, window: LimitWindow, pending: PendingAdmission) -> None:
        if len(window.waiting) >= WAITING_MAX:
            self._refuse(pending, ASK_AGAIN_MS, 0, REQUESTS)
            return
        window.waiting.append(pending)
        self._begin_lease(window)

    def _begin_lease(self, window: LimitWindow) -> None:
        if not window.leasing:
            window.leasing = True
            task = asyncio.get_running_loop().create_task(self._renew_lease(window))
            self._tasks.add(task)
            task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(error)

    async def _renew_lease(self, window: LimitWindow) -> None:
        try:
            joining_ms = self._started_ms + int(HOST_JOIN_S * 1000) - self._now_ms()
            if joining_ms > 0:
                await asyncio.sleep(joining_ms / 1000)
            limit = window.limit
            request_count = len(window.waiting)
            wanted = sum(self._reserved(limit, pending.tokens) for pending in window.waiting)
            wanted, window.wanted_tokens = max(wanted, window.wanted_tokens), 0
            before_ms = self._now_ms()
            try:
                lease = await self._ledger.lease_limit(
                    limit,
                    max(request_count, math.ceil(limit.requests_per_min / LEASE_PARTS))
                    if limit.requests_per_min
                    else 0,
                    max(wanted, math.ceil(limit.tokens_per_min / LEASE_PARTS)) if limit.tokens_per_min else 0,
                    window.streams + max(request_count, math.ceil(limit.streams_max / LEASE_PARTS))
                    if limit.streams_max
                    else 0,
                )
            except Unavailable:
                self._ledger_away()
                return
            self.away = False
            # The time in which the lease may be spent is measured from before the call.
            window.pools.append(LeasePool(lease, before_ms + int(LEASE_SPEND_S * 1000)))
            window.leased.append((before_ms, lease.requests, lease.tokens))
            window.streams_claimed = lease.streams
            if lease.wait_ms:
                window.denied_wait_ms = lease.wait_ms
                window.denied_until_ms = self._now_ms() + min(lease.wait_ms, ASK_AGAIN_MS)
        finally:
            window.leasing = False
            waiting, window.waiting = window.waiting, []
            for pending in waiting:
                self._decide(pending)
            self.on_room()

    def _ledger_away(self) -> None:
        self.away = True
        self.away_until_ms = self._now_ms() + ASK_AGAIN_MS

    def set_hosts(self, hosts: int) -> None:
        """Set how many hosts live. When a second one joins, what this host admitted within the minute becomes a lease of it."""
        hosts = max(1, hosts)
        joined = self.hosts == 1 and hosts > 1
        self.hosts = hosts
        if joined:
            for window in self._windows.values():
                task = asyncio.get_running_loop().create_task(self._claim_current_use(window))
                self._tasks.add(task)
                task.add_done_callback(self._task_done)

    async def _claim_current_use(self, window: LimitWindow) -> None:
        window.prune(self._now_ms() // SLOT_MS)
        try:
            lease = await self._ledger.lease_limit(
                window.limit, window.requests, window.tokens, window.streams
            )
        except Unavailable:
            return
        window.leased.append((self._now_ms(), lease.requests, lease.tokens))
        window.streams_claimed = lease.streams

    async def tend(self) -> None:
        """Return what was leased and not spent; forget limits that nothing uses. Called about once a second."""
        now_ms = self._now_ms()
        for limit_id, window in list(self._windows.items()):
            window.prune(now_ms // SLOT_MS)
            # While the ledger is away the last share is kept.
            while window.leased and not self.away and window.leased[0][0] < now_ms - SHARE_MS:
                window.leased.popleft()
            while window.pools and window.pools[0].until_ms <= now_ms:
                pool = window.pools.popleft()
                window.returned[0] += pool.requests
                window.returned[1] += pool.tokens
            if any(window.returned) and now_ms >= self.away_until_ms:
                returned, window.returned = window.returned, [0, 0]
                try:
                    await self._ledger.return_lease(limit_id, *returned)
                except Unavailable:
                    self._ledger_away()
            if self.hosts > 1 and window.limit.streams_max and now_ms >= self.away_until_ms:
                try:
                    lease = await self._ledger.lease_limit(window.limit, 0, 0, window.streams)
                    window.streams_claimed = lease.streams
                    self.away = False
                except Unavailable:
                    self._ledger_away()
            if now_ms - window.used_ms > IDLE_MS and not window.in_flight and not window.waiting:
                self._windows.pop(limit_id, None)
