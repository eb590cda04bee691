"""Locks of a data directory, for what is done while nobody else does: no server, no backup."""

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
def nobody_serves(data_dir: Path) -> Iterator[None]:
    """No process of a server has this data directory while this context lasts. Raises `InUse`."""
    with _lock(data_dir / "serve.lock", f"a server runs in {data_dir}: stop it first"):
        yield


@contextlib.contextmanager
def no_other_backup(data_dir: Path) -> Iterator[None]:
    """One backup or restore of a host at a time. Raises `InUse`."""
    with _lock(data_dir / "backup.lock", "another backup or restore of this host runs: wait for its end"):
        yield
