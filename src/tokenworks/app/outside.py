"""Services under names that code outside of this repository uses since before they were cut. New code uses `tokenworks.testing`."""

from typing import Protocol

from psycopg import Connection

from tokenworks.billing import Bills, ChargeFiles, Dunning, Payments
from tokenworks.billing.model import DunningStep
from tokenworks.billing.providers import SecondConnection
from tokenworks.charging import Charges
from tokenworks.kernel import Clock
from tokenworks.subscriptions import Subscriptions


class _Services(Protocol):
    """The services that took over methods of `Payments`. Each is made when it is first used."""

    @property
    def charge_files(self) -> ChargeFiles: ...
    @property
    def dunning(self) -> Dunning: ...


class OutsidePayments(Payments):
    """The service `payments` with the methods of charge files and dunning that it had before."""

    def __init__(
        self,
        services: _Services,
        connection: Connection,
        bills: Bills,
        charges: Charges,
        subscriptions: Subscriptions,
        clock: Clock,
        beside: SecondConnection,
    ) -> None:
        super().__init__(connection, bills, charges, subscriptions, clock, beside)
        self._services = services

    def make_file(self) -> tuple[int, str] | None:
        """As `ChargeFiles.make_file`."""
        return self._services.charge_files.make_file()

    def acknowledge(self, text: str | bytes) -> tuple[int, int]:
        """As `ChargeFiles.acknowledge`."""
        return self._services.charge_files.acknowledge(text)

    def run_dunning(self) -> dict[DunningStep, int]:
        """As `Dunning.run_dunning`."""
        return self._services.dunning.run_dunning()
