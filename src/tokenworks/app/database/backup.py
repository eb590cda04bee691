"""A backup of a host: the embedded database, its journal, and (apart) its secrets; and which backups there are.

In a place (`places.py`):

    base/<source>/<backup>/begun.json           what is begun
    base/<source>/<backup>/base.000001.zst …    pieces of one tar of the cluster, as pg_basebackup makes it, with the log it needs
    base/<source>/<backup>/journal/…            the journal
    base/<source>/<backup>/erased.json          who was erased until then, ids alone
    base/<source>/<backup>/manifest.json        what belongs to it, with the SHA-256 of each; last, so that without it there is none

Secrets go into a folder of their own: who has both can read everybody.
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
from typing import Any, Final, NamedTuple

from psycopg import Connection

from tokenworks import __version__
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.alone import no_other_backup
from tokenworks.app.database.archive import check_apart, journal_index, keep_journal, source_of, write_whole
from tokenworks.app.database.connections import anchor, connect, database, embedded_of
from tokenworks.app.database.embedded import Embedded
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
from tokenworks.app.database.schema import current
from tokenworks.app.settings import Settings
from tokenworks.charging import Ledger, read_journal_id
from tokenworks.kernel import AnchoredClock, Invalid, NotFound, SystemClock, Unavailable

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
LAST_FILE: Final = "backup.json"
# pg_basebackup that says nothing for so long has failed: it waits for a checkpoint at first.
SILENT_MAX_S: Final = 300.0
ENDS_MAX_S: Final = 60.0
SEGMENT_BYTES: Final = 16 * 1024 * 1024
_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_READ_BYTES: Final = 1024 * 1024
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much (0: nobody knows)."""


class Backup(NamedTuple):
    """One in a place. `manifest` is None where it was cut off, or is being made."""

    source: str
    backup_id: str
    names: tuple[str, ...]
    manifest: dict[str, Any] | None
    fault: str = ""

    @property
    def ended_at(self) -> datetime:
        assert self.manifest is not None
        return datetime.fromisoformat(self.manifest["ended_at"])


def make_backup(
    settings: Settings, place: Place, secrets_to: Path | None, progress: Progress
) -> dict[str, Any]:
    """Returns the manifest. What an earlier run left that was cut off is deleted first. Raises `InUse`, `PlaceAway`."""
    if secrets_to is not None:
        check_apart(place, secrets_to, "--secrets-to")
    check_apart(place, settings.secrets, "secrets_dir")
    with no_other_backup(settings.data_dir):
        prepare(place)
        with database(settings) as url, contextlib.closing(connect(url)) as connection:
            clock = AnchoredClock(SystemClock(settings.clock_shift_s))
            anchor(clock, connection)
            made = _Making(settings, place, connection, clock, progress)
            if settings.database_url is None:
                made.base(embedded_of(settings))
            made.journal()
            made.erased()
            if secrets_to is not None:
                made.secrets(secrets_to)
            manifest = made.finish()
    last = {
        "backup_id": manifest["backup_id"],
        "to": place.where,
        "ended_at": manifest["ended_at"],
        "kind": manifest["kind"],
    }
    write_whole(settings.data_dir / LAST_FILE, json.dumps(last))
    return manifest


class _Making:
    """A backup that is being made."""

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
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "backup_id": backup_id,
            "source": self._source,
            "kind": "database" if embedded else "host",
            "host": socket.gethostname(),
            "release": __version__,
            "schema": current(connection),
            "begun_at": begun_at.isoformat(),
            "files": [],
        }
        put_json(place, f"{self._prefix}/begun.json", {"begun_at": begun_at.isoformat()}, new=True)

    def base(self, embedded: Embedded) -> None:
        """As the cluster's superuser, whom replication needs."""
        with contextlib.closing(connect(embedded.owner_url)) as owner:
            # The log that the copy needs stays until this connection ends, however long it takes.
            slot = f"tokenworks_backup_{os.getpid()}"
            owner.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", (slot,))
            row = owner.execute("SELECT sum(pg_database_size(oid)) FROM pg_database").fetchone()
            total = int(row[0]) if row else 0
            said = self._copy(embedded, total)
        found = {
            which: re.search(rf"log {which} point: ([0-9A-F]+)/([0-9A-F]+)(?: on timeline (\d+))?", said)
            for which in ("start", "end")
        }
        start, end = found["start"], found["end"]
        if start is None or end is None:
            raise Unavailable("pg_basebackup does not say which part of the log its copy needs")
        timeline = int(start[3])
        self._manifest |= {
            "system_identifier": embedded.system_identifier(),
            "timeline": timeline,
            "start_lsn": f"{start[1]}/{start[2]}",
            "end_lsn": f"{end[1]}/{end[2]}",
            "start_wal": wal_name(timeline, start[1], start[2]),
            "end_wal": wal_name(timeline, end[1], end[2]),
        }

    def _copy(self, embedded: Embedded, total: int) -> str:
        """The pieces of the tar. Returns what pg_basebackup said."""
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
            said = log.read().decode("utf-8", "replace")
        if code:
            last = said.strip().splitlines()[-1:] or [f"exit code {code}"]
            raise Unavailable(f"the copy of the database failed: {last[0]}")
        return said

    def _keep(self, name: str, content: bytes) -> None:
        packed = pack(content)
        self._place.put(f"{self._prefix}/{name}", packed, new=True)
        self._manifest["files"].append({"name": name, "bytes": len(content), "sha256": sha256(packed)})

    def journal(self) -> None:
        """After the database: what the copy has settled is in it."""
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
        ids = [str(one) for one in services.privacy.erased()]
        self._keep("erased.zst", "".join(f"{one}\n" for one in ids).encode())
        self._manifest["erased"] = len(ids)

    def secrets(self, to: Path) -> None:
        """Files of `secrets_dir`, readable by their owner alone."""
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

    def finish(self) -> dict[str, Any]:
        self._manifest["ended_at"] = _database_time(self._connection).isoformat()
        text = json.dumps(self._manifest, sort_keys=True)
        whole = {"manifest": self._manifest, "sha256": sha256(text.encode())}
        put_json(self._place, f"{self._prefix}/{MANIFEST}", whole, new=True)
        return self._manifest


def _pieces(file: int) -> Iterator[bytes]:
    """What a pipe has, in pieces of `PIECE_BYTES`. Raises `Unavailable` where nothing comes for `SILENT_MAX_S`."""
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
    """The file of the log that has a position."""
    return f"{timeline:08X}{int(high, 16):08X}{int(low, 16) // SEGMENT_BYTES:08X}"


def find_backups(place: Place) -> list[Backup]:
    """All of a place, oldest first; those that were cut off, too. One whose manifest is damaged has a `fault`."""
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


def read_manifest(place: Place, where: str) -> dict[str, Any]:
    """Raises `Damaged`, `Invalid`."""
    try:
        whole = json.loads(place.get(where))
        manifest: dict[str, Any] = whole["manifest"]
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


def delete_backup(place: Place, backup: Backup) -> None:
    """The manifest first: what is left is none."""
    for name in sorted(backup.names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        place.delete(name)


class Pruned(NamedTuple):
    """What `prune` deleted: backups and unfinished ones by id, files of the log, segments of journals. `overdue`: what is as old and
    stays, since there is no newer one of its source.
    """

    backups: list[str]
    unfinished: list[str]
    wal_files: int
    segments: int
    overdue: list[str]


def prune(place: Place, days: int, now: datetime, *, dry_run: bool = False) -> Pruned:
    """Delete backups that ended more than `days` ago, but for the newest whole one of each source, and what of the log and of
    journals no backup that is left needs. One that was begun within a day and has no manifest may be being made.
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
    return Pruned(
        [b.backup_id for b in old], [b.backup_id for b in unfinished], len(wal_files), count, overdue
    )


def _begun(backup_id: str) -> datetime:
    return datetime.strptime(backup_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _needless_log(place: Place, kept: list[Backup]) -> list[str]:
    """Files of the log before the oldest backup that is kept of their source. A source without one keeps all: its first backup
    may be being made.
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
        # By position; a file's timeline, which comes before it, says nothing of its age. Histories are small and stay.
        if source in oldest and not file.endswith(".history.zst") and file[8:24] < oldest[source]:
            found.append(name)
    return found


def _needless_segments(place: Place, kept: list[Backup]) -> list[tuple[str, dict[str, Any], list[str]]]:
    """(index, its new content, names to delete) of journals: segments that were settled before the oldest backup that is kept."""
    settled: dict[tuple[str, str], int] = {}
    for backup in kept:
        journal = (backup.manifest or {}).get("journal")
        if journal:
            key = (backup.source, journal["journal_id"])
            settled[key] = min(journal["settled_seq"], settled.get(key, journal["settled_seq"]))
    found = []
    for (source, journal_id), seq in settled.items():
        index = journal_index(place, source, journal_id)
        if index is None:
            continue
        names = {name: s for name, s in index["segments"].items() if s["last"] <= seq}
        # The newest stays, so that the journal's end is known.
        newest = max(index["segments"], default="")
        names.pop(newest, None)
        if names:
            index["segments"] = {k: v for k, v in index["segments"].items() if k not in names}
            where = f"journal/{source}/{journal_id}/journal.json"
            found.append((where, index, [s["name"] for s in names.values()]))
    return found


def last_backup(data_dir: Path) -> dict[str, Any] | None:
    """What this host's last backup was, as the host remembers it; None where it never made one."""
    try:
        found: dict[str, Any] = json.loads((data_dir / LAST_FILE).read_text())
        return found
    except (OSError, ValueError):
        return None
