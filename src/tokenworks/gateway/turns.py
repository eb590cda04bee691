"""Work that could hold up a loop, in pieces: so much at once, and what is over waits for turns of its own."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

# In one turn of the loop, over all connections, before work is put off; a piece of it should take less than this.
AT_ONCE_S: Final = 0.01


class Turns:
    """One piece of work in a turn of the loop; between them everything else goes on."""

    __slots__ = ("_queue", "_spent_s", "_turn_s")

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._turn_s = 0.0
        self._spent_s = 0.0

    def later(self, piece: Callable[[], None]) -> None:
        """Do it in a turn of its own, after what waits already."""
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
        """Whether work may be done at once: nothing waits, and this turn of the loop had not much of it."""
        if self._queue:
            return False
        # The loop's clock stands still within a turn.
        now_s = asyncio.get_running_loop().time()
        if now_s != self._turn_s:
            self._turn_s = now_s
            self._spent_s = 0.0
        return self._spent_s < AT_ONCE_S

    def spent(self, since_s: float) -> None:
        """Work was done at once, since then (`time.perf_counter`)."""
        self._spent_s += time.perf_counter() - since_s
