"""From what was timed of a real engine to what the simulator has to know of it: straight lines through the points.

A prompt's time to first token is a constant and so much a token; the time between two tokens of an answer is a constant and so
much for each answer that is written at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tokenworks.factory.errors import TraceFaulty
from tokenworks.factory.simulation.engine import EngineSpec

LEAST_MS = 0.001


class PromptTiming(NamedTuple):
    """One prompt that was read alone: its tokens, none of them cached, and when its answer's first token came."""

    tokens: int
    first_token_ms: float


class AnswerTiming(NamedTuple):
    """Answers that were written at once: how many, and the mean time between two tokens of one of them."""

    at_once: int
    gap_ms: float


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(constant, slope) by least squares. Raises `TraceFaulty` where they are at fewer than two places."""
    if len({x for x, _ in points}) < 2:
        raise TraceFaulty("a line needs points at two places at least")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - slope * mean_x, slope


def fit(
    name: str,
    reads: Sequence[PromptTiming],
    written: Sequence[AnswerTiming],
    *,
    slots_max: int | None = None,
    round_trip_ms: float = 0.0,
    cache_blocks: int = 3000,
) -> EngineSpec:
    """An engine as it was timed. `round_trip_ms` is taken out of the time to first token."""
    base_ms, token_ms = line([(read.tokens, read.first_token_ms - round_trip_ms) for read in reads])
    if token_ms <= 0:
        raise TraceFaulty("longer prompts did not take longer: were they cached, or is the engine busy?")
    decode_ms, more_ms = line([(one.at_once, one.gap_ms) for one in written])
    if decode_ms <= 0:
        # Nearly all of it is each answer's own: an engine that writes them in turn.
        decode_ms = LEAST_MS
    return EngineSpec(
        name=name,
        prefill_base_ms=max(0.0, base_ms),
        prefill_ms_per_token=token_ms,
        decode_base_ms=decode_ms,
        decode_ms_per_request=max(0.0, more_ms),
        slots_max=slots_max,
        round_trip_ms=round_trip_ms,
        cache_blocks=cache_blocks,
    )
