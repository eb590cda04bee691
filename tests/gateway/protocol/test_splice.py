"""Answers change at their place, and nowhere else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.gateway.protocol.splice import body_with_model, model_name, payload_of, without_usage


@pytest.mark.parametrize(("event", "payload"), [
    (b"data: {}\n\n", b"{}"), (b"data:{}\n\n", b"{}"), (b"event: x\r\ndata: {}\r\nid: 4\r\n\r\n", b"{}"), (b"data: {\rdata: }\r\r", b"{\n}"),
    (b": comment\n\n", b""), (b"\xef\xbb\xbfdata: 1\n\n", b"1"), (b"data\n\n", b""), (b"data:  x\n\n", b" x"),
])  # fmt: skip
def test_the_data_of_an_event(event, payload):
    assert payload_of(event) == payload


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=5), v, max_size=2),
)
members = st.dictionaries(
    st.sampled_from(["id", "choices", "x", 'a"b', "x_groq", "usage_"]),
    values | st.just({"usage": {"a": 1}}),
    max_size=4,
)
usages = st.sampled_from(
    [
        {"a": 1},
        {},
        {"a": {"b": [1, "}"]}, "c": "{"},
        [],
        "text",
        7,
        {"usage": {"a": 1}},
        {"p": 1, "c": 2},
        {"p": "}"},
    ]
)


@given(
    members,
    usages,
    st.integers(0, 4),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]),
    st.booleans(),
    st.sampled_from(["\n\n", "\r\n\r\n"]),
)
def test_usage_is_taken_out_wherever_it_is(rest, usage, at, separators, ascii_only, end):
    items = list(rest.items())
    content = dict([*items[:at], ("usage", usage), *items[at:]])
    text = json.dumps(content, separators=separators, ensure_ascii=ascii_only).encode()
    event = b"data: " + text + end.encode()
    out = without_usage(event, payload_of(event))
    assert json.loads(payload_of(out)) == rest
    assert out.endswith(end.encode())
    if b"usage" not in json.dumps(rest).encode():
        assert len(out) < len(event)


@pytest.mark.parametrize(("body", "out"), [
    (b'{"id":"a","model":"v-7b","x":1}', b'{"id":"a","model":"shop/best","x":1}'), (b'{"model" : "v-7b"}', b'{"model" : "shop/best"}'),
    (b'\xef\xbb\xbf{"model":"v-7b"}', b'\xef\xbb\xbf{"model":"shop/best"}'), (b'{"model":"Qwen\\/7b"}', b'{"model":"shop/best"}'),
    (b'{"model":"shop/best"}', None), (b'{"model":""}', None), (b'{"model":null}', None), (b'{"model":7}', None), (b"[1]", None), (b'{"model":"v', None),
    (b'{"text":"\\"model\\":\\"v\\"","model":"v"}', b'{"text":"\\"model\\":\\"v\\"","model":"shop/best"}'),
    (b'{"type":"response.created","response":{"model":"v"}}', b'{"type":"response.created","response":{"model":"shop/best"}}'),
    (b'{"model":"v","deep":{"model":"v"}}', b'{"model":"shop/best","deep":{"model":"shop/best"}}'),
])  # fmt: skip
def test_a_body_says_the_model_that_was_asked_for(body, out):
    assert body_with_model(body, "shop/best") == (body if out is None else out)


@given(
    st.text(min_size=1, max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=20), st.booleans()
)
def test_whatever_a_model_is_called(name, content, asked, ascii_only):
    body = json.dumps({"choices": [content], "model": name}, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    assert json.loads(body_with_model(body, asked)) == {"choices": [content], "model": asked}
    assert model_name(body) is not None
