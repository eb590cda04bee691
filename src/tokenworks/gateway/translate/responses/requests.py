"""Reads a request of responses into the form."""

from typing import Final

from tokenworks.gateway.translate.form import (
    Effort,
    JsonObject,
    OutputFormat,
    ReasoningOptions,
    Request,
    Text,
)
from tokenworks.gateway.translate.responses.items import ItemReader
from tokenworks.gateway.translate.responses.tools import read_choice, read_tools
from tokenworks.gateway.translate.responses.values import (
    Dropped,
    bool_of,
    list_of,
    number_of,
    object_of,
    refuse_given,
    text_of,
    whole_of,
)

ENCRYPTED: Final = "reasoning.encrypted_content"
_EFFORTS: Final[dict[str | None, Effort]] = {
    "none": "none", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
_REFUSED: Final = {
    "previous_response_id": "the earlier response is not kept for it; send its items in `input`",
    "conversation": "it is kept by another provider",
    "prompt": "it is kept by another provider",
    "background": "a response in the background outlives its hold",
}
# Fields that the form has, and values of the others that ask for nothing.
_CARRIED: Final = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "temperature", "top_p", "text",
    "reasoning", "include", "user", "safety_identifier", "prompt_cache_key", "metadata", "service_tier", "stream", "stream_options",
    *_REFUSED,
})  # fmt: skip
_IDLE: Final[dict[str, object]] = {"store": False, "truncation": "disabled", "top_logprobs": 0}


def read_request(fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
    """(the request, the names of what is not carried). Raises `Untranslatable`."""
    refuse_given(fields, _REFUSED)
    dropped = Dropped()
    for name, value in fields.items():
        if name not in _CARRIED and value is not None and value != _IDLE.get(name):
            dropped.add(name)
    items = ItemReader(dropped)
    instructions = fields.get("instructions")
    if isinstance(instructions, str):
        if instructions:
            items.system.append(Text(instructions))
    elif instructions is not None:
        # The response of an earlier request repeats its instructions as items.
        items.instruct(list_of(instructions))
    items.read(fields.get("input"))
    tools = read_tools([*list_of(fields.get("tools")), *items.more_tools], dropped)
    text = object_of(fields.get("text")) or {}
    metadata = object_of(fields.get("metadata"))
    request = Request(
        model=text_of(fields.get("model")) or "",
        turns=tuple(items.turns),
        system=tuple(items.system),
        tools=tools,
        tool_choice=read_choice(fields.get("tool_choice"), tools, dropped),
        parallel_calls=bool_of(fields.get("parallel_tool_calls")),
        max_output_tokens=whole_of(fields.get("max_output_tokens")),
        temperature=number_of(fields.get("temperature")),
        top_p=number_of(fields.get("top_p")),
        format=read_format(object_of((items.text or text).get("format")) or {}, dropped),
        verbosity=text_of(text.get("verbosity")),
        reasoning=_read_reasoning(fields, items.effort, dropped),
        user=text_of(fields.get("user")),
        safety_identifier=text_of(fields.get("safety_identifier")),
        prompt_cache_key=text_of(fields.get("prompt_cache_key")),
        metadata=metadata or None,
        service_tier=text_of(fields.get("service_tier")),
        stream=fields.get("stream") is True,
        stream_usage=fields.get("stream") is True,
    )
    return request, dropped.names()


def read_format(fields: JsonObject, dropped: Dropped) -> OutputFormat | None:
    """The value of `text.format`; None: plain text."""
    kind = text_of(fields.get("type"))
    if kind == "json_object":
        return OutputFormat("json_object")
    if kind == "json_schema":
        return OutputFormat(
            "json_schema",
            name=text_of(fields.get("name")),
            description=text_of(fields.get("description")),
            schema=object_of(fields.get("schema")),
            strict=bool_of(fields.get("strict")),
        )
    if kind not in {None, "text"}:
        dropped.add("text.format")
    return None


def _read_reasoning(fields: JsonObject, later_effort: str | None, dropped: Dropped) -> ReasoningOptions:
    """`later_effort`: of an item that changes it."""
    options = object_of(fields.get("reasoning")) or {}
    word = later_effort or text_of(options.get("effort"))
    effort = _EFFORTS.get(word)
    if word is not None and effort is None:
        dropped.add("reasoning.effort")
    for name, idle in (("context", "auto"), ("mode", "standard")):
        if options.get(name) not in (None, idle):
            dropped.add(f"reasoning.{name}")
    include = list_of(fields.get("include"))
    if any(name != ENCRYPTED for name in include):
        dropped.add("include")
    return ReasoningOptions(
        enabled=False if effort == "none" else None,
        effort=effort,
        summary=text_of(options.get("summary")) or text_of(options.get("generate_summary")),
        encrypted=ENCRYPTED in include,
    )
