"""Work that could block the event loop, in pieces: some at once, and the rest in later turns of the loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

# Work of all connections in one turn of the loop, before further work is deferred. A piece of work should take less than this.
AT_ONCE_S: Final = 0.01


class Turns:
    """A queue of pieces of work. One piece is done in each turn of the loop, and everything else goes on in between."""

    __slots__ = ("_queue", "_spent_s", "_turn_s")

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._turn_s = 0.0
        self._spent_s = 0.0

    def later(self, piece: Callable[[], None]) -> None:
        """Do a piece in a turn of its own, after the pieces that already wait."""
        self._queue.append(piece)
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        piece = self._queue[0]
        try:
            piece()
        finally:
            self._queue.popleft()
            if self._queue:
                asyncio.get_running_loop().call_soon(self._run)

    def free(self) -> bool:
        """True if work may be done at once: no piece waits, and this turn of the loop has done little."""
        if self._queue:
            return False
        # The loop's clock stands still within a turn.
        now_s = asyncio.get_running_loop().time()
        if now_s != self._turn_s:
            self._turn_s = now_s
            self._spent_s = 0.0
        return self._spent_s < AT_ONCE_S

    def spent(self, since_s: float) -> None:
        """Count work that was done at once since `since_s` (`time.perf_counter`)."""
        self._spent_s += time.perf_counter() - since_s
