"""`tokenworks init`: make an installation, or bring it to this release. Safe to run again."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import OwnedDatabase, connect
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import Step, check_schema, current, migrate, plan_steps
from tokenworks.app.database.sealing import Progress, seal_existing
from tokenworks.app.settings import Settings
from tokenworks.catalog import Catalogue
from tokenworks.charging import Host, Ledger
from tokenworks.kernel import SystemClock
from tokenworks.trust import check_first_pepper, check_peppers, ensure_pepper, load_peppers


class Plan(NamedTuple):
    """The schema that is there (None: none), the steps to this release's, and the hosts that the database knows."""

    there: str | None
    steps: list[Step]
    hosts: list[Host]


def bring_schema(place: OwnedDatabase, progress: Callable[[str], None]) -> str:
    """To this release's, with the role that serves. Returns the revision. Raises `Unavailable` and `Invalid`."""
    return migrate(place.owner_url, progress, app_url=None if place.single_role else place.url)


def install(
    settings: Settings,
    place: OwnedDatabase,
    content: Catalogue,
    sealing: Callable[[], contextlib.AbstractContextManager[Progress]],
) -> int:
    """Secrets, encryption of personal texts, catalogue. Returns how many versions of offerings are new.

    Raises `Unavailable` and `Invalid`.
    """
    # As the role that serves: what it lacks is said here.
    with contextlib.closing(connect(place.url)) as connection:
        check_schema(connection)
        check_role(connection, single_role=settings.single_role)
        check_first_pepper(connection, settings.secrets)
        ensure_pepper(settings.secrets)
        check_peppers(connection, load_peppers(settings.secrets), settings.secrets, datetime.now(UTC))
        services = make_works(settings, connection)
        services.vault.check_secrets()
        with contextlib.closing(connect(place.owner_url)) as owner, sealing() as told:
            seal_existing(owner, make_works(settings, owner).vault, told)
        return services.offerings.load(content)


def plan(url: str) -> Plan:
    """What `install` would do to the schema."""
    with contextlib.closing(connect(url)) as connection:
        there, steps = current(connection), plan_steps(connection)
        hosts = Ledger(connection, SystemClock()).hosts() if there is not None else []
    return Plan(there, steps, hosts)


def older_hosts(hosts: list[Host], oldest: str, there: str | None) -> list[str]:
    """Of those that serve, whose release can't run on a schema that wants at least the release of schema `oldest`. One that does not
    say its release is of the schema that is there, or of an earlier one.
    """
    return [
        host.host
        for host in hosts
        if host.alive and (host.release.schema if host.release is not None else there or "") < oldest
    ]
