"""What was timed of an engine becomes what the simulator knows of it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory import AnswerTiming, PromptTiming, TraceFaulty, TraceRequest, fit, simulate


@given(st.floats(0, 200), st.floats(0.01, 5), st.floats(1, 100), st.floats(0, 20), st.floats(0, 80))
def test_lines_are_found_again(base, per_token, decode, per_request, round_trip):
    spec = fit(
        "engine",
        [PromptTiming(n, round_trip + base + per_token * n) for n in (50, 200, 500, 1000)],
        [AnswerTiming(n, decode + per_request * n) for n in (1, 2, 4)],
        round_trip_ms=round_trip,
        slots_max=4,
    )
    assert spec.prefill_base_ms == pytest.approx(base, abs=1e-3)
    assert spec.prefill_ms_per_token == pytest.approx(per_token, rel=1e-6)
    assert spec.decode_base_ms == pytest.approx(decode, abs=1e-3)
    assert spec.decode_ms_per_request == pytest.approx(per_request, abs=1e-3)


def test_what_cannot_be_is_said():
    written = [AnswerTiming(1, 10.0), AnswerTiming(2, 11.0)]
    with pytest.raises(TraceFaulty, match="did not take longer"):
        fit("e", [PromptTiming(10, 50.0), PromptTiming(1000, 40.0)], written)
    with pytest.raises(TraceFaulty, match="two different x values"):
        fit("e", [PromptTiming(10, 50.0)], written)
    assert (
        fit(
            "e",
            [PromptTiming(10, 50.0), PromptTiming(100, 90.0)],
            [AnswerTiming(1, 5.0), AnswerTiming(4, 20.0)],
        ).decode_base_ms
        > 0
    )


def test_a_simulation_of_a_fitted_engine_is_of_that_engine():
    spec = fit(
        "e",
        [PromptTiming(100, 60.0), PromptTiming(1000, 510.0)],
        [AnswerTiming(1, 12.0), AnswerTiming(4, 15.0)],
    )
    rng = random.Random(2)
    alone = simulate(
        [TraceRequest(n * 60_000.0, rng.randint(100, 900), 50) for n in range(20)],
        [spec],
        "round_robin",
        off=0.0,
    )
    mean_tokens = 500
    assert alone.mean_first_token_s * 1000 == pytest.approx(10 + 0.5 * mean_tokens, rel=0.2)
