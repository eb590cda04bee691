"""The tools and the choice among them, in the spelling of responses."""

from collections.abc import Sequence
from typing import Final, Literal

from tokenworks.gateway.translate.form import JsonObject, Tool, ToolChoice
from tokenworks.gateway.translate.names import ToolNames
from tokenworks.gateway.translate.responses.client_tools import BUILTINS, builtin_tool
from tokenworks.gateway.translate.responses.values import Dropped, bool_of, list_of, object_of, text_of

_MODES: Final[dict[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
}
# Fields of a tool that other protocols do not have. `defer_loading` costs nothing: the tool is given from the beginning.
_DROPPED: Final = ("output_schema", "async")


def read_tools(values: Sequence[object], dropped: Dropped) -> tuple[Tool, ...]:
    """The tools that the client runs. A tool whose name is taken by an earlier one is named."""
    tools: dict[tuple[str | None, str], Tool] = {}
    for value in values:
        fields = object_of(value)
        kind = "" if fields is None else text_of(fields.get("type")) or "function"
        if fields is not None and kind == "namespace":
            group = text_of(fields.get("name"))
            if fields.get("description"):
                dropped.add("tools.description")
            read = [
                _read_tool(object_of(inner) or {}, group, dropped) for inner in list_of(fields.get("tools"))
            ]
        elif fields is not None and kind in BUILTINS:
            read = [builtin_tool(kind, fields)] if fields.get("execution") != "server" else [None]
        else:
            read = [_read_tool(fields or {}, None, dropped)]
        for tool in read:
            if tool is None or (tool.namespace, tool.name) in tools:
                dropped.add("tools")
            else:
                tools[(tool.namespace, tool.name)] = tool
    return tuple(tools.values())


def _read_tool(fields: JsonObject, namespace: str | None, dropped: Dropped) -> Tool | None:
    """A function or a custom tool; None if it is neither."""
    kind = text_of(fields.get("type")) or "function"
    name = text_of(fields.get("name"))
    if not name or kind not in {"function", "custom"}:
        return None
    for other in _DROPPED:
        if fields.get(other):
            dropped.add(f"tools.{other}")
    description = text_of(fields.get("description"))
    if kind == "custom":
        grammar = _read_grammar(object_of(fields.get("format")) or {})
        return Tool(name=name, description=description, custom=True, grammar=grammar, namespace=namespace)
    return Tool(
        name=name,
        description=description,
        parameters=object_of(fields.get("parameters")),
        strict=bool_of(fields.get("strict")),
        namespace=namespace,
    )


def _read_grammar(fields: JsonObject) -> tuple[str, str] | None:
    syntax, definition = text_of(fields.get("syntax")), text_of(fields.get("definition"))
    if fields.get("type") != "grammar" or syntax is None or definition is None:
        return None
    return syntax, definition


def read_choice(value: object, tools: Sequence[Tool], dropped: Dropped) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _MODES:
        return ToolChoice(_MODES[value])
    fields = object_of(value) or {}
    kind, name = text_of(fields.get("type")), text_of(fields.get("name"))
    if kind == "allowed_tools":
        allowed = _read_allowed(list_of(fields.get("tools")), tools)
        mode = text_of(fields.get("mode")) or "auto"
        if allowed and mode in _MODES:
            return ToolChoice(_MODES[mode], allowed=allowed)
    elif kind in BUILTINS:
        return ToolChoice("tool", kind)
    elif kind in {"function", "custom"} and name:
        return ToolChoice("tool", name, text_of(fields.get("namespace")), kind == "custom")
    dropped.add("tool_choice")
    return None


def _read_allowed(values: Sequence[object], tools: Sequence[Tool]) -> tuple[str, ...]:
    """The names of allowed tools, each once. A namespace allows all tools in it."""
    names: dict[str, None] = {}
    groups: dict[str | None, list[str]] = {}
    for tool in tools:
        groups.setdefault(tool.namespace, []).append(tool.name)
    for value in values:
        fields = object_of(value) or {}
        kind, name = text_of(fields.get("type")), text_of(fields.get("name"))
        if kind == "namespace":
            names.update(dict.fromkeys(groups.pop(name, ())))
        elif kind in BUILTINS:
            names[kind] = None
        elif name:
            names[name] = None
    return tuple(names)


def write_tools(tools: Sequence[Tool], names: ToolNames | None, dropped: Dropped) -> list[JsonObject]:
    """`names`: names for a request; None: the client's own names, for the answer that repeats them. The tools of one namespace are one
    tool, at the place of its first.
    """
    out: list[JsonObject] = []
    groups: dict[str, list[JsonObject]] = {}
    for tool in tools:
        if tool.cache is not None:
            dropped.add("cache")
        if tool.namespace is None:
            name = tool.name if names is None else names.wire(tool.name)
            out.append(_write_builtin(tool) if tool.builtin is not None else _write_tool(tool, name))
            continue
        group = groups.get(tool.namespace)
        if group is None:
            group = groups[tool.namespace] = []
            # The description is demanded, also by the types of SDKs.
            about = f"The tools of {tool.namespace}."
            out.append({"type": "namespace", "name": tool.namespace, "description": about, "tools": group})
        group.append(_write_tool(tool, tool.name))
    return out


def _write_tool(tool: Tool, name: str) -> JsonObject:
    fields: JsonObject = {"type": "custom" if tool.custom else "function", "name": name}
    if tool.description is not None:
        fields["description"] = tool.description
    if not tool.custom:
        fields["parameters"] = tool.parameters
        # Absent means strict in responses and not strict in the other protocols: a schema that is not made for it would be refused.
        fields["strict"] = bool(tool.strict)
    elif tool.grammar is not None:
        syntax, definition = tool.grammar
        fields["format"] = {"type": "grammar", "syntax": syntax, "definition": definition}
    return fields


def _write_builtin(tool: Tool) -> JsonObject:
    if tool.builtin != "tool_search":
        return {"type": tool.builtin}
    return {
        "type": "tool_search",
        "execution": "client",
        "description": tool.description,
        "parameters": tool.parameters,
    }


def write_choice(choice: ToolChoice, tools: Sequence[Tool], names: ToolNames | None) -> object:
    """`names`: as in `write_tools`."""
    if choice.mode == "tool":
        name, group = choice.name or "", choice.namespace
        of_name = [tool for tool in tools if tool.name == name and (group is None or tool.namespace == group)]
        return _write_named(name, of_name[0] if of_name else None, names)
    if choice.allowed is None or choice.mode == "none":
        return choice.mode
    first = {tool.name: tool for tool in reversed(tools)}
    allowed = [_write_named(name, first.get(name), names) for name in choice.allowed]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": allowed}


def _write_named(name: str, tool: Tool | None, names: ToolNames | None) -> JsonObject:
    """`tool`: the first tool of this name."""
    if tool is not None and tool.builtin is not None:
        return {"type": tool.builtin}
    kind = "custom" if tool is not None and tool.custom else "function"
    if tool is not None and tool.namespace is not None:
        return {"type": kind, "name": name, "namespace": tool.namespace}
    return {"type": kind, "name": name if names is None else names.wire(name)}
