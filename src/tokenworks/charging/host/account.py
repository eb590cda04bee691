"""What a host's recorder knows of an account: its buckets and the host's grants of them, who asks, and the ledger's door."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, Protocol

from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.messages import BucketTerms, Need, SliceRequest, Verdict
from tokenworks.charging.model import CAP_RATE, spending_order

NS_PER_S: Final = 1_000_000_000
# Asks of a crowd that are served as one.
ALIKE_MAX: Final = 1000


class LedgerPort(Protocol):
    """What the grants need of the database; every call may raise `Unavailable`."""

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
        self.used_lately = False  # since the last look; `active_s` follows once a second
        self.closing = False

    def hold(self, grant_id: str, amount: int, used: int) -> None:
        """An open grant of it, as the ledger says."""
        self.grant_id, self.amount, self.used, self.free = grant_id, amount, used, amount - used

    def take(self, worker_id: str, amount: int, did: str) -> None:
        """From a worker's slice, which has so much: it `did` so."""
        left = self.slices.get(worker_id, 0) - amount
        assert left >= 0, f"worker {worker_id} {did}"
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
    """A worker that could not hold: what for, and what it had free of each bucket when it asked.

    Nobody waits for a `soft` one: a slice runs low, and is filled up from what is free anyway.
    """

    __slots__ = ("asked_s", "cap_ids", "free", "model", "need", "number", "soft", "worker_id")

    def __init__(
        self,
        worker_id: str,
        number: int,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        free: dict[str, int],
        soft: bool = False,
    ) -> None:
        self.soft = soft
        self.asked_s = 0.0
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
            request.soft,
        )

    @classmethod
    def together(cls, alike: Sequence["PendingSliceRequest"]) -> "PendingSliceRequest":
        """One for all of what a worker wants for one model under the same caps."""
        first = alike[0]
        need = Need(
            sum(ask.need.requests for ask in alike),
            sum(ask.need.input_tokens for ask in alike),
            sum(ask.need.output_tokens for ask in alike),
        )
        free = {bucket_id: min(ask.free.get(bucket_id, 0) for ask in alike) for bucket_id in first.free}
        return cls(first.worker_id, first.number, first.cap_ids, first.model, need, free)


class HostAccount:
    __slots__ = (
        "account_id",
        "asks",
        "behind",
        "buckets",
        "called_s",
        "called_verdict",
        "lacks",
        "loaded_s",
        "lock",
        "quiet_until_s",
        "returning",
        "serving",
        "top_up_after_s",
        "top_up_refused",
        "unsure",
        "windows_short",
    )

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        # Gathering, renewing and closing exclude each other: a bucket that is being closed refuses nobody.
        self.lock = asyncio.Lock()
        self.buckets: dict[str, HostBucket] = {}
        self.asks: deque[PendingSliceRequest] = deque()
        self.loaded_s = -1e9
        self.serving = False
        # Until when nothing of it is to be looked after, unless something happens to it.
        self.quiet_until_s = 0.0
        # A call that may have changed our grants was not answered: what the ledger has is looked at first.
        self.unsure = False
        # Quantity on its way back to the ledger, not under the lock: what the ledger says meanwhile is no news.
        self.returning = 0
        # Another host has waited longer for what there is.
        self.behind = False
        self.called_s = -1e9
        self.called_verdict = Verdict.ELSEWHERE
        # What the last ask lacked, where buying more would help; and when that may be tried again.
        self.lacks: Need | None = None
        self.top_up_after_s = -1e9
        self.top_up_refused = 0
        # Windows that the last ask found used up, where the balance would have covered it.
        self.windows_short: list[str] = []

    def ordered(self) -> list[HostBucket]:
        return sorted(
            (b for b in self.buckets.values() if b.terms.kind == "balance"),
            key=lambda b: spending_order(b.terms),
        )

    def alike(self, first: PendingSliceRequest) -> list[PendingSliceRequest]:
        """What the same worker wants for the same model under the same caps, the first one with it."""
        if first.soft or len(self.asks) == 1:
            return [first]
        return [
            ask
            for ask in islice(self.asks, ALIKE_MAX)
            if ask.worker_id == first.worker_id and ask.model == first.model and ask.cap_ids == first.cap_ids and not ask.soft
        ]  # fmt: skip

    def take(self, served: Iterable[PendingSliceRequest]) -> list[PendingSliceRequest]:
        """Take asks that are served out of the queue; those that were still in it."""
        ids = {id(ask) for ask in served}
        taken = [ask for ask in self.asks if id(ask) in ids]
        self.asks = deque(ask for ask in self.asks if id(ask) not in ids)
        return taken

    def leaves(self, served: PendingSliceRequest, bucket_id: str, left: int) -> None:
        """What an ask leaves of what its worker has is there for those of that worker that wait behind it."""
        for ask in islice(self.asks, ALIKE_MAX) if left > 0 else ():
            if ask is not served and ask.worker_id == served.worker_id:
                ask.free[bucket_id] = max(ask.free.get(bucket_id, 0), left)

    def gave(self, worker_id: str, bucket_id: str, amount: int) -> None:
        """A worker has so much less free than when it asked."""
        for ask in self.asks:
            if ask.worker_id == worker_id and bucket_id in ask.free:
                ask.free[bucket_id] = max(0, ask.free[bucket_id] - amount)

    def next_look_s(self, idle_s: float, spend_for_s: float) -> float:
        """When there is something to be looked after, unless something happens before: a host has many accounts that came once,
        and looks at each when it is due, not every second. In seconds since boot.
        """
        look_s = self.loaded_s + idle_s
        for bucket in self.buckets.values():
            if bucket.closing or bucket.used_lately or bucket.burn_s or self.unsure:
                return 0.0
            if bucket.grant_id is None:
                continue
            look_s = min(look_s, bucket.active_s + idle_s)
            if bucket.slices:
                look_s = min(look_s, bucket.spend_until_ns / NS_PER_S - spend_for_s * 2 / 3)
        return look_s


def unknown_terms(account_id: str, bucket_id: str) -> BucketTerms:
    """Of a grant that is known before its account is loaded."""
    return BucketTerms(bucket_id, account_id, "balance", "", 0, None, (), CAP_RATE)
