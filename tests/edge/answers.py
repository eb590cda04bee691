"""One answer as each protocol's vendors send it: whole, and as the events of a stream."""

import json
from dataclasses import dataclass, field

CREATED_S = 1_790_000_000
TEXT = "zyx zyx zyx"
PIECE_CHARS = 4


@dataclass(frozen=True)
class Used:
    """Tokens by class, disjoint: `fresh`, `cached` and `written` are the input, `text` and `reasoning` the output."""

    fresh: int = 40
    cached: int = 0
    written: int = 0
    text: int = 3
    reasoning: int = 0

    @property
    def input(self):
        return self.fresh + self.cached + self.written

    @property
    def output(self):
        return self.text + self.reasoning


@dataclass(frozen=True)
class Said:
    """What a vendor answers: reasoning, text, the words of a refusal, and a call (name, arguments), each of them if it is there."""

    text: str = TEXT
    reasoning: str = ""
    call: tuple[str, dict] | None = None
    used: Used = field(default_factory=Used)
    refusal: str = ""


def pieces(text):
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]


def chat(model, said):
    frame = {"id": "chatcmpl-1", "created": CREATED_S, "model": model, "system_fingerprint": "fp_1", "service_tier": "default"}  # fmt: skip
    used = {"prompt_tokens": said.used.input, "completion_tokens": said.used.output, "total_tokens": said.used.input + said.used.output,
            "prompt_tokens_details": {"cached_tokens": said.used.cached, "cache_write_tokens": said.used.written, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": said.used.reasoning}}  # fmt: skip
    finish = "tool_calls" if said.call else "stop"
    message = {"role": "assistant", "content": said.text or None, "refusal": None, "annotations": []}
    deltas = [{"role": "assistant", "content": "", "refusal": None}]
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
        deltas += [{"reasoning_content": each} for each in pieces(said.reasoning)]
    deltas += [{"content": each} for each in pieces(said.text)]
    if said.refusal:
        message["refusal"] = said.refusal
        deltas += [{"refusal": each} for each in pieces(said.refusal)]
    if said.call:
        name, arguments = said.call[0], json.dumps(said.call[1])
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        message["tool_calls"] = [call]
        begun = call | {"index": 0, "function": {"name": name, "arguments": ""}}
        deltas += [{"tool_calls": [begun]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in pieces(arguments)]  # fmt: skip
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    whole = frame | {"object": "chat.completion", "choices": [choice], "usage": used}
    frame |= {"object": "chat.completion.chunk"}

    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return frame | {"choices": [choice]}

    last = frame | {"choices": [], "usage": used}
    return whole, [*map(chunk, deltas), chunk({}, finish), last, "[DONE]"]


def messages(model, said):
    used = {"input_tokens": said.used.fresh, "cache_creation_input_tokens": said.used.written, "cache_read_input_tokens": said.used.cached,
            "cache_creation": {"ephemeral_5m_input_tokens": said.used.written, "ephemeral_1h_input_tokens": 0},
            "service_tier": "standard"}  # fmt: skip
    frame = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}
    stop = "refusal" if said.refusal else "tool_use" if said.call else "end_turn"
    blocks = []  # (block, as it begins, deltas)
    if said.reasoning:
        thought = {"type": "thinking", "thinking": said.reasoning, "signature": "c2lnbmVk"}
        told = [{"type": "thinking_delta", "thinking": each} for each in pieces(said.reasoning)]
        told += [{"type": "signature_delta", "signature": "c2lnbmVk"}]
        blocks += [(thought, thought | {"thinking": "", "signature": ""}, told)]
    for words in filter(None, (said.text, said.refusal)):
        text = {"type": "text", "text": words}
        told = [{"type": "text_delta", "text": each} for each in pieces(words)]
        blocks += [(text, text | {"text": ""}, told)]
    if said.call:
        call = {"type": "tool_use", "id": "toolu_1", "name": said.call[0], "input": said.call[1]}
        told = [{"type": "input_json_delta", "partial_json": each} for each in pieces(json.dumps(said.call[1]))]  # fmt: skip
        blocks += [(call, call | {"input": {}}, told)]
    whole = frame | {
        "content": [block for block, _, _ in blocks],
        "stop_reason": stop,
        "usage": used | {"output_tokens": said.used.output},
    }
    begun = frame | {"content": [], "stop_reason": None, "usage": used | {"output_tokens": 1}}
    events = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for at, (_, begin, told) in enumerate(blocks):
        events += [{"type": "content_block_start", "index": at, "content_block": begin}]
        events += [{"type": "content_block_delta", "index": at, "delta": each} for each in told]
        events += [{"type": "content_block_stop", "index": at}]
    delta = {"stop_reason": stop, "stop_sequence": None}
    events += [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": said.used.output}}]
    return whole, [*events, {"type": "message_stop"}]


def responses(model, said):
    used = {"input_tokens": said.used.input, "input_tokens_details": {"cached_tokens": said.used.cached, "cache_write_tokens": said.used.written},
            "output_tokens": said.used.output, "output_tokens_details": {"reasoning_tokens": said.used.reasoning},
            "total_tokens": said.used.input + said.used.output}  # fmt: skip
    frame = {"id": "resp_1", "object": "response", "created_at": CREATED_S, "model": model, "error": None, "incomplete_details": None,
             "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [],
             "top_p": 1.0}  # fmt: skip
    begun = frame | {"status": "in_progress", "output": [], "usage": None}
    events = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]  # fmt: skip
    output = []
    for make, told in (
        (_thought, said.reasoning),
        (_message, said.text),
        (_refusal, said.refusal),
        (_call, said.call),
    ):
        if told:
            item, more = make(len(output), told)
            output.append(item)
            events += more
    done = frame | {"status": "completed", "output": output, "usage": used}
    events += [{"type": "response.completed", "response": done}]
    return done, [each | {"sequence_number": number} for number, each in enumerate(events)]


def _item_events(at, item, begun, middle):
    return [
        {"type": "response.output_item.added", "output_index": at, "item": item | begun},
        *(each | {"item_id": item["id"], "output_index": at} for each in middle),
        {"type": "response.output_item.done", "output_index": at, "item": item},
    ]


def _thought(at, text):
    part = {"type": "summary_text", "text": text}
    item = {"id": f"rs_{at}", "type": "reasoning", "summary": [part], "encrypted_content": "ZW5j"}
    kind = "response.reasoning_summary"
    middle = [
        {"type": f"{kind}_part.added", "summary_index": 0, "part": part | {"text": ""}},
        *({"type": f"{kind}_text.delta", "summary_index": 0, "delta": each} for each in pieces(text)),
        {"type": f"{kind}_text.done", "summary_index": 0, "text": text},
        {"type": f"{kind}_part.done", "summary_index": 0, "part": part},
    ]
    return item, _item_events(at, item, {"summary": []}, middle)


def _message(at, text):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"id": f"msg_{at}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}  # fmt: skip
    middle = [
        {"type": "response.content_part.added", "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", "delta": each, "logprobs": []} for each in pieces(text)),
        {"type": "response.output_text.done", "text": text, "logprobs": []},
        {"type": "response.content_part.done", "part": part},
    ]
    middle = [each | {"content_index": 0} for each in middle]
    return item, _item_events(at, item, {"status": "in_progress", "content": []}, middle)


def _refusal(at, words):
    part = {"type": "refusal", "refusal": words}
    item = {
        "id": f"msg_{at}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    middle = [
        {"type": "response.content_part.added", "part": part | {"refusal": ""}},
        *({"type": "response.refusal.delta", "delta": each} for each in pieces(words)),
        {"type": "response.refusal.done", "refusal": words},
        {"type": "response.content_part.done", "part": part},
    ]
    middle = [each | {"content_index": 0} for each in middle]
    return item, _item_events(at, item, {"status": "in_progress", "content": []}, middle)


def _call(at, call):
    name, arguments = call[0], json.dumps(call[1])
    item = {"id": f"fc_{at}", "type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments, "status": "completed"}  # fmt: skip
    kind = "response.function_call_arguments"
    middle = [
        *({"type": f"{kind}.delta", "delta": each} for each in pieces(arguments)),
        {"type": f"{kind}.done", "arguments": arguments, "name": name},
    ]
    return item, _item_events(at, item, {"status": "in_progress", "arguments": ""}, middle)
