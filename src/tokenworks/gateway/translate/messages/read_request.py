"""Reads a request of messages into the intermediate form."""

from typing import Final

import msgspec

from tokenworks.gateway.translate.form import (
    Effort,
    Image,
    Instruction,
    JsonObject,
    OutputFormat,
    ReasoningOptions,
    Request,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.form import File as FilePart
from tokenworks.gateway.translate.messages.read_blocks import read_content
from tokenworks.gateway.translate.messages.read_tools import read_choice, read_tools
from tokenworks.gateway.translate.messages.values import (
    Dropped,
    fields_of,
    float_of,
    int_of,
    items_of,
    lifetime_of,
    text_of,
)

_FIELDS: Final = frozenset({
    "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream",
    "thinking", "output_config", "output_format", "metadata", "service_tier", "cache_control", "speed", "mcp_servers",
})  # fmt: skip
_THINKING: Final = frozenset({"type", "budget_tokens", "display"})
_CACHEABLE: Final = (Text, Image, FilePart, ToolCall, ToolResult)
_EFFORTS: Final[dict[str, Effort]] = {
    "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
# Claude Code sends the figures of its own billing as the first text of the system prompt. They differ in every request, so a provider that
# caches prompts by their beginning would never find one (claude-code issue 68900, vllm pull request 36829, 2026).
_BILLING: Final = "x-anthropic-billing-header:"


def read_request(fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
    """(the request, the names of fields that are not carried). Raises `Untranslatable`."""
    dropped = Dropped()
    dropped.others(fields, _FIELDS)
    model = text_of(fields.get("model"))
    if model is None:
        raise Untranslatable("model", "model is not a text")
    system, turns = _read_turns(fields, dropped)
    if fields.get("cache_control") is not None:
        turns = _with_cache(turns, fields["cache_control"])
    choice, parallel = read_choice(fields.get("tool_choice"), dropped)
    stream = fields.get("stream") is True
    metadata, effort, output = _read_metadata(fields, dropped), None, fields_of(fields.get("output_config"))
    if output:
        dropped.others(output, frozenset({"effort", "format"}), "output_config.")
        effort = _EFFORTS.get(text_of(output.get("effort")) or "")
    return Request(
        model=model,
        turns=turns,
        system=system,
        tools=read_tools(fields.get("tools"), dropped),
        tool_choice=choice,
        parallel_calls=parallel,
        max_output_tokens=_read_maximum(fields.get("max_tokens")),
        temperature=_number(fields, "temperature", dropped),
        top_p=_number(fields, "top_p", dropped),
        top_k=int_of(fields.get("top_k")),
        stop=tuple(text for text in map(text_of, items_of(fields.get("stop_sequences"))) if text),
        format=_read_format(output.get("format") or fields.get("output_format"), dropped),
        reasoning=_read_thinking(fields.get("thinking"), effort, dropped),
        user=metadata,
        service_tier=_read_tier(fields.get("service_tier")),
        stream=stream,
        stream_usage=stream,
    ), dropped.names()


def _read_turns(
    fields: JsonObject, dropped: Dropped
) -> tuple[tuple[Text, ...], tuple[Turn | Instruction, ...]]:
    """(the system prompt, the conversation). System messages before the first turn belong to the prompt."""
    system = list(_texts(fields.get("system"), "system", dropped))
    turns: list[Turn | Instruction] = []
    messages = fields.get("messages")
    if not isinstance(messages, list):
        raise Untranslatable("messages", "messages is not a list")
    for item in messages:
        message = fields_of(item)
        role = text_of(message.get("role"))
        dropped.others(message, frozenset({"role", "content"}), "messages.")
        if role == "system":
            texts = _texts(message.get("content"), "messages", dropped)
            if not turns:
                system += texts
            elif texts:
                turns.append(Instruction(texts))
        elif role == "user":
            turns += _turn("user", message, dropped)
        elif role == "assistant":
            turns += _turn("assistant", message, dropped)
        else:
            raise Untranslatable("messages", "a message has a role that is not known")
    return tuple(system), tuple(turns)


def _turn(role: Role, message: JsonObject, dropped: Dropped) -> list[Turn]:
    parts = read_content(message.get("content"), role, dropped)
    return [Turn(role, parts)] if parts else []


def _texts(value: object, param: str, dropped: Dropped) -> tuple[Text, ...]:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if value is not None and not isinstance(value, list):
        raise Untranslatable(param, f"{param} is neither a text nor a list")
    texts: list[Text] = []
    for item in items_of(value):
        block = fields_of(item)
        text = text_of(block.get("text"))
        if text is None or block.get("type") != "text":
            dropped.add(f"{param}.{text_of(block.get('type')) or 'type'}")
        elif text.startswith(_BILLING) and "\n" not in text.strip():
            dropped.add(f"{param}.billing_header")
        elif text:
            texts.append(Text(text, lifetime_of(block.get("cache_control"))))
    return tuple(texts)


def _with_cache(
    turns: tuple[Turn | Instruction, ...], cache_control: object
) -> tuple[Turn | Instruction, ...]:
    """The conversation with the mark of the whole request at its last block, where the provider puts it."""
    last = turns[-1] if turns else None
    lifetime = lifetime_of(cache_control)
    if not isinstance(last, Turn) or not last.parts or lifetime is None:
        return turns
    part = last.parts[-1]
    if not isinstance(part, _CACHEABLE) or part.cache is not None:
        return turns
    marked = msgspec.structs.replace(part, cache=lifetime)
    return (*turns[:-1], Turn(last.role, (*last.parts[:-1], marked)))


def _read_maximum(value: object) -> int | None:
    maximum = int_of(value)
    if maximum == 0:
        raise Untranslatable("max_tokens", "a request that only fills the cache can't be translated")
    return maximum if maximum is None or maximum > 0 else None


def _number(fields: JsonObject, name: str, dropped: Dropped) -> float | None:
    value = fields.get(name)
    number = float_of(value)
    if number is None and value is not None:
        dropped.add(name)
    return number


def _read_format(value: object, dropped: Dropped) -> OutputFormat | None:
    fields = fields_of(value)
    schema = fields.get("schema")
    if fields.get("type") == "json_schema" and isinstance(schema, dict):
        return OutputFormat("json_schema", schema=schema, strict=True)
    if value is not None:
        dropped.add("output_config.format")
    return None


def _read_thinking(value: object, effort: Effort | None, dropped: Dropped) -> ReasoningOptions:
    """A client of messages sends reasoning back, so it wants what is encrypted, too; it wants to see it unless it says `omitted`."""
    fields = fields_of(value)
    kind = text_of(fields.get("type"))
    dropped.others(fields, _THINKING, "thinking.")
    summary = None if fields.get("display") == "omitted" else "auto"
    if kind == "enabled":
        budget = int_of(fields.get("budget_tokens"))
        return ReasoningOptions(
            True, effort, budget if budget and budget > 0 else None, summary, encrypted=True
        )
    if kind in {"adaptive", "between_tools"}:
        return ReasoningOptions(True, effort, None, summary, adaptive=True, encrypted=True)
    if kind == "disabled":
        return ReasoningOptions(False, effort)
    if value is not None:
        dropped.add("thinking")
    return ReasoningOptions(effort=effort)


def _read_metadata(fields: JsonObject, dropped: Dropped) -> str | None:
    metadata = fields_of(fields.get("metadata"))
    dropped.others(metadata, frozenset({"user_id"}), "metadata.")
    return text_of(metadata.get("user_id")) or None


def _read_tier(value: object) -> str | None:
    if value == "standard_only":
        return "default"
    return "auto" if value == "auto" else None
