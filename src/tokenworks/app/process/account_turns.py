"""Calls for accounts on one database thread, in turns: one call of each account that waits, then the next of each.

So a burst of one account makes others wait for at most one of its calls. A call that has waited for as long as the database may take for an
answer is not made any more, as its worker does not wait for it either.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from psycopg import Connection

from tokenworks.kernel import TokenworksError, Unavailable

Result = TypeVar("Result")

# Calls that wait: of one account, and of all together. Further ones are refused.
ACCOUNT_WAITING_MAX: Final = 256
WAITING_MAX: Final = 4_096
# Calls that the thread may have beside: given up, and not over, as the database hangs. They keep what they were to store.
GIVEN_UP_MAX: Final = 40
# How long a call waits for its turn.
WAIT_S: Final = 3.0


class Thread(Protocol):
    """A database thread."""

    hangs: bool
    waiting: int
    """Calls that it has, those that nobody waits for any more included."""

    async def run(self, call: Callable[[Connection], Result]) -> Result: ...


class _Waiting:
    """A call that waits. `place`: is set when it is the call's turn, or with the error of one that is not made."""

    __slots__ = ("place", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.place: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class AccountTurns:
    """Runs in the recorder's loop. One call at a time is with the thread."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        # By account, the next account first.
        self._accounts: dict[str, deque[_Waiting]] = {}
        self._count = 0
        self._busy = False

    @property
    def hangs(self) -> bool:
        """True if the database gave the latest call no answer in time."""
        return self._thread.hangs

    async def run(
        self,
        account_id: str,
        make: Callable[[], Callable[[Connection], Result]],
        most: int = ACCOUNT_WAITING_MAX,
    ) -> Result:
        """Run the call that `make()` gives; `make` is called in the loop, when it is the account's turn. `most`: so many calls of the account
        may wait before this one. Raises `Unavailable`.
        """
        if self._thread.waiting >= GIVEN_UP_MAX:
            raise Unavailable("the database does not get on with stored answers")
        if self._busy:
            await self._wait(account_id, most)
        self._busy = True
        try:
            return await self._thread.run(make())
        except TokenworksError as error:
            if self._thread.hangs:
                # The calls of the next turns have waited nearly as long: they fail as well.
                self._fail_all(str(error))
            raise
        finally:
            self._next()

    async def _wait(self, account_id: str, most: int) -> None:
        queue = self._accounts.get(account_id)
        if self._count >= WAITING_MAX or (queue is not None and len(queue) >= most):
            raise Unavailable("too many stored answers are asked for: come again")
        if queue is None:
            queue = self._accounts[account_id] = deque()
        waiting = _Waiting(asyncio.get_running_loop().time())
        queue.append(waiting)
        self._count += 1
        try:
            await waiting.place
        except asyncio.CancelledError:
            place = waiting.place
            if place.done() and not place.cancelled() and place.exception() is None:
                # The turn came with the cancellation: it is the next call's.
                self._next()
            raise

    def _next(self) -> None:
        """Give the thread to a call of the next account."""
        oldest_s = asyncio.get_running_loop().time() - WAIT_S
        while self._accounts:
            account_id, queue = next(iter(self._accounts.items()))
            del self._accounts[account_id]
            waiting = queue.popleft()
            self._count -= 1
            if queue:
                self._accounts[account_id] = queue
            if waiting.place.cancelled():
                continue
            if waiting.since_s < oldest_s:
                waiting.place.set_exception(Unavailable("the database does not get on with stored answers"))
                continue
            waiting.place.set_result(None)
            return
        self._busy = False

    def _fail_all(self, why: str) -> None:
        for queue in self._accounts.values():
            for waiting in queue:
                if not waiting.place.done():
                    waiting.place.set_exception(Unavailable(why))
        self._accounts.clear()
        self._count = 0
