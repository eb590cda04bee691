"""Clusters of tests lie in memory where there is room: a database is a thousand files, and a disk takes half a second for them."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
FREE_BYTES_MIN = 2 * 1024**3
_NAME = "tokenworks-test-"


def in_memory(data_dir):
    """The cluster of this data directory, which has none yet, will lie in memory. `Embedded.destroy` deletes it there, too."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < FREE_BYTES_MIN:
        return
    _sweep()
    home = tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=MEMORY)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    (data_dir / "pg.location").write_text(f"{home}\n")


def _sweep():
    """What tests that were killed left."""
    for home in MEMORY.glob(f"{_NAME}*"):
        pid = home.name.removeprefix(_NAME).split("-")[0]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(home)
