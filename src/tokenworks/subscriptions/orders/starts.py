"""When an order is to begin, as people and systems say it: pure."""

from datetime import date, datetime
from typing import Final

from tokenworks.kernel import Invalid
from tokenworks.subscriptions.model import BILLING_ZONE

# A start is at most so many days ahead: a price is promised for so long.
START_DAYS_MAX: Final = 90
# Of one subscriber, so many orders wait for their start at most.
TO_COME_MAX: Final = 20


def start_of(wanted: date, now: datetime) -> datetime | None:
    """The instant at which an order begins: of a day its first one, in the seller's zone; None where that is now.

    Today counts as now, but for an instant of today that is still to come. Raises `Invalid` for a day that is over, and for one
    more than `START_DAYS_MAX` days ahead.
    """
    today = now.astimezone(BILLING_ZONE).date()
    at = _instant(wanted)
    ahead = (at.date() - today).days
    if ahead < 0:
        raise Invalid(f"an order begins today ({today}) or later: {at.date()} is over")
    if ahead > START_DAYS_MAX:
        raise Invalid(f"an order begins at most {START_DAYS_MAX} days from today, not on {at.date()}")
    return at if at > now else None


def same_start(before: datetime | None, ordered_at: datetime, wanted: date | None) -> bool:
    """Whether an order that came before began as this request says, which may come when that is over."""
    if wanted is None:
        return before is None
    said = _instant(wanted)
    if before is not None:
        return before == said
    return said.date() == ordered_at.astimezone(BILLING_ZONE).date()


def _instant(wanted: date) -> datetime:
    if isinstance(wanted, datetime):
        return wanted.astimezone(BILLING_ZONE)
    return datetime(wanted.year, wanted.month, wanted.day, tzinfo=BILLING_ZONE)
