"""What a host's recorder knows of an account: its buckets, the host's grants of them and the slice requests that are queued."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, Protocol

from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.messages import BucketTerms, Need, SliceRequest, Verdict
from tokenworks.charging.model import CAP_RATE, spending_order

NS_PER_S: Final = 1_000_000_000
# The most queued slice requests of one account that are combined into one.
COMBINED_MAX: Final = 1000


class LedgerPort(Protocol):
    """The calls to the ledger that the grants of a host need. Each call may raise `Unavailable`."""

    async def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]: ...
    async def granted_elsewhere(self, account_id: str) -> int: ...
    async def open_grants_of(self, account_id: str) -> list[tuple[str, str, int, int]]: ...
    async def request_recall(self, account_id: str) -> int: ...
    async def recall_answered(self, recall_id: int, account_id: str) -> bool: ...
    async def end_recall(self, recall_id: int) -> None: ...
    async def recalls(self) -> list[tuple[int, str]]: ...
    async def answer_recall(self, recall_id: int) -> None: ...
    async def return_grant(self, account_id: str, grant_id: str, amount: int) -> bool: ...
    async def grant(
        self, account_id: str, bucket_id: str, grant_id: str | None, amount: int, spend_for_s: float
    ) -> GrantAnswer | None: ...
    async def close_grant(self, account_id: str, grant_id: str) -> None: ...
    async def top_up(self, account_id: str, model: str, need: Need) -> bool: ...
    async def window_back_s(self, account_id: str, bucket_ids: list[str]) -> int: ...


class HostBucket:
    """One bucket as this host knows it, and the host's grant of it."""

    __slots__ = (
        "active_s", "amount", "burn_s", "closing", "free", "grant_id", "remaining", "slices", "spend_until_ns", "terms", "used", "used_before", "used_lately",
    )  # fmt: skip

    def __init__(self, terms: BucketTerms, remaining: int) -> None:
        self.terms = terms
        self.remaining = remaining
        self.grant_id: str | None = None
        self.amount = 0
        self.used = 0
        self.free = 0
        self.slices: dict[str, int] = {}
        self.spend_until_ns = 0
        self.active_s = 0.0
        self.burn_s = 0
        self.used_before = 0
        self.used_lately = False  # since the last `tend`, which then sets `active_s`
        self.closing = False

    def set_grant(self, grant_id: str, amount: int, used: int) -> None:
        """Set the host's open grant of the bucket to what the ledger has."""
        self.grant_id, self.amount, self.used, self.free = grant_id, amount, used, amount - used

    def take_from_slice(self, worker_id: str, amount: int, violation: str) -> None:
        """Take an amount out of a worker's slice. `violation` says what the worker did wrong where its slice has less."""
        left = self.slices.get(worker_id, 0) - amount
        assert left >= 0, f"worker {worker_id} {violation}"
        if left:
            self.slices[worker_id] = left
        else:
            self.slices.pop(worker_id, None)

    def check(self) -> None:
        assert self.free >= 0 and self.used >= 0 and all(s >= 0 for s in self.slices.values())
        assert self.amount == self.used + self.free + sum(self.slices.values()), (
            f"grant {self.grant_id}: {self.amount} != {self.used} + {self.free} + {self.slices}"
        )


class PendingSliceRequest:
    """A worker's `SliceRequest` that is not answered yet. `free` is what the worker has free of each bucket.

    `prefetch`: no client waits; the worker's slice runs low and is filled up from what is free anyway.
    """

    __slots__ = ("cap_ids", "free", "model", "need", "number", "prefetch", "received_s", "worker_id")

    def __init__(
        self,
        worker_id: str,
        number: int,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        free: dict[str, int],
        prefetch: bool = False,
    ) -> None:
        self.prefetch = prefetch
        self.received_s = 0.0
        self.worker_id = worker_id
        self.number = number
        self.cap_ids = cap_ids
        self.model = model
        self.need = need
        self.free = free

    @classmethod
    def of(cls, worker_id: str, request: SliceRequest) -> "PendingSliceRequest":
        return cls(
            worker_id,
            request.number,
            request.cap_ids,
            request.model,
            request.need,
            request.free,
            request.prefetch,
        )

    @classmethod
    def combined(cls, requests: Sequence["PendingSliceRequest"]) -> "PendingSliceRequest":
        """One request for all of these, which are of one worker, for one model and under the same caps."""
        first = requests[0]
        need = Need(
            sum(request.need.requests for request in requests),
            sum(request.need.input_tokens for request in requests),
            sum(request.need.output_tokens for request in requests),
        )
        free = {
            bucket_id: min(request.free.get(bucket_id, 0) for request in requests) for bucket_id in first.free
        }
        return cls(first.worker_id, first.number, first.cap_ids, first.model, need, free)


class HostAccount:
    """One account on this host. `lock` is held while grants are extended, renewed or closed, so that no request is refused because
    of a bucket that is just being closed.
    """

    __slots__ = (
        "account_id",
        "behind",
        "buckets",
        "loaded_s",
        "lock",
        "needs_reconcile",
        "next_tend_s",
        "queue",
        "recall_verdict",
        "recalled_s",
        "returns_in_flight",
        "serving",
        "shortfall",
        "top_up_after_s",
        "top_up_refused",
        "windows_used_up",
    )

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.lock = asyncio.Lock()
        self.buckets: dict[str, HostBucket] = {}
        self.queue: deque[PendingSliceRequest] = deque()
        self.loaded_s = -1e9
        self.serving = False
        # `tend` skips the account until then; any event on the account sets this back to 0.
        self.next_tend_s = 0.0
        # A call that may have changed the grants was not answered: they are read from the ledger before anything else.
        self.needs_reconcile = False
        # Calls that return quantity to the ledger without the lock. `reconcile` waits until there are none.
        self.returns_in_flight = 0
        # Another host has waited longer for the account's quantity, so the ledger serves that host first.
        self.behind = False
        # When other hosts were last asked for what they have free, and what came of it.
        self.recalled_s = -1e9
        self.recall_verdict = Verdict.ELSEWHERE
        # What the last request lacked, where buying more would help; and when that may be tried again.
        self.shortfall: Need | None = None
        self.top_up_after_s = -1e9
        self.top_up_refused = 0
        # Windows whose quantity the last request found used up, although the balance would have covered the request.
        self.windows_used_up: list[str] = []

    def ordered(self) -> list[HostBucket]:
        return sorted(
            (b for b in self.buckets.values() if b.terms.kind == "balance"),
            key=lambda b: spending_order(b.terms),
        )

    def combinable(self, first: PendingSliceRequest) -> list[PendingSliceRequest]:
        """The queued requests of the same worker for the same model under the same caps, `first` included."""
        if first.prefetch or len(self.queue) == 1:
            return [first]
        return [
            request
            for request in islice(self.queue, COMBINED_MAX)
            if request.worker_id == first.worker_id and request.model == first.model and request.cap_ids == first.cap_ids and not request.prefetch
        ]  # fmt: skip

    def dequeue(self, served: Iterable[PendingSliceRequest]) -> list[PendingSliceRequest]:
        """Remove requests that are served from the queue. Return those that were still in it."""
        ids = {id(request) for request in served}
        removed = [request for request in self.queue if id(request) in ids]
        self.queue = deque(request for request in self.queue if id(request) not in ids)
        return removed

    def share_surplus(self, served: PendingSliceRequest, bucket_id: str, surplus: int) -> None:
        """Count what the worker's slice has beyond a served request as free for the worker's other queued requests."""
        for request in islice(self.queue, COMBINED_MAX) if surplus > 0 else ():
            if request is not served and request.worker_id == served.worker_id:
                request.free[bucket_id] = max(request.free.get(bucket_id, 0), surplus)

    def deduct_returned(self, worker_id: str, bucket_id: str, amount: int) -> None:
        """A worker returned so much of its slice: its queued requests have that much less free."""
        for request in self.queue:
            if request.worker_id == worker_id and bucket_id in request.free:
                request.free[bucket_id] = max(0, request.free[bucket_id] - amount)

    def due_s(self, idle_s: float, spend_for_s: float) -> float:
        """When the account has to be tended next, in seconds since boot, if no event comes before. A host has many accounts that were
        used once; it looks at each when that is due, not every second.
        """
        due_s = self.loaded_s + idle_s
        for bucket in self.buckets.values():
            if bucket.closing or bucket.used_lately or bucket.burn_s or self.needs_reconcile:
                return 0.0
            if bucket.grant_id is None:
                continue
            due_s = min(due_s, bucket.active_s + idle_s)
            if bucket.slices:
                due_s = min(due_s, bucket.spend_until_ns / NS_PER_S - spend_for_s * 2 / 3)
        return due_s


def unknown_terms(account_id: str, bucket_id: str) -> BucketTerms:
    """Placeholder terms of a bucket whose grant is known before the account's terms are loaded."""
    return BucketTerms(bucket_id, account_id, "balance", "", 0, None, (), CAP_RATE)
