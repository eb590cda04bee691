"""The manifest of a backup: what belongs to the backup, with sums. A backup without a manifest is unfinished."""

import json
from typing import Final, Literal, NotRequired, TypedDict

from tokenworks.app.database.places import Damaged, Place, sha256
from tokenworks.kernel import Invalid

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


class BackupFile(TypedDict):
    """An object of a backup. `bytes` counts its content (0: not counted); `sha256` is of the object as it is kept."""

    name: str
    bytes: int
    sha256: str


class BackupJournal(TypedDict):
    """The journal of a backup: the sequences of its first and last frame, and up to which the database had settled."""

    journal_id: str
    first: int
    last: int
    settled_seq: int


class Manifest(TypedDict):
    """What `manifest.json` says of a backup. A `kind` of `host` has no database. Times are ISO 8601, in UTC."""

    format: int
    backup_id: str
    source: str
    kind: Literal["database", "host"]
    host: str
    release: str
    schema: str | None
    begun_at: str
    files: list[BackupFile]
    ended_at: NotRequired[str]
    system_identifier: NotRequired[str]
    timeline: NotRequired[int]
    start_lsn: NotRequired[str]
    end_lsn: NotRequired[str]
    start_wal: NotRequired[str]
    end_wal: NotRequired[str]
    journal: NotRequired[BackupJournal]
    erased: NotRequired[int]
    secrets: NotRequired[list[str]]


def read_manifest(place: Place, where: str) -> Manifest:
    """Raises `Damaged`, `Invalid`."""
    try:
        whole = json.loads(place.get(where))
        manifest: Manifest = whole["manifest"]
        right = whole["sha256"] == sha256(json.dumps(manifest, sort_keys=True).encode())
    except (ValueError, KeyError, TypeError):
        right = False
    if not right:
        raise Damaged(f"{place.where}/{where} is damaged")
    if manifest["format"] != FORMAT:
        raise Invalid(
            f"{place.where}/{where} is of another release: format {manifest['format']}, and this one reads {FORMAT}"
        )
    return manifest
