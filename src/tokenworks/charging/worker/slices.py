"""The holds of requests in flight over this worker's slices of the host's grants. No round trip, no I/O.

Invariant: a slice is never negative, and free + held + what this worker reported as used or returned is all that it was given.
"""

from collections.abc import Callable, Sequence
from operator import add, mul, sub
from typing import Final

from tokenworks.catalog import Counts, first_tokens, split
from tokenworks.charging.messages import Amount, BucketTerms, Loss, Need, Part
from tokenworks.charging.model import (
    PER_UNIT,
    HoldRate,
    RateLookup,
    cost,
    cover,
    hold_rate,
    is_nothing,
    spending_order,
)
from tokenworks.charging.worker.account import AccountSlices, HeldPart, Hold, Shortage, Slice, Unpaid

# Models whose rate a slice remembers.
RATES_KEPT: Final = 1000


def _merged(parts: list[HeldPart], more: list[HeldPart]) -> list[HeldPart]:
    """Combine parts of the same slice into one."""
    merged = {id(part[0]): part for part in parts}
    for slice_, amount, rate in more:
        before = merged.get(id(slice_))
        merged[id(slice_)] = (slice_, amount + (before[1] if before is not None else 0), rate)
    return list(merged.values())


def _caps_cover(caps: list[HeldPart], counts: Counts) -> bool:
    """True if each cap has all of the tokens, held or free. A window needs no check: the hold has reserved the same weights of it."""
    tokens = sum(counts) * PER_UNIT
    return all(held + slice_.free >= tokens for slice_, held, _ in caps if slice_.terms.kind == "cap")


class Slices:
    """All accounts of this worker. `lookup` rates a model by a rate version."""

    def __init__(self, lookup: RateLookup) -> None:
        self._lookup = lookup
        self.accounts: dict[str, AccountSlices] = {}

    def account(self, account_id: str) -> AccountSlices:
        account = self.accounts.get(account_id)
        if account is None:
            account = self.accounts[account_id] = AccountSlices(account_id)
        return account

    def _rate(self, slice_: Slice, model: str) -> HoldRate | None:
        rate = slice_.rates.get(model)
        if rate is None:
            rate = hold_rate(slice_.terms, self._lookup, model)
            # None is not kept: the next snapshot may bring a rate card that this worker lacks.
            if rate is not None and len(slice_.rates) < RATES_KEPT:
                slice_.rates[model] = rate
        return rate

    @staticmethod
    def _free(slice_: Slice | None, now_ns: int) -> int:
        return 0 if slice_ is None or slice_.closing or now_ns >= slice_.spend_until_ns else slice_.free

    def hold(
        self,
        account: AccountSlices,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        now_ns: int,
        *,
        paid_whole: bool = False,
    ) -> Hold | None:
        """Reserve all of `need` in spending order, or nothing: None.

        `paid_whole`: a bucket that counts requests pays for the request, so only its caps need more.
        """
        caps: list[HeldPart] = []
        for cap_id in cap_ids:
            cap = account.caps.get(cap_id)
            if cap is None or cap.closing or now_ns >= cap.spend_until_ns:
                return None
            cap_rate = self._rate(cap, model)
            assert cap_rate is not None
            amount = cost(cap_rate, need)
            if cap.free < amount:
                return None
            caps.append((cap, amount, cap_rate))
        if account.balance:
            # Most often the first bucket covers all of the need.
            first = account.balance[0]
            rate = first.rates.get(model)
            if rate is not None and not rate.whole and not first.closing and now_ns < first.spend_until_ns:
                amount = (
                    need.requests * rate.request
                    + need.input_tokens * rate.input_token
                    + need.output_tokens * rate.output_token
                )
                if first.free >= amount:
                    for slice_, capped, _ in caps:
                        slice_.free -= capped
                        slice_.held += capped
                    first.free -= amount
                    first.held += amount
                    if first.free < first.low:
                        account.low = True
                    return Hold(account, [(first, amount, rate)], caps)
        parts: list[HeldPart] = []
        left = Need(0, 0, 0) if paid_whole else need
        for slice_ in account.balance:
            if is_nothing(left):
                break
            if slice_.closing or now_ns >= slice_.spend_until_ns:
                continue
            rate = slice_.rates.get(model) or self._rate(slice_, model)
            if rate is None:
                continue
            free = slice_.free
            windows = slice_.terms.windows
            if windows:
                free = min(free, *(self._free(account.caps.get(window), now_ns) for window in windows))
            amount, after = cover(rate, free, left)
            if after != left:
                parts.append((slice_, amount, rate))
                caps += [(account.caps[window], amount, rate) for window in windows if amount]
                left = after
        if not is_nothing(left):
            return None
        for slice_, amount, _ in (*parts, *caps):
            slice_.free -= amount
            slice_.held += amount
        return Hold(account, parts, caps)

    def hold_most(
        self,
        account: AccountSlices,
        cap_ids: Sequence[str],
        model: str,
        need: Need,
        now_ns: int,
        *,
        paid_whole: bool = False,
    ) -> tuple[Hold | None, int]:
        """Reserve the request and its input, and as much of the output as this worker's slices cover. Return the hold and the output
        tokens in it; None where they do not cover even one.
        """
        low, high = 0, need.output_tokens
        while low < high:
            middle = (low + high + 1) // 2
            less = Need(need.requests, need.input_tokens, middle)
            hold = self.hold(account, cap_ids, model, less, now_ns, paid_whole=paid_whole)
            if hold is not None:
                self.release(hold)
                low = middle
            else:
                high = middle - 1
        if not low and need.output_tokens:
            return None, 0
        least = Need(need.requests, need.input_tokens, low)
        return self.hold(account, cap_ids, model, least, now_ns, paid_whole=paid_whole), low

    def shortage(
        self, account: AccountSlices, cap_ids: Sequence[str], model: str, need: Need, now_ns: int
    ) -> Shortage:
        """Return what a request lacks. It is exact after the verdict `NOTHING_LEFT`, as the recorder has sent all that there is."""
        paying = [
            (slice_, rate)
            for slice_ in account.balance
            if (rate := self._rate(slice_, model)) is not None and (not rate.whole or need.requests)
        ]
        tokens = need.input_tokens + need.output_tokens
        unit, needed, left = "token", tokens, 0
        if paying:
            first, rate = paying[0]
            unit = first.terms.unit
            needed = -(-cost(rate, need) // PER_UNIT)
            left = sum(self._free(s, now_ns) for s, _ in paying if s.terms.unit == unit) // PER_UNIT
        cap_left = min(
            (self._free(account.caps.get(cap_id), now_ns) // PER_UNIT for cap_id in cap_ids), default=tokens
        )
        return Shortage(unit, needed, left, cap_left if cap_left < tokens else None)

    @staticmethod
    def merge(hold: Hold, more: Hold) -> None:
        """Move all of `more`, a hold of the same account, model and caps, into `hold`."""
        hold.parts = _merged(hold.parts, more.parts)
        hold.caps = _merged(hold.caps, more.caps)
        more.parts, more.caps = [], []

    def release(self, hold: Hold) -> None:
        """Free a hold: the request cost nothing."""
        for slice_, amount, _ in (*hold.parts, *hold.caps):
            slice_.held -= amount
            slice_.free += amount
        hold.parts, hold.caps = [], []

    def commit(self, hold: Hold, counts: Counts, boot_ns: Callable[[], int]) -> tuple[list[Part], Unpaid]:
        """Charge an attempt: return what each bucket pays, and what no slice of this worker could pay.

        Beyond its hold, an attempt is charged to what is free in the account's slices on this worker, as far as its caps allow it.
        The rest goes into the record as `unpaid`.
        """
        first = hold.parts[0] if hold.parts else None
        if first is not None and len(hold.parts) == 1:
            slice_, held, rate = first
            amount = rate.request + sum(map(mul, rate.class_weights, counts))
            if amount <= held and (not hold.caps or _caps_cover(hold.caps, counts)):
                slice_.held -= held
                slice_.free += held - amount
                terms = slice_.terms
                parts = [
                    Part(
                        terms.bucket_id,
                        slice_.grant_id,
                        terms.rate_version,
                        terms.unit,
                        "balance",
                        amount,
                        1,
                        None,
                    )
                ]
                for cap in hold.caps:
                    parts.append(self._commit_cap(cap, counts))
                hold.parts, hold.caps = [], []
                return parts, None
        return self._commit_split(hold, counts, 1, boot_ns())

    def commit_charged(
        self, hold: Hold, counts: Counts, losses: Sequence[Loss], boot_ns: Callable[[], int]
    ) -> tuple[list[Part], Unpaid]:
        """As `commit`, but the operator bears `losses`, which are parts of `counts`. If they are all of it, no bucket pays anything."""
        requests = 1 - sum(loss.requests for loss in losses)
        charged = counts
        for loss in losses:
            charged = Counts(*map(sub, charged, loss.counts))
        assert requests >= 0 and min(charged) >= 0, f"losses {losses} are more than {counts}"
        if not requests and not any(charged):
            self.release(hold)
            return [], None
        if requests:
            parts, unpaid = self.commit(hold, charged, boot_ns)
        else:
            parts, unpaid = self._commit_split(hold, charged, 0, boot_ns())
        # A part without counts pays for the whole record, which includes the losses: here each part says what it pays for.
        return [part if part.counts is not None else part._replace(counts=charged) for part in parts], unpaid

    def _beyond(self, hold: Hold, now_ns: int) -> list[tuple[Slice, HoldRate, int]]:
        """What may be charged beyond a hold: what is free in the slices that it is of, then in the account's other slices."""
        found = [(slice_, rate, slice_.free) for slice_, _, rate in hold.parts]
        if not hold.parts:
            return found
        held = {id(slice_) for slice_, _, _ in hold.parts}
        first, _, first_rate = hold.parts[0]
        model = next((name for name, rate in first.rates.items() if rate is first_rate), None)
        if model is None:
            return found
        for slice_ in hold.account.balance:
            if id(slice_) in held or slice_.closing or now_ns >= slice_.spend_until_ns or not slice_.free:
                continue
            rate = self._rate(slice_, model)
            # A bucket that counts requests pays for no remainder of a request that another bucket began to pay.
            if rate is not None and not rate.whole:
                found.append((slice_, rate, slice_.free))
        return found

    def _commit_split(
        self, hold: Hold, counts: Counts, requests: int, now_ns: int
    ) -> tuple[list[Part], Unpaid]:
        tokens_max = min(
            ((held + cap.free) // PER_UNIT for cap, held, _ in hold.caps if cap.terms.kind == "cap"),
            default=None,
        )
        capped = counts if tokens_max is None else first_tokens(counts, tokens_max)
        drawn = [(slice_, rate, amount) for slice_, amount, rate in hold.parts] + self._beyond(hold, now_ns)
        shares, requests_left, tokens_left = split(
            [(rate.weights, amount) for _, rate, amount in drawn], capped, requests
        )
        for slice_, amount, _ in hold.parts:
            slice_.held -= amount
            slice_.free += amount
        merged: dict[str, Part] = {}
        for (slice_, _, _), share in zip(drawn, shares, strict=False):
            if not share.amount and not share.requests and not any(share.counts):
                continue
            slice_.free -= share.amount
            assert slice_.free >= 0, "a slice was overdrawn"
            terms = slice_.terms
            before = merged.get(terms.bucket_id)
            if before is None:
                merged[terms.bucket_id] = Part(
                    terms.bucket_id, slice_.grant_id, terms.rate_version, terms.unit, "balance",
                    share.amount, share.requests, share.counts,
                )  # fmt: skip
            else:
                assert before.counts is not None
                merged[terms.bucket_id] = before._replace(
                    amount=before.amount + share.amount,
                    requests=before.requests + share.requests,
                    counts=Counts(*map(add, before.counts, share.counts)),
                )
        parts = list(merged.values())
        paid = Counts(*map(sub, capped, tokens_left))
        for cap in hold.caps:
            parts.append(self._commit_cap(cap, paid, requests - requests_left))
        hold.parts, hold.caps = [], []
        unpaid = Counts(*map(sub, counts, paid))
        return parts, (requests_left, unpaid) if requests_left or any(unpaid) else None

    @staticmethod
    def _commit_cap(cap: HeldPart, counts: Counts, requests: int = 1) -> Part:
        """Charge a cap or window for what the balance pays."""
        slice_, held, rate = cap
        slice_.held -= held
        slice_.free += held
        terms = slice_.terms
        if terms.kind == "cap":
            # A cap counts only tokens, and covers all of these.
            amount, requests = PER_UNIT * sum(counts), 0
        else:
            ((amount, requests, counts),), _, _ = split([(rate.weights, slice_.free)], counts, requests)
        slice_.free -= amount
        assert slice_.free >= 0, "a cap's slice was overdrawn"
        return Part(
            terms.bucket_id,
            slice_.grant_id,
            terms.rate_version,
            terms.unit,
            terms.kind,
            amount,
            requests,
            counts,
        )

    # Frames of the recorder.

    def receive(
        self, account_id: str, grant_id: str, terms: BucketTerms, amount: int, spend_until_ns: int
    ) -> None:
        """Add to a slice, or (amount 0) renew its lease. An empty slice is for requests that cost nothing in its bucket."""
        account = self.account(account_id)
        slice_ = account.find(terms.bucket_id)
        if slice_ is None or slice_.grant_id != grant_id:
            if slice_ is not None:
                assert not slice_.free and not slice_.held, (
                    "a new grant while the old one is still spent from"
                )
                self._drop(account, slice_)
            self.accounts[account_id] = account  # `_drop` removes an account without slices
            slice_ = Slice(terms, grant_id)
            if terms.kind != "balance":
                account.caps[terms.bucket_id] = slice_
            else:
                account.balance.append(slice_)
                account.balance.sort(key=lambda s: spending_order(s.terms))
        slice_.free += amount
        slice_.low = slice_.free // 4
        slice_.closing = False
        slice_.spend_until_ns = spend_until_ns

    def recall(self, account_id: str, bucket_ids: Sequence[str], closing: bool) -> list[Amount]:
        """Return what is free in the slices. `closing`: what requests release later is returned, too (`take_closing`)."""
        account = self.accounts.get(account_id)
        returned: list[Amount] = []
        if account is None:
            return returned
        for bucket_id in bucket_ids:
            slice_ = account.find(bucket_id)
            if slice_ is None:
                continue
            slice_.closing = slice_.closing or closing
            account.closing = account.closing or closing
            returned.append(Amount(bucket_id, slice_.grant_id, slice_.free))
            slice_.free = 0
            if not slice_.held:
                self._drop(account, slice_)
        return returned

    def drop_empty(self, account_id: str) -> None:
        """The account changed: drop its empty slices, so that the worker requests them again for what costs nothing."""
        account = self.accounts.get(account_id)
        if account is None:
            return
        for slice_ in account.all():
            if not slice_.free and not slice_.held:
                self._drop(account, slice_)

    def take_closing(self, account: AccountSlices) -> list[Amount]:
        """Take what closing slices have free by now, to return it."""
        returned: list[Amount] = []
        if not account.closing:
            return returned
        for slice_ in account.all():
            if slice_.closing and (slice_.free or not slice_.held):
                returned.append(Amount(slice_.terms.bucket_id, slice_.grant_id, slice_.free))
                slice_.free = 0
                if not slice_.held:
                    self._drop(account, slice_)
        account.closing = any(slice_.closing for slice_ in account.all())
        return returned

    def outstanding(self) -> list[tuple[str, str, str, int]]:
        """(account, bucket, grant, free + held) of every slice."""
        return [
            (account.account_id, s.terms.bucket_id, s.grant_id, s.free + s.held)
            for account in self.accounts.values()
            for s in account.all()
        ]

    def _drop(self, account: AccountSlices, slice_: Slice) -> None:
        if slice_.terms.kind != "balance":
            account.caps.pop(slice_.terms.bucket_id, None)
        else:
            account.balance.remove(slice_)
        if not account.balance and not account.caps:
            self.accounts.pop(account.account_id, None)
