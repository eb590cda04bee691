"""Whole answers of chat."""

from collections.abc import Sequence

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import later_usage, nested_usage, read_openai
from tokenworks.gateway.translate.chat.read_messages import read_call, read_function, thinking_text
from tokenworks.gateway.translate.chat.reasoning import joined_text, read_reasoning, written_details
from tokenworks.gateway.translate.chat.stops import read_stop, written_stop
from tokenworks.gateway.translate.chat.usage import written_usage
from tokenworks.gateway.translate.chat.values import list_of, object_of, text_of, text_or_none, whole_of
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Answer,
    AnswerPart,
    JsonObject,
    Reasoning,
    Refused,
    Stop,
    Text,
    ToolCall,
)
from tokenworks.gateway.translate.names import JOINT, ToolNames

ID_PREFIX = "chatcmpl-"


def bare_id(answer_id: str) -> str:
    return answer_id.removeprefix(ID_PREFIX)


def call_id_of(answer_id: str, number: int) -> str:
    """The id of a call that came without one: calls of one conversation must not share an id."""
    return f"call_{bare_id(answer_id)[-24:]}_{number}"


def read_answer(fields: JsonObject) -> Answer:
    """The first choice of an answer."""
    choices = list_of(fields.get("choices"))
    choice = _first_choice(choices)
    message = object_of(choice.get("message")) or object_of(choice.get("delta"))
    answer_id = text_of(fields.get("id"))
    parts: list[AnswerPart] = list(read_reasoning(message))
    thought, said = split_content(message.get("content"))
    if thought:
        parts.append(Reasoning(thought))
    if said:
        parts.append(Text(said))
    refusal = text_of(message.get("refusal"))
    if refusal:
        parts.append(Refused(refusal))
    calls = _calls(message, answer_id)
    parts += calls
    reason = text_or_none(choice.get("finish_reason"))
    sequence = stop_sequence_of(choice)
    stop = None if reason is None else read_stop(reason, called=bool(calls), sequence=sequence)
    return Answer(
        bare_id(answer_id),
        text_of(fields.get("model")),
        tuple(parts),
        stop,
        sequence if stop is Stop.SEQUENCE else None,
        _usage(fields, choices),
        whole_of(fields.get("created")) or 0,
        text_or_none(fields.get("service_tier")),
    )


def _first_choice(choices: Sequence[object]) -> JsonObject:
    """The choice number 0, else the first one."""
    objects = [object_of(choice) for choice in choices]
    for choice in objects:
        index = choice.get("index")
        if index is None or whole_of(index) == 0:
            return choice
    return objects[0] if objects else {}


def _calls(message: JsonObject, answer_id: str) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for number, value in enumerate(list_of(message.get("tool_calls"))):
        call = read_call(object_of(value), call_id_of(answer_id, number))
        if call is not None:
            calls.append(call)
    old = read_function(message.get("function_call"), call_id_of(answer_id, 0))
    if old is not None and not calls:
        calls.append(old)
    return calls


def _usage(fields: JsonObject, choices: Sequence[object]) -> Counts | None:
    found = read_openai(fields.get("usage"))
    if found is None:
        found = nested_usage(choices)
    found = later_usage(None, found)
    return None if found is None else found.counts


def split_content(content: object) -> tuple[str, str]:
    """(reasoning, text) of a message's content: a text, or a list of parts (Mistral)."""
    if isinstance(content, str):
        return "", content
    thought: list[str] = []
    said: list[str] = []
    for value in list_of(content):
        part = object_of(value)
        if "thinking" in part:
            thought.append(thinking_text(part.get("thinking")))
        else:
            said.append(text_of(part.get("text")))
    return "".join(thought), "".join(said)


def stop_sequence_of(choice: JsonObject) -> str | None:
    """The stop sequence that vLLM (`stop_reason`) and SGLang (`matched_stop`) name. A number is a token's id."""
    return text_or_none(choice.get("stop_reason")) or text_or_none(choice.get("matched_stop"))


def write_answer(answer: Answer, naming: Naming) -> JsonObject:
    parts = answer.parts
    said = [part.text for part in parts if isinstance(part, Text)]
    refused = [part.text for part in parts if isinstance(part, Refused)]
    reasoning = [part for part in parts if isinstance(part, Reasoning)]
    names = ToolNames(naming.request.tools)
    calls = [written_call(names.restored(part)) for part in parts if isinstance(part, ToolCall)]
    message: JsonObject = {
        "role": "assistant",
        # Null beside calls and refusals, as OpenAI writes it; some clients take no null where there is nothing else.
        "content": "".join(said) if said or not (calls or refused) else None,
        "refusal": "".join(refused) if refused else None,
    }
    thought = joined_text(reasoning)
    if thought:
        message["reasoning_content"] = thought
    details = written_details(reasoning)
    if details:
        message["reasoning_details"] = details
    if calls:
        message["tool_calls"] = calls
    stop = answer.stop or (Stop.TOOL if calls else Stop.END)
    choice: JsonObject = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": written_stop(stop),
    }
    if answer.stop_sequence is not None:
        choice["stop_reason"] = answer.stop_sequence
    body: JsonObject = {
        "id": ID_PREFIX + naming.answer_id,
        "object": "chat.completion",
        "created": naming.created_s,
        "model": naming.model,
        "choices": [choice],
    }
    if answer.service_tier is not None:
        body["service_tier"] = answer.service_tier
    if answer.usage is not None:
        body["usage"] = written_usage(answer.usage)
    return body


def written_call(call: ToolCall) -> JsonObject:
    name = call.name if call.namespace is None else f"{call.namespace}{JOINT}{call.name}"
    if call.custom:
        return {"id": call.call_id, "type": "custom", "custom": {"name": name, "input": call.arguments}}
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": name, "arguments": call.arguments},
    }
