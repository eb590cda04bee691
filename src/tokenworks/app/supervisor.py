"""The supervisor: binds the sockets and hands them down, starts what a host needs, restarts what dies, drains.

Children are forks of it. They hold the read end of a pipe whose write end only the supervisor has: its end of file means
drain. They also hold the data directory's lock, so that a new server starts when the last one of the old is gone.
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
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from tokenworks.app import recorder, tokenizer, worker
from tokenworks.app.database import Connection, connect, database, ensure_usage_months
from tokenworks.app.forked import Forked
from tokenworks.app.host_secrets import SUFFIX
from tokenworks.app.renewing import Certificates
from tokenworks.app.roles import check_role
from tokenworks.app.schema import check_schema
from tokenworks.app.sealing import check_sealed
from tokenworks.app.settings import Settings, parse_address
from tokenworks.gateway import heartbeat_ms
from tokenworks.kernel import Conflict, Invalid, SystemClock, Unavailable
from tokenworks.trust import (
    Peppers,
    PersonVault,
    VaultSecrets,
    check_peppers,
    load_peppers,
    load_vault_secrets,
    strays,
)

log = structlog.get_logger()

BACKLOG: Final = 4096
# A death is told by a signal; heartbeats are looked at this often.
CHECK_S: Final = 0.5
# A look that comes later than this after the last one: the supervisor itself, or the whole host, stood still.
STALLED_S: Final = 1.5
RESTART_S_MAX: Final = 1.0
STEADY_S: Final = 10.0
LOCK_WAIT_S: Final = 45.0
START_GRACE_S: Final = 30.0
_CORRUPT: Final = 78


class _Child:
    """One process that has to run: how to start it, and since when it runs."""

    def __init__(
        self,
        name: str,
        run: Callable[[], int | None],
        keep: list[int],
        stats: Path | None = None,
        silence_s: float = 0.0,
    ) -> None:
        self.name = name
        self.stats = stats
        self.silence_s = silence_s
        self._run = run
        self._keep = keep
        self.process: Forked | None = None
        self.started_s = 0.0
        self.deaths = 0
        self.due_s = 0.0

    def start(self) -> None:
        # Before it is there: its first heartbeat comes soon.
        self.started_s = time.monotonic()
        self.process = Forked(f"tw-{self.name}", self._run, self._keep)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        # The owner's URL is for `init` alone.
        self._settings = settings.model_copy(update={"database_owner_url": None})
        self._may_change_history = False
        self._stopping = False
        self._hurried = False
        self._code = 0
        self._lock = -1
        self._looked_s = self._awake_s = 0.0
        self._children: list[_Child] = []
        self._pipe_read = self._pipe_write = -1

    def run(self, on_ready: Callable[[str, str], None] | None = None) -> int:
        """Serve until SIGTERM or SIGINT. `on_ready(public, admin)` gets the addresses. Returns an exit code."""
        settings = self._settings
        check_exposure(settings)
        if settings.tls_certificate is not None and settings.tls_key is not None:
            # A worker would say so again and again.
            Certificates(settings.tls_certificate, settings.tls_key)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        settings.run_dir.mkdir(exist_ok=True, mode=0o700)
        settings.run_dir.chmod(0o700)
        for old in (*settings.run_dir.glob("*.stats"), *settings.run_dir.glob(f"*{SUFFIX}")):
            old.unlink()
        (settings.run_dir / "recorder.json").unlink(missing_ok=True)
        settings.leaving.unlink(missing_ok=True)
        peppers = load_peppers(settings.secrets)
        vault_secrets = load_vault_secrets(settings.secrets)
        for path, said in strays(settings.secrets):
            # Of the others a deployment may name one: `tokenworks doctor` knows which.
            if "named by no deployment" not in said:
                log.warning("secrets.stray", file=str(path), said=said)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        with database(settings) as url:
            with contextlib.closing(connect(url)) as connection:
                check_schema(connection)
                self._may_change_history = check_role(connection, single_role=settings.single_role)
                check_sealed(connection)
                check_peppers(connection, peppers, settings.secrets, SystemClock().now())
                PersonVault(connection, vault_secrets).check_secrets()
                ensure_usage_months(connection)
                check_durability(settings, connection)
            if self._may_change_history:
                log.warning("supervisor.single_role", why="the database's role could change history")
            public = bind(settings.listen)
            admin = bind(settings.admin_listen)
            recorder_socket = bind_unix(settings.run_dir / "recorder.sock")
            control_socket = bind_unix(settings.run_dir / "control.sock")
            tokenizer_socket = bind_unix(settings.run_dir / "tokenizer.sock")
            self._pipe_read, self._pipe_write = os.pipe()
            self._make_children(
                public, admin, recorder_socket, control_socket, tokenizer_socket, (peppers, vault_secrets)
            )
            # What is here stays as it is, so that children share it.
            gc.collect()
            gc.freeze()
            for child in self._children:
                child.start()
            if on_ready is not None:
                on_ready(_shown(public), _shown(admin))
            self._watch(wake_read, lambda: self._stopping)
            self._leave(wake_read)
            _refuse_connections(public)
            self._drain()
        return self._code

    def _take_lock(self) -> None:
        self._lock = os.open(
            self._settings.data_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        deadline_s = time.monotonic() + LOCK_WAIT_S
        said = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s or self._supervised():
                    raise Conflict(
                        f"{self._settings.data_dir} is served already: stop that server first"
                    ) from None
                if not said:
                    log.info(
                        "supervisor.waits", why="an earlier server of this data directory is still draining"
                    )
                    said = True
                time.sleep(0.05)
            else:
                break
        (self._settings.data_dir / "serve.pid").write_text(f"{os.getpid()}\n")

    def _supervised(self) -> bool:
        """Whether the lock's holder has a living supervisor (and does not merely drain)."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._settings.data_dir / "serve.pid").read_text())
            cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
            return pid != os.getpid() and b"tokenworks" in cmdline
        return False

    def _make_children(
        self,
        public: socket.socket,
        admin: socket.socket,
        recorder_socket: socket.socket,
        control_socket: socket.socket,
        tokenizer_socket: socket.socket,
        proved: tuple[Peppers, VaultSecrets],
    ) -> None:
        """`proved`: secrets that were compared with the database. A child that is started anew begins with them, whatever has become
        of the files.
        """
        settings, gone = self._settings, self._pipe_read
        # A worker has no business with the database: it does not even know where it is.
        without_database = settings.model_copy(update={"database_url": None})

        def control() -> None:
            # What serves people's pages is large, and no other child's business.
            from tokenworks.app import control  # noqa: PLC0415

            control.run(
                settings, control_socket, admin, gone, proved, may_change_history=self._may_change_history
            )

        def child(
            name: str,
            run: Callable[[], int | None],
            *sockets: socket.socket,
            stats: Path | None = None,
            silence_s: float = settings.worker_silence_s,
        ) -> None:
            keep = [*(sock.fileno() for sock in sockets), gone, self._lock]
            self._children.append(_Child(name, run, keep, stats, silence_s))

        child("control", control, control_socket, admin)
        child("recorder", lambda: recorder.run(settings, recorder_socket, gone, proved), recorder_socket)
        child(
            "tokenizer",
            lambda: tokenizer.run(without_database, tokenizer_socket, gone),
            tokenizer_socket,
            stats=settings.run_dir / "tokenizer.stats",
            # It may be silent for as long as it takes to read a large vocabulary.
            silence_s=settings.worker_silence_s + settings.tokenize_timeout_s,
        )
        for number in range(settings.workers):
            child(
                f"worker-{number}",
                lambda number=number: worker.run(without_database, number, public, gone, proved[0]),  # type: ignore[misc]
                public,
                stats=settings.run_dir / f"worker-{number}.stats",
            )

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        # A person at a terminal waits for nobody, and who says it twice means it.
        self._hurried = self._stopping or number == signal.SIGINT
        self._stopping = True

    def _leave(self, wake: socket.socket) -> None:
        """Not ready from now on, and all the same serving: whoever balances load has this long to send its requests elsewhere."""
        self._settings.leaving.touch()
        until_s = time.monotonic() + self._settings.drain_grace_s
        log.info("supervisor.leaves", grace_s=self._settings.drain_grace_s)
        self._watch(wake, lambda: self._hurried or bool(self._code) or time.monotonic() >= until_s)

    def _watch(self, wake: socket.socket, ended: Callable[[], bool]) -> None:
        """Keep the children running."""
        while not ended():
            now_s = time.monotonic()
            self._note_own_stall(now_s)
            for child in self._children:
                if child.alive():
                    self._check_heartbeat(child, now_s)
                elif child.process is not None:
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
                elif now_s >= child.due_s:
                    child.start()
            waiting_s = [child.due_s - now_s for child in self._children if child.process is None]
            if select.select([wake], [], [], max(0.0, min([CHECK_S, *waiting_s])))[0]:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)

    def _note_own_stall(self, now_s: float) -> None:
        """After a stall of its own (a paused machine, no CPU) it heard nobody: the workers' silence is counted from now on."""
        if self._looked_s and now_s - self._looked_s > STALLED_S:
            log.warning("supervisor.stalled", seconds=round(now_s - self._looked_s, 1))
            self._awake_s = now_s
        self._looked_s = now_s

    def _check_heartbeat(self, child: _Child, now_s: float) -> None:
        if child.stats is None:
            return
        beat_s = heartbeat_ms(child.stats) / 1000
        # A heartbeat from before its start is its predecessor's.
        last_s = beat_s if beat_s > child.started_s else child.started_s + START_GRACE_S
        last_s = max(last_s, self._awake_s)
        if now_s - last_s > child.silence_s:
            log.error("supervisor.child_silent", child=child.name, silence_s=round(now_s - last_s, 1))
            child.signal(signal.SIGKILL)

    def _drain(self) -> None:
        """Workers first, then who records what they still say."""
        log.info("supervisor.drains")
        workers = [child for child in self._children if child.name.startswith("worker")]
        others = [child for child in self._children if child not in workers]
        self._end(workers, self._settings.drain_s + 5)
        self._end(others, 30)
        os.close(self._pipe_write)
        (self._settings.data_dir / "serve.pid").unlink(missing_ok=True)
        self._settings.leaving.unlink(missing_ok=True)

    @staticmethod
    def _end(children: list[_Child], timeout_s: float) -> None:
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


def bind(address: str) -> socket.socket:
    """A listening TCP socket. Raises `Unavailable` where the address is taken."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise Unavailable(
            f"can't listen on {address}: {error.strerror}; choose another with --listen or --admin-listen"
        ) from None
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _refuse_connections(listener: socket.socket) -> None:
    """In every process that has it: a new connection is refused at once, and not kept in the queue of a server that ends."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def bind_unix(path: Path) -> socket.socket:
    """A listening Unix socket of mode 0600."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        raise Unavailable(f"{path}: {error}; a shorter data directory may help") from None
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_exposure(settings: Settings) -> None:
    """Plain HTTP stays on loopback unless told otherwise."""
    if settings.tls_key is not None or settings.allow_plain_http or settings.trusted_proxies:
        return
    host, _ = parse_address(settings.listen)
    with contextlib.suppress(ValueError):
        if ip_address(host).is_loopback:
            return
    if host != "localhost":
        raise Invalid(
            f"plain HTTP on {settings.listen} is refused: give tls_certificate and tls_key, or name the proxies in front in trusted_proxies"
        )


def check_durability(settings: Settings, connection: Connection) -> None:
    """Outside dev, a commit has to be on disk when it is answered."""
    row = connection.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('synchronous_standby_names')"
    ).fetchone()
    assert row is not None
    if settings.environment != "dev" and (row[0] not in {"on", "remote_apply"} or row[1] != "on"):
        raise Invalid(
            f'the database runs with synchronous_commit={row[0]}, fsync={row[1]}: outside environment = "dev" both must be on'
        )
    if settings.environment != "dev" and not row[2].strip() and not settings.allow_no_standby:
        raise Invalid(
            "the database has no synchronous standby (synchronous_standby_names is empty), so a fail-over would lose commits: "
            "give it one, or set allow_no_standby = true"
        )
