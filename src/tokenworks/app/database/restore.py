"""Make a host from a backup: the database, up to its newest or to a point in time, and the journal.

All is made in `data_dir/restoring` and moved into place when it is whole, verified, and nobody is in it who was erased: a restore that
is cut off, or refused, leaves the data directory as it was.

The log is asked for by PostgreSQL file by file (`wal_handover.py`): one that is damaged ends the recovery; one that is missing with later
ones there is refused before it begins.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from tokenworks.app.bootstrap import Works, make_works
from tokenworks.app.database.alone import no_other_backup, nobody_serves
from tokenworks.app.database.archive import LINEAGE_FILE, journal_index, write_whole
from tokenworks.app.database.backup import SEGMENT_BYTES, Backup, Progress, find_backups
from tokenworks.app.database.connections import Connection, anchor, connect, embedded_of, embedded_options
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.places import Damaged, Place, sha256, unpack
from tokenworks.app.database.schema import check_schema
from tokenworks.app.database.wal_handover import Missing
from tokenworks.app.settings import Settings
from tokenworks.app.verifier import audit, audit_steps
from tokenworks.charging import (
    Finding,
    held,
    inspect_journal,
    journal_end,
    put_journal,
    put_journal_aside,
    read_journal_id,
    records_after,
    sync_folder,
)
from tokenworks.kernel import (
    AnchoredClock,
    Conflict,
    Invalid,
    NotFound,
    SystemClock,
    TokenworksError,
    Unavailable,
)
from tokenworks.trust import check_peppers, load_peppers

STAGING: Final = "restoring"
# PostgreSQL that neither asks for a file of the log nor answers for so long has failed.
STALLED_S: Final = 600.0
STOP_S: Final = 120.0
_POLL_S: Final = 0.1
_LOG_BYTES: Final = 65_536
_LAST: Final = re.compile(r"last completed transaction was at log time ([0-9:. +-]+)")


class NotEmpty(Conflict):
    """There is data where a backup is to be restored to: move it aside with --replace, or name another data directory."""


class Report(NamedTuple):
    """What a restore made. Times are of the database's clock; sequences are the journal's.

    `last_transaction_at`: None where the log after the backup had none. `journal_records`: what the journal has beyond what this
    database has settled; it is settled when the server starts. `journal`: `kept` (that of this host), `restored`, `none`.
    """

    backup_id: str
    source: str
    backup_ended_at: datetime
    last_transaction_at: datetime | None
    wal_files: int
    erased_again: int
    findings: list[Finding]
    journal: str
    journal_id: str | None
    journal_last: int
    journal_settled: int
    journal_records: int
    journal_fault: str
    other_grants: int
    aside: list[str]


def choose(place: Place, at: datetime | None, backup_id: str | None) -> Backup:
    """The newest whole backup of a database that ended before `at`. Raises `NotFound`, `Invalid`, `Damaged`."""
    found = find_backups(place)
    if backup_id is not None:
        named = [backup for backup in found if backup.backup_id == backup_id]
        if not named:
            raise NotFound(f"{place.where} has no backup {backup_id}: tokenworks backup list")
        if named[0].fault:
            raise Damaged(named[0].fault)
        if named[0].manifest is None:
            raise Invalid(f"the backup {backup_id} was cut off: it has no manifest")
        found = named
    faults = [backup.fault for backup in found if backup.fault]
    whole = [b for b in found if b.manifest is not None and b.manifest["kind"] == "database"]
    if not whole:
        raise NotFound(faults[0] if faults else f"{place.where} has no whole backup of a database")
    fitting = [backup for backup in whole if at is None or backup.ended_at <= at]
    if not fitting:
        raise NotFound(
            f"the oldest backup in {place.where} ended at {whole[0].ended_at.isoformat(timespec='seconds')}: nothing is from before"
        )
    sources = {backup.source for backup in fitting}
    if len(sources) > 1 and len({b.source.partition("-")[0] for b in fitting}) > 1:
        raise Invalid(f"{place.where} has backups of several databases: name one with --backup")
    chosen = max(fitting, key=lambda backup: backup.ended_at)
    # A younger one that can't be read is not passed over in silence.
    younger = [b for b in found if b.fault and b.backup_id > chosen.backup_id]
    if younger:
        raise Damaged(f"{younger[0].fault}; --backup {chosen.backup_id} names the newest one that is whole")
    return chosen


class Restore:
    """One restore into a data directory."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        backup: Backup,
        progress: Progress,
        *,
        at: datetime | None,
        with_log: bool = True,
    ) -> None:
        assert backup.manifest is not None
        self._settings = settings
        self._place = place
        self._backup = backup
        self._manifest = backup.manifest
        self._progress = progress
        self._at = at
        self._with_log = with_log
        self._prefix = f"base/{backup.source}/{backup.backup_id}"
        self._hashes = {file["name"]: file["sha256"] for file in self._manifest["files"]}
        self._staging = settings.data_dir / STAGING
        self._log_names = self._log()
        self._log_files = 0
        self._asked_s = time.monotonic()
        self._fault = ""
        self._last_at: datetime | None = None

    def run(self, erased: list[str], actor: str, *, replace: bool) -> Report:
        """Raises `NotEmpty`, `Damaged`, `Unavailable`; then the data directory is as it was."""
        data_dir = self._settings.data_dir
        if not self._settings.secrets.is_dir():
            raise Unavailable(
                f"there are no secrets in {self._settings.secrets}: put them back first (--secrets-from), nothing can be read without"
            )
        load_peppers(self._settings.secrets)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with nobody_serves(data_dir), no_other_backup(data_dir), held(self._settings.journal):
            if has_database(data_dir) and not replace:
                raise NotEmpty(
                    f"there is a database in {data_dir}: --replace moves it aside, or name an empty --data-dir"
                )
            self._clear()
            try:
                self._staging.mkdir(mode=0o700)
                embedded = Embedded(self._staging, embedded_options(self._settings))
                for name in self._hashes:
                    if not name.startswith("base."):
                        self._get(name)
                journal = self._read_journal()
                self._unpack(embedded)
                with self._recovered(embedded) as works:
                    again = self._erase(works, erased)
                    findings = self._verify(works)
                    report = self._say(works, journal, again, findings, actor)
                aside = self._put_in_place(embedded, journal)
            finally:
                self._clear()
        return report._replace(aside=aside)

    def _clear(self) -> None:
        """What is left in the staging folder goes, with the cluster that it points to, unless that is in place now."""
        pointer, ours = self._staging / "pg.location", self._settings.data_dir / "pg.location"
        if pointer.exists() and not (ours.exists() and ours.read_text() == pointer.read_text()):
            shutil.rmtree(Path(pointer.read_text().strip()), ignore_errors=True)
        shutil.rmtree(self._staging, ignore_errors=True)

    # What is read, and held against its sums.

    def _get(self, name: str) -> bytes:
        content = self._place.get(f"{self._prefix}/{name}")
        if sha256(content) != self._hashes[name]:
            raise Damaged(
                f"{self._place.where}/{self._prefix}/{name} is damaged: its SHA-256 is not the manifest's"
            )
        return content

    def _unpack(self, embedded: Embedded) -> None:
        """Each piece is held against its sum before a byte of it is used."""
        names = [name for name in self._hashes if name.startswith("base.")]
        pieces = _Pieces(self, names)
        embedded.pgdata.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        embedded.socket_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = embedded.pgdata.with_name("pgdata.new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        with tarfile.open(fileobj=io.BufferedReader(pieces, 1024 * 1024), mode="r|") as tar:
            tar.extractall(half, filter="data")
        # Pieces after the tar's end are read, too: each is what was written.
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
        # PostgreSQL puts all of it on disk before it replays the log.
        half.rename(embedded.pgdata)

    def _read_journal(self) -> "_Journal | None":
        """The newest copy of each segment that the backup or the archive has: (journal, segments). All are read before anything
        is changed.
        """
        said = self._manifest.get("journal")
        if not said:
            return None
        journal_id = said["journal_id"]
        index = json.loads(self._get(f"journal/of/{journal_id}/journal.json"))
        newest: dict[str, Any] = dict(index["segments"])
        kept = journal_index(self._place, self._backup.source, journal_id)
        for name, segment in (kept or {"segments": {}})["segments"].items():
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
        return _Journal(UUID(journal_id), segments, last)

    # The log.

    def _log(self) -> list[str]:
        """The files of the log that follow the backup, on its timeline, without a gap. Raises `Damaged`."""
        if not self._with_log:
            return []
        names = [
            name.split("/")[2].removesuffix(".zst")
            for name in self._place.names(f"wal/{self._backup.source}/")
        ]
        timeline = f"{self._manifest['timeline']:08X}"
        later = sorted(
            n for n in names if len(n) == 24 and n.startswith(timeline) and n >= self._manifest["start_wal"]
        )
        # What the backup needs is in it; what goes on from there has to be whole.
        wanted = _number(self._manifest["end_wal"])
        for name in later:
            if _number(name) > wanted + 1:
                gap = _name(timeline, wanted + 1)
                raise Damaged(
                    f"{self._place.where}/wal/{self._backup.source}/{gap}.zst is missing, and later files are there: put it back, or "
                    "restore the backup alone (--without-log)"
                )
            wanted = max(wanted, _number(name))
        return later

    def _fetch(self, name: str) -> bytes:
        """A file of the log that PostgreSQL asks for."""
        self._asked_s = time.monotonic()
        if not self._with_log:
            raise Missing
        where = f"wal/{self._backup.source}/{name}.zst"
        try:
            content = unpack(f"{self._place.where}/{where}", self._place.get(where))
        except NotFound:
            raise Missing from None
        except TokenworksError as error:
            self._fault = str(error)
            raise
        self._log_files += 1
        done = sum(n <= name for n in self._log_names)
        self._progress("Replaying the log", done, len(self._log_names))
        return content

    @contextlib.contextmanager
    def _recovered(self, embedded: Embedded) -> Iterator[Works]:
        """The cluster, recovered and open for writing, as this context lasts; then it is shut down in order."""
        handover = embedded.handover
        handover.prepare()
        threading.Thread(target=self._serve, args=(embedded,), daemon=True).start()
        options = {
            "archive_mode": "off",
            "restore_command": handover.command("restore"),
            "recovery_target_timeline": "current",
            "recovery_target_action": "promote",
        }
        if self._at is not None:
            options["recovery_target_time"] = self._at.isoformat()
        else:
            options["recovery_target"] = "" if self._with_log else "immediate"
        command = embedded.server_command() + [f"-c{name}={value}" for name, value in options.items()]
        log = self._staging / "postgresql.log"
        with log.open("ab") as out:
            server = embedded.popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            self._wait(embedded, server, log)
            with contextlib.closing(connect(embedded.url)) as connection:
                self._check_release(connection)
                clock = AnchoredClock(SystemClock(self._settings.clock_shift_s))
                anchor(clock, connection)
                peppers = load_peppers(self._settings.secrets)
                check_peppers(connection, peppers, self._settings.secrets, clock.now())
                works = make_works(self._settings, connection, clock, peppers)
                works.vault.check_secrets()
                yield works
            server.send_signal(signal.SIGINT)
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the restored database does not stop: {_tail(log)}") from None
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(STOP_S)
                server.kill()
                server.wait()

    def _check_release(self, connection: Connection) -> None:
        try:
            check_schema(connection)
        except TokenworksError as error:
            raise Unavailable(
                f"the backup is of release {self._manifest['release']} and schema {self._manifest['schema']}: restore it with that "
                f"release, and upgrade then ({error})"
            ) from error

    def _serve(self, embedded: Embedded) -> None:
        for line in embedded.handover.lines():
            embedded.handover.answer(line, self._fetch)

    def _wait(self, embedded: Embedded, server: "subprocess.Popen[bytes]", log: Path) -> None:
        self._progress("Replaying the log", 0, len(self._log_names))
        while True:
            if server.poll() is not None:
                raise Unavailable(self._why(log))
            with (
                contextlib.suppress(Unavailable, psycopg.Error),
                contextlib.closing(connect(embedded.owner_url)) as connection,
            ):
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                if row is not None and not row[0]:
                    break
            if time.monotonic() - self._asked_s > STALLED_S:
                raise Unavailable(f"the recovery has not got on for {STALLED_S:g} s: {_tail(log)}")
            time.sleep(_POLL_S)
        found = _LAST.findall(log.read_text(errors="replace"))
        if found:
            self._last_at = datetime.fromisoformat(found[-1].strip())

    def _why(self, log: Path) -> str:
        text = _tail(log)
        if self._fault:
            return f"the log can't be read on: {self._fault}"
        found = _LAST.findall(log.read_text(errors="replace"))
        if "recovery ended before configured recovery target was reached" in text and self._at is not None:
            last = (
                f"the last transaction in it was at {found[-1].strip()}" if found else "it has no transaction"
            )
            return f"the log ends before {self._at.isoformat()}: {last}. Leave --at out for all that there is"
        return f"the recovery failed: {text}"

    # What is done before anybody may serve.

    def _erase(self, works: Works, named: list[str]) -> int:
        """Erase again whom the list names, and whom younger backups knew as erased."""
        ids = set(named)
        for backup in find_backups(self._place):
            same = backup.source.partition("-")[0] == self._backup.source.partition("-")[0]
            if same and backup.manifest is not None and backup.ended_at > self._backup.ended_at:
                younger = Restore(
                    self._settings, self._place, backup, self._progress, at=None, with_log=False
                )
                ids |= set(younger.erased_ids())
        count = 0
        for number, one in enumerate(sorted(ids), 1):
            self._progress("Erasing again", number, len(ids))
            count += works.privacy.erase_again(one)
        return count

    def erased_ids(self) -> list[str]:
        return (
            unpack(f"{self._place.where}/{self._prefix}/erased.zst", self._get("erased.zst")).decode().split()
        )

    def _verify(self, works: Works) -> list[Finding]:
        total = audit_steps()
        self._progress("Verifying", 0, total)
        return audit(
            works.connection,
            works.offerings.rate_cards(),
            lambda _what, done: self._progress("Verifying", done, total),
        )

    def _say(
        self,
        works: Works,
        journal: "_Journal | None",
        again: int,
        findings: list[Finding],
        actor: str,
    ) -> Report:
        folder = self._settings.journal
        journal_id = read_journal_id(folder)
        kept = journal_id is not None and (
            journal is None or journal_id != journal.journal_id or self._is_newer(journal)
        )
        fault, last, settled, records = "", 0, 0, 0
        if not kept and journal is not None:
            folder, journal_id = self._staging / "journal", journal.journal_id
            put_journal(folder, journal_id, journal.segments)
        if journal_id is not None:
            inspected = inspect_journal(folder)["segments"]
            fault = next((s["damage"] for s in inspected if s["damage"]), "")
            first, last = (inspected[0]["first"], inspected[-1]["last"]) if inspected else (1, 0)
            settled = works.ledger.settled_seq(journal_id) or 0
            if not fault:
                records = records_after(folder, journal_id, settled)
                if inspected and settled + 1 < first:
                    fault = f"it begins at {first}, and the database has settled up to {settled}: older segments are missing"
                elif settled > last:
                    fault = f"it ends at {last}, and the database has settled up to {settled}: newer segments are missing"
        others = sum(grant["journal_id"] != journal_id for grant in works.ledger.grants(None))
        works.identity.audit(
            actor, "operator", "restore", self._backup.backup_id, None,
            {"from": self._place.where, "at": None if self._at is None else self._at.isoformat(), "erased_again": again},
        )  # fmt: skip
        return Report(
            backup_id=self._backup.backup_id,
            source=self._backup.source,
            backup_ended_at=self._backup.ended_at,
            last_transaction_at=self._last_at,
            wal_files=self._log_files,
            erased_again=again,
            findings=findings,
            journal="kept" if kept else "restored" if journal_id else "none",
            journal_id=None if journal_id is None else str(journal_id),
            journal_last=last,
            journal_settled=settled,
            journal_records=records,
            journal_fault=fault,
            other_grants=others,
            aside=[],
        )

    def _is_newer(self, journal: "_Journal") -> bool:
        """Whether this host's own journal, of the same id, has all that the copy has."""
        with contextlib.suppress(TokenworksError):
            return journal_end(self._settings.journal, journal.journal_id) >= journal.last
        return False

    def _put_in_place(self, embedded: Embedded, journal: "_Journal | None") -> list[str]:
        data_dir, aside = self._settings.data_dir, []
        mark = f"{datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC):%Y%m%dT%H%M%SZ}"
        with embedded_of(self._settings).at_rest() if has_database(data_dir) else contextlib.nullcontext():
            if has_database(data_dir):
                for name in ("pg", "pg.location"):
                    if (data_dir / name).exists():
                        (data_dir / name).rename(data_dir / f"{name}.before-{mark}")
                        aside.append(str(data_dir / f"{name}.before-{mark}"))
            # From here on it is another life of the cluster: what it archives is beside what its original archives.
            write_whole(data_dir / LINEAGE_FILE, f"{secrets.token_hex(4)}\n")
            pointer = self._staging / "pg.location"
            if pointer.exists():
                write_whole(data_dir / "pg.location", pointer.read_text())
            else:
                (self._staging / "pg").rename(data_dir / "pg")
            sync_folder(data_dir)
        if journal is not None and (self._staging / "journal").exists():
            moved = (
                put_journal_aside(self._settings.journal, mark) if self._settings.journal.exists() else None
            )
            aside += [str(moved)] if moved else []
            put_journal(self._settings.journal, journal.journal_id, journal.segments)
        return aside


class _Journal(NamedTuple):
    """The journal of a backup: its segments by name, and the sequence of its last frame."""

    journal_id: UUID
    segments: list[tuple[str, bytes]]
    last: int


class _Pieces(io.RawIOBase):
    """The tar, from its pieces."""

    def __init__(self, restore: Restore, names: list[str]) -> None:
        self._restore = restore
        self._names = names
        self._at = 0
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            if self._at == len(self._names):
                return 0
            name = self._names[self._at]
            self._left = memoryview(unpack(name, self._restore._get(name)))
            self._at += 1
            self._restore._progress("Reading the database", self._at, len(self._names))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def has_database(data_dir: Path) -> bool:
    pointer = data_dir / "pg.location"
    home = Path(pointer.read_text().strip()) if pointer.exists() else data_dir / "pg"
    return (home / "pgdata" / "PG_VERSION").exists()


def _number(name: str) -> int:
    """The position of a file of the log, counted in files."""
    return int(name[8:16], 16) * (2**32 // SEGMENT_BYTES) + int(name[16:24], 16)


def _name(timeline: str, number: int) -> str:
    high, low = divmod(number, 2**32 // SEGMENT_BYTES)
    return f"{timeline}{high:08X}{low:08X}"


def _tail(log: Path) -> str:
    text = log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if re.search(r"FATAL|PANIC|ERROR|tokenworks:", line)]
    return "; ".join(line.partition("] ")[2] or line for line in lines[-3:]) or f"see {log}"
