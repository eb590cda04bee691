"""Instants as texts for people: in the billing zone, a period by its first and its last day.

In data, the end of a period is an exclusive instant: a month ends at the midnight in which the next month begins. A person reads
the last day of the period. Pages, commands, the PDF and the charge file use only these functions.
"""

from datetime import datetime, timedelta
from typing import Final

from tokenworks.subscriptions.model import BILLING_ZONE

_TICK: Final = timedelta(microseconds=1)


def day_of(at: datetime) -> str:
    """The day of an instant: YYYY-MM-DD."""
    return f"{at.astimezone(BILLING_ZONE):%Y-%m-%d}"


def last_day(end: datetime) -> str:
    """The last day of a period with this exclusive end: the day before a midnight, else the day itself."""
    return day_of(end - _TICK)


def minute_of(at: datetime) -> str:
    """YYYY-MM-DD HH:MM."""
    return f"{at.astimezone(BILLING_ZONE):%Y-%m-%d %H:%M}"


def second_of(at: datetime) -> str:
    """YYYY-MM-DD HH:MM:SS."""
    return f"{at.astimezone(BILLING_ZONE):%Y-%m-%d %H:%M:%S}"


def end_of_day(day: datetime) -> datetime:
    """The exclusive end of a day that a person named: the midnight after it."""
    begin = day.replace(tzinfo=BILLING_ZONE, hour=0, minute=0, second=0, microsecond=0)
    return begin + timedelta(days=1)
