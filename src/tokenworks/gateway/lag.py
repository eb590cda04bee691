"""The lag of the event loop, which adds to the time of every request."""

import asyncio
import time
from typing import Final

from tokenworks.gateway.stats import Stats

INTERVAL_S: Final = 0.025


class LoopLag:
    """A timer that measures its own delay. It shows a stall of the loop less by at most the interval."""

    __slots__ = ("_busy_s", "_due_s", "_loop", "_stats", "_timer")

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._busy_s = 0.0

    def start(self) -> None:
        self._busy_s = time.thread_time()
        self._due_s = self._loop.time() + INTERVAL_S
        self._timer = self._loop.call_at(self._due_s, self._came)

    def _came(self) -> None:
        late_s = max(0.0, time.monotonic() - self._due_s)
        busy_s = time.thread_time()
        self._stats.lagged(int(late_s * 1000), int((busy_s - self._busy_s) * 1000))
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
