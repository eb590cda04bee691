"""Only what no honest answer of its kind can reach is beyond a bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.plausible import (
    ROUNDS_MAX,
    TEMPLATE_TOKENS,
    RequestShape,
    VisibleOutput,
    bound,
    input_most,
    is_plausible,
)
from tokenworks.gateway.protocol.shown import visible_output

CHAT = RequestShape("chat", context_tokens=131_072)
MESSAGES = CHAT._replace(protocol="messages")


@pytest.mark.parametrize(("counts", "request_shape", "shown"), [
    # Reasoning that is summarised, omitted or redacted: 8000 tokens behind 209 bytes.
    (Counts(100, output=8000), MESSAGES, VisibleOutput(209, hidden=True)),
    (Counts(100, output=3000), MESSAGES._replace(hides_reasoning=True), VisibleOutput(9)),
    (Counts(100, output=10, reasoning=7990), CHAT, VisibleOutput(40)),
    # Twelve calls of a tool with a long name and no arguments.
    (Counts(100, output=360), CHAT, VisibleOutput(12 * 48, calls=12)),
    (Counts(100, output=360), CHAT, VisibleOutput(12 * 12, calls=12)),
    # Batches: every input has the model's context of its own.
    (Counts(80_000), RequestShape("embeddings", 8192, inputs=400, text_bytes=400_000), VisibleOutput(0)),
    (Counts(120_000, output=20), RequestShape("completions", 8192, inputs=20, choices=20, text_bytes=600_000), VisibleOutput(20)),
    # A compaction reads the context once more.
    (Counts(203_000, output=3520), MESSAGES, VisibleOutput(120, hidden=True)),
    # A short link that is a picture, a stored response that is long.
    (Counts(14_000, output=20), CHAT, VisibleOutput(60)),
    (Counts(90_000, output=20), RequestShape("responses", 131_072), VisibleOutput(60)),
    # Sound: tokens without text.
    (Counts(50, output=10, audio_output=900), CHAT, VisibleOutput(30, media=True)),
    # The filter took the text away after it was made.
    (Counts(50, output=400), CHAT, VisibleOutput(0, hidden=True)),
    # One token a byte, which is what a byte-level tokenizer does at worst, and the marks of the choice.
    (Counts(50, output=1064), CHAT, VisibleOutput(1000)),
])  # fmt: skip
def test_honest_answers_are_within(counts, request_shape, shown):
    beyond = bound(counts, request_shape, shown)
    assert not any(beyond.counts)
    assert "implausible" not in beyond.flags


@pytest.mark.parametrize(("counts", "request_shape", "shown", "expected"), [
    (Counts(10, output=2000), CHAT, VisibleOutput(100), Counts(output=2000 - 164)),
    (Counts(131_072 + 7), CHAT, VisibleOutput(5), Counts(7)),
    (Counts(10, 131_072), CHAT, VisibleOutput(5), Counts(10)),
    (Counts(8192 * 3 + 1), RequestShape("embeddings", 8192, inputs=3), VisibleOutput(0), Counts(1)),
    (Counts(10, output=5), RequestShape("embeddings", 8192), VisibleOutput(0), Counts(output=5)),
    (Counts(10, reasoning=131_073), CHAT, VisibleOutput(5, hidden=True), Counts(reasoning=1)),
    (Counts(TEMPLATE_TOKENS + 3), CHAT._replace(text_bytes=2), VisibleOutput(5), Counts(1)),
    (Counts(cache_write_1h=131_072 * ROUNDS_MAX + 2), MESSAGES, VisibleOutput(5), Counts(cache_write_1h=2)),
])  # fmt: skip
def test_what_cannot_be_is_beyond_and_no_more(counts, request_shape, shown, expected):
    assert bound(counts, request_shape, shown) == (expected, ("implausible",))


def test_what_is_odd_is_flagged_and_nothing_else():
    assert bound(Counts(10, output=1000), CHAT, VisibleOutput(1000)) == (Counts(), ("odd",))
    assert bound(Counts(10, output=1), CHAT, VisibleOutput(5000)) == (Counts(), ("odd",))
    assert bound(Counts(10, output=250), CHAT, VisibleOutput(1000)) == (Counts(), ())
    assert bound(Counts(10, output=3, reasoning=900), CHAT, VisibleOutput(12)) == (Counts(), ())


counts = st.builds(Counts, *[st.integers(0, 300_000)] * 8)
requests = st.builds(
    RequestShape, st.sampled_from(["chat", "messages", "responses", "completions", "embeddings"]), st.integers(1, 200_000),
    inputs=st.integers(0, 50), choices=st.integers(0, 8), text_bytes=st.none() | st.integers(0, 10**6), hides_reasoning=st.booleans(),
)  # fmt: skip
outputs = st.builds(VisibleOutput, st.integers(0, 10**6), st.integers(0, 40), st.booleans(), st.booleans())


@given(counts, requests, outputs)
def test_what_is_within_the_bounds_is_within_them(counts, request_shape, shown):
    """Taking away what is beyond leaves what is not; nothing is negative, and no class loses more than it has."""
    beyond = bound(counts, request_shape, shown)
    assert all(0 <= lost <= had for lost, had in zip(beyond.counts, counts, strict=True))
    rest = Counts(*(had - lost for lost, had in zip(beyond.counts, counts, strict=True)))
    assert not any(bound(rest, request_shape, shown).counts)
    assert rest.input_tokens <= input_most(request_shape)
    assert any(beyond.counts) == (beyond.flags == ("implausible",))


@given(counts, requests, outputs, st.integers(0, 10**6))
def test_more_that_is_shown_never_makes_less_plausible(counts, request_shape, shown, more):
    before = bound(counts, request_shape, shown).counts
    after = bound(counts, request_shape, shown._replace(text_bytes=shown.text_bytes + more)).counts
    assert sum(after) <= sum(before)


@given(
    st.tuples(*[st.integers(0, 3000)] * 8),
    st.integers(0, 50_000),
    st.integers(1, 40_000),
    st.integers(0, 9000),
    st.sampled_from(["chat", "completions", "messages", "responses"]),
    st.integers(1, 4),
)
def test_what_is_usual_is_within_every_bound(counts, text_bytes, context, size, protocol, choices):
    made = Counts(*counts)
    if is_plausible(made, text_bytes, context, size):
        request_shape = RequestShape(protocol, context, 1, choices, text_bytes)
        assert bound(made, request_shape, visible_output(b" " * size, protocol, made)) == (Counts(), ())
