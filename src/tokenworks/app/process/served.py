"""What the processes of a host, and commands beside them, say to each other in files: which server has a data directory
(`serve.pid`), what became of its last reload (`run/reload.json`), which recorder waits for the journal (`run/recorder.waits`).
"""

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

import msgspec

PID_FILE: Final = "serve.pid"
LOCK_FILE: Final = "serve.lock"
# How long a trial of a new release may take, and its processes until they serve.
TRIAL_S_MAX: Final = 90.0
READY_S: Final = 90.0

State = Literal["checking", "starting", "done", "failed"]


def write_pid(data_dir: Path) -> None:
    """Say that the supervisor of the data directory is this process."""
    (data_dir / PID_FILE).write_text(f"{os.getpid()}\n")


def server_of(data_dir: Path) -> int | None:
    """The process id of the living supervisor of a data directory; None where there is none, or it merely drains as an orphan.

    A number that another process has by now is no server: a supervisor has the lock of this data directory open.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int((data_dir / PID_FILE).read_text())
        if b"tokenworks" in Path(f"/proc/{pid}/cmdline").read_bytes() and _has_open(
            pid, data_dir / LOCK_FILE
        ):
            return pid
    return None


def _has_open(pid: int, path: Path) -> bool:
    """True where nobody may look, too: of another user's process its name has to do."""
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
    """The last reload. `number` counts those since the server began; `said` is for people; `retired`: processes of before that
    still finish what they serve.
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
    """Whole or not at all."""
    path = _file(run_dir)
    half = path.with_suffix(".new")
    half.write_bytes(msgspec.json.encode(reload))
    half.replace(path)


def forget_reloads(run_dir: Path) -> None:
    """A server that begins has had none."""
    _file(run_dir).unlink(missing_ok=True)


def say_waiting(run_dir: Path) -> None:
    """Say that this process is a recorder that could begin, and lacks nothing but the journal."""
    half = run_dir / "recorder.waits.new"
    half.write_text(f"{os.getpid()}\n")
    half.replace(run_dir / "recorder.waits")


def waiting_recorder(run_dir: Path) -> int:
    """The process id of the recorder that waits for the journal; 0 where none does."""
    try:
        return int((run_dir / "recorder.waits").read_text())
    except (OSError, ValueError):
        return 0


def forget_waiting(run_dir: Path) -> None:
    """Whoever waited before is not meant."""
    (run_dir / "recorder.waits").unlink(missing_ok=True)


__all__ = [
    "LOCK_FILE", "PID_FILE", "READY_S", "TRIAL_S_MAX", "Reload", "forget_reloads", "forget_waiting", "read_reload", "say_waiting", "server_of", "waiting_recorder",
    "write_pid", "write_reload",
]  # fmt: skip
