"""One protective limit on this host: what was admitted in the last minute, in slots of a tenth of a second, and what is in flight."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenworks.charging.messages import Limit, LimitLeft

SLOT_MS: Final = 100
WINDOW_SLOTS: Final = 600
# What of a limit is short.
STREAMS, REQUESTS, TOKENS = range(3)


class Lease(NamedTuple):
    """What the ledger leased of a limit to this host, and how long to wait before the next call where that is too little."""

    requests: int
    tokens: int
    streams: int
    wait_ms: int


class PendingAdmission(NamedTuple):
    """A `LimitRequest` of a worker that is not answered."""

    worker_id: str
    number: int
    tokens: int
    limits: Sequence[Limit]


class LeasePool:
    """What is left of a lease."""

    __slots__ = ("requests", "tokens", "until_ms")

    def __init__(self, lease: Lease, until_ms: int) -> None:
        self.requests = lease.requests
        self.tokens = lease.tokens
        self.until_ms = until_ms


class LimitWindow:
    """One limit on this host: what was admitted in the last minute, and what is in flight by worker."""

    __slots__ = (
        "denied_until_ms",
        "denied_wait_ms",
        "in_flight",
        "leased",
        "leasing",
        "limit",
        "pools",
        "requests",
        "returned",
        "slots",
        "streams_claimed",
        "tokens",
        "used_ms",
        "waiting",
        "wanted_tokens",
    )

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.slots: deque[list[int]] = deque()  # [slot, requests, tokens]
        self.requests = 0
        self.tokens = 0
        self.in_flight: dict[str, int] = {}
        self.pools: deque[LeasePool] = deque()
        self.leased: deque[tuple[int, int, int]] = deque()  # (ms, requests, tokens), of the last `SHARE_MS`
        self.streams_claimed = 0
        self.returned = [0, 0]  # requests and tokens that are to be returned to the ledger
        self.leasing = False
        self.waiting: list[PendingAdmission] = []
        self.wanted_tokens = 0  # by the largest request in a queue
        self.denied_until_ms = 0
        self.denied_wait_ms = 0
        self.used_ms = 0

    def prune(self, now_slot: int) -> None:
        slots = self.slots
        while slots and slots[0][0] <= now_slot - WINDOW_SLOTS - 1:
            _, requests, tokens = slots.popleft()
            self.requests -= requests
            self.tokens -= tokens

    def add(self, slot: int, requests: int, tokens: int) -> None:
        """Add to a slot. It may be in the past: what was reserved and not used is taken out of the slot of the request."""
        at = len(self.slots)
        while at and self.slots[at - 1][0] > slot:
            at -= 1
        if at and self.slots[at - 1][0] == slot:
            row = self.slots[at - 1]
        elif requests < 0 or tokens < 0:
            return  # that slot is older than the window
        else:
            row = [slot, 0, 0]
            self.slots.insert(at, row)
        row[1] += requests
        row[2] += tokens
        self.requests += requests
        self.tokens += tokens

    def wait_ms(self, now_ms: int, requests_max: int, tokens_max: int, tokens: int) -> tuple[int, int] | None:
        """Return (milliseconds until a request of so many tokens fits, what is short the longest), or None if it fits now."""
        longest: tuple[int, int] | None = None
        for what, most, used, need, column in (
            (REQUESTS, requests_max, self.requests, 1, 1),
            (TOKENS, tokens_max, self.tokens, tokens, 2),
        ):
            over = used + need - most if most else 0
            if over <= 0:
                continue
            wait_ms = WINDOW_SLOTS * SLOT_MS
            for row in self.slots:
                over -= row[column]
                if over <= 0:
                    wait_ms = max(1, (row[0] + WINDOW_SLOTS + 1) * SLOT_MS - now_ms)
                    break
            if longest is None or wait_ms > longest[0]:
                longest = wait_ms, what
        return longest

    @property
    def streams(self) -> int:
        return sum(self.in_flight.values())

    def left(self) -> LimitLeft:
        limit = self.limit
        return LimitLeft(
            max(0, limit.requests_per_min - self.requests), max(0, limit.tokens_per_min - self.tokens)
        )
