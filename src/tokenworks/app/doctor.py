"""Checks whether this host is fit to serve. Each finding says what to do; no check changes anything.

A check that depends on a failed check is left out: the failed check has to be repaired first.
"""

import contextlib
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

import psycopg
from psycopg import Connection

from tokenworks import compiled
from tokenworks.app.database.backup import last_backup
from tokenworks.app.database.connections import anchor_clock, archive_state, connect, database
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import check_schema
from tokenworks.app.process.listeners import bind
from tokenworks.app.process.renewing import Certificates
from tokenworks.app.process.report_file import read_report
from tokenworks.app.process.served import server_of
from tokenworks.app.process.starting import check_durability, check_exposure
from tokenworks.app.sealed import check_sealed
from tokenworks.app.settings import Settings, parse_address, without_secrets
from tokenworks.app.webhook_secrets import webhook_secret
from tokenworks.charging import Host, Ledger
from tokenworks.factory import CredentialMissing, Deployments, read_credential
from tokenworks.kernel import AnchoredClock, SystemClock, TokenworksError
from tokenworks.trust import (
    PEPPER,
    WEBHOOK,
    WEBHOOK_OLD,
    WRAP,
    HostSecrets,
    Peppers,
    PersonVault,
    VaultSecrets,
    all_peppers,
    check_peppers,
    host_secrets,
    load_peppers,
    load_vault_secrets,
    strays,
)

State = Literal["ok", "warning", "failed"]

CERTIFICATE_WARNING: Final = timedelta(days=14)
BACKUP_WARNING: Final = timedelta(days=7)
# Descriptors of a worker beside the two connections of each request: the recorder, listeners, files.
FILES_BESIDE: Final = 200
# For the journal's disk, the same as the alarm of the runbook.
RESERVES_FREE_MIN: Final = 4
REPORT_STALE_S: Final = 5.0
_PRIVATE: Final = 0o077
_FILE: Final = "file:"


class Finding(NamedTuple):
    """`said`: what was found; `todo`: what to do about it, empty where nothing is to be done."""

    check: str
    state: State
    said: str
    todo: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which failures have to be repaired."""
    yield Finding("data plane", "ok", str(compiled.state()))
    yield _data_dir(settings)
    yield from _secrets(settings)
    yield _exposure(settings)
    yield _certificate(settings)
    yield from _ports(settings)
    yield _files(settings)
    yield _memory(settings)
    yield from _disk(settings)
    yield from _server(settings)
    yield _backup(settings)
    yield from _database(settings)


def _guarded(check: str, look: Callable[[], str]) -> Finding:
    """A finding of a check that returns a text, or raises an error whose text says what to do."""
    try:
        return Finding(check, "ok", look())
    except TokenworksError as error:
        return Finding(check, "failed", str(error))
    except OSError as error:
        return Finding(check, "failed", f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))


def _data_dir(settings: Settings) -> Finding:
    folder = settings.data_dir
    if not folder.is_dir():
        return Finding("data_dir", "failed", f"{folder} is not there", "run `tokenworks init`")
    if folder.stat().st_mode & _PRIVATE:
        return Finding("data_dir", "warning", f"others may look into {folder}", f"chmod 700 {folder}")
    return Finding("data_dir", "ok", str(folder))


def _secrets(settings: Settings) -> Iterator[Finding]:
    def peppers() -> str:
        return f"{len(load_peppers(settings.secrets))} in {settings.secrets}"

    def vault() -> str:
        load_vault_secrets(settings.secrets)
        return f"in {settings.secrets}"

    def webhook() -> str:
        if not (settings.secrets / WEBHOOK).exists():
            return "none yet: it is made at the first need"
        webhook_secret(settings)
        return f"{settings.secrets / WEBHOOK}"

    def flaws(kind: str, load: Callable[[Path], Peppers | VaultSecrets]) -> Iterator[Finding]:
        """Faulty files of versions that are not used. A used version that is faulty fails in the checks above."""
        with contextlib.suppress(TokenworksError):
            for version, said in load(settings.secrets).flaws.items():
                yield Finding(f"file {kind}{version}", "warning", said)

    yield _guarded("peppers", peppers)
    yield from flaws(PEPPER, load_peppers)
    yield _guarded("vault keys", vault)
    yield from flaws(WRAP, load_vault_secrets)
    yield _guarded("webhook secret", webhook)
    folder = settings.secrets
    if folder.is_dir() and folder.stat().st_mode & _PRIVATE:
        yield Finding("secrets_dir", "warning", f"others may look into {folder}", f"chmod 700 {folder}")


def _strays(settings: Settings, credentials: Iterable[str | None]) -> Iterator[Finding]:
    """Files of `secrets_dir` that no process reads. `credentials`: those that deployments name."""
    used = {name.removeprefix(_FILE) for name in credentials if name is not None and name.startswith(_FILE)}
    for path, why in strays(settings.secrets, used):
        yield Finding(f"file {path.name}", "warning", f"{path} {why}")


def _exposure(settings: Settings) -> Finding:
    def look() -> str:
        check_exposure(settings)
        return f"{settings.listen} is {'TLS' if settings.tls_key else 'plain HTTP'}"

    return _guarded("exposure", look)


def _certificate(settings: Settings) -> Finding:
    if settings.tls_certificate is None or settings.tls_key is None:
        return Finding("certificate", "ok", "none: the public port is plain HTTP")
    try:
        found = Certificates(settings.tls_certificate, settings.tls_key)
    except TokenworksError as error:
        return Finding(
            "certificate", "failed", str(error), "see the runbook: Renewing certificates and credentials"
        )
    said, now = f"expires at {found.expires_at:%Y-%m-%d %H:%M} UTC", SystemClock().now()
    if now >= found.expires_at:
        return Finding("certificate", "failed", said, "renew it: it is loaded within a second")
    if now >= found.expires_at - CERTIFICATE_WARNING:
        return Finding("certificate", "warning", said, "renew it: it is loaded within a second")
    return Finding("certificate", "ok", said)


def _ports(settings: Settings) -> Iterator[Finding]:
    served = server_of(settings.data_dir) is not None
    for check, address in (("public port", settings.listen), ("admin port", settings.admin_listen)):
        if parse_address(address)[1] == 0:
            yield Finding(check, "ok", f"{address}: any that is free")
        elif not served:
            yield _guarded(check, lambda address=address: _free(address))  # type: ignore[misc]
        elif _reached(address):
            yield Finding(check, "ok", f"{address} is served")
        else:
            said = f"{address} refuses connections, though a server runs here"
            yield Finding(
                check, "warning", said, "it drains, or listens elsewhere: name the address in the settings"
            )


def _free(address: str) -> str:
    bind(address).close()
    return f"{address} is free"


def _reached(address: str) -> bool:
    host, port = parse_address(address)
    where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        socket.create_connection((where, port), timeout=2).close()
    except OSError:
        return False
    return True


def _files(settings: Settings) -> Finding:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.requests_max + FILES_BESIDE
    said = f"{most} for each process, a worker with requests_max in flight needs {needed}"
    if most != resource.RLIM_INFINITY and most < needed:
        return Finding(
            "open files", "warning", said, f"raise the limit (ulimit -n {needed}), or lower requests_max"
        )
    return Finding("open files", "ok", said)


def _memory(settings: Settings) -> Finding:
    needed = settings.workers * settings.memory_bytes_max
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = f"{there >> 20} MiB, {settings.workers} workers may keep {needed >> 20} MiB in flight"
    if needed > there // 2:
        return Finding("memory", "warning", said, "lower memory_bytes_max or workers, or give the host more")
    return Finding("memory", "ok", said)


def _disk(settings: Settings) -> Iterator[Finding]:
    for check, folder in (("journal's disk", settings.journal), ("data_dir's disk", settings.data_dir)):
        there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        said = f"{free >> 20} MiB free for {folder}"
        if free < settings.journal_reserve_bytes:
            yield Finding(check, "failed", said, "nothing new is begun: make room")
        elif free < RESERVES_FREE_MIN * settings.journal_reserve_bytes:
            yield Finding(check, "warning", said, "make room before it is below journal_reserve_bytes")
        else:
            yield Finding(check, "ok", said)


def _server(settings: Settings) -> Iterator[Finding]:
    if server_of(settings.data_dir) is None:
        yield Finding("server", "warning", "does not run", "tokenworks serve")
        return
    report = read_report(settings.run_dir)
    if report is None:
        yield Finding(
            "recorder", "failed", "never reported", "its log says why: `recorder` in what `serve` prints"
        )
        return
    if report.age_s > REPORT_STALE_S:
        yield Finding(
            "recorder", "failed", f"silent for {report.age_s:.0f} s", "see the runbook: A recorder that hangs"
        )
        return
    values = report.values
    faults = [
        text
        for name, text in (
            ("database_ok", "the database does not answer"),
            ("settling_ok", "settlement fails"),
        )
        if not values.get(name)
    ]
    if values.get("journal_full"):
        faults.append("the journal's disk is full, or too much waits for the database")
    if values.get("peppers_lacking"):
        faults.append("a pepper that the works uses is not in secrets_dir here")
    records = f"{values.get('unsettled_records', 0)} records wait for settlement, {values.get('quarantined_records', 0)} in quarantine"
    if faults:
        yield Finding("recorder", "failed", ", ".join(faults), "see the runbook's page for it")
    elif values.get("quarantined_records"):
        yield Finding("recorder", "warning", records, "see the runbook: Quarantine")
    else:
        yield Finding("recorder", "ok", records)


def _backup(settings: Settings) -> Finding:
    """The last backup of this host, as the host remembers it. Backups of other hosts in the same place do not count."""
    last = last_backup(settings.data_dir)
    if last is None:
        if settings.environment == "dev":
            return Finding("backup", "ok", "none was made; not looked at in dev")
        return Finding("backup", "warning", "none was made of this host", "tokenworks backup --to FOLDER")
    ended = datetime.fromisoformat(last["ended_at"])
    age = SystemClock().now() - ended
    said = f"the newest ended {age.total_seconds() / 3600:.0f} h ago, in {without_secrets(last['to'])}"
    if age > BACKUP_WARNING:
        return Finding("backup", "warning", said, "tokenworks backup, once a day")
    return Finding("backup", "ok", said)


def _archive(settings: Settings, connection: Connection) -> Finding:
    if settings.database_url:
        return Finding("archive", "ok", "that of your own PostgreSQL is not looked at")
    if not settings.archive_to:
        said = "the log is not kept as it grows: a restore goes back to the last backup"
        return Finding(
            "archive", "ok" if settings.environment == "dev" else "warning", said, "set archive_to"
        )
    found = archive_state(connection)
    if not found.is_on:
        said = "the database was started by a release that keeps no log"
        return Finding(
            "archive", "warning", said, "restart the server: it begins with the database's next start"
        )
    if found.behind_s:
        said = f"for {found.behind_s:.0f} s nothing could be kept in {without_secrets(settings.archive_to)}"
        return Finding(
            "archive", "warning", said, "postgresql.log says why; see the runbook: The archive is behind"
        )
    return Finding("archive", "ok", f"{found.files} files kept in {without_secrets(settings.archive_to)}")


def _database(settings: Settings) -> Iterator[Finding]:
    with contextlib.ExitStack() as stack:
        try:
            began_s = time.monotonic()
            connection = stack.enter_context(
                contextlib.closing(connect(stack.enter_context(database(settings))))
            )
        except (TokenworksError, psycopg.Error) as error:
            said = str(error).splitlines()[0]
            yield Finding("database", "failed", said, "see the runbook: The database is away")
            return
        yield Finding(
            "database", "ok", f"answers, in {1000 * (time.monotonic() - began_s):.0f} ms with its login"
        )
        # The checks change nothing: their transaction is rolled back.
        stack.enter_context(connection.transaction(force_rollback=True))
        yield from _of_database(settings, connection)


def _of_database(settings: Settings, connection: Connection) -> Iterator[Finding]:
    def schema() -> str:
        check_schema(connection)
        check_sealed(connection)
        return "this release may run on it"

    found = _guarded("schema", schema)
    yield found
    if found.state == "failed":
        return

    def role() -> str:
        may_change = check_role(connection, single_role=settings.single_role)
        return (
            "it could change history, and single_role allows it"
            if may_change
            else "it may not change history"
        )

    yield _guarded("role of the database", role)

    def durability() -> str:
        check_durability(settings, connection)
        return (
            "a commit is on disk when it is answered"
            if settings.environment != "dev"
            else "not looked at in dev"
        )

    yield _guarded("durability", durability)
    yield _archive(settings, connection)
    clock = AnchoredClock(SystemClock(settings.clock_shift_s))
    anchor_clock(clock, connection)
    off = f"{clock.skew_s:+.3f} s from the database's, give or take {clock.error_s:.3f} s"
    if clock.is_off(settings.clock_skew_max_s):
        yield Finding(
            "clock", "failed", off, "repair the host's time service; see the runbook: A clock that jumps"
        )
    else:
        yield Finding("clock", "ok", off)

    def peppers() -> str:
        check_peppers(connection, load_peppers(settings.secrets), settings.secrets, clock.now())
        return "those of the works"

    def vault() -> str:
        PersonVault(connection, load_vault_secrets(settings.secrets)).check_secrets()
        return "those of the works"

    yield _guarded("peppers of the works", peppers)
    yield _guarded("vault keys of the works", vault)
    deployments = Deployments(connection).all()
    yield from _strays(settings, [name for deployment in deployments for name in deployment.references])
    for deployment, reference in ((d, name) for d in deployments for name in d.references):
        try:
            read_credential(reference, settings.secrets)
        except CredentialMissing as error:
            where = (
                "the environment of the server may have it"
                if "variable" in str(error)
                else "it is out of service here"
            )
            state: State = "warning" if "variable" in str(error) else "failed"
            yield Finding(f"credential of {deployment.name}", state, str(error), where)
    ledger = Ledger(connection, clock)
    yield from _fleet(ledger.hosts())
    yield from _secrets_of_fleet(connection, host_secrets(connection, ledger.hosts_of_fleet()))


def _fleet(hosts: list[Host]) -> Iterator[Finding]:
    """Every host that has not left in order: its release, and whether it is silent."""
    said = ", ".join(_of_host(host) for host in hosts)
    releases = {host.release for host in hosts if host.alive}
    if not hosts:
        yield Finding("fleet", "ok", "no host serves")
    elif len(releases) > 1:
        todo = "bring all hosts to one release; see the runbook: A new release"
        yield Finding("fleet", "warning", f"hosts run different releases: {said}", todo)
    else:
        yield Finding("fleet", "ok", said)
    silent = [host.host for host in hosts if not host.alive]
    if silent:
        todo = "start them, or see the runbook: A lost host"
        yield Finding("silent hosts", "warning", f"{', '.join(silent)} ended without leaving", todo)


def _of_host(host: Host) -> str:
    runs = "an earlier release"
    if host.release is not None:
        runs = f"release {host.release.release}, schema {host.release.schema}"
        runs += f", since {host.since:%Y-%m-%d %H:%M} UTC" if host.since is not None else ""
    return f"{host.host} ({runs}{'' if host.alive else f', last seen {host.seen_at:%Y-%m-%d %H:%M} UTC'})"


def _secrets_of_fleet(connection: Connection, hosts: list[HostSecrets]) -> Iterator[Finding]:
    """Rotated secrets have to be on all hosts."""
    announced = {row.version for row in all_peppers(connection) if row.retired_at is None}
    for name, wanted, loaded in (
        ("pepper", announced, [(host.host, set(host.peppers)) for host in hosts if host.reports]),
        ("person-wrap", set().union(*(host.wrapping for host in hosts)),
         [(host.host, set(host.wrapping)) for host in hosts if host.reports]),
    ):  # fmt: skip
        missing = [
            f"{host} lacks {name}-{version}" for host, has in loaded for version in sorted(wanted - has)
        ]
        if missing:
            todo = "copy it into the secrets there, mode 600: it is loaded within seconds"
            yield Finding(f"{name} of the fleet", "warning", ", ".join(missing), todo)
    signing = {host.webhook for host in hosts if host.webhook is not None}
    if len(signing) > 1:
        names = ", ".join(sorted({host.host for host in hosts if host.webhook is not None}))
        todo = f"copy {WEBHOOK} and {WEBHOOK_OLD} from the host where it was rotated to the others"
        yield Finding("webhook secret of the fleet", "warning", f"{names} sign with different ones", todo)
    elif signing:
        yield Finding("webhook secret of the fleet", "ok", "hosts that have one sign alike")


__all__ = ["Finding", "examine"]
