"""A journal as it is copied while a recorder writes it, put back, and put aside.

A copied segment ends with its last whole frame. What a commit writes at the very moment of the copy may be there in part; such a
frame is not acknowledged yet, so nobody relies on it.
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

# A copy that sees a later page of a commit before an earlier one looks like damage; the next look does not.
LOOKS: Final = 5
_LOOK_AGAIN_S: Final = 0.05


class SegmentCopy(NamedTuple):
    """`last`: the sequence of its last frame."""

    name: str
    first: int
    last: int
    content: bytes


def copy_journal(folder: Path, journal_id: UUID) -> Iterator[SegmentCopy]:
    """Its segments in order. One that is deleted meanwhile, being settled and old, is left out. Raises `JournalCorrupt`."""
    for path in sorted(folder.glob("*.seg")):
        for look in range(LOOKS):
            try:
                yield _copy(path, journal_id)
                break
            except FileNotFoundError:
                break
            except JournalCorrupt:
                if look == LOOKS - 1:
                    raise
                time.sleep(_LOOK_AGAIN_S)


def _copy(path: Path, journal_id: UUID) -> SegmentCopy:
    first, data = int(path.stem), path.read_bytes()
    end, last = HEADER.size, first - 1
    for frame in read_frames(data, path, journal_id, first):
        end += FRAME.size + len(frame.payload)
        last = frame.seq
    return SegmentCopy(path.name, first, last, data[:end])


def journal_end(folder: Path, journal_id: UUID) -> int:
    """The sequence of the last frame that is on disk, 0 where there is none. Raises `JournalCorrupt`."""
    newest = max(folder.glob("*.seg"), default=None)
    return 0 if newest is None else _copy(newest, journal_id).last


@contextlib.contextmanager
def journal_locked(folder: Path) -> Iterator[None]:
    """No recorder has the journal while this context lasts. Raises `JournalBusy`."""
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
    """Write a journal into a folder that has none; the id is written last, and a folder without one is no journal."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in [*segments, ("id", f"{journal_id}\n".encode())]:
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    sync_folder(folder)


def put_journal_aside(folder: Path, mark: str) -> Path | None:
    """Move all that a journal's folder has into one beside it, whose path is returned; None where there is nothing. The folder
    itself stays: it may be a disk of its own.
    """
    files = [path for path in folder.glob("*") if path.name != "lock" and not path.is_dir()]
    if not files:
        return None
    aside = folder / f"aside-{mark}"
    aside.mkdir(mode=0o700)
    # The id last: cut off here, the folder is a journal whose segments are missing, and none that begins anew among old ones.
    for path in sorted(files, key=lambda path: path.name == "id"):
        path.rename(aside / path.name)
    sync_folder(aside)
    sync_folder(folder)
    return aside
