"""What an ask needs, brought together: from this host's grants, from other workers and hosts, by buying.

Asks of one account are served one after the other, so what is gathered for one is not promised to another.
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

# How long a worker may go on with a bucket that it has nothing of, for what costs nothing.
SHOWN_FOR_S: Final = 5.0
CALL_BACK_POLL_S: Final = 0.015


class Covering:
    """Serves one ask at a time of an account, under the account's lock."""

    def __init__(
        self, leases: Leases, ledger: LedgerPort, lookup: RateLookup, send: Send, clock: Clock
    ) -> None:
        self._leases = leases
        self._ledger = ledger
        self._lookup = lookup
        self._send = send
        self._clock = clock

    async def gather(self, account: HostAccount, ask: PendingSliceRequest) -> tuple[Verdict, int]:
        """Bring what the request needs: from here, from other hosts, by buying. Under the account's lock. Returns a verdict, and where
        a window is used up the seconds until its quantity comes back.
        """
        if account.unsure:
            await self._leases.reconcile(account)
        await self._leases.load(account, fresh=False)
        verdict = await self.bring(account, ask)
        if verdict == Verdict.NOTHING_LEFT and not ask.soft:
            # Say so on fresh terms only: something may have been ordered a moment ago.
            await self._leases.load(account, fresh=True)
            verdict = await self.bring(account, ask)
            if verdict == Verdict.NOTHING_LEFT and (
                account.behind or await self._ledger.granted_elsewhere(account.account_id)
            ):
                verdict = await self._call_back(account, ask)
            if verdict == Verdict.NOTHING_LEFT and account.lacks is not None:
                verdict = await self._top_up(account, ask, account.lacks)
            if verdict == Verdict.NOTHING_LEFT and account.windows_short:
                try:
                    back_s = await self._ledger.window_back_s(account.account_id, account.windows_short)
                except Unavailable:
                    back_s = 1  # that it is used up is known, until when is not
                return Verdict.WINDOW_USED_UP, back_s
        return verdict, 0

    async def _call_back(self, account: HostAccount, ask: PendingSliceRequest) -> Verdict:
        """Other hosts hold some of it: queue for it. "Nothing left" once every one of them has answered."""
        if self._leases.now_s() - account.called_s < RELOAD_S:
            return account.called_verdict
        until_s = self._leases.now_s() + RECALL_WAIT_S
        recall_id = await self._ledger.request_recall(account.account_id)
        verdict = Verdict.ELSEWHERE
        try:
            while True:
                await asyncio.sleep(CALL_BACK_POLL_S)
                answered = await self._ledger.recall_answered(recall_id, account.account_id)
                account.loaded_s = -1e9
                await self._leases.load(account, fresh=True)
                verdict = await self.bring(account, ask)
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
        account.called_s, account.called_verdict = self._leases.now_s(), verdict
        return verdict if verdict == Verdict.ENOUGH or answered else Verdict.ELSEWHERE

    async def _top_up(self, account: HostAccount, ask: PendingSliceRequest, lacks: Need) -> Verdict:
        """Where the subscriber pays as it goes: buy what the request lacks, and no more."""
        wants = lacks.requests + lacks.input_tokens + lacks.output_tokens
        # An empty account that is hammered costs the database this often, no more; one that wants less is heard.
        if self._leases.now_s() < account.top_up_after_s and wants >= account.top_up_refused:
            return Verdict.NOTHING_LEFT
        # A count of tokens is free: whether more could be bought is all that it asks.
        counts = ask.need == COUNT_NEED
        if not await self._ledger.top_up(account.account_id, ask.model, NO_NEED if counts else lacks):
            account.top_up_after_s = self._leases.now_s() + RELOAD_S
            account.top_up_refused = wants
            return Verdict.NOTHING_LEFT
        if counts:
            return Verdict.PAYS_AS_IT_GOES
        account.loaded_s = -1e9
        await self._leases.load(account, fresh=True)
        return await self.bring(account, ask)

    async def bring(self, account: HostAccount, ask: PendingSliceRequest) -> Verdict:
        """Bring the worker's slices up to what its request may cost, in the order in which buckets are spent. Returns a verdict."""
        silent = short = False
        account.windows_short = []
        account.lacks = None
        left = ask.need
        for cap_id in ask.cap_ids:
            cap = account.buckets.get(cap_id)
            if cap is None:
                return Verdict.NOTHING_LEFT
            rate = hold_rate(cap.terms, self._lookup, ask.model)
            assert rate is not None
            have, unheard = await self._ensure(account, cap, ask, cost(rate, ask.need))
            silent = silent or unheard
            if have < cost(rate, ask.need):
                # The worker may still make do with what the cap leaves: bring it that much of the balance.
                short = True
                _, beyond = cover(rate, have, left)
                left = Need(
                    left.requests - beyond.requests,
                    left.input_tokens - beyond.input_tokens,
                    left.output_tokens - beyond.output_tokens,
                )
        for bucket in account.ordered():
            if bucket.closing:
                continue
            rate = hold_rate(bucket.terms, self._lookup, ask.model)
            if rate is None:
                continue
            if rate.whole and not left.requests:
                continue  # it pays whole requests only
            have, unheard = await self._ensure(account, bucket, ask, cost(rate, left))
            silent = silent or unheard
            if have >= cost(rate, left):
                for window_id in bucket.terms.windows:
                    window = account.buckets.get(window_id)
                    got = 0
                    if window is not None:
                        got, unheard = await self._ensure(account, window, ask, cost(rate, left))
                        silent = silent or unheard
                    if got < cost(rate, left):
                        account.windows_short.append(window_id)
                    have = min(have, got)
            _, left = cover(rate, have, left)
            if is_nothing(left):
                if not short:
                    return Verdict.ENOUGH
                break
        # What a cap does not allow is not bought either.
        account.lacks = None if short or is_nothing(left) else left
        return Verdict.ELSEWHERE if silent else Verdict.NOTHING_LEFT

    async def _ensure(
        self, account: HostAccount, bucket: HostBucket, ask: PendingSliceRequest, want: int
    ) -> tuple[int, bool]:
        """Bring the asking worker's slice up to `want` where that can be. Returns what it has, and whether a
        worker did not answer a recall in time.
        """
        own = ask.free.get(bucket.terms.bucket_id, 0)
        bucket.active_s = self._leases.now_s()
        if not want and (bucket.grant_id is None or self._clock.boot_ns() < bucket.spend_until_ns):
            self._show(account, bucket, ask)
            return own, False
        expired = self._clock.boot_ns() >= bucket.spend_until_ns
        silent = False
        if ask.soft:
            # What is filled up ahead must not be missed elsewhere soon.
            want = min(want, own + (bucket.free + bucket.remaining) // 8)
        if want - own > bucket.free or expired:
            await self._leases.extend(bucket, max(0, want - own - bucket.free), expired=expired)
        if want - own > bucket.free and not ask.soft and any(w != ask.worker_id for w in bucket.slices):
            silent = not await self._leases.recall(
                account, [bucket], {w for w in bucket.slices if w != ask.worker_id}, closing=False
            )
        own = ask.free.get(bucket.terms.bucket_id, 0)
        short = max(0, want - own)
        if bucket.grant_id is None or bucket.closing or self._clock.boot_ns() >= bucket.spend_until_ns:
            return 0, silent
        # Some more than asked, so that the next requests need no ask; a recall gets it back if it is needed elsewhere.
        give = min(bucket.free, short if ask.soft else short + min(bucket.free // 4, 32 * want))
        if give or expired:
            if give:  # a renewal alone makes no slice: nobody would ever give it back
                bucket.free -= give
                bucket.slices[ask.worker_id] = bucket.slices.get(ask.worker_id, 0) + give
            if not self._leases.send_slice(
                ask.worker_id, bucket, bucket.grant_id, give, bucket.spend_until_ns
            ):
                bucket.free += bucket.slices.pop(ask.worker_id, 0)
                return 0, silent
            ask.free[bucket.terms.bucket_id] = own + give
            account.leaves(ask, bucket.terms.bucket_id, own + give - want)
        bucket.check()
        return own + give, silent

    def _show(self, account: HostAccount, bucket: HostBucket, ask: PendingSliceRequest) -> None:
        """It costs nothing here: the worker has to know the bucket, and needs nothing of it."""
        if bucket.closing:
            return
        grant_id, until_ns = bucket.grant_id or NO_GRANT, bucket.spend_until_ns
        if ask.worker_id not in bucket.slices:
            # Nobody would recall it, so the worker has to ask again soon: the account may be frozen by then.
            until_ns = self._clock.boot_ns() + int(SHOWN_FOR_S * NS_PER_S)
        self._leases.send_slice(ask.worker_id, bucket, grant_id, 0, until_ns)
