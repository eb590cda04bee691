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


class AnchoredClock:
    """The wall clock of somebody who is trusted, the database's, carried on by our own boot clock.

    So a host whose wall clock jumps, or is off, neither expires nor opens anything at the wrong time. Until it is first
    anchored it says what the system says.
    """

    def __init__(self, system: Clock | None = None) -> None:
        self._system = system or SystemClock()
        self._anchor: tuple[datetime, int] | None = None

    def anchor(self, there: datetime, asked_boot_ns: int) -> None:
        """It was `there` at some moment since `asked_boot_ns`."""
        self._anchor = (there, (asked_boot_ns + self.boot_ns()) // 2)

    def now(self) -> datetime:
        if self._anchor is None:
            return self._system.now()
        there, at_ns = self._anchor
        return there + timedelta(microseconds=(self.boot_ns() - at_ns) // 1000)

    def boot_ns(self) -> int:
        return self._system.boot_ns()

    @property
    def skew_s(self) -> float:
        """By how much this host's wall clock is ahead."""
        return (self._system.now() - self.now()).total_seconds()


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
