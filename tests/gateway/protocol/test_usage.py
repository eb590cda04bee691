"""Usage as the world writes it: every field by itself, in disjoint classes that add up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.protocol.streams import used
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import (
    ID_CHARS_MAX,
    TOKENS_MAX,
    Usage,
    anthropic_usage,
    body_usage,
    is_json,
    known_id,
    later_usage,
    openai_usage,
    read_openai,
)


def openai(**said):
    return openai_usage(json.dumps(said).encode())


def anthropic(before=None, **said):
    return anthropic_usage(json.dumps(said).encode(), before)


@pytest.mark.parametrize(("said", "counts"), [
    # Numbers as text and as floats.
    ({"prompt_tokens": "100", "completion_tokens": "50", "total_tokens": "150"}, Counts(100, output=50)),
    ({"prompt_tokens": 100.0, "completion_tokens": 5e1, "total_tokens": 150.0, "prompt_tokens_details": {"cached_tokens": 20.0}}, Counts(80, 20, output=50)),
    ({"prompt_tokens": "100.0", "completion_tokens": " 50 ", "total_tokens": 150}, Counts(100, output=50)),
    # Details that are no details.
    (used(100, 50, prompt_tokens_details=[], completion_tokens_details=None), Counts(100, output=50)),
    (used(100, 50, prompt_tokens_details=False, completion_tokens_details=""), Counts(100, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": False}, completion_tokens_details={"reasoning_tokens": None}), Counts(100, output=50)),
    # Caches under all their names: OpenAI, Kimi and Qianfan, Mistral, DeepSeek, OpenRouter, Bailian.
    (used(100, 50, prompt_tokens_details={"cached_tokens": 80}), Counts(20, 80, output=50)),
    (used(100, 50, cached_tokens=80), Counts(20, 80, output=50)),
    (used(100, 50, num_cached_tokens=80), Counts(20, 80, output=50)),
    (used(100, 50, prompt_token_details={"cached_tokens": 80}), Counts(20, 80, output=50)),
    (used(1000, 50, prompt_cache_hit_tokens=700, prompt_cache_miss_tokens=300), Counts(300, 700, output=50)),
    ({"completion_tokens": 50, "prompt_cache_hit_tokens": 700, "prompt_cache_miss_tokens": 300}, Counts(300, 700, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": 30, "cache_write_tokens": 40}), Counts(30, 30, 40, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": 30, "cache_creation_input_tokens": 40, "cache_type": "ephemeral"}), Counts(30, 30, 40, output=50)),
    (used(100, 50, cached_tokens=0, prompt_tokens_details={"cached_tokens": 30}), Counts(70, 30, output=50)),
    # Anthropic's cache fields in a chat answer: inside the input, and beside it.
    (used(1000, 50, cache_creation_input_tokens=600, cache_read_input_tokens=300), Counts(100, 300, 600, output=50)),
    ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 1050, "cache_creation_input_tokens": 600, "cache_read_input_tokens": 300}, Counts(100, 300, 600, output=50)),
    (used(1000, 50, cache_creation_input_tokens=600, cache_creation={"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 500}), Counts(400, 0, 100, output=50, cache_write_1h=500)),
    # Reasoning inside the completion, beside it (xAI), at the top (SGLang, Azure).
    (used(10, 50, completion_tokens_details={"reasoning_tokens": 40}), Counts(10, output=10, reasoning=40)),
    ({"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 303, "completion_tokens_details": {"reasoning_tokens": 290}}, Counts(12, output=1, reasoning=290)),
    (used(10, 50, reasoning_tokens=40), Counts(10, output=10, reasoning=40)),
    (used(10, 50, completion_tokens_details={"thinking_tokens": 40}), Counts(10, output=10, reasoning=40)),
    # Sound.
    (used(10, 6, prompt_tokens_details={"audio_tokens": 4}, completion_tokens_details={"audio_tokens": 5}), Counts(6, audio_input=4, output=1, audio_output=5)),
    # Responses' names, and fields that are nobody's business here.
    ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 2}}, Counts(6, 4, output=3, reasoning=2)),
    (used(17, 30, queue_time=0.1, cost=0.00036, is_byok=False, server_tool_use={"web_search_requests": 2}), Counts(17, output=30)),
])  # fmt: skip
def test_as_vendors_write_it(said, counts):
    usage = openai(**said)
    assert (usage.counts, usage.flags) == (counts, ())
    assert usage.total == sum(counts)


@pytest.mark.parametrize(("said", "counts"), [
    ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": "many"}, Counts(100, output=50)),
    ({"prompt_tokens": "n/a", "completion_tokens": 50, "total_tokens": 150}, Counts(100, output=50)),
    ({"prompt_tokens": 100, "completion_tokens": -3, "total_tokens": 150}, Counts(100, output=50)),
    ({"prompt_tokens": 100, "completion_tokens": True, "total_tokens": None}, Counts(100)),
    (used(100, 50, completion_tokens_details={"reasoning_tokens": "n/a"}), Counts(100, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": {}, "audio_tokens": "7"}, completion_tokens_details=[1]), Counts(93, audio_input=7, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": 101}), Counts(0, 100, output=50)),
    (used(100, 50, prompt_tokens_details={"cached_tokens": 10**13}), Counts(100, output=50)),
    ({"prompt_tokens": 100.5, "completion_tokens": 50}, Counts(100, output=50)),
    ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 999}, Counts(100, output=50)),
])  # fmt: skip
def test_a_bad_field_costs_that_field(said, counts):
    usage = openai(**said)
    assert (usage.counts, usage.flags) == (counts, ("inconsistent",))


@pytest.mark.parametrize("raw", [
    b"null", b"[]", b"{}", b"17", b'"x"', b"false", b"{", b"\xff", b"[" * 100_000, b'{"total_tokens":0}', b'{"total_tokens":9}', b'{"cost":1}',
])  # fmt: skip
def test_where_there_is_none(raw):
    assert openai_usage(raw) is None
    before = anthropic(input_tokens=5)
    assert anthropic_usage(raw, before) == before


def test_embeddings_have_input_alone():
    assert openai_usage(b'{"prompt_tokens":9,"total_tokens":9}', input_only=True).counts == Counts(9)
    assert openai_usage(b'{"total_tokens":9}', input_only=True).counts == Counts(9)
    assert body_usage(b'{"data":[],"usage":{"prompt_tokens":"9","total_tokens":12}}', "embeddings")[
        0
    ].counts == Counts(9)


def test_messages_of_which_the_end_says_less():
    start = anthropic(
        input_tokens=12, cache_creation_input_tokens=300, cache_read_input_tokens=2048, output_tokens=1,
        cache_creation={"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
    )  # fmt: skip
    end = anthropic(
        start, input_tokens=12, cache_creation_input_tokens=300, cache_read_input_tokens=2048, output_tokens=9
    )
    assert end.counts == Counts(12, 2048, 200, output=9, cache_write_1h=100)
    assert anthropic(start, input_tokens=0, output_tokens=9).counts == Counts(
        12, 2048, 200, output=9, cache_write_1h=100
    )
    assert anthropic(
        anthropic(input_tokens=0, output_tokens=1), input_tokens=700, output_tokens=9
    ).counts == Counts(700, output=9)
    assert anthropic(start, output_tokens=0).counts.output == 1


def test_one_hour_writes_are_a_class_of_their_own():
    by_age = {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 800}
    assert anthropic(
        input_tokens=10, output_tokens=20, cache_creation_input_tokens=1000, cache_creation=by_age
    ).counts == Counts(10, 0, 200, output=20, cache_write_1h=800)
    assert anthropic(input_tokens=10, cache_creation=by_age).counts == Counts(10, 0, 200, cache_write_1h=800)
    assert (
        anthropic(input_tokens=10, cache_creation_input_tokens=0, cache_creation=by_age).counts.cache_write_1h
        == 800
    )
    bad = anthropic(input_tokens=10, cache_creation_input_tokens=500, cache_creation=by_age)
    assert (bad.counts, bad.flags) == (Counts(10, cache_write_1h=500), ("inconsistent",))
    assert anthropic(input_tokens=10, cache_creation_input_tokens=500, cache_creation=[]).counts == Counts(
        10, 0, 500
    )


def test_thinking_is_a_part_of_the_output():
    usage = anthropic(input_tokens=5, output_tokens=900, output_tokens_details={"thinking_tokens": 850})
    assert usage.counts == Counts(5, output=50, reasoning=850)
    assert anthropic(usage, output_tokens=900).counts == usage.counts
    assert anthropic(input_tokens=5, output_tokens=90, thinking_tokens="80").counts == Counts(
        5, output=10, reasoning=80
    )


def test_iterations_count_where_they_exceed_the_top():
    iterations = [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500},
        {
            "type": "message",
            "input_tokens": 23_000,
            "output_tokens": "20",
            "cache_creation": {"ephemeral_1h_input_tokens": 7},
        },
        None,
    ]
    usage = anthropic(input_tokens=23_000, output_tokens=20, iterations=iterations)
    assert (usage.counts, usage.total) == (Counts(203_000, output=3520, cache_write_1h=7), 206_527)
    same = anthropic(
        input_tokens=100,
        output_tokens=20,
        iterations=[{"input_tokens": 60, "output_tokens": 12}, {"input_tokens": 40, "output_tokens": 8}],
    )
    assert same.counts == Counts(100, output=20)
    assert anthropic(
        input_tokens=100, output_tokens=20, iterations=[{"input_tokens": 1}, 7]
    ).counts == Counts(100, output=20)


def test_a_zero_after_a_report_is_none():
    real, zero = openai(**used(100, 20)), openai(**used(0, 0))
    assert later_usage(real, zero) == real
    assert later_usage(None, zero) is None
    assert later_usage(real, None) == real
    assert later_usage(real, openai(**used(100, 30))).counts == Counts(100, output=30)
    assert later_usage(real, openai(**used(0, 30))) == Usage(Counts(100, output=30), 130, ())
    assert later_usage(openai(**used(100, 20, cached_tokens=40)), openai(**used(0, 30))).counts == Counts(
        60, 40, output=30
    )
    assert later_usage(real, openai(**used(100, 0))).counts == Counts(100, output=20)


@pytest.mark.parametrize(("body", "protocol", "expected"), [
    (b'\xef\xbb\xbf{"id":"a","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}', "chat", (Counts(1, output=2), "a")),
    (b'\n\n {"id":7,"usage":{"prompt_tokens":"1","completion_tokens":2.0}}', "chat", (Counts(1, output=2), None)),
    (b'{"id":"a","choices":[{"usage":{"prompt_tokens":9,"completion_tokens":2,"cached_tokens":4}}],"usage":null}', "chat", (Counts(5, 4, output=2), "a")),
    (b'{"id":"a","usage":{"input_tokens":1,"output_tokens":2}}', "messages", (Counts(1, output=2), "a")),
    (b'{"id":"a","usage":{"prompt_tokens":1,"completion_tokens":2}}', "messages", (Counts(1, output=2), "a")),
    (b'{"id":"a","usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}', "responses", (Counts(1, output=2), "a")),
    (b'{"id":"a","choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}', "chat", (None, "a")),
    (b'{"id":"%b"}' % (b"x" * 201), "chat", (None, None)),
    (b'{"id":"a"', "chat", (None, None)),
    (b"[1]", "messages", (None, None)),
])  # fmt: skip
def test_of_a_whole_body(body, protocol, expected):
    usage, upstream_id = body_usage(body, protocol)
    assert (usage and usage.counts, upstream_id) == expected


def test_a_cut_body_is_no_json():
    assert is_json(b'\xef\xbb\xbf{"a":1}')
    assert not is_json(b'{"a":')


# Whatever a provider says.

number = st.one_of(st.integers(0, 10**6), st.integers(0, 10**6).map(str), st.integers(0, 10**6).map(float))
bad = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**20), 10**20),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
anything = number | bad
DETAIL = [
    "cached_tokens",
    "audio_tokens",
    "cache_write_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "thinking_tokens",
]
details = st.dictionaries(st.sampled_from(DETAIL), anything) | bad
ages = (
    st.fixed_dictionaries(
        {}, optional={"ephemeral_5m_input_tokens": anything, "ephemeral_1h_input_tokens": anything}
    )
    | bad
)
FIELDS = [
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens", "num_cached_tokens", "reasoning_tokens",
    "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "thinking_tokens",
]  # fmt: skip
DETAILS = [
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens_details",
    "output_tokens_details",
]
flat = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(FIELDS, anything) | dict.fromkeys(DETAILS, details) | {"cache_creation": ages}
)
objects = st.builds(
    lambda top, iterations: top if iterations is None else top | {"iterations": iterations},
    flat,
    st.none() | st.lists(flat | bad, max_size=3) | bad,
)


@given(objects, objects)
def test_classes_are_disjoint_and_add_up(first, second):
    for usage in (openai(**first), anthropic(**first), anthropic(anthropic(**first), **second)):
        if usage is not None:
            assert len(usage.counts) == len(Counts._fields)
            assert all(type(count) is int and 0 <= count for count in usage.counts)
            assert type(usage.total) is int and usage.total >= 0
            if "inconsistent" not in usage.flags:
                assert sum(usage.counts) == usage.total


@given(objects)
def test_the_same_said_twice_is_said_once(said):
    usage = openai(**said)
    assert later_usage(usage, usage) == usage
    once = anthropic(**said)
    twice = anthropic(once, **said)
    assert (once and once.counts) == (twice and twice.counts)


whole = st.integers(0, 10**6)


@given(st.data(), whole, whole)
def test_one_bad_field_costs_that_field_only(data, prompt, completion):
    """A well-formed usage of which one field is spoilt: every class that has nothing to do with the field stays."""
    cached, audio = data.draw(st.integers(0, prompt)), 0
    reasoning = data.draw(st.integers(0, completion))
    said = used(
        prompt, completion, prompt_tokens_details={"cached_tokens": cached, "audio_tokens": audio},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )  # fmt: skip
    good = openai(**said)
    assert good.counts == Counts(prompt - cached, cached, output=completion - reasoning, reasoning=reasoning)
    spoilt = data.draw(st.sampled_from(["x", True, {"a": 1}, [3], -1, TOKENS_MAX + 1]))
    where = data.draw(st.sampled_from(["cached", "reasoning", "prompt", "completion", "total"]))
    if where == "cached":
        said["prompt_tokens_details"]["cached_tokens"] = spoilt
        assert openai(**said).counts == Counts(prompt, output=completion - reasoning, reasoning=reasoning)
    elif where == "reasoning":
        said["completion_tokens_details"]["reasoning_tokens"] = spoilt
        assert openai(**said).counts == Counts(prompt - cached, cached, output=completion)
    else:
        # Two of three say the third.
        said[f"{where}_tokens"] = spoilt
        assert openai(**said).counts == good.counts
    assert "inconsistent" in openai(**said).flags


@given(whole, whole, st.data())
def test_the_short_way_and_the_long_way_agree(prompt, completion, data):
    plain = read_openai(used(prompt, completion))
    strange = read_openai(
        used(
            prompt,
            completion,
            **data.draw(st.dictionaries(st.sampled_from(["cost", "queue_time"]), bad, min_size=1)),
        )
    )
    assert plain == strange


@given(st.lists(whole, min_size=4, max_size=4), st.data())
def test_writing_a_number_otherwise_changes_nothing(numbers, data):
    names = ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]
    form = data.draw(st.sampled_from([str, float, lambda n: f" {n} ", lambda n: f"{n}.0"]))
    plain, other = (
        dict(zip(names, numbers, strict=True)),
        {name: form(n) for name, n in zip(names, numbers, strict=True)},
    )
    assert anthropic(**plain) == anthropic(**other)
    assert openai(**plain) == openai(**other)


@pytest.mark.parametrize("wrong", [None, 7, "", "x" * (ID_CHARS_MAX + 1), "nul\0", "line\n", ["a"]])
def test_an_id_that_no_record_takes_is_none(wrong):
    assert known_id(wrong) is None and known_id("chatcmpl-é1") == "chatcmpl-é1"
