"""The peppers and wrapping keys of a host's processes. A process loads new files of `secrets_dir` while it serves.

Every process that hashes or wraps begins with the secrets that the supervisor compared with the database, looks at the files once a
second, and writes the fingerprints of its secrets into a file of its own. The recorder compares these files with the database's
fingerprints and reports the result: `tokenworks pepper use` and `vault rewrap` wait for that. A process keeps a secret that it has
loaded, also when the file goes.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import Connection

from tokenworks.app.bootstrap import AppServices
from tokenworks.kernel import Unavailable
from tokenworks.trust import (
    PEPPER,
    PEPPER_BYTES,
    VAULT_KEY_BYTES,
    WEBHOOK,
    WRAP,
    HostSecrets,
    Peppers,
    VaultSecrets,
    all_peppers,
    fingerprint,
    host_secrets,
    read_private,
    read_secret,
    report_secrets,
    versions_of,
    wrapping_fingerprint,
    wrapping_known,
)

log = structlog.get_logger()

SUFFIX: Final = ".secrets"
WAIT_EVERY_S: Final = 0.25
_WEBHOOK_FINGERPRINT_BYTES: Final = 16


class ProcessSecrets:
    """The secrets of one process. Loading a file replaces `peppers` or `vault` by a new object, so that another thread can go on
    reading the old one. A worker has no `vault`.
    """

    def __init__(
        self, secrets_dir: Path, run_dir: Path, process: str, peppers: Peppers, vault: VaultSecrets | None
    ) -> None:
        self.peppers = peppers
        self.vault = vault
        self._secrets_dir = secrets_dir
        self._report_path = run_dir / f"{process}{SUFFIX}"
        # The secrets of the start were compared with the database: a changed file does not replace them.
        self._proved = {
            f"{kind}{version}": secret
            for kind, held in ((PEPPER, dict(peppers)), (WRAP, {} if vault is None else vault.wrapping))
            for version, secret in held.items()
        }
        self._seen: dict[str, object] = {}
        self._reported: dict[str, object] = {}
        self._unreadable = False
        self.load_new()

    def load_new(self) -> bool:
        """Load new files. Called once a second. Returns True where a file was loaded."""
        taken = False
        try:
            kinds = (PEPPER,) if self.vault is None else (PEPPER, WRAP)
            files = {kind: versions_of(self._secrets_dir, kind) for kind in kinds}
        except Unavailable as error:
            if not self._unreadable:
                log.error("secrets.unreadable", error=str(error))
            self._unreadable = True
            files = {}
        else:
            self._unreadable = False
        for kind, found in files.items():
            for version, path in found.items():
                state = _state(path)
                if self._seen.get(path.name) != state:
                    self._seen[path.name] = state
                    taken = self._take(kind, version, path) or taken
        self.report()
        return taken

    def _take(self, kind: str, version: int, path: Path) -> bool:
        length, what = (PEPPER_BYTES, "a pepper") if kind == PEPPER else (VAULT_KEY_BYTES, "a key")
        try:
            secret = read_secret(path, length, what)
        except Unavailable as error:
            log.error("secrets.not_taken", error=str(error))
            return False
        proved = self._proved.get(path.name)
        if proved is not None:
            if secret != proved:
                log.error(
                    "secrets.changed",
                    file=str(path),
                    action="put the one of before back: this server goes on with it, and would not start with this one",
                )
            return False
        if kind == PEPPER:
            if self.peppers.get(version) == secret:
                return False
            self.peppers = self.peppers.with_version(version, secret)
        else:
            assert self.vault is not None, "a process without a vault looks at no wrapping key"
            if self.vault.wrapping.get(version) == secret:
                return False
            self.vault = self.vault.with_version(version, secret)
        log.info("secrets.taken", file=path.name)
        return True

    def report(self) -> None:
        """Write what this process has into its file, where it has changed: fingerprints, never secrets."""
        state: dict[str, object] = {
            "peppers": {
                str(version): fingerprint(version, pepper).hex() for version, pepper in self.peppers.items()
            },
            "issues_under": self.peppers.issuing,
            "wrapping": None
            if self.vault is None
            else {
                str(version): wrapping_fingerprint(version, key).hex()
                for version, key in self.vault.wrapping.items()
            },
        }
        if state == self._reported:
            return
        half = self._report_path.with_suffix(f"{SUFFIX}-new")
        try:
            half.write_text(json.dumps(state))
            half.replace(self._report_path)
        except OSError as error:  # a full disk: it is tried again in a second
            log.warning("secrets.not_reported", error=str(error))
        else:
            self._reported = state


def _state(path: Path) -> object:
    """A value that changes when the file's content, mode or owner does."""
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class LoadedSecrets(NamedTuple):
    """The secrets that all processes of a host have loaded: version -> fingerprint in hexadecimal."""

    peppers: dict[str, str]
    wrapping: dict[str, str]
    issues_under: int | None


def loaded_by_all(run_dir: Path, processes: Iterable[str]) -> LoadedSecrets:
    """Empty where one of the processes has not reported yet."""
    by_process = {}
    for process in processes:
        try:
            by_process[process] = json.loads((run_dir / f"{process}{SUFFIX}").read_text())
        except (OSError, ValueError):
            return LoadedSecrets({}, {}, None)
    reports = by_process.values()
    peppers = _common([report["peppers"] for report in reports])
    wrapping = _common([report["wrapping"] for report in reports if report["wrapping"] is not None])
    # The control plane alone issues keys and tokens.
    return LoadedSecrets(peppers, wrapping, by_process["control"]["issues_under"])


def _common(reports: list[dict[str, str]]) -> dict[str, str]:
    """The entries that all reports have."""
    return {} if not reports else dict(set.intersection(*(set(report.items()) for report in reports)))


class HostReport:
    """Tells the database which of its secrets this host has loaded, when that changes. Used by the host's recorder."""

    def __init__(self, secrets_dir: Path, run_dir: Path, journal_id: UUID) -> None:
        self._secrets_dir = secrets_dir
        self._run_dir = run_dir
        self._journal_id = journal_id
        self._reported: object = None

    def tell(self, connection: Connection) -> list[int]:
        """Returns the versions of peppers that are in use and that this host lacks."""
        loaded = loaded_by_all(self._run_dir, processes_of(self._run_dir))
        rows = all_peppers(connection)
        peppers = [
            row.version for row in rows if loaded.peppers.get(str(row.version)) == row.fingerprint.hex()
        ]
        known = wrapping_known(connection)
        wrapping = [
            int(version)
            for version, text in sorted(loaded.wrapping.items())
            if known.get(int(version)) == bytes.fromhex(text)
        ]
        webhook = webhook_fingerprint(self._secrets_dir)
        report = (peppers, loaded.issues_under, wrapping, webhook)
        if report != self._reported:
            report_secrets(
                connection,
                self._journal_id,
                peppers=peppers,
                issues_under=loaded.issues_under,
                wrapping=wrapping,
                webhook=webhook,
            )
            self._reported = report
        if not loaded.peppers:
            # A process that starts has not reported yet: what it lacks is not known.
            return []
        return [
            row.version
            for row in rows
            if row.used_since and not row.retired_at and row.version not in peppers
        ]


def webhook_fingerprint(secrets_dir: Path) -> bytes | None:
    """The fingerprint of the secret that signs the operator's own webhooks; None where this host can read none."""
    with contextlib.suppress(Unavailable):
        secret = read_private(secrets_dir / WEBHOOK).strip()
        if secret:
            return hashlib.blake2b(
                b"webhook-secret", key=secret[:64], digest_size=_WEBHOOK_FINGERPRINT_BYTES
            ).digest()
    return None


def fleet(services: AppServices) -> list[HostSecrets]:
    """What each host has loaded. A host is in the fleet until it has left in order; a silent host is in it, too."""
    return host_secrets(services.connection, services.ledger.hosts_of_fleet())


def wait_for_hosts(
    services: AppServices, ready: Callable[[HostSecrets], bool], wait_s: int
) -> list[HostSecrets]:
    """Wait until all hosts are ready, or `wait_s` is over. Returns the fleet."""
    deadline_s = time.monotonic() + wait_s
    while True:
        hosts = fleet(services)
        if all(map(ready, hosts)) or time.monotonic() >= deadline_s:
            return hosts
        time.sleep(WAIT_EVERY_S)


def processes_of(run_dir: Path) -> list[str]:
    """The processes that hash or wrap. Workers are found by their heartbeat files; workers before a reload have one until they end."""
    return ["control", "recorder", *sorted(path.stem for path in run_dir.glob("worker-*.stats"))]


__all__ = [
    "SUFFIX",
    "HostReport",
    "LoadedSecrets",
    "ProcessSecrets",
    "fleet",
    "loaded_by_all",
    "processes_of",
    "wait_for_hosts",
    "webhook_fingerprint",
]
