"""The ledger for an event loop: calls run in threads with a connection each.

What many accounts wait for at once (terms, grants, closings) is made in turns: all that waits when the database is free goes in one
transaction and a few round trips. An account has one call at a time, so it has one place in a turn, however much it asks for.
What would have to wait for a lock is made by itself, on another connection: it keeps no other account waiting.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection

from tokenworks.charging.host.limits import Lease
from tokenworks.charging.host.settlement import Settler
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.ledger.service import Ledger
from tokenworks.charging.ledger.turn_store import CloseRequest, GrantRequest
from tokenworks.charging.messages import BucketTerms, Limit, Need
from tokenworks.charging.model import FOLLOW_UP
from tokenworks.kernel import Clock, Unavailable

Result = TypeVar("Result")
# A database that hangs must not make anybody wait for longer.
ANSWER_S: Final = 3.0
# Of each kind in one turn: what comes after it waits for tens of milliseconds, not for hundreds.
TURN_LOADS_MAX: Final = 256
TURN_GRANTS_MAX: Final = 256
TURN_CLOSES_MAX: Final = 128
# Between two turns of many, so that more go together: a turn of two costs as many statements as one of two hundred. After a turn of
# one the next one begins at once: where few come, none waits. Not Final, so that tests can set it: a compiled module has the value of a
# Final built in.
GATHER_S = 0.005


class DatabaseThread:
    """One thread, one connection. A call that finds the connection broken is not repeated: it may have committed."""

    def __init__(self, connect: Callable[[], Connection], name: str) -> None:
        self._connect = connect
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: Connection | None = None
        self.answered = False
        self.hangs = False

    async def run(self, call: Callable[[Connection], Result]) -> Result:
        """Raises `Unavailable` where the database does not answer in time. The call may still be made then."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._call, call)
        done, _ = await asyncio.wait([future], timeout=ANSWER_S)
        self.hangs = not done
        if not done:
            self.answered = False
            future.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise Unavailable(f"the database does not answer within {ANSWER_S:g} s")
        return future.result()

    def _call(self, call: Callable[[Connection], Result]) -> Result:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            result = call(self._connection)
        except (psycopg.OperationalError, psycopg.InterfaceError, Unavailable) as error:
            self.answered = False
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise Unavailable(f"the database does not answer: {error}".splitlines()[0]) from error
        self.answered = True
        return result

    def close(self) -> None:
        def bye() -> None:
            if self._connection is not None:
                self._connection.close()

        self._executor.submit(bye)
        self._executor.shutdown()


Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_Made = tuple[list[list[tuple[BucketTerms, int]] | None], list[GrantAnswer | None], list[bool]]
"""What a turn answers: terms, grants, whether it closed."""
_Taken = list[tuple[Asked, asyncio.Future[Answer]]]


class _Waiting(Generic[Asked, Answer]):
    """What waits for a turn of the ledger, first come, first served."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def join(self, asked: Asked) -> "asyncio.Future[Answer]":
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((asked, answer))
        return answer

    def take(self, count_max: int) -> _Taken[Asked, Answer]:
        return [self._queue.popleft() for _ in range(min(count_max, len(self._queue)))]


def _answer(taken: _Taken[Asked, Answer], answers: Sequence[Answer]) -> None:
    for (_, future), answer in zip(taken, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def _fail(taken: _Taken[Asked, Answer], error: Exception) -> None:
    for _, future in taken:
        if not future.done():
            future.set_exception(error)


class RecorderLedger:
    """The ledger as `HostGrants` needs it, for one journal. `alone`: the thread of what may wait for a lock."""

    def __init__(
        self,
        thread: DatabaseThread,
        settler: Settler,
        clock: Clock,
        journal_id: UUID,
        written_seq: Callable[[], int],
        top_up: Callable[[Connection, UUID, str, Need], bool] | None = None,
        alone: DatabaseThread | None = None,
    ) -> None:
        self._thread = thread
        self._alone = alone or thread
        self._loads: _Waiting[UUID, list[tuple[BucketTerms, int]] | None] = _Waiting()
        self._grants: _Waiting[GrantRequest, GrantAnswer | None] = _Waiting()
        self._closes: _Waiting[CloseRequest, bool] = _Waiting()
        self._turning: asyncio.Task[None] | None = None
        self.turns = 0
        self._settler = settler
        self._clock = clock
        self._journal_id = journal_id
        self._written_seq = written_seq
        self._top_up = top_up
        self._settled = asyncio.Event()

    def settled(self, _seq: int) -> None:
        """In the loop: the settler got on."""
        self._settled.set()

    async def _run(self, call: Callable[[Ledger], Result]) -> Result:
        return await self._alone.run(lambda connection: call(Ledger(connection, self._clock)))

    # Turns.

    async def _together(self, waiting: "_Waiting[Asked, Answer]", asked: Asked) -> Answer:
        """The answer of the turn that takes it. Raises `Unavailable`."""
        answer = waiting.join(asked)
        if self._turning is None:
            self._turning = asyncio.get_running_loop().create_task(self._turn())
        return await answer

    async def _turn(self) -> None:
        """While anything waits. What this turn does not take is the next one's, first come, first served."""
        try:
            while self._loads or self._grants or self._closes:
                loads = self._loads.take(TURN_LOADS_MAX)
                grants = self._grants.take(TURN_GRANTS_MAX)
                closes = self._closes.take(TURN_CLOSES_MAX)
                try:
                    loaded, granted, closed = await self._make(
                        [asked for asked, _ in loads],
                        [asked for asked, _ in grants],
                        [asked for asked, _ in closes],
                    )
                except Exception as error:  # each of them hears it, and decides
                    if self._thread.hangs:
                        # Those who would be next have waited as long.
                        loads += self._loads.take(len(self._loads))
                        grants += self._grants.take(len(self._grants))
                        closes += self._closes.take(len(self._closes))
                    _fail(loads, error)
                    _fail(grants, error)
                    _fail(closes, error)
                else:
                    _answer(loads, loaded)
                    _answer(grants, granted)
                    _answer(closes, closed)
                self.turns += 1
                if len(loads) + len(grants) + len(closes) > 1:
                    await asyncio.sleep(GATHER_S)
        finally:
            self._turning = None

    async def _make(self, loads: list[UUID], grants: list[GrantRequest], closes: list[CloseRequest]) -> _Made:
        def make(connection: Connection) -> _Made:
            ledger = Ledger(connection, self._clock)
            loaded = ledger.load_terms_together(loads)
            granted, closed = ledger.turn(self._journal_id, grants, closes) if grants or closes else ([], [])
            return loaded, granted, closed

        return await self._thread.run(make)

    async def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]:
        found = await self._together(self._loads, UUID(account_id))
        return await self._run(lambda ledger: ledger.load_terms(account_id)) if found is None else found

    async def granted_elsewhere(self, account_id: str) -> int:
        return await self._run(lambda ledger: ledger.granted_elsewhere(account_id, self._journal_id))

    async def grant(
        self, account_id: str, bucket_id: str, grant_id: str | None, amount: int, spend_for_s: float
    ) -> GrantAnswer | None:
        asked = GrantRequest(
            UUID(account_id),
            UUID(bucket_id),
            None if grant_id is None else UUID(grant_id),
            amount,
            spend_for_s,
        )
        made = await self._together(self._grants, asked)
        if made is not None:
            return made
        return await self._run(
            lambda ledger: ledger.grant(
                account_id=account_id,
                bucket_id=bucket_id,
                journal_id=self._journal_id,
                grant_id=grant_id,
                amount=amount,
                spend_for_s=spend_for_s,
            )
        )

    async def open_grants_of(self, account_id: str) -> list[tuple[str, str, int, int]]:
        return await self._run(lambda ledger: ledger.open_grants_of(account_id, self._journal_id))

    async def request_recall(self, account_id: str) -> int:
        return await self._run(lambda ledger: ledger.request_recall(account_id, self._journal_id))

    async def recall_answered(self, recall_id: int, account_id: str) -> bool:
        return await self._run(lambda ledger: ledger.recall_answered(recall_id, account_id, self._journal_id))

    async def end_recall(self, recall_id: int) -> None:
        await self._run(lambda ledger: ledger.end_recall(recall_id))

    async def recalls(self) -> list[tuple[int, str]]:
        return await self._run(lambda ledger: ledger.recalls_for(self._journal_id))

    async def answer_recall(self, recall_id: int) -> None:
        await self._run(lambda ledger: ledger.answer_recall(recall_id, self._journal_id))

    async def return_grant(self, account_id: str, grant_id: str, amount: int) -> bool:
        return await self._run(
            lambda ledger: ledger.return_grant(account_id, grant_id, self._journal_id, amount)
        )

    async def lease_limit(self, limit: Limit, requests: int, tokens: int, streams: int) -> Lease:
        return await self._run(
            lambda ledger: ledger.lease_limit(self._journal_id, limit, requests, tokens, streams)
        )

    async def return_lease(self, limit_id: str, requests: int, tokens: int) -> None:
        await self._run(lambda ledger: ledger.return_lease(self._journal_id, limit_id, requests, tokens))

    async def top_up(self, account_id: str, model: str, need: Need) -> bool:
        """Buy what a request lacks, where the subscriber pays as it goes. Whether there is enough now."""
        buy = self._top_up
        if buy is None:
            return False
        name = model.removeprefix(FOLLOW_UP)
        return await self._alone.run(lambda connection: buy(connection, UUID(account_id), name, need))

    async def window_back_s(self, account_id: str, bucket_ids: list[str]) -> int:
        await self._settle_written()
        return await self._run(lambda ledger: ledger.window_back_s(account_id, bucket_ids))

    async def close_grant(self, account_id: str, grant_id: str) -> None:
        """Settle everything that was written so far, then close."""
        target = await self._settle_written()
        if not await self._together(self._closes, CloseRequest(UUID(account_id), UUID(grant_id), target)):
            await self._run(lambda ledger: ledger.close_grant(account_id, grant_id, self._journal_id, target))

    async def _settle_written(self) -> int:
        """Wait until everything that was written so far is settled; returns up to where. Raises `Unavailable`."""
        target = self._written_seq()
        while self._settler.settled_seq < target:
            self._settled.clear()
            self._settler.hurry()
            try:
                await asyncio.wait_for(self._settled.wait(), 2.0)
            except TimeoutError:
                raise Unavailable("settlement does not get on") from None
        return target


__all__ = ["GATHER_S", "DatabaseThread", "RecorderLedger"]
