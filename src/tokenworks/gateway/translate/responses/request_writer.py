"""Writes a request of the form for a deployment that speaks responses."""

import hashlib
from typing import Final

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    Effort,
    Instruction,
    JsonObject,
    OutputFormat,
    Part,
    Reasoning,
    ReasoningOptions,
    Refused,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from tokenworks.gateway.translate.names import ToolNames
from tokenworks.gateway.translate.responses.content import as_text, write_content, write_said
from tokenworks.gateway.translate.responses.items import ERROR_HEAD, FAILED
from tokenworks.gateway.translate.responses.requests import ENCRYPTED
from tokenworks.gateway.translate.responses.tools import write_choice, write_tools
from tokenworks.gateway.translate.responses.values import Dropped

# The provider refuses longer ids of calls, and longer names of a user or a cache. Claude Code's id of a user has up to 200 characters.
ID_CHARS_MAX: Final = 64
# The provider refuses a smaller maximum. Claude Desktop tries a model with a maximum of 1 (farion1231/cc-switch pull 7287, 2026-09).
OUTPUT_TOKENS_MIN: Final = 16
# The effort for a budget of reasoning tokens: the least budget of each.
_HIGH_TOKENS: Final = 16_384
_MEDIUM_TOKENS: Final = 4_096
_TIERS: Final = frozenset({"auto", "default", "flex"})
# Anthropic's word for the tier without a price of its own, which is the tier here if none is named.
_STANDARD: Final = "standard_only"
_SUMMARIES: Final = frozenset({"auto", "concise", "detailed"})


def write_request(request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
    """(the body, the names of what responses can't express)."""
    dropped = Dropped()
    names = ToolNames(request.tools)
    fields: JsonObject = {"model": request.model, "store": False}
    items = _ItemWriter(names, target, dropped)
    if request.system:
        if any(text.cache is not None for text in request.system):
            dropped.add("cache")
        first = 1 if target.system_turns else len(request.system)
        fields["instructions"] = "\n\n".join(text.text for text in request.system[:first] if text.text)
        items.instruct(request.system[first:])
    for turn in request.turns:
        items.write(turn)
    fields["input"] = items.items
    if request.tools:
        fields["tools"] = write_tools(request.tools, names, dropped)
        if request.tool_choice is not None:
            fields["tool_choice"] = write_choice(request.tool_choice, request.tools, names)
        if request.parallel_calls is not None:
            fields["parallel_tool_calls"] = request.parallel_calls
    for name, value in (
        ("max_output_tokens", _maximum(request.max_output_tokens)), ("temperature", request.temperature), ("top_p", request.top_p),
        ("user", _short(request.user)), ("safety_identifier", _short(request.safety_identifier)),
        ("prompt_cache_key", _short(request.prompt_cache_key)), ("service_tier", _tier(request.service_tier, dropped)),
    ):  # fmt: skip
        if value is not None:
            fields[name] = value
    text = write_text(request.format, request.verbosity)
    if text:
        fields["text"] = text
    _write_metadata(request.metadata, fields, dropped)
    _write_reasoning(request.reasoning, target, fields, dropped)
    if request.stream:
        fields["stream"] = True
    _name_missing(request, dropped)
    return fields, dropped.names()


def _name_missing(request: Request, dropped: Dropped) -> None:
    """Name the fields of the form that responses do not have."""
    for name, given in (
        ("stop", bool(request.stop)), ("top_k", request.top_k is not None), ("seed", request.seed is not None),
        ("frequency_penalty", request.frequency_penalty is not None), ("presence_penalty", request.presence_penalty is not None),
    ):  # fmt: skip
        if given:
            dropped.add(name)


def _maximum(tokens: int | None) -> int | None:
    return OUTPUT_TOKENS_MIN if tokens is not None and 0 < tokens < OUTPUT_TOKENS_MIN else tokens


def _tier(tier: str | None, dropped: Dropped) -> str | None:
    """Another provider's tiers have other names."""
    if tier is None or tier in _TIERS:
        return tier
    if tier != _STANDARD:
        dropped.add("service_tier")
    return None


def write_text(output: OutputFormat | None, verbosity: str | None) -> JsonObject:
    """The value of `text`."""
    text: JsonObject = {}
    if output is not None and output.kind == "json_object":
        text["format"] = {"type": "json_object"}
    elif output is not None:
        # The name is demanded.
        schema: JsonObject = {
            "type": "json_schema",
            "name": output.name or "answer",
            "schema": output.schema or {},
        }
        if output.description is not None:
            schema["description"] = output.description
        if output.strict is not None:
            schema["strict"] = output.strict
        text["format"] = schema
    if verbosity is not None:
        text["verbosity"] = verbosity
    return text


def _write_metadata(metadata: JsonObject | None, fields: JsonObject, dropped: Dropped) -> None:
    """Values that are no texts are refused by the provider, so they are left out."""
    if not metadata:
        return
    texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
    if len(texts) < len(metadata):
        dropped.add("metadata")
    if texts:
        fields["metadata"] = texts


def _write_reasoning(options: ReasoningOptions, target: Target, fields: JsonObject, dropped: Dropped) -> None:
    if options.encrypted:
        fields["include"] = [ENCRYPTED]
    reasoning: JsonObject = {}
    effort = effort_of(options)
    if effort is not None:
        reasoning["effort"] = effort
    if options.summary in _SUMMARIES:
        reasoning["summary"] = options.summary
    if options.enabled is False and effort is None:
        # Not every model accepts the effort `none`, and the client did not name an effort.
        dropped.add("reasoning")
    if reasoning and target.reasoning_switch == "none":
        dropped.add("reasoning")
    elif reasoning:
        fields["reasoning"] = reasoning


def effort_of(options: ReasoningOptions) -> Effort | None:
    """The effort that the client named, or that comes nearest to its budget; `medium` if it only wants reasoning."""
    if options.effort is not None or options.enabled is False:
        return options.effort
    if options.budget_tokens is not None:
        if options.budget_tokens >= _HIGH_TOKENS:
            return "high"
        return "medium" if options.budget_tokens >= _MEDIUM_TOKENS else "low"
    return "medium" if options.enabled and not options.adaptive else None


class _ItemWriter:
    """Writes the items of a request. `items` has them.

    Ids of items are left out, except that of reasoning: a message or call with an id obliges the provider to find what belongs to it.
    """

    __slots__ = ("_custom", "_dropped", "_names", "_target", "items")

    def __init__(self, names: ToolNames, target: Target, dropped: Dropped) -> None:
        self._names = names
        self._target = target
        self._dropped = dropped
        # By the id of each call: whether its tool is a custom one. The kind of a result has to be that of its call.
        self._custom: dict[str, bool] = {}
        self.items: list[JsonObject] = []

    def instruct(self, texts: tuple[Text, ...]) -> None:
        self._message("developer", as_text(write_content(texts, self._dropped)))

    def write(self, turn: Turn | Instruction) -> None:
        if isinstance(turn, Instruction):
            if self._target.system_turns:
                self.instruct(turn.parts)
                return
            # Templates of Qwen and others refuse a system message in the midst (`Target.system_turns`).
            text = "\n\n".join(part.text for part in turn.parts if part.text)
            turn = Turn("user", (Text(f"<system>\n{text}\n</system>"),) if text else ())
        said: list[Text | Refused] = []
        given: list[Part] = []
        for part in turn.parts:
            if isinstance(part, Reasoning | ToolCall | ToolResult):
                self._flush(said, given)
                said, given = [], []
                self._item(part)
            elif turn.role == "user":
                given.append(part)
            elif isinstance(part, Text | Refused):
                said.append(part)
            else:
                self._dropped.add("assistant.media")
        self._flush(said, given)

    def _flush(self, said: list[Text | Refused], given: list[Part]) -> None:
        self._message("assistant", write_said(said, self._dropped))
        self._message("user", as_text(write_content(given, self._dropped)))

    def _message(self, role: str, content: str | list[JsonObject]) -> None:
        if content:
            self.items.append({"type": "message", "role": role, "content": content})

    def _item(self, part: Reasoning | ToolCall | ToolResult) -> None:
        if isinstance(part, Reasoning):
            self._reasoning(part)
        elif isinstance(part, ToolCall):
            self._call(part)
        else:
            self._result(part)

    def _reasoning(self, part: Reasoning) -> None:
        if part.encrypted is None or not self._target.signed_reasoning:
            self._dropped.add("reasoning")
            return
        summary = [{"type": "summary_text", "text": text} for text in part.summary]
        item: JsonObject = {"type": "reasoning", "summary": summary, "encrypted_content": part.encrypted}
        if part.item_id is not None:
            item["id"] = part.item_id
        self.items.append(item)

    def _call(self, call: ToolCall) -> None:
        if call.cache is not None:
            self._dropped.add("cache")
        self._custom[call.call_id] = call.custom
        name = call.name if call.namespace is not None else self._names.wire(call.name)
        item: JsonObject = {"type": "custom_tool_call", "call_id": call_id_of(call.call_id), "name": name}
        if call.custom:
            item["input"] = call.arguments
        else:
            item["type"] = "function_call"
            item["arguments"] = call.arguments or "{}"
        if call.namespace is not None:
            item["namespace"] = call.namespace
        self.items.append(item)

    def _result(self, result: ToolResult) -> None:
        if result.cache is not None:
            self._dropped.add("cache")
        content = write_content(result.content, self._dropped)
        if result.is_error:
            first = content[0] if content else {}
            if first.get("type") == "input_text":
                content[0] = {**first, "text": f"{ERROR_HEAD}{first['text']}"}
            else:
                content.insert(0, {"type": "input_text", "text": ERROR_HEAD})
        custom = self._custom.get(result.call_id)
        if custom is None:
            # The provider refuses a result without its call, which the client has left out of the conversation.
            self._message("user", as_text(content))
            return
        kind = "custom_tool_call_output" if custom else "function_call_output"
        item: JsonObject = {
            "type": kind,
            "call_id": call_id_of(result.call_id),
            "output": as_text(content) or "",
        }
        if result.is_error and not custom:
            item["status"] = FAILED
        self.items.append(item)


def call_id_of(call_id: str) -> str:
    """The id of a call, shortened the same way wherever it stands."""
    return call_id if len(call_id) <= ID_CHARS_MAX else f"call_{_hash(call_id)[:32]}"


def _short(name: str | None) -> str | None:
    return name if name is None or len(name) <= ID_CHARS_MAX else _hash(name)


def _hash(name: str) -> str:
    """64 characters that are the same for the same name."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
