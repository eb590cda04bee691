"""The start of an order for later, from a day or an instant. Pure."""

from datetime import date, datetime
from typing import Final

from tokenworks.kernel import Invalid
from tokenworks.subscriptions.model import BILLING_ZONE

# A start is at most this many days ahead: the price is promised until then.
START_DAYS_MAX: Final = 90
# Orders of one subscriber that wait for their start.
TO_COME_MAX: Final = 20


def start_of(wanted: date, now: datetime) -> datetime | None:
    """The instant at which an order begins; of a day, its first instant in the billing zone. None if the order begins now.

    Today, and an instant of today that is over, mean now. Raises `Invalid` for a day that is over, and for a day more than
    `START_DAYS_MAX` days ahead.
    """
    today = now.astimezone(BILLING_ZONE).date()
    at = _instant(wanted)
    ahead = (at.date() - today).days
    if ahead < 0:
        raise Invalid(f"an order begins today ({today}) or later: {at.date()} is over")
    if ahead > START_DAYS_MAX:
        raise Invalid(f"an order begins at most {START_DAYS_MAX} days from today, not on {at.date()}")
    return at if at > now else None


def same_start(starts_at: datetime | None, ordered_at: datetime, wanted: date | None) -> bool:
    """True if a repeated request wants the start that the first order has. The wanted start may be over by now."""
    if wanted is None:
        return starts_at is None
    wanted_at = _instant(wanted)
    if starts_at is not None:
        return starts_at == wanted_at
    return wanted_at.date() == ordered_at.astimezone(BILLING_ZONE).date()


def _instant(wanted: date) -> datetime:
    if isinstance(wanted, datetime):
        return wanted.astimezone(BILLING_ZONE)
    return datetime(wanted.year, wanted.month, wanted.day, tzinfo=BILLING_ZONE)
