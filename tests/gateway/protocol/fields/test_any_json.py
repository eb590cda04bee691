"""Whatever JSON stands at whatever name that a list has: it is refused as what it is, or read, and what is sent is JSON."""

import itertools
import json
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.protocol.fields.support import compact, deployment
from tokenworks.factory.facts.profiles import profile_names, profile_of
from tokenworks.gateway.protocol.fields import BodyError, lists_of, parse_body, render
from tokenworks.gateway.protocol.fields.lists import NESTED, PROTOCOLS

GOOD = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "completions": {"model": "m", "prompt": "hi", "max_tokens": 5},
    "embeddings": {"model": "m", "input": "hi"},
    "messages": {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "m", "input": "hi"},
}
ODD = [
    None, True, 0, -1, 1.5, 10**30, "", "none", "auto", [], {}, [[]], [{}], [None], [1], ["x"], {"type": []}, {"type": {}}, {"type": 1}, {"type": None}, {"type": "enabled"}, {"effort": {}}, {"effort": []},
    {"name": []}, {"mode": []}, {"tools": 1}, {"tools": [1]}, [{"type": []}], [{"type": "function", "function": []}], {"type": "function", "function": []}, {"type": "tool", "name": []}, {"enable_thinking": []},
    {"type": "allowed_tools", "allowed_tools": []}, {"type": "allowed_tools", "allowed_tools": {"mode": [], "tools": [{"type": []}]}}, {"include_usage": []}, {"url": []}, {"url": {}},
]  # fmt: skip
CHOICES = [
    *ODD, "required", "any", {"type": "any"}, {"type": "required"}, {"type": "tool", "name": "n"}, {"type": "tool", "name": {}}, {"type": "custom", "custom": {"name": []}},
    {"type": "allowed_tools", "mode": {}, "tools": [{"type": "web_search"}]}, {"type": "allowed_tools", "allowed_tools": {"mode": [], "tools": [{"type": "web_search"}]}},
]  # fmt: skip


def defect(error, protocol):
    raise AssertionError(f"a defect at {protocol}") from error


def read_and_rendered(body, protocol, **more):
    """What is sent, or None where it is refused. A defect is no refusal."""
    data = compact(body)
    with mock.patch("tokenworks.gateway.protocol.fields.body.note_defect", defect):
        try:
            parsed = parse_body(data, protocol)
        except BodyError as error:
            assert 400 <= error.refusal.status < 500
            return None
    place = deployment(**more)
    out, _ = render(parsed, data, place, profile_of(place.profile), maximum=7, usage=True)
    return json.loads(out)


def kinds(level):
    return [*level.types, *(f"{prefix}x" for prefix in level.prefixes)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_name_of_the_body_takes_every_type(protocol):
    good = GOOD[protocol]
    assert read_and_rendered(good, protocol)
    for name, odd in itertools.product(lists_of(protocol).body.rules, ODD):
        read_and_rendered(good | {name: odd}, protocol)
        read_and_rendered({name: odd} | good, protocol)


@pytest.mark.parametrize("protocol", ["chat", "messages", "responses"])
def test_every_tool_and_every_choice(protocol):
    level = lists_of(protocol).levels["tool"]
    for kind in kinds(level):
        for choice in [*CHOICES, {"type": kind, kind: "x"}, {"type": kind, kind: {"name": []}}]:
            for name in ("n", [], {}, None):
                tools = [{"type": kind, "name": name}, {"type": "function", "name": name}]
                for some in (tools, tools[:1]):
                    read_and_rendered(GOOD[protocol] | {"tools": some, "tool_choice": choice}, protocol)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.sampled_from(["auto", "none", "https://a.example/x", "data:image/png;base64,AA"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "name", "function", "mode", "tools", "effort", "url", "id", "text"]) | st.text(max_size=3), below, max_size=3
    ),
    max_leaves=6,
)  # fmt: skip


@st.composite
def objects(draw, lists, level, depth=0):
    """An object of a level: some of the names that it lists, each with what belongs there or with anything."""
    made = {}
    of_level = kinds(level)
    if of_level and draw(st.booleans()):
        made["type"] = draw(st.sampled_from(of_level))
    for name in draw(st.lists(st.sampled_from(sorted(level.rules)), max_size=4, unique=True)):
        rule = level.rules[name]
        if rule.kind == NESTED and depth < 4 and draw(st.booleans()):
            below = objects(lists, lists.levels[rule.level], depth + 1)
            made[name] = draw(below | st.lists(below | json_values, max_size=2))
        else:
            made.setdefault(name, draw(json_values))
    return made


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_json_at_any_name_of_any_level(protocol, data):
    lists = lists_of(protocol)
    body = GOOD[protocol] | data.draw(objects(lists, lists.body))
    if "tool" in lists.levels and data.draw(st.booleans()):
        body["tools"] = data.draw(st.lists(objects(lists, lists.levels["tool"]), max_size=2))
        body["tool_choice"] = data.draw(st.sampled_from(CHOICES) | json_values)
    read_and_rendered(
        body, protocol, profile=data.draw(st.sampled_from(sorted(profile_names()))), pass_unknown=data.draw(st.booleans())
    )  # fmt: skip


def test_a_defect_is_refused_and_logged_once_without_the_clients_words():
    def fails(*_):
        raise KeyError("secret")

    with (
        mock.patch("tokenworks.gateway.protocol.fields.body._scanned", fails),
        mock.patch("tokenworks.gateway.protocol.fields.body.log") as log,
    ):
        for _ in range(2):
            with pytest.raises(BodyError) as caught:
                parse_body(b'{"model": "m", "messages": []}', "chat")
            assert (caught.value.refusal.status, caught.value.refusal.code) == (400, "invalid_body")
    log.error.assert_called_once()
    assert "secret" not in str(log.error.call_args)
