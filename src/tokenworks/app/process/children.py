"""The processes of a host, as their supervisor keeps them: how each is started, whether it lives, and how long it may say nothing."""

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

# From the start of a process to its first heartbeat. Those with a database may have to wait for the embedded one first.
START_GRACE_S: Final = 30.0
DATABASE_GRACE_S: Final = START_TIMEOUT_S + START_GRACE_S
# Pages and jobs: what ends it ends what it is asked just now.
CONTROL_SILENCE_S: Final = 30.0
_STATE_AFTER: Final = b") "


class Kept(msgspec.Struct, frozen=True):
    """A process, as the program that follows over an exec finds it again. Times are of the monotonic clock."""

    kind: Kind
    slot: int
    pid: int
    started_s: float
    until_s: float


class Child:
    """One process that has to run. `slot` tells workers apart, and is what `run` is called with; those of
    two generations never have the same.

    `until_s`: above 0 it is retired, takes nothing new and is ended by force then. An adopted one (without `run`) is never started
    again.
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
        self.silence_s, self.grace_s = _patience(kind, settings)
        self.stats = settings.run_dir / f"{self.name}.stats"
        self._run = run
        self._keep = keep
        self.process: Forked | None = None
        self.started_s = 0.0
        self.until_s = 0.0
        self.deaths = 0
        self.due_s = 0.0

    @classmethod
    def adopted(cls, kept: Kept, settings: Settings) -> "Child":
        """A child of the program that this process was before an exec."""
        child = cls(kept.kind, settings, None, [], kept.slot)
        child.process = Forked.adopt(kept.pid)
        child.started_s, child.until_s = kept.started_s, kept.until_s
        return child

    def set_slot(self, slot: int, settings: Settings) -> None:
        """Before it is started."""
        self.slot = slot
        self.stats = settings.run_dir / f"{self.name}.stats"

    @property
    def name(self) -> str:
        return f"worker-{self.slot}" if self.kind == "worker" else self.kind

    def kept(self) -> Kept | None:
        if self.process is None:
            return None
        return Kept(self.kind, self.slot, self.process.pid, self.started_s, self.until_s)

    def start(self) -> None:
        # Before it is there: its first heartbeat comes soon.
        self.started_s = time.monotonic()
        assert self._run is not None
        run, slot = self._run, self.slot
        self.process = Forked(f"tw-{self.name}", lambda: run(slot), self._keep)

    def take(self, old: "Child") -> None:
        """Watch this process of before in the place of one that is started: the new one did not get ready."""
        self.slot, self.stats = old.slot, old.stats
        self.process, self.started_s = old.process, old.started_s

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def beats(self) -> bool:
        """True from the first heartbeat of this process on."""
        return self.alive() and self._beat_s() > 0

    def _beat_s(self) -> float:
        """Its last heartbeat; 0 before the first: one of another process in the file is of before or after this one."""
        at_ms, pid = last_beat(self.stats)
        return at_ms / 1000 if self.process is not None and pid == self.process.pid else 0.0

    def ready(self) -> bool:
        """True where a worker takes requests; of another process, where it beats."""
        if not self.beats() or self.kind != "worker":
            return self.beats()
        with contextlib.suppress(OSError, ValueError):
            return bool(WorkerStats(self.stats).counters["recorder_ready"])
        return False

    def silent_s(self, now_s: float, awake_s: float) -> float:
        """For how long it has said nothing beyond what it may; 0 where it is not too long. Nobody was heard before `awake_s`."""
        last_s = self._beat_s()
        if not last_s and self._run is None:
            # Its file is its successor's: it is to end anyway, and by then.
            return 0.0
        last_s = last_s or self.started_s + self.grace_s
        silent_s = now_s - max(last_s, awake_s)
        return silent_s if silent_s > self.silence_s else 0.0

    def waits_for_disk(self) -> bool:
        """True in the middle of a disk's work (state D): no signal ends it before that is done, and it is not its own fault."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{self.process.pid}/stat").read_bytes()
            return stat.rpartition(_STATE_AFTER)[2][:1] == b"D"
        return False


def _patience(kind: Kind, settings: Settings) -> tuple[float, float]:
    """(how long it may be silent, how long until its first heartbeat)"""
    if kind == "recorder":
        return settings.recorder_silence_s, DATABASE_GRACE_S
    if kind == "control":
        return CONTROL_SILENCE_S, DATABASE_GRACE_S
    if kind == "tokenizer":
        # It may be silent for as long as it takes to read a large vocabulary.
        return settings.worker_silence_s + settings.tokenize_timeout_s, START_GRACE_S
    return settings.worker_silence_s, START_GRACE_S


def free_slots(taken: set[int]) -> Iterator[int]:
    """Numbers for new workers, the smallest first: as many names in the metrics as there are workers at once."""
    slot = 0
    while True:
        if slot not in taken:
            yield slot
        slot += 1


__all__ = ["Child", "Kept", "Kind", "free_slots"]
