"""Whole answers of messages: what is written is read as it was, and whatever an upstream sends is read."""

import random

import msgspec
import pytest
from hypothesis import given, settings

from tests.gateway.translate.messages.support import naming
from tests.gateway.translate.messages.test_writer import CARRIED, STOPS, expected
from tests.support.hostile import twisted
from tests.support.translation import answers
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import body_usage
from tokenworks.gateway.translate.form import Answer, Reasoning, Refused, Stop, Text, Tool, ToolCall
from tokenworks.gateway.translate.messages import codec
from tokenworks.gateway.translate.names import ToolNames

USED = Counts(10, 2, 3, 0, 5, 1, 0, 4)
NATIVE = {
    "id": "msg_01", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "a", "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [{"type": "web_search_result", "url": "https://x"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ],
    "usage": {
        "input_tokens": 10, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 7, "output_tokens": 6, "service_tier": "standard",
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}, "output_tokens_details": {"thinking_tokens": 1},
    },
}  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(answers(CARRIED | {"answer.service_tier"}, stops=STOPS))
def test_what_is_written_is_read_as_it_was(answer):
    fields = msgspec.json.decode(msgspec.json.encode(codec.write_answer(answer, naming())))
    assert codec.read_answer(fields) == expected(answer)


def test_a_native_answer_is_read():
    assert codec.read_answer(NATIVE) == Answer(
        "01", "claude",
        (Reasoning("t", signature="s"), Reasoning(encrypted="d"), Text("a"), ToolCall("toolu_1", "f", '{"a":1}')),
        Stop.TOOL, None, USED, 0, "default",
    )  # fmt: skip


def test_usage_is_metered_as_it_was_reported():
    """What the client reads is what the record has, class by class."""
    for counts in (
        USED,
        Counts(1),
        Counts(0, 5, 0, 0, 7),
        Counts(3, 0, 0, 0, 2, 9),
        Counts(3, 1, 0, 0, 2, 0, 0, 8),
    ):
        body = msgspec.json.encode(codec.write_answer(Answer("a", "m", (), Stop.END, usage=counts), naming()))
        usage, own_id = body_usage(body, "messages")
        assert usage.counts == counts and not usage.flags and own_id == "msg_a1"


def test_sounds_count_as_plain_tokens():
    written = codec.write_answer(Answer("a", "m", (), Stop.END, usage=Counts(3, 0, 0, 4, 5, 0, 6)), naming())
    assert written["usage"]["input_tokens"] == 7 and written["usage"]["output_tokens"] == 11
    assert codec.write_answer(Answer("a", "m", (), None), naming())["usage"]["input_tokens"] == 0


@pytest.mark.parametrize(
    ("stop", "parts", "reason"),
    [
        (Stop.END, (Text("a"),), "end_turn"), (Stop.END, (ToolCall("c", "f", "{}"),), "tool_use"), (Stop.TOOL, (Text("a"),), "end_turn"),
        (Stop.LENGTH, (ToolCall("c", "f", "{}"),), "max_tokens"), (Stop.FILTER, (), "refusal"), (Stop.REFUSAL, (), "refusal"),
        (Stop.PAUSE, (), "pause_turn"), (Stop.CONTEXT, (), "model_context_window_exceeded"), (None, (), "end_turn"),
    ],
)  # fmt: skip
def test_reasons_to_stop(stop, parts, reason):
    assert codec.write_answer(Answer("a", "m", parts, stop), naming())["stop_reason"] == reason


def test_arguments_that_are_no_object_stand_in_one():
    calls = ("", " ", "[1]", '{"a":', "\ud800", "[" * 5000, '{"a": 1e400}')
    answer = Answer("a", "m", tuple(ToolCall("c", "f", text) for text in calls), Stop.TOOL)
    inputs = [block["input"] for block in codec.write_answer(answer, naming())["content"]]
    assert inputs[:4] == [{}, {}, {"input": "[1]"}, {"input": '{"a":'}]
    assert all(isinstance(value, dict) for value in inputs)


def test_names_refusals_and_reasoning_of_others():
    tools = (Tool("a.long/name"),)
    parts = (
        Reasoning(summary=("one", "two"), encrypted="e"), Refused("no"), ToolCall("", ToolNames(tools).wire("a.long/name"), "{}"),
        ToolCall("c", "free", 'x"', custom=True),
    )  # fmt: skip
    content = codec.write_answer(Answer("a", "m", parts, Stop.END), naming(tools=tools))["content"]
    assert content == [
        {"type": "thinking", "thinking": "one\n\ntwo", "signature": "tokenworks.text:"},
        {"type": "redacted_thinking", "data": "tokenworks.data:e"},
        {"type": "text", "text": "no"},
        {"type": "tool_use", "id": "toolu_a1_2", "name": "a.long/name", "input": {}},
        {"type": "tool_use", "id": "c", "name": "free", "input": {"input": 'x"'}},
    ]


def test_whatever_an_upstream_sends_is_read():
    seeded = random.Random(11)
    for _ in range(600):
        answer = codec.read_answer(twisted(seeded, NATIVE))
        msgspec.json.encode(codec.write_answer(answer, naming()))
