"""Writes a request of messages from the intermediate form."""

from typing import Final

import msgspec

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import JsonObject, OutputFormat, Request, Text
from tokenworks.gateway.translate.messages.breakpoints import Breakpoints
from tokenworks.gateway.translate.messages.schemas import enforced_schema
from tokenworks.gateway.translate.messages.thinking import write_sampling, write_thinking
from tokenworks.gateway.translate.messages.values import Dropped, fields_of
from tokenworks.gateway.translate.messages.write_blocks import write_system
from tokenworks.gateway.translate.messages.write_tools import write_tools
from tokenworks.gateway.translate.messages.write_turns import Conversation
from tokenworks.gateway.translate.names import ToolNames

# The provider refuses a longer id of a user.
USER_CHARS_MAX: Final = 256
_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard": "standard_only"}
_ANY_JSON: Final = "Answer with one JSON object and nothing else: no other words, no code fence."
_encode: Final = msgspec.json.encode


def write_request(request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
    """(the body, the names of what messages can't express). Raises `Untranslatable`."""
    dropped = Dropped()
    names = ToolNames(request.tools)
    marks = Breakpoints()
    tools, choice = write_tools(request, names, target, marks, dropped)
    system = write_system(request.system, marks)
    conversation = Conversation(names, target, dropped)
    for turn in request.turns:
        conversation.add(turn)
    body: JsonObject = {
        "model": request.model,
        "max_tokens": _maximum(request, target),
        "messages": conversation.written(marks),
    }
    if tools:
        body["tools"] = tools
    if choice is not None:
        body["tool_choice"] = choice
    thinks = write_thinking(body, request, target, dropped)
    write_sampling(body, request, thinks, dropped)
    if request.format is not None:
        _write_format(body, system, request.format, target)
    if system:
        body["system"] = system
    _write_rest(body, request, dropped)
    _name_dropped(request, dropped)
    if marks.settle():
        dropped.add("cache")
    return body, dropped.names()


def _maximum(request: Request, target: Target) -> int:
    """Messages demand a maximum, which includes thinking: a budget comes on top of the default."""
    if request.max_output_tokens is not None:
        return request.max_output_tokens
    return target.default_max_tokens + (request.reasoning.budget_tokens or 0)


def _write_format(body: JsonObject, system: list[JsonObject], wish: OutputFormat, target: Target) -> None:
    """The shape of the answer: enforced where the deployment does it, else an instruction at the end of the system prompt."""
    if wish.schema is not None and target.structured_output:
        config = fields_of(body.setdefault("output_config", {}))
        config["format"] = {"type": "json_schema", "schema": enforced_schema(wish.schema)}
        return
    words = _ANY_JSON
    if wish.schema is not None:
        told = f" ({wish.description})" if wish.description else ""
        words += f" It follows this JSON Schema{told}:\n{_encode(wish.schema).decode()}"
    system += write_system((Text(words),), Breakpoints())


def _write_rest(body: JsonObject, request: Request, dropped: Dropped) -> None:
    stops = [text for text in request.stop if text.strip()]
    if len(stops) < len(request.stop):
        dropped.add("stop")  # the provider refuses a blank
    if stops:
        body["stop_sequences"] = stops
    if request.stream:
        body["stream"] = True
    user = request.user or request.safety_identifier
    if user is not None and len(user) <= USER_CHARS_MAX:
        body["metadata"] = {"user_id": user}
    elif user is not None:
        dropped.add("user")
    tier = _TIERS.get(request.service_tier or "")
    if tier is not None:
        body["service_tier"] = tier
    elif request.service_tier is not None:
        dropped.add("service_tier")


def _name_dropped(request: Request, dropped: Dropped) -> None:
    if request.frequency_penalty:
        dropped.add("frequency_penalty")
    if request.presence_penalty:
        dropped.add("presence_penalty")
    for name, given in (
        ("seed", request.seed),
        ("verbosity", request.verbosity),
        ("prompt_cache_key", request.prompt_cache_key),
        ("metadata", request.metadata),
    ):
        if given is not None:
            dropped.add(name)
