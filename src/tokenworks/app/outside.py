"""Names that checks from outside have known a service by since before it was cut in several. `tokenworks.testing` is their door."""

from typing import Any, Protocol

from tokenworks.billing import ChargeFiles, Dunning, Payments
from tokenworks.billing.model import DunningStep


class _Services(Protocol):
    """What `Payments` was cut into; each is made when it is first asked for."""

    @property
    def charge_files(self) -> ChargeFiles: ...
    @property
    def dunning(self) -> Dunning: ...


class OutsidePayments(Payments):
    """`Works.payments`, which has the charge files and the dunning, too."""

    def __init__(self, services: _Services, *arguments: Any) -> None:
        super().__init__(*arguments)
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
