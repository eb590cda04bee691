"""What clients of responses really send, as the form."""

import pytest

from tests.gateway.translate.responses.conftest import FULL_REQUEST
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
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.responses import codec


def read(items="hi", **fields):
    return codec.read_request({"model": "m", "input": items, **fields})


def turns_of(*items):
    return read(list(items))[0].turns


def test_a_full_request():
    request, dropped = codec.read_request(FULL_REQUEST)
    assert dropped == ("input.phase", "input.compaction", "tools.description")
    assert request.system == (Text("Answer briefly."), Text("Use the tools."))
    user, said, results, last = request.turns
    assert user.parts == (
        Text("What is this?", "5m"),
        Image(data="iVBORw0KGgo=", media_type="image/png", detail="low"),
        Image(url="https://media.example/a.png"),
        File(data="JVBERi0xLjc=", media_type="application/pdf", name="a.pdf"),
        File(url="https://media.example/a.pdf"),
        Audio("UklGRg==", "wav"),
    )
    assert said == Turn("assistant", (
        Reasoning("Thought.", ("It thinks.",), encrypted="gAAA", item_id="rs_1"),
        Text("A moment."), Refused("No."),
        ToolCall("c1", "look", '{"a": 1}', namespace="eye", item_id="fc_1"),
        ToolCall("c2", "patch", "*** Begin", custom=True, item_id="ctc_1"),
        ToolCall("c3", "local_shell", '{"command":["ls"],"env":{}}', item_id="ls_1"),
        ToolCall("c4", "shell", '{"commands":["ls"]}'),
        ToolCall("c5", "apply_patch", '{"type":"delete_file","path":"a"}'),
        ToolCall("c6", "tool_search", '{"query":"mail"}'),
    ))  # fmt: skip
    assert results == Turn("user", (
        ToolResult("c1", (Image(url="https://media.example/b.png"),)),
        ToolResult("c2", (Text("done"),), custom=True),
        ToolResult("c3", (Text("a.txt"),)),
        ToolResult("c4", (Text('[{"stdout":"a","stderr":"","outcome":{"type":"exit","exit_code":0}}]'),)),
        ToolResult("c5", (Text("no such file"),), is_error=True),
        ToolResult("c6", (Text("Found: mail"),)),
    ))  # fmt: skip
    assert last == Turn("user", (Text("Go on."),))
    assert [(tool.name, tool.namespace, tool.custom, tool.builtin) for tool in request.tools] == [
        ("f", None, False, None), ("patch", None, True, None), ("look", "eye", False, None), ("local_shell", None, False, "local_shell"),
        ("apply_patch", None, False, "apply_patch"), ("tool_search", None, False, "tool_search"), ("mail", None, False, None),
        ("more", None, False, None),
    ]  # fmt: skip
    assert request.tool_choice == ToolChoice("auto", allowed=("f", "local_shell"))
    assert request.reasoning == ReasoningOptions(effort="high", summary="auto", encrypted=True)
    assert request.format == OutputFormat("json_object"), "an item of the input changes the format"
    assert (request.verbosity, request.max_output_tokens, request.top_p, request.stream) == (
        "low",
        100,
        1.0,
        True,
    )
    assert request.metadata == {"a": "b"}


def test_the_input_as_a_text_and_easy_messages():
    assert read("hi")[0].turns == (Turn("user", (Text("hi"),)),)
    assert turns_of({"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_text", "text": "b"}]}) == (
        Turn("user", (Text("a"),)), Turn("user", (Text("b"),)),
    )  # fmt: skip


def test_instructions_before_the_first_turn_are_the_system_and_later_ones_stay_in_their_place():
    request, _ = read(
        [
            {"role": "system", "content": "b"},
            {"role": "user", "content": "c"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        ],
        instructions="a",
    )
    assert request.system == (Text("a"), Text("b"))
    assert request.turns == (Turn("user", (Text("c"),)), Instruction((Text("d"),)))


def test_an_assistants_items_are_one_turn_and_so_are_the_outputs():
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "x"}
    made = turns_of(
        {"role": "assistant", "content": "A"},
        call,
        call | {"call_id": "b"},
        output,
        output | {"call_id": "b"},
        call,
    )
    assert [(turn.role, len(turn.parts)) for turn in made] == [
        ("assistant", 3),
        ("user", 2),
        ("assistant", 1),
    ]


def test_an_object_in_place_of_json_text_is_read():
    (turn,) = turns_of({"type": "function_call", "call_id": "a", "name": "f", "arguments": {"x": 1}})
    assert turn.parts[0].arguments == '{"x":1}'


def test_our_mark_gives_the_text_and_the_signature_back():
    """Codex sends summaries and `encrypted_content` back as they came, and never `reasoning_text`."""
    item = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "T"}],
        "encrypted_content": "tokenworks.text:c2ln",
    }
    assert turns_of(item)[0].parts == (Reasoning("T", signature="c2ln"),)
    assert turns_of(item | {"encrypted_content": "tokenworks.text:"})[0].parts == (Reasoning("T"),)
    assert turns_of(item | {"encrypted_content": "gAAA"})[0].parts == (
        Reasoning(summary=("T",), encrypted="gAAA"),
    )


@pytest.mark.parametrize(("fields", "param"), [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"input": None}, "input"),
    ({"input": {"role": "user"}}, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ({"input": [{"id": "msg_1"}]}, "input"),
    ({"input": [{"type": "compaction_trigger"}]}, "input"),
])  # fmt: skip
def test_what_only_the_provider_could_do_is_refused(fields, param):
    with pytest.raises(Untranslatable) as refused:
        codec.read_request({"model": "m", "input": "hi", **fields})
    assert refused.value.param == param


@pytest.mark.parametrize(("fields", "names"), [
    ({"store": False, "truncation": "disabled", "background": False, "top_logprobs": 0, "previous_response_id": None}, ()),
    ({"store": True, "truncation": "auto"}, ("store", "truncation")),
    ({"max_tool_calls": 3, "top_logprobs": 5}, ("max_tool_calls", "top_logprobs")),
    ({"include": ["reasoning.encrypted_content"]}, ()),
    ({"include": ["message.output_text.logprobs"]}, ("include",)),
    ({"reasoning": {"effort": "enormous", "context": "all_turns"}}, ("reasoning.effort", "reasoning.context")),
    ({"tool_choice": {"type": "mcp", "server_label": "x"}}, ("tool_choice",)),
    ({"tools": [{"type": "computer"}]}, ("tools",)),
    ({"text": {"format": {"type": "xml"}}}, ("text.format",)),
])  # fmt: skip
def test_what_is_not_carried_is_named(fields, names):
    assert read(**fields)[1] == names


def test_the_effort_none_switches_reasoning_off():
    assert read(reasoning={"effort": "none"})[0].reasoning == ReasoningOptions(enabled=False, effort="none")


def test_items_that_cannot_be_read_are_named_and_the_rest_is_kept():
    request, dropped = read([
        {"type": "function_call", "call_id": "a"}, {"type": "function_call", "name": "f"}, {"type": "function_call_output", "output": "x"},
        {"role": "tool", "content": "x"}, {"type": "web_search_call", "id": "ws"}, {"type": "no such item"}, 7,
        {"role": "user", "content": [{"type": "input_video"}, {"type": "input_image", "image_url": "data:image/png,raw"}, {"type": "input_text", "text": "k"}]},
    ])  # fmt: skip
    assert request.turns == (Turn("user", (Text("k"),)),)
    assert dropped == (
        "input.name", "input.call_id", "input.role", "input.web_search_call", "input", "input.content.input_video", "input.content.input_image",
    )  # fmt: skip
