"""Requests of any client, written as the provider of messages demands them."""

import base64

import msgspec
import pytest
from hypothesis import assume, given, settings

from tests.gateway.translate.messages.support import SIGNED, body, request, sent, turned
from tests.support.translation import EVERYTHING, requests
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
from tokenworks.gateway.translate.messages import codec
from tokenworks.gateway.translate.names import ToolNames

CARRIED = EVERYTHING - {
    "repeated", "mixed_results", "image.detail", "audio", "refused", "reasoning.summary", "reasoning.item_id", "call.custom",
    "call.namespace", "call.item_id", "tool.grammar", "choice.allowed", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "format",
    "verbosity", "safety_identifier", "prompt_cache_key", "metadata", "reasoning.effort", "reasoning.enabled", "reasoning.budget_tokens",
    "reasoning.adaptive", "reasoning.wish", "reasoning.wish_encrypted",
    "text.cache", "image.cache", "file.cache", "call.cache", "result.cache", "tool.cache",
}  # fmt: skip
A, B = Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),))
CALL, RESULT = ToolCall("c1", "f", '{"x":1}'), ToolResult("c1", (Text("out"),))
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}
GIVEN = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "out"}]}
TOOL = Tool("f", "Does.", {"type": "object", "properties": {"x": {"type": "integer"}}})


def text(words):
    return {"type": "text", "text": words}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def blank(value):
    """True if a text that becomes a block or a stop sequence is blank."""
    if isinstance(value, Text):
        return not value.text.strip()
    if isinstance(value, File):
        return value.text is not None and not value.text.strip()
    if isinstance(value, Turn):
        return any(map(blank, value.parts))
    if isinstance(value, Instruction):
        return any(map(blank, value.parts))
    return isinstance(value, ToolResult) and any(map(blank, value.content))


def strictly(tool):
    if not tool.strict:
        return msgspec.structs.replace(tool, strict=None)
    return msgspec.structs.replace(tool, parameters={**tool.parameters, "additionalProperties": False})


def expected(drawn):
    """As messages tell it: reasoning without a signature is not sent, and what is encrypted is read only with a mark."""
    turns = []
    for turn in drawn.turns:
        parts = []
        for part in turn.parts:
            if isinstance(part, Reasoning):
                parts += [Reasoning(part.text, signature=part.signature)] if part.signature else []
            else:
                parts.append(part)
        turns.append(Turn(turn.role, tuple(parts)) if isinstance(turn, Turn) else turn)
    choice = drawn.tool_choice
    parallel = None if choice is not None and choice.mode == "none" else drawn.parallel_calls
    return msgspec.structs.replace(
        drawn,
        turns=tuple(turns),
        tools=tuple(map(strictly, drawn.tools)),
        tool_choice=ToolChoice("auto") if choice is None and parallel is not None else choice,
        parallel_calls=parallel,
        max_output_tokens=drawn.max_output_tokens or SIGNED.default_max_tokens,
        stream_usage=drawn.stream,
    )


@settings(max_examples=25, deadline=None)
@given(requests(CARRIED))
def test_what_is_written_is_read_as_it_was(drawn):
    wanted = expected(drawn)
    assume(not any(map(blank, (*drawn.system, *drawn.turns))) and all(stop.strip() for stop in drawn.stop))
    assume(all(turn.parts for turn in wanted.turns))
    fields, dropped = sent(drawn)
    assert codec.read_request(fields)[0] == wanted
    assert set(dropped) <= {"turns.reasoning"}


def test_turns_of_one_role_are_joined_and_the_first_is_the_users():
    assert turned(A, Turn("user", (Text("c"),)), B, B, A) == [
        user(text("a"), text("c")), assistant(text("b"), text("b")), user(text("a")),
    ]  # fmt: skip
    assert turned(B, A) == [user(text(".")), assistant(text("b")), user(text("a"))]
    assert turned() == turned(Turn("user", (Text(" \n"),))) == [user(text("."))]


def test_results_stand_first_and_each_call_has_one():
    mixed = Turn("user", (Text("and"), ToolResult("c2", (), is_error=True), RESULT))
    calls = Turn("assistant", (CALL, ToolCall("c2", "f", "")))
    again = {"type": "tool_result", "tool_use_id": "c2", "is_error": True}
    assert turned(A, calls, mixed) == [
        user(text("a")), assistant(USE, {**USE, "id": "c2", "input": {}}), user(again, GIVEN, text("and")),
    ]  # fmt: skip
    lost = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": "(The call has no result.)",
        "is_error": True,
    }
    assert turned(A, Turn("assistant", (CALL,)), A) == [
        user(text("a")),
        assistant(USE),
        user(lost, text("a")),
    ]
    assert turned(A, Turn("assistant", (CALL,))) == [user(text("a")), assistant(USE), user(lost)]
    two = turned(
        A,
        Turn("assistant", (CALL,)),
        Turn("user", (RESULT, ToolResult("c1", (Text("twice"),)))),
        B,
        Turn("user", (RESULT,)),
    )
    assert two[2] == user(GIVEN, text("The result of the call c1 of a tool:"), text("twice"))
    assert two[4] == user(text("The result of the call c1 of a tool:"), text("out"))


def test_results_in_turns_of_their_own_are_one_message():
    calls = Turn("assistant", (CALL, ToolCall("c2", "f", "{}")))
    messages = turned(
        A,
        calls,
        Turn("user", (RESULT,)),
        Turn("user", (ToolResult("c2", (Text("2"),)),)),
        Turn("user", (Text("go"),)),
    )
    assert [block["type"] for block in messages[2]["content"]] == ["tool_result", "tool_result", "text"]


def test_ids_of_calls_are_unique_and_have_the_providers_characters():
    def turns(call_id):
        return Turn("assistant", (ToolCall(call_id, "f", "{}"),)), Turn(
            "user", (ToolResult(call_id, (Text("r"),)),)
        )

    messages = turned(
        A, *turns("functions.f:0"), *turns("functions.f:0"), *turns("call_0"), *turns("call_0"), *turns("")
    )
    ids = [block["id"] for message in messages for block in message["content"] if block["type"] == "tool_use"]
    results = [
        block["tool_use_id"]
        for message in messages
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert ids == results and len(set(ids)) == 5 and ids[2] == "call_0"
    assert all(set(call_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for call_id in ids)
    assert turned(A, *turns("functions.f:0"))[1]["content"][0]["id"] == ids[0]


def test_reasoning_goes_back_only_with_a_signature_of_this_deployment():
    thought = Turn(
        "assistant", (Reasoning("t", signature="s"), Reasoning(encrypted="d"), Reasoning("other"), Text("b"))
    )
    fields, dropped = sent(request(turns=(A, thought, A)))
    signed = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    assert fields["messages"][1] == assistant(*signed, text("b")) and dropped == ("turns.reasoning",)
    fields, dropped = sent(request(turns=(A, thought, A)), Target())
    assert fields["messages"][1] == assistant(text("b")) and dropped == ("turns.reasoning",)


def test_a_last_turn_of_the_assistant_ends_with_no_blank():
    assert turned(A, Turn("assistant", (Text("say: \n"),))) == [user(text("a")), assistant(text("say:"))]
    assert turned(A, Turn("assistant", (Text("say"), Reasoning("t", signature="s")))) == [
        user(text("a")),
        assistant(text("say")),
    ]
    assert turned(A, Turn("assistant", (Reasoning("t", signature="s"),))) == [user(text("a"))]


def test_instructions_in_the_midst():
    told = Instruction((Text("Be short."),))
    assert turned(A, told, B, A)[1] == {"role": "system", "content": [text("Be short.")]}
    both = turned(A, told, Instruction((Text("Now."), Text(" "))))
    assert both == [user(text("a")), {"role": "system", "content": [text("Be short."), text("Now.")]}]
    marked = text("<system>\nBe short.\n</system>")
    assert turned(A, told, A) == [user(text("a"), marked, text("a"))]
    assert turned(A, B, told) == [user(text("a")), assistant(text("b")), user(marked)]
    assert turned(told, A) == [user(marked, text("a"))]
    assert turned(A, told, B, A, target=Target())[0] == user(text("a"), marked)
    calls = Turn("assistant", (CALL,))
    for target in (Target(), SIGNED):
        assert turned(A, calls, told, Turn("user", (RESULT,)), target=target)[2] == user(GIVEN, marked)


def test_what_an_assistant_may_not_send():
    parts = (Text("b"), Refused("I won't."), Image(url="https://x/a.png"))
    fields, dropped = sent(request(turns=(A, Turn("assistant", parts), A)))
    assert fields["messages"][1] == assistant(text("b"), text("I won't.")) and dropped == ("turns.assistant",)


def test_images_and_files():
    data = base64.b64encode(b"a,b\n").decode()
    turn = Turn("user", (
        Image(url="https://x/a.png", detail="high"), Image(data="iVBORw0KGgo="), Image(data="/9j/4AAQ", media_type="image/jpg"),
        File(url="https://x/a.pdf", name="a.pdf"), File(data="JVBERi0xLjc="), File(data=data, media_type="text/csv; charset=utf-8"),
        File(data="R0lGODlh", media_type="image/gif"), File(text="words"), File(text=" "), Image(file_id="f1"), File(file_id="f2"),
    ))  # fmt: skip
    fields, dropped = sent(request(turns=(turn,)))
    plain = {"type": "text", "media_type": "text/plain"}
    assert fields["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQ"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}, "title": "a.pdf"},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjc="},
        },
        {"type": "document", "source": {**plain, "data": "a,b\n"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}},
        {"type": "document", "source": {**plain, "data": "words"}},
        {"type": "image", "source": {"type": "file", "file_id": "f1"}},
        {"type": "document", "source": {"type": "file", "file_id": "f2"}},
    ]
    assert dropped == ("image.detail",)


@pytest.mark.parametrize(
    "part",
    [
        Audio("AAAA", "wav"), Image(url="http://x/a.png"), Image(data="AAAA"), Image(data="AAAA", media_type="image/tiff"), Image(),
        File(data="AAAA", media_type="application/zip"), File(data="//79", media_type="text/plain"), File(url="ftp://x"), File(),
        File(data="a", media_type="text/plain"), File(data="IA==", media_type="text/plain"),
    ],
)  # fmt: skip
def test_what_the_deployment_does_not_take_is_refused(part):
    with pytest.raises(Untranslatable) as caught:
        sent(request(turns=(Turn("user", (part,)),)))
    assert caught.value.param in {"audio", "image", "file"}


def test_tools():
    tools = (
        Tool("f"), Tool("f"), Tool("g", "G.", {"properties": {"a": {}}, "$schema": "x"}, strict=True), Tool("h", parameters={"type": ["object", "null"]}),
        Tool("v", parameters={"anyOf": [{"properties": {"a": {"type": "string"}}}, 5], "oneOf": 5, "properties": {"b": {}}}),
        Tool("patch", "Edits.", custom=True, grammar=("lark", "start: x")), Tool("read", namespace="fs"),
    )  # fmt: skip
    fields, dropped = sent(request(tools=tools))
    assert fields["tools"] == [
        {"name": "f", "input_schema": {"type": "object", "properties": {}}},
        {"name": "g", "description": "G.", "strict": True,
         "input_schema": {"properties": {"a": {}}, "type": "object", "additionalProperties": False}},
        {"name": "h", "input_schema": {"type": "object", "properties": {}}},
        {"name": "v", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}},
        {"name": "patch", "description": "Edits.\n\n`input` is free text that this lark grammar accepts:\nstart: x",
         "input_schema": {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}},
        {"name": "fs__read", "input_schema": {"type": "object", "properties": {}}},
    ]  # fmt: skip
    assert dropped == ("tools.name",)
    fields, dropped = sent(
        request(tools=(Tool("g", parameters={"type": "object", "minProperties": 1}, strict=True),)), Target()
    )
    assert fields["tools"] == [
        {"name": "g", "input_schema": {"type": "object", "minProperties": 1, "properties": {}}}
    ]
    assert dropped == ("tools.strict",)


def test_calls_of_custom_tools_and_namespaces_and_what_comes_back():
    tools = (Tool("patch", custom=True), Tool("read", namespace="fs"))
    calls = Turn(
        "assistant",
        (ToolCall("c1", "patch", 'a "b"', custom=True), ToolCall("c2", "read", "[]", namespace="fs")),
    )
    uses = turned(A, calls, tools=tools)[1]["content"]
    assert [(use["name"], use["input"]) for use in uses] == [
        ("patch", {"input": 'a "b"'}),
        ("fs__read", {"input": "[]"}),
    ]
    answer = codec.read_answer({"content": [uses[0]]})
    assert ToolNames(tools).restored(answer.parts[0]) == ToolCall("c1", "patch", 'a "b"', True)


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None), (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (None, True, {"type": "auto", "disable_parallel_tool_use": False}), (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}), (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("tool", "f"), None, {"type": "tool", "name": "f"}), (ToolChoice("tool"), None, {"type": "any"}),
        (ToolChoice("tool", "read", "fs"), None, {"type": "tool", "name": "fs__read"}),
    ],
)  # fmt: skip
def test_choices_of_tools(choice, parallel, expected):
    tools = (TOOL, Tool("read", namespace="fs"))
    assert (
        sent(request(tools=tools, tool_choice=choice, parallel_calls=parallel))[0].get("tool_choice")
        == expected
    )


def test_a_choice_among_some_tools_leaves_the_others_out():
    fields, _ = sent(
        request(tools=(TOOL, Tool("g"), Tool("h")), tool_choice=ToolChoice("required", allowed=("g", "h")))
    )
    assert [tool["name"] for tool in fields["tools"]] == ["g", "h"] and fields["tool_choice"] == {
        "type": "any"
    }
    fields, _ = sent(request(tools=(TOOL,), tool_choice=ToolChoice("auto", allowed=("x",))))
    assert "tools" not in fields and "tool_choice" not in fields
    history = (A, Turn("assistant", (CALL, ToolCall("c2", "f", "{}"))), A)
    fields, _ = sent(request(turns=history, tools=(TOOL,), tool_choice=ToolChoice("auto", allowed=("x",))))
    assert [tool["name"] for tool in fields["tools"]] == ["f"] and fields["tool_choice"] == {"type": "none"}


def test_calls_in_the_history_of_a_request_without_tools():
    fields, _ = sent(request(turns=(A, Turn("assistant", (CALL,)), Turn("user", (RESULT,)))))
    assert [tool["name"] for tool in fields["tools"]] == ["f"] and fields["tool_choice"] == {"type": "none"}
    assert "tools" not in sent(request())[0]


BUDGET = {"type": "enabled", "budget_tokens": 2000}


@pytest.mark.parametrize(
    ("wish", "maximum", "thinking"),
    [
        (ReasoningOptions(), 9000, None), (ReasoningOptions(False), 9000, {"type": "disabled"}),
        (ReasoningOptions(effort="none"), 9000, {"type": "disabled"}), (ReasoningOptions(True, budget_tokens=2000), 9000, BUDGET),
        (ReasoningOptions(True, budget_tokens=10), 9000, {**BUDGET, "budget_tokens": 1024}),
        (ReasoningOptions(True, budget_tokens=9999), 9000, {**BUDGET, "budget_tokens": 8999}),
        (ReasoningOptions(effort="low"), 10_000, BUDGET), (ReasoningOptions(effort="high"), 10_000, {**BUDGET, "budget_tokens": 8000}),
        (ReasoningOptions(True), 10_000, {**BUDGET, "budget_tokens": 5000}), (ReasoningOptions(effort="high"), 1025, {**BUDGET, "budget_tokens": 1024}),
        (ReasoningOptions(effort="minimal", summary="auto"), 2000, {"type": "enabled", "budget_tokens": 1024, "display": "summarized"}),
    ],
)  # fmt: skip
def test_how_much_to_think(wish, maximum, thinking):
    fields, dropped = sent(request(reasoning=wish, max_output_tokens=maximum))
    assert fields.get("thinking") == thinking and dropped == () and "output_config" not in fields


def test_a_budget_comes_on_top_of_the_default_maximum():
    fields, _ = sent(request(reasoning=ReasoningOptions(True, budget_tokens=2000)))
    assert fields["max_tokens"] == 6096 and fields["thinking"] == BUDGET
    assert sent(request())[0]["max_tokens"] == 4096


def test_a_maximum_with_no_room_for_thinking():
    fields, dropped = sent(request(reasoning=ReasoningOptions(effort="high"), max_output_tokens=1024))
    assert "thinking" not in fields and dropped == ("reasoning",) and fields["max_tokens"] == 1024


def test_a_model_that_decides_by_itself():
    target = Target(adaptive_thinking=True)
    fields, _ = sent(request(reasoning=ReasoningOptions(effort="minimal"), max_output_tokens=100), target)
    assert fields["thinking"] == {"type": "adaptive"} and fields["output_config"] == {"effort": "low"}
    for wish in (ReasoningOptions(False), ReasoningOptions(effort="none"), ReasoningOptions()):
        fields, dropped = sent(request(reasoning=wish), target)
        assert "thinking" not in fields and dropped == ()


THOUGHT = Reasoning("t", signature="s")


@pytest.mark.parametrize(
    ("turns", "choice", "thinks"),
    [
        ((A,), None, True), ((A, B, A), None, True), ((A, B), None, False),
        ((A, Turn("assistant", (CALL,)), Turn("user", (RESULT,))), None, False),
        ((A, Turn("assistant", (Text("b"), CALL)), Turn("user", (RESULT, Text("more")))), None, False),
        ((A, Turn("assistant", (THOUGHT, CALL)), Turn("user", (RESULT,))), None, True),
        ((A, Turn("assistant", (CALL,)), Turn("user", (RESULT,)), B, A), None, True),
        ((A,), ToolChoice("required"), False), ((A,), ToolChoice("tool", "f"), False), ((A,), ToolChoice("auto"), True),
    ],
)  # fmt: skip
def test_where_thinking_would_be_refused_the_model_does_not_think(turns, choice, thinks):
    fields, dropped = sent(
        request(
            turns=turns,
            tools=(TOOL,),
            tool_choice=choice,
            reasoning=ReasoningOptions(effort="high"),
            max_output_tokens=9000,
        )
    )
    assert ("thinking" in fields) == thinks and ("reasoning" in dropped) != thinks


def test_sampling():
    assert sent(request(temperature=1.7, top_k=5))[0].items() >= {"temperature": 1.0, "top_k": 5}.items()
    assert sent(request(top_p=0.5))[0]["top_p"] == 0.5
    fields, dropped = sent(request(temperature=0.5, top_p=0.5))
    assert fields["temperature"] == 0.5 and "top_p" not in fields and dropped == ("top_p",)
    assert sent(request(temperature=0.5, top_p=1.0))[1] == ()
    thinking = {"reasoning": ReasoningOptions(effort="high"), "max_output_tokens": 9000}
    fields, dropped = sent(request(temperature=0.5, top_p=0.5, top_k=5, **thinking))
    assert fields.keys().isdisjoint({"temperature", "top_p", "top_k"}) and dropped == (
        "temperature",
        "top_k",
        "top_p",
    )
    fields, dropped = sent(request(temperature=1.0, **thinking))
    assert fields["temperature"] == 1.0 and dropped == ()
    assert sent(request(top_p=0.96, **thinking))[0]["top_p"] == 0.96


SCHEMA = {
    "type": "object", "properties": {
        "n": {"type": "integer", "minimum": 1, "description": "A number."}, "when": {"type": "string", "format": "date"},
        "zip": {"type": "string", "format": "postal"}, "more": {"type": "array", "items": {"$ref": "#/$defs/d"}, "minItems": 1, "maxItems": 4},
        "one": {"oneOf": [{"type": "null"}, {"type": "object", "additionalProperties": True}]},
    },
    "required": ["n"], "$defs": {"d": {"type": "object", "properties": {}}},
}  # fmt: skip


def test_a_schema_is_enforced_or_told():
    wish = OutputFormat("json_schema", "answer", "An answer.", SCHEMA, True)
    fields, dropped = sent(
        request(format=wish, reasoning=ReasoningOptions(effort="low")),
        Target(structured_output=True, adaptive_thinking=True),
    )
    assert dropped == () and "system" not in fields
    assert fields["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": {
        "type": "object", "properties": {
            "n": {"type": "integer", "description": "A number.\n\n{minimum: 1}"}, "when": {"type": "string", "format": "date"},
            "zip": {"type": "string", "description": '{format: "postal"}'},
            "more": {"type": "array", "items": {"$ref": "#/$defs/d"}, "minItems": 1, "description": "{maxItems: 4}"},
            "one": {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": False, "properties": {}}]},
        },
        "required": ["n"], "$defs": {"d": {"type": "object", "properties": {}, "additionalProperties": False}}, "additionalProperties": False,
    }}}  # fmt: skip
    fields, _ = sent(request(format=wish, system=(Text("s"),)), Target())
    assert (
        fields["system"][0] == text("s")
        and '"minimum":1' in fields["system"][1]["text"]
        and "output_config" not in fields
    )
    fields, _ = sent(request(format=OutputFormat("json_object")))
    assert "JSON" in fields["system"][0]["text"]


def test_a_deep_schema_is_no_deep_recursion():
    schema = {"type": "object"}
    for _ in range(1000):
        schema = {"type": "object", "properties": {"a": schema}}
    codec.write_request(
        request(format=OutputFormat("json_schema", schema=schema)), Target(structured_output=True)
    )


def test_marks_of_the_cache():
    def marks(*lifetimes, turn=()):
        system = tuple(Text(f"{at}", lifetime) for at, lifetime in enumerate(lifetimes))
        fields, dropped = sent(request(system=system, turns=(Turn("user", (*turn, Text("hi"))),)))
        found = [
            block.get("cache_control", {}).get("ttl", "5m" if "cache_control" in block else None)
            for block in fields["system"]
        ]
        return found, fields, dropped

    assert marks("1h", None, "5m")[0] == ["1h", None, "5m"]
    assert marks("5m", "1h")[0] == ["5m", "5m"]
    found, _, dropped = marks("1h", "5m", "1h", "5m", "5m", "5m")
    assert found == [None, None, "1h", "5m", "5m", "5m"] and dropped == ("cache",)
    result = ToolResult("c1", (Text("out", "1h"),))
    fields, _ = sent(
        request(
            turns=(
                A,
                Turn("assistant", (msgspec.structs.replace(CALL, cache="5m"),)),
                Turn("user", (result,)),
            ),
            tools=(msgspec.structs.replace(TOOL, cache="1h"),),
        )
    )
    assert fields["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert fields["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    inner = fields["messages"][2]["content"][0]
    assert inner["cache_control"] == {"type": "ephemeral"} and "cache_control" not in inner["content"][0]


def test_single_fields():
    fields, dropped = sent(request(
        stop=("x", " "), frequency_penalty=0.0, presence_penalty=1.0, seed=0, verbosity="low", prompt_cache_key="k", metadata={"a": "b"},
        service_tier="default", safety_identifier="s", stream=True,
    ))  # fmt: skip
    assert fields == body(
        max_tokens=4096, messages=[user(text("hi"))], stop_sequences=["x"], stream=True, metadata={"user_id": "s"}, service_tier="standard_only"
    )  # fmt: skip
    assert dropped == ("stop", "presence_penalty", "seed", "verbosity", "prompt_cache_key", "metadata")
    assert sent(request(user="u" * 257, service_tier="flex"))[1] == ("user", "service_tier")
