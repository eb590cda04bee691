"""Clocks. Code that needs the time gets a clock as an argument, so that a test can move it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
# The most that a quartz clock drifts, in millionths; a disciplined clock drifts less.
DRIFT_PPM: Final = 200


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock in UTC, for what people see. It may jump."""

    def civil_ms(self) -> int:
        """The wall clock in milliseconds since 1970, for the records of a request."""

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included, the same for all processes of a host.

        Leases are measured on this clock: it never jumps, and it runs while the machine sleeps.
        """


class SystemClock:
    """The host's own clocks. `shift_s` shifts civil time, so that a test can run a host whose time is wrong."""

    def __init__(self, shift_s: float = 0.0) -> None:
        self._shift_ns = int(shift_s * NS_PER_S)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(microseconds=self._shift_ns // 1000)

    def civil_ms(self) -> int:
        return (time.time_ns() + self._shift_ns) // NS_PER_MS

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class AnchoredClock:
    """The wall clock of a trusted source, the database, continued by the host's own boot clock.

    So a host whose wall clock jumps or is wrong neither expires nor opens anything at the wrong time. Until it is first anchored, this
    clock has the system's time. An answer takes a round trip, so the source's time is known to half of that (Cristian, Probabilistic
    clock synchronization, 1989); after the answer the boot clock drifts.
    """

    def __init__(self, system: Clock | None = None) -> None:
        self._system = system or SystemClock()
        self._boot_ns = self._system.boot_ns
        # Civil time minus boot time; its largest error when it was measured is `_half_trip_ns`.
        self._offset_ns: int | None = None
        self._half_trip_ns = 0
        self._measured_ns = 0

    def anchor(self, source_time: datetime, asked_boot_ns: int) -> None:
        """Set the clock: the source's time was `source_time` at some moment between `asked_boot_ns` and now.

        An answer that is less precise than the last one is ignored, until that one has drifted as far.
        """
        answered_ns = self.boot_ns()
        half_trip_ns = (answered_ns - asked_boot_ns) // 2
        if self._offset_ns is not None and half_trip_ns > self._error_ns():
            return
        source_ns = (source_time - EPOCH) // timedelta(microseconds=1) * 1000
        self._half_trip_ns, self._measured_ns = half_trip_ns, answered_ns
        self._offset_ns = source_ns - (asked_boot_ns + answered_ns) // 2

    def follow(self, offset_ns: int, error_ns: int) -> None:
        """Take over the clock of another process of this host, which was anchored: both have the same boot clock."""
        self._offset_ns, self._half_trip_ns, self._measured_ns = offset_ns, error_ns, self.boot_ns()

    @property
    def anchored(self) -> tuple[int, int] | None:
        """The arguments of `follow`: (civil minus boot time, error) in nanoseconds. None before the clock is anchored."""
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
        """The largest error of `skew_s`: half the round trip, and the drift since then."""
        return 0.0 if self._offset_ns is None else self._error_ns() / NS_PER_S

    def is_off(self, skew_max_s: float) -> bool:
        """True if the host's wall clock is wrong by more than `skew_max_s`, even with the largest error."""
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
