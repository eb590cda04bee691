"""`tokenworks init`: make an installation, or upgrade it to this release. It can be repeated."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import OwnedDatabase, connect
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import Step, check_schema, current_revision, migrate, plan_steps
from tokenworks.app.database.sealing import Progress, seal_existing
from tokenworks.app.settings import Settings
from tokenworks.catalog import Catalogue
from tokenworks.charging import Host, Ledger
from tokenworks.kernel import SystemClock
from tokenworks.trust import check_first_pepper, check_peppers, ensure_pepper, load_peppers


class InstallPlan(NamedTuple):
    """The present schema (None: no schema), the steps to this release's schema, and the hosts that the database knows."""

    there: str | None
    steps: list[Step]
    hosts: list[Host]


def bring_schema(place: OwnedDatabase, progress: Callable[[str], None]) -> str:
    """Bring the schema to this release's, and make the role that serves. Returns the revision. Raises `Unavailable` and `Invalid`."""
    return migrate(place.owner_url, progress, app_url=None if place.single_role else place.url)


def install(
    settings: Settings,
    place: OwnedDatabase,
    content: Catalogue,
    sealing: Callable[[], contextlib.AbstractContextManager[Progress]],
) -> int:
    """Make secrets, encrypt personal texts, load the catalogue. Returns how many versions of offerings are new.

    Raises `Unavailable` and `Invalid`.
    """
    # Connected as the role that serves, so that a missing right fails here.
    with contextlib.closing(connect(place.url)) as connection:
        check_schema(connection)
        check_role(connection, single_role=settings.single_role)
        check_first_pepper(connection, settings.secrets)
        ensure_pepper(settings.secrets)
        check_peppers(connection, load_peppers(settings.secrets), settings.secrets, datetime.now(UTC))
        services = make_works(settings, connection)
        services.vault.check_secrets()
        with contextlib.closing(connect(place.owner_url)) as owner, sealing() as progress:
            seal_existing(owner, make_works(settings, owner).vault, progress)
        return services.offerings.load(content)


def plan_install(url: str) -> InstallPlan:
    """What `bring_schema` would do."""
    with contextlib.closing(connect(url)) as connection:
        there, steps = current_revision(connection), plan_steps(connection)
        hosts = Ledger(connection, SystemClock()).hosts() if there is not None else []
    return InstallPlan(there, steps, hosts)


def older_hosts(hosts: list[Host], oldest: str, there: str | None) -> list[str]:
    """The serving hosts whose release can't run on a schema that needs at least the release of schema `oldest`. A host that does not
    report its release runs one of the present schema, or of an earlier one.
    """
    return [
        host.host
        for host in hosts
        if host.alive and (host.release.schema if host.release is not None else there or "") < oldest
    ]
