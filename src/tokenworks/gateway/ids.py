"""Ids for the hot path: UUIDv7 as 32 hex digits, ascending in a process and different in all processes."""

import secrets
import time
from collections.abc import Callable


class IdSource:
    """An id (RFC 9562, 5.7) has 48 bits of milliseconds, a 12-bit counter within the millisecond, and 62 more bits: 30 that are random
    for each process and 32 that count from a random start, so that two processes do not make the same id.
    """

    __slots__ = ("_begin", "_civil_ms", "_count", "_counter", "_random", "ms")

    def __init__(self, civil_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._civil_ms = civil_ms
        self.ms = 0
        """The milliseconds in the last id: the time when it was made, unless the clock stepped back."""
        self._begin = ""
        self._counter = 0
        self._random = f"{0x80000000 | secrets.randbits(30):08x}"
        self._count = secrets.randbits(32)

    def next(self) -> str:
        ms = self._civil_ms()
        if ms > self.ms:
            self.ms, self._counter = ms, 0
            self._begin = f"{ms:012x}7"
        elif self._counter < 0xFFF:
            self._counter += 1
        else:
            self.ms, self._counter = self.ms + 1, 0
            self._begin = f"{self.ms:012x}7"
        self._count = (self._count + 1) & 0xFFFFFFFF
        return f"{self._begin}{self._counter:03x}{self._random}{self._count:08x}"
