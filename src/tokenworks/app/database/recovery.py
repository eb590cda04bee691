"""The recovery of a restored cluster: PostgreSQL replays the log, file by file, and opens for writing.

PostgreSQL asks for the files of the log (`wal_handover.py`). A damaged file ends the recovery; a gap in the log is found before the
recovery begins.
"""

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg
from psycopg import Connection

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database.backup import SEGMENT_BYTES, Backup, Progress
from tokenworks.app.database.connections import anchor_clock, connect
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.places import Damaged, Place, unpack
from tokenworks.app.database.schema import check_schema
from tokenworks.app.database.wal_handover import FileMissing
from tokenworks.app.settings import Settings
from tokenworks.kernel import (
    AnchoredClock,
    NotFound,
    SystemClock,
    TokenworksError,
    Unavailable,
)
from tokenworks.trust import check_peppers, load_peppers

# A PostgreSQL that neither asks for a file of the log nor answers for this long has failed.
STALLED_S: Final = 600.0
STOP_S: Final = 120.0
_POLL_S: Final = 0.1
_LOG_BYTES: Final = 65_536
_LAST: Final = re.compile(r"last completed transaction was at log time ([0-9:. +-]+)")


class Recovery:
    """The recovery of a cluster that `BackupReader.unpack` made. `at`: the point in time up to which it goes; None: the end of the log."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        backup: Backup,
        progress: Progress,
        staging: Path,
        at: datetime | None,
        *,
        with_log: bool,
    ) -> None:
        """Raises `Damaged` where the log has a gap."""
        assert backup.manifest is not None
        self._settings = settings
        self._place = place
        self._source = backup.source
        self._manifest = backup.manifest
        self._progress = progress
        self._staging = staging
        self._at = at
        self._with_log = with_log
        self._log_names = self._log()
        self._asked_s = time.monotonic()
        self._fault = ""
        # The number of log files that were replayed, and the time of the last transaction in them.
        self.log_files = 0
        self.last_at: datetime | None = None

    def _log(self) -> list[str]:
        """The files of the log that follow the backup, on its timeline, without a gap. Raises `Damaged`."""
        if not self._with_log:
            return []
        names = [
            name.split("/")[2].removesuffix(".zst") for name in self._place.names(f"wal/{self._source}/")
        ]
        timeline = f"{self._manifest['timeline']:08X}"
        later = sorted(
            n for n in names if len(n) == 24 and n.startswith(timeline) and n >= self._manifest["start_wal"]
        )
        # The log that the backup needs is in the backup; the files after it must follow without a gap.
        wanted = _number(self._manifest["end_wal"])
        for name in later:
            if _number(name) > wanted + 1:
                gap = _name(timeline, wanted + 1)
                raise Damaged(
                    f"{self._place.where}/wal/{self._source}/{gap}.zst is missing, and later files are there: put it back, or "
                    "restore the backup alone (--without-log)"
                )
            wanted = max(wanted, _number(name))
        return later

    def _fetch(self, name: str) -> bytes:
        """A file of the log for PostgreSQL. Raises `FileMissing` at the end of the log."""
        self._asked_s = time.monotonic()
        if not self._with_log:
            raise FileMissing
        where = f"wal/{self._source}/{name}.zst"
        try:
            content = unpack(f"{self._place.where}/{where}", self._place.get(where))
        except NotFound:
            raise FileMissing from None
        except TokenworksError as error:
            self._fault = str(error)
            raise
        self.log_files += 1
        done = sum(n <= name for n in self._log_names)
        self._progress("Replaying the log", done, len(self._log_names))
        return content

    @contextlib.contextmanager
    def recovered(self, embedded: Embedded) -> Iterator[AppServices]:
        """The services on the recovered cluster, which is open for writing while this context lasts and is shut down after it."""
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
                anchor_clock(clock, connection)
                peppers = load_peppers(self._settings.secrets)
                check_peppers(connection, peppers, self._settings.secrets, clock.now())
                services = make_works(self._settings, connection, clock, peppers)
                services.vault.check_secrets()
                yield services
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
            self.last_at = datetime.fromisoformat(found[-1].strip())

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


def _number(name: str) -> int:
    """The position of a log file, counted in files."""
    return int(name[8:16], 16) * (2**32 // SEGMENT_BYTES) + int(name[16:24], 16)


def _name(timeline: str, number: int) -> str:
    high, low = divmod(number, 2**32 // SEGMENT_BYTES)
    return f"{timeline}{high:08X}{low:08X}"


def _tail(log: Path) -> str:
    text = log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if re.search(r"FATAL|PANIC|ERROR|tokenworks:", line)]
    return "; ".join(line.partition("] ")[2] or line for line in lines[-3:]) or f"see {log}"
