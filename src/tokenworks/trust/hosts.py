"""Which secrets each host of the fleet has loaded, as its recorder reports it: what is rotated is used when all of them have it."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection

from tokenworks.kernel import Conflict
from tokenworks.trust import host_store as store


class HostSecrets(NamedTuple):
    """Of one host: the versions that each of its processes has, and that are the works' own by their fingerprints. `issues_under`:
    the pepper that its control plane makes new keys under. `webhook`: the fingerprint of its webhook secret, None without one.
    `reports` is False for a host that has said nothing yet, such as one of an earlier release.
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
    """What each of these hosts (journal, name, last heard of) has loaded."""
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
    """What a host has loaded, in place of what it reported before."""
    store.report(connection, journal_id, list(peppers), issues_under, list(wrapping), webhook)


def refuse_where_missing(hosts: Sequence[HostSecrets], file: str, has: Callable[[HostSecrets], bool]) -> None:
    """Raises `Conflict`, which names the hosts of the fleet that have not loaded a file."""
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
