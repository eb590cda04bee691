"""All settings with their defaults and bounds, as one class made of the topics."""

from pathlib import Path

from tokenworks.app.settings.business import Archive, Billing, Mail, Operator, Privacy
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
    Mail,
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

    @property
    def sends_mail(self) -> bool:
        """True if e-mails can be sent. Their links need `public_url`."""
        return bool(self.smtp_host and self.smtp_from and self.public_url)
