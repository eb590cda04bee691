"""Children of the supervisor, as forks of it: their code is imported already, so a child that died is replaced at once."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

# By default glibc returns heap to the system with each request: a 98 kB body cost 43 µs instead of 4.6. Numbers are those of mallopt(3).
_MALLOC: Final = {
    -1: 64 * 1024 * 1024,  # M_TRIM_THRESHOLD
    -2: 16 * 1024 * 1024,  # M_TOP_PAD
    # Larger blocks are rare; in the heap they would leave holes, and the heap would never shrink again.
    -3: 2 * 1024 * 1024,  # M_MMAP_THRESHOLD
}
_PR_SET_NAME: Final = 15
_NAME_BYTES_MAX: Final = 15
_POLL_S: Final = 0.01
# The signals that a supervisor handles; a child begins with the defaults. `RETIRE` tells a child to take no new work.
RETIRE: Final = signal.SIGUSR1
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, RETIRE)
EXIT_FAILED: Final = 1


class Forked:
    """A process that calls `run` and exits with its result. The process keeps the file descriptors `keep`, its standard streams and no
    other.

    `ps` and `top` show `name`, at most 15 bytes of it.
    """

    def __init__(self, name: str, run: Callable[[], int | None], keep: Collection[int]) -> None:
        # Buffered output is written once, by the parent. A closed stream does not keep a child from starting.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._code: int | None = None
        # A signal for the child waits until the child has replaced the parent's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _become(name, run, {0, 1, 2, *keep}, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @classmethod
    def adopt(cls, pid: int) -> "Forked":
        """A child that this process had before an exec; the kernel still knows it as a child."""
        adopted = cls.__new__(cls)
        adopted.pid, adopted._code = pid, None
        return adopted

    def poll(self) -> int | None:
        """The exit code; below zero, the signal that ended the process; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # not a child of this process, or its exit code was already read
                self._code = EXIT_FAILED
                return self._code
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _become(name: str, run: Callable[[], int | None], keep: set[int], mask: Collection[int]) -> None:
    """Run as the child, and exit. Never returns: no code of the parent, and none of its clean-up, may run in a child."""
    code: int | None = EXIT_FAILED
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _close_all_but(keep)
        _adjust(name)
        code = run()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else EXIT_FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def _close_all_but(keep: set[int]) -> None:
    """Objects of the parent still hold the numbers that are closed here, and a later file gets such a number. No object closes it: the
    frames that hold them are below this one, and end with the process.
    """
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


def _adjust(name: str) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, name.encode()[:_NAME_BYTES_MAX], 0, 0, 0)
    # Other C libraries have no mallopt.
    with contextlib.suppress(AttributeError):
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)
