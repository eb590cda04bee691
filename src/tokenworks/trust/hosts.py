"""The secrets that each host of the fleet has loaded, as its recorder reports. A rotated secret is used when all hosts have loaded it."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Conflict
from tokenworks.trust import host_store as store


class HostSecrets(NamedTuple):
    """The secrets of one host: the versions that all of its processes have loaded and whose fingerprints match the database.

    `reports`: False if the host has not reported yet, for example because its release is older. `issues_under`: the pepper version under
    which its control plane makes new keys. `webhook`: the fingerprint of its webhook secret; None if it has none.
    """

    journal_id: UUID
    host: str
    seen_at: datetime
    reports: bool = False
    peppers: tuple[int, ...] = ()
    issues_under: int | None = None
    wrapping: tuple[int, ...] = ()
    webhook: bytes | None = None


def host_secrets(connection: Connection, hosts: Iterable[tuple[UUID, str, datetime]]) -> list[HostSecrets]:
    """The secrets of each of these hosts, which are given as (journal, name, last seen)."""
    seen = list(hosts)
    reports = {
        row[0]: row[1:] for row in store.reports(connection, [journal_id for journal_id, _, _ in seen])
    }
    found = []
    for journal_id, host, seen_at in seen:
        report = reports.get(journal_id)
        if report is None:
            found.append(HostSecrets(journal_id, host, seen_at))
        else:
            peppers, issues_under, wrapping, webhook = report
            found.append(
                HostSecrets(journal_id, host, seen_at, True, tuple(peppers), issues_under, tuple(wrapping),
                            None if webhook is None else bytes(webhook))
            )  # fmt: skip
    return found


def report_secrets(
    connection: Connection,
    journal_id: UUID,
    *,
    peppers: Sequence[int],
    issues_under: int | None,
    wrapping: Sequence[int],
    webhook: bytes | None,
) -> None:
    """Store which secrets a host has loaded. Replaces its earlier report."""
    store.report(connection, journal_id, list(peppers), issues_under, list(wrapping), webhook)


def refuse_where_missing(hosts: Sequence[HostSecrets], file: str, has: Callable[[HostSecrets], bool]) -> None:
    """Raises `Conflict` with the names of the hosts that have not loaded a file. `has`: True for a host that has."""
    missing = [host for host in hosts if not has(host)]
    if missing:
        names = ", ".join(
            f"{host.host} (heard of at {host.seen_at:%Y-%m-%d %H:%M:%S} UTC)" for host in missing
        )
        raise Conflict(
            f"{file} is not loaded on {names}: copy it into the secrets there, mode 600; a host that serves takes it within "
            "seconds. Where that host is gone for good: --force"
        )


__all__ = ["HostSecrets", "host_secrets", "refuse_where_missing", "report_secrets"]
