"""What a worker knows of an account: its slices of the host's grants, and what requests in flight hold of them."""

from typing import NamedTuple

from tokenworks.catalog import Counts
from tokenworks.charging.messages import BucketTerms, HeldAmount
from tokenworks.charging.model import HoldRate


class Slice:
    """The part of one grant that this worker may spend."""

    __slots__ = ("closing", "free", "grant_id", "held", "low", "rates", "spend_until_ns", "terms")

    def __init__(self, terms: BucketTerms, grant_id: str) -> None:
        self.terms = terms
        self.grant_id = grant_id
        self.free = 0
        self.held = 0
        self.low = 0  # with less than this free, the worker prefetches more
        self.spend_until_ns = 0
        self.closing = False
        self.rates: dict[str, HoldRate] = {}  # by model


HeldPart = tuple[Slice, int, HoldRate]
"""(slice, amount held, rate)"""
Unpaid = tuple[int, Counts] | None
"""(requests, tokens) that no slice of this worker could pay."""


class Hold:
    """What one request in flight reserves: `parts` of the balance in spending order, and in `caps` what it reserves beside the
    balance, of caps and of windows.
    """

    __slots__ = ("account", "caps", "parts")

    def __init__(self, account: "AccountSlices", parts: list[HeldPart], caps: list[HeldPart]) -> None:
        self.account = account
        self.parts = parts
        self.caps = caps

    @property
    def paid_whole(self) -> bool:
        """True if a bucket that counts requests pays for the request, however long its answer gets."""
        return bool(self.parts) and self.parts[0][2].whole

    def held(self) -> list[HeldAmount]:
        """For the journal: what the request reserves of each bucket, and what a request and a token cost there."""
        return [
            HeldAmount(
                slice_.terms.bucket_id,
                slice_.grant_id,
                slice_.terms.rate_version,
                slice_.terms.unit,
                slice_.terms.kind,
                amount,
                rate.weights,
            )
            for slice_, amount, rate in [*self.parts, *self.caps]
        ]


class Shortage(NamedTuple):
    """Why a request is not covered, in whole units of the bucket that would pay for it: `needed` at least, `left` at most.
    `cap_left`: tokens that the caps of its key and member leave, where these leave less than the request needs.
    """

    unit: str
    needed: int
    left: int
    cap_left: int | None


class AccountSlices:
    """One account's slices in this worker: balance in spending order, caps and windows by bucket."""

    __slots__ = ("account_id", "balance", "caps", "closing", "low", "prefetching", "requests_pending")

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.balance: list[Slice] = []
        self.caps: dict[str, Slice] = {}
        self.requests_pending = 0  # slice requests that the recorder has not answered
        self.low = False  # a slice that pays most requests runs low
        self.prefetching = False  # a prefetch is not answered
        self.closing = False  # some slice is closing: what requests release of that slice is returned

    @property
    def held(self) -> int:
        """What requests in flight on this worker hold of the balance."""
        return sum(slice_.held for slice_ in self.balance)

    def all(self) -> list[Slice]:
        return [*self.balance, *self.caps.values()]

    def find(self, bucket_id: str) -> Slice | None:
        cap = self.caps.get(bucket_id)
        if cap is not None:
            return cap
        for slice_ in self.balance:
            if slice_.terms.bucket_id == bucket_id:
                return slice_
        return None
