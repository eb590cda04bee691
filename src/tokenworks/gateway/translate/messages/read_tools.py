"""Reads the tools of a request: the client's own, and those that Anthropic's models know without a schema."""

from collections.abc import Sequence
from typing import Final

from tokenworks.gateway.translate.form import JsonObject, Tool, ToolChoice, Untranslatable
from tokenworks.gateway.translate.messages.values import (
    Dropped,
    bool_of,
    fields_of,
    lifetime_of,
    text_of,
)

_TOOL_FIELDS: Final = frozenset({
    "type", "name", "description", "input_schema", "strict", "cache_control", "max_characters",
})  # fmt: skip


def _object(properties: JsonObject, required: Sequence[str]) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list(required)}


_TEXT: Final[JsonObject] = {"type": "string"}
_NUMBER: Final[JsonObject] = {"type": "integer"}
_RANGE: Final[JsonObject] = {"type": "array", "items": _NUMBER}


def _commands(*names: str) -> JsonObject:
    return {"type": "string", "enum": list(names)}


# Tools of the client whose input Anthropic's models know: (the prefix of their types, what they do, their input). Source: the tool pages
# of Anthropic's documentation and the types of anthropic 2.12.0, 2026-11.
_KNOWN: Final[tuple[tuple[str, str, JsonObject], ...]] = (
    (
        "bash_",
        "Runs a command in a shell that keeps its state between calls, or restarts that shell.",
        _object({"command": _TEXT, "restart": {"type": "boolean"}}, ()),
    ),
    (
        "text_editor_",
        "Views, creates and edits files: `view` a file or folder, `create` a file with `file_text`, replace `old_str` by `new_str` "
        "(`str_replace`), or `insert` `insert_text` after line `insert_line`.",
        _object(
            {
                "command": _commands("view", "create", "str_replace", "insert"),
                "path": _TEXT, "view_range": _RANGE, "file_text": _TEXT, "old_str": _TEXT, "new_str": _TEXT,
                "insert_line": _NUMBER, "insert_text": _TEXT,
            },
            ("command", "path"),
        ),
    ),
    (
        "memory_",
        "Keeps notes in files below /memories: `view`, `create`, `str_replace`, `insert`, `delete` and `rename`.",
        _object(
            {
                "command": _commands("view", "create", "str_replace", "insert", "delete", "rename"),
                "path": _TEXT, "view_range": _RANGE, "file_text": _TEXT, "old_str": _TEXT, "new_str": _TEXT,
                "insert_line": _NUMBER, "insert_text": _TEXT, "old_path": _TEXT, "new_path": _TEXT,
            },
            ("command",),
        ),
    ),
)  # fmt: skip
# Tools of the client that other models do not know: their input is coordinates on a screen, or a whole family of tools.
_UNKNOWN: Final = ("computer_", "browser_toolset_")


def read_tools(value: object, dropped: Dropped) -> tuple[Tool, ...]:
    """The tools that the client runs. Tools of the vendor are left out, and named. Raises `Untranslatable`."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Untranslatable("tools", "tools is not a list")
    tools: list[Tool] = []
    for item in value:
        tool = _read_tool(fields_of(item), dropped)
        if tool is not None:
            tools.append(tool)
    return tuple(tools)


def _read_tool(fields: JsonObject, dropped: Dropped) -> Tool | None:
    kind, name = text_of(fields.get("type")) or "custom", text_of(fields.get("name"))
    if kind.startswith(_UNKNOWN):
        raise Untranslatable("tools", f"only models of Anthropic know the tool {kind}")
    description, schema = text_of(fields.get("description")), fields.get("input_schema")
    known = next((entry for entry in _KNOWN if kind.startswith(entry[0])), None)
    if known is not None:
        description, schema = known[1], known[2]
    elif kind != "custom":
        dropped.add(f"tools.{kind}")
        return None
    if not name:
        raise Untranslatable("tools", "a tool has no name")
    dropped.others(fields, _TOOL_FIELDS, "tools.")
    return Tool(
        name,
        description,
        schema if isinstance(schema, dict) else None,
        bool_of(fields.get("strict")),
        cache=lifetime_of(fields.get("cache_control")),
    )


def read_choice(value: object, dropped: Dropped) -> tuple[ToolChoice | None, bool | None]:
    """(the choice, whether the model may call several tools at once: None if the client did not say)."""
    fields = fields_of(value)
    several = bool_of(fields.get("disable_parallel_tool_use"))
    parallel = None if several is None else not several
    kind, name = fields.get("type"), text_of(fields.get("name"))
    if kind == "tool" and name:
        return ToolChoice("tool", name), parallel
    if kind == "auto":
        return ToolChoice("auto"), parallel
    if kind == "any":
        return ToolChoice("required"), parallel
    if kind == "none":
        return ToolChoice("none"), parallel
    if value is not None:
        dropped.add("tool_choice")
    return None, parallel
