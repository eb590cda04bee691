"""Reads the options of a chat request: its tools, the shape of the answer, and how much the model is to think."""

from typing import Final, Literal, cast

from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.chat.values import (
    bool_of,
    list_of,
    object_of,
    positive_of,
    text_of,
    text_or_none,
)
from tokenworks.gateway.translate.form import (
    Effort,
    JsonObject,
    OutputFormat,
    ReasoningOptions,
    Tool,
    ToolChoice,
)

_MODES: Final[dict[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Mistral
}
_EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


def read_tools(fields: JsonObject, named: Named) -> tuple[Tool, ...]:
    """`tools`, and `functions` of clients from before there were tools."""
    tools: list[Tool] = []
    for number, value in enumerate(list_of(fields.get("tools"))):
        tool = _read_tool(object_of(value))
        if tool is None:
            named.add(f"tools[{number}]")
        else:
            tools.append(tool)
    for number, value in enumerate(list_of(fields.get("functions"))):
        tool = _read_function(object_of(value))
        if tool is None:
            named.add(f"functions[{number}]")
        else:
            tools.append(tool)
    return tuple(tools)


def _read_tool(fields: JsonObject) -> Tool | None:
    if text_of(fields.get("type")) != "custom":
        return _read_function(object_of(fields.get("function")))
    custom = object_of(fields.get("custom"))
    name = text_of(custom.get("name"))
    if not name:
        return None
    grammar = object_of(object_of(custom.get("format")).get("grammar"))
    syntax, definition = text_of(grammar.get("syntax")), text_of(grammar.get("definition"))
    return Tool(
        name,
        text_or_none(custom.get("description")),
        custom=True,
        grammar=(syntax, definition) if syntax and definition else None,
    )


def _read_function(function: JsonObject) -> Tool | None:
    name = text_of(function.get("name"))
    if not name:
        return None
    parameters = function.get("parameters")
    return Tool(
        name,
        text_or_none(function.get("description")),
        parameters if isinstance(parameters, dict) else None,
        bool_of(function.get("strict")),
    )


def read_tool_choice(fields: JsonObject, named: Named) -> ToolChoice | None:
    field = "tool_choice" if fields.get("tool_choice") is not None else "function_call"
    value = fields.get(field)
    if value is None:
        return None
    choice = _read_choice(value)
    if choice is None:
        named.add(field)
    return choice


def _read_choice(value: object) -> ToolChoice | None:
    if isinstance(value, str):
        mode = _MODES.get(value)
        return None if mode is None else ToolChoice(mode)
    choice = object_of(value)
    if text_of(choice.get("type")) == "allowed_tools":
        return _read_allowed(object_of(choice.get("allowed_tools")) or choice)
    custom = object_of(choice.get("custom"))
    name = text_of(object_of(choice.get("function")).get("name")) or text_of(choice.get("name"))
    if custom:
        name = text_of(custom.get("name"))
    return ToolChoice("tool", name, custom=bool(custom)) if name else None


def _read_allowed(allowed: JsonObject) -> ToolChoice | None:
    names: list[str] = []
    for value in list_of(allowed.get("tools")):
        tool = object_of(value)
        inner = object_of(tool.get("function")) or object_of(tool.get("custom")) or tool
        name = text_of(inner.get("name"))
        if name:
            names.append(name)
    mode = _MODES.get(text_of(allowed.get("mode")), "auto")
    return ToolChoice(mode, allowed=tuple(names)) if names else None


def read_format(fields: JsonObject, named: Named) -> OutputFormat | None:
    value = object_of(fields.get("response_format"))
    kind = text_of(value.get("type"))
    if kind == "json_object":
        return OutputFormat("json_object")
    if kind == "json_schema":
        described = object_of(value.get("json_schema"))
        schema = described.get("schema")
        return OutputFormat(
            "json_schema",
            text_or_none(described.get("name")),
            text_or_none(described.get("description")),
            schema if isinstance(schema, dict) else None,
            bool_of(described.get("strict")),
        )
    if fields.get("response_format") is not None and kind != "text":
        named.add("response_format")
    return None


def read_reasoning_options(fields: JsonObject, named: Named) -> ReasoningOptions:
    """How much the model is to think, in every vendor's fields: `reasoning_effort`, `reasoning` (OpenRouter), `thinking` (Zhipu,
    DeepSeek, Volcengine), `enable_thinking` and `thinking_budget` (DashScope, SiliconFlow), and `chat_template_kwargs` (engines).
    """
    reasoning, thinking = object_of(fields.get("reasoning")), object_of(fields.get("thinking"))
    template = object_of(fields.get("chat_template_kwargs"))
    effort: Effort | None = None
    for field, value in (
        ("reasoning_effort", fields.get("reasoning_effort")),
        ("reasoning.effort", reasoning.get("effort")),
        ("chat_template_kwargs.reasoning_effort", template.get("reasoning_effort")),
    ):
        if value is None:
            continue
        if isinstance(value, str) and value in _EFFORTS:
            effort = effort or cast("Effort", value)
        else:
            named.add(field)
    budget: int | None = None
    for value in (
        reasoning.get("max_tokens"),
        thinking.get("budget_tokens"),
        fields.get("thinking_budget"),
        template.get("thinking_budget"),
    ):
        budget = positive_of(value) if budget is None else budget
    kind = text_of(thinking.get("type"))
    enabled = {"enabled": True, "disabled": False}.get(kind)
    for value in (
        reasoning.get("enabled"),
        fields.get("enable_thinking"),
        template.get("enable_thinking"),
        template.get("thinking"),
    ):
        enabled = bool_of(value) if enabled is None else enabled
    if enabled is None and budget is not None:
        enabled = True
    for name in template:
        if name not in {"enable_thinking", "thinking", "thinking_budget", "reasoning_effort"}:
            named.add(f"chat_template_kwargs.{name}")
    adaptive = kind in {"adaptive", "auto"}
    return ReasoningOptions(
        True if adaptive and enabled is None else enabled, effort, budget, adaptive=adaptive
    )
