"""Writes the options of a chat request: its tools, the shape of the answer, and how much the model is to think."""

from typing import Final

from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.codec import ReasoningSwitch
from tokenworks.gateway.translate.form import (
    JsonObject,
    OutputFormat,
    ReasoningOptions,
    Request,
    Tool,
    ToolChoice,
)
from tokenworks.gateway.translate.names import ToolNames, custom_description, custom_parameters

# The three levels that every vendor with `reasoning_effort` takes.
_LEVELS: Final[dict[str, str]] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# Budgets of reasoning tokens up to which an effort is low or medium: those that Claude Code offered as its levels, in round numbers.
_LOW_TOKENS_MAX: Final = 4096
_MEDIUM_TOKENS_MAX: Final = 16_384
_FORMAT_NAME: Final = "answer"


def written_tools(request: Request, names: ToolNames) -> JsonObject:
    """`tools`, `tool_choice` and `parallel_tool_calls`; nothing without tools, which some vendors refuse as an empty list."""
    tools = _allowed(request.tools, request.tool_choice)
    if not tools:
        return {}
    fields: JsonObject = {"tools": [_tool(tool, names) for tool in tools]}
    choice = request.tool_choice
    if choice is not None:
        if choice.mode != "tool":
            fields["tool_choice"] = choice.mode
        elif choice.name is not None:
            name = names.wire(choice.name, choice.namespace)
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
    if request.parallel_calls is not None:
        fields["parallel_tool_calls"] = request.parallel_calls
    return fields


def _allowed(tools: tuple[Tool, ...], choice: ToolChoice | None) -> list[Tool]:
    """The tools that the model may choose: most vendors don't know `allowed_tools`, so the others are not sent."""
    if choice is None or choice.allowed is None:
        return list(tools)
    allowed = frozenset(choice.allowed)
    return [tool for tool in tools if tool.name in allowed]


def _tool(tool: Tool, names: ToolNames) -> JsonObject:
    description = custom_description(tool) if tool.custom else tool.description
    function: JsonObject = {"name": names.wire(tool.name, tool.namespace)}
    if description:
        function["description"] = description
    function["parameters"] = custom_parameters() if tool.custom else _parameters(tool.parameters)
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _parameters(parameters: JsonObject | None) -> JsonObject:
    """A schema of an object, which some vendors demand also of a tool without parameters."""
    if parameters is None:
        return {"type": "object", "properties": {}}
    if "type" in parameters or "$ref" in parameters or "anyOf" in parameters or "oneOf" in parameters:
        return parameters
    return {"type": "object", "properties": {}, **parameters}


def written_format(output: OutputFormat) -> JsonObject:
    if output.kind == "json_object" or output.schema is None:
        return {"type": "json_object"}
    described: JsonObject = {"name": output.name or _FORMAT_NAME}
    if output.description is not None:
        described["description"] = output.description
    described["schema"] = output.schema
    if output.strict is not None:
        described["strict"] = output.strict
    return {"type": "json_schema", "json_schema": described}


def written_reasoning(options: ReasoningOptions, switch: ReasoningSwitch, named: Named) -> JsonObject:
    """How much the model is to think, in the fields of the deployment."""
    off = options.enabled is False or options.effort == "none"
    level = None if off else _level(options)
    if not off and level is None and options.enabled is None and not options.adaptive:
        return {}
    if switch == "effort":
        return _effort(options, level, named)
    if switch == "thinking":
        fields: JsonObject = {"thinking": {"type": "disabled" if off else "enabled"}}
        if level is not None and options.effort is not None:
            fields["reasoning_effort"] = level
        return fields
    if switch == "enable_thinking":
        fields = {"enable_thinking": not off}
        if not off and options.budget_tokens is not None:
            fields["thinking_budget"] = options.budget_tokens
        return fields
    if switch == "template":
        # Templates have one name or the other (Qwen, GLM; DeepSeek), and ignore what they don't have.
        return {"chat_template_kwargs": {"enable_thinking": not off, "thinking": not off}}
    if switch == "reasoning":
        return {"reasoning": _reasoning(options, off=off)}
    named.add("reasoning")
    return {}


def _level(options: ReasoningOptions) -> str | None:
    if options.effort is not None:
        return _LEVELS.get(options.effort)
    if options.budget_tokens is None:
        return None
    if options.budget_tokens <= _LOW_TOKENS_MAX:
        return "low"
    return "medium" if options.budget_tokens <= _MEDIUM_TOKENS_MAX else "high"


def _effort(options: ReasoningOptions, level: str | None, named: Named) -> JsonObject:
    """`none` is written only if the client wrote it: many models refuse it."""
    if options.effort == "none":
        return {"reasoning_effort": "none"}
    if options.enabled is False:
        named.add("reasoning.enabled")
        return {}
    return {} if level is None else {"reasoning_effort": level}


def _reasoning(options: ReasoningOptions, *, off: bool) -> JsonObject:
    if off:
        return {"enabled": False}
    if options.effort is not None:
        return {"effort": options.effort}
    if options.budget_tokens is not None:
        return {"max_tokens": options.budget_tokens}
    return {"enabled": True}
