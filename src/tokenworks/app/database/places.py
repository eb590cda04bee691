"""Where backups are kept: a folder, or an S3 bucket (`s3.py`). Objects by name, each whole or not there.

An object has at most `PIECE_BYTES` before it is compressed, so that it fits memory and is sent, and tried again, in one piece.
A place is marked by `MARK` when it is first used; one whose mark is gone (a disk that is not mounted) takes nothing.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final, Protocol

from tokenworks.app.settings import Settings
from tokenworks.charging import sync_folder
from tokenworks.kernel import Invalid, NotFound, TokenworksError, Unavailable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 32 * 1024 * 1024
# Of what is read back: a piece that does not compress has a few bytes more.
OBJECT_BYTES_MAX: Final = PIECE_BYTES + 1024 * 1024
MARK: Final = "tokenworks-backups"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LEVEL: Final = 3


class PlaceAway(Unavailable):
    """A folder or bucket that does not answer, or not as it should; what was to be kept is where it was."""


class Exists(TokenworksError):
    """An object of this name is there, and none is written over it."""


class Damaged(TokenworksError):
    """An object is not what was written. The text names it."""


class Place(Protocol):
    """Every call is bounded in time and may raise `PlaceAway`. Names are relative, with `/` between their parts."""

    where: str
    """As the operator named it."""

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Keep an object, durable when this returns. `new`: raises `Exists` where there is one of this name."""

    def get(self, name: str) -> bytes:
        """Raises `NotFound`."""

    def names(self, prefix: str) -> list[str]:
        """The names that begin so, sorted."""

    def delete(self, name: str) -> None:
        """What is not there is deleted."""


class Folder:
    """Objects are files of mode 600 in folders of mode 700; one is written beside its name and renamed when it is on disk. The folder
    itself is made for its mark alone.
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
                # A link, unlike a rename, takes no name that is taken.
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
        # The deepest folder that all of them are in.
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
            # Folders that are empty now go, too.
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
        """The folder itself: when it is first used, and never after that, where it would be the place of a disk that is away."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _make(self, folder: Path) -> None:
        """What is inside of it. Raises `FileNotFoundError` where the folder itself is not there."""
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


def put_json(place: Place, name: str, value: Any, *, new: bool = False) -> None:
    place.put(name, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", new=new)


def pack(content: bytes) -> bytes:
    """Compressed, with a checksum of the content."""
    return zstd.compress(content, options={zstd.CompressionParameter.compression_level: _LEVEL, zstd.CompressionParameter.checksum_flag: 1})  # fmt: skip


def unpack(name: str, packed: bytes, bytes_max: int = PIECE_BYTES) -> bytes:
    """Raises `Damaged`, which names it."""
    try:
        made = zstd.ZstdDecompressor()
        content = made.decompress(packed, bytes_max + 1)
        whole = made.eof and not made.unused_data
    except zstd.ZstdError as error:
        raise Damaged(f"{name} is damaged: {error}") from None
    if not whole or len(content) > bytes_max:
        raise Damaged(f"{name} is damaged: it is cut, or goes on past its end")
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
