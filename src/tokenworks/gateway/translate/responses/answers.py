"""Reads and writes a whole answer of responses: the response object."""

from typing import Final

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import read_openai
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Answer,
    AnswerPart,
    JsonObject,
    Reasoning,
    Refused,
    Request,
    Stop,
    Text,
    ToolCall,
)
from tokenworks.gateway.translate.names import ToolNames
from tokenworks.gateway.translate.responses.client_tools import call_item
from tokenworks.gateway.translate.responses.reasoning import encrypted_content, read_answered, reasoning_item
from tokenworks.gateway.translate.responses.request_writer import effort_of, write_text
from tokenworks.gateway.translate.responses.tools import write_choice, write_tools
from tokenworks.gateway.translate.responses.values import Dropped, list_of, number_of, object_of, text_of

ID_HEAD: Final = "resp_"
# The beginning of an item's id, by the type of the item.
ITEM_HEADS: Final = {
    "message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_",
}  # fmt: skip
_BUILTIN_HEAD: Final = "tc_"
_LENGTH, _FILTER = "max_output_tokens", "content_filter"
_REASONS: Final = {
    Stop.LENGTH: _LENGTH, Stop.CONTEXT: _LENGTH, Stop.FILTER: _FILTER, Stop.REFUSAL: _FILTER,
}  # fmt: skip


# Reading.


def read_answer(fields: JsonObject) -> Answer:
    parts: list[AnswerPart] = []
    for value in list_of(fields.get("output")):
        parts.extend(_read_item(object_of(value) or {}))
    called = any(isinstance(part, ToolCall) for part in parts)
    usage = read_openai(fields.get("usage"))
    return Answer(
        answer_id=answer_id_of(fields.get("id")),
        model=text_of(fields.get("model")) or "",
        parts=tuple(parts),
        stop=stop_of(fields, called=called),
        usage=None if usage is None else usage.counts,
        created_s=created_of(fields.get("created_at")),
        service_tier=text_of(fields.get("service_tier")),
    )


def answer_id_of(value: object) -> str:
    return (text_of(value) or "").removeprefix(ID_HEAD)


def created_of(value: object) -> int:
    """Epoch seconds; 0 if they can't be read."""
    seconds = number_of(value)
    return int(seconds) if seconds is not None and 0 <= seconds < 1 << 53 else 0


def stop_of(response: JsonObject, *, called: bool) -> Stop | None:
    """Why the model stopped; None if the response did not come to its end. `called`: it has calls of the client's tools."""
    status = response.get("status")
    details = object_of(response.get("incomplete_details")) or {}
    if status == "incomplete":
        reason = details.get("reason")
        if reason == _FILTER:
            return Stop.FILTER
        return Stop.END if reason == "steered" else Stop.LENGTH
    if status != "completed":
        return None
    return Stop.TOOL if called else Stop.END


def call_of(item: JsonObject, arguments: str) -> ToolCall | None:
    """The call in an item of an answer, with these arguments; None if it is no call of a client's tool, or has no name."""
    kind, name = text_of(item.get("type")), text_of(item.get("name"))
    item_id = text_of(item.get("id"))
    call_id = text_of(item.get("call_id")) or item_id
    if kind not in {"function_call", "custom_tool_call"} or not name or not call_id:
        return None
    return ToolCall(
        call_id, name, arguments, kind == "custom_tool_call", text_of(item.get("namespace")), item_id
    )


def _read_item(item: JsonObject) -> list[AnswerPart]:
    """The parts of an item. Items of the provider's own tools have none."""
    kind = item.get("type")
    if kind == "message":
        return _read_message(item)
    if kind == "reasoning":
        reasoning = read_answered(item)
        return [reasoning] if reasoning.text or reasoning.summary or reasoning.encrypted else []
    call = call_of(item, text_of(item.get("input" if kind == "custom_tool_call" else "arguments")) or "")
    return [] if call is None else [call]


def _read_message(item: JsonObject) -> list[AnswerPart]:
    parts: list[AnswerPart] = []
    for value in list_of(item.get("content")):
        content = object_of(value) or {}
        text, words = text_of(content.get("text")), text_of(content.get("refusal"))
        if words:
            parts.append(Refused(words))
        elif text:
            parts.append(Text(text))
    return parts


# Writing.


def write_answer(answer: Answer, naming: Naming) -> JsonObject:
    names = ToolNames(naming.request.tools)
    parts = [part for part in answer.parts if not isinstance(part, Text | Refused) or part.text]
    output = [_write_part(part, at, naming, names) for at, part in enumerate(parts)]
    refused = any(isinstance(part, Refused) for part in parts)
    return {
        **response_base(naming),
        **ending(answer.stop, refused=refused),
        "output": output,
        "service_tier": answer.service_tier,
        "usage": None if answer.usage is None else usage_object(answer.usage),
    }


def _write_part(part: AnswerPart, number: int, naming: Naming, names: ToolNames) -> JsonObject:
    if isinstance(part, Reasoning):
        summary = list(part.summary) or ([part.text] if part.text else [])
        wished = naming.request.reasoning.encrypted
        as_summary = bool(part.text) and not part.summary
        encrypted = encrypted_content(part.encrypted, part.signature, shown_as_summary=as_summary)
        item_id = item_id_of(naming, "reasoning", number)
        return reasoning_item(
            item_id, summary, part.text if part.summary else "", encrypted if wished else None
        )
    if isinstance(part, ToolCall):
        return write_call(names.restored(part), number, naming, names)
    return message_item(item_id_of(naming, "message", number), part)


def item_id_of(naming: Naming, kind: str, number: int) -> str:
    """The id of an item: of the answer's id and the number of its part, so it is the same wherever it stands."""
    return f"{ITEM_HEADS.get(kind, _BUILTIN_HEAD)}{naming.answer_id}_{number}"


def message_item(item_id: str, part: Text | Refused) -> JsonObject:
    return {
        "id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": [content_part(part)],
    }  # fmt: skip


def content_part(part: Text | Refused) -> JsonObject:
    if isinstance(part, Refused):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def write_call(call: ToolCall, number: int, naming: Naming, names: ToolNames) -> JsonObject:
    """The item of a call, whose name is the client's own."""
    builtin = builtin_of(call, names)
    if builtin is not None:
        item_id = item_id_of(naming, builtin, number)
        item = call_item(builtin, call.call_id, item_id, call.arguments)
        if item is not None:
            return item
    return function_item(
        call, item_id_of(naming, "custom_tool_call" if call.custom else "function_call", number)
    )


def builtin_of(call: ToolCall, names: ToolNames) -> str | None:
    """The type of the protocol's own tool that is called, if it is one."""
    tool = names.original(call.name) if call.namespace is None else None
    return None if tool is None else tool.builtin


def function_item(call: ToolCall, item_id: str, status: str = "completed") -> JsonObject:
    item: JsonObject = {"id": item_id, "call_id": call.call_id, "name": call.name, "status": status}
    if call.custom:
        item["type"] = "custom_tool_call"
        item["input"] = call.arguments
    else:
        item["type"] = "function_call"
        item["arguments"] = call.arguments
    if call.namespace is not None:
        item["namespace"] = call.namespace
    return item


def ending(stop: Stop | None, *, refused: bool) -> JsonObject:
    """The fields that say how the answer ended. `refused`: it has the words of a refusal, which are a whole answer."""
    reason = None if stop is None or (refused and stop is Stop.REFUSAL) else _REASONS.get(stop)
    if reason is None:
        return {"status": "completed", "incomplete_details": None}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def response_base(naming: Naming) -> JsonObject:
    """The fields of a response that are known at its beginning. Those of the request are repeated, as the provider does; a field that
    the client did not give has the protocol's default.
    """
    request = naming.request
    return {
        "id": ID_HEAD + naming.answer_id, "object": "response", "created_at": naming.created_s, "status": "in_progress",
        "background": False, "error": None, "incomplete_details": None, "model": naming.model, "output": [],
        "instructions": request.system[0].text if request.system else None,
        "max_output_tokens": request.max_output_tokens, "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": True if request.parallel_calls is None else request.parallel_calls,
        "previous_response_id": None, "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": effort_of(request.reasoning), "summary": request.reasoning.summary},
        "safety_identifier": request.safety_identifier, "service_tier": None, "store": False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": _repeated_text(request),
        "tool_choice": _repeated_choice(request), "tools": write_tools(request.tools, None, Dropped()),
        "top_logprobs": 0, "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled", "usage": None, "user": request.user,
    }  # fmt: skip


def _repeated_text(request: Request) -> JsonObject:
    return {
        "format": {"type": "text"},
        "verbosity": "medium",
        **write_text(request.format, request.verbosity),
    }


def _repeated_choice(request: Request) -> object:
    if request.tool_choice is None:
        return "auto"
    return write_choice(request.tool_choice, request.tools, None)


def usage_object(counts: Counts) -> JsonObject:
    """The usage whose reading gives these counts again (`protocol/usage.py`). Classes without a name of OpenAI's have Anthropic's."""
    written = counts.cache_write + counts.cache_write_1h
    of_input: JsonObject = {"cached_tokens": counts.cached_input, "cache_write_tokens": written}
    if counts.audio_input:
        of_input["audio_tokens"] = counts.audio_input
    if counts.cache_write_1h:
        of_input["cache_creation"] = {
            "ephemeral_5m_input_tokens": counts.cache_write,
            "ephemeral_1h_input_tokens": counts.cache_write_1h,
        }
    of_output: JsonObject = {"reasoning_tokens": counts.reasoning}
    if counts.audio_output:
        of_output["audio_tokens"] = counts.audio_output
    return {
        "input_tokens": counts.input_tokens, "input_tokens_details": of_input,
        "output_tokens": counts.output_tokens, "output_tokens_details": of_output,
        "total_tokens": counts.total,
    }  # fmt: skip
