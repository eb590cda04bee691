"""Tools and the choice among them."""

import pytest

from tokenworks.gateway.translate.form import Tool, ToolChoice
from tokenworks.gateway.translate.responses.tools import read_choice, read_tools, write_tools
from tokenworks.gateway.translate.responses.values import Dropped


def read(*values):
    dropped = Dropped()
    return read_tools(values, dropped), dropped.names()


def test_the_groups_of_codex():
    """Codex declares each MCP server as a namespace (CLIENTS.md: Codex CLI 0.171)."""
    inner = {
        "type": "function",
        "name": "send",
        "description": "D",
        "parameters": {"type": "object"},
        "strict": False,
    }
    group = {
        "type": "namespace",
        "name": "mcp__mail",
        "description": "Mail.",
        "tools": [inner, {"type": "custom", "name": "raw"}],
    }
    tools, dropped = read(group, {**inner, "name": "plain"})
    assert tools == (
        Tool("send", "D", {"type": "object"}, False, namespace="mcp__mail"), Tool("raw", custom=True, namespace="mcp__mail"),
        Tool("plain", "D", {"type": "object"}, False),
    )  # fmt: skip
    assert dropped == ("tools.description",)


def test_a_group_is_written_once_at_the_place_of_its_first_tool():
    tools = (Tool("a", namespace="n"), Tool("b"), Tool("c", namespace="n"))
    written = write_tools(tools, None, Dropped())
    assert [(tool["type"], tool["name"]) for tool in written] == [("namespace", "n"), ("function", "b")]
    assert [tool["name"] for tool in written[0]["tools"]] == ["a", "c"]


def test_a_tool_whose_name_is_taken_is_named():
    tools, dropped = read(
        {"type": "function", "name": "shell"}, {"type": "shell"}, {"type": "function", "name": "shell"}
    )
    assert [(tool.name, tool.builtin) for tool in tools] == [("shell", None)] and dropped == ("tools",)


@pytest.mark.parametrize("tool", [
    {"type": "computer"}, {"type": "function"}, {"type": "function", "name": ""}, {"type": "tool_search", "execution": "server"}, None, {"type": 7},
])  # fmt: skip
def test_tools_that_no_other_model_can_call_are_named(tool):
    assert read(tool) == ((), ("tools",))


def test_fields_that_other_protocols_do_not_have_are_named():
    tools, dropped = read(
        {"type": "function", "name": "f", "async": True, "output_schema": {}, "defer_loading": True}
    )
    assert tools == (Tool("f"),) and dropped == ("tools.async",)


@pytest.mark.parametrize(("value", "choice"), [
    ("required", ToolChoice("required")),
    ({"type": "function", "name": "f"}, ToolChoice("tool", "f")),
    ({"type": "custom", "name": "p"}, ToolChoice("tool", "p", custom=True)),
    ({"type": "shell"}, ToolChoice("tool", "shell")),
    ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "namespace", "name": "n"}, {"type": "function", "name": "f"}]},
     ToolChoice("required", allowed=("x", "f"))),
    (None, None),
])  # fmt: skip
def test_choices(value, choice):
    dropped = Dropped()
    assert read_choice(value, (Tool("x", namespace="n"), Tool("f")), dropped) == choice
    assert dropped.names() == ()


@pytest.mark.parametrize(
    "value", ["any", 7, {"type": "web_search"}, {"type": "allowed_tools", "tools": []}, {"type": "function"}]
)
def test_choices_that_cannot_be_read_are_named(value):
    dropped = Dropped()
    assert read_choice(value, (), dropped) is None
    assert dropped.names() == ("tool_choice",)
