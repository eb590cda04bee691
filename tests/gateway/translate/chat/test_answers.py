"""Whole answers of chat."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from tests.support.translation import answers
from tokenworks.catalog import Counts
from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Answer,
    Reasoning,
    Refused,
    Request,
    Stop,
    Text,
    Tool,
    ToolCall,
    Turn,
)

CARRIED = frozenset({
    "both", "reasoning", "reasoning.summary", "reasoning.signature", "reasoning.encrypted", "reasoning.item_id", "refused", "call.custom",
    "stop_sequence", "usage.audio", "usage.hour", "answer.service_tier",
})  # fmt: skip
REQUEST = Request("shop/best", (Turn("user", (Text("Hi"),)),))


def naming_of(answer, request=REQUEST):
    return Naming(answer.answer_id, answer.model, answer.created_s, request)


def read(**fields):
    choice = {"index": 0, "message": fields, "finish_reason": fields.pop("finish_reason", "stop")}
    return codec.read_answer({"id": "chatcmpl-1", "model": "m", "choices": [choice]})


@given(answers(CARRIED))
@settings(max_examples=60, deadline=None)
def test_what_is_carried_is_read_back(answer):
    body = msgspec.json.encode(codec.write_answer(answer, naming_of(answer)))
    assert codec.read_answer(msgspec.json.decode(body, type=dict[str, object])) == answer
    completion = ChatCompletion.model_validate_json(body, strict=True)
    assert completion.usage.total_tokens == answer.usage.total


def test_calls_come_back_as_the_clients_own_tools():
    tools = (Tool("patch", custom=True), Tool("run", namespace="shell"), Tool("a.b", parameters={}))
    from_upstream = (
        ToolCall("1", "patch", '{"input": "*** Begin\\n\\u00e9"}'),
        ToolCall("2", "shell__run", "{}"),
    )
    answer = Answer("1", "m", from_upstream, Stop.TOOL)
    body = codec.write_answer(answer, naming_of(answer, msgspec.structs.replace(REQUEST, tools=tools)))
    calls = body["choices"][0]["message"]["tool_calls"]
    assert calls[0] == {"id": "1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin\né"}}
    assert calls[1]["function"] == {"name": "shell__run", "arguments": "{}"}
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_without_content_has_an_empty_one():
    answer = Answer("1", "m", (Reasoning("Hm."),), Stop.LENGTH)
    assert codec.write_answer(answer, naming_of(answer))["choices"][0]["message"]["content"] == ""


def test_vendors_shapes_of_a_message_are_read():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Add."}]},
        {"type": "text", "text": "8"},
    ]
    assert read(content=parts).parts == (Reasoning("Add."), Text("8"))
    assert read(content="8", reasoning="Add.").parts == (Reasoning("Add."), Text("8"))
    details = [{"type": "reasoning.text", "text": "Add.", "signature": "s", "index": 0}]
    answer = read(content="8", reasoning="Add.", reasoning_details=details)
    assert answer.parts == (Reasoning("Add.", (), "s"), Text("8"))
    assert read(content=None, refusal="No.").parts == (Refused("No."),)


def test_calls_of_all_vendors_are_read():
    whole = {"function": {"name": "f", "arguments": {"a": [1]}}}  # Ollama: no id, decoded arguments
    none = {"id": "c", "type": "function", "function": {"name": "g", "arguments": ""}}
    answer = read(content="", tool_calls=[whole, none], finish_reason="stop")
    assert answer.parts == (ToolCall("call_1_0", "f", '{"a":[1]}'), ToolCall("c", "g", "{}"))
    # Without the reason for tools an agent would run none.
    assert answer.stop is Stop.TOOL
    old = read(content=None, function_call={"name": "f", "arguments": "{}"}, finish_reason="function_call")
    assert old.parts == (ToolCall("call_1_0", "f", "{}"),)
    assert old.stop is Stop.TOOL


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", Stop.END), ("eos", Stop.END), ("length", Stop.LENGTH), ("content_filter", Stop.FILTER), ("sensitive", Stop.FILTER),
        ("refusal", Stop.REFUSAL), ("model_length", Stop.CONTEXT), ("abort", Stop.LENGTH), ("tool_calls", Stop.END),
    ],
)  # fmt: skip
def test_reasons_of_all_vendors_are_read(reason, stop):
    assert read(content="x", finish_reason=reason).stop is stop


def test_only_the_first_choice_is_carried():
    choices = [
        {"index": 1, "message": {"content": "second"}, "finish_reason": "stop"},
        {"index": 0, "message": {"content": "first"}, "finish_reason": "length"},
    ]
    answer = codec.read_answer({"choices": choices})
    assert (answer.parts, answer.stop) == ((Text("first"),), Stop.LENGTH)


def test_usage_is_read_in_each_place():
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    assert codec.read_answer({"choices": [choice], "usage": usage}).usage == Counts(3, output=2)
    assert codec.read_answer({"choices": [{**choice, "usage": usage}]}).usage == Counts(3, output=2)
    assert codec.read_answer({"choices": [choice], "usage": None}).usage is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "function", "name", "arguments", "index", "id"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls", "function_call", "refusal"), JSON),
    ),
    JSON,
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_nothing_that_an_upstream_writes_is_an_exception(message, value):
    for fields in (
        {
            "choices": [{"index": value, "message": message, "finish_reason": value}],
            "usage": value,
            "id": value,
        },
        {"choices": value, "created": value, "model": value},
    ):
        answer = codec.read_answer(fields)
        msgspec.json.encode(codec.write_answer(answer, naming_of(answer)))
