"""The ledger for an event loop: calls run in threads with a connection each.

Calls of many accounts (terms, grants, closings) are combined into turns: all calls that wait when the database is free are made in one
transaction and a few round trips. An account has one call at a time, so it has one place in a turn, however many requests it has.
A call that would have to wait for a lock is made alone, on another connection, so that no other account waits for it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection

from tokenworks.charging.host.limit_window import Lease
from tokenworks.charging.host.settlement import Settler
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.ledger.service import Ledger
from tokenworks.charging.ledger.turn_store import CloseRequest, GrantRequest
from tokenworks.charging.messages import BucketTerms, Limit, Need
from tokenworks.charging.model import FOLLOW_UP
from tokenworks.kernel import Clock, Unavailable

Result = TypeVar("Result")
# A call that the database does not answer within this time fails.
ANSWER_S: Final = 3.0
# The most calls of each kind in one turn, so that the next turn begins within tens of milliseconds, not hundreds.
TURN_LOADS_MAX: Final = 256
TURN_GRANTS_MAX: Final = 256
TURN_CLOSES_MAX: Final = 128
# The pause after a turn of several calls, so that the next turn has more: a turn of two costs as many statements as one of two hundred.
# After a turn of one call the next turn begins at once. Not Final, so that tests can set it: a compiled module has the value of a Final
# built in.
GATHER_S = 0.005


class DatabaseThread:
    """One thread with one connection. A call that finds the connection broken is not repeated, since it may have committed."""

    def __init__(self, connect: Callable[[], Connection], name: str) -> None:
        self._connect = connect
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: Connection | None = None
        self.answered = False
        self.hangs = False
        self.waiting = 0
        """Calls that wait or are made, those that nobody waits for any more included."""

    async def run(self, call: Callable[[Connection], Result]) -> Result:
        """Run a call in the thread. Raises `Unavailable` if the database does not answer in time; the call may still be made then."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._call, call)
        self.waiting += 1
        future.add_done_callback(self._ended)
        done, _ = await asyncio.wait([future], timeout=ANSWER_S)
        self.hangs = not done
        if not done:
            self.answered = False
            future.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise Unavailable(f"the database does not answer within {ANSWER_S:g} s")
        return future.result()

    def _ended(self, _: object) -> None:
        self.waiting -= 1

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
        def disconnect() -> None:
            if self._connection is not None:
                self._connection.close()

        self._executor.submit(disconnect)
        self._executor.shutdown()


Call = TypeVar("Call")
Answer = TypeVar("Answer")
_TurnAnswers = tuple[list[list[tuple[BucketTerms, int]] | None], list[GrantAnswer | None], list[bool]]
"""The answers of a turn: to each load its terms, to each grant what was granted, to each closing whether the grant was closed. None and
False: the call would have to wait for a lock."""
_Calls = list[tuple[Call, asyncio.Future[Answer]]]


class _CallQueue(Generic[Call, Answer]):
    """Calls of one kind that wait for a turn, first come, first served."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Call, asyncio.Future[Answer]]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, call: Call) -> "asyncio.Future[Answer]":
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((call, answer))
        return answer

    def take(self, count_max: int) -> _Calls[Call, Answer]:
        return [self._queue.popleft() for _ in range(min(count_max, len(self._queue)))]


def _set_answers(calls: _Calls[Call, Answer], answers: Sequence[Answer]) -> None:
    for (_, future), answer in zip(calls, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def _set_error(calls: _Calls[Call, Answer], error: Exception) -> None:
    for _, future in calls:
        if not future.done():
            future.set_exception(error)


class RecorderLedger:
    """The ledger as `HostGrants` needs it, for one journal. `alone`: the thread of calls that may wait for a lock."""

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
        self._loads: _CallQueue[UUID, list[tuple[BucketTerms, int]] | None] = _CallQueue()
        self._grants: _CallQueue[GrantRequest, GrantAnswer | None] = _CallQueue()
        self._closes: _CallQueue[CloseRequest, bool] = _CallQueue()
        self._turn_task: asyncio.Task[None] | None = None
        self.turns = 0
        self._settler = settler
        self._clock = clock
        self._journal_id = journal_id
        self._written_seq = written_seq
        self._top_up = top_up
        self._settled = asyncio.Event()

    def settled(self, _seq: int) -> None:
        """Called in the event loop when the settler has settled more."""
        self._settled.set()

    async def _run(self, call: Callable[[Ledger], Result]) -> Result:
        return await self._alone.run(lambda connection: call(Ledger(connection, self._clock)))

    # Turns.

    async def _call_in_turn(self, queue: "_CallQueue[Call, Answer]", call: Call) -> Answer:
        """Return the answer of the turn that makes the call. Raises `Unavailable`."""
        answer = queue.put(call)
        if self._turn_task is None:
            self._turn_task = asyncio.get_running_loop().create_task(self._make_turns())
        return await answer

    async def _make_turns(self) -> None:
        """Make turns until no call waits. What a turn does not take is left to the next one."""
        try:
            while self._loads or self._grants or self._closes:
                loads = self._loads.take(TURN_LOADS_MAX)
                grants = self._grants.take(TURN_GRANTS_MAX)
                closes = self._closes.take(TURN_CLOSES_MAX)
                try:
                    loaded, granted, closed = await self._make_turn(
                        [call for call, _ in loads],
                        [call for call, _ in grants],
                        [call for call, _ in closes],
                    )
                except Exception as error:  # every caller of the turn gets the error
                    if self._thread.hangs:
                        # The calls of the next turn have waited as long, so they fail, too.
                        loads += self._loads.take(len(self._loads))
                        grants += self._grants.take(len(self._grants))
                        closes += self._closes.take(len(self._closes))
                    _set_error(loads, error)
                    _set_error(grants, error)
                    _set_error(closes, error)
                else:
                    _set_answers(loads, loaded)
                    _set_answers(grants, granted)
                    _set_answers(closes, closed)
                self.turns += 1
                if len(loads) + len(grants) + len(closes) > 1:
                    await asyncio.sleep(GATHER_S)
        finally:
            self._turn_task = None

    async def _make_turn(
        self, loads: list[UUID], grants: list[GrantRequest], closes: list[CloseRequest]
    ) -> _TurnAnswers:
        def make(connection: Connection) -> _TurnAnswers:
            ledger = Ledger(connection, self._clock)
            loaded = ledger.load_terms_together(loads)
            granted, closed = ledger.turn(self._journal_id, grants, closes) if grants or closes else ([], [])
            return loaded, granted, closed

        return await self._thread.run(make)

    async def load_terms(self, account_id: str) -> list[tuple[BucketTerms, int]]:
        found = await self._call_in_turn(self._loads, UUID(account_id))
        return await self._run(lambda ledger: ledger.load_terms(account_id)) if found is None else found

    async def granted_elsewhere(self, account_id: str) -> int:
        return await self._run(lambda ledger: ledger.granted_elsewhere(account_id, self._journal_id))

    async def grant(
        self, account_id: str, bucket_id: str, grant_id: str | None, amount: int, spend_for_s: float
    ) -> GrantAnswer | None:
        call = GrantRequest(
            UUID(account_id),
            UUID(bucket_id),
            None if grant_id is None else UUID(grant_id),
            amount,
            spend_for_s,
        )
        granted = await self._call_in_turn(self._grants, call)
        if granted is not None:
            return granted
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
        """Buy what a request lacks, if the subscriber pays as it goes. Return True if there is enough now."""
        buy = self._top_up
        if buy is None:
            return False
        name = model.removeprefix(FOLLOW_UP)
        return await self._alone.run(lambda connection: buy(connection, UUID(account_id), name, need))

    async def window_back_s(self, account_id: str, bucket_ids: list[str]) -> int:
        await self._settle_written()
        return await self._run(lambda ledger: ledger.window_back_s(account_id, bucket_ids))

    async def close_grant(self, account_id: str, grant_id: str) -> None:
        """Close a grant, after everything that was written so far is settled. Raises `Unavailable`."""
        target = await self._settle_written()
        if not await self._call_in_turn(self._closes, CloseRequest(UUID(account_id), UUID(grant_id), target)):
            await self._run(lambda ledger: ledger.close_grant(account_id, grant_id, self._journal_id, target))

    async def _settle_written(self) -> int:
        """Wait until everything that was written so far is settled. Return its last sequence. Raises `Unavailable`."""
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
