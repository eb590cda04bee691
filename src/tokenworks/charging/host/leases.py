"""A host's grants as leases of the ledger's buckets: loaded, renewed while in use, recalled from workers, closed when idle.

Every method that reads or changes an account expects its caller to hold the account's lock, if it does not take the lock itself.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from tokenworks.charging import wire
from tokenworks.charging.errors import GrantStillOpen
from tokenworks.charging.host.account import (
    NS_PER_S,
    HostAccount,
    HostBucket,
    LedgerPort,
    unknown_terms,
)
from tokenworks.charging.messages import Recall, SliceGrant
from tokenworks.kernel import Clock, Unavailable

# How long workers have to answer a recall.
RECALL_WAIT_S: Final = 0.3
# Terms younger than this are used without a call to the database.
TERMS_FRESH_S: Final = 2.0
# The least time between two loads of an empty account, however many requests come for it.
RELOAD_S: Final = 0.1
# Accounts that are tended at once, so that their closings share a turn of the ledger.
TENDED_TOGETHER_MAX: Final = 128
# A grant is extended by what the account is expected to use in this time.
GRANT_AHEAD_S: Final = 10
RETURNING_POLL_S: Final = 0.005

Send = Callable[[str, int, object], bool]
"""(worker, frame kind, content) -> True if the worker is connected."""


class Leases:
    """The accounts that this host knows, and the ledger behind them."""

    def __init__(
        self, ledger: LedgerPort, send: Send, clock: Clock, *, spend_for_s: float, idle_s: float
    ) -> None:
        self._ledger = ledger
        self._send = send
        self._clock = clock
        self._spend_for_s = spend_for_s
        self._idle_s = idle_s
        self.accounts: dict[str, HostAccount] = {}
        self.draining = False
        # Open grants that no record ever used, to be closed: (account, grant).
        self.unused_grants: list[tuple[str, str]] = []
        # By number: the workers that have not answered yet, and the event that all of them have.
        self._recalls: dict[int, tuple[set[str], asyncio.Event]] = {}
        self._recall_number = 0

    def recall_answered(self, worker_id: str, recall_number: int) -> None:
        """A worker has answered a recall."""
        if recall_number in self._recalls:
            waiting, event = self._recalls[recall_number]
            waiting.discard(worker_id)
            if not waiting:
                event.set()

    def worker_lost(self, worker_id: str) -> None:
        """Stop waiting for a worker that is gone."""
        for waiting, event in self._recalls.values():
            waiting.discard(worker_id)
            if not waiting:
                event.set()

    def account(self, account_id: str) -> HostAccount:
        """Return the account as this host knows it, which is created at its first use."""
        account = self.accounts.get(account_id)
        if account is None:
            account = self.accounts[account_id] = HostAccount(account_id)
        return account

    async def load(self, account: HostAccount, *, fresh: bool) -> None:
        """Read the account's terms from the ledger, unless they are younger than `TERMS_FRESH_S` (if `fresh`: `RELOAD_S`)."""
        now_s = self.now_s()
        if now_s - account.loaded_s < (RELOAD_S if fresh else TERMS_FRESH_S):
            return
        found = {
            terms.bucket_id: (terms, remaining)
            for terms, remaining in await self._ledger.load_terms(account.account_id)
        }
        account.loaded_s = now_s
        for bucket_id, (terms, remaining) in found.items():
            bucket = account.buckets.get(bucket_id)
            if bucket is None:
                account.buckets[bucket_id] = HostBucket(terms, remaining)
            else:
                bucket.terms, bucket.remaining = terms, remaining
                if bucket.closing and not self.draining:
                    bucket.closing = False
        for bucket_id, bucket in list(account.buckets.items()):
            if bucket_id not in found:
                bucket.closing, bucket.remaining = True, 0
                if bucket.grant_id is None:
                    del account.buckets[bucket_id]

    async def reload(self, account: HostAccount) -> None:
        """Buckets of the account changed in the ledger: read them, and close those that may not be used any more."""
        async with account.lock:
            try:
                if account.needs_reconcile:
                    await self.reconcile(account)
                await self.load(account, fresh=True)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                if bucket.closing and not account.needs_reconcile:
                    await self.close(account, bucket)
            account.next_tend_s = 0.0

    async def reconcile(self, account: HostAccount) -> None:
        """Read this host's grants from the ledger, after a call that was not answered and may have been made."""
        while account.returns_in_flight:
            await asyncio.sleep(RETURNING_POLL_S)
        found = await self._ledger.open_grants_of(account.account_id)
        open_ids = {grant_id for _, grant_id, _, _ in found}
        for bucket_id, bucket in list(account.buckets.items()):
            if bucket.grant_id is not None and bucket.grant_id not in open_ids:
                assert not bucket.slices, f"grant {bucket.grant_id} was closed while it was spent"
                del account.buckets[bucket_id]
        for bucket_id, grant_id, amount, used in found:
            if bucket_id not in account.buckets:
                unknown = unknown_terms(account.account_id, bucket_id)
                account.buckets[bucket_id] = HostBucket(unknown, 0)
                account.buckets[bucket_id].closing = True  # until the terms are loaded
            bucket = account.buckets[bucket_id]
            if bucket.grant_id is None:
                bucket.set_grant(grant_id, amount, used)
                bucket.spend_until_ns = 0
            elif bucket.grant_id == grant_id:
                bucket.free += amount - bucket.amount
                bucket.amount = amount
            else:
                await self._ledger.close_grant(account.account_id, grant_id)
            bucket.check()
        account.needs_reconcile = False
        account.loaded_s = -1e9

    def send_slice(
        self, worker_id: str, bucket: HostBucket, grant_id: str, amount: int, until_ns: int
    ) -> bool:
        """Send a worker more of a grant, or (amount 0) a renewal. Return True if the worker is connected."""
        grant = SliceGrant(bucket.terms.account_id, grant_id, bucket.terms, amount, until_ns)
        return self._send(worker_id, wire.SLICE_GRANT, [grant])

    async def extend(self, bucket: HostBucket, short: int, *, expired: bool) -> None:
        """Extend the grant by `short` and a reserve, or (0) only renew its lease. Raises `Unavailable`."""
        if bucket.closing or (not bucket.remaining and (bucket.grant_id is None or not expired)):
            return
        # The reserve: enough for some seconds at the present rate of use, at most an eighth of what is left.
        reserve = min(bucket.remaining // 8, max(64 * short, GRANT_AHEAD_S * bucket.burn_s))
        called_ns = self._clock.boot_ns()
        account = self.account(bucket.terms.account_id)
        account.behind = False
        try:
            granted = await self._ledger.grant(
                bucket.terms.account_id,
                bucket.terms.bucket_id,
                bucket.grant_id,
                short + reserve,
                self._spend_for_s,
            )
        except Unavailable:
            account.needs_reconcile = True
            raise
        if granted is not None and granted.behind:
            account.behind = True
            if bucket.grant_id is None:
                return
        if granted is None:
            if bucket.grant_id is None:
                bucket.remaining = 0
            else:
                bucket.closing = True
            return
        bucket.grant_id = granted.grant_id
        bucket.amount += granted.added
        bucket.free += granted.added
        bucket.remaining = granted.remaining
        # Measured from before the call, on the host's own clock, so that it ends no later than the ledger's lease.
        bucket.spend_until_ns = called_ns + int(granted.spend_for_s * NS_PER_S)
        bucket.check()

    async def recall(
        self, account: HostAccount, buckets: list[HostBucket], workers: set[str], *, closing: bool
    ) -> bool:
        """Recall from workers what they have free. Return True if all of them answered in time."""
        self._recall_number += 1
        number = self._recall_number
        content = Recall(number, account.account_id, [b.terms.bucket_id for b in buckets], closing)
        waiting = {worker for worker in workers if self._send(worker, wire.RECALL, content)}
        if not waiting:
            return True
        event = asyncio.Event()
        self._recalls[number] = (waiting, event)
        try:
            await asyncio.wait_for(event.wait(), RECALL_WAIT_S)
        except TimeoutError:
            return False
        finally:
            del self._recalls[number]
        return True

    async def tend(self) -> None:
        """Renew what is in use, close what is idle or closing. Called about once a second."""
        for unused in list(self.unused_grants):
            with contextlib.suppress(Unavailable, GrantStillOpen):
                await self._ledger.close_grant(*unused)
                self.unused_grants.remove(unused)
        now_s = self.now_s()
        due = [account for account in self.accounts.values() if account.next_tend_s <= now_s]
        # At once, so that their calls share the ledger's turns.
        for at in range(0, len(due), TENDED_TOGETHER_MAX):
            await asyncio.gather(*map(self._tend_account, due[at : at + TENDED_TOGETHER_MAX]))

    async def _tend_account(self, account: HostAccount) -> None:
        if account.lock.locked():
            return
        async with account.lock:
            try:
                if account.needs_reconcile:
                    await self.reconcile(account)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                await self._tend(account, bucket)
                if account.needs_reconcile:
                    break
            account.next_tend_s = account.due_s(self._idle_s, self._spend_for_s)
        if not account.buckets and not account.queue and not account.serving:
            self.accounts.pop(account.account_id, None)

    async def _tend(self, account: HostAccount, bucket: HostBucket) -> None:
        if bucket.grant_id is None:
            if self.now_s() - account.loaded_s > self._idle_s:
                account.buckets.pop(bucket.terms.bucket_id, None)
            return
        now_s, now_ns = self.now_s(), self._clock.boot_ns()
        if bucket.used_lately:
            bucket.used_lately, bucket.active_s = False, now_s
        # The smoothed rate of use: `tend` is called about once a second.
        bucket.burn_s = (3 * bucket.burn_s + bucket.used - bucket.used_before) // 4
        bucket.used_before = bucket.used
        if bucket.closing or now_s - bucket.active_s > self._idle_s:
            await self.close(account, bucket)
        elif bucket.slices and bucket.spend_until_ns - now_ns < self._spend_for_s * NS_PER_S * 2 / 3:
            await self._renew(bucket)
            for worker_id in list(bucket.slices) if not bucket.closing else ():
                self.send_slice(worker_id, bucket, bucket.grant_id, 0, bucket.spend_until_ns)

    async def _renew(self, bucket: HostBucket) -> None:
        with contextlib.suppress(Unavailable):
            await self.extend(bucket, 0, expired=True)

    async def close(self, account: HostAccount, bucket: HostBucket) -> None:
        """Recall all slices of the grant and close it.

        What requests in flight hold comes back when they end. Until then the grant stays open, and if it is only idle, usable.
        """
        if bucket.grant_id is None:
            return
        if bucket.slices:
            await self.recall(account, [bucket], set(bucket.slices), closing=bucket.closing)
        if bucket.slices:
            bucket.active_s = self.now_s()
            return
        bucket.check()
        try:
            await self._ledger.close_grant(account.account_id, bucket.grant_id)
        except GrantStillOpen:
            bucket.active_s = self.now_s()
            return
        except Unavailable:
            # The grant may be closed: no slice may be made of it before the ledger has been read.
            account.needs_reconcile = True
            return
        account.buckets.pop(bucket.terms.bucket_id, None)
        account.loaded_s = -1e9

    async def drain(self) -> bool:
        """Close every grant that no request in flight holds. Return True if none is left."""
        self.draining = True
        accounts = list(self.accounts.values())
        for at in range(0, len(accounts), TENDED_TOGETHER_MAX):
            await asyncio.gather(*map(self._drain_account, accounts[at : at + TENDED_TOGETHER_MAX]))
        return not any(b.grant_id for a in self.accounts.values() for b in a.buckets.values())

    async def _drain_account(self, account: HostAccount) -> None:
        async with account.lock:
            try:
                if account.needs_reconcile:
                    await self.reconcile(account)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                bucket.closing = True
                if not account.needs_reconcile:
                    await self.close(account, bucket)

    def now_s(self) -> float:
        return self._clock.boot_ns() / NS_PER_S
