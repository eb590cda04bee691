"""The supervisor: binds the sockets, starts the processes of a host, restarts a process that dies, reloads, drains.

Children are forks of the supervisor. They hold the read end of a pipe whose write end only the supervisor has: end of file tells them
to drain. They also hold the lock of the data directory, so that a new server starts only after the last child of the old one has ended.

A reload (SIGHUP) tries the new release and settings in a separate process. Where they fit, the supervisor replaces its own program
(`handover`) and keeps the sockets, the lock, the pipe and the children, which are then replaced by new ones (`renewal`).
"""

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final, NamedTuple

import structlog

from tokenworks.app.bootstrap import load_services
from tokenworks.app.database.connections import database, hold_embedded
from tokenworks.app.process import recorder, tokenizer, worker
from tokenworks.app.process.children import Child
from tokenworks.app.process.forked import SIGNALS
from tokenworks.app.process.handover import Handover, Promise, become, disagreement, taken_over
from tokenworks.app.process.host_secrets import SUFFIX
from tokenworks.app.process.listeners import adopt, bind, bind_unix, refuse_connections, shown_address
from tokenworks.app.process.reloading import Reloading
from tokenworks.app.process.served import (
    LOCK_FILE,
    PID_FILE,
    clear_reload,
    server_of,
    write_pid,
)
from tokenworks.app.process.starting import check_edge, check_start
from tokenworks.app.settings import Settings
from tokenworks.kernel import Conflict, TokenworksError, Unavailable
from tokenworks.trust import Peppers, VaultSecrets, load_peppers, load_vault_secrets, strays

log = structlog.get_logger()

# How often heartbeats are read. A death is reported by a signal at once.
CHECK_S: Final = 0.5
# How often the supervisor looks while a reload runs.
RELOAD_LOOK_S: Final = 0.02
# A longer time between two looks means that the supervisor itself, or the whole host, stood still.
STALLED_S: Final = 1.5
RESTART_S_MAX: Final = 1.0
STEADY_S: Final = 10.0
LOCK_WAIT_S: Final = 45.0
_CORRUPT: Final = 78


class Sockets(NamedTuple):
    """The listening sockets of a server."""

    public: socket.socket
    admin: socket.socket
    recorder: socket.socket
    control: socket.socket
    tokenizer: socket.socket
    staff: socket.socket | None = None


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        # The owner's URL is for `init` alone.
        self._settings = settings.model_copy(update={"database_owner_url": None})
        self._may_change_history = False
        self._cluster = ""
        self._proved: tuple[Peppers, VaultSecrets] | None = None
        self._stopping = False
        self._hurried = False
        self._code = 0
        self._lock = self._users = -1
        self._looked_s = self._awake_s = 0.0
        self._children: list[Child] = []
        self._old: list[Child] = []
        self._retired: list[Child] = []
        self._moved: list[socket.socket] = []
        self._pipe_read = self._pipe_write = -1
        self._wake: socket.socket
        self._terminal = False
        self._reloading = Reloading(
            self._settings, self._old, self._retired, self._moved, lambda: self._stopping, self._run_anew
        )

    def run(self, on_ready: Callable[[str, str, str | None], None] | None = None) -> int:
        """Serve until SIGTERM or SIGINT. `on_ready(public, admin, staff)` gets the addresses. Returns an exit code."""
        handed = taken_over()
        if handed is None:
            check_edge(self._settings)
            self._take_data_dir()
        self._hear_signals()
        for path, why in strays(self._settings.secrets):
            # A deployment may name one of the other files: `tokenworks doctor` reads which.
            if "named by no deployment" not in why:
                log.warning("secrets.stray", file=str(path), said=why)
        with ThreadPoolExecutor(1, "load") as executor:
            # Children share the imported modules. Meanwhile the database starts.
            loading = executor.submit(load_services)
            sockets = self._begin() if handed is None else self._go_on(handed)
            loading.result()
        new = self._make_children(sockets)
        # Frozen objects are never moved or freed, so that children share their memory.
        gc.collect()
        gc.freeze()
        if handed is None:
            self._children += new
            for child in self._children:
                child.start()
            if on_ready is not None:
                staff = None if sockets.staff is None else shown_address(sockets.staff)
                on_ready(shown_address(sockets.public), shown_address(sockets.admin), staff)
        else:
            self._reloading.renew(self._children, new)
        self._watch(lambda: self._stopping)
        self._leave()
        for listener in (sockets.public, *self._moved):
            refuse_connections(listener)
        self._drain()
        if self._users >= 0:
            os.close(self._users)
        return self._code

    # The start of a server, or of a program that takes over from the one before.

    def _take_data_dir(self) -> None:
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        settings.run_dir.mkdir(exist_ok=True, mode=0o700)
        settings.run_dir.chmod(0o700)
        for old in (*settings.run_dir.glob("*.stats"), *settings.run_dir.glob(f"*{SUFFIX}")):
            old.unlink()
        (settings.run_dir / "recorder.json").unlink(missing_ok=True)
        settings.leaving.unlink(missing_ok=True)
        clear_reload(settings.run_dir)

    def _take_lock(self) -> None:
        self._lock = os.open(
            self._settings.data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        deadline_s = time.monotonic() + LOCK_WAIT_S
        announced = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                served = server_of(self._settings.data_dir) not in {None, os.getpid()}
                if time.monotonic() > deadline_s or served:
                    raise Conflict(
                        f"{self._settings.data_dir} is served already: stop that server first"
                    ) from None
                if not announced:
                    log.info(
                        "supervisor.waits", why="an earlier server of this data directory is still draining"
                    )
                    announced = True
                time.sleep(0.05)
            else:
                break
        write_pid(self._settings.data_dir)

    def _hear_signals(self) -> None:
        # Under `nohup` the hang-up signal is ignored: the end of the terminal must not end the server.
        self._terminal = os.isatty(0) and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._wake, wake_write = socket.socketpair()
        for end in (self._wake, wake_write):
            end.setblocking(False)
        # The socket stays open as long as the process runs.
        signal.set_wakeup_fd(wake_write.detach(), warn_on_full_buffer=False)
        # Signals that arrived during an exec have waited until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _begin(self) -> Sockets:
        settings = self._settings
        with database(settings) as url:
            started = check_start(settings, url)
            self._users = hold_embedded(settings)
        self._may_change_history, self._cluster = started.may_change_history, started.cluster
        self._proved = started.peppers, started.vault
        if self._may_change_history:
            log.warning("supervisor.single_role", why="the database's role could change history")
        self._pipe_read, self._pipe_write = os.pipe()
        return Sockets(
            bind(settings.listen),
            bind(settings.admin_listen),
            bind_unix(settings.run_dir / "recorder.sock"),
            bind_unix(settings.run_dir / "control.sock"),
            bind_unix(settings.run_dir / "tokenizer.sock"),
            bind(settings.staff_listen) if settings.staff_listen else None,
        )

    def _go_on(self, handed: Handover) -> Sockets:
        """Take over from the program before. Without the database: the trial has checked it, and the running children do not wait."""
        self._lock, self._users = handed.lock, handed.users
        self._pipe_read, self._pipe_write = handed.pipe_read, handed.pipe_write
        self._may_change_history, self._cluster = handed.may_change_history, handed.cluster
        # The trial has just compared these files with the database.
        self._proved = load_peppers(self._settings.secrets), load_vault_secrets(self._settings.secrets)
        self._terminal = handed.terminal
        self._moved.extend(adopt(fd) for fd in handed.moved)
        for record in handed.children:
            child = Child.adopted(record, self._settings)
            (self._retired if record.until_s else self._old).append(child)
        # No heartbeat was read while this program started.
        self._looked_s = self._awake_s = time.monotonic()
        self._reloading.starts(handed.number, again=handed.again)
        return Sockets(
            adopt(handed.public),
            adopt(handed.admin),
            adopt(handed.recorder),
            adopt(handed.control),
            adopt(handed.tokenizer),
            adopt(handed.staff) if handed.staff >= 0 else None,
        )

    def _make_children(self, sockets: Sockets) -> list[Child]:
        self._sockets = sockets
        # A child that is restarted begins with these secrets, also where the files have changed.
        proved = self._proved
        assert proved is not None
        settings, gone = self._settings, self._pipe_read
        # A worker does not use the database, so it does not get the address.
        without_database = settings.model_copy(update={"database_url": None})

        def control(_slot: int) -> None:
            # Only the control plane needs FastAPI and the pages, which are large.
            from tokenworks.app.process import control  # noqa: PLC0415

            control.run(
                settings,
                sockets.control,
                sockets.admin,
                sockets.staff,
                gone,
                proved,
                may_change_history=self._may_change_history,
            )

        def keep(*kept: socket.socket | None) -> list[int]:
            return [*(sock.fileno() for sock in kept if sock is not None), gone, self._lock]

        return [
            Child("control", settings, control, keep(sockets.control, sockets.admin, sockets.staff)),
            Child(
                "recorder",
                settings,
                lambda _slot: recorder.run(settings, sockets.recorder, gone, proved),
                keep(sockets.recorder),
            ),
            Child(
                "tokenizer",
                settings,
                lambda _slot: tokenizer.run(without_database, sockets.tokenizer, gone),
                keep(sockets.tokenizer),
            ),
            *(
                Child(
                    "worker",
                    settings,
                    lambda slot: worker.run(without_database, slot, sockets.public, gone, proved[0]),
                    keep(sockets.public),
                    number,
                )
                for number in range(settings.workers)
            ),
        ]

    # While the server runs.

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        # Ctrl-C at a terminal, or a second signal, ends the server without the grace time.
        self._hurried = self._stopping or number == signal.SIGINT
        self._stopping = True

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP asks for a reload. Where it says that the server's terminal is gone, it ends the server."""
        if self._terminal and not os.isatty(0):
            self._stop(number, frame)
        else:
            self._reloading.asked = True

    def _leave(self) -> None:
        """Report not ready, and go on serving for the grace time, in which load balancers send their requests to other hosts."""
        self._settings.leaving.touch()
        until_s = time.monotonic() + self._settings.drain_grace_s
        log.info("supervisor.leaves", grace_s=self._settings.drain_grace_s)
        self._watch(lambda: self._hurried or bool(self._code) or time.monotonic() >= until_s)

    def _watch(self, ended: Callable[[], bool]) -> None:
        """Keep the children running until `ended` is true."""
        while not ended():
            now_s = time.monotonic()
            self._note_own_stall(now_s)
            self._reloading.step(now_s)
            for child in self._children:
                if child.alive():
                    self._check_heartbeat(child, now_s)
                elif child.process is not None:
                    self._note_death(child, now_s)
                elif now_s >= child.due_s:
                    child.start()
            for child in self._old:
                if child.alive():
                    self._check_heartbeat(child, now_s)
            self._look_at_retired(now_s)
            waiting_s = [child.due_s - now_s for child in self._children if child.process is None]
            look_s = RELOAD_LOOK_S if self._reloading.busy else CHECK_S
            if select.select([self._wake], [], [], max(0.0, min([look_s, *waiting_s])))[0]:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)

    def _note_death(self, child: Child, now_s: float) -> None:
        assert child.process is not None
        code = child.process.wait()
        child.process = None
        child.deaths = 0 if now_s - child.started_s > STEADY_S else child.deaths + 1
        pause_s = 0.0 if child.deaths < 2 else min(RESTART_S_MAX, 0.1 * 2**child.deaths)
        child.due_s = now_s + pause_s
        log.warning("supervisor.child_died", child=child.name, code=code, restart_in_s=pause_s)
        if code == _CORRUPT:
            log.critical(
                "supervisor.journal_corrupt",
                action="nothing is served from a damaged journal: see the runbook",
            )
            self._stopping, self._code = True, _CORRUPT

    def _look_at_retired(self, now_s: float) -> None:
        """Kill retired children that do not end by themselves in time."""
        for child in list(self._retired):
            if not child.alive():
                self._retired.remove(child)
                if child.kind == "worker":
                    child.stats.unlink(missing_ok=True)
                log.info("supervisor.retired", child=child.name, left=len(self._retired))
                self._reloading.write()
            elif now_s > child.until_s:
                log.error("supervisor.child_killed", child=child.name, why="it was retired, and did not end")
                child.signal(signal.SIGKILL)
            else:
                self._check_heartbeat(child, now_s)

    def _note_own_stall(self, now_s: float) -> None:
        """After a stall of the supervisor itself (a paused machine, no CPU) the silence of every child counts from now on."""
        if self._looked_s and now_s - self._looked_s > STALLED_S:
            log.warning("supervisor.stalled", seconds=round(now_s - self._looked_s, 1))
            self._awake_s = now_s
        self._looked_s = now_s

    def _check_heartbeat(self, child: Child, now_s: float) -> None:
        silent_s = child.silent_s(now_s, self._awake_s)
        if not silent_s:
            return
        if child.waits_for_disk():
            log.warning("supervisor.child_waits_for_disk", child=child.name, silence_s=round(silent_s, 1))
            return
        log.error("supervisor.child_silent", child=child.name, silence_s=round(silent_s, 1))
        child.signal(signal.SIGKILL)

    # A reload: replacing the program of this process.

    def _run_anew(self, promise: Promise) -> str | None:
        """Run the program of the promise in this process. Returns only where that is impossible, with the reason."""
        why = disagreement(promise, self._settings, self._cluster)
        if why is not None:
            return why
        try:
            self._become(promise)
        except (OSError, TokenworksError) as error:
            return str(error)
        return None

    def _become(self, promise: Promise) -> None:
        """Bind new addresses and replace the program. Returns only by an error; then nothing has changed."""
        bound: list[socket.socket] = []

        def listener_on(sock: socket.socket | None, before: str, wanted: str) -> socket.socket:
            if before == wanted and sock is not None:
                return sock
            bound.append(bind(wanted))
            return bound[-1]

        settings, sockets = self._settings, self._sockets
        public = listener_on(sockets.public, settings.listen, promise.listen)
        try:
            admin = listener_on(sockets.admin, settings.admin_listen, promise.admin_listen)
            staff = (
                listener_on(sockets.staff, settings.staff_listen, promise.staff_listen)
                if promise.staff_listen
                else None
            )
            become(lambda: self._handover(promise, public, admin, staff))
        finally:
            for sock in bound:
                sock.close()

    def _handover(
        self, promise: Promise, public: socket.socket, admin: socket.socket, staff: socket.socket | None
    ) -> Handover:
        """Called with signals blocked. Raises `Unavailable` where a signal has just ended this server."""
        if self._stopping:
            raise Unavailable("this server is being stopped")
        sockets = self._sockets
        pairs = ((sockets.public, public), (sockets.admin, admin), (sockets.staff, staff))
        left = [sock for sock, new in pairs if sock is not None and sock is not new]
        records = [child.record() for child in (*self._children, *self._retired) if child.alive()]
        return Handover(
            number=self._reloading.number,
            lock=self._lock,
            pipe_read=self._pipe_read,
            pipe_write=self._pipe_write,
            users=self._users,
            public=public.fileno(),
            admin=admin.fileno(),
            recorder=sockets.recorder.fileno(),
            control=sockets.control.fileno(),
            tokenizer=sockets.tokenizer.fileno(),
            staff=-1 if staff is None else staff.fileno(),
            moved=[sock.fileno() for sock in (*self._moved, *left)],
            may_change_history=promise.may_change_history,
            cluster=promise.cluster or self._cluster,
            terminal=self._terminal,
            again=self._reloading.asked,
            children=[record for record in records if record is not None],
        )

    # The end.

    def _drain(self) -> None:
        """End the workers first, and then the recorder, which records their last messages."""
        log.info("supervisor.drains")
        children = [*self._children, *self._old, *self._retired]
        self._end([child for child in children if child.kind == "worker"], self._settings.drain_s + 5)
        self._end([child for child in children if child.kind != "worker"], 30)
        os.close(self._pipe_write)
        (self._settings.data_dir / PID_FILE).unlink(missing_ok=True)
        self._settings.leaving.unlink(missing_ok=True)

    @staticmethod
    def _end(children: list[Child], timeout_s: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while any(child.alive() for child in children) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        for child in children:
            if child.alive():
                log.error("supervisor.child_killed", child=child.name)
                child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()


__all__ = ["Supervisor"]
