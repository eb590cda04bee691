"""Requests of other clients, as deployments that speak responses accept them."""

import pytest

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    File,
    Image,
    Instruction,
    OutputFormat,
    Reasoning,
    ReasoningOptions,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tokenworks.gateway.translate.responses import codec

HI = Turn("user", (Text("hi"),))


def write(*turns, target=Target(), **fields):
    return codec.write_request(Request("m", turns or (HI,), **fields), target)


def items_of(*turns, target=Target(), **fields):
    return write(*turns, target=target, **fields)[0]["input"]


def test_the_least_request_keeps_nothing_at_the_provider():
    assert write() == (
        {"model": "m", "store": False, "input": [{"type": "message", "role": "user", "content": "hi"}]},
        (),
    )


def test_what_responses_do_not_have_is_named():
    assert write(stop=("x",), top_k=3, seed=1, frequency_penalty=0.5, presence_penalty=0.5)[1] == (
        "stop", "top_k", "seed", "frequency_penalty", "presence_penalty",
    )  # fmt: skip


def test_a_tool_without_strict_is_not_strict():
    """Absent means strict in responses: a schema of another client, with optional properties, would be refused."""
    body, _ = write(tools=(Tool("f", parameters={"type": "object"}), Tool("g", strict=True)))
    assert [(tool["name"], tool["strict"]) for tool in body["tools"]] == [("f", False), ("g", True)]


def test_a_result_has_the_kind_of_its_call_and_one_without_a_call_is_a_message():
    said = Turn("assistant", (ToolCall("a", "p", "x", custom=True), ToolCall("b", "f", "")))
    results = Turn(
        "user", (ToolResult("a", (Text("1"),)), ToolResult("b", ()), ToolResult("lost", (Text("2"),)))
    )
    assert items_of(said, results) == [
        {"type": "custom_tool_call", "call_id": "a", "name": "p", "input": "x"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": ""},
        {"type": "message", "role": "user", "content": "2"},
    ]


def test_a_failed_result_says_so_to_the_model():
    call, image = ToolCall("b", "f", "{}"), Image(url="https://media.example/a.png")
    for content, output in (
        ((Text("no file"),), "Error: no file"),
        ((), "Error: "),
        (
            (image,),
            [
                {"type": "input_text", "text": "Error: "},
                {"type": "input_image", "detail": "auto", "image_url": image.url},
            ],
        ),
    ):
        result = items_of(
            Turn("assistant", (call,)), Turn("user", (ToolResult("b", content, is_error=True),))
        )[1]
        assert result == {
            "type": "function_call_output",
            "call_id": "b",
            "output": output,
            "status": "incomplete",
        }


def test_long_ids_of_calls_are_short_and_the_same_in_call_and_result():
    long = "toolu_" + "x" * 200
    call, result = items_of(
        Turn("assistant", (ToolCall(long, "f", "{}"),)), Turn("user", (ToolResult(long, ()),))
    )
    assert call["call_id"] == result["call_id"] and len(call["call_id"]) <= 64


def test_long_names_of_a_user_are_hashed():
    body, _ = write(user="u" * 150, prompt_cache_key="k", safety_identifier="s" * 64)
    assert len(body["user"]) == 64 and body["user"] != "u" * 64
    assert (body["prompt_cache_key"], body["safety_identifier"]) == ("k", "s" * 64)


def test_reasoning_goes_back_only_to_the_deployment_that_encrypted_it():
    said = Turn(
        "assistant",
        (Reasoning("T", encrypted="gAAA", item_id="rs_1"), Reasoning("U", signature="s"), Text("A")),
    )
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA", "id": "rs_1"}
    message = {"type": "message", "role": "assistant", "content": "A"}
    assert write(said, target=Target(signed_reasoning=True))[0]["input"] == [item, message]
    body, dropped = write(said)
    assert body["input"] == [message] and dropped == ("reasoning",)


def test_instructions_where_the_deployment_takes_them_in_the_midst():
    body, dropped = write(
        HI, Instruction((Text("c"),)), system=(Text("a", "5m"), Text("b")), target=Target(system_turns=True)
    )
    assert body["instructions"] == "a" and dropped == ("cache",)
    assert [(item["role"], item["content"]) for item in body["input"]] == [
        ("developer", "b"),
        ("user", "hi"),
        ("developer", "c"),
    ]


def test_instructions_where_only_the_first_message_may_be_one():
    """Claude Code sends system messages after the user's turn; templates of Qwen refuse them."""
    body, _ = write(HI, Instruction((Text("c"), Text("d"))), Instruction(()), system=(Text("a"), Text("b")))
    assert body["instructions"] == "a\n\nb"
    assert [(item["role"], item["content"]) for item in body["input"]] == [
        ("user", "hi"),
        ("user", "<system>\nc\n\nd\n</system>"),
    ]


def test_a_plain_text_file_is_text_and_data_has_a_name():
    (message,) = items_of(
        Turn("user", (File(text="T", name="a.txt"), File(data="JVBE", media_type="application/pdf")))
    )
    assert message["content"] == [
        {"type": "input_text", "text": "File: a.txt\n\nT"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE", "filename": "file.pdf"},
    ]


@pytest.mark.parametrize(("options", "reasoning", "dropped"), [
    (ReasoningOptions(), None, ()),
    (ReasoningOptions(enabled=True), {"effort": "medium"}, ()),
    (ReasoningOptions(enabled=True, adaptive=True), None, ()),
    (ReasoningOptions(enabled=True, budget_tokens=1024), {"effort": "low"}, ()),
    (ReasoningOptions(enabled=True, budget_tokens=10_000), {"effort": "medium"}, ()),
    (ReasoningOptions(enabled=True, budget_tokens=31_999), {"effort": "high"}, ()),
    (ReasoningOptions(effort="xhigh", summary="auto"), {"effort": "xhigh", "summary": "auto"}, ()),
    (ReasoningOptions(enabled=False), None, ("reasoning",)),
    (ReasoningOptions(enabled=False, effort="none"), {"effort": "none"}, ()),
])  # fmt: skip
def test_how_much_the_model_is_to_think(options, reasoning, dropped):
    body, names = write(reasoning=options)
    assert (body.get("reasoning"), names) == (reasoning, dropped)


def test_a_deployment_without_reasoning_is_not_asked_for_it():
    body, names = write(reasoning=ReasoningOptions(effort="high"), target=Target(reasoning_switch="none"))
    assert "reasoning" not in body and names == ("reasoning",)


def test_encrypted_reasoning_is_asked_for():
    assert write(reasoning=ReasoningOptions(encrypted=True))[0]["include"] == ["reasoning.encrypted_content"]


def test_formats_tiers_and_metadata():
    body, names = write(
        format=OutputFormat("json_schema", schema={"type": "object"}), service_tier="standard_only", metadata={"a": "b", "c": 1},
    )  # fmt: skip
    assert body["text"] == {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}}
    assert "service_tier" not in body and body["metadata"] == {"a": "b"} and names == ("metadata",)
    assert write(service_tier="turbo")[1] == ("service_tier",)


def test_choices():
    tools = (Tool("f"), Tool("p", custom=True), Tool("l", namespace="n"))
    for choice, written in (
        (ToolChoice("required"), "required"),
        (ToolChoice("tool", "f"), {"type": "function", "name": "f"}),
        (ToolChoice("tool", "p", custom=True), {"type": "custom", "name": "p"}),
        (ToolChoice("tool", "l", "n"), {"type": "function", "name": "l", "namespace": "n"}),
        (ToolChoice("required", allowed=("f", "p")), {
            "type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "p"}],
        }),
    ):  # fmt: skip
        assert write(tools=tools, tool_choice=choice)[0]["tool_choice"] == written
    assert "tool_choice" not in write(tool_choice=ToolChoice("auto"))[0], "there are no tools"


def test_names_that_responses_refuse_are_flat():
    body, _ = write(Turn("assistant", (ToolCall("c", "a.b", "{}"),)), HI, tools=(Tool("a.b"),))
    name = body["tools"][0]["name"]
    assert name == body["input"][0]["name"] and name != "a.b" and name.startswith("a_b")


@pytest.mark.parametrize(("asked", "sent"), [(1, 16), (15, 16), (16, 16), (0, 0), (-1, -1), (4096, 4096)])
def test_a_maximum_below_the_providers_least_is_that_least(asked, sent):
    assert write(max_output_tokens=asked)[0]["max_output_tokens"] == sent
