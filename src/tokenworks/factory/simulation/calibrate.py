"""Fits the simulator's engine to the timings of a real engine, by straight lines through the points.

A prompt's time to first token is a constant and a time per token; the time between two tokens of an answer is a constant and a time
per answer that is written at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tokenworks.factory.errors import TraceFaulty
from tokenworks.factory.simulation.engine import EngineSpec

LEAST_MS = 0.001


class PromptTiming(NamedTuple):
    """One prompt that was read alone: its tokens, none of them cached, and the time to its first token."""

    tokens: int
    first_token_ms: float


class AnswerTiming(NamedTuple):
    """How many answers were written at once, and the mean time between two tokens of one of them."""

    at_once: int
    gap_ms: float


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(constant, slope) by least squares. Raises `TraceFaulty` if the points have fewer than two different x values."""
    if len({x for x, _ in points}) < 2:
        raise TraceFaulty("a line needs points with at least two different x values")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - slope * mean_x, slope


def fit(
    name: str,
    prompts: Sequence[PromptTiming],
    answers: Sequence[AnswerTiming],
    *,
    slots_max: int | None = None,
    round_trip_ms: float = 0.0,
    cache_blocks: int = 3000,
) -> EngineSpec:
    """The engine that fits the timings. `round_trip_ms` is subtracted from each time to first token."""
    base_ms, token_ms = line([(prompt.tokens, prompt.first_token_ms - round_trip_ms) for prompt in prompts])
    if token_ms <= 0:
        raise TraceFaulty("longer prompts did not take longer: were they cached, or is the engine busy?")
    decode_ms, more_ms = line([(answer.at_once, answer.gap_ms) for answer in answers])
    if decode_ms <= 0:
        # Nearly all of the time is each answer's own: the engine writes answers one after the other.
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
