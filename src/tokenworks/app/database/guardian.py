"""The guardian of an embedded PostgreSQL: it starts the server, waits until no process uses it, and stops it.

Run: python -m tokenworks.app.database.guardian DATA_DIR NAME=VALUE ...
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from tokenworks.app.database.embedded import ARCHIVE_FILE, COMMAND_TIMEOUT_S, Embedded, locked_by, open_lock
from tokenworks.app.database.wal_handover import CONFIGURE

# How long the server may take to end, first fast (SIGINT), then immediately (SIGQUIT). After both it is killed.
STOP_TIMEOUT_S: Final = 30.0


def guard(data_dir: Path, settings: dict[str, str], stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Start the server, wait until no process uses it, stop it. Runs in the guardian process. Returns at once where another guardian
    runs; the process exits where the server ends by itself.
    """
    embedded = Embedded(data_dir, settings)
    guardian = open_lock(data_dir / "pg.guardian")
    if not locked_by(guardian, fcntl.LOCK_EX, 0.0):
        return
    os.truncate(guardian, 0)
    os.pwrite(guardian, f"{os.getpid()}\n".encode(), 0)
    answers = embedded._answers()
    # Before the server starts, so that its first log file already finds a process that archives it as configured.
    embedded.handover.prepare()
    _configure(embedded)
    threading.Thread(target=_take_log, args=(embedded,), daemon=True).start()
    if answers:
        server, pid = None, embedded._server_pid()
    else:
        server = embedded.popen(embedded.server_command())
        pid = server.pid
    if pid is not None:
        threading.Thread(target=_leave_with, args=(pid,), daemon=True).start()
    users = open_lock(data_dir / "pg.users")
    fcntl.flock(users, fcntl.LOCK_EX)
    if server is not None:
        _stop(server, stop_timeout_s)
    else:
        for mode in ("fast", "immediate"):
            seconds = str(max(1, int(stop_timeout_s)))
            done = embedded._run(
                "pg_ctl", "-D", str(embedded.pgdata), "-m", mode, "-w", "-t", seconds, "stop",
                timeout_s=stop_timeout_s + COMMAND_TIMEOUT_S,
            )  # fmt: skip
            if not done.returncode:
                return
        if pid is not None:
            _kill(pid)


def _configure(embedded: Embedded) -> None:
    """Apply `archive.json`, which `archive.py` writes: whether the log is archived, and after which time at the latest."""
    path, timeout_s = embedded.data_dir / ARCHIVE_FILE, 0
    with contextlib.suppress(FileNotFoundError):
        timeout_s = int(json.loads(path.read_text())["archive_timeout_s"])
    embedded.handover.switch(on=path.exists())
    embedded.change(f"archive_timeout = {timeout_s}\n")


def _take_log(embedded: Embedded) -> None:
    """Archive the files that the server hands over. A file that can't be archived stays with the server, which retries and logs it."""
    handover = embedded.handover

    def archive(name: str) -> None:
        # Imported here, so that a guardian starts without these modules; archiving is rare.
        from tokenworks.app.database.archive import archive_file  # noqa: PLC0415

        archive_file(embedded, name)

    for line in handover.lines():
        if line == CONFIGURE:
            with contextlib.suppress(OSError):
                _configure(embedded)
        else:
            handover.answer(line, archive)


def _leave_with(server: int) -> None:
    """Exit when the server ends, because it did not start or was killed: the next user starts another guardian."""
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(server)
        select.select([ended], [], [])
    os._exit(0)


def _stop(server: subprocess.Popen[bytes], timeout_s: float) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout_s)
            return
        sys.stdout.write(
            f"tokenworks: the server {server.pid} did not end within {timeout_s:g} s of {number.name}\n"
        )
        sys.stdout.flush()
    _kill(server.pid)
    server.wait()


def _kill(server: int) -> None:
    """Kill the server with its children: a new server does not start beside them. Every commit is in the write-ahead log."""
    children = Path(f"/proc/{server}/task/{server}/children")
    pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    for pid in (server, *pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    # Ctrl-C at the terminal is for the users of the server: the guardian ends after the last of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard(Path(sys.argv[1]), dict(pair.split("=", 1) for pair in sys.argv[2:]))
