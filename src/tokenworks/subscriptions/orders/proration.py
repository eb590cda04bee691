"""Which part of a cycle's price is charged, and which is credited: pure, the same for every operation.

| operation | prorate | full | free_until_next_cycle |
|---|---|---|---|
| first order, resume | charges the share of the rest | charges the whole price | charges nothing, brings the rest's share of the quantity |
| change | charges the new plan's share, credits the old one's unearned share | charges the new plan whole, credits nothing | from the next cycle |
| cancel now | credits the unearned share | credits nothing | credits nothing |
| refund of what is unused | credits what is unearned at that instant | the same | the same |

The policy of the offering that begins says what is charged, and the policy of the offering that ends says what is credited. If one
of two plans is free until its next cycle, a change begins with that cycle. A share is a number of instants (microseconds) over that
of the whole cycle; a price multiplied by a share is rounded down to the nano.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from tokenworks.catalog import Proration


class Part(NamedTuple):
    """`num / den` of a cycle. `free`: this part brings its quantity and is not charged."""

    num: int
    den: int
    free: bool = False


WHOLE: Final = Part(1, 1)
NOTHING: Final = Part(0, 1)


def instants(begin: datetime, end: datetime) -> int:
    """Microseconds from one instant to another; 0 if the second one is earlier.

    In UTC: Python subtracts two times of one zone as local times, which is an hour off across a change of clocks.
    """
    span = end.astimezone(UTC) - begin.astimezone(UTC)
    return max(0, (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds)


def rest(begin: datetime, end: datetime, at: datetime) -> Part:
    """The part of the cycle from `begin` to `end` that is left at an instant."""
    whole = instants(begin, end)
    return Part(min(whole, instants(at, end)), whole) if whole else NOTHING


def joined(policy: Proration, begin: datetime, end: datetime | None, at: datetime) -> Part:
    """The part that is charged of a cycle in which a product begins (a first order) or is resumed. A cycle without an end is
    whole.
    """
    if policy == "full" or end is None:
        return WHOLE
    return rest(begin, end, at)._replace(free=policy == "free_until_next_cycle" and at > begin)


def changed_to(policy: Proration, begin: datetime, end: datetime, at: datetime) -> Part:
    """The part of the new plan's price that is charged from a change to the end of the cycle."""
    assert policy != "free_until_next_cycle"
    return WHOLE if policy == "full" else rest(begin, end, at)


def given_back(policy: Proration, begin: datetime, end: datetime | None, at: datetime) -> Part:
    """The part of a charge from `begin` to `end` that is credited when a change or a cancellation ends its time at an instant."""
    return unearned(begin, end, at) if policy == "prorate" else NOTHING


def unearned(begin: datetime, end: datetime | None, at: datetime) -> Part:
    """The part of a charge from `begin` to `end` that is not earned by time at an instant. A charge without an end is earned at
    once.
    """
    return NOTHING if end is None else rest(begin, end, at)
