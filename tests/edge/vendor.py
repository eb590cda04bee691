"""An upstream that answers as the vendors do, in whole event sequences: for clients that read every field of them."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

from tests.edge.honest import event, send
from tests.edge.stub import read_request

TEXT = "zyx zyx zyx"
PROMPT, OUTPUT = 40, 3
CREATED_S = 1_790_000_000


@dataclass
class Vendor:
    """`seen`: (method, path, headers, body) of every request."""

    seen: list = field(default_factory=list)

    async def open(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while True:
                method, path, headers, raw = await read_request(reader)
                if method != "POST":
                    send(writer, {"object": "list", "data": []})
                    continue
                body = json.loads(raw)
                if "model" not in body:  # asked what it speaks
                    send(
                        writer,
                        {"error": {"message": "model is missing", "type": "invalid_request_error"}},
                        400,
                    )
                    continue
                self.seen.append((method, path, headers, body))
                self._answer(path.partition("?")[0], body, writer)
                await writer.drain()
        writer.close()

    def _answer(self, path, body, writer):
        if path.endswith("/count_tokens"):
            send(writer, {"input_tokens": PROMPT})
            return
        protocol = next(
            name for name in ("chat", "messages", "responses", "completions", "embeddings") if name in path
        )
        whole, events = PROTOCOLS[protocol](body["model"])
        if not body.get("stream"):
            send(writer, whole)
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if protocol == "chat" and not (body.get("stream_options") or {}).get("include_usage"):
            events = [each for each in events if each == "[DONE]" or "usage" not in each]
        event(writer, *events)
        writer.write(b"0\r\n\r\n")


def chat(model):
    frame = {
        "id": "chatcmpl-1",
        "created": CREATED_S,
        "model": model,
        "system_fingerprint": "fp_1",
        "service_tier": "default",
    }
    used = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
    message = {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}
    whole = frame | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": used,
    }

    def chunk(delta, finish=None):
        return frame | {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }

    words = [chunk({"content": TEXT[at : at + 4]}) for at in range(0, len(TEXT), 4)]
    last = frame | {"object": "chat.completion.chunk", "choices": [], "usage": used}
    return whole, [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        *words,
        chunk({}, "stop"),
        last,
        "[DONE]",
    ]


def completions(model):
    used = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}
    frame = {"id": "cmpl-1", "object": "text_completion", "created": CREATED_S, "model": model}
    choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    return frame | {"choices": [choice], "usage": used}, [
        frame | {"choices": [choice]},
        frame | {"choices": [], "usage": used},
        "[DONE]",
    ]


def embeddings(model):
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT},
    }, []


def messages(model):
    used = {"input_tokens": PROMPT, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard"}  # fmt: skip
    frame = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_sequence": None}
    whole = frame | {
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": used | {"output_tokens": OUTPUT},
    }
    begun = frame | {"content": [], "stop_reason": None, "usage": used | {"output_tokens": 1}}
    return whole, [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT},
        },
        {"type": "message_stop"},
    ]


def responses(model):
    used = {"input_tokens": PROMPT, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": OUTPUT,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": PROMPT + OUTPUT}  # fmt: skip
    part = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    frame = {"id": "resp_1", "object": "response", "created_at": CREATED_S, "model": model, "error": None, "incomplete_details": None,
             "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [],
             "top_p": 1.0}  # fmt: skip
    done = frame | {"status": "completed", "output": [item], "usage": used}
    begun = frame | {"status": "in_progress", "output": [], "usage": None}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": item | {"status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", "part": part | {"text": ""}} | at,
        {"type": "response.output_text.delta", "delta": TEXT, "logprobs": []} | at,
        {"type": "response.output_text.done", "text": TEXT, "logprobs": []} | at,
        {"type": "response.content_part.done", "part": part} | at,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]
    return done, [each | {"sequence_number": number} for number, each in enumerate(events)]


PROTOCOLS = {
    "chat": chat,
    "messages": messages,
    "responses": responses,
    "completions": completions,
    "embeddings": embeddings,
}
