"""Reads a chat request."""

from typing import Final

from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.chat.read_messages import MessagesReader
from tokenworks.gateway.translate.chat.read_options import (
    read_format,
    read_reasoning_options,
    read_tool_choice,
    read_tools,
)
from tokenworks.gateway.translate.chat.values import (
    bool_of,
    number_of,
    object_of,
    positive_of,
    text_of,
    text_or_none,
    whole_of,
)
from tokenworks.gateway.translate.form import JsonObject, Request, Untranslatable

# Values with which a field that is not carried says nothing.
_SILENT: Final[tuple[object, ...]] = (None, False, [], {}, "")
# The fields that are read here, by one of these functions or by their default.
_READ: Final = frozenset({
    "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop", "n", "response_format", "verbosity", "reasoning_effort",
    "reasoning", "thinking", "enable_thinking", "thinking_budget", "chat_template_kwargs", "user", "safety_identifier",
    "prompt_cache_key", "metadata", "service_tier", "stream", "stream_options", "store", "modalities",
})  # fmt: skip


def read_request(fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
    """(the request, the names of fields that are not carried). Raises `Untranslatable`."""
    named = Named()
    _check_choices(fields, named)
    reader = MessagesReader(named)
    reader.read(fields.get("messages"))
    for name, value in fields.items():
        if name not in _READ and value not in _SILENT:
            named.add(name)
    options = object_of(fields.get("stream_options"))
    for name, value in options.items():
        if name != "include_usage" and value not in _SILENT:
            named.add(f"stream_options.{name}")
    stream = fields.get("stream") is True
    tools = read_tools(fields, named)
    metadata = object_of(fields.get("metadata"))
    request = Request(
        model=text_of(fields.get("model")),
        turns=tuple(reader.turns),
        system=tuple(reader.system),
        tools=tools,
        tool_choice=read_tool_choice(fields, named) if tools else None,
        parallel_calls=bool_of(fields.get("parallel_tool_calls")) if tools else None,
        max_output_tokens=_maximum(fields),
        temperature=_number(fields, "temperature", named),
        top_p=_number(fields, "top_p", named),
        top_k=_top_k(fields, named),
        frequency_penalty=_number(fields, "frequency_penalty", named),
        presence_penalty=_number(fields, "presence_penalty", named),
        seed=_seed(fields, named),
        stop=_stop(fields, named),
        format=read_format(fields, named),
        verbosity=text_or_none(fields.get("verbosity")),
        reasoning=read_reasoning_options(fields, named),
        user=text_or_none(fields.get("user")),
        safety_identifier=text_or_none(fields.get("safety_identifier")),
        prompt_cache_key=text_or_none(fields.get("prompt_cache_key")),
        metadata=metadata or None,
        service_tier=text_or_none(fields.get("service_tier")),
        stream=stream,
        stream_usage=stream and options.get("include_usage") is True,
    )
    return request, named.names()


def _check_choices(fields: JsonObject, named: Named) -> None:
    """Raises `Untranslatable` for more than one choice: no other protocol has them, and each is charged."""
    value = fields.get("n")
    number = whole_of(value)
    if number is not None and number > 1:
        raise Untranslatable("n", "the model's deployment gives one choice for each request: n is at most 1")
    if value is not None and number != 1:
        named.add("n")


def _maximum(fields: JsonObject) -> int | None:
    """The smaller one of two maxima. 0 and -1 mean none."""
    maxima = [positive_of(fields.get(name)) for name in ("max_completion_tokens", "max_tokens")]
    return min([maximum for maximum in maxima if maximum is not None], default=None)


def _number(fields: JsonObject, name: str, named: Named) -> float | None:
    value = fields.get(name)
    number = number_of(value)
    if number is None and value is not None:
        named.add(name)
    return number


def _seed(fields: JsonObject, named: Named) -> int | None:
    value = fields.get("seed")
    seed = whole_of(value)
    if seed is None and value is not None:
        named.add("seed")
    return seed


def _top_k(fields: JsonObject, named: Named) -> int | None:
    """Engines write -1 or 0 for all tokens."""
    value = fields.get("top_k")
    if value is not None and whole_of(value) is None:
        named.add("top_k")
    return positive_of(value)


def _stop(fields: JsonObject, named: Named) -> tuple[str, ...]:
    value = fields.get("stop")
    if isinstance(value, str):
        return (value,) if value else ()
    if not isinstance(value, list):
        if value is not None:
            named.add("stop")
        return ()
    texts = tuple([text for text in value if isinstance(text, str) and text])
    if len(texts) < len(value):
        named.add("stop")
    return texts
