"""The handover from one program to the next in the supervisor's process (`exec`): its sockets, its locks and its children.

The process stays the same: its id, its children, the lock of the data directory and the pipe that its children watch. State that
cannot be read again from settings is written into a file in memory; an environment variable names the file's descriptor.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from tokenworks.app.process.children import ChildRecord
from tokenworks.app.process.forked import SIGNALS
from tokenworks.app.settings import Settings
from tokenworks.charging import wire

# Raised when a program could misread the handover of an earlier one.
FORM: Final = 1
VARIABLE: Final = "_TOKENWORKS_HANDOVER"


class Handover(msgspec.Struct):
    """What the next program takes over. Descriptors are numbers. `users`: the hold on the embedded database, -1 without one. `moved`:
    sockets of addresses that changed, closed once the old processes have ended. `number`: of the reload. `again`: another reload was
    requested meanwhile. `staff`: the staff port, -1 without one; an earlier program does not name it.
    """

    number: int
    lock: int
    pipe_read: int
    pipe_write: int
    users: int
    public: int
    admin: int
    recorder: int
    control: int
    tokenizer: int
    moved: list[int]
    may_change_history: bool
    cluster: str
    terminal: bool
    again: bool
    children: list[ChildRecord]
    staff: int = -1

    def descriptors(self) -> list[int]:
        named = [self.lock, self.pipe_read, self.pipe_write, self.users, self.public, self.admin]
        return [
            fd
            for fd in [*named, self.recorder, self.control, self.tokenizer, self.staff, *self.moved]
            if fd >= 0
        ]


class Promise(msgspec.Struct):
    """What a trial (`serve --check`) of a new program tells the running one: see `disagreement`."""

    release: str
    form: int
    takes_wire: list[int]
    fixed: dict[str, str]
    listen: str
    admin_listen: str
    may_change_history: bool
    cluster: str
    staff_listen: str = ""


def fixed(settings: Settings) -> dict[str, str]:
    """Settings that cannot change while a server runs: name -> value."""
    return {
        "data_dir": str(settings.data_dir),
        "journal_dir": str(settings.journal),
        "database_url": "of the embedded database" if settings.database_url is None else "of another server",
        "embedded_fsync": str(settings.embedded_fsync) if settings.database_url is None else "",
    }


def disagreement(promise: Promise, settings: Settings, cluster: str) -> str | None:
    """Why this program can't be replaced by the one of the promise; None where it can. `cluster`: the identifier of the database."""
    if promise.form != FORM:
        return f"release {promise.release} takes over servers of form {promise.form}, this one is of form {FORM}: restart it"
    if wire.VERSION not in promise.takes_wire:
        return (
            f"the recorder of release {promise.release} does not understand the workers that run (version {wire.VERSION} of what they "
            "say to it): restart the server"
        )
    for name, value in fixed(settings).items():
        if promise.fixed.get(name, value) != value:
            return f"{name} can't change while a server runs (it is {value}): restart it, or set it back"
    if promise.cluster and cluster and promise.cluster != cluster:
        return "database_url names another database than the one that this server records in: restart it, or set it back"
    return None


def become(handover: Callable[[], Handover]) -> None:
    """Replace this program by the new one, in this process. Returns only by an error, of `handover` or `OSError`; then nothing has
    changed.

    Signals are blocked first, and wait until the new program has its handlers; `handover` is called with signals blocked.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    wake = signal.set_wakeup_fd(-1)
    descriptors: list[int] = []
    try:
        handed = handover()
        held = os.memfd_create("handover", 0)
        descriptors = [held, *handed.descriptors()]
        os.write(held, msgspec.json.encode(handed))
        os.lseek(held, 0, os.SEEK_SET)
        for fd in descriptors:
            os.set_inheritable(fd, True)
        program = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, program, os.environ | {VARIABLE: str(held)})  # noqa: S606  (the same command line)
    finally:
        for fd in descriptors:
            os.set_inheritable(fd, False)
        for fd in descriptors[:1]:
            os.close(fd)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def taken_over() -> Handover | None:
    """The handover of the program before this one; None where this process began with this program."""
    named = os.environ.pop(VARIABLE, None)
    if named is None:
        return None
    with os.fdopen(int(named), "rb") as file:
        handover = msgspec.json.decode(file.read(), type=Handover)
    for fd in handover.descriptors():
        os.set_inheritable(fd, False)
    return handover


__all__ = ["FORM", "Handover", "Promise", "become", "disagreement", "fixed", "taken_over"]
