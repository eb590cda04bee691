"""After an exec: the new program's processes take over from those of before, one kind after the other, and no client hears of it.

1. The new recorder connects to the database and waits for the journal. Only then the old one is told to hand over: it writes and
   acknowledges what it has heard and ends, its grants stay open, and the new one begins where the journal ends. Workers ask again
   what was not answered; that takes the time of one restart of a recorder, and no request is refused for it.
2. New workers begin. When all of them take requests, and the new control plane and tokenizer answer, the reload is done.
3. The old workers are retired: they take no connection any more, answer those that they have once more, and drain. The old control
   plane ends what it is asked just now, the old tokenizer when nobody is left who asks it.

Where the new ones do not get ready in time they are ended, and those of before stay.
"""

import time
from signal import SIGKILL, SIGTERM
from typing import Final, Literal

import structlog

from tokenworks.app.process.children import Child, free_slots
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.process.served import READY_S, forget_waiting, waiting_recorder
from tokenworks.app.settings import Settings

log = structlog.get_logger()

# A recorder that was told to hand over ends by itself within this, or is killed: both leave the same.
HAND_OVER_S: Final = 5.0
# Beyond its grace and its time to drain: a worker cuts what is left in protocol.
RETIRED_BEYOND_S: Final = 10.0
CONTROL_ENDS_S: Final = 60.0

Phase = Literal["recorder", "workers", "address", "over"]


class Renewal:
    """`children`: those that run from now on, which the supervisor starts again when they end; `old`: those of before, which it only
    looks after; `retired`: those that end by themselves. `moved`: old workers listen where no new one does.
    """

    def __init__(
        self,
        settings: Settings,
        children: list[Child],
        old: list[Child],
        retired: list[Child],
        new: list[Child],
        *,
        moved: bool,
    ) -> None:
        self._settings = settings
        self._children, self._old, self._retired, self._new = children, old, retired, new
        self._moved = moved
        self.phase: Phase = "recorder"
        self.failed: str | None = None
        self._until_s = time.monotonic() + READY_S
        self._told_s = self._serves_s = 0.0
        forget_waiting(settings.run_dir)
        for child in new:
            if child.kind != "worker":
                children.append(child)
                child.start()

    def step(self, now_s: float) -> bool:
        """Go on where that is possible. True once the new processes serve, or have failed to."""
        if self.phase == "recorder":
            self._take_journal(now_s)
        if self.phase == "workers":
            self._take_requests(now_s)
        if self.phase == "address" and now_s >= self._serves_s + self._settings.drain_grace_s:
            self._retire(now_s)
        return self.phase in {"address", "over"}

    @property
    def over(self) -> bool:
        return self.phase == "over"

    def _of(self, kind: str, children: list[Child]) -> list[Child]:
        return [child for child in children if child.kind == kind]

    def _take_journal(self, now_s: float) -> None:
        (new,) = self._of("recorder", self._new)
        old = [child for child in self._of("recorder", self._old) if child.alive()]
        if not old:
            self._old[:] = [child for child in self._old if child.kind != "recorder"]
            self._start_workers()
        elif not self._told_s:
            if new.process is not None and waiting_recorder(self._settings.run_dir) == new.process.pid:
                self._told_s = now_s
                old[0].signal(RETIRE)
            elif now_s > self._until_s:
                self._fail("the new recorder did not get ready", now_s)
        elif now_s > self._told_s + HAND_OVER_S:
            log.error("supervisor.recorder_killed", why="it did not hand over")
            old[0].signal(SIGKILL)

    def _start_workers(self) -> None:
        slots = free_slots({child.slot for child in [*self._old, *self._retired] if child.kind == "worker"})
        for child, slot in zip(self._of("worker", self._new), slots, strict=False):
            child.set_slot(slot, self._settings)
            self._children.append(child)
            child.start()
        self.phase = "workers"

    def _take_requests(self, now_s: float) -> None:
        if all(child.ready() for child in self._new):
            self._serves_s = now_s
            if self._moved:
                # Whoever balances load has to hear of the new address.
                self.phase = "address"
            else:
                self._retire(now_s)
        elif now_s > self._until_s:
            late = ", ".join(child.name for child in self._new if not child.ready())
            self._fail(f"not ready: {late}", now_s)

    def _retire(self, now_s: float) -> None:
        worker_until_s = now_s + self._settings.drain_grace_s + self._settings.drain_s + RETIRED_BEYOND_S
        for child in self._old:
            if child.kind == "control":
                child.signal(SIGTERM)
                child.until_s = now_s + CONTROL_ENDS_S
            else:
                child.signal(RETIRE)
                child.until_s = worker_until_s + (RETIRED_BEYOND_S if child.kind == "tokenizer" else 0.0)
        self._retired += self._old
        self._old.clear()
        self.phase = "over"

    def _fail(self, why: str, now_s: float) -> None:
        """The new ones go, those of before stay in their places. A recorder that has the journal stays in any case."""
        for child in self._new:
            before = [old for old in self._of(child.kind, self._old) if old.alive()]
            if child.kind == "recorder" and not before:
                continue
            if child.process is not None:
                self._end_new(child, now_s)
            if before:
                self._old.remove(before[0])
                child.take(before[0])
                if child not in self._children:
                    self._children.append(child)
        for child in self._of("worker", self._new):
            # More workers than before were wanted: they are tried again, as any that ended.
            if child not in self._children:
                self._children.append(child)
        self._retire(now_s)
        self.failed = why

    def _end_new(self, child: Child, now_s: float) -> None:
        """It may serve already: it ends as any that is retired."""
        leaving = Child(child.kind, self._settings, None, [], child.slot)
        leaving.process, leaving.started_s = child.process, child.started_s
        leaving.until_s = now_s + self._settings.drain_s + RETIRED_BEYOND_S
        leaving.signal(SIGTERM)
        self._retired.append(leaving)
        child.process = None


__all__ = ["Renewal"]
