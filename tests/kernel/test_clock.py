import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tokenworks.kernel import AnchoredClock, ManualClock, SystemClock

START = datetime(2026, 11, 24, tzinfo=UTC)


class Jumping:
    """A host's clock: its wall clock may be set, its boot clock never jumps."""

    def __init__(self):
        self.ticking = ManualClock(START)
        self.off = timedelta()

    def now(self):
        return self.ticking.now() + self.off

    def civil_ms(self):
        return self.ticking.civil_ms() + int(self.off.total_seconds() * 1000)

    def boot_ns(self):
        return self.ticking.boot_ns()


def test_until_it_is_anchored_it_says_what_the_system_says():
    assert AnchoredClock(ManualClock(START)).now() == START


def test_a_wall_clock_that_jumps_moves_nothing():
    host = Jumping()
    clock = AnchoredClock(host)
    there = START + timedelta(seconds=3)
    clock.anchor(there, host.boot_ns())
    host.ticking.move(timedelta(minutes=10))
    host.off = timedelta(days=40)
    assert clock.now() == there + timedelta(minutes=10)
    assert clock.skew_s == 40 * 86_400 - 3
    host.off = timedelta(days=-40)
    assert clock.now() == there + timedelta(minutes=10)


def test_the_answer_is_taken_for_the_middle_of_the_call():
    host = Jumping()
    clock = AnchoredClock(host)
    asked_ns = host.boot_ns()
    host.ticking.move(timedelta(seconds=2))
    clock.anchor(START, asked_ns)
    assert clock.now() == START + timedelta(seconds=1)


def test_a_clock_is_off_only_beyond_half_the_round_trip():
    host = Jumping()
    clock = AnchoredClock(host)
    asked_ns = host.boot_ns()
    host.ticking.move(timedelta(seconds=6))
    clock.anchor(host.ticking.now() - timedelta(seconds=3), asked_ns)
    assert clock.error_s == 3.0 and not clock.is_off(2.0)
    host.off = timedelta(seconds=4)
    assert not clock.is_off(2.0), "it may be right: the answer may have been on its way for all of that"
    host.off = timedelta(seconds=6)
    assert clock.is_off(2.0)
    host.off = timedelta(seconds=-6)
    assert clock.is_off(2.0)


def test_a_slow_answer_does_not_replace_a_quick_one_until_drift_is_more():
    host = Jumping()
    clock = AnchoredClock(host)
    there = host.ticking.now()
    clock.anchor(there, host.boot_ns())
    asked_ns = host.boot_ns()
    host.ticking.move(timedelta(seconds=4))
    clock.anchor(there, asked_ns)
    assert clock.now() == there + timedelta(seconds=4), "the quick one is kept"
    host.ticking.move(timedelta(hours=3))
    clock.anchor(there + timedelta(hours=5), host.boot_ns() - 4_000_000_000)
    assert clock.now() == there + timedelta(hours=5, seconds=2), "after hours a slow one tells more"


def test_another_process_of_the_host_follows_and_dates_alike():
    host = Jumping()
    anchored, follower = AnchoredClock(host), AnchoredClock(host)
    assert anchored.anchored is None and follower.civil_ms() == host.civil_ms()
    anchored.anchor(START + timedelta(hours=2), host.boot_ns())
    follower.follow(*anchored.anchored)
    host.off = timedelta(days=3)
    host.ticking.move(timedelta(milliseconds=2500))
    assert follower.now() == anchored.now() == START + timedelta(hours=2, milliseconds=2500)
    assert follower.civil_ms() == anchored.civil_ms() == int(follower.now().timestamp() * 1000)


def test_a_shifted_system_clock_is_wrong_in_civil_time_alone():
    right, ahead = SystemClock(), SystemClock(3600.0)
    assert 3599_000 < ahead.civil_ms() - right.civil_ms() < 3601_000
    assert timedelta(seconds=3599) < ahead.now() - right.now() < timedelta(seconds=3601)
    assert abs(ahead.boot_ns() - right.boot_ns()) < 1_000_000_000


# Where a host's own civil time may be read: by the clock itself, as the default of what is given one, and for ages of its own files.
MAY_READ_CIVIL_TIME = {
    "kernel/clock.py", "kernel/ids.py", "gateway/ids.py", "gateway/keys.py", "gateway/seen.py", "app/process/report_file.py",
    "app/ports/messages.py", "app/install.py", "app/demo/proof.py", "charging/host/recorder.py",
}  # fmt: skip


def test_civil_time_is_read_by_the_clock_alone():
    root = Path(__file__).parents[2] / "src/tokenworks"
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"time\.time(_ns)?\(|datetime\.(now|utcnow)\(|time\.time_ns\b", path.read_text())
    }
    assert found <= MAY_READ_CIVIL_TIME, "give it a clock"
