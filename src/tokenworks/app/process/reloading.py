"""A reload in the supervisor: a trial of the new release and settings, then, in the new program, the renewal of all processes.

No step blocks: between two steps the supervisor checks its children.
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from tokenworks import __version__
from tokenworks.app.process.children import Child
from tokenworks.app.process.handover import Promise
from tokenworks.app.process.listeners import refuse_connections
from tokenworks.app.process.renewal import Renewal
from tokenworks.app.process.served import Reload, write_reload
from tokenworks.app.process.trial import Trial
from tokenworks.app.settings import Settings

log = structlog.get_logger()

# Workers of earlier reloads that still drain, for each worker that serves; with more of them a reload is refused.
RETIRED_GENERATIONS_MAX: Final = 4


class Reloading:
    """`old`, `retired` and `moved` are the supervisor's own lists: processes of the program before, processes that drain, and listeners
    whose address changed.

    `run_anew` runs the program of a promise in this process; it returns only where that is impossible, with the reason.
    """

    def __init__(
        self,
        settings: Settings,
        old: list[Child],
        retired: list[Child],
        moved: list[socket.socket],
        stopping: Callable[[], bool],
        run_anew: Callable[[Promise], str | None],
    ) -> None:
        self._settings = settings
        self._old, self._retired, self._moved = old, retired, moved
        self._stopping = stopping
        self._run_anew = run_anew
        self._report = Reload(release=__version__)
        self._trial: Trial | None = None
        self._renewal: Renewal | None = None
        self.asked = False

    @property
    def number(self) -> int:
        """The number of the last reload, counted since the server began."""
        return self._report.number

    @property
    def busy(self) -> bool:
        """True while a reload runs: the supervisor calls `step` more often then."""
        return self._trial is not None or self._renewal is not None

    def starts(self, number: int, *, again: bool) -> None:
        """The new program has taken over, and its processes start. `again`: another reload was requested meanwhile."""
        self.asked = self.asked or again
        self._report = Reload(number, "starting", "the new processes start", __version__)
        self.write()

    def renew(self, children: list[Child], new: list[Child]) -> None:
        """Replace the old processes by `new`, which join `children`."""
        self._renewal = Renewal(
            self._settings, children, self._old, self._retired, new, moved=bool(self._moved)
        )

    def step(self, now_s: float) -> None:
        """Go on with the running reload, or begin a requested one."""
        if self._renewal is not None:
            self._go_on(self._renewal, now_s)
        elif self._trial is not None:
            self._look_at_trial(self._trial)
        elif self.asked:
            self.asked = False
            self._try()

    def _try(self) -> None:
        """Begin a trial of the new release and settings."""
        self._report = Reload(
            self._report.number + 1, "checking", "the new release and settings are tried", __version__
        )
        draining = sum(child.kind == "worker" for child in self._retired)
        if self._stopping():
            self._refuse("this server is being stopped")
        elif draining >= RETIRED_GENERATIONS_MAX * self._settings.workers:
            self._refuse(
                f"{draining} workers of earlier reloads still finish what they serve (drain_s): try again later"
            )
        else:
            log.info("supervisor.reload_begins", number=self._report.number)
            self.write()
            try:
                self._trial = Trial()
            except OSError as error:
                self._refuse(f"the new release can't be run: {error}")

    def _look_at_trial(self, trial: Trial) -> None:
        if self._stopping():
            trial.end()
            self._trial = None
            self._refuse("this server is being stopped")
            return
        promise = trial.result()
        if promise is None:
            return
        self._trial = None
        why = promise if isinstance(promise, str) else self._run_anew(promise)
        if why is not None:
            self._refuse(why)

    def _go_on(self, renewal: Renewal, now_s: float) -> None:
        if self._stopping():
            # All processes drain, the old and the new.
            if not self._report.ended:
                self._refuse("this server is being stopped")
            if renewal.phase != "recorder":
                return
        if renewal.step(now_s) and not self._report.ended:
            if renewal.failed is not None:
                self._refuse(f"{renewal.failed}; the processes of before serve on")
            else:
                self._report = msgspec.structs.replace(
                    self._report, state="done", said="the new processes serve"
                )
                log.info("supervisor.reloaded", number=self._report.number, release=__version__)
                self.write()
        if renewal.over:
            if renewal.failed is None:
                for listener in self._moved:
                    refuse_connections(listener)
                self._moved.clear()
            self._renewal = None

    def _refuse(self, why: str) -> None:
        self._report = msgspec.structs.replace(self._report, state="failed", said=why)
        log.error("supervisor.reload_failed", number=self._report.number, why=why)
        self.write()

    def write(self) -> None:
        """Write the state of the last reload into its file."""
        self._report = msgspec.structs.replace(
            self._report, retired=len(self._old) * self._report.ended + len(self._retired)
        )
        with contextlib.suppress(OSError):  # a full disk: the log has the state, too
            write_reload(self._settings.run_dir, self._report)
