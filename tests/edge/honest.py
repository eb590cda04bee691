"""An honest upstream: it reports what it made, obeys every maximum that it knows, stops when its caller is gone, and keeps the truth.

A token is a word between blanks, of the prompt and of the answer alike, as the tokenizer written by `write_tokenizer` counts.
What a prompt says first is what it is to be answered with: `say:300` (tokens), `think:3000`, `call:12`, `read:50` (ms of prefill).
"""

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field

from tests.edge.shapes import TOKEN
from tests.edge.stub import read_request, sized

MEDIUM_TOKENS = 777
CALL_TOKENS = 30
# A hundred tokens a second and stream, as engines do.
CHUNK_TOKENS = 2
GAP_S = 0.02
REST_S = 0.02
MAXIMUM = 4096
TOLD = re.compile(r"(say|think|call|read):(\d+)")
# Engines know them all, and take the last that is set.
MAXIMA = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "num_predict",
    "n_predict",
)


@dataclass
class Truth:
    """Tokens that were made, prompts included, and requests that were begun."""

    requests: int = 0
    prompt: int = 0
    output: int = 0

    @property
    def total(self):
        return self.prompt + self.output


@dataclass
class Honest:
    """Serves every model on one port; `truths` by the model's name."""

    truths: dict = field(default_factory=dict)

    async def open(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while True:
                method, path, _, raw = await read_request(reader)
                if method == "GET":
                    send(writer, {"object": "list", "data": []})
                    continue
                await self._answer(path, json.loads(raw), reader, writer)
        writer.close()

    async def _answer(self, path, body, reader, writer):
        asked = Asked(path, body)
        truth = self.truths.setdefault(asked.model, Truth())
        truth.requests += 1
        truth.prompt += asked.prompt
        await asyncio.sleep(asked.read_ms / 1000)
        if asked.stream:
            await self._stream(asked, truth, reader, writer)
            return
        for _ in range(0, asked.total, CHUNK_TOKENS * 4):
            await asyncio.sleep(GAP_S)
            if gone(reader, writer):
                raise ConnectionResetError
            truth.output += min(CHUNK_TOKENS * 4, asked.total - asked.made)
            asked.made += min(CHUNK_TOKENS * 4, asked.total - asked.made)
        send(writer, asked.whole())
        await writer.drain()

    async def _stream(self, asked, truth, reader, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        event(writer, *asked.begin())
        hidden = asked.hidden
        while asked.made < asked.total:
            await asyncio.sleep(GAP_S)
            if gone(reader, writer):
                raise ConnectionResetError
            # What does not show is made faster than it could be read.
            count = (
                min(500, hidden - asked.made)
                if asked.made < hidden
                else min(asked.step, asked.total - asked.made)
            )
            asked.made += count
            truth.output += count
            if asked.made > hidden:
                event(writer, *asked.piece(count))
                await writer.drain()
        event(writer, *asked.finish())
        await writer.drain()
        await asyncio.sleep(REST_S)
        event(writer, *asked.report())
        writer.write(b"0\r\n\r\n")
        await writer.drain()


class Asked:
    """A request as the upstream understands it, and its answer in the protocol of its path."""

    def __init__(self, path, body):
        self.messages = path.endswith("/messages")
        self.model, self.stream = body["model"], bool(body.get("stream"))
        text, media = words(body["messages"])
        self.prompt = len(text.split()) + media * MEDIUM_TOKENS
        told = {name: int(count) for name, count in TOLD.findall(text[:200])}
        self.read_ms = told.get("read", 0)
        self.choices = body.get("n") or body.get("best_of") or 1
        maximum = next((body[name] for name in reversed(MAXIMA) if body.get(name)), MAXIMUM)
        self.calls = told.get("call", 0) if body.get("tools") else 0
        self.step = CALL_TOKENS if self.calls else CHUNK_TOKENS
        thought = told.get("think", 0) if body.get("thinking") else 0
        said = self.calls * CALL_TOKENS if self.calls else told.get("say", 20)
        self.hidden = min(maximum, thought)
        self.total = min(maximum, thought + said) * self.choices
        self.made = 0
        options = body.get("stream_options") or {}
        self.reports, self.reports_all = options.get("include_usage"), options.get("continuous_usage_stats")

    def usage(self):
        if self.messages:
            return {"input_tokens": self.prompt, "output_tokens": self.made}
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.made,
            "total_tokens": self.prompt + self.made,
        }

    def chunk(self, delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        made = {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": [choice],
        }
        return made | ({"usage": self.usage()} if self.reports_all else {})

    def begin(self):
        if not self.messages:
            return [self.chunk({"role": "assistant", "content": ""})]
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.model,
            "usage": self.usage(),
        }
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]

    def call(self):
        return {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_an_entry_with_all_its_revisions", "arguments": "{}"},
        }

    def piece(self, count):
        if self.messages:
            return [
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": TOKEN * count},
                }
            ]
        if self.calls:
            whole = self.made // CALL_TOKENS - (self.made - count) // CALL_TOKENS
            return [self.chunk({"tool_calls": [{"index": self.made // CALL_TOKENS} | self.call()]})] * whole
        return [self.chunk({"content": TOKEN * count})]

    def finish(self):
        return [{"type": "content_block_stop", "index": 0}] if self.messages else [self.chunk({}, "stop")]

    def report(self):
        if self.messages:
            delta = {"stop_reason": "end_turn", "stop_sequence": None}
            return [
                {"type": "message_delta", "delta": delta, "usage": self.usage()},
                {"type": "message_stop"},
            ]
        last = {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": [],
            "usage": self.usage(),
        }
        return [*([last] if self.reports else []), "[DONE]"]

    def whole(self):
        shown = TOKEN * ((self.made - self.hidden) // self.choices)
        if self.messages:
            return {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": [{"type": "text", "text": shown}],
                    "stop_reason": "end_turn", "stop_sequence": None, "usage": self.usage()}  # fmt: skip
        message = (
            {"role": "assistant", "content": None, "tool_calls": [self.call()] * self.calls}
            if self.calls
            else {"role": "assistant", "content": shown}
        )
        choices = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(self.choices)]
        return {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": choices,
            "usage": self.usage(),
        }


def words(messages):
    """(text, count of media) of a prompt."""
    texts, media = [], 0
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                media += 1
    return " ".join(texts), media


def gone(reader, writer):
    return reader.at_eof() or writer.transport.is_closing()


def event(writer, *made):
    for each in made:
        name = f"event: {each['type']}\n" if isinstance(each, dict) and "type" in each else ""
        text = each if isinstance(each, str) else json.dumps(each, separators=(",", ":"))
        data = f"{name}data: {text}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def send(writer, made, status=200):
    writer.write(sized(status, [("content-type", "application/json")], json.dumps(made).encode()))


def write_tokenizer(folder):
    """A tokenizer that counts words between blanks, as Hugging Face's library reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
