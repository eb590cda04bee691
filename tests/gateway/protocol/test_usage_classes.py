import json

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import anthropic_usage, openai_usage

maybe = st.one_of(st.none(), st.integers(-5, 10**6))


@given(st.fixed_dictionaries({}, optional={
    "prompt_tokens": maybe, "completion_tokens": maybe, "total_tokens": maybe,
    "prompt_tokens_details": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"cached_tokens": maybe, "audio_tokens": maybe, "cache_write_tokens": maybe})),
    "completion_tokens_details": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"reasoning_tokens": maybe, "audio_tokens": maybe})),
}))  # fmt: skip
def test_whatever_a_provider_says_classes_are_disjoint_and_add_up(said):
    usage = openai_usage(json.dumps(said).encode())
    if usage is None:
        return
    assert all(count >= 0 for count in usage.counts)
    if "inconsistent" not in usage.flags:
        assert sum(usage.counts) == usage.total


def test_reasoning_beside_the_completion():
    usage = openai_usage(
        b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,"completion_tokens_details":{"reasoning_tokens":7}}'
    )
    assert (usage.counts, usage.flags) == (Counts(fresh_input=10, output=5, reasoning=7), ())


def test_deepseek_names_its_cache_hits_otherwise():
    usage = openai_usage(
        b'{"prompt_tokens":10,"completion_tokens":1,"total_tokens":11,"prompt_cache_hit_tokens":8}'
    )
    assert usage.counts == Counts(fresh_input=2, cached_input=8, output=1)


def test_audio_tokens_are_classes_of_their_own():
    usage = openai_usage(
        b'{"prompt_tokens":10,"completion_tokens":6,"total_tokens":16,"prompt_tokens_details":{"audio_tokens":4},"completion_tokens_details":{"audio_tokens":5}}'
    )
    assert usage.counts == Counts(fresh_input=6, audio_input=4, output=1, audio_output=5)


def test_anthropic_reports_twice_and_the_end_wins():
    first = anthropic_usage(
        b'{"input_tokens":5,"cache_read_input_tokens":2,"cache_creation_input_tokens":3,"output_tokens":1}'
    )
    usage = anthropic_usage(b'{"output_tokens":9}', first)
    assert (usage.counts, usage.total) == (Counts(fresh_input=5, cached_input=2, cache_write=3, output=9), 19)
