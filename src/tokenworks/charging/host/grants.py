"""The host's grants in the recorder's loop: workers request and return slices, records use them, other hosts recall.

`leases.py` keeps the grants in step with the ledger; `provisioning.py` provides what a slice request needs.

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

# The most slice requests in the queue of one account.
QUEUE_MAX: Final = 100_000
# The most accounts that are served at once: the ledger opens some thousands a second. Requests of further accounts are refused.
ACCOUNTS_SERVED_MAX: Final = 5000
# Wait times that are kept for the metrics.
WAITS_KEPT: Final = 1000


class HostGrants:
    """All grants of this host. Runs in the recorder's loop."""

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
        self._provisioner = Provisioner(self._leases, ledger, lookup, send, clock)
        self.accounts = self._leases.accounts
        self.open = False  # True once every worker that may hold slices has reported them, or is gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering_recalls = False
        self._recalled_again = False
        self._accounts_served = 0
        self.requests_refused = 0
        # Wait times of recent slice requests that blocked a client.
        self.waits_s: deque[float] = deque(maxlen=WAITS_KEPT)

    # Frames of workers.

    def request(self, account_id: str, request: PendingSliceRequest) -> None:
        """Queue a slice request. It is answered with `SLICE_ANSWER`, at once with `AWAY` where a limit is reached."""
        known = self.accounts.get(account_id)
        full = self._accounts_served >= ACCOUNTS_SERVED_MAX and not (
            known and (known.serving or known.buckets)
        )
        if full or (known is not None and len(known.queue) >= QUEUE_MAX):
            self.requests_refused += 1
            self._answer(request, Verdict.AWAY)
            return
        account = known or self._leases.account(account_id)
        request.received_s = self._leases.now_s()
        account.queue.append(request)
        self._serve(account)

    def take_back(
        self, worker_id: str, recall_number: int, account_id: str, amounts: Iterable[Amount]
    ) -> None:
        """A worker returns what it has free of its slices. `recall_number` is 0 where no recall asked for it."""
        account = self.accounts.get(account_id)
        for returned in amounts:
            bucket_id, grant_id, amount = returned.bucket_id, returned.grant_id, returned.amount
            bucket = account.buckets.get(bucket_id) if account else None
            if bucket is None or bucket.grant_id != grant_id:
                continue
            bucket.take_from_slice(worker_id, amount, "gave back more than it had")
            bucket.free += amount
            bucket.check()
            if account is not None:
                account.deduct_returned(worker_id, bucket_id, amount)
        self._leases.recall_answered(worker_id, recall_number)

    def record_used(self, worker_id: str | None, account_id: str, parts: Iterable[Amount]) -> None:
        """A record is in the journal: move what it used of each grant from the worker's slice to `used`. `worker_id` None: the worker
        is lost and its slices are free again, so the amounts come out of `free`. Before `start`, such a record may use a
        grant that is gone (written off, or lost in a restore); settlement charges it as late.
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
                bucket.take_from_slice(worker_id, amount, "used more than its slice")
            bucket.used += amount
            bucket.used_lately = True
            if account is not None:
                account.next_tend_s = 0.0

    def worker_lost(self, worker_id: str) -> None:
        """Free the slices of a worker that is gone. The caller then closes the worker's open attempts, which use some of it."""
        for account in self.accounts.values():
            account.queue = deque(request for request in account.queue if request.worker_id != worker_id)
            for bucket in account.buckets.values():
                bucket.free += bucket.slices.pop(worker_id, 0)
                bucket.check()
        self._leases.worker_lost(worker_id)

    def adopt(self, account_id: str, bucket_id: str, grant_id: str, amount: int, used: int) -> None:
        """Take over a grant that this host had open before the recorder started. `used`: what settled and unsettled records used."""
        account = self._leases.account(account_id)
        before = account.buckets.get(bucket_id)
        if before is not None and before.grant_id is not None:
            # Two grants of one bucket: the answer to one of them was lost, so nothing of that one was ever used.
            keep_first = before.used >= used
            self._leases.unused_grants.append((account_id, grant_id if keep_first else before.grant_id))
            if keep_first:
                return
        bucket = account.buckets[bucket_id] = HostBucket(unknown_terms(account_id, bucket_id), 0)
        bucket.set_grant(grant_id, amount, used)
        # Until the account's terms are loaded, no slice may be made of the grant.
        bucket.closing = True
        bucket.check()

    def adopt_slice(
        self, worker_id: str, account_id: str, bucket_id: str, grant_id: str, outstanding: int
    ) -> bool:
        """Take over a slice of a worker that outlived the last recorder. Return False if the host's grant does not have that much."""
        if not outstanding:
            return True  # the grant may be closed by now
        account = self.accounts.get(account_id)
        bucket = account.buckets.get(bucket_id) if account else None
        if bucket is None or bucket.grant_id != grant_id or bucket.free < outstanding:
            return False
        bucket.free -= outstanding
        bucket.slices[worker_id] = bucket.slices.get(worker_id, 0) + outstanding
        bucket.check()
        return True

    def start(self) -> None:
        """Start to serve: every worker has reported its slices, or is gone."""
        self.open = True
        for account in list(self.accounts.values()):
            self._serve(account)

    def account_changed(self, account_id: str) -> None:
        """Reload an account whose buckets changed in the ledger (ordered, closing, expired, frozen)."""
        account = self.accounts.get(account_id)
        if account is not None:
            account.loaded_s = -1e9
            account.next_tend_s = 0.0
            account.top_up_after_s = -1e9
            if self.open:
                self._spawn(self._leases.reload(account))

    def close_soon(self, account_id: str, grant_id: str) -> None:
        """Close a grant at an operator's request, as soon as no request in flight holds any of it."""
        account = self.accounts.get(account_id)
        for bucket in account.buckets.values() if account is not None else ():
            if account is not None and bucket.grant_id == grant_id:
                bucket.active_s = -1e9
                bucket.used_lately = False
                account.next_tend_s = 0.0

    # Serving slice requests.

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(error)  # an invariant is broken; the next recorder starts from the journal

    def _serve(self, account: HostAccount) -> None:
        if self.open and not account.serving and account.queue:
            account.serving = True
            self._accounts_served += 1
            self._spawn(self._serve_queue(account))

    async def _serve_queue(self, account: HostAccount) -> None:
        combine = True
        try:
            while account.queue:
                request = account.queue[0]
                combinable = account.combinable(request) if combine else [request]
                if len(combinable) > 1:
                    combine = await self._serve_combined(account, combinable)
                else:
                    await self._serve_single(account, request)
        finally:
            account.serving = False
            account.next_tend_s = 0.0
            self._accounts_served -= 1

    async def _serve_single(self, account: HostAccount, request: PendingSliceRequest) -> None:
        try:
            async with account.lock:
                verdict, back_s = await self._provisioner.provide(account, request)
        except Unavailable:
            verdict, back_s = Verdict.AWAY, 0
        # The worker may be lost by now, and its requests with it.
        if account.queue and account.queue[0] is request:
            account.queue.popleft()
            self._answer(request, verdict, back_s)
            if not request.prefetch:
                self.waits_s.append(self._leases.now_s() - request.received_s)

    def _answer(self, request: PendingSliceRequest, verdict: Verdict, back_s: int = 0) -> None:
        answer = SliceAnswer(request.number, wire.verdict_code(verdict, back_s))
        self._send(request.worker_id, wire.SLICE_ANSWER, [answer])

    async def _serve_combined(self, account: HostAccount, requests: list[PendingSliceRequest]) -> bool:
        """Serve requests of one worker for one model with one provision. Return False if there was not enough for all of them:
        each is then served by itself, so that what is left goes to those that it covers.
        """
        first = requests[0]
        combined = PendingSliceRequest.combined(requests)
        try:
            async with account.lock:
                if account.needs_reconcile:
                    await self._leases.reconcile(account)
                await self._leases.load(account, fresh=False)
                verdict = await self._provisioner.fill_slices(account, combined)
        except Unavailable:
            return False
        if verdict != Verdict.ENOUGH:
            for request in requests:  # what the worker was given for all of them counts for each
                request.free = dict(combined.free)
            return False
        served = account.dequeue(requests)
        enough = wire.verdict_code(Verdict.ENOUGH)
        self._send(
            first.worker_id, wire.SLICE_ANSWER, [SliceAnswer(request.number, enough) for request in served]
        )
        now_s = self._leases.now_s()
        self.waits_s.extend(now_s - request.received_s for request in served)
        return True

    # Recalls by other hosts, which come through the ledger.

    def answer_recalls(self) -> None:
        """Answer the recalls that other hosts made. Called twice a second, and when the ledger notifies the host."""
        if self._answering_recalls:
            self._recalled_again = True
            return
        self._answering_recalls = True
        self._spawn(self._answer_recalls())

    async def _answer_recalls(self) -> None:
        try:
            while True:
                self._recalled_again = False
                with contextlib.suppress(Unavailable):
                    for recall_id, account_id in await self._ledger.recalls():
                        if await self._return_free(account_id):
                            await self._ledger.answer_recall(recall_id)
                if not self._recalled_again:
                    return
        finally:
            self._answering_recalls = False

    async def _return_free(self, account_id: str) -> bool:
        """Return to the ledger what no request in flight on this host holds. Return True if every worker answered.

        The account's lock is not taken: two hosts that each wait for the other would wait for ever.
        """
        account = self.accounts.get(account_id)
        if account is None or not self.open:
            return account is None
        if account.needs_reconcile:
            return False
        buckets = [bucket for bucket in account.buckets.values() if bucket.grant_id is not None]
        workers = {worker for bucket in buckets for worker in bucket.slices}
        all_answered = (
            await self._leases.recall(account, buckets, workers, closing=False) if workers else True
        )
        for bucket in buckets:
            amount, grant_id = bucket.free, bucket.grant_id
            if not amount or grant_id is None:
                continue
            if account.needs_reconcile:
                return False
            bucket.free -= amount
            bucket.amount -= amount
            bucket.remaining = 0
            account.loaded_s = -1e9
            account.next_tend_s = 0.0
            account.returns_in_flight += 1
            try:
                if not await self._ledger.return_grant(account_id, grant_id, amount):
                    account.needs_reconcile = True
            except Unavailable:
                account.needs_reconcile = True
                raise
            finally:
                account.returns_in_flight -= 1
        return all_answered

    # Leases: renewed while in use, closed when idle.

    async def tend(self) -> None:
        """Renew what is in use, close what is idle or closing. Called about once a second."""
        await self._leases.tend()

    async def drain(self) -> bool:
        """Close every grant that no request in flight holds. Return True if none is left."""
        return await self._leases.drain()
