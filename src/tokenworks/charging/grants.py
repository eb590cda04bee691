"""The host's grants: asked of the ledger, sliced to workers, recalled, renewed, closed. Runs in the recorder's loop.

Invariant, per bucket: amount = used + free + the sum of the workers' slices; none of them is ever negative.
Asks of one account are served one after the other, so what is gathered for one is not promised to another.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from tokenworks.charging import wire
from tokenworks.charging.errors import GrantStillOpen
from tokenworks.charging.host import (
    NS_PER_S,
    Ask,
    HostAccount,
    HostBucket,
    LedgerPort,
    unknown_terms,
)
from tokenworks.charging.messages import Amount, Need, Recall, SliceAnswer, SliceGrant, Verdict
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

RECALL_WAIT_S: Final = 0.3
TERMS_FRESH_S: Final = 2.0
# An empty account that is hammered costs the database this often, no more.
RELOAD_S: Final = 0.1
# How long a worker may go on with a bucket that it has nothing of, for what costs nothing.
SHOWN_FOR_S: Final = 5.0
ASK_QUEUE_MAX: Final = 100_000
# Accounts whose asks are being answered at once. One more is told to come again: the ledger opens some thousands a second.
ACCOUNTS_SERVED_MAX: Final = 5000
# Accounts that are looked after at once, and as many closings wait for one turn of the ledger.
TENDED_TOGETHER_MAX: Final = 128
WAITS_KEPT: Final = 1000
GRANT_AHEAD_S: Final = 10
CALL_BACK_POLL_S: Final = 0.015
RETURNING_POLL_S: Final = 0.005


Send = Callable[[str, int, object], bool]
"""(worker, frame kind, content) -> whether the worker is there."""


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
        self._lookup = lookup
        self._send = send
        self._clock = clock
        self._spend_for_s = spend_for_s
        self._idle_s = idle_s
        self._on_fatal = on_fatal
        self.accounts: dict[str, HostAccount] = {}
        self.open = False  # until every worker that may hold slices was heard
        self.draining = False
        self._recalls: dict[int, tuple[set[str], asyncio.Event]] = {}
        self._recall_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = False
        self._answer_again = False
        self._orphans: list[tuple[str, str]] = []
        self._served = 0
        self.asks_refused = 0
        # How long the latest asks waited that somebody waited for.
        self.waits_s: deque[float] = deque(maxlen=WAITS_KEPT)

    # What workers say.

    def ask(self, account_id: str, ask: Ask) -> None:
        known = self.accounts.get(account_id)
        full = self._served >= ACCOUNTS_SERVED_MAX and not (known and (known.serving or known.buckets))
        if full or (known is not None and len(known.asks) >= ASK_QUEUE_MAX):
            self.asks_refused += 1
            self._answer(ask, Verdict.AWAY)
            return
        account = known or self._account(account_id)
        ask.asked_s = self._now_s()
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
        if recall_number in self._recalls:
            waiting, event = self._recalls[recall_number]
            waiting.discard(worker_id)
            if not waiting:
                event.set()

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
        for waiting, event in self._recalls.values():
            waiting.discard(worker_id)
            if not waiting:
                event.set()

    def adopt(self, account_id: str, bucket_id: str, grant_id: str, amount: int, used: int) -> None:
        """A grant that this host's journal had open before: `used` is settled and unsettled together."""
        account = self._account(account_id)
        before = account.buckets.get(bucket_id)
        if before is not None and before.grant_id is not None:
            # Two of one bucket: the answer to the first was lost, so nobody ever spent it.
            keep_first = before.used >= used
            self._orphans.append((account_id, grant_id if keep_first else before.grant_id))
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
                self._spawn(self._reload(account))

    def close_soon(self, account_id: str, grant_id: str) -> None:
        """An operator wants this grant closed: as soon as nothing runs on it."""
        account = self.accounts.get(account_id)
        for bucket in account.buckets.values() if account is not None else ():
            if account is not None and bucket.grant_id == grant_id:
                bucket.active_s = -1e9
                bucket.used_lately = False
                account.quiet_until_s = 0.0

    # Serving asks.

    def _account(self, account_id: str) -> HostAccount:
        account = self.accounts.get(account_id)
        if account is None:
            account = self.accounts[account_id] = HostAccount(account_id)
        return account

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
                    continue
                try:
                    async with account.lock:
                        verdict, back_s = await self._gather(account, ask)
                except Unavailable:
                    verdict, back_s = Verdict.AWAY, 0
                if account.asks and account.asks[0] is ask:
                    account.asks.popleft()
                    self._answer(ask, verdict, back_s)
                    if not ask.soft:
                        self.waits_s.append(self._now_s() - ask.asked_s)
        finally:
            account.serving = False
            account.quiet_until_s = 0.0
            self._served -= 1

    def _answer(self, ask: Ask, verdict: Verdict, back_s: int = 0) -> None:
        answer = SliceAnswer(ask.number, wire.verdict_code(verdict, back_s))
        self._send(ask.worker_id, wire.SLICE_ANSWER, [answer])

    async def _serve_alike(self, account: HostAccount, alike: list[Ask]) -> bool:
        """A crowd asks at once: what one worker wants for one model is brought to it as one. Returns whether there was
        enough; where not, each is looked at by itself, so that what is left goes to whom it suffices.
        """
        first = alike[0]
        whole = Ask.together(alike)
        try:
            async with account.lock:
                if account.unsure:
                    await self._reconcile(account)
                await self._load(account, fresh=False)
                verdict = await self._cover(account, whole)
        except Unavailable:
            return False
        if verdict != Verdict.ENOUGH:
            for ask in alike:  # what was brought for all of them is there for each
                ask.free = dict(whole.free)
            return False
        waited = account.take(alike)
        enough = wire.verdict_code(Verdict.ENOUGH)
        self._send(first.worker_id, wire.SLICE_ANSWER, [SliceAnswer(ask.number, enough) for ask in waited])
        now_s = self._now_s()
        self.waits_s.extend(now_s - ask.asked_s for ask in waited)
        return True

    async def _load(self, account: HostAccount, *, fresh: bool) -> None:
        now_s = self._now_s()
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

    async def _reload(self, account: HostAccount) -> None:
        async with account.lock:
            try:
                if account.unsure:
                    await self._reconcile(account)
                await self._load(account, fresh=True)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                if bucket.closing and not account.unsure:
                    await self._close(account, bucket)
            account.quiet_until_s = 0.0

    async def _gather(self, account: HostAccount, ask: Ask) -> tuple[Verdict, int]:
        """(verdict, seconds until a window's quantity comes back where one is used up)."""
        if account.unsure:
            await self._reconcile(account)
        await self._load(account, fresh=False)
        verdict = await self._cover(account, ask)
        if verdict == Verdict.NOTHING_LEFT and not ask.soft:
            # Say so on fresh terms only: something may have been ordered a moment ago.
            await self._load(account, fresh=True)
            verdict = await self._cover(account, ask)
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

    # Between hosts: the ledger asks them, never one host another.

    async def _call_back(self, account: HostAccount, ask: Ask) -> Verdict:
        """Other hosts hold some of it: queue for it. "Nothing left" once every one of them has answered."""
        if self._now_s() - account.called_s < RELOAD_S:
            return account.called_verdict
        until_s = self._now_s() + RECALL_WAIT_S
        recall_id = await self._ledger.ask_back(account.account_id)
        verdict = Verdict.ELSEWHERE
        try:
            while True:
                await asyncio.sleep(CALL_BACK_POLL_S)
                answered = await self._ledger.recall_answered(recall_id, account.account_id)
                account.loaded_s = -1e9
                await self._load(account, fresh=True)
                verdict = await self._cover(account, ask)
                if verdict == Verdict.ENOUGH:
                    break
                if verdict == Verdict.NOTHING_LEFT and answered and not account.behind:
                    break
                if self._now_s() >= until_s:
                    verdict = Verdict.ELSEWHERE
                    break
        finally:
            with contextlib.suppress(Unavailable):
                await self._ledger.end_recall(recall_id)
        account.called_s, account.called_verdict = self._now_s(), verdict
        return verdict if verdict == Verdict.ENOUGH or answered else Verdict.ELSEWHERE

    def recalls_wait(self) -> None:
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
        heard = await self._recall(account, buckets, workers, closing=False) if workers else True
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

    async def _top_up(self, account: HostAccount, ask: Ask, lacks: Need) -> Verdict:
        """Where the subscriber pays as it goes: buy what the request lacks, and no more."""
        wants = lacks.requests + lacks.input_tokens + lacks.output_tokens
        # An empty account that is hammered costs the database this often, no more; one that wants less is heard.
        if self._now_s() < account.top_up_after_s and wants >= account.top_up_refused:
            return Verdict.NOTHING_LEFT
        # A count of tokens is free: whether more could be bought is all that it asks.
        counts = ask.need == COUNT_NEED
        if not await self._ledger.top_up(account.account_id, ask.model, NO_NEED if counts else lacks):
            account.top_up_after_s = self._now_s() + RELOAD_S
            account.top_up_refused = wants
            return Verdict.NOTHING_LEFT
        if counts:
            return Verdict.PAYS_AS_IT_GOES
        account.loaded_s = -1e9
        await self._load(account, fresh=True)
        return await self._cover(account, ask)

    async def _reconcile(self, account: HostAccount) -> None:
        """What the ledger has of this host's grants, after a call that was not answered: it may have been made."""
        while account.returning:
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
                bucket.hold(grant_id, amount, used)
                bucket.spend_until_ns = 0
            elif bucket.grant_id == grant_id:
                bucket.free += amount - bucket.amount
                bucket.amount = amount
            else:
                await self._ledger.close_grant(account.account_id, grant_id)
            bucket.check()
        account.unsure = False
        account.loaded_s = -1e9

    async def _cover(self, account: HostAccount, ask: Ask) -> Verdict:
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
        self, account: HostAccount, bucket: HostBucket, ask: Ask, want: int
    ) -> tuple[int, bool]:
        """Bring the asking worker's slice up to `want` where that can be. Returns what it has, and whether a
        worker did not answer a recall in time.
        """
        own = ask.free.get(bucket.terms.bucket_id, 0)
        bucket.active_s = self._now_s()
        if not want and (bucket.grant_id is None or self._clock.boot_ns() < bucket.spend_until_ns):
            self._show(account, bucket, ask)
            return own, False
        expired = self._clock.boot_ns() >= bucket.spend_until_ns
        silent = False
        if ask.soft:
            # What is filled up ahead must not be missed elsewhere soon.
            want = min(want, own + (bucket.free + bucket.remaining) // 8)
        if want - own > bucket.free or expired:
            await self._extend(bucket, max(0, want - own - bucket.free), expired=expired)
        if want - own > bucket.free and not ask.soft and any(w != ask.worker_id for w in bucket.slices):
            silent = not await self._recall(
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
            if not self._send_slice(ask.worker_id, bucket, bucket.grant_id, give, bucket.spend_until_ns):
                bucket.free += bucket.slices.pop(ask.worker_id, 0)
                return 0, silent
            ask.free[bucket.terms.bucket_id] = own + give
            account.leaves(ask, bucket.terms.bucket_id, own + give - want)
        bucket.check()
        return own + give, silent

    def _show(self, account: HostAccount, bucket: HostBucket, ask: Ask) -> None:
        """It costs nothing here: the worker has to know the bucket, and needs nothing of it."""
        if bucket.closing:
            return
        grant_id, until_ns = bucket.grant_id or NO_GRANT, bucket.spend_until_ns
        if ask.worker_id not in bucket.slices:
            # Nobody would recall it, so the worker has to ask again soon: the account may be frozen by then.
            until_ns = self._clock.boot_ns() + int(SHOWN_FOR_S * NS_PER_S)
        self._send_slice(ask.worker_id, bucket, grant_id, 0, until_ns)

    def _send_slice(
        self, worker_id: str, bucket: HostBucket, grant_id: str, amount: int, until_ns: int
    ) -> bool:
        """Whether the worker is there."""
        grant = SliceGrant(bucket.terms.account_id, grant_id, bucket.terms, amount, until_ns)
        return self._send(worker_id, wire.SLICE_GRANT, [grant])

    async def _extend(self, bucket: HostBucket, short: int, *, expired: bool) -> None:
        """Ask the ledger for `short` and some more, or (0) for a renewal of the lease."""
        if bucket.closing or (not bucket.remaining and (bucket.grant_id is None or not expired)):
            return
        # For some seconds at the rate at which it is spent, and not too much of what is left.
        cushion = min(bucket.remaining // 8, max(64 * short, GRANT_AHEAD_S * bucket.burn_s))
        asked_ns = self._clock.boot_ns()
        account = self._account(bucket.terms.account_id)
        account.behind = False
        try:
            granted = await self._ledger.grant(
                bucket.terms.account_id,
                bucket.terms.bucket_id,
                bucket.grant_id,
                short + cushion,
                self._spend_for_s,
            )
        except Unavailable:
            account.unsure = True
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
        # Measured from before we asked, on our own clock: never longer than the ledger thinks.
        bucket.spend_until_ns = asked_ns + int(granted.spend_for_s * NS_PER_S)
        bucket.check()

    async def _recall(
        self, account: HostAccount, buckets: list[HostBucket], workers: set[str], *, closing: bool
    ) -> bool:
        """Ask workers for what they have free. Whether all of them answered in time."""
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

    # Leases: renewed while in use, closed when idle.

    async def tend(self) -> None:
        """Renew what is in use, close what is idle or closing. Called about once a second."""
        for orphan in list(self._orphans):
            with contextlib.suppress(Unavailable, GrantStillOpen):
                await self._ledger.close_grant(*orphan)
                self._orphans.remove(orphan)
        now_s = self._now_s()
        due = [account for account in self.accounts.values() if account.quiet_until_s <= now_s]
        # Together, so that what they ask of the ledger goes in the same turns.
        for at in range(0, len(due), TENDED_TOGETHER_MAX):
            await asyncio.gather(*map(self._tend_account, due[at : at + TENDED_TOGETHER_MAX]))

    async def _tend_account(self, account: HostAccount) -> None:
        if account.lock.locked():
            return
        async with account.lock:
            try:
                if account.unsure:
                    await self._reconcile(account)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                await self._tend(account, bucket)
                if account.unsure:
                    break
            account.quiet_until_s = account.next_look_s(self._idle_s, self._spend_for_s)
        if not account.buckets and not account.asks and not account.serving:
            self.accounts.pop(account.account_id, None)

    async def _tend(self, account: HostAccount, bucket: HostBucket) -> None:
        if bucket.grant_id is None:
            if self._now_s() - account.loaded_s > self._idle_s:
                account.buckets.pop(bucket.terms.bucket_id, None)
            return
        now_s, now_ns = self._now_s(), self._clock.boot_ns()
        if bucket.used_lately:
            bucket.used_lately, bucket.active_s = False, now_s
        # Spent a second, smoothed; this is called about once a second.
        bucket.burn_s = (3 * bucket.burn_s + bucket.used - bucket.used_before) // 4
        bucket.used_before = bucket.used
        if bucket.closing or now_s - bucket.active_s > self._idle_s:
            await self._close(account, bucket)
        elif bucket.slices and bucket.spend_until_ns - now_ns < self._spend_for_s * NS_PER_S * 2 / 3:
            await self._renew(bucket)
            for worker_id in list(bucket.slices) if not bucket.closing else ():
                self._send_slice(worker_id, bucket, bucket.grant_id, 0, bucket.spend_until_ns)

    async def _renew(self, bucket: HostBucket) -> None:
        with contextlib.suppress(Unavailable):
            await self._extend(bucket, 0, expired=True)

    async def _close(self, account: HostAccount, bucket: HostBucket) -> None:
        """Get everything back and close the grant (under the account's lock).

        What requests hold comes back when they end: until then the grant stays open, and an idle one usable.
        """
        if bucket.grant_id is None:
            return
        if bucket.slices:
            await self._recall(account, [bucket], set(bucket.slices), closing=bucket.closing)
        if bucket.slices:
            bucket.active_s = self._now_s()
            return
        bucket.check()
        try:
            await self._ledger.close_grant(account.account_id, bucket.grant_id)
        except GrantStillOpen:
            bucket.active_s = self._now_s()
            return
        except Unavailable:
            # It may be closed: nothing of it may be given out before the ledger was asked.
            account.unsure = True
            return
        account.buckets.pop(bucket.terms.bucket_id, None)
        account.loaded_s = -1e9

    async def drain(self) -> bool:
        """Close every grant that nobody holds. Whether none is left."""
        self.draining = True
        held = list(self.accounts.values())
        for at in range(0, len(held), TENDED_TOGETHER_MAX):
            await asyncio.gather(*map(self._drain_account, held[at : at + TENDED_TOGETHER_MAX]))
        return not any(b.grant_id for a in self.accounts.values() for b in a.buckets.values())

    async def _drain_account(self, account: HostAccount) -> None:
        async with account.lock:
            try:
                if account.unsure:
                    await self._reconcile(account)
            except Unavailable:
                return
            for bucket in list(account.buckets.values()):
                bucket.closing = True
                if not account.unsure:
                    await self._close(account, bucket)

    def _now_s(self) -> float:
        return self._clock.boot_ns() / NS_PER_S
