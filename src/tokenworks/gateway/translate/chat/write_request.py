"""Writes a chat request for a deployment."""

from typing import Final

from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.chat.write_messages import write_messages
from tokenworks.gateway.translate.chat.write_options import written_format, written_reasoning, written_tools
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import JsonObject, Request
from tokenworks.gateway.translate.names import ToolNames

# OpenAI refuses longer values of `user`, `safety_identifier` and `prompt_cache_key` (API reference, 2026-11).
ID_CHARS_MAX: Final = 64
# The tiers that a chat request may name (protocol/fields/chat.yaml), and those of messages.
_TIERS: Final[dict[str, str]] = {
    "auto": "auto",
    "default": "default",
    "standard": "default",
    "standard_only": "default",
    "flex": "flex",
}


def write_request(request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
    """(the body, the names of what chat can't express). Raises `Untranslatable`."""
    named = Named()
    names = ToolNames(request.tools)
    body: JsonObject = {
        "model": request.model,
        "messages": write_messages(request, target, names, named),
    }
    body.update(written_tools(request, names))
    for name, value in (
        ("max_tokens", request.max_output_tokens),
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("top_k", request.top_k),
        ("frequency_penalty", request.frequency_penalty),
        ("presence_penalty", request.presence_penalty),
        ("seed", request.seed),
        ("verbosity", request.verbosity),
    ):
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.format is not None:
        body["response_format"] = written_format(request.format)
    body.update(written_reasoning(request.reasoning, target.reasoning_switch, named))
    for name, text in (
        ("user", request.user),
        ("safety_identifier", request.safety_identifier),
        ("prompt_cache_key", request.prompt_cache_key),
    ):
        if text is None:
            continue
        if len(text) <= ID_CHARS_MAX:
            body[name] = text
        else:
            named.add(name)
    if request.metadata:
        # OpenAI takes metadata only of an answer that it stores, which no deployment here may.
        named.add("metadata")
    if request.service_tier is not None:
        tier = _TIERS.get(request.service_tier)
        if tier is None:
            named.add("service_tier")
        else:
            body["service_tier"] = tier
    if request.stream:
        body["stream"] = True
        if request.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return body, named.names()
