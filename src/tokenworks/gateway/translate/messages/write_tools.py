"""Writes the tools of a request, and which of them the model may call."""

from typing import Final

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import JsonObject, Request, Tool, ToolCall
from tokenworks.gateway.translate.messages.breakpoints import Breakpoints
from tokenworks.gateway.translate.messages.schemas import enforced_schema, input_schema
from tokenworks.gateway.translate.messages.values import Dropped
from tokenworks.gateway.translate.names import ToolNames, custom_description, custom_parameters

_MODES: Final = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}


def write_tools(
    request: Request, names: ToolNames, target: Target, marks: Breakpoints, dropped: Dropped
) -> tuple[list[JsonObject], JsonObject | None]:
    """(tools, tool_choice).

    The provider has no choice among some of the tools: the others are left out. It refuses calls in the history of a request without
    tools, so the tools of those calls are declared then, and none may be called.
    """
    choice = request.tool_choice
    allowed = None if choice is None or choice.allowed is None else frozenset(choice.allowed)
    written: list[JsonObject] = []
    for tool in request.tools:
        name = names.wire(tool.name, tool.namespace)
        if names.original(name) is not tool:
            dropped.add("tools.name")  # a second tool of the same name
        elif allowed is None or tool.name in allowed or name in allowed:
            written.append(_written(tool, name, target, marks, dropped))
    if written:
        return written, _choice(request, names)
    for name in _called(request, names):
        written.append({"name": name, "input_schema": input_schema(None)})
    return written, {"type": "none"} if written else None


def _called(request: Request, names: ToolNames) -> list[str]:
    """The names of the tools that the conversation has calls of, each once."""
    found: dict[str, None] = {}
    for turn in request.turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                found[names.wire(part.name, part.namespace)] = None
    return list(found)


def _written(tool: Tool, name: str, target: Target, marks: Breakpoints, dropped: Dropped) -> JsonObject:
    """A strict tool stays strict where the deployment enforces schemas, with the schema that it can enforce: it refuses any other."""
    description = custom_description(tool) if tool.custom else tool.description
    parameters = custom_parameters() if tool.custom else input_schema(tool.parameters)
    out: JsonObject = {"name": name, "input_schema": parameters}
    if description:
        out["description"] = description
    if tool.strict and target.structured_output:
        out["strict"] = True
        out["input_schema"] = enforced_schema(parameters)
    elif tool.strict:
        dropped.add("tools.strict")
    marks.mark(out, tool.cache)
    return out


def _choice(request: Request, names: ToolNames) -> JsonObject | None:
    choice = request.tool_choice
    if choice is None and request.parallel_calls is None:
        return None
    out: JsonObject = {"type": "auto" if choice is None else _MODES[choice.mode]}
    if choice is not None and choice.mode == "tool":
        if choice.name is None:
            out["type"] = "any"
        else:
            out["name"] = names.wire(choice.name, choice.namespace)
    if request.parallel_calls is not None and out["type"] != "none":
        out["disable_parallel_tool_use"] = not request.parallel_calls
    return out
