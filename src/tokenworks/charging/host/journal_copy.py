"""Copies a journal while a recorder writes it, puts a copy back, and moves a journal aside.

A copied segment ends with its last whole frame. Of a commit that is written at the moment of the copy, a part may be in the file; such
a frame is not acknowledged yet, so nothing depends on it.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from tokenworks.charging.errors import JournalBusy, JournalCorrupt
from tokenworks.charging.host.journal import FRAME, HEADER, read_frames, sync_folder

# A read that gets a later page of a commit before an earlier one looks like damage; the next read does not.
READS_MAX: Final = 5
_READ_AGAIN_S: Final = 0.05


class SegmentCopy(NamedTuple):
    """A segment's whole frames. `first` and `last`: the sequences of the first and the last one."""

    name: str
    first: int
    last: int
    content: bytes


def copy_journal(folder: Path, journal_id: UUID) -> Iterator[SegmentCopy]:
    """Yield copies of its segments in order. A segment that is deleted meanwhile, as it is settled, is left out. Raises
    `JournalCorrupt`.
    """
    for path in sorted(folder.glob("*.seg")):
        for read in range(READS_MAX):
            try:
                yield _copy(path, journal_id)
                break
            except FileNotFoundError:
                break
            except JournalCorrupt:
                if read == READS_MAX - 1:
                    raise
                time.sleep(_READ_AGAIN_S)


def _copy(path: Path, journal_id: UUID) -> SegmentCopy:
    first, data = int(path.stem), path.read_bytes()
    end, last = HEADER.size, first - 1
    for frame in read_frames(data, path, journal_id, first):
        end += FRAME.size + len(frame.payload)
        last = frame.seq
    return SegmentCopy(path.name, first, last, data[:end])


def journal_end(folder: Path, journal_id: UUID) -> int:
    """The sequence of the last frame that is on disk, 0 if there is none. Raises `JournalCorrupt`."""
    newest = max(folder.glob("*.seg"), default=None)
    return 0 if newest is None else _copy(newest, journal_id).last


@contextlib.contextmanager
def journal_locked(folder: Path) -> Iterator[None]:
    """Lock the journal in a folder during the block, so that no recorder opens it. Raises `JournalBusy` if one has it."""
    if not folder.exists():
        yield
        return
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalBusy(
                f"a recorder has the journal in {folder}: stop the server of this host"
            ) from None
        yield
    finally:
        os.close(lock)


def put_journal(folder: Path, journal_id: UUID, segments: list[tuple[str, bytes]]) -> None:
    """Write a journal into a folder that has none. The id is written last: without its file the folder is no journal."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in [*segments, ("id", f"{journal_id}\n".encode())]:
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    sync_folder(folder)


def put_journal_aside(folder: Path, mark: str) -> Path | None:
    """Move all files of a journal's folder into a new folder in it, and return that one's path; None if there are no files. The folder
    itself stays, as it may be a mount point.
    """
    files = [path for path in folder.glob("*") if path.name != "lock" and not path.is_dir()]
    if not files:
        return None
    aside = folder / f"aside-{mark}"
    aside.mkdir(mode=0o700)
    # The id is moved last. If this is interrupted, segments are missing, which is noticed; a new journal never begins among old segments.
    for path in sorted(files, key=lambda path: path.name == "id"):
        path.rename(aside / path.name)
    sync_folder(aside)
    sync_folder(folder)
    return aside
