"""The only wiring: rooms are put together here, on one connection or one process."""

from dataclasses import dataclass
from typing import Any

import psycopg

from tokenworks.app.settings import Settings
from tokenworks.catalog import Offerings
from tokenworks.charging import Ledger
from tokenworks.factory import Deployments
from tokenworks.kernel import Clock, SystemClock
from tokenworks.subscriptions import Subscriptions
from tokenworks.trust import Keys, load_peppers

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Works:
    """Every room's service, on one database connection."""

    connection: Connection
    clock: Clock
    offerings: Offerings
    deployments: Deployments
    ledger: Ledger
    subscriptions: Subscriptions
    keys: Keys


def make_works(settings: Settings, connection: Connection, clock: Clock | None = None) -> Works:
    clock = clock or SystemClock()
    offerings = Offerings(connection)
    ledger = Ledger(connection, clock)
    return Works(
        connection=connection,
        clock=clock,
        offerings=offerings,
        deployments=Deployments(connection),
        ledger=ledger,
        subscriptions=Subscriptions(connection, offerings, ledger, clock),
        keys=Keys(connection, load_peppers(settings.secrets), clock, settings.environment),
    )
