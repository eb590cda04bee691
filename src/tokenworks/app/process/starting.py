"""Checks before a server starts, and before a running server takes a new release or new settings.

Each check raises an error that says what to do. `check_start` makes all checks that need the database.
"""

import contextlib
import json
from ipaddress import ip_address
from typing import NamedTuple

from psycopg import Connection

from tokenworks.app.database.connections import ask_each_node, connect, database_identity, ensure_usage_months
from tokenworks.app.database.roles import check_role
from tokenworks.app.database.schema import check_schema
from tokenworks.app.process.renewing import Certificates
from tokenworks.app.sealed import check_sealed
from tokenworks.app.settings import Settings, parse_address
from tokenworks.kernel import Invalid, SystemClock
from tokenworks.trust import (
    Peppers,
    PersonVault,
    VaultSecrets,
    check_peppers,
    load_peppers,
    load_vault_secrets,
)


class StartFacts(NamedTuple):
    """What the checks found: whether the database role could change history, the identifier of the cluster (empty: unknown), and the
    secrets that the database was written with.
    """

    may_change_history: bool
    cluster: str
    peppers: Peppers
    vault: VaultSecrets


def check_start(settings: Settings, url: str) -> StartFacts:
    """Raises `TokenworksError` with the first reason why a server can't start."""
    peppers = load_peppers(settings.secrets)
    vault_secrets = load_vault_secrets(settings.secrets)
    with contextlib.closing(connect(url)) as connection:
        check_schema(connection)
        may_change_history = check_role(connection, single_role=settings.single_role)
        check_sealed(connection)
        check_peppers(connection, peppers, settings.secrets, SystemClock().now())
        PersonVault(connection, vault_secrets).check_secrets()
        ensure_usage_months(connection)
        check_durability(settings, connection)
        # The timeline is left out: a fail-over changes it.
        return StartFacts(
            may_change_history, database_identity(connection).partition(":")[0], peppers, vault_secrets
        )


def check_edge(settings: Settings) -> None:
    """Check the public port and the staff port: neither is open by mistake, and the certificate can be loaded."""
    check_exposure(settings)
    # The staff port needs FastAPI, which is large.
    from tokenworks.app.process.staff_listener import check_staff  # noqa: PLC0415

    check_staff(settings)
    if settings.tls_certificate is not None and settings.tls_key is not None:
        # Without this check each worker would fail with it, again and again.
        Certificates(settings.tls_certificate, settings.tls_key)


def check_exposure(settings: Settings) -> None:
    """Plain HTTP is for loopback only, unless a setting allows more. Raises `Invalid`."""
    if settings.tls_key is not None or settings.allow_plain_http or settings.trusted_proxies:
        return
    host, _ = parse_address(settings.listen)
    with contextlib.suppress(ValueError):
        if ip_address(host).is_loopback:
            return
    if host != "localhost":
        raise Invalid(
            f"plain HTTP on {settings.listen} is refused: give tls_certificate and tls_key, or name the proxies in front in trusted_proxies"
        )


def check_durability(settings: Settings, connection: Connection) -> None:
    """Outside dev, a commit has to be on disk when it is answered, on each node of the database. Raises `Invalid`."""
    if settings.environment == "dev":
        return
    answers = ask_each_node(
        connection,
        """SELECT json_build_array(current_setting('synchronous_commit'), current_setting('fsync'),
               current_setting('synchronous_standby_names'))::text""",
    )
    for node, answer in answers.items():
        commit, fsync, standbys = json.loads(answer)
        which = f"node {node} of the database" if node else "the database"
        if commit not in {"on", "remote_apply"} or fsync != "on":
            raise Invalid(
                f'{which} runs with synchronous_commit={commit}, fsync={fsync}: outside environment = "dev" both must be on'
            )
        if not standbys.strip() and not settings.allow_no_standby:
            raise Invalid(
                f"{which} has no synchronous standby (synchronous_standby_names is empty), so a fail-over would lose commits: "
                "give it one, or set allow_no_standby = true"
            )


__all__ = ["StartFacts", "check_durability", "check_edge", "check_exposure", "check_start"]
