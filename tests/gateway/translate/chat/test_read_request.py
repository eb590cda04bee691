"""The reader of a chat request: what clients send, and what nobody should."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    Audio,
    File,
    Image,
    Instruction,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Refused,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Untranslatable,
)

HI = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def read(*messages, **fields):
    return codec.read_request({"model": "m", "messages": list(messages) or [HI], **fields})


def turns_of(*messages):
    request, dropped = read(*messages)
    assert dropped == ()
    return request.turns


def test_system_and_developer_messages_at_the_start_and_in_the_midst():
    request, _ = read(
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        HI,
        {"role": "developer", "content": "Three."},
    )
    assert request.system == (Text("One."), Text("Two."))
    assert request.turns == (Turn("user", (Text("Hi"),)), Instruction((Text("Three."),)))


def test_parts_of_all_kinds():
    content = [
        {"type": "text", "text": "See", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,UklGRg==", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://media.example/a.png"}},
        {"type": "image_url", "image_url": "data:;base64,/9j/4AAQ"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"filename": "b.csv", "file_data": "data:text/csv,a%2Cb"}},
    ]
    assert turns_of({"role": "user", "content": content})[0].parts == (
        Text("See", "1h"),
        Image(data="UklGRg==", media_type="image/webp", detail="low"),
        Image(url="https://media.example/a.png"),
        Image(data="/9j/4AAQ", media_type="image/jpeg"),
        Audio("UklGRg==", "wav"),
        File(data="JVBERi0=", media_type="application/pdf", name="a.pdf"),
        File(file_id="file-1"),
        File(data="YSxi", media_type="text/csv", name="b.csv"),
    )


def test_calls_and_results_stand_in_the_turns_of_their_sides():
    turns = turns_of(
        HI,
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}},
        ]},
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
        {"role": "user", "content": "Go on."},
        {"role": "user", "content": "Now."},
    )  # fmt: skip
    assert turns[1].parts == (
        Reasoning("Hm."), ToolCall("c1", "f", '{"a": 1}'), ToolCall("c2", "patch", "*** Begin", custom=True),
    )  # fmt: skip
    results = (ToolResult("c2", (Text("ok"),), custom=True), ToolResult("c1", (Text("one"),)))
    assert turns[2:] == (
        Turn("user", (*results, Text("Go on."))),
        Turn("user", (Text("Now."),)),
    )


def test_functions_from_before_there_were_tools():
    request, dropped = read(
        HI,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "one"},
        functions=[{"name": "f", "description": "F.", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )
    call, result = request.turns[1].parts[0], request.turns[2].parts[0]
    assert (call.name, call.call_id) == ("f", result.call_id)
    assert result.content == (Text("one"),)
    assert request.tools == (Tool("f", "F.", {"type": "object"}),)
    assert request.tool_choice == ToolChoice("tool", "f")
    assert dropped == ("messages[].name",)


def test_reasoning_comes_back_in_every_field():
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "s", "index": 0},
        {"type": "reasoning.summary", "summary": "So.", "id": "rs_1", "index": 1},
        {"type": "reasoning.encrypted", "data": "e", "id": "rs_1", "index": 2},
    ]
    cases = (
        ({"reasoning": "Hm."}, (Reasoning("Hm."),)),
        ({"reasoning_details": details[:1], "reasoning": "Hm."}, (Reasoning("Hm.", (), "s"),)),
        (
            {"reasoning_details": details},
            (Reasoning("Hm.", (), "s"), Reasoning("", ("So.",), None, "e", "rs_1")),
        ),
        # A client that gathered a stream: the text in one field, its signature in the other.
        (
            {"reasoning_content": "Hm.", "reasoning_details": [{"signature": "s"}]},
            (Reasoning("Hm.", (), "s"),),
        ),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, (Reasoning("Hm."),)),
    )
    for fields, parts in cases:
        assert turns_of(HI, {"role": "assistant", "content": "", **fields})[1].parts == parts
    assert turns_of(HI, {"role": "assistant", "refusal": "No."})[1].parts == (Refused("No."),)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"reasoning_effort": "high"}, {"effort": "high"}),
        ({"reasoning": {"effort": "low"}}, {"effort": "low"}),
        ({"reasoning": {"max_tokens": 2000}}, {"enabled": True, "budget_tokens": 2000}),
        ({"reasoning": {"enabled": False}}, {"enabled": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"enabled": True, "budget_tokens": 2000}),
        ({"thinking": {"type": "disabled"}}, {"enabled": False}),
        ({"thinking": {"type": "auto"}}, {"enabled": True, "adaptive": True}),
        ({"enable_thinking": False}, {"enabled": False}),
        ({"enable_thinking": True, "thinking_budget": 50}, {"enabled": True, "budget_tokens": 50}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enabled": False}),
        ({"chat_template_kwargs": {"thinking": True}}, {"enabled": True}),
    ],
)
def test_thinking_is_read_in_every_vendors_fields(fields, options):
    request, dropped = read(**fields)
    assert request.reasoning == ReasoningOptions(**options)
    assert dropped == ()


def test_tools_choices_and_formats():
    custom = {"type": "custom", "custom": {"name": "patch", "format": {"type": "grammar", "grammar": {
        "syntax": "lark", "definition": "start: x"}}}}  # fmt: skip
    request, _ = read(tools=[FUNCTION, custom], tool_choice="required", parallel_tool_calls=False)
    assert request.tools == (
        Tool("f", parameters={"type": "object"}),
        Tool("patch", custom=True, grammar=("lark", "start: x")),
    )
    assert (request.tool_choice, request.parallel_calls) == (ToolChoice("required"), False)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [FUNCTION]}}
    for value, choice in (
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("tool", "f")),
        ({"type": "custom", "custom": {"name": "patch"}}, ToolChoice("tool", "patch", custom=True)),
        (allowed, ToolChoice("required", allowed=("f",))),
        ("any", ToolChoice("required")),
    ):
        assert read(tools=[FUNCTION], tool_choice=value)[0].tool_choice == choice
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert read(response_format=schema)[0].format == OutputFormat(
        "json_schema", "n", None, {"type": "object"}, True
    )
    assert read(response_format={"type": "text"}) == read()


def test_the_smaller_maximum_counts_and_stop_is_a_text_or_a_list():
    assert read(max_tokens=9, max_completion_tokens=7)[0].max_output_tokens == 7
    assert read(max_tokens=9.0)[0].max_output_tokens == 9
    assert read(max_tokens=-1)[0].max_output_tokens is None
    assert read(stop="x")[0].stop == ("x",)
    assert read(stop=["x", "y"])[0].stop == ("x", "y")
    usage = read(stream=True, stream_options={"include_usage": True})[0]
    assert (usage.stream, usage.stream_usage) == (True, True)


def test_what_is_not_carried_is_named_once():
    fields = {
        "logprobs": True, "top_logprobs": 3, "logit_bias": {"1": 2}, "temperature": "hot", "n": 1, "store": False,
        "tools": [FUNCTION, {"type": "web_search"}], "tool_choice": {"type": "mcp"}, "response_format": {"type": "grammar"}, "min_p": 0.1,
    }  # fmt: skip
    message = {"role": "user", "name": "Ann", "content": [{"type": "video_url", "video_url": {}}]}
    _, dropped = read(message, message, **fields)
    assert set(dropped) == {
        "messages[].name", "messages[0].content[0]", "messages[1].content[0]", "logprobs", "top_logprobs", "logit_bias", "temperature",
        "tools[1]", "tool_choice", "response_format", "min_p",
    }  # fmt: skip
    assert read(logprobs=False, logit_bias={}, logit=None)[1] == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [HI, {"role": "critic", "content": "x"}]}, "messages[1].role"),
        ({"messages": [7]}, "messages[0].role"),
    ],
)
def test_what_no_other_protocol_has_is_refused(fields, param):
    with pytest.raises(Untranslatable) as refused:
        codec.read_request({"model": "m", "messages": [HI], **fields})
    assert refused.value.param == param


# Any JSON at every field, with the names that a reader looks for.
WORDS = (
    "type", "text", "role", "content", "image_url", "url", "function", "name", "arguments", "id", "custom", "file", "file_data",
    "input_audio", "data", "thinking", "grammar", "format", "allowed_tools", "tools", "json_schema", "schema", "effort", "summary", "index",
)  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(
    ["", "x", "user", "text", "image_url", "file", "custom", "function", "allowed_tools", "json_schema", "data:,", "data:image/png;base64", "enabled"]
)  # fmt: skip
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
MESSAGE_FIELDS = (
    "content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls", "function_call", "refusal", "tool_call_id", "name",
)  # fmt: skip
BODY_FIELDS = (
    "tools", "functions", "tool_choice", "function_call", "response_format", "reasoning_effort", "reasoning", "thinking", "enable_thinking",
    "thinking_budget", "chat_template_kwargs", "max_tokens", "max_completion_tokens", "temperature", "top_k", "seed", "stop", "n", "metadata",
    "user", "service_tier", "stream", "stream_options", "verbosity", "logit_bias", "parallel_tool_calls",
)  # fmt: skip
MESSAGES = st.lists(
    st.builds(
        lambda role, fields: {"role": role, **fields},
        st.sampled_from(["user", "assistant", "tool", "function", "system"]),
        st.dictionaries(st.sampled_from(MESSAGE_FIELDS), JSON, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@given(MESSAGES, st.dictionaries(st.sampled_from(BODY_FIELDS), JSON, max_size=5))
@settings(max_examples=100, deadline=None)
def test_nothing_that_a_client_writes_is_another_exception(messages, fields):
    try:
        request, dropped = codec.read_request({"model": "m", "messages": messages, **fields})
        body, more = codec.write_request(request, Target(signed_reasoning=True))
    except Untranslatable as refused:
        assert refused.param
        return
    assert all(isinstance(name, str) for name in (*dropped, *more))
    # What was read is written, and read again as the same.
    again = msgspec.json.decode(msgspec.json.encode(body), type=dict[str, object])
    assert codec.read_request(again)[0].model == "m"
