"""Tokens by class, and what each costs: plain tuples of integers, for the hot path."""

from collections.abc import Sequence
from typing import Final, NamedTuple

# Disjoint classes in the order in which a record is split between buckets; they add up to the provider's total.
TOKEN_CLASSES: Final = (
    "fresh_input",
    "cached_input",
    "cache_write",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
    # Last, so that counts of seven classes in journals and rows of earlier releases go on to mean what they did.
    "cache_write_1h",
)
INPUT_CLASSES: Final = frozenset(
    {"fresh_input", "cached_input", "cache_write", "audio_input", "cache_write_1h"}
)


class Counts(NamedTuple):
    """Tokens of one attempt by class: the disjoint parts of what the provider reported.

    `cache_write_1h`: input written into a cache for an hour, which costs more than one for minutes (`cache_write`).
    """

    fresh_input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    cache_write_1h: int = 0

    @property
    def input_tokens(self) -> int:
        return self[0] + self[1] + self[2] + self[3] + self[7]

    @property
    def output_tokens(self) -> int:
        """Reasoning and audio included."""
        return self[4] + self[5] + self[6]

    @property
    def total(self) -> int:
        return sum(self)


class Weights(NamedTuple):
    """What one request and one token of each class cost, in the bucket's unit."""

    request: int
    fresh_input: int
    cached_input: int
    cache_write: int
    audio_input: int
    output: int
    reasoning: int
    audio_output: int
    cache_write_1h: int

    @property
    def most_input(self) -> int:
        """What an input token costs at most."""
        return max(self[1], self[2], self[3], self[4], self[8])

    @property
    def most_output(self) -> int:
        """What an output token costs at most."""
        return max(self[5], self[6], self[7])


def weights_of(row: Sequence[int]) -> Weights:
    """Weights as a journal has them. Of eight values, as earlier releases wrote them, the hour's cache write costs what any does."""
    return Weights._make(row if len(row) == len(Weights._fields) else [*row, row[3]])
