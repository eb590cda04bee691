"""The peppers and wrapping keys of a host's processes, which take new files of `secrets_dir` while they serve.

Every process that hashes or wraps begins with what the supervisor proved against the database, looks at the files once a second,
and says in a file of its own what it has. The recorder compares what all of them have with the database's fingerprints and reports
it: `tokenworks pepper use` and `vault rewrap` wait for that. What a process has once is kept, whatever becomes of the file.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple
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
    """Of one process. `peppers` and `vault` are objects of their own after a new file was taken, so that whoever reads the ones of
    before in another thread is not disturbed. A worker has no `vault`.
    """

    def __init__(
        self, secrets_dir: Path, run_dir: Path, process: str, peppers: Peppers, vault: VaultSecrets | None
    ) -> None:
        self.peppers = peppers
        self.vault = vault
        self._secrets_dir = secrets_dir
        self._report_path = run_dir / f"{process}{SUFFIX}"
        # Those of the start were compared with the database, and stay as they are.
        self._proved = {
            f"{kind}{version}": secret
            for kind, held in ((PEPPER, dict(peppers)), (WRAP, {} if vault is None else vault.wrapping))
            for version, secret in held.items()
        }
        self._seen: dict[str, object] = {}
        self._reported: dict[str, Any] = {}
        self._unreadable = False
        self.look()

    def look(self) -> bool:
        """Take what is new. Called once a second. True where something was taken."""
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
        """Say what this process has, where that is another than was said: fingerprints, never secrets."""
        said = {
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
        if said == self._reported:
            return
        half = self._report_path.with_suffix(f"{SUFFIX}-new")
        try:
            half.write_text(json.dumps(said))
            half.replace(self._report_path)
        except OSError as error:  # a full disk: it is tried again in a second
            log.warning("secrets.not_reported", error=str(error))
        else:
            self._reported = said


def _state(path: Path) -> object:
    """What changes with a file, with its mode and owner, too."""
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class Loaded(NamedTuple):
    """What all processes of a host have, by version, with fingerprints as hexadecimal text."""

    peppers: dict[str, str]
    wrapping: dict[str, str]
    issues_under: int | None


def loaded_by_all(run_dir: Path, processes: Iterable[str]) -> Loaded:
    """Nothing where one of them has not said what it has."""
    by_process = {}
    for process in processes:
        try:
            by_process[process] = json.loads((run_dir / f"{process}{SUFFIX}").read_text())
        except (OSError, ValueError):
            return Loaded({}, {}, None)
    reports = by_process.values()
    peppers = _common([report["peppers"] for report in reports])
    wrapping = _common([report["wrapping"] for report in reports if report["wrapping"] is not None])
    # The control plane alone makes what is new.
    return Loaded(peppers, wrapping, by_process["control"]["issues_under"])


def _common(found: list[dict[str, str]]) -> dict[str, str]:
    return {} if not found else dict(set.intersection(*(set(one.items()) for one in found)))


class HostReport:
    """Of one host, by its recorder: what is loaded and is the works' own, told to the database when it changes."""

    def __init__(self, secrets_dir: Path, run_dir: Path, journal_id: UUID) -> None:
        self._secrets_dir = secrets_dir
        self._run_dir = run_dir
        self._journal_id = journal_id
        self._told: object = None

    def tell(self, connection: Connection) -> list[int]:
        """Returns the peppers that the works uses and this host lacks."""
        loaded = loaded_by_all(self._run_dir, processes_of(self._run_dir))
        rows = all_peppers(connection)
        here = [row.version for row in rows if loaded.peppers.get(str(row.version)) == row.fingerprint.hex()]
        known = wrapping_known(connection)
        wrapping = [
            int(version)
            for version, found in sorted(loaded.wrapping.items())
            if known.get(int(version)) == bytes.fromhex(found)
        ]
        told = (here, loaded.issues_under, wrapping, webhook_fingerprint(self._secrets_dir))
        if told != self._told:
            report_secrets(
                connection,
                self._journal_id,
                peppers=here,
                issues_under=told[1],
                wrapping=wrapping,
                webhook=told[3],
            )
            self._told = told
        if not loaded.peppers:
            # A process that begins has said nothing yet: what it lacks is not known.
            return []
        return [
            row.version for row in rows if row.used_since and not row.retired_at and row.version not in here
        ]


def webhook_fingerprint(secrets_dir: Path) -> bytes | None:
    """Of the secret that this host signs its own webhooks with; None where it has none that can be read."""
    with contextlib.suppress(Unavailable):
        secret = read_private(secrets_dir / WEBHOOK).strip()
        if secret:
            return hashlib.blake2b(
                b"webhook-secret", key=secret[:64], digest_size=_WEBHOOK_FINGERPRINT_BYTES
            ).digest()
    return None


def fleet(services: AppServices) -> list[HostSecrets]:
    """What each host that serves, or that fell silent without leaving, has loaded."""
    return host_secrets(services.connection, services.ledger.hosts_of_fleet())


def wait_for_hosts(
    services: AppServices, ready: Callable[[HostSecrets], bool], wait_s: int
) -> list[HostSecrets]:
    """The fleet, when all of it is ready or the time is over."""
    deadline_s = time.monotonic() + wait_s
    while True:
        hosts = fleet(services)
        if all(map(ready, hosts)) or time.monotonic() >= deadline_s:
            return hosts
        time.sleep(WAIT_EVERY_S)


def processes_of(run_dir: Path) -> list[str]:
    """Those that hash or wrap: the workers are the ones that have a heartbeat, those of before a reload until they have ended, too."""
    return ["control", "recorder", *sorted(path.stem for path in run_dir.glob("worker-*.stats"))]


__all__ = [
    "SUFFIX",
    "HostReport",
    "Loaded",
    "ProcessSecrets",
    "fleet",
    "loaded_by_all",
    "processes_of",
    "wait_for_hosts",
    "webhook_fingerprint",
]
