"""What a part of a cycle costs, and what comes back of one: pure, the same for every operation.

| operation | prorate | full | free_until_next_cycle |
|---|---|---|---|
| first order, resume | the rest's share | whole | nothing, and the rest's share of the quantity |
| change | the new plan's share, the old one's unearned share back | the new one whole, nothing back | from the next cycle |
| cancel now | the unearned share back | nothing | nothing |
| refund of what is unused | what is unearned at that instant | the same | the same |

What is charged goes by the policy of the offering that begins, what comes back by that of the one that ends; where either of two
plans is free until its next cycle, a change begins there. A share is a number
of instants (microseconds) over that of the whole cycle; whoever multiplies a price with it rounds down to the nano.
"""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from tokenworks.catalog import Proration


class Part(NamedTuple):
    """`num / den` of a cycle; `free`: its quantity comes, its price does not."""

    num: int
    den: int
    free: bool = False


WHOLE: Final = Part(1, 1)
NOTHING: Final = Part(0, 1)


def instants(begin: datetime, end: datetime) -> int:
    """Microseconds from one instant to another, none where that is earlier.

    By UTC: two times of one zone are subtracted by their clocks' faces otherwise, which is an hour off over a change of clocks.
    """
    span = end.astimezone(UTC) - begin.astimezone(UTC)
    return max(0, (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds)


def rest(begin: datetime, end: datetime, at: datetime) -> Part:
    """The part of the cycle from `begin` to `end` that is left at an instant."""
    whole = instants(begin, end)
    return Part(min(whole, instants(at, end)), whole) if whole else NOTHING


def joined(policy: Proration, begin: datetime, end: datetime | None, at: datetime) -> Part:
    """Of a cycle in which a product begins (a first order), or begins again (a resume). What has no end is whole."""
    if policy == "full" or end is None:
        return WHOLE
    return rest(begin, end, at)._replace(free=policy == "free_until_next_cycle" and at > begin)


def changed_to(policy: Proration, begin: datetime, end: datetime, at: datetime) -> Part:
    """Of the new plan's price, from a change to the end of its cycle. One that is free until then begins there."""
    assert policy != "free_until_next_cycle"
    return WHOLE if policy == "full" else rest(begin, end, at)


def given_back(policy: Proration, begin: datetime, end: datetime | None, at: datetime) -> Part:
    """Of what was charged from `begin` to `end`, where a change or a cancellation ends it at an instant."""
    return unearned(begin, end, at) if policy == "prorate" else NOTHING


def unearned(begin: datetime, end: datetime | None, at: datetime) -> Part:
    """Of what was charged from `begin` to `end`: by time, what is not earned at an instant. What has no end is earned at once."""
    return NOTHING if end is None else rest(begin, end, at)
