"""Locks of a data directory: an operation that must not run beside a server, or beside a backup, holds one."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tokenworks.kernel import Conflict


class InUse(Conflict):
    """A server runs in this data directory, or a backup or a restore is made: stop it, or wait for its end."""


@contextlib.contextmanager
def _lock(path: Path, why: str) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(why) from None
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def lock_out_server(data_dir: Path) -> Iterator[None]:
    """No process of a server can use the data directory while this context lasts. Raises `InUse` where one does."""
    with _lock(data_dir / "serve.lock", f"a server runs in {data_dir}: stop it first"):
        yield


@contextlib.contextmanager
def lock_out_backups(data_dir: Path) -> Iterator[None]:
    """No other backup or restore of this host can run while this context lasts. Raises `InUse` where one does."""
    with _lock(data_dir / "backup.lock", "another backup or restore of this host runs: wait for its end"):
        yield
