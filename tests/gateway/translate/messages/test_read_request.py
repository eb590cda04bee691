"""Requests of messages as clients send them, read into the form."""

import random

import msgspec
import pytest
from hypothesis import given, settings

from tests.gateway.translate.messages.support import SIGNED, body, naming
from tests.gateway.translate.messages.test_writer import CARRIED, STOPS
from tests.support.hostile import twisted
from tests.support.translation import answers
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    File,
    Image,
    Instruction,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.messages import codec

MARK = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
# As Claude Code 2.1 sends it: its form, with our words.
CLAUDE_CODE = {
    "model": "claude-opus-5", "max_tokens": 32000, "stream": True, "temperature": 1,
    "metadata": {"user_id": "user_0123_account__session_4567"},
    "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.177; cc_entrypoint=cli; cch=36ee5;"},
        {"type": "text", "text": "You are a tool for code.", "cache_control": MARK},
        {"type": "text", "text": "The folder is /src.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "tools": [
        {"name": "Bash", "description": "Runs a command.", "input_schema": SCHEMA, "eager_input_streaming": True},
        {"name": "mcp__files__read", "description": "Reads.", "input_schema": {"type": "object"}, "cache_control": MARK},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}, {"type": "text", "text": "List it."}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "First look.", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "tokenworks.data:cmVk"},
            {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
        ]},
        {"role": "user", "content": [
            {"tool_use_id": "toolu_1", "type": "tool_result", "content": [{"type": "text", "text": "a.py"}, {"type": "image", "source": PNG}],
             "is_error": True, "cache_control": MARK},
        ]},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "go"},
    ],
}  # fmt: skip


def read(**fields):
    return codec.read_request(body(**fields))


def content(*blocks, role="user"):
    request, dropped = read(messages=[{"role": role, "content": list(blocks)}])
    return request.turns[0].parts if request.turns else (), dropped


def refused(**fields):
    with pytest.raises(Untranslatable) as caught:
        read(**fields)
    return caught.value.param


def test_a_request_of_claude_code():
    request, dropped = codec.read_request(CLAUDE_CODE)
    assert dropped == ("context_management", "system.billing_header", "tools.eager_input_streaming")
    assert request.system == (Text("You are a tool for code.", "5m"), Text("The folder is /src.", "1h"))
    assert request.turns == (
        Turn("user", (Text("<system-reminder>x</system-reminder>"), Text("List it."))),
        Turn("assistant", (
            Reasoning("First look.", signature="c2ln"), Reasoning(encrypted="cmVk"), Text("I look."),
            ToolCall("toolu_1", "Bash", '{"command":"ls"}'),
        )),
        Turn("user", (
            ToolResult("toolu_1", (Text("a.py"), Image(data="iVBORw0KGgo=", media_type="image/png")), is_error=True, cache="5m"),
        )),
        Instruction((Text("Be short."),)),
        Turn("user", (Text("go"),)),
    )  # fmt: skip
    assert request.tools == (
        Tool("Bash", "Runs a command.", SCHEMA),
        Tool("mcp__files__read", "Reads.", {"type": "object"}, cache="5m"),
    )
    assert request.reasoning == ReasoningOptions(True, "high", None, "auto", adaptive=True, encrypted=True)
    assert (request.model, request.max_output_tokens, request.temperature) == ("claude-opus-5", 32000, 1.0)
    assert request.user == "user_0123_account__session_4567" and request.stream and request.stream_usage


def test_a_system_message_before_the_first_turn_belongs_to_the_prompt():
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": "hi"},
    ]
    request, _ = read(system="a", messages=messages)
    assert request.system == (Text("a"), Text("b")) and request.turns == (Turn("user", (Text("hi"),)),)


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, ReasoningOptions(True, None, 2048, "auto", encrypted=True)),
        ({"type": "enabled", "budget_tokens": 2048, "display": "omitted"}, ReasoningOptions(True, None, 2048, None, encrypted=True)),
        ({"type": "between_tools"}, ReasoningOptions(True, None, None, "auto", adaptive=True, encrypted=True)),
        ({"type": "disabled"}, ReasoningOptions(False)),
        (None, ReasoningOptions()),
    ],
)  # fmt: skip
def test_thinking(thinking, expected):
    assert read(thinking=thinking)[0].reasoning == expected


def test_an_effort_without_thinking_and_what_is_not_known():
    assert read(output_config={"effort": "xhigh"})[0].reasoning == ReasoningOptions(effort="xhigh")
    request, dropped = read(
        thinking={"type": "new"}, output_config={"effort": "new", "task_budget": {"total": 9}}
    )
    assert request.reasoning == ReasoningOptions() and dropped == ("output_config.task_budget", "thinking")


def test_structured_output_in_both_spellings():
    wish = {"type": "json_schema", "schema": SCHEMA}
    expected = OutputFormat("json_schema", schema=SCHEMA, strict=True)
    assert read(output_config={"format": wish})[0].format == expected
    assert read(output_format=wish)[0].format == expected
    assert read(output_config={"format": {"type": "xml"}})[1] == ("output_config.format",)


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, ToolChoice("auto"), None), ({"type": "any"}, ToolChoice("required"), None),
        ({"type": "tool", "name": "f"}, ToolChoice("tool", "f"), None), ({"type": "none"}, ToolChoice("none"), None),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto"), False), (None, None, None),
    ],
)  # fmt: skip
def test_choices_of_tools(choice, expected, parallel):
    request, _ = read(tools=[{"name": "f", "input_schema": SCHEMA}], tool_choice=choice)
    assert (request.tool_choice, request.parallel_calls) == (expected, parallel)


def test_tools_that_the_models_of_anthropic_know():
    tools = [
        {"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 9},
        {"type": "memory_20250818", "name": "memory"}, {"type": "tool_search_tool_regex_20251119", "name": "search"},
        {"name": "late", "input_schema": {"type": "object"}, "defer_loading": True},
    ]  # fmt: skip
    request, dropped = read(tools=tools)
    assert [tool.name for tool in request.tools] == ["bash", "str_replace_based_edit_tool", "memory", "late"]
    assert all(tool.description and tool.parameters["properties"]["command"] for tool in request.tools[:3])
    assert dropped == ("tools.tool_search_tool_regex_20251119", "tools.defer_loading")
    assert refused(tools=[{"type": "computer_20250124", "name": "computer"}]) == "tools"
    assert refused(tools=[{"type": "browser_toolset_20260801", "name": "b"}]) == "tools"


def test_documents():
    assert content(
        {"type": "document", "title": "t", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}, "cache_control": MARK},
        {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "f1"}},
        {"type": "document", "context": "c", "citations": {"enabled": True}, "source": {"type": "content", "content": [
            {"type": "text", "text": "a"}, {"type": "image", "source": PNG}, {"type": "text", "text": "b"}]}},
        {"type": "document", "source": {"type": "content", "content": "whole"}},
    ) == ((
        File(data="JVBERi0=", media_type="application/pdf", name="t"), File(text="words", media_type="text/plain", cache="5m"),
        File(url="https://x/a.pdf"), File(file_id="f1"), File(text="a\n\nb", media_type="text/plain"),
        Image(data="iVBORw0KGgo=", media_type="image/png"), File(text="whole", media_type="text/plain"),
    ), ("messages.content.context", "messages.content.citations"))  # fmt: skip


def test_images():
    assert content(
        {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}, "transformations": {"oversized_image": "error"}},
        {"type": "image", "source": {"type": "file", "file_id": "f1"}},
    ) == ((Image(url="https://x/a.png"), Image(file_id="f1")), ("messages.content.transformations",))  # fmt: skip


def test_what_the_vendor_ran_is_left_out_and_what_replaces_a_conversation_stays():
    parts, dropped = content(
        {"type": "compaction", "content": "They met."}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, {"type": "text", "text": "a", "citations": [{}]},
        {"type": "tool_use", "id": "c", "name": "f", "input": None, "caller": {"type": "direct"}}, role="assistant",
    )  # fmt: skip
    assert parts == (Text("They met."), Text("a"), ToolCall("c", "f", "{}"))
    assert dropped == (
        "messages.content.server_tool_use", "messages.content.web_search_tool_result", "messages.content.citations", "messages.content.caller",
    )  # fmt: skip


def test_results_of_every_form():
    search = {
        "type": "search_result",
        "title": "T",
        "source": "s",
        "content": [{"type": "text", "text": "found"}],
    }
    parts, dropped = content(
        {"type": "tool_result", "tool_use_id": "a"}, {"type": "tool_result", "tool_use_id": "b", "content": "x"},
        {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "y", "cache_control": MARK}, search,
         {"type": "tool_reference", "tool_name": "f"}]},
    )  # fmt: skip
    assert parts == (
        ToolResult("a", ()), ToolResult("b", (Text("x"),)), ToolResult("c", (Text("y"), Text("T\ns\nfound")), cache="5m"),
    )  # fmt: skip
    assert dropped == ("messages.content.tool_reference",)


def test_thinking_without_a_signature_comes_back_as_reasoning():
    """As other providers' thinking was shown to the client, with a mark or an empty signature."""
    parts, dropped = content(
        {"type": "thinking", "thinking": "t", "signature": ""}, {"type": "thinking", "thinking": ""},
        {"type": "thinking", "thinking": "u", "signature": "tokenworks.text:"}, {"type": "redacted_thinking", "data": "native"},
        {"type": "redacted_thinking", "data": "tokenworks.data:"}, role="assistant",
    )  # fmt: skip
    assert parts == (Reasoning("t"), Reasoning("u")) and dropped == ("messages.content.redacted_thinking",)


@settings(max_examples=20, deadline=None)
@given(answers(CARRIED, stops=STOPS))
def test_an_answer_that_is_sent_back_is_what_it_was(answer):
    fields = msgspec.json.decode(msgspec.json.encode(codec.write_answer(answer, naming())))
    parts, dropped = content(*fields["content"], role="assistant")
    whole = []
    for part in answer.parts:
        if isinstance(part, Reasoning) and part.text and part.encrypted:
            whole += [Reasoning(part.text), Reasoning(encrypted=part.encrypted)]
        else:
            whole.append(part)
    assert parts == tuple(whole) and dropped == ()


def test_the_mark_of_a_whole_request_stands_at_its_last_block():
    request, dropped = read(cache_control={"type": "ephemeral", "ttl": "1h"})
    assert request.turns == (Turn("user", (Text("hi", "1h"),)),) and dropped == ()


def test_single_fields():
    request, dropped = read(
        stop_sequences=["a", "", 5], top_p=0.5, top_k=7, service_tier="standard_only", speed="standard", mcp_servers=[],
        metadata={"user_id": "u", "more": 1}, new_field=1, max_tokens=7.0,
    )  # fmt: skip
    assert (request.stop, request.top_p, request.top_k, request.service_tier) == (("a",), 0.5, 7, "default")
    assert request.max_output_tokens == 7 and dropped == ("new_field", "metadata.more")
    assert read(temperature="hot")[1] == read(temperature=10**400)[1] == ("temperature",)


def test_a_last_turn_of_the_assistant_stays():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I say "}]
    assert read(messages=messages)[0].turns[-1] == Turn("assistant", (Text("I say "),))


def test_what_can_not_be_read_is_refused():
    user = {"role": "user", "content": "hi"}
    assert refused(model=5) == "model"
    assert refused(max_tokens=0) == "max_tokens"
    assert refused(tools="x") == refused(tools=[{"input_schema": SCHEMA}]) == "tools"
    assert refused(system=5) == "system"
    for messages in (
        None, "x", [5], [{"role": "tool", "content": "x"}], [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}],
        [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}],
        [user, {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
        [user, {"role": "assistant", "content": [{"type": "tool_use", "id": "", "name": "f", "input": {}}]}],
        [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}],
        [{"role": "user", "content": [{"type": "document", "source": 5}]}], [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 5}]}],
    ):  # fmt: skip
        assert refused(messages=messages) == "messages"


@pytest.mark.parametrize("target", [Target(), SIGNED])
def test_whatever_a_client_sends_is_read_or_refused(target):
    seeded = random.Random(3)
    read_count = 0
    for _ in range(500):
        fields = twisted(seeded, CLAUDE_CODE)
        try:
            request, dropped = codec.read_request(fields)
            msgspec.json.encode(codec.write_request(request, target))
        except Untranslatable as error:
            assert error.param and error.message
            continue
        read_count += 1
        assert all(isinstance(name, str) and name for name in dropped)
    assert read_count > 100
