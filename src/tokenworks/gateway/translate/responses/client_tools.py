"""The tools that responses defines and the client runs, as functions for other protocols, and the way back.

Source: the types of openai 3.54.0 (`LocalShellCall`, `ShellCall`, `ApplyPatchCall`, `ToolSearchCall`), 2026-11. The tools of a computer's
screen are left out: only models that were made for them can use them.
"""

from typing import Final

import msgspec

from tokenworks.gateway.translate.form import JsonObject, Tool
from tokenworks.gateway.translate.responses.values import json_text, object_of, text_of

_STRING: Final[JsonObject] = {"type": "string"}
_STRINGS: Final[JsonObject] = {"type": "array", "items": {"type": "string"}}
_WHOLE: Final[JsonObject] = {"type": "integer"}

_PARAMETERS: Final[dict[str, JsonObject]] = {
    "local_shell": {
        "type": "object",
        "properties": {
            "command": _STRINGS, "timeout_ms": _WHOLE, "working_directory": _STRING, "user": _STRING,
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["command"],
    },
    "shell": {
        "type": "object",
        "properties": {"commands": _STRINGS, "timeout_ms": _WHOLE, "max_output_length": _WHOLE},
        "required": ["commands"],
    },
    "apply_patch": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]}, "path": _STRING,
            "diff": {"type": "string", "description": "A unified diff; of a new file, its lines with + before each."},
        },
        "required": ["type", "path"],
    },
    "tool_search": {"type": "object", "properties": {"query": _STRING}, "required": ["query"]},
}  # fmt: skip
_DESCRIPTIONS: Final = {
    "local_shell": "Runs a program on the user's computer: its name and arguments, without a shell.",
    "shell": "Runs shell commands on the user's computer.",
    "apply_patch": "Creates, changes or deletes one file of the user's.",
    "tool_search": "Searches for further tools, which can be called afterwards.",
}
# The item of a call, and the field of it that has the arguments.
_CALLS: Final = {
    "local_shell": ("local_shell_call", "action"),
    "shell": ("shell_call", "action"),
    "apply_patch": ("apply_patch_call", "operation"),
    "tool_search": ("tool_search_call", "arguments"),
}
BUILTINS: Final = frozenset(_PARAMETERS)
CALL_ITEMS: Final = {item: builtin for builtin, (item, _) in _CALLS.items()}
RESULT_ITEMS: Final = frozenset({
    "local_shell_call_output", "shell_call_output", "apply_patch_call_output", "tool_search_output",
})  # fmt: skip


def builtin_tool(kind: str, fields: JsonObject) -> Tool:
    """The tool as a function. A client's own words (of `tool_search`) come before ours."""
    parameters = object_of(fields.get("parameters")) or _PARAMETERS[kind]
    description = text_of(fields.get("description")) or _DESCRIPTIONS[kind]
    return Tool(name=kind, description=description, parameters=parameters, builtin=kind)


def arguments_of(builtin: str, item: JsonObject) -> str:
    """The arguments of such a function, as JSON, in an item that calls the tool."""
    arguments = dict(object_of(item.get(_CALLS[builtin][1])) or {})
    if builtin == "local_shell":
        arguments.pop("type", None)
    return json_text(arguments)


def call_item(builtin: str, call_id: str, item_id: str, arguments: str) -> JsonObject | None:
    """The item that calls the tool, or None if the arguments are not what its type demands: the item is then a call of a function,
    which the client refuses to the model.
    """
    try:
        read = object_of(msgspec.json.decode(arguments))
    except (msgspec.DecodeError, RecursionError):
        return None
    if read is None or not _valid(builtin, read):
        return None
    kind, name = _CALLS[builtin]
    item: JsonObject = {"type": kind, "id": item_id, "call_id": call_id, "status": "completed"}
    if builtin == "local_shell":
        read = {"type": "exec", "env": {}, **read}
    elif builtin == "tool_search":
        item["execution"] = "client"
    elif builtin == "apply_patch" and read["type"] != "delete_file":
        read.setdefault("diff", "")
    item[name] = read
    return item


def _valid(builtin: str, arguments: JsonObject) -> bool:
    """True if the fields that the item's type demands are of their types."""
    if builtin == "apply_patch":
        return text_of(arguments.get("type")) in {"create_file", "update_file", "delete_file"} and isinstance(
            arguments.get("path"), str
        )
    if builtin == "tool_search":
        return True
    command = arguments.get("command" if builtin == "local_shell" else "commands")
    return isinstance(command, list) and all(isinstance(word, str) for word in command)
