"""Restores a host from a backup: the database, up to its newest state or to a point in time, and the journal.

The new files are made in `data_dir/restoring`, and moved into place when they are complete and verified and every erased person is
erased again: a restore that is interrupted or refused leaves the data directory as it was.

`backup_reader.py` reads the backup, `recovery.py` replays the log.
"""

import contextlib
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.database.archive import LINEAGE_FILE, write_whole
from tokenworks.app.database.backup import Backup, Progress, find_backups
from tokenworks.app.database.backup_reader import BackupReader, JournalCopy
from tokenworks.app.database.connections import embedded_of, embedded_options
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.locks import lock_out_backups, lock_out_server
from tokenworks.app.database.places import Damaged, Place
from tokenworks.app.database.recovery import Recovery
from tokenworks.app.settings import Settings
from tokenworks.app.verifier import audit, audit_steps
from tokenworks.charging import (
    Finding,
    inspect_journal,
    journal_end,
    journal_locked,
    put_journal,
    put_journal_aside,
    read_journal_id,
    records_after,
    sync_folder,
)
from tokenworks.kernel import (
    Conflict,
    Invalid,
    NotFound,
    SystemClock,
    TokenworksError,
    Unavailable,
)
from tokenworks.trust import load_peppers

STAGING: Final = "restoring"


class NotEmpty(Conflict):
    """There is data where a backup is to be restored to: move it aside with --replace, or name another data directory."""


class RestoreReport(NamedTuple):
    """The result of a restore. Times are of the database's clock; sequences are the journal's.

    `last_transaction_at`: None where the log after the backup had no transaction. `journal_records`: records of the journal that this
    database has not settled; they are settled when the server starts. `journal`: `kept` (this host's own), `restored`, `none`.
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


def choose_backup(place: Place, at: datetime | None, backup_id: str | None) -> Backup:
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
    # A newer backup that can't be read is an error, and not passed over in silence.
    newer = [b for b in found if b.fault and b.backup_id > chosen.backup_id]
    if newer:
        raise Damaged(f"{newer[0].fault}; --backup {chosen.backup_id} names the newest one that is whole")
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
        self._settings = settings
        self._place = place
        self._backup = backup
        self._progress = progress
        self._at = at
        self._staging = settings.data_dir / STAGING
        self._reader = BackupReader(place, backup, progress)
        self._recovery = Recovery(settings, place, backup, progress, self._staging, at, with_log=with_log)

    def run(self, erased: list[str], actor: str, *, replace: bool) -> RestoreReport:
        """Restore, and erase again the ids of `erased`. `replace`: move a database that is there aside. Raises `NotEmpty`, `Damaged`,
        `Unavailable`; then the data directory is as it was.
        """
        data_dir = self._settings.data_dir
        if not self._settings.secrets.is_dir():
            raise Unavailable(
                f"there are no secrets in {self._settings.secrets}: put them back first (--secrets-from), nothing can be read without"
            )
        load_peppers(self._settings.secrets)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with lock_out_server(data_dir), lock_out_backups(data_dir), journal_locked(self._settings.journal):
            if has_database(data_dir) and not replace:
                raise NotEmpty(
                    f"there is a database in {data_dir}: --replace moves it aside, or name an empty --data-dir"
                )
            self._clear()
            try:
                self._staging.mkdir(mode=0o700)
                embedded = Embedded(self._staging, embedded_options(self._settings))
                self._reader.check_others()
                journal = self._reader.read_journal()
                self._reader.unpack(embedded)
                with self._recovery.recovered(embedded) as services:
                    again = self._erase(services, erased)
                    findings = self._verify(services)
                    report = self._report(services, journal, again, findings, actor)
                aside = self._put_in_place(embedded, journal)
            finally:
                self._clear()
        return report._replace(aside=aside)

    def _clear(self) -> None:
        """Delete the staging folder with the cluster that it points to, unless that cluster is in place by now."""
        pointer, in_place = self._staging / "pg.location", self._settings.data_dir / "pg.location"
        if pointer.exists() and not (in_place.exists() and in_place.read_text() == pointer.read_text()):
            shutil.rmtree(Path(pointer.read_text().strip()), ignore_errors=True)
        shutil.rmtree(self._staging, ignore_errors=True)

    # Before the restored database is moved into place.

    def _erase(self, services: AppServices, named: list[str]) -> int:
        """Erase the persons again that the list or a newer backup names as erased. Returns how many had come back."""
        ids = set(named)
        for backup in find_backups(self._place):
            same = backup.source.partition("-")[0] == self._backup.source.partition("-")[0]
            if same and backup.manifest is not None and backup.ended_at > self._backup.ended_at:
                ids |= set(BackupReader(self._place, backup, self._progress).erased_ids())
        count = 0
        for number, id_ in enumerate(sorted(ids), 1):
            self._progress("Erasing again", number, len(ids))
            count += services.privacy.erase_again(id_)
        return count

    def _verify(self, services: AppServices) -> list[Finding]:
        total = audit_steps()
        self._progress("Verifying", 0, total)
        return audit(
            services.connection,
            services.offerings.rate_cards(),
            lambda _what, done: self._progress("Verifying", done, total),
        )

    def _report(
        self,
        services: AppServices,
        journal: JournalCopy | None,
        again: int,
        findings: list[Finding],
        actor: str,
    ) -> RestoreReport:
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
            settled = services.ledger.settled_seq(journal_id) or 0
            if not fault:
                records = records_after(folder, journal_id, settled)
                if inspected and settled + 1 < first:
                    fault = f"it begins at {first}, and the database has settled up to {settled}: older segments are missing"
                elif settled > last:
                    fault = f"it ends at {last}, and the database has settled up to {settled}: newer segments are missing"
        others = sum(grant["journal_id"] != journal_id for grant in services.ledger.grants(None))
        services.identity.audit(
            actor, "operator", "restore", self._backup.backup_id, None,
            {"from": self._place.where, "at": None if self._at is None else self._at.isoformat(), "erased_again": again},
        )  # fmt: skip
        return RestoreReport(
            backup_id=self._backup.backup_id,
            source=self._backup.source,
            backup_ended_at=self._backup.ended_at,
            last_transaction_at=self._recovery.last_at,
            wal_files=self._recovery.log_files,
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

    def _is_newer(self, journal: JournalCopy) -> bool:
        """True where this host's own journal, of the same id, has every record of the copy."""
        with contextlib.suppress(TokenworksError):
            return journal_end(self._settings.journal, journal.journal_id) >= journal.last
        return False

    def _put_in_place(self, embedded: Embedded, journal: JournalCopy | None) -> list[str]:
        data_dir, aside = self._settings.data_dir, []
        mark = f"{datetime.fromtimestamp(SystemClock().civil_ms() / 1000, UTC):%Y%m%dT%H%M%SZ}"
        with embedded_of(self._settings).at_rest() if has_database(data_dir) else contextlib.nullcontext():
            if has_database(data_dir):
                for name in ("pg", "pg.location"):
                    if (data_dir / name).exists():
                        (data_dir / name).rename(data_dir / f"{name}.before-{mark}")
                        aside.append(str(data_dir / f"{name}.before-{mark}"))
            # A new lineage: the restored cluster archives its log apart from the original's.
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


def has_database(data_dir: Path) -> bool:
    pointer = data_dir / "pg.location"
    home = Path(pointer.read_text().strip()) if pointer.exists() else data_dir / "pg"
    return (home / "pgdata" / "PG_VERSION").exists()
