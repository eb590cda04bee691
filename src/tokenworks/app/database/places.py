"""Places for backups: a folder, or an S3 bucket (`s3.py`). A place has objects by name; an object is there as a whole or not at all.

An object has at most `PIECE_BYTES` before it is compressed, so that it fits into memory and is sent, and sent again, in one piece.
The object `MARK` marks a place when it is first used; a place without its mark (a disk that is not mounted) accepts no archive.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Final, Protocol

from tokenworks.app.settings import Settings
from tokenworks.charging import sync_folder
from tokenworks.kernel import Invalid, NotFound, TokenworksError, Unavailable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 32 * 1024 * 1024
# Limit of an object that is read: a piece that does not compress is a few bytes larger than its content.
OBJECT_BYTES_MAX: Final = PIECE_BYTES + 1024 * 1024
MARK: Final = "tokenworks-backups"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LEVEL: Final = 3


class PlaceAway(Unavailable):
    """A folder or bucket does not answer, or answers with an error. Nothing was stored, and nothing was lost."""


class Exists(TokenworksError):
    """An object of this name is there, and none is written over it."""


class Damaged(TokenworksError):
    """An object is not what was written. The text names it."""


class Place(Protocol):
    """Every call is bounded in time and may raise `PlaceAway`. Names are relative, with `/` between their parts."""

    where: str
    """As the operator named it."""

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Store an object; it is durable when this returns. `new`: raise `Exists` where an object of this name is there."""

    def get(self, name: str) -> bytes:
        """Raises `NotFound`."""

    def names(self, prefix: str) -> list[str]:
        """The names with this prefix, sorted."""

    def delete(self, name: str) -> None:
        """Delete an object. Does nothing where it is not there."""


class Folder:
    """Objects are files of mode 600 in folders of mode 700. A file is written under another name and renamed when it is on disk. The
    folder itself is made only for its mark.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.where = str(self.root)

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        path = self._path(name)
        half = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            if name == MARK:
                self.make()
            self._make(path.parent)
            file = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            if new:
                # Unlike a rename, a link fails where the name is taken.
                try:
                    os.link(half, path)
                except FileExistsError:
                    raise Exists(f"{path} is there already") from None
                finally:
                    half.unlink()
            else:
                half.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise PlaceAway(f"{path} can't be written: {error.strerror or error}") from error

    def get(self, name: str) -> bytes:
        path = self._path(name)
        try:
            if path.stat().st_size > OBJECT_BYTES_MAX:
                raise Damaged(f"{path} is larger than any that was written")
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path} is not there") from None
        except OSError as error:
            raise PlaceAway(f"{path} can't be read: {error.strerror or error}") from error

    def names(self, prefix: str) -> list[str]:
        # The deepest folder that contains all of these names.
        top = self.root / prefix.rpartition("/")[0]
        try:
            self.root.stat()
            found = [
                str(Path(folder, file).relative_to(self.root))
                for folder, _, files in os.walk(top)
                for file in files
                if not file.startswith(".")
            ]
        except OSError as error:
            raise PlaceAway(f"{self.root} can't be read: {error.strerror or error}") from error
        return sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
            # Delete the folders that are empty now.
            for folder in path.parents:
                if folder == self.root:
                    break
                folder.rmdir()
        except OSError as error:
            if path.exists():
                raise PlaceAway(f"{path} can't be deleted: {error.strerror or error}") from error

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self.root / name

    def make(self) -> None:
        """Make the folder itself. Called when the place is first used: later a missing folder means that a disk is not mounted."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _make(self, folder: Path) -> None:
        """Make folders inside the place. Raises `FileNotFoundError` where the place's own folder is missing."""
        made = self.root
        for part in folder.relative_to(self.root).parts:
            made = made / part
            if not made.is_dir():
                made.mkdir(mode=0o700, exist_ok=True)
                sync_folder(made.parent)


def place_of(settings: Settings, named: str | None) -> Place:
    """The place that is named, else `archive_to`. Raises `Invalid` where there is neither."""
    where = named or settings.archive_to
    if not where:
        raise Invalid("name a place: a folder or s3://bucket/prefix, or set archive_to")
    return open_place(where, settings)


def open_place(where: str, settings: Settings) -> Place:
    """The place that a setting or an option names. Raises `Invalid`."""
    if where.startswith("s3://"):
        from tokenworks.app.database.s3 import open_bucket  # noqa: PLC0415  (a folder needs no client)

        return open_bucket(
            where,
            settings.s3_endpoint,
            settings.s3_region,
            settings.secrets,
            path_style=settings.s3_path_style,
        )
    if "://" in where:
        raise Invalid(
            f"{where.partition('://')[0]}:// is no place for backups: name a folder, or s3://bucket/prefix"
        )
    return Folder(Path(where))


def prepare(place: Place) -> None:
    """Mark a place that is used for the first time."""
    with contextlib.suppress(Exists):
        put_json(place, MARK, {"format": 1}, new=True)


def check_prepared(place: Place) -> None:
    """Raise `PlaceAway` where the mark is gone."""
    try:
        place.get(MARK)
    except NotFound:
        raise PlaceAway(
            f"{place.where} has no backups, and had some (no file {MARK}): is its disk mounted?"
        ) from None


def put_json(place: Place, name: str, value: object, *, new: bool = False) -> None:
    """Keep a value as JSON, its names sorted."""
    place.put(name, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", new=new)


def pack(content: bytes) -> bytes:
    """Compress the content, with its checksum."""
    return zstd.compress(content, options={zstd.CompressionParameter.compression_level: _LEVEL, zstd.CompressionParameter.checksum_flag: 1})  # fmt: skip


def unpack(name: str, packed: bytes, bytes_max: int = PIECE_BYTES) -> bytes:
    """The content of a packed object. Raises `Damaged` with the name."""
    try:
        decompressor = zstd.ZstdDecompressor()
        content = decompressor.decompress(packed, bytes_max + 1)
        whole = decompressor.eof and not decompressor.unused_data
    except zstd.ZstdError as error:
        raise Damaged(f"{name} is damaged: {error}") from None
    if not whole or len(content) > bytes_max:
        raise Damaged(f"{name} is damaged: it is cut, or goes on past its end")
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
