"""The archive: the write-ahead log of the embedded database and the journal, copied as they grow. Runs in the guardian, as its user.

In a place (`places.py`):

    wal/<source>/<file>.zst                              a file of the log, never overwritten
    journal/<source>/<journal>/<segment>.<bytes>.zst     a segment of the journal up to its last whole frame
    journal/<source>/<journal>/journal.json              which of them are the newest copy of each segment

A `source` is one lineage of one cluster: its system identifier and an id of our own, which `restore` changes. So a restored cluster,
restored for good or as a trial, writes its log apart from the log of the original.

The journal is copied before each file of the log: every record that the log has settled is in the journal's copy, so a restore never
finds a journal that is older than its database.
"""

import contextlib
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NotRequired, TypedDict
from uuid import UUID

from tokenworks.app.database.embedded import ARCHIVE_FILE, Embedded
from tokenworks.app.database.places import (
    Exists,
    Folder,
    Place,
    check_prepared,
    open_place,
    pack,
    prepare,
    put_json,
    sha256,
    unpack,
)
from tokenworks.app.database.wal_handover import CONFIGURE
from tokenworks.app.settings import Settings
from tokenworks.charging import JournalCorrupt, copy_journal, read_journal_id
from tokenworks.kernel import NotFound, SystemClock, TokenworksError, Unavailable

LINEAGE_FILE: Final = "lineage"
JOURNAL_INDEX: Final = "journal.json"
# The settings that the guardian needs: any process that uses the database may start it, so it reads them from a file.
_SETTINGS: Final = ("archive_to", "archive_timeout_s", "s3_endpoint", "s3_region", "s3_path_style")


class SegmentCopy(TypedDict):
    """The newest copy of a segment of the journal: `name` is the object's, `first` and `last` are sequences of frames, `bytes` counts
    the content and `sha256` is of the packed object.
    """

    name: str
    first: int
    last: int
    bytes: int
    sha256: str


class JournalIndex(TypedDict):
    """What `journal.json` says. `at`: when a segment was copied last."""

    journal_id: str
    segments: dict[str, SegmentCopy]
    at: NotRequired[str]


def configure_archive(settings: Settings) -> None:
    """Tell the guardian to archive the log as the settings say, now or when it starts. Called by `serve` and `backup`; other commands
    do not change the archive.

    Raises `PlaceAway` where a new place can't be used. A place that was used before may be away.
    """
    if settings.database_url:
        return
    path = settings.data_dir / ARCHIVE_FILE
    if settings.archive_to:
        before: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(path.read_text())
        wanted: dict[str, object] = {name: getattr(settings, name) for name in _SETTINGS}
        wanted |= {"secrets_dir": str(settings.secrets), "journal_dir": str(settings.journal)}
        if before.get("archive_to") != settings.archive_to:
            place = open_place(settings.archive_to, settings)
            check_apart(place, settings.secrets, "secrets_dir")
            check_apart(place, settings.data_dir, "data_dir")
            prepare(place)
        if wanted == before:
            return
        write_whole(path, json.dumps(wanted))
    elif path.exists():
        path.unlink()
    else:
        return
    Embedded(settings.data_dir).handover.ask(CONFIGURE)


def check_apart(place: Place, folder: Path, what: str) -> None:
    """Raise `Unavailable` where the place and the folder are the same, or one is inside the other."""
    if isinstance(place, Folder):
        root, other = place.root.resolve(), folder.resolve()
        if root == other or root in other.parents or other in root.parents:
            raise Unavailable(f"{place.where} and {what} ({folder}) are not apart: name another place")


def write_whole(path: Path, text: str) -> None:
    """Replace a file as a whole; it is on disk when this returns."""
    half = path.with_name(f"{path.name}.new")
    file = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    half.rename(path)


def source_of(data_dir: Path, system_identifier: str) -> str:
    """The source of this cluster. The first call makes the id of its lineage."""
    path = data_dir / LINEAGE_FILE
    with contextlib.suppress(FileNotFoundError):
        return f"{system_identifier}-{path.read_text().strip()}"
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(f"{secrets.token_hex(4)}\n")
            out.flush()
            os.fsync(out.fileno())
    return f"{system_identifier}-{path.read_text().strip()}"


def archive_file(embedded: Embedded, name: str) -> None:
    """Archive the journal, and then a file of the log. Archiving the same file again does nothing. Raises `Exists` where the place has
    another file of this name.
    """
    try:
        written = json.loads((embedded.data_dir / ARCHIVE_FILE).read_text())
    except FileNotFoundError:
        return
    settings = Settings.model_validate(
        {name: written[name] for name in _SETTINGS}
        | {"data_dir": embedded.data_dir, "secrets_dir": written["secrets_dir"]}
    )
    place = open_place(settings.archive_to, settings)
    check_prepared(place)
    source = source_of(embedded.data_dir, embedded.system_identifier())
    try:
        keep_journal(place, source, Path(written["journal_dir"]))
    except JournalCorrupt as error:
        # A damaged journal does not keep the log from being archived. The recorder does not start on it.
        os.write(1, f"tokenworks: {error}\n".encode())
    content = (embedded.pgdata / "pg_wal" / name).read_bytes()
    keep_log(place, source, name, content)


def keep_log(place: Place, source: str, name: str, content: bytes) -> None:
    where = f"wal/{source}/{name}.zst"
    try:
        place.put(where, pack(content), new=True)
    except Exists:
        if unpack(f"{place.where}/{where}", place.get(where)) != content:
            raise Exists(
                f"{place.where}/{where} is there and is another file: another cluster writes there, or this one was restored "
                "by other means; nothing is overwritten. Name another archive_to and make a backup"
            ) from None


def keep_journal(place: Place, source: str, folder: Path, under: str = "journal") -> JournalIndex | None:
    """Copy the new parts of a journal. Returns its index; None where there is no journal."""
    journal_id = read_journal_id(folder)
    if journal_id is None:
        return None
    prefix = f"{under}/{source}/{journal_id}"
    index = journal_index(place, source, journal_id, under) or {"journal_id": str(journal_id), "segments": {}}
    known = index["segments"]
    superseded = []
    for segment in copy_journal(folder, journal_id):
        before = known.get(segment.name)
        if before is not None and before["last"] == segment.last:
            continue
        packed = pack(segment.content)
        where = f"{prefix}/{segment.name}.{len(segment.content)}.zst"
        place.put(where, packed)
        known[segment.name] = {
            "name": where, "first": segment.first, "last": segment.last, "bytes": len(segment.content), "sha256": sha256(packed),
        }  # fmt: skip
        superseded += [before["name"]] if before is not None else []
    index["at"] = datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC).isoformat(timespec="seconds")
    put_json(place, f"{prefix}/{JOURNAL_INDEX}", index)
    for where in superseded:
        place.delete(where)
    return index


def journal_index(
    place: Place, source: str, journal_id: UUID | str, under: str = "journal"
) -> JournalIndex | None:
    """The index of a journal in a place; None where the place has none. Raises `TokenworksError` where it is damaged."""
    where = f"{under}/{source}/{journal_id}/{JOURNAL_INDEX}"
    try:
        index: JournalIndex = json.loads(place.get(where))
        return index
    except NotFound:
        return None
    except ValueError:
        raise TokenworksError(f"{place.where}/{where} is damaged: it is no JSON") from None
