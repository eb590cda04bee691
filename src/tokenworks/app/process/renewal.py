"""After an exec: the new program's processes take over from the old ones, one kind after the other, and no client notices.

1. The new recorder connects to the database and waits for the journal. Only then the old recorder is told to hand over: it writes and
   acknowledges every message that it has received and ends. Its grants stay open, and the new recorder begins where the journal ends.
   Workers repeat requests that were not answered; that takes the time of one restart of a recorder, and no client request is refused.
2. New workers start. When all of them take requests, and the new control plane and tokenizer answer, the reload is done.
3. The old workers are retired: they accept no connection, answer one more request on each connection that they have, and drain. The
   old control plane finishes its requests; the old tokenizer ends when no worker is connected to it.

Where new processes do not get ready in time they are ended, and the old processes go on.
"""

import time
from signal import SIGKILL, SIGTERM
from typing import Final, Literal

import structlog

from tokenworks.app.process.children import Child, free_slots
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.process.served import READY_S, clear_waiting, waiting_recorder
from tokenworks.app.settings import Settings

log = structlog.get_logger()

# A recorder that was told to hand over ends by itself within this time, or is killed: the journal is the same after both.
HAND_OVER_S: Final = 5.0
# After its grace and its time to drain a worker needs this long to end the remaining streams in protocol.
RETIRED_BEYOND_S: Final = 10.0
CONTROL_ENDS_S: Final = 60.0

Phase = Literal["recorder", "workers", "address", "over"]


class Renewal:
    """`children`: processes that the supervisor starts again when they end. `old`: processes of the program before, which it only
    watches. `retired`: processes that end by themselves. `moved`: old workers listen on an address on which no new worker does.
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
        clear_waiting(settings.run_dir)
        for child in new:
            if child.kind != "worker":
                children.append(child)
                child.start()

    def step(self, now_s: float) -> bool:
        """Go on where that is possible. True once the new processes serve, or have failed to get ready."""
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
                # Load balancers need time to learn the new address.
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
        """End the new processes and keep the old ones. A new recorder that has the journal already stays."""
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
            # The new settings have more workers than before: the supervisor starts the additional ones again.
            if child not in self._children:
                self._children.append(child)
        self._retire(now_s)
        self.failed = why

    def _end_new(self, child: Child, now_s: float) -> None:
        """Retire a new process: it may serve requests already."""
        leaving = Child(child.kind, self._settings, None, [], child.slot)
        leaving.process, leaving.started_s = child.process, child.started_s
        leaving.until_s = now_s + self._settings.drain_s + RETIRED_BEYOND_S
        leaving.signal(SIGTERM)
        self._retired.append(leaving)
        child.process = None


__all__ = ["Renewal"]
