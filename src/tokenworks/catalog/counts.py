"""Numbers of tokens by class, and the weights of classes, as tuples of integers for the hot path."""

from collections.abc import Sequence
from typing import Final, NamedTuple

# Disjoint classes, which add up to the provider's total, in the order in which a record is split between buckets.
TOKEN_CLASSES: Final = (
    "fresh_input",
    "cached_input",
    "cache_write",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
    # Last, so that seven counts in journals and rows of earlier releases keep their meaning.
    "cache_write_1h",
)
INPUT_CLASSES: Final = frozenset(
    {"fresh_input", "cached_input", "cache_write", "audio_input", "cache_write_1h"}
)


class Counts(NamedTuple):
    """The tokens of one attempt by class: the disjoint parts of the usage that the provider reported.

    `cache_write_1h`: input that is written into a cache for an hour, which costs more than for minutes (`cache_write`).
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
    """The cost of one request, and of one token of each class, in the bucket's unit."""

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
        """The cost of the dearest input token."""
        return max(self[1], self[2], self[3], self[4], self[8])

    @property
    def most_output(self) -> int:
        """The cost of the dearest output token."""
        return max(self[5], self[6], self[7])


def weights_of(row: Sequence[int]) -> Weights:
    """The weights in a row of a journal. Earlier releases wrote eight values: `cache_write_1h` then has the weight of
    `cache_write`.
    """
    return Weights._make(row if len(row) == len(Weights._fields) else [*row, row[3]])
