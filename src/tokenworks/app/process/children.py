"""The processes of a host as their supervisor sees them: how each is started, whether it lives, and how long it may be silent."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from tokenworks.app.database.embedded import START_TIMEOUT_S
from tokenworks.app.process.forked import Forked
from tokenworks.app.settings import Settings
from tokenworks.gateway import WorkerStats, last_beat

Kind = Literal["control", "recorder", "tokenizer", "worker"]

# From the start of a process to its first heartbeat. A process with a database may first have to wait for the embedded one.
START_GRACE_S: Final = 30.0
DATABASE_GRACE_S: Final = START_TIMEOUT_S + START_GRACE_S
# Pages and jobs: killing the control plane also ends the requests that it serves, so it gets more time than a worker.
CONTROL_SILENCE_S: Final = 30.0
_STATE_AFTER: Final = b") "


class ChildRecord(msgspec.Struct, frozen=True):
    """What the program after an exec needs to find a child again. Times are of the monotonic clock."""

    kind: Kind
    slot: int
    pid: int
    started_s: float
    until_s: float


class Child:
    """A process that has to run. `slot` tells workers apart, and `run` is called with it; no two workers have the same slot, also
    while the workers before a reload still drain.

    `until_s`: where it is above 0 the child is retired: it takes no new work, and is killed at that time. An adopted child (without
    `run`) is never started again.
    """

    def __init__(
        self,
        kind: Kind,
        settings: Settings,
        run: Callable[[int], int | None] | None,
        keep: list[int],
        slot: int = 0,
    ) -> None:
        self.kind: Kind = kind
        self.slot = slot
        self.silence_s, self.grace_s = _silence_limits(kind, settings)
        self.stats = settings.run_dir / f"{self.name}.stats"
        self._run = run
        self._keep = keep
        self.process: Forked | None = None
        self.started_s = 0.0
        self.until_s = 0.0
        self.deaths = 0
        self.due_s = 0.0
        self._beat_seen_s = 0.0
        self._waited_before_s = 0.0  # for a CPU, up to the heartbeat that was seen last

    @classmethod
    def adopted(cls, record: ChildRecord, settings: Settings) -> "Child":
        """A child that this process started before an exec."""
        child = cls(record.kind, settings, None, [], record.slot)
        child.process = Forked.adopt(record.pid)
        child.started_s, child.until_s = record.started_s, record.until_s
        return child

    def set_slot(self, slot: int, settings: Settings) -> None:
        """Called before the child is started."""
        self.slot = slot
        self.stats = settings.run_dir / f"{self.name}.stats"

    @property
    def name(self) -> str:
        return f"worker-{self.slot}" if self.kind == "worker" else self.kind

    def record(self) -> ChildRecord | None:
        """None while the child has no process."""
        if self.process is None:
            return None
        return ChildRecord(self.kind, self.slot, self.process.pid, self.started_s, self.until_s)

    def start(self) -> None:
        # Set before the fork, so that the first heartbeat is never earlier.
        self.started_s = time.monotonic()
        assert self._run is not None
        run, slot = self._run, self.slot
        self.process = Forked(f"tw-{self.name}", lambda: run(slot), self._keep)

    def take(self, old: "Child") -> None:
        """Go on with the process of `old`: the new process did not get ready."""
        self.slot, self.stats = old.slot, old.stats
        self.process, self.started_s = old.process, old.started_s

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def beats(self) -> bool:
        """True after the first heartbeat of this process."""
        return self.alive() and self._beat_s() > 0

    def _beat_s(self) -> float:
        """The last heartbeat of this process; 0 before the first. The file may hold the heartbeat of another process in this slot."""
        at_ms, pid = last_beat(self.stats)
        return at_ms / 1000 if self.process is not None and pid == self.process.pid else 0.0

    def ready(self) -> bool:
        """True where a worker takes requests, and where a process of another kind beats."""
        if not self.beats() or self.kind != "worker":
            return self.beats()
        with contextlib.suppress(OSError, ValueError):
            return bool(WorkerStats(self.stats).counters["recorder_ready"])
        return False

    def silent_s(self, now_s: float, awake_s: float) -> float:
        """How long the child has been silent, where that is longer than it may be; else 0. The silence counts from `awake_s` at the
        earliest: before that the supervisor itself stood still. The time for which the child waited for a CPU is no silence: to kill
        a process on a host without free CPU makes more work.
        """
        last_s = self._beat_s()
        if last_s != self._beat_seen_s:
            self._beat_seen_s, self._waited_before_s = last_s, self.waited_s()
        if not last_s and self._run is None:
            # The file has the heartbeats of the child's successor. A retired child is killed at `until_s` in any case.
            return 0.0
        last_s = last_s or self.started_s + self.grace_s
        silent_s = now_s - max(last_s, awake_s)
        if silent_s <= self.silence_s:
            return 0.0
        silent_s -= max(0.0, self.waited_s() - self._waited_before_s)
        return silent_s if silent_s > self.silence_s else 0.0

    def waited_s(self) -> float:
        """How long the process has been ready to run and waited for a CPU, since it began; 0 where the kernel does not tell."""
        if self.process is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                # proc(5): nanoseconds on a CPU, nanoseconds of waiting for one, time slices.
                return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def waits_for_disk(self) -> bool:
        """True while the process waits for a disk (state D): no signal ends it before the disk answers, and the silence is not a
        fault of the process.
        """
        assert self.process is not None
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{self.process.pid}/stat").read_bytes()
            return stat.rpartition(_STATE_AFTER)[2][:1] == b"D"
        return False


def _silence_limits(kind: Kind, settings: Settings) -> tuple[float, float]:
    """(seconds between two heartbeats, seconds until the first heartbeat)"""
    if kind == "recorder":
        return settings.recorder_silence_s, DATABASE_GRACE_S
    if kind == "control":
        return CONTROL_SILENCE_S, DATABASE_GRACE_S
    if kind == "tokenizer":
        # Reading a large vocabulary takes this long, without a heartbeat.
        return settings.worker_silence_s + settings.tokenize_timeout_s, START_GRACE_S
    return settings.worker_silence_s, START_GRACE_S


def free_slots(taken: set[int]) -> Iterator[int]:
    """Slots for new workers, the smallest first: so metrics have no more worker names than workers run at once."""
    slot = 0
    while True:
        if slot not in taken:
            yield slot
        slot += 1


__all__ = ["Child", "ChildRecord", "Kind", "free_slots"]
