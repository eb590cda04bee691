from datetime import UTC, datetime, timedelta

from tokenworks.kernel import AnchoredClock, ManualClock

START = datetime(2026, 11, 24, tzinfo=UTC)


class Jumping:
    """A host's clock: its wall clock may be set, its boot clock never jumps."""

    def __init__(self):
        self.ticking = ManualClock(START)
        self.off = timedelta()

    def now(self):
        return self.ticking.now() + self.off

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
