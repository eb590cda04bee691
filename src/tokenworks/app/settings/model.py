"""Every setting, its default and its bounds, put together from its topics."""

from pathlib import Path

from tokenworks.app.settings.business import Archive, Billing, Operator, Privacy
from tokenworks.app.settings.edge import EdgeLimits
from tokenworks.app.settings.installation import Ending, Hosts, Installation
from tokenworks.app.settings.serving import Placement, Recording, Spending


# In the order of the reference, from its end: pydantic reads the fields of the last base first.
class Settings(
    Ending,
    Hosts,
    Billing,
    Archive,
    Privacy,
    Operator,
    Spending,
    Recording,
    Placement,
    EdgeLimits,
    Installation,
):
    """Every setting. Sizes in bytes, times in seconds, as the names say."""

    @property
    def journal(self) -> Path:
        return self.journal_dir or self.data_dir / "journal"
