"""Ids for the hot path: UUIDv7 as 32 hex digits, ascending in a process, random where it matters."""

import secrets
import time


class IdSource:
    __slots__ = ("_counter", "_ms", "_tail")

    def __init__(self) -> None:
        self._ms = 0
        self._counter = 0
        self._tail = secrets.randbits(62)

    def next(self) -> str:
        """RFC 9562, 5.7: 48 bits of milliseconds, a 12-bit counter within them, then 62 bits that step by an odd
        random-looking stride from a random start, so that two processes never meet.
        """
        ms = time.time_ns() // 1_000_000
        if ms > self._ms:
            self._ms, self._counter = ms, 0
        elif self._counter < 0xFFF:
            self._counter += 1
        else:
            self._ms, self._counter = self._ms + 1, 0
        self._tail = (self._tail + 0x9E3779B97F4A7C15) & 0x3FFFFFFFFFFFFFFF
        return f"{self._ms:012x}7{self._counter:03x}{0x8000000000000000 | self._tail:016x}"
