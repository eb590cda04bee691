"""Provides what a slice request needs: from this host's grants, from other workers and hosts, by buying.

Requests of one account are served one after the other, so what is provided for one is not promised to another.
"""

import asyncio
import contextlib
from typing import Final

from tokenworks.charging.host.account import (
    NS_PER_S,
    HostAccount,
    HostBucket,
    LedgerPort,
    PendingSliceRequest,
)
from tokenworks.charging.host.leases import (
    RECALL_WAIT_S,
    RELOAD_S,
    Leases,
    Send,
)
from tokenworks.charging.messages import Need, Verdict
from tokenworks.charging.model import (
    COUNT_NEED,
    NO_GRANT,
    NO_NEED,
    RateLookup,
    cost,
    cover,
    hold_rate,
    is_nothing,
)
from tokenworks.kernel import Clock, Unavailable

# How long a worker may use an empty slice, for requests that cost nothing in its bucket.
EMPTY_SLICE_S: Final = 5.0
# How often a recall between hosts is looked at.
RECALL_POLL_S: Final = 0.015


class Provisioner:
    """Serves one request of an account at a time. Every method expects its caller to hold the account's lock."""

    def __init__(
        self, leases: Leases, ledger: LedgerPort, lookup: RateLookup, send: Send, clock: Clock
    ) -> None:
        self._leases = leases
        self._ledger = ledger
        self._lookup = lookup
        self._send = send
        self._clock = clock

    async def provide(self, account: HostAccount, request: PendingSliceRequest) -> tuple[Verdict, int]:
        """Give the worker the slices that the request needs: from this host's grants, from other hosts, by buying. Return a verdict and,
        if it is `WINDOW_USED_UP`, the seconds until the window's quantity comes back. Raises `Unavailable`.
        """
        if account.needs_reconcile:
            await self._leases.reconcile(account)
        await self._leases.load(account, fresh=False)
        verdict = await self.fill_slices(account, request)
        if verdict == Verdict.NOTHING_LEFT and not request.prefetch:
            # Only fresh terms prove it: the subscriber may have ordered something since they were read.
            await self._leases.load(account, fresh=True)
            verdict = await self.fill_slices(account, request)
            if verdict == Verdict.NOTHING_LEFT and (
                account.behind or await self._ledger.granted_elsewhere(account.account_id)
            ):
                verdict = await self._recall_from_hosts(account, request)
            if verdict == Verdict.NOTHING_LEFT and account.shortfall is not None:
                verdict = await self._top_up(account, request, account.shortfall)
            if verdict == Verdict.NOTHING_LEFT and account.windows_used_up:
                try:
                    back_s = await self._ledger.window_back_s(account.account_id, account.windows_used_up)
                except Unavailable:
                    back_s = 1  # the window is used up; when its quantity comes back is not known
                return Verdict.WINDOW_USED_UP, back_s
        return verdict, 0

    async def _recall_from_hosts(self, account: HostAccount, request: PendingSliceRequest) -> Verdict:
        """Recall what other hosts have free. `NOTHING_LEFT` is returned only after each of them has answered."""
        if self._leases.now_s() - account.recalled_s < RELOAD_S:
            return account.recall_verdict
        until_s = self._leases.now_s() + RECALL_WAIT_S
        recall_id = await self._ledger.request_recall(account.account_id)
        verdict = Verdict.ELSEWHERE
        try:
            while True:
                await asyncio.sleep(RECALL_POLL_S)
                answered = await self._ledger.recall_answered(recall_id, account.account_id)
                account.loaded_s = -1e9
                await self._leases.load(account, fresh=True)
                verdict = await self.fill_slices(account, request)
                if verdict == Verdict.ENOUGH:
                    break
                if verdict == Verdict.NOTHING_LEFT and answered and not account.behind:
                    break
                if self._leases.now_s() >= until_s:
                    verdict = Verdict.ELSEWHERE
                    break
        finally:
            with contextlib.suppress(Unavailable):
                await self._ledger.end_recall(recall_id)
        account.recalled_s, account.recall_verdict = self._leases.now_s(), verdict
        return verdict if verdict == Verdict.ENOUGH or answered else Verdict.ELSEWHERE

    async def _top_up(self, account: HostAccount, request: PendingSliceRequest, shortfall: Need) -> Verdict:
        """Buy the shortfall, and no more, if the subscriber pays as it goes."""
        shortfall_total = shortfall.requests + shortfall.input_tokens + shortfall.output_tokens
        # At most one attempt in `RELOAD_S`, but one for a smaller shortfall is made at once.
        if self._leases.now_s() < account.top_up_after_s and shortfall_total >= account.top_up_refused:
            return Verdict.NOTHING_LEFT
        # A count of tokens is free, so nothing is bought for it; its answer says whether more could be bought.
        is_count = request.need == COUNT_NEED
        if not await self._ledger.top_up(
            account.account_id, request.model, NO_NEED if is_count else shortfall
        ):
            account.top_up_after_s = self._leases.now_s() + RELOAD_S
            account.top_up_refused = shortfall_total
            return Verdict.NOTHING_LEFT
        if is_count:
            return Verdict.PAYS_AS_IT_GOES
        account.loaded_s = -1e9
        await self._leases.load(account, fresh=True)
        return await self.fill_slices(account, request)

    async def fill_slices(self, account: HostAccount, request: PendingSliceRequest) -> Verdict:
        """Fill the worker's slices up to what its request may cost, in the order in which buckets are spent. Return a verdict."""
        unanswered = capped = False
        account.windows_used_up = []
        account.shortfall = None
        left = request.need
        for cap_id in request.cap_ids:
            cap = account.buckets.get(cap_id)
            if cap is None:
                return Verdict.NOTHING_LEFT
            rate = hold_rate(cap.terms, self._lookup, request.model)
            assert rate is not None
            have, missed = await self._fill_slice(account, cap, request, cost(rate, request.need))
            unanswered = unanswered or missed
            if have < cost(rate, request.need):
                # The worker may still serve a part of it: give it as much of the balance as the cap leaves.
                capped = True
                _, beyond = cover(rate, have, left)
                left = Need(
                    left.requests - beyond.requests,
                    left.input_tokens - beyond.input_tokens,
                    left.output_tokens - beyond.output_tokens,
                )
        for bucket in account.ordered():
            if bucket.closing:
                continue
            rate = hold_rate(bucket.terms, self._lookup, request.model)
            if rate is None:
                continue
            if rate.whole and not left.requests:
                continue  # such a bucket pays whole requests only
            have, missed = await self._fill_slice(account, bucket, request, cost(rate, left))
            unanswered = unanswered or missed
            if have >= cost(rate, left):
                for window_id in bucket.terms.windows:
                    window = account.buckets.get(window_id)
                    got = 0
                    if window is not None:
                        got, missed = await self._fill_slice(account, window, request, cost(rate, left))
                        unanswered = unanswered or missed
                    if got < cost(rate, left):
                        account.windows_used_up.append(window_id)
                    have = min(have, got)
            _, left = cover(rate, have, left)
            if is_nothing(left):
                if not capped:
                    return Verdict.ENOUGH
                break
        # What a cap does not allow is not bought either.
        account.shortfall = None if capped or is_nothing(left) else left
        return Verdict.ELSEWHERE if unanswered else Verdict.NOTHING_LEFT

    async def _fill_slice(
        self, account: HostAccount, bucket: HostBucket, request: PendingSliceRequest, want: int
    ) -> tuple[int, bool]:
        """Fill the worker's slice up to `want`, as far as possible. Return what the slice has, and whether another worker did not answer a
        recall in time.
        """
        own = request.free.get(bucket.terms.bucket_id, 0)
        bucket.active_s = self._leases.now_s()
        if not want and (bucket.grant_id is None or self._clock.boot_ns() < bucket.spend_until_ns):
            self._send_empty_slice(account, bucket, request)
            return own, False
        expired = self._clock.boot_ns() >= bucket.spend_until_ns
        unanswered = False
        if request.prefetch:
            # A prefetch takes at most an eighth, so that other workers and hosts do not run short.
            want = min(want, own + (bucket.free + bucket.remaining) // 8)
        if want - own > bucket.free or expired:
            await self._leases.extend(bucket, max(0, want - own - bucket.free), expired=expired)
        if (
            want - own > bucket.free
            and not request.prefetch
            and any(w != request.worker_id for w in bucket.slices)
        ):
            unanswered = not await self._leases.recall(
                account, [bucket], {w for w in bucket.slices if w != request.worker_id}, closing=False
            )
        own = request.free.get(bucket.terms.bucket_id, 0)
        short = max(0, want - own)
        if bucket.grant_id is None or bucket.closing or self._clock.boot_ns() >= bucket.spend_until_ns:
            return 0, unanswered
        # More than requested, so that the worker's next requests need none; a recall gets it back if it is needed elsewhere.
        give = min(bucket.free, short if request.prefetch else short + min(bucket.free // 4, 32 * want))
        if give or expired:
            if give:  # a renewal alone makes no slice, which would never be returned
                bucket.free -= give
                bucket.slices[request.worker_id] = bucket.slices.get(request.worker_id, 0) + give
            if not self._leases.send_slice(
                request.worker_id, bucket, bucket.grant_id, give, bucket.spend_until_ns
            ):
                bucket.free += bucket.slices.pop(request.worker_id, 0)
                return 0, unanswered
            request.free[bucket.terms.bucket_id] = own + give
            account.share_surplus(request, bucket.terms.bucket_id, own + give - want)
        bucket.check()
        return own + give, unanswered

    def _send_empty_slice(
        self, account: HostAccount, bucket: HostBucket, request: PendingSliceRequest
    ) -> None:
        """The request costs nothing in this bucket: send an empty slice, so that the worker knows the bucket."""
        if bucket.closing:
            return
        grant_id, until_ns = bucket.grant_id or NO_GRANT, bucket.spend_until_ns
        if request.worker_id not in bucket.slices:
            # An empty slice is not recalled, so it ends soon: the account may be frozen by then.
            until_ns = self._clock.boot_ns() + int(EMPTY_SLICE_S * NS_PER_S)
        self._leases.send_slice(request.worker_id, bucket, grant_id, 0, until_ns)
