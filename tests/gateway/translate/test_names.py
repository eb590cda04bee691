"""Flat names of tools and custom tools as functions: what is written comes back, wherever a stream is cut."""

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.gateway.translate.form import Tool, ToolCall
from tokenworks.gateway.translate.names import (
    NAME_CHARS_MAX,
    InputUnwrapper,
    ToolNames,
    custom_description,
    custom_parameters,
    unwrapped,
    wrapped,
)

FLAT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
names = st.text(min_size=0, max_size=80) | st.sampled_from(["a", "ns__a", "a.b", "a_b", "é" * 70, "x" * 65])
tools = st.lists(
    st.builds(Tool, name=names, namespace=st.none() | st.sampled_from(["ns", "n.s", ""])), max_size=8
)


@settings(max_examples=50, deadline=None)
@given(tools)
def test_each_tool_has_a_name_of_its_own_that_leads_back(some):
    flat = ToolNames(some)
    seen = {}
    for tool in some:
        wire = flat.wire(tool.name, tool.namespace)
        assert 0 < len(wire) <= NAME_CHARS_MAX and set(wire) <= FLAT
        original = flat.original(wire)
        assert (original.namespace, original.name) == (tool.namespace, tool.name)
        assert seen.setdefault(wire, (tool.namespace, tool.name)) == (tool.namespace, tool.name)


def test_an_allowed_name_stays_as_it_is():
    flat = ToolNames(
        (Tool("a.b", namespace="mcp"), Tool("mcp__x", namespace=None), Tool("x", namespace="mcp"))
    )
    assert flat.wire("mcp__x") == "mcp__x"
    assert flat.wire("x", "mcp") != "mcp__x"
    assert ToolNames((Tool("x", namespace="mcp"),)).wire("x", "mcp") == "mcp__x"
    assert flat.wire("gone") == "gone" and flat.original("gone") is None
    assert set(flat.wire("läuft", "ns")) <= FLAT


def test_a_hash_that_is_taken_is_not_taken_twice():
    first = ToolNames((Tool("a.b"),)).wire("a.b")
    flat = ToolNames((Tool("a.b"), Tool(first)))
    assert flat.wire(first) == first and flat.wire("a.b") != first
    assert flat.original(flat.wire("a.b")).name == "a.b"


def test_a_call_comes_back_as_the_client_knows_its_tool():
    flat = ToolNames((Tool("patch", custom=True, namespace="fs"), Tool("plain")))
    call = ToolCall("c1", "fs__patch", wrapped('a "b"\n'), item_id="i")
    assert flat.restored(call) == ToolCall("c1", "patch", 'a "b"\n', True, "fs", "i")
    plain = ToolCall("c2", "plain", "{}")
    assert flat.restored(plain) is plain
    assert flat.restored(ToolCall("c3", "other", "{}")).name == "other"


def pieces(text, cuts):
    at = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in pairwise(at)]


def read(text, cuts):
    unwrapper = InputUnwrapper()
    return "".join([*(unwrapper.feed(piece) for piece in pieces(text, cuts)), unwrapper.finish()])


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
def test_free_text_comes_back_wherever_it_is_cut(text, cuts, ascii_only):
    assert read(json.dumps({"input": text}, ensure_ascii=ascii_only), cuts) == text
    assert unwrapped(wrapped(text)) == text


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet='{}"input:\\ud83 \n', max_size=40), st.lists(st.integers(0, 100), max_size=6))
def test_no_cut_changes_what_hostile_arguments_become(text, cuts):
    assert read(text, cuts) == read(text, [])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{ "input" : "a\nb" }', "a\nb"),
        ('{"input":"\\q\\x"}', "\\q\\x"),
        ('{"input":"\\ud83d\\ude00"}', "😀"),
        ('{"input":"\\\\ud83d"}', "\\ud83d"),
        ('{"input":"\\ud83d"}', "�"),
        ('{"code":"x"}', '{"code":"x"}'),
        ("plain text", "plain text"),
        ('{"inp', '{"inp'),
        ('{"input": 5}', '{"input": 5}'),
        ("", ""),
        ('{"input":"open', "open"),
    ],
)
def test_arguments_as_models_write_them(arguments, text):
    assert unwrapped(arguments) == text
    for cut in range(len(arguments)):
        assert read(arguments, [cut]) == text


def test_little_is_kept_between_two_pieces():
    seeded = random.Random(7)
    unwrapper = InputUnwrapper()
    text = '{"input":"' + "a\\u00e9" * 5000
    at = 0
    while at < len(text):
        step = seeded.randrange(1, 9)
        unwrapper.feed(text[at : at + step])
        assert len(unwrapper._pending) < 300
        at += step
    spaces = InputUnwrapper()
    assert spaces.feed(" " * 1000) == " " * 1000


def test_a_custom_tool_is_described_with_its_grammar():
    tool = Tool("t", "Edits.", custom=True, grammar=("lark", "start: x"))
    assert custom_description(tool).startswith("Edits.") and "start: x" in custom_description(tool)
    assert custom_description(Tool("t", custom=True)) == ""
    assert custom_parameters()["required"] == ["input"]
