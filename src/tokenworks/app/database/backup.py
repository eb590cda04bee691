"""A backup of a host: the embedded database, its journal, and (apart) its secrets; and which backups there are.

In a place (`places.py`):

    base/<source>/<backup>/begun.json           when the backup was begun
    base/<source>/<backup>/base.000001.zst …    pieces of one tar of the cluster, as pg_basebackup makes it, with the log it needs
    base/<source>/<backup>/journal/…            the journal
    base/<source>/<backup>/erased.zst           the ids of the subscribers that were erased until then
    base/<source>/<backup>/manifest.json        all objects of the backup with their SHA-256; written last, so a backup without it is
                                                unfinished

Secrets go into a separate folder: a backup together with its secrets can be read in plain text.
"""

import contextlib
import json
import os
import re
import secrets
import select
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from psycopg import Connection

from tokenworks import __version__
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.archive import (
    JournalIndex,
    check_apart,
    journal_index,
    keep_journal,
    source_of,
    write_whole,
)
from tokenworks.app.database.connections import anchor_clock, connect, database, embedded_of
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.locks import lock_out_backups
from tokenworks.app.database.manifest import FORMAT, MANIFEST, Manifest, read_manifest
from tokenworks.app.database.places import (
    PIECE_BYTES,
    Damaged,
    Folder,
    Place,
    pack,
    prepare,
    put_json,
    sha256,
)
from tokenworks.app.database.schema import current_revision
from tokenworks.app.settings import Settings
from tokenworks.charging import Ledger, read_journal_id
from tokenworks.kernel import AnchoredClock, NotFound, SystemClock, Unavailable

LAST_FILE: Final = "backup.json"
# A pg_basebackup that is silent for this long has failed. At first it waits for a checkpoint.
SILENT_MAX_S: Final = 300.0
ENDS_MAX_S: Final = 60.0
SEGMENT_BYTES: Final = 16 * 1024 * 1024
_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_READ_BYTES: Final = 1024 * 1024
Progress = Callable[[str, int, int], None]
"""Called with (the name of the step, how much is done, of how much); 0 of how much: unknown."""


class LastBackup(TypedDict):
    """What a host remembers of its last backup."""

    backup_id: str
    to: str
    ended_at: str
    kind: str


class Backup(NamedTuple):
    """A backup in a place. `manifest` is None where the backup was cut off, or is being made."""

    source: str
    backup_id: str
    names: tuple[str, ...]
    manifest: Manifest | None
    fault: str = ""

    @property
    def ended_at(self) -> datetime:
        assert self.manifest is not None
        return datetime.fromisoformat(self.manifest["ended_at"])


def make_backup(settings: Settings, place: Place, secrets_to: Path | None, progress: Progress) -> Manifest:
    """Returns the manifest. Deletes first what an interrupted run left. Raises `InUse`, `PlaceAway`."""
    if secrets_to is not None:
        check_apart(place, secrets_to, "--secrets-to")
    check_apart(place, settings.secrets, "secrets_dir")
    with lock_out_backups(settings.data_dir):
        prepare(place)
        with database(settings) as url, contextlib.closing(connect(url)) as connection:
            clock = AnchoredClock(SystemClock(settings.clock_shift_s))
            anchor_clock(clock, connection)
            writer = _BackupWriter(settings, place, connection, clock, progress)
            if settings.database_url is None:
                writer.base(embedded_of(settings))
            writer.journal()
            writer.erased()
            if secrets_to is not None:
                writer.secrets(secrets_to)
            manifest = writer.finish()
    last: LastBackup = {
        "backup_id": manifest["backup_id"],
        "to": place.where,
        "ended_at": manifest["ended_at"],
        "kind": manifest["kind"],
    }
    write_whole(settings.data_dir / LAST_FILE, json.dumps(last))
    return manifest


class _BackupWriter:
    """Writes one backup, part by part; `finish` writes its manifest."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        connection: Connection,
        clock: AnchoredClock,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._place = place
        self._connection = connection
        self._clock = clock
        self._progress = progress
        begun_at = _database_time(connection)
        backup_id = f"{begun_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        journal_id = read_journal_id(settings.journal)
        embedded = settings.database_url is None
        if embedded:
            self._source = source_of(settings.data_dir, embedded_of(settings).system_identifier())
        else:
            self._source = f"host-{journal_id or socket.gethostname()}"
        for old in find_backups(place):
            if old.source == self._source and old.manifest is None and not old.fault:
                delete_backup(place, old)
        self._prefix = f"base/{self._source}/{backup_id}"
        self._manifest: Manifest = {
            "format": FORMAT,
            "backup_id": backup_id,
            "source": self._source,
            "kind": "database" if embedded else "host",
            "host": socket.gethostname(),
            "release": __version__,
            "schema": current_revision(connection),
            "begun_at": begun_at.isoformat(),
            "files": [],
        }
        put_json(place, f"{self._prefix}/begun.json", {"begun_at": begun_at.isoformat()}, new=True)

    def base(self, embedded: Embedded) -> None:
        """Copy the cluster. The connection is the superuser's, since replication needs that role."""
        with contextlib.closing(connect(embedded.owner_url)) as owner:
            # The slot keeps the log that the copy needs until this connection ends, however long the copy takes.
            slot = f"tokenworks_backup_{os.getpid()}"
            owner.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", (slot,))
            row = owner.execute("SELECT sum(pg_database_size(oid)) FROM pg_database").fetchone()
            total = int(row[0]) if row else 0
            output = self._copy(embedded, total)
        points = {
            which: re.search(rf"log {which} point: ([0-9A-F]+)/([0-9A-F]+)(?: on timeline (\d+))?", output)
            for which in ("start", "end")
        }
        start, end = points["start"], points["end"]
        if start is None or end is None:
            raise Unavailable("pg_basebackup does not say which part of the log its copy needs")
        timeline = int(start[3])
        self._manifest["system_identifier"] = embedded.system_identifier()
        self._manifest["timeline"] = timeline
        self._manifest["start_lsn"] = f"{start[1]}/{start[2]}"
        self._manifest["end_lsn"] = f"{end[1]}/{end[2]}"
        self._manifest["start_wal"] = wal_name(timeline, start[1], start[2])
        self._manifest["end_wal"] = wal_name(timeline, end[1], end[2])

    def _copy(self, embedded: Embedded, total: int) -> str:
        """Store the pieces of the tar. Returns the messages of pg_basebackup."""
        command = [
            embedded.program("pg_basebackup"), "-h", str(embedded.socket_dir), "-U", "tokenworks", "-D", "-", "-F", "tar",
            "-X", "fetch", "-c", "fast", "-v", "-w",
        ]  # fmt: skip
        with tempfile.TemporaryFile() as log:
            process = embedded.popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            )  # fmt: skip
            try:
                assert process.stdout is not None
                done = 0
                self._progress("Copying the database", 0, total)
                for number, piece in enumerate(_pieces(process.stdout.fileno()), 1):
                    self._keep(f"base.{number:06d}.zst", piece)
                    done += len(piece)
                    self._progress("Copying the database", done, max(total, done))
                code = process.wait(ENDS_MAX_S)
            except subprocess.TimeoutExpired:
                raise Unavailable("pg_basebackup does not end") from None
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
            log.seek(0)
            output = log.read().decode("utf-8", "replace")
        if code:
            last = output.strip().splitlines()[-1:] or [f"exit code {code}"]
            raise Unavailable(f"the copy of the database failed: {last[0]}")
        return output

    def _keep(self, name: str, content: bytes) -> None:
        packed = pack(content)
        self._place.put(f"{self._prefix}/{name}", packed, new=True)
        self._manifest["files"].append({"name": name, "bytes": len(content), "sha256": sha256(packed)})

    def journal(self) -> None:
        """Copy the journal after the database, so that every record that the database copy has settled is in it."""
        self._progress("Copying the journal", 0, 0)
        under = f"{self._prefix}/journal"
        index = keep_journal(self._place, "of", self._settings.journal, under)
        if index is None:
            return
        settled = Ledger(self._connection, self._clock).settled_seq(read_journal_id(self._settings.journal))  # type: ignore[arg-type]
        for name in (
            *(s["name"] for s in index["segments"].values()),
            f"{under}/of/{index['journal_id']}/journal.json",
        ):
            content = self._place.get(name)
            short = name.removeprefix(f"{self._prefix}/")
            self._manifest["files"].append({"name": short, "bytes": 0, "sha256": sha256(content)})
        self._manifest["journal"] = {
            "journal_id": index["journal_id"],
            "first": min((s["first"] for s in index["segments"].values()), default=0),
            "last": max((s["last"] for s in index["segments"].values()), default=0),
            "settled_seq": settled or 0,
        }

    def erased(self) -> None:
        services = make_works(self._settings, self._connection, self._clock)
        ids = [str(subscriber_id) for subscriber_id in services.privacy.erased()]
        self._keep("erased.zst", "".join(f"{id_}\n" for id_ in ids).encode())
        self._manifest["erased"] = len(ids)

    def secrets(self, to: Path) -> None:
        """Copy the files of `secrets_dir`, readable by their owner alone."""
        self._progress("Copying the secrets", 0, 0)
        folder = Folder(to)
        folder.make()
        backup_id, files = self._manifest["backup_id"], {}
        for path in sorted(self._settings.secrets.iterdir()):
            if path.is_file():
                content = path.read_bytes()
                folder.put(f"{backup_id}/{path.name}", content)
                files[path.name] = sha256(content)
        put_json(folder, f"{backup_id}/{MANIFEST}", {"files": files})
        for part in (folder.root, folder.root / backup_id):
            part.chmod(0o700)
        self._manifest["secrets"] = sorted(files)

    def finish(self) -> Manifest:
        """Write the manifest: from now on the backup exists."""
        self._manifest["ended_at"] = _database_time(self._connection).isoformat()
        text = json.dumps(self._manifest, sort_keys=True)
        whole = {"manifest": self._manifest, "sha256": sha256(text.encode())}
        put_json(self._place, f"{self._prefix}/{MANIFEST}", whole, new=True)
        return self._manifest


def _pieces(file: int) -> Iterator[bytes]:
    """The content of a pipe in pieces of `PIECE_BYTES`. Raises `Unavailable` where nothing arrives for `SILENT_MAX_S`."""
    piece = bytearray()
    while True:
        ready, _, _ = select.select([file], [], [], SILENT_MAX_S)
        if not ready:
            raise Unavailable(f"pg_basebackup sent nothing for {SILENT_MAX_S:g} s")
        read = os.read(file, min(_READ_BYTES, PIECE_BYTES - len(piece)))
        piece += read
        if len(piece) == PIECE_BYTES or (not read and piece):
            yield bytes(piece)
            piece.clear()
        if not read:
            return


def _database_time(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    at: datetime = row[0]
    return at.astimezone(UTC)


def wal_name(timeline: int, high: str, low: str) -> str:
    """The name of the log file that contains a position."""
    return f"{timeline:08X}{int(high, 16):08X}{int(low, 16) // SEGMENT_BYTES:08X}"


def find_backups(place: Place) -> list[Backup]:
    """All backups of a place, oldest first, unfinished ones too. A backup whose manifest is damaged has a `fault`."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in place.names("base/"):
        parts = name.split("/")
        if len(parts) >= 4 and _ID.fullmatch(parts[2]):
            found.setdefault((parts[1], parts[2]), []).append(name)
    backups = []
    for (source, backup_id), names in found.items():
        manifest, fault = None, ""
        where = f"base/{source}/{backup_id}/{MANIFEST}"
        if where in names:
            try:
                manifest = read_manifest(place, where)
            except Damaged as error:
                fault = str(error)
            except NotFound:
                fault = f"{place.where}/{where} was deleted meanwhile"
        backups.append(Backup(source, backup_id, tuple(names), manifest, fault))
    return sorted(backups, key=lambda backup: (backup.backup_id, backup.source))


def delete_backup(place: Place, backup: Backup) -> None:
    """Delete the manifest first: a backup of which only a part is left is unfinished, and not taken for whole."""
    for name in sorted(backup.names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        place.delete(name)


class PruneResult(NamedTuple):
    """What `prune` deleted: ids of backups and of unfinished backups, numbers of log files and of journal segments. `overdue`: ids of
    backups that are as old and stay, since their source has no newer one.
    """

    backups: list[str]
    unfinished: list[str]
    wal_files: int
    segments: int
    overdue: list[str]


def prune(place: Place, days: int, now: datetime, *, dry_run: bool = False) -> PruneResult:
    """Delete backups that ended more than `days` ago, except the newest whole one of each source, and the log files and journal segments
    that no remaining backup needs. A backup without a manifest that was begun within a day may still be running, and stays.
    """
    backups, before = find_backups(place), now - timedelta(days=days)
    whole = [backup for backup in backups if backup.manifest is not None]
    newest = {backup.source: backup for backup in whole}
    old = [b for b in whole if b.ended_at < before and newest[b.source] is not b]
    kept = [b for b in whole if b not in old]
    unfinished = [
        b
        for b in backups
        if b.manifest is None and not b.fault and _begun(b.backup_id) < now - timedelta(days=1)
    ]
    wal_files = _needless_log(place, kept)
    segments = _needless_segments(place, kept)
    if not dry_run:
        for backup in (*old, *unfinished):
            delete_backup(place, backup)
        for name in wal_files:
            place.delete(name)
        for where, index, names in segments:
            put_json(place, where, index)
            for name in names:
                place.delete(name)
    count = sum(len(names) for _, _, names in segments)
    overdue = [b.backup_id for b in kept if b.ended_at < before]
    return PruneResult(
        [b.backup_id for b in old], [b.backup_id for b in unfinished], len(wal_files), count, overdue
    )


def _begun(backup_id: str) -> datetime:
    return datetime.strptime(backup_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _needless_log(place: Place, kept: list[Backup]) -> list[str]:
    """Log files from before the oldest remaining backup of their source. A source without a backup keeps all its files: its first
    backup may still be running.
    """
    oldest: dict[str, str] = {}
    for backup in kept:
        assert backup.manifest is not None
        if backup.manifest["kind"] == "database":
            start = backup.manifest["start_wal"][8:]
            oldest[backup.source] = min(start, oldest.get(backup.source, start))
    found = []
    for name in place.names("wal/"):
        _, source, file = name.split("/")
        # Compared by position: the timeline, which comes first in the name, does not say how old a file is. History files are small and stay.
        if source in oldest and not file.endswith(".history.zst") and file[8:24] < oldest[source]:
            found.append(name)
    return found


def _needless_segments(place: Place, kept: list[Backup]) -> list[tuple[str, JournalIndex, list[str]]]:
    """(name of the index, its new content, names to delete) of journals: segments that were settled before the oldest backup that is kept."""
    settled: dict[tuple[str, str], int] = {}
    for backup in kept:
        journal = None if backup.manifest is None else backup.manifest.get("journal")
        if journal:
            key = (backup.source, journal["journal_id"])
            settled[key] = min(journal["settled_seq"], settled.get(key, journal["settled_seq"]))
    found = []
    for (source, journal_id), seq in settled.items():
        index = journal_index(place, source, journal_id)
        if index is None:
            continue
        names = {name: s for name, s in index["segments"].items() if s["last"] <= seq}
        # The newest segment stays, so that the end of the journal is known.
        newest = max(index["segments"], default="")
        names.pop(newest, None)
        if names:
            index["segments"] = {k: v for k, v in index["segments"].items() if k not in names}
            where = f"journal/{source}/{journal_id}/journal.json"
            found.append((where, index, [s["name"] for s in names.values()]))
    return found


def last_backup(data_dir: Path) -> LastBackup | None:
    """The last backup of this host; None where the host never made one."""
    try:
        last: LastBackup = json.loads((data_dir / LAST_FILE).read_text())
        return last
    except (OSError, ValueError):
        return None
