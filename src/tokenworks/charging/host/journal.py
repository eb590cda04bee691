"""The journal: append-only, pre-zeroed segments of frames, which are durable before they are acknowledged.

A segment starts with a header (magic, journal id, first sequence). A frame is length u32, sequence u64,
CRC-32C u32 (Castagnoli, as in RFC 3720 B.4) over sequence and payload, payload. Segments are opened with
O_DSYNC, so a write that returned is on disk, and are locked (`flock`) while they are open. Every recorder begins a new segment; it only
reads the earlier ones. The first frame of a segment is a checkpoint of all that is still open, so recovery reads the segments from the
settled sequence on, and none before.
"""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import google_crc32c

from tokenworks.charging.errors import JournalBusy, JournalCorrupt, JournalFailed
from tokenworks.kernel import uuid7

MAGIC: Final = b"TWJRNL01"
HEADER: Final = struct.Struct("<8s16sQ")
FRAME: Final = struct.Struct("<IQI")
SEGMENT_BYTES_DEFAULT: Final = 16 * 1024 * 1024
SEGMENT_BYTES_MIN: Final = 64 * 1024
_SEQ_AHEAD_MAX: Final = 1_000_000
_ZEROS: Final = bytes(1024 * 1024)


class Frame(NamedTuple):
    """One frame of a segment, its CRC checked."""

    seq: int
    payload: bytes


def crc(seq: int, payload: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(seq.to_bytes(8, "little")), payload))


def pack(seq: int, payload: bytes) -> bytes:
    return FRAME.pack(len(payload), seq, crc(seq, payload)) + payload


class Journal:
    """One host's journal, which one recorder at a time has locked. Raises `JournalBusy` if another one has.

    `zeroes_ahead`: a thread zeroes the next segment before it is needed. Tests switch that off, to be deterministic.
    """

    def __init__(
        self, folder: Path, segment_bytes: int = SEGMENT_BYTES_DEFAULT, *, zeroes_ahead: bool = True
    ) -> None:
        self.folder = folder
        self._zeroes_ahead = zeroes_ahead
        self.segment_bytes = max(segment_bytes, SEGMENT_BYTES_MIN)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise JournalBusy(f"another recorder has the journal in {folder}") from None
        self.journal_id = self._read_or_make_id()
        self.next_seq = 1
        self.failed = False
        self.commits = 0
        self.last_commit_s = 0.0
        self._file = -1
        self._at = 0
        self._segment_end = 0
        self._preparing = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def _read_or_make_id(self) -> UUID:
        path = self.folder / "id"
        with contextlib.suppress(FileNotFoundError):
            return UUID(path.read_text().strip())
        journal_id = uuid7()
        half = path.with_suffix(".new")
        with half.open("w") as out:
            out.write(f"{journal_id}\n")
            out.flush()
            os.fsync(out.fileno())
        half.rename(path)
        sync_folder(self.folder)
        return journal_id

    def segments(self) -> list[tuple[int, Path]]:
        """(first sequence, path) of each segment, in order."""
        return sorted((int(path.stem), path) for path in self.folder.glob("*.seg"))

    def replay(self, from_seq: int) -> Iterator[Frame]:
        """Yield the frames from the segment that contains `from_seq` on. Afterwards new frames continue from the last one.

        A frame that is cut off is the end of a segment. Raises `JournalCorrupt` for an invalid frame with valid ones after it, and where
        segments are missing between others.
        """
        segments = self.segments()
        if segments and from_seq < segments[0][0]:
            raise JournalCorrupt(
                f"the database has settled up to {from_seq - 1}, but the journal begins at {segments[0][0]}: "
                "older segments are needed. Restore them before this host serves"
            )
        start = max((at for at, (first, _) in enumerate(segments) if first <= from_seq), default=0)
        expected: int | None = None
        for first, path in segments[start:]:
            if expected is not None and first != expected:
                raise JournalCorrupt(
                    f"{path} begins at {first}, but the segment before it ends at {expected - 1}"
                )
            expected = first
            for frame in read_segment(path, self.journal_id, first):
                expected = frame.seq + 1
                yield frame
        self.next_seq = expected if expected is not None else 1

    def begin_segment(self, checkpoint: bytes, room_bytes: int = 0) -> None:
        """Begin a new file with the checkpoint as its first frame and room for `room_bytes` more, durable when this returns."""
        first = self.next_seq
        path = self.folder / f"{first:020d}.seg"
        frame = pack(first, checkpoint)
        size = max(self.segment_bytes, HEADER.size + len(frame) + room_bytes)
        half = path.with_suffix(".new")
        try:
            ready = self.folder / "next.zeroed"
            if size == self.segment_bytes and ready.exists() and ready.stat().st_size == size:
                ready.rename(half)
            else:
                self._make_zeroed(half, size)
            with half.open("r+b") as out:
                out.write(HEADER.pack(MAGIC, self.journal_id.bytes, first) + frame)
                out.flush()
                os.fsync(out.fileno())
            # A segment of the same name has only a checkpoint, and nothing after it was ever acknowledged.
            half.rename(path)
            sync_folder(self.folder)
            file = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.failed = True
            raise JournalFailed(f"{path} can't be made: {error}") from error
        if self._file >= 0:
            os.close(self._file)
        self._file, self._at, self._segment_end = file, HEADER.size + len(frame), size
        self.next_seq = first + 1
        self._preparing = False

    def append(self, payload: bytes) -> int:
        """Queue a frame for the next commit. Returns its sequence."""
        seq = self.next_seq
        self.next_seq = seq + 1
        data = pack(seq, payload)
        self._pending.append(data)
        self._pending_bytes += len(data)
        return seq

    def has_room(self, payload_bytes: int) -> bool:
        """True if one more frame fits this segment."""
        return self._at + self._pending_bytes + FRAME.size + payload_bytes <= self._segment_end

    @property
    def wants_next(self) -> bool:
        """True, once a segment, when it is time to zero the next segment in the background."""
        if not self._zeroes_ahead or self._preparing or self._at < self._segment_end // 2:
            return False
        self._preparing = True
        return True

    def prepare_next(self) -> None:
        """Zero the next segment's file before its use. Runs in a thread; a failure shows when the segment is begun."""
        with contextlib.suppress(OSError):
            self._make_zeroed(self.folder / "next.half", self.segment_bytes)
            (self.folder / "next.half").rename(self.folder / "next.zeroed")

    @staticmethod
    def _make_zeroed(path: Path, size: int) -> None:
        with path.open("wb") as out:
            for at in range(0, size, len(_ZEROS)):
                out.write(_ZEROS[: min(len(_ZEROS), size - at)])
            out.flush()
            os.fsync(out.fileno())

    def commit(self) -> None:
        """Write everything that is queued to disk. Raises `JournalFailed`, after which nothing is written any more."""
        if not self._pending:
            return
        if self.failed:
            raise JournalFailed("the journal failed before; it is not written again")
        data = b"".join(self._pending)
        began_s = time.monotonic()
        try:
            written = os.pwrite(self._file, data, self._at)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes written")
        except OSError as error:
            self.failed = True
            raise JournalFailed(f"a commit of the journal failed: {error}") from error
        self._at += len(data)
        self._pending.clear()
        self._pending_bytes = 0
        self.commits += 1
        self.last_commit_s = time.monotonic() - began_s

    def delete_settled(self, settled_seq: int, older_than_s: float, now_s: float) -> int:
        """Delete segments that are settled to their end and were last written so long ago. Return how many."""
        deleted = 0
        segments = self.segments()
        for (_, path), (next_first, _) in pairwise(segments):
            if next_first - 1 <= settled_seq and now_s - path.stat().st_mtime > older_than_s:
                path.unlink()
                deleted += 1
            else:
                break
        return deleted

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        os.close(self._lock)


def read_segment(path: Path, journal_id: UUID, first: int) -> Iterator[Frame]:
    """Yield the frames of one segment, up to its end or a frame that is cut off."""
    yield from read_frames(path.read_bytes(), path, journal_id, first)


def read_frames(data: bytes, path: Path, journal_id: UUID, first: int) -> Iterator[Frame]:
    """As `read_segment`, from the content of the file; `path` is for error messages. Raises `JournalCorrupt`."""
    if len(data) < HEADER.size:
        raise JournalCorrupt(f"{path} is shorter than its header")
    magic, id_bytes, header_first = HEADER.unpack_from(data)
    if magic != MAGIC or id_bytes != journal_id.bytes or header_first != first:
        raise JournalCorrupt(f"{path} is not a segment of journal {journal_id}, or its header is damaged")
    at, expected = HEADER.size, first
    end = len(data.rstrip(b"\0"))
    while True:
        frame = _frame_at(data, at, expected, expected)
        if frame is None:
            break
        yield frame
        at += FRAME.size + len(frame.payload)
        expected += 1
    # Behind an invalid frame there may be no valid one.
    for later in range(at + 1, end - FRAME.size + 1):
        found = _frame_at(data, later, expected, expected + _SEQ_AHEAD_MAX)
        if found is not None:
            raise JournalCorrupt(
                f"{path}: the frame at byte {at} is damaged, but {found.seq} after it is whole"
            )


def _frame_at(data: bytes, at: int, seq_min: int, seq_max: int) -> Frame | None:
    if at + FRAME.size > len(data):
        return None
    length, seq, check = FRAME.unpack_from(data, at)
    if not length or not seq_min <= seq <= seq_max or length > len(data) - at - FRAME.size:
        return None
    payload = data[at + FRAME.size : at + FRAME.size + length]
    return Frame(seq, payload) if crc(seq, payload) == check else None


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
