"""A histogram: counts of values below fixed bounds, as Prometheus reads them. Integers only."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence


class Histogram:
    """`bounds`: inclusive upper bounds, ascending, in the unit of the values. `counts` has one more count, of values above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[int]) -> None:
        """Observe many values, of which most are equal."""
        for value, times in Counter(values).items():
            self.counts[bisect_left(self.bounds, value)] += times
        self.total += sum(values)

    def add(self, row: Sequence[int]) -> None:
        """Add the counts of another histogram with the same bounds. `row` is its `wire`."""
        assert len(row) == len(self.counts) + 1, "a histogram with other bounds"
        for at, count in enumerate(row[:-1]):
            self.counts[at] += count
        self.total += row[-1]

    def wire(self) -> list[int]:
        """The counts, then the total of all values."""
        return [*self.counts, self.total]

    @property
    def count(self) -> int:
        return sum(self.counts)
