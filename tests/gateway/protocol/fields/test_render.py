"""What is sent upstream: nothing that is on no list, every drop named, everything else byte by byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.protocol.fields.support import HI, compact, deployment, rendered, sent
from tokenworks.factory.facts.profiles import profile_of
from tokenworks.gateway.protocol.fields import (
    HEADER_BYTES_MAX,
    BodyError,
    dropped_header,
    fold,
    lists_of,
    never_names,
    parse_body,
    render,
)


def test_bytes_are_forwarded_as_they_came():
    for body in (
        b'{"model":"m","messages":[ {"role" : "user"} ]}',
        b'{"model": "m", "messages": []}',
        b'{"messages":[{"role":"user","content":"x"}],"model":"m","top_k":3}',
    ):
        parsed = parse_body(body, "chat")
        out, names = render(parsed, body, deployment(), profile_of("generic"), maximum=None, usage=False)
        assert names == ()
        assert (out is body) or json.loads(out) == json.loads(body)
    body = b'{"messages":[{"role":"user","content":"x"}],"model":"m","top_k":3}'
    assert (
        render(
            parse_body(body, "chat"), body, deployment(), profile_of("generic"), maximum=None, usage=False
        )[0]
        is body
    )


def test_what_could_be_there_twice_is_written_anew():
    body = b'{"model":"m","n":1,"messages":[],"n":1}'
    out, _ = rendered(body)
    assert json.loads(out) == {"model": "m", "n": 1, "messages": []}
    assert out.count(b'"n"') == 1


def test_no_second_name_hides_in_the_spaces_of_the_other_layout():
    """Compact, with as many bytes more as Python's layout has: taken for that one by its length alone."""
    body = b'{"model":"m","n":99,"messages":[],"seed":1,"n":1}'
    assert len(body) - len(b'{"model":"m","n":1,"messages":[],"seed":1}') == 2 * 4 - 1
    assert rendered(body)[0].count(b'"n"') == 1


@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=9), st.lists(st.integers(), max_size=3)), max_size=6),
    st.sampled_from([None, (",", ":"), (" ,  ", " : ")]),
)  # fmt: skip
def test_rewriting_changes_what_it_should_and_nothing_else(more, separators):
    lists = lists_of("chat")
    given_body = {
        name: value
        for name, value in more.items()
        if name not in lists.body.rules and not lists.collides(lists.body, name)
    }
    content = given_body | {"model": "m", "messages": ["x"]}
    body = json.dumps(content, separators=separators).encode()
    out, names = sent(body, upstream_model="other", pass_unknown=True)
    assert (out, names) == (content | {"model": "other"}, ())


names_of_fields = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(sorted(never_names())),
    st.sampled_from(sorted(lists_of("chat").body.rules)).flatmap(lambda name: st.sampled_from(
        [name.upper(), name.title(), name.replace("_", "-"), name.replace("_", ""), name.replace("s", "\u017f"), name.replace("k", "\u212a"), "\uff4e" if name == "n" else name + "\u200b", name])),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def unlisted(value, level, lists, profile, path=()):
    """By the truth of the data: every name of a rendered value that the lists do not name."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from unlisted(one, level, lists, profile, (*path, number))
    elif isinstance(value, dict):
        for name, below in value.items():
            rule = level.rules.get(name)
            if rule is None or rule.action == "drop" or not (rule.base or profile in rule.profiles):
                yield (*path, name)
            elif rule.level:
                yield from unlisted(below, lists.levels[rule.level], lists, profile, (*path, name))


@given(
    st.dictionaries(names_of_fields, anything, max_size=4), st.dictionaries(names_of_fields, anything, max_size=3), st.dictionaries(names_of_fields, anything, max_size=3),
    st.sampled_from([None, (",", ":"), (", ", " :")]), st.sampled_from(["generic", "openai", "vllm", "zhipu"]),
)  # fmt: skip
def test_nothing_unlisted_passes_and_every_drop_is_named(top, in_message, in_part, separators, profile):
    part = in_part | {"type": "text", "text": "hi"}
    opaque = {"type": "object", "properties": {"n_predict": {"x": top}}}
    body = top | {
        "messages": [in_message | {"role": "user", "content": [part]}], "tools": [{"type": "function", "function": {"name": "f", "parameters": opaque}}], "model": "m",
    }  # fmt: skip
    try:
        out, named = rendered(json.dumps(body, separators=separators).encode(), profile=profile)
    except BodyError as error:
        assert error.refusal.status == 400
        return
    lists = lists_of("chat")
    after = json.loads(out)
    assert list(unlisted(after, lists.body, lists, profile)) == []
    assert after["tools"][0]["function"]["parameters"] == opaque
    kept = [
        ("", body, after),
        ("messages[0].", body["messages"][0], after["messages"][0]),
        ("messages[0].content[0].", part, after["messages"][0]["content"][0]),
    ]
    for prefix, given_fields, sent_fields in kept:
        for name in given_fields:
            for_gateway = (
                not prefix and name in lists.body.rules and lists.body.rules[name].action == "gateway"
            )
            assert for_gateway or name in sent_fields or prefix + name in named, (name, named)


def test_opaque_parts_stay_byte_by_byte():
    schema = b'{"type" :  "object", "n":1, "n":2, "properties":{"N_PREDICT":{"$ref":"#/x"}}}'
    for tail in (b"", b',"x_mine":1'):
        body = (
            b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f","parameters":%b}}],"metadata":{ "a" : [1 ,2]}%b}'
            % (schema, tail)
        )
        out, _ = rendered(body)
        assert schema in out and b'{ "a" : [1 ,2]}' in out


def test_names_in_other_letters_pass_nowhere():
    body = {
        "model": "m",
        "Service_Tier": "priority",
        "N": 4,
        "MAX_TOKENS": 9999,
        "max_tokens": 10,
        "messages": HI,
        "x_mine": 1,
        "n_predict": 5,
        "serviceTier": "x",
        "ｎ": 3,
    }
    out, names = sent(body)
    assert out == {"model": "m", "max_tokens": 10, "messages": HI}
    assert set(names) == body.keys() - out.keys()
    out, names = sent(body, pass_unknown=True)
    assert out == {"model": "m", "max_tokens": 10, "messages": HI, "x_mine": 1}
    assert "x_mine" not in names


def test_a_profile_takes_what_it_lists():
    body = {
        "model": "m",
        "messages": [{"role": "assistant", "content": "x", "reasoning_content": "so"}],
        "top_k": 3,
        "thinking": {"type": "enabled", "clear_thinking": True},
    }
    assert sent(body) == (body, ())
    out, names = sent(body, profile="openai")
    assert out == {"model": "m", "messages": [{"role": "assistant", "content": "x"}]}
    assert sorted(names) == ["messages[0].reasoning_content", "thinking", "top_k"]
    out, names = sent(body, profile="zhipu")
    assert names == ("top_k",)
    out, names = sent(body, profile="deepseek")
    assert sorted(names) == ["thinking.clear_thinking", "top_k"]


@pytest.mark.parametrize(("profile", "asked", "maximum", "there"), [
    ("generic", {}, None, {}), ("generic", {}, 7, {"max_tokens": 7}), ("generic", {"max_completion_tokens": 9}, 7, {"max_completion_tokens": 7}), ("openai", {"max_tokens": 9}, None, {"max_completion_tokens": 9}),
    ("openai", {}, 7, {"max_completion_tokens": 7}), ("openai", {"max_tokens": 9, "max_completion_tokens": 9}, 9, {"max_completion_tokens": 9}), ("deepseek", {"max_completion_tokens": 9}, None, {"max_tokens": 9}),
])  # fmt: skip
def test_the_maximum_is_written_where_the_deployment_reads_it(profile, asked, maximum, there):
    out, _ = sent({"model": "m", "messages": HI} | asked, profile=profile, maximum=maximum)
    assert {name: value for name, value in out.items() if name.startswith("max_")} == there


def test_the_deployments_own_word_for_the_maximum_counts():
    out, _ = sent({"model": "m", "messages": HI, "max_tokens": 9}, max_tokens_field="max_completion_tokens")
    assert out == {"model": "m", "messages": HI, "max_completion_tokens": 9}


@pytest.mark.parametrize(("more", "profile", "options"), [
    ({}, "generic", {"include_usage": True}), ({"stream_options": {"include_obfuscation": False}}, "generic", {"include_obfuscation": False, "include_usage": True}),
    ({"stream_options": {"include_usage": True}}, "generic", {"include_usage": True}), ({"stream_options": {"include_usage": False}}, "generic", {"include_usage": True}),
    ({}, "vllm", {"include_usage": True, "continuous_usage_stats": True}), ({"stream_options": None}, "generic", {"include_usage": True}),
])  # fmt: skip
def test_usage_is_asked_for_beside_what_the_client_asks_for(more, profile, options):
    body = {"model": "m", "stream": True, "messages": HI} | more
    assert sent(body, usage=True, profile=profile)[0]["stream_options"] == options
    assert parse_body(compact(body), "chat").client_usage is (
        more == {"stream_options": {"include_usage": True}}
    )


def test_a_deployment_that_takes_no_stream_options_gets_none():
    body = {"model": "m", "stream": True, "messages": HI}
    assert sent(body, usage=True, stream_options=False) == (body, ())
    assert sent(body | {"stream_options": {"include_usage": True}}, usage=True, stream_options=False) == (
        body,
        ("stream_options",),
    )


def test_fields_are_found_without_reading_the_messages_again():
    for body in (b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":1}', b'{"messages":[{"role":"user","content":"x"}],"model":"m"}',
                 b'{"metadata":{"messages":[{"role":"u"}]},"messages":[{"role":"user","content":"x"}],"model":"m"}'):  # fmt: skip
        parsed = parse_body(body, "chat")
        assert parsed.scan is None
        assert {name: json.loads(bytes(raw)) for name, raw in parsed.fields.items()} == json.loads(body)
        assert list(parsed.fields) == list(json.loads(body))


def test_the_header_names_what_was_dropped():
    assert dropped_header(["x_mine", "tools[0].web_search"]) == b"x_mine,tools[0].web_search"
    assert dropped_header(["a\r\nset-cookie: x", "\u540d", "", "a,b"]) == b"a??set-cookie:?x,?,?,a?b"
    many = dropped_header([f"field_{i}" for i in range(1000)])
    assert len(many) <= HEADER_BYTES_MAX and many.endswith(b",...") and many.isascii()
    assert len(dropped_header(["x" * 5000])) <= HEADER_BYTES_MAX
    assert dropped_header([]) == b""


@given(st.lists(st.text(max_size=300), max_size=40))
def test_the_header_is_always_a_header(names):
    value = dropped_header(names)
    assert len(value) <= HEADER_BYTES_MAX and all(33 <= byte < 127 for byte in value)


def test_names_are_compared_as_careless_readers_do():
    assert {
        fold(name)
        for name in (
            "service_tier",
            "Service-Tier",
            "serviceTier",
            "\uff33ervice_tier",
            "\u017fervice_tier",
            "service_tier\u200b",
        )
    } == {"servicetier"}
