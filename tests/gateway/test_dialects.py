import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.gateway.dialects import BodyError, parse_body, render_body
from tokenworks.gateway.usage import anthropic_usage, openai_usage

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


def test_bytes_are_forwarded_as_they_came():
    for body in (b'{"model":"m","messages":[ {"a" : 1} ]}', b'{"model": "m", "messages": []}'):
        parsed = parse_body(body, "chat")
        assert render_body(parsed, body, {}) is body


def test_what_could_be_there_twice_is_written_anew():
    body = b'{"model":"m","n":1,"messages":[],"n":1}'
    parsed = parse_body(body, "chat")
    assert json.loads(render_body(parsed, body, {})) == {"model": "m", "n": 1, "messages": []}
    assert render_body(parsed, body, {}).count(b'"n"') == 1


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.integers(), st.text(max_size=9), st.lists(st.integers(), max_size=3)),
        max_size=6,
    ),
    st.sampled_from([None, (",", ":"), (" ,  ", " : ")]),
)
def test_rewriting_changes_what_it_should_and_nothing_else(more, separators):
    given_body = {
        name: value
        for name, value in more.items()
        if name not in {"model", "messages", "n", "tools", "stream"} and "\\" not in json.dumps(name)
    }
    content = given_body | {"model": "m", "messages": ["x"]}
    try:
        body = json.dumps(content, separators=separators).encode()
        parsed = parse_body(body, "chat")
    except BodyError:
        return
    assert json.loads(render_body(parsed, body, {"model": "other"})) == content | {"model": "other"}


@pytest.mark.parametrize(("protocol", "more"), [
    ("chat", {"web_search_options": {}}), ("chat", {"audio": {"voice": "x"}}), ("chat", {"store": True}), ("messages", {"service_tier": "flex"}), ("chat", {"service_tier": "priority"}),
    ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), ("messages", {"mcp_servers": [{"url": "x"}]}),
    ("responses", {"background": True}), ("responses", {"tools": [{"type": "code_interpreter"}]}), ("responses", {"conversation": "c"}),
])  # fmt: skip
def test_nothing_that_moves_the_price_passes_unpriced(protocol, more):
    body = {"model": "m", "messages": [], "input": "x"} | more
    with pytest.raises(BodyError) as caught:
        parse_body(json.dumps(body).encode(), protocol)
    assert caught.value.refusal.code == "unpriced_field"


def test_harmless_fields_pass():
    body = {
        "model": "m",
        "messages": [],
        "temperature": 0,
        "store": False,
        "tools": [{"type": "function", "function": {}}],
        "x_new": {"a": 1},
    }
    assert parse_body(json.dumps(body).encode(), "chat").model == "m"
    claude = {
        "model": "m",
        "messages": [],
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {},
        "tools": [{"name": "Bash", "input_schema": {}}],
    }
    assert parse_body(json.dumps(claude).encode(), "messages").output_tokens == 32000
