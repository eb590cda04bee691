"""Files by which the processes of a host and its commands know of each other: the server of a data directory (`serve.pid`), the state
of its last reload (`run/reload.json`), and the recorder that waits for the journal (`run/recorder.waits`).
"""

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

import msgspec

PID_FILE: Final = "serve.pid"
LOCK_FILE: Final = "serve.lock"
# How long a trial of a new release may take, and how long new processes may take until they serve.
TRIAL_S_MAX: Final = 90.0
READY_S: Final = 90.0

State = Literal["checking", "starting", "done", "failed"]


def write_pid(data_dir: Path) -> None:
    """Write that this process is the supervisor of the data directory."""
    (data_dir / PID_FILE).write_text(f"{os.getpid()}\n")


def server_of(data_dir: Path) -> int | None:
    """The process id of the running supervisor of a data directory; None where there is none, or only its children still drain.

    The id in the file may belong to another process by now: a supervisor has the lock of this data directory open.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int((data_dir / PID_FILE).read_text())
        if b"tokenworks" in Path(f"/proc/{pid}/cmdline").read_bytes() and _has_open(
            pid, data_dir / LOCK_FILE
        ):
            return pid
    return None


def _has_open(pid: int, path: Path) -> bool:
    """True, too, where the process belongs to another user and cannot be read: then its name has to do."""
    wanted = path.stat()
    try:
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True
    for fd in fds:
        with contextlib.suppress(OSError):
            found = fd.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


class Reload(msgspec.Struct, frozen=True):
    """The last reload. `number` counts reloads since the server began. `said`: the stage or the reason, for people. `retired`: old
    processes that still finish requests.
    """

    number: int = 0
    state: State = "done"
    said: str = ""
    release: str = ""
    retired: int = 0

    @property
    def ended(self) -> bool:
        return self.state in {"done", "failed"}


def _file(run_dir: Path) -> Path:
    return run_dir / "reload.json"


def read_reload(run_dir: Path) -> Reload:
    """The last reload; number 0 where there was none."""
    try:
        return msgspec.json.decode(_file(run_dir).read_bytes(), type=Reload)
    except (OSError, msgspec.DecodeError):
        return Reload()


def write_reload(run_dir: Path, reload: Reload) -> None:
    """Replace the file as a whole."""
    path = _file(run_dir)
    half = path.with_suffix(".new")
    half.write_bytes(msgspec.json.encode(reload))
    half.replace(path)


def clear_reload(run_dir: Path) -> None:
    """Called when a server starts: it has had no reload."""
    _file(run_dir).unlink(missing_ok=True)


def write_waiting(run_dir: Path) -> None:
    """Write that this process is a recorder that is ready and only lacks the journal."""
    half = run_dir / "recorder.waits.new"
    half.write_text(f"{os.getpid()}\n")
    half.replace(run_dir / "recorder.waits")


def waiting_recorder(run_dir: Path) -> int:
    """The process id of the recorder that waits for the journal; 0 where none does."""
    try:
        return int((run_dir / "recorder.waits").read_text())
    except (OSError, ValueError):
        return 0


def clear_waiting(run_dir: Path) -> None:
    """Called before a new recorder starts: an earlier recorder may have waited."""
    (run_dir / "recorder.waits").unlink(missing_ok=True)


__all__ = [
    "LOCK_FILE",
    "PID_FILE",
    "READY_S",
    "TRIAL_S_MAX",
    "Reload",
    "clear_reload",
    "clear_waiting",
    "read_reload",
    "server_of",
    "waiting_recorder",
    "write_pid",
    "write_reload",
    "write_waiting",
]  # fmt: skip
