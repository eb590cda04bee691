"""Time as an argument: whoever needs the time is given a clock, so that a test can move it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock in UTC: for what people see. It may jump."""

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included, the same for all processes of a host.

        Leases are measured on it: it never jumps, and it goes on while the machine sleeps.
        """


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._boot_ns = 1

    def now(self) -> datetime:
        return self._now

    def boot_ns(self) -> int:
        return self._boot_ns

    def move(self, by: timedelta) -> None:
        self._now += by
        self._boot_ns += int(by / timedelta(microseconds=1)) * 1000
