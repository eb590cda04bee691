"""Reads a backup. Every object is compared with the sums of the manifest before a byte of it is used."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from tokenworks.app.database.archive import SegmentCopy, journal_index
from tokenworks.app.database.backup import Backup, Progress
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.places import Damaged, Place, sha256, unpack

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class JournalCopy(NamedTuple):
    """The journal of a backup: its segments by name, and the sequence of its last frame."""

    journal_id: UUID
    segments: list[tuple[str, bytes]]
    last: int


class BackupReader:
    """The files of one backup, and the journal copies of the backup and of the archive."""

    def __init__(self, place: Place, backup: Backup, progress: Progress) -> None:
        assert backup.manifest is not None
        self._place = place
        self._source = backup.source
        self._manifest = backup.manifest
        self._progress = progress
        self._prefix = f"base/{backup.source}/{backup.backup_id}"
        self._hashes = {file["name"]: file["sha256"] for file in self._manifest["files"]}

    def check_others(self) -> None:
        """Check all objects except the pieces of the database, which `unpack` checks. Raises `Damaged`."""
        for name in self._hashes:
            if not name.startswith("base."):
                self._get(name)

    def _get(self, name: str) -> bytes:
        content = self._place.get(f"{self._prefix}/{name}")
        if sha256(content) != self._hashes[name]:
            raise Damaged(
                f"{self._place.where}/{self._prefix}/{name} is damaged: its SHA-256 is not the manifest's"
            )
        return content

    def unpack(self, embedded: Embedded) -> None:
        """Make the cluster of the backup. Raises `Damaged`."""
        names = [name for name in self._hashes if name.startswith("base.")]
        pieces = _PieceStream(self._pieces(names))
        embedded.pgdata.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        embedded.socket_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = embedded.pgdata.with_name("pgdata.new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        with tarfile.open(fileobj=io.BufferedReader(pieces, 1024 * 1024), mode="r|") as tar:
            tar.extractall(half, filter="data")
        # Pieces after the end of the tar are read, too, so that their sums are checked.
        while pieces.read(1024 * 1024):
            pass
        (half / "recovery.signal").write_text("")
        for path in (embedded.pgdata.parent, embedded.socket_dir):
            embedded.give(path, 0o700)
        for folder, folders, files in os.walk(half):
            for name in folders:
                embedded.give(Path(folder, name), 0o700)
            for name in files:
                embedded.give(Path(folder, name), 0o600)
        embedded.give(half, 0o700)
        # PostgreSQL syncs the files to disk before it replays the log.
        half.rename(embedded.pgdata)

    def _pieces(self, names: list[str]) -> Iterator[bytes]:
        """The pieces of the tar, each unpacked."""
        for number, name in enumerate(names, 1):
            content = unpack(name, self._get(name))
            self._progress("Reading the database", number, len(names))
            yield content

    def read_journal(self) -> JournalCopy | None:
        """The newest copy of each segment that the backup or the archive has; None where the backup has no journal. All segments are
        read before the restore changes anything.
        """
        journal = self._manifest.get("journal")
        if not journal:
            return None
        journal_id = journal["journal_id"]
        index = json.loads(self._get(f"journal/of/{journal_id}/journal.json"))
        newest: dict[str, SegmentCopy] = dict(index["segments"])
        kept = journal_index(self._place, self._source, journal_id)
        for name, segment in ({} if kept is None else kept["segments"]).items():
            if name not in newest or segment["last"] > newest[name]["last"]:
                newest[name] = segment
        segments = []
        for number, (name, segment) in enumerate(sorted(newest.items()), 1):
            self._progress("Reading the journal", number, len(newest))
            packed = self._place.get(segment["name"])
            where = f"{self._place.where}/{segment['name']}"
            if sha256(packed) != segment["sha256"]:
                raise Damaged(f"{where} is damaged: its SHA-256 is not that of its index")
            segments.append((name, unpack(where, packed, max(segment["bytes"], 1))))
        last = max((segment["last"] for segment in newest.values()), default=0)
        return JournalCopy(UUID(journal_id), segments, last)

    def erased_ids(self) -> list[str]:
        """The ids of subscribers that were erased before this backup."""
        return (
            unpack(f"{self._place.where}/{self._prefix}/erased.zst", self._get("erased.zst")).decode().split()
        )


class _PieceStream(io.RawIOBase):
    """The tar as one stream, from its pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
