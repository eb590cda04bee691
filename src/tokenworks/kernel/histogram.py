"""How often something took how long: counts below fixed bounds, as Prometheus reads them. Integers alone."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence


class Histogram:
    """`bounds`: upper ends, inclusive, ascending, in the unit of what is observed; one count more is for what is above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[int]) -> None:
        """Many at once, of which most are alike."""
        for value, times in Counter(values).items():
            self.counts[bisect_left(self.bounds, value)] += times
        self.total += sum(values)

    def add(self, row: Sequence[int]) -> None:
        """What another one, of the same bounds, has seen (its `wire`)."""
        assert len(row) == len(self.counts) + 1, "another one's bounds"
        for at, count in enumerate(row[:-1]):
            self.counts[at] += count
        self.total += row[-1]

    def wire(self) -> list[int]:
        """Its counts and then its total."""
        return [*self.counts, self.total]

    @property
    def count(self) -> int:
        return sum(self.counts)
