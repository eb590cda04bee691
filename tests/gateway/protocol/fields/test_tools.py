"""Tools of Codex and of Claude Code: the client's pass, the vendor's are dropped and named, or refused."""

import pytest

from tests.gateway.protocol.fields.support import HI, compact, sent
from tokenworks.catalog import Service
from tokenworks.gateway.protocol.fields import BodyError, parse_body, tools_refused

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def response(tools, **more):
    return {"model": "m", "input": "hi", "tools": tools} | more


def test_tools_that_the_client_runs_pass():
    tools = [
        {"type": "namespace", "name": "agents", "description": "helpers", "tools": []}, {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
        {"type": "computer_use_preview", "display_width": 9, "display_height": 9, "environment": "linux"}, {"type": "tool_search", "execution": "client"},
        {"type": "shell", "environment": {"type": "local"}}, {"type": "custom", "name": "c", "format": {"type": "text"}}, FUNCTION,
    ]  # fmt: skip
    assert sent(response(tools), "responses") == (response(tools), ())
    claude = [{"name": "Bash", "input_schema": {}}, {"type": "custom", "name": "x", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "e"},
              {"type": "computer_20251124", "name": "computer", "display_width_px": 1, "display_height_px": 1}, {"type": "memory_20250818", "name": "memory"}]  # fmt: skip
    body = {"model": "m", "max_tokens": 5, "messages": HI, "tools": claude}
    assert sent(body, "messages") == (body, ())


@pytest.mark.parametrize(("tool", "named"), [
    ({"type": "web_search", "external_web_access": False}, "web_search"), ({"type": "mcp", "server_label": "x", "server_url": "https://x"}, "mcp"),
    ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"), ({"type": "file_search", "vector_store_ids": ["v"]}, "file_search"), ({"type": "image_generation"}, "image_generation"),
    ({"type": "shell", "environment": {"type": "container_auto"}}, "container_auto"), ({"type": "web_search_preview_2025_03_11"}, "web_search_preview_2025_03_11"),
])  # fmt: skip
def test_a_hosted_tool_that_is_only_declared_is_dropped_and_named(tool, named):
    body = response([tool, FUNCTION], tool_choice="auto")
    assert sent(body, "responses") == (response([FUNCTION], tool_choice="auto"), (f"tools[0].{named}",))
    assert sent(response([tool], tool_choice="auto", parallel_tool_calls=True), "responses") == (
        {"model": "m", "input": "hi"},
        (f"tools[0].{named}",),
    )


def test_claude_codes_hosted_tools_are_dropped():
    mine = {"name": "Bash", "input_schema": {}}
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": HI,
        "tools": [
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
            mine,
            {"type": "mcp_toolset", "mcp_server_name": "x"},
        ],
    }
    out, names = sent(body, "messages")
    assert out["tools"] == [mine]
    assert names == ("tools[0].web_search_20250305", "tools[2].mcp_toolset")


def test_a_plan_may_refuse_them():
    parsed = parse_body(compact(response([{"type": "web_search"}])), "responses")
    assert tools_refused(parsed.hosted, Service()) is None
    refusal = tools_refused(parsed.hosted, Service(hosted_tools="refuse"))
    assert (refusal.status, refusal.code, refusal.param) == (400, "unpriced_field", "tools")
    assert (
        tools_refused(
            parse_body(compact(response([FUNCTION])), "responses").hosted, Service(hosted_tools="refuse")
        )
        is None
    )


def test_what_is_neither_is_unknown_and_named():
    out, names = sent(response([{"type": "teleport"}, FUNCTION]), "responses")
    assert (out["tools"], names) == ([FUNCTION], ("tools[0]",))
    assert sent(response([{"type": "teleport"}]), "responses")[0] == {"model": "m", "input": "hi"}


@pytest.mark.parametrize(("protocol", "body"), [
    ("responses", response([{"type": "web_search"}, FUNCTION], tool_choice={"type": "web_search"})), ("responses", response([FUNCTION], tool_choice={"type": "mcp", "server_label": "x"})),
    ("responses", response([{"type": "web_search"}], tool_choice="required")),
    ("responses", response([{"type": "web_search"}, FUNCTION], tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]})),
    ("messages", {"model": "m", "max_tokens": 5, "messages": HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "web_search"}}),
    ("messages", {"model": "m", "max_tokens": 5, "messages": HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"}}),
    ("chat", {"model": "m", "messages": HI, "tools": [{"type": "web_search", "web_search": {"enable": True}}], "tool_choice": {"type": "web_search"}}),
])  # fmt: skip
def test_a_choice_that_forces_one_is_refused(protocol, body):
    with pytest.raises(BodyError) as caught:
        parse_body(compact(body), protocol)
    assert (caught.value.refusal.code, caught.value.refusal.param) == ("unpriced_field", "tool_choice")


def test_of_allowed_tools_the_vendors_are_dropped():
    choice = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}],
    }
    out, names = sent(response([{"type": "web_search"}, FUNCTION], tool_choice=choice), "responses")
    assert out == response([FUNCTION], tool_choice=choice | {"tools": choice["tools"][1:]})
    assert set(names) == {"tools[0].web_search", "tool_choice.tools[0]"}


def test_tools_inside_items_are_looked_at_too():
    items = [
        {"role": "user", "content": "hi"},
        {
            "type": "additional_tools",
            "role": "developer",
            "tools": [{"type": "mcp", "server_label": "x"}, FUNCTION],
        },
    ]
    out, names = sent({"model": "m", "input": items}, "responses")
    assert out["input"][1]["tools"] == [FUNCTION]
    assert names == ("input[1].tools[0].mcp",)
