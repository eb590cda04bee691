"""An upstream that answers as the vendors do, in whole event sequences: for clients that read every field of them."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.edge.answers import CREATED_S, TEXT, Said, Used, chat, messages, responses
from tests.edge.honest import event, send
from tests.edge.stub import read_request

PLAIN = Said()
PROMPT, OUTPUT = PLAIN.used.input, PLAIN.used.output
# A file that lies in an agent's folder, and a word in it that only a tool of the agent's can have read.
TOLD_FILE, TOLD_WORD = "told.txt", "qopqop"
READ = f"cat {TOLD_FILE}"
# The tools by which agents run a command, with the arguments that read the file.
SHELLS = {
    "Bash": {"command": READ, "description": "Read the file"},  # Claude Code
    "bash": {"command": READ, "description": "Read the file"},  # opencode
    "run_shell_command": {"command": READ, "is_background": False, "description": "Read the file"},  # Qwen Code
    "exec_command": {"cmd": READ},  # Codex
    "run_commands": {"commands": [READ]},  # Cline
    "exec": {"command": READ},  # OpenClaw
}  # fmt: skip


def plain(body):
    return PLAIN


def asks_for_a_tool(body):
    """A vendor whose model reads the file by the agent's own tool, and then ends with the text."""
    names = {tool.get("name") or (tool.get("function") or {}).get("name") for tool in body.get("tools") or []}
    shell = next((name for name in SHELLS if name in names), None)
    used = Used(fresh=31, cached=16, written=5, text=7, reasoning=4)
    if shell is None or has_result(body):
        return Said(reasoning="I have it.", used=used)
    return Said("Let me see.", "I need the file.", (shell, SHELLS[shell]), used)


def used_by(protocol, used):
    """What is charged of what a vendor says in this protocol, by class: messages have no class for reasoning."""
    told = {"fresh_input": used.fresh, "cached_input": used.cached, "cache_write": used.written}
    if protocol == "messages":
        told |= {"output": used.output}
    else:
        told |= {"output": used.text, "reasoning": used.reasoning}
    return {name: count for name, count in told.items() if count}


def has_result(body):
    turns = body.get("messages") or body.get("input") or []
    return any(
        turn.get("role") == "tool"
        or turn.get("type") in {"function_call_output", "custom_tool_call_output"}
        or any(part.get("type") == "tool_result" for part in parts(turn))
        for turn in turns
        if isinstance(turn, dict)
    )


def parts(turn):
    content = turn.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


@dataclass
class Vendor:
    """`seen`: (method, path, headers, body) of every request; `says` makes of a body what is answered."""

    says: Callable = plain
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
                if self.control(path, body, writer):
                    continue
                if "model" not in body:  # asked what it speaks
                    send(
                        writer,
                        {"error": {"message": "model is missing", "type": "invalid_request_error"}},
                        400,
                    )
                    continue
                self.seen.append((method, path, headers, body))
                plain_path = path.partition("?")[0]
                protocol = next((name for name in PROTOCOLS if name in plain_path), None)
                self.answer(plain_path, protocol, body, writer)
                await writer.drain()
        writer.close()

    def control(self, path, body, writer):
        """True if a request is no model's, and is answered."""
        return False

    def answer(self, path, protocol, body, writer):
        if path.endswith("/count_tokens"):
            send(writer, {"input_tokens": PROMPT})
            return
        whole, events = PROTOCOLS[protocol](body["model"], self.says(body))
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


def completions(model, said):
    used = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}
    frame = {"id": "cmpl-1", "object": "text_completion", "created": CREATED_S, "model": model}
    choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    return frame | {"choices": [choice], "usage": used}, [
        frame | {"choices": [choice]},
        frame | {"choices": [], "usage": used},
        "[DONE]",
    ]


def embeddings(model, said):
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT},
    }, []


PROTOCOLS = {
    "chat": chat,
    "messages": messages,
    "responses": responses,
    "completions": completions,
    "embeddings": embeddings,
}
