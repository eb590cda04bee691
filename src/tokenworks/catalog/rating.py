"""Rating: the cost of an attempt, and the split of a record between buckets at whole tokens. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from tokenworks.catalog.counts import Counts, Weights

NO_COUNTS = Counts()
# The index of the request (by its flat weight), before the token classes in declared order.
_REQUEST = 0


class Share(NamedTuple):
    """The part of a record that one bucket pays: `amount` in its unit, for `requests` (0 or 1) and `counts` tokens."""

    amount: int
    requests: int
    counts: Counts


def amount(weights: Weights, counts: Counts) -> int:
    """The cost of a whole attempt in a bucket's unit. Exact: integers in, integer out."""
    return (
        weights[0]
        + weights[1] * counts[0]
        + weights[2] * counts[1]
        + weights[3] * counts[2]
        + weights[4] * counts[3]
        + weights[5] * counts[4]
        + weights[6] * counts[5]
        + weights[7] * counts[6]
        + weights[8] * counts[7]
    )


def first_tokens(counts: Counts, limit: int) -> Counts:
    """The first `limit` tokens of `counts`, classes in declared order."""
    taken = []
    for count in counts:
        taken.append(min(count, limit))
        limit -= taken[-1]
    return Counts(*taken)


def split(
    buckets: Iterable[tuple[Weights, int]], counts: Counts, requests: int = 1
) -> tuple[list[Share], int, Counts]:
    """Draw a record from `(weights, available)` buckets in order, at whole tokens, classes in declared order.

    Return the share of each bucket, and the rest that no bucket could pay: the request (0 or 1) and tokens by class. Each share's
    amount is at most the bucket's `available`; the shares and the rest add up to `requests` and `counts`.
    """
    left = [requests, *counts]
    shares = []
    for weights, available in buckets:
        taken = [0] * len(left)
        free = available
        for at, weight in enumerate(weights):
            if not left[at]:
                continue
            whole = left[at] if not weight else min(left[at], free // weight)
            taken[at] = whole
            left[at] -= whole
            free -= whole * weight
            if left[at]:
                break
        shares.append(Share(available - free, taken[_REQUEST], Counts(*taken[1:])))
        if not any(left):
            break
    return shares, left[_REQUEST], Counts(*left[1:])
