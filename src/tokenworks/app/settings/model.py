"""All settings with their defaults and bounds, as one class made of the topics."""

from pathlib import Path

from tokenworks.app.settings.business import Archive, Billing, Operator, Privacy
from tokenworks.app.settings.edge import EdgeLimits
from tokenworks.app.settings.installation import Hosts, Installation, Timeouts
from tokenworks.app.settings.serving import ContentLog, Placement, Recording, Replays, Spending, Tracing
from tokenworks.app.settings.staff import Staff


# In the reverse order of the reference: pydantic reads the fields of the last base first.
class Settings(
    Timeouts,
    Hosts,
    Billing,
    Archive,
    Privacy,
    Staff,
    Operator,
    Tracing,
    ContentLog,
    Replays,
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
