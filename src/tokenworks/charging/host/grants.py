"""The host's grants as its recorder's loop sees them: workers ask and give back, records use, hosts recall.

`leases.py` has the grants in step with the ledger, `provisioning.py` brings together what an ask needs.

Invariant, per bucket: amount = used + free + the sum of the workers' slices; none of them is ever negative.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from tokenworks.charging import wire
from tokenworks.charging.host.account import (
    HostAccount,
    HostBucket,
    LedgerPort,
    PendingSliceRequest,
    unknown_terms,
)
from tokenworks.charging.host.leases import (
    Leases,
    Send,
)
from tokenworks.charging.host.provisioning import Provisioner
from tokenworks.charging.messages import Amount, SliceAnswer, Verdict
from tokenworks.charging.model import (
    RateLookup,
)
from tokenworks.kernel import Clock, Unavailable

ASK_QUEUE_MAX: Final = 100_000
# Accounts whose asks are being answered at once. One more is told to come again: the ledger opens some thousands a second.
ACCOUNTS_SERVED_MAX: Final = 5000
WAITS_KEPT: Final = 1000


class HostGrants:
    def __init__(
        self,
        ledger: LedgerPort,
        lookup: RateLookup,
        send: Send,
        clock: Clock,
        *,
        spend_for_s: float,
        idle_s: float,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._send = send
        self._clock = clock
        self._on_fatal = on_fatal
        self._leases = Leases(ledger, send, clock, spend_for_s=spend_for_s, idle_s=idle_s)
        self._covering = Provisioner(self._leases, ledger, lookup, send, clock)
        self.accounts = self._leases.accounts
        self.open = False  # until every worker that may hold slices was heard
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = False
        self._answer_again = False
        self._served = 0
        self.requests_refused = 0
        # How long the latest asks waited that somebody waited for.
        self.waits_s: deque[float] = deque(maxlen=WAITS_KEPT)

    # What workers say.

    def ask(self, account_id: str, ask: PendingSliceRequest) -> None:
        known = self.accounts.get(account_id)
        full = self._served >= ACCOUNTS_SERVED_MAX and not (known and (known.serving or known.buckets))
        if full or (known is not None and len(known.asks) >= ASK_QUEUE_MAX):
            self.requests_refused += 1
            self._answer(ask, Verdict.AWAY)
            return
        account = known or self._leases.account(account_id)
        ask.asked_s = self._leases.now_s()
        account.asks.append(ask)
        self._serve(account)

    def give(self, worker_id: str, recall_number: int, account_id: str, given: Iterable[Amount]) -> None:
        """A worker gives back what it has free, on a recall or on its own."""
        account = self.accounts.get(account_id)
        for back in given:
            bucket_id, grant_id, amount = back.bucket_id, back.grant_id, back.amount
            bucket = account.buckets.get(bucket_id) if account else None
            if bucket is None or bucket.grant_id != grant_id:
                continue
            bucket.take(worker_id, amount, "gave back more than it had")
            bucket.free += amount
            bucket.check()
            if account is not None:
                account.gave(worker_id, bucket_id, amount)
        self._leases.heard(worker_id, recall_number)

    def used(self, worker_id: str | None, account_id: str, parts: Iterable[Amount]) -> None:
        """A record was journaled: what it used of each (bucket, grant) moves from the worker's slice (of a lost one: from the rest)
        to used. What a host that comes back had open on grants that are gone (written off, restored away) is settled as late.
        """
        account = self.accounts.get(account_id)
        for part in parts:
            bucket_id, grant_id, amount = part.bucket_id, part.grant_id, part.amount
            if not amount:
                continue
            bucket = account.buckets.get(bucket_id) if account else None
            if worker_id is None and not self.open and (bucket is None or bucket.grant_id != grant_id):
                continue
            assert bucket is not None, f"bucket {bucket_id} was used but is not here"
            assert bucket.grant_id == grant_id, f"grant {grant_id} was used but is not this host's"
            if worker_id is None:
                bucket.free -= amount
                assert bucket.free >= 0, "a lost worker used more than its slice"
            else:
                bucket.take(worker_id, amount, "used more than its slice")
            bucket.used += amount
            bucket.used_lately = True
            if account is not None:
                account.quiet_until_s = 0.0

    def worker_lost(self, worker_id: str) -> None:
        """What a worker still had is free again. Its open attempts have been closed (and moved to used) right after."""
        for account in self.accounts.values():
            account.asks = deque(ask for ask in account.asks if ask.worker_id != worker_id)
            for bucket in account.buckets.values():
                bucket.free += bucket.slices.pop(worker_id, 0)
                bucket.check()
        self._leases.worker_lost(worker_id)

    def adopt(self, account_id: str, bucket_id: str, grant_id: str, amount: int, used: int) -> None:
        """A grant that this host's journal had open before: `used` is settled and unsettled together."""
        account = self._leases.account(account_id)
        before = account.buckets.get(bucket_id)
        if before is not None and before.grant_id is not None:
            # Two of one bucket: the answer to the first was lost, so nobody ever spent it.
            keep_first = before.used >= used
            self._leases.orphans.append((account_id, grant_id if keep_first else before.grant_id))
            if keep_first:
                return
        bucket = account.buckets[bucket_id] = HostBucket(unknown_terms(account_id, bucket_id), 0)
        bucket.hold(grant_id, amount, used)
        # Terms are unknown until the account is loaded; until then nothing is sliced, and the lease is not ours to use.
        bucket.closing = True
        bucket.check()

    def adopt_slice(
        self, worker_id: str, account_id: str, bucket_id: str, grant_id: str, outstanding: int
    ) -> bool:
        """What a worker that outlived the last recorder still has. False where that can't be."""
        if not outstanding:
            return True  # of a grant that may be closed by now
        account = self.accounts.get(account_id)
        bucket = account.buckets.get(bucket_id) if account else None
        if bucket is None or bucket.grant_id != grant_id or bucket.free < outstanding:
            return False
        bucket.free -= outstanding
        bucket.slices[worker_id] = bucket.slices.get(worker_id, 0) + outstanding
        bucket.check()
        return True

    def start(self) -> None:
        """Every worker was heard: serve."""
        self.open = True
        for account in list(self.accounts.values()):
            self._serve(account)

    def account_changed(self, account_id: str) -> None:
        """The ledger says that buckets of this account changed (ordered, closing, expired, frozen)."""
        account = self.accounts.get(account_id)
        if account is not None:
            account.loaded_s = -1e9
            account.quiet_until_s = 0.0
            account.top_up_after_s = -1e9
            if self.open:
                self._spawn(self._leases.reload(account))

    def close_soon(self, account_id: str, grant_id: str) -> None:
        """An operator wants this grant closed: as soon as nothing runs on it."""
        account = self.accounts.get(account_id)
        for bucket in account.buckets.values() if account is not None else ():
            if account is not None and bucket.grant_id == grant_id:
                bucket.active_s = -1e9
                bucket.used_lately = False
                account.quiet_until_s = 0.0

    # Serving asks.

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(error)  # an invariant is broken: the next recorder starts from the journal

    def _serve(self, account: HostAccount) -> None:
        if self.open and not account.serving and account.asks:
            account.serving = True
            self._served += 1
            self._spawn(self._serve_asks(account))

    async def _serve_asks(self, account: HostAccount) -> None:
        together = True
        try:
            while account.asks:
                ask = account.asks[0]
                alike = account.alike(ask) if together else [ask]
                if len(alike) > 1:
                    together = await self._serve_alike(account, alike)
                else:
                    await self._serve_one(account, ask)
        finally:
            account.serving = False
            account.quiet_until_s = 0.0
            self._served -= 1

    async def _serve_one(self, account: HostAccount, ask: PendingSliceRequest) -> None:
        try:
            async with account.lock:
                verdict, back_s = await self._covering.gather(account, ask)
        except Unavailable:
            verdict, back_s = Verdict.AWAY, 0
        if account.asks and account.asks[0] is ask:
            account.asks.popleft()
            self._answer(ask, verdict, back_s)
            if not ask.soft:
                self.waits_s.append(self._leases.now_s() - ask.asked_s)

    def _answer(self, ask: PendingSliceRequest, verdict: Verdict, back_s: int = 0) -> None:
        answer = SliceAnswer(ask.number, wire.verdict_code(verdict, back_s))
        self._send(ask.worker_id, wire.SLICE_ANSWER, [answer])

    async def _serve_alike(self, account: HostAccount, alike: list[PendingSliceRequest]) -> bool:
        """A crowd asks at once: what one worker wants for one model is brought to it as one. Returns whether there was
        enough; where not, each is looked at by itself, so that what is left goes to whom it suffices.
        """
        first = alike[0]
        whole = PendingSliceRequest.together(alike)
        try:
            async with account.lock:
                if account.unsure:
                    await self._leases.reconcile(account)
                await self._leases.load(account, fresh=False)
                verdict = await self._covering.bring(account, whole)
        except Unavailable:
            return False
        if verdict != Verdict.ENOUGH:
            for ask in alike:  # what was brought for all of them is there for each
                ask.free = dict(whole.free)
            return False
        waited = account.take(alike)
        enough = wire.verdict_code(Verdict.ENOUGH)
        self._send(first.worker_id, wire.SLICE_ANSWER, [SliceAnswer(ask.number, enough) for ask in waited])
        now_s = self._leases.now_s()
        self.waits_s.extend(now_s - ask.asked_s for ask in waited)
        return True

    # Between hosts: the ledger asks them, never one host another.

    def answer_recalls(self) -> None:
        """Some host may wait for what this one has. Called twice a second, and when the ledger says so."""
        if self._answering:
            self._answer_again = True
            return
        self._answering = True
        self._spawn(self._answer_recalls())

    async def _answer_recalls(self) -> None:
        try:
            while True:
                self._answer_again = False
                with contextlib.suppress(Unavailable):
                    for recall_id, account_id in await self._ledger.recalls():
                        if await self._give_back(account_id):
                            await self._ledger.answer_recall(recall_id)
                if not self._answer_again:
                    return
        finally:
            self._answering = False

    async def _give_back(self, account_id: str) -> bool:
        """Give the ledger what nobody here holds. Whether every worker was heard. Not under the account's lock: two
        hosts that wait for each other would wait for ever.
        """
        account = self.accounts.get(account_id)
        if account is None or not self.open:
            return account is None
        if account.unsure:
            return False
        buckets = [bucket for bucket in account.buckets.values() if bucket.grant_id is not None]
        workers = {worker for bucket in buckets for worker in bucket.slices}
        heard = await self._leases.recall(account, buckets, workers, closing=False) if workers else True
        for bucket in buckets:
            amount, grant_id = bucket.free, bucket.grant_id
            if not amount or grant_id is None:
                continue
            if account.unsure:
                return False
            bucket.free -= amount
            bucket.amount -= amount
            bucket.remaining = 0
            account.loaded_s = -1e9
            account.quiet_until_s = 0.0
            account.returning += 1
            try:
                if not await self._ledger.return_grant(account_id, grant_id, amount):
                    account.unsure = True
            except Unavailable:
                account.unsure = True
                raise
            finally:
                account.returning -= 1
        return heard

    # Leases: renewed while in use, closed when idle.

    async def tend(self) -> None:
        """Renew what is in use, close what is idle or closing. Called about once a second."""
        await self._leases.tend()

    async def drain(self) -> bool:
        """Close every grant that nobody holds. Whether none is left."""
        return await self._leases.drain()
