"""Names that checks from outside have known a service by since before it was cut in several. `tokenworks.testing` is their door."""

from tokenworks.billing import ChargeFiles, Dunning, Payments
from tokenworks.billing.model import DunningStep


class OutsidePayments(Payments):
    """`Works.payments`, which has the charge files and the dunning, too."""

    charge_files: ChargeFiles
    dunning: Dunning

    def make_file(self) -> tuple[int, str] | None:
        """As `ChargeFiles.make_file`."""
        return self.charge_files.make_file()

    def acknowledge(self, text: str | bytes) -> tuple[int, int]:
        """As `ChargeFiles.acknowledge`."""
        return self.charge_files.acknowledge(text)

    def run_dunning(self) -> dict[DunningStep, int]:
        """As `Dunning.run_dunning`."""
        return self.dunning.run_dunning()
