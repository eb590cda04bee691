"""Reads and writes whole answers of messages."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import later_usage, read_anthropic
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Answer,
    AnswerPart,
    JsonObject,
    Reasoning,
    Text,
    ToolCall,
)
from tokenworks.gateway.translate.messages.marks import written_data, written_signature
from tokenworks.gateway.translate.messages.stops import read_stop, written_stop
from tokenworks.gateway.translate.messages.usage import written_usage
from tokenworks.gateway.translate.messages.values import fields_of, items_of, text_of
from tokenworks.gateway.translate.names import INPUT, ToolNames

ID_PREFIX: Final = "msg_"
_TIERS: Final = {"default": "standard", "standard": "standard", "priority": "priority", "batch": "batch"}
_encode: Final = msgspec.json.encode
_decode: Final = msgspec.json.Decoder().decode


def read_answer(fields: JsonObject) -> Answer:
    """The answer. Blocks of tools that run at the vendor are left out."""
    parts: list[AnswerPart] = []
    for item in items_of(fields.get("content")):
        part = _read_part(fields_of(item))
        if part is not None:
            parts.append(part)
    reason = text_of(fields.get("stop_reason"))
    called = any(isinstance(part, ToolCall) for part in parts)
    reported = fields_of(fields.get("usage"))
    usage = later_usage(None, read_anthropic(reported))
    return Answer(
        answer_id=(text_of(fields.get("id")) or "").removeprefix(ID_PREFIX),
        model=text_of(fields.get("model")) or "",
        parts=tuple(parts),
        stop=None if reason is None else read_stop(reason, called),
        stop_sequence=text_of(fields.get("stop_sequence")),
        usage=None if usage is None else usage.counts,
        service_tier=_read_tier(reported.get("service_tier")),
    )


def _read_part(block: JsonObject) -> AnswerPart | None:
    kind = block.get("type")
    if kind == "text":
        text = text_of(block.get("text"))
        return Text(text) if text else None
    if kind == "thinking":
        thought = text_of(block.get("thinking")) or ""
        signature = text_of(block.get("signature")) or None
        return Reasoning(thought, signature=signature) if thought or signature else None
    if kind == "redacted_thinking":
        data = text_of(block.get("data"))
        return Reasoning(encrypted=data) if data else None
    if kind == "tool_use":
        call_id, name = text_of(block.get("id")), text_of(block.get("name"))
        if call_id and name:
            return ToolCall(call_id, name, _encode(fields_of(block.get("input"))).decode())
    return None


def _read_tier(value: object) -> str | None:
    tier = text_of(value)
    return "default" if tier == "standard" else tier


def write_answer(answer: Answer, naming: Naming) -> JsonObject:
    names = ToolNames(naming.request.tools)
    content: list[JsonObject] = []
    called = False
    for number, part in enumerate(answer.parts):
        if isinstance(part, ToolCall):
            called = True
            content.append(_written_call(names.restored(part), naming, number))
        elif isinstance(part, Reasoning):
            content += _written_reasoning(part)
        elif part.text:
            content.append({"type": "text", "text": part.text})
    usage = written_usage(answer.usage)
    tier = _TIERS.get(answer.service_tier or "")
    if tier is not None:
        usage["service_tier"] = tier
    reason = written_stop(answer.stop, called)
    return {
        "id": ID_PREFIX + naming.answer_id,
        "type": "message",
        "role": "assistant",
        "model": naming.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": answer.stop_sequence if reason == "stop_sequence" else None,
        "usage": usage,
    }


def _written_call(call: ToolCall, naming: Naming, number: int) -> JsonObject:
    given = call_id_of(call.call_id, naming, number)
    return {
        "type": "tool_use",
        "id": given,
        "name": call.name,
        "input": input_of(call.arguments, call.custom),
    }


def call_id_of(call_id: str, naming: Naming, number: int) -> str:
    """The provider's id of a call, which it expects again with the result; one of ours if it gave none. `number`: of the part."""
    return call_id or f"toolu_{naming.answer_id}_{number}"


def input_of(arguments: str, custom: bool) -> JsonObject:
    """Arguments as the object that messages demand. Free text, and text that is no object, stands in its field `input`."""
    if not custom:
        try:
            value = _decode(arguments.encode()) if arguments.strip() else {}
        except (msgspec.MsgspecError, ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
    return {INPUT: arguments}


def _written_reasoning(part: Reasoning) -> list[JsonObject]:
    """What is encrypted is a block of its own."""
    blocks: list[JsonObject] = []
    text = reasoning_text(part)
    if text or part.signature:
        blocks.append({"type": "thinking", "thinking": text, "signature": written_signature(part.signature)})
    if part.encrypted:
        blocks.append({"type": "redacted_thinking", "data": written_data(part.encrypted)})
    return blocks


def reasoning_text(part: Reasoning) -> str:
    """The reasoning itself, or its summaries with an empty line between them."""
    return part.text or "\n\n".join(part.summary)
