"""Time-outs of tens of thousands of connections at almost no cost: one tick a second, and deadlines that move lazily."""

from typing import Protocol


class TimedConnection(Protocol):
    """A connection with a deadline in whole seconds (0: none). `wheel_s` belongs to the wheel."""

    deadline_s: int
    wheel_s: int

    def timed_out(self) -> None: ...


class Wheel:
    """To move a deadline later costs one attribute write: the wheel checks the deadline when its old second comes."""

    __slots__ = ("_slots", "now_s")

    def __init__(self, now_s: int) -> None:
        self.now_s = now_s
        self._slots: dict[int, set[TimedConnection]] = {}

    def set(self, timed: TimedConnection, seconds: int) -> None:
        """Call `timed_out` after `seconds` to `seconds` + 1."""
        at = self.now_s + seconds + 1
        timed.deadline_s = at
        if timed.wheel_s == 0 or at < timed.wheel_s:
            self.put(timed, at)

    def put(self, timed: TimedConnection, at: int) -> None:
        """Check the connection in second `at`. A caller that often moves a deadline writes `deadline_s` itself, and calls this only if
        `wheel_s` is 0 or later than the deadline.
        """
        if timed.wheel_s:
            slot = self._slots.get(timed.wheel_s)
            if slot is not None:
                slot.discard(timed)
        timed.wheel_s = at
        self._slots.setdefault(at, set()).add(timed)

    def clear(self, timed: TimedConnection) -> None:
        timed.deadline_s = 0

    def remove(self, timed: TimedConnection) -> None:
        """Forget a closed connection, so that the wheel does not keep it alive."""
        timed.deadline_s = 0
        if timed.wheel_s:
            slot = self._slots.get(timed.wheel_s)
            if slot is not None:
                slot.discard(timed)
            timed.wheel_s = 0

    def tick(self, now_s: int) -> None:
        while self.now_s < now_s:
            self.now_s += 1
            for timed in self._slots.pop(self.now_s, ()):
                timed.wheel_s = 0
                if not timed.deadline_s:
                    continue
                if timed.deadline_s > self.now_s:
                    self.put(timed, timed.deadline_s)
                else:
                    timed.deadline_s = 0
                    timed.timed_out()

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())
