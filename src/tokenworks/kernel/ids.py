"""UUIDv7 (RFC 9562, section 5.7): time-ordered ids, so that an index grows at its end and a month is a range."""

import os
import threading
import time
from typing import Final
from uuid import UUID

_VERSION: Final = 7 << 76
_VARIANT: Final = 0b10 << 62
_RAND_A_MAX: Final = 0xFFF


class _Sequence:
    """The last millisecond and its counter, so that ids of one process ascend even within a millisecond."""

    __slots__ = ("counter", "lock", "ms")

    def __init__(self) -> None:
        self.ms = 0
        self.counter = 0
        self.lock = threading.Lock()


def _make(ms: int, counter: int, tail: int) -> UUID:
    return UUID(int=(ms << 80) | _VERSION | (counter << 64) | _VARIANT | tail)


_sequence = _Sequence()


def uuid7(ms: int | None = None) -> UUID:
    """A new id. `ms` is the time in milliseconds since 1970 where the caller's clock is not the system's.

    `rand_a` is a counter within the millisecond (method 1 of the RFC); when it is full, or the clock
    stepped back, the id takes the next millisecond after the last one used.
    """
    now_ms = time.time_ns() // 1_000_000 if ms is None else ms
    tail = int.from_bytes(os.urandom(8), "big") >> 2
    if ms is not None:
        return _make(now_ms, tail & _RAND_A_MAX, tail)
    with _sequence.lock:
        if now_ms > _sequence.ms:
            _sequence.ms, _sequence.counter = now_ms, 0
        elif _sequence.counter < _RAND_A_MAX:
            _sequence.counter += 1
        else:
            _sequence.ms, _sequence.counter = _sequence.ms + 1, 0
        return _make(_sequence.ms, _sequence.counter, tail)


def uuid7_ms(id_: UUID) -> int:
    """The milliseconds since 1970 in an id."""
    return id_.int >> 80


def uuid7_floor(ms: int) -> UUID:
    """The smallest id of a millisecond, as the bound of a partition or of a query by time."""
    return _make(ms, 0, 0)
