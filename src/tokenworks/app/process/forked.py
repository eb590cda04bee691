"""Children of the supervisor as forks of it: what they run is imported already, so that one that died is back at once."""

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

# glibc gives heap back per request otherwise: a 98 kB body cost 43 µs instead of 4.6. As mallopt(3) numbers them.
_MALLOC: Final = {
    -1: 64 * 1024 * 1024,  # M_TRIM_THRESHOLD
    -2: 16 * 1024 * 1024,  # M_TOP_PAD
    # Larger ones are rare, and a heap that they leave holes in would never shrink again.
    -3: 2 * 1024 * 1024,  # M_MMAP_THRESHOLD
}
_PR_SET_NAME: Final = 15
_NAME_BYTES_MAX: Final = 15
_POLL_S: Final = 0.01
# What a supervisor handles; a child begins with the defaults. The last one retires a child: it takes nothing new.
RETIRE: Final = signal.SIGUSR1
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, RETIRE)
EXIT_FAILED: Final = 1


class Forked:
    """A process that runs `run` and ends with what it returns. It keeps these file descriptors, its output and no other.

    `name` is what `ps` and `top` show of it, at most 15 bytes.
    """

    def __init__(self, name: str, run: Callable[[], int | None], keep: Collection[int]) -> None:
        # What is buffered is said once, by us; where nobody listens any more a child may begin all the same.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._code: int | None = None
        # A signal for the child must not meet our handlers in it: it waits until the child has its own.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _become(name, run, {0, 1, 2, *keep}, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @classmethod
    def adopt(cls, pid: int) -> "Forked":
        """A child that this process had before an exec: it is a child still."""
        found = cls.__new__(cls)
        found.pid, found._code = pid, None
        return found

    def poll(self) -> int | None:
        """Its exit code, below zero the signal that ended it; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # it was no child of ours, or somebody else has heard how it ended
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
    """Never returns: nothing of the parent's own may go on, or be cleaned up, in a child."""
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
    """Objects of the parent still name what is closed here, by numbers that will be others'. None of them closes anything: the
    frames that hold them lie below this one, and end with the process.
    """
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


def _adjust(name: str) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, name.encode()[:_NAME_BYTES_MAX], 0, 0, 0)
    # Another C library has another allocator.
    with contextlib.suppress(AttributeError):
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)
