"""Time as an argument: whoever needs the time is given a clock, so that a test can move it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
# What a quartz may drift, in millionths; a disciplined clock drifts less.
DRIFT_PPM: Final = 200


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock in UTC: for what people see. It may jump."""

    def civil_ms(self) -> int:
        """The same in milliseconds since 1970, for what is written down of a request."""

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included, the same for all processes of a host.

        Leases are measured on it: it never jumps, and it goes on while the machine sleeps.
        """


class SystemClock:
    """The host's own clocks. `shift_s` moves its civil time, so that a test can run a host whose time is wrong."""

    def __init__(self, shift_s: float = 0.0) -> None:
        self._shift_ns = int(shift_s * NS_PER_S)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(microseconds=self._shift_ns // 1000)

    def civil_ms(self) -> int:
        return (time.time_ns() + self._shift_ns) // NS_PER_MS

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class AnchoredClock:
    """The wall clock of somebody who is trusted, the database's, carried on by our own boot clock.

    So a host whose wall clock jumps, or is off, neither expires nor opens anything at the wrong time. Until it is first
    anchored it says what the system says. An answer took a round trip, so the time there is known to half of it (Cristian,
    Probabilistic clock synchronization, 1989); meanwhile a boot clock drifts.
    """

    def __init__(self, system: Clock | None = None) -> None:
        self._system = system or SystemClock()
        self._boot_ns = self._system.boot_ns
        # Civil time less boot time, and how far off that may have been when it was measured.
        self._offset_ns: int | None = None
        self._half_trip_ns = 0
        self._measured_ns = 0

    def anchor(self, there: datetime, asked_boot_ns: int) -> None:
        """It was `there` at some moment since `asked_boot_ns`. A slower answer than before tells less, until drift is more."""
        answered_ns = self.boot_ns()
        half_trip_ns = (answered_ns - asked_boot_ns) // 2
        if self._offset_ns is not None and half_trip_ns > self._error_ns():
            return
        there_ns = (there - EPOCH) // timedelta(microseconds=1) * 1000
        self._half_trip_ns, self._measured_ns = half_trip_ns, answered_ns
        self._offset_ns = there_ns - (asked_boot_ns + answered_ns) // 2

    def follow(self, offset_ns: int, error_ns: int) -> None:
        """Be the clock of another process of this host, which was anchored: both have the same boot clock."""
        self._offset_ns, self._half_trip_ns, self._measured_ns = offset_ns, error_ns, self.boot_ns()

    @property
    def anchored(self) -> tuple[int, int] | None:
        """For `follow`: (civil less boot time, error), in nanoseconds. None before it is anchored."""
        return None if self._offset_ns is None else (self._offset_ns, self._error_ns())

    def _error_ns(self) -> int:
        return self._half_trip_ns + (self.boot_ns() - self._measured_ns) * DRIFT_PPM // 1_000_000

    def now(self) -> datetime:
        if self._offset_ns is None:
            return self._system.now()
        return EPOCH + timedelta(microseconds=(self.boot_ns() + self._offset_ns) // 1000)

    def civil_ms(self) -> int:
        if self._offset_ns is None:
            return self._system.civil_ms()
        return (self._boot_ns() + self._offset_ns) // NS_PER_MS

    def boot_ns(self) -> int:
        return self._system.boot_ns()

    @property
    def skew_s(self) -> float:
        """By how much this host's wall clock is ahead."""
        return (self._system.now() - self.now()).total_seconds()

    @property
    def error_s(self) -> float:
        """How far off `skew_s` may be: half the round trip, and the drift since."""
        return 0.0 if self._offset_ns is None else self._error_ns() / NS_PER_S

    def is_off(self, skew_max_s: float) -> bool:
        """True if the wall clock is off by more than so much, whatever the answer's way there and back took."""
        return abs(self.skew_s) - self.error_s > skew_max_s


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._boot_ns = 1

    def now(self) -> datetime:
        return self._now

    def civil_ms(self) -> int:
        return (self._now - EPOCH) // timedelta(milliseconds=1)

    def boot_ns(self) -> int:
        return self._boot_ns

    def move(self, by: timedelta) -> None:
        self._now += by
        self._boot_ns += int(by / timedelta(microseconds=1)) * 1000
