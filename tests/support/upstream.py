"""An upstream that keeps its own count: an independent witness for sums, and a source of every kind of trouble.

It speaks chat, completions, embeddings, messages and responses. What it does is told by a JSON object in the request's
`user` field (messages: `metadata.user_id`): tokens, gap_ms, prompt, cached, reasoning, fail, status, cut_after,
no_usage, no_done, pad, finish, linger_ms, think (reasoning before the text), call ([name, arguments] of a tool call after
it), hold_after (until `GET /release`); `GET /behave?{…}` tells it of all requests. Run: python -m tests.support.upstream PORT
"""

import asyncio
import json
import sys
from urllib.parse import unquote

import httptools
import uvloop


class State:
    def __init__(self):
        self.number = 0
        self.complete = {}  # id -> usage, for what was sent to its end
        self.started = {}  # id -> [tokens produced so far, prompt]
        self.requests = 0
        self.bodies = []
        self.heads = []
        self.open = 0
        self.behave = {}  # told to all of them, over what a request is told
        self.released = asyncio.Event()


class Server(asyncio.Protocol):
    def __init__(self, state):
        self.state = state
        self.transport = None
        self.task = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._reset()

    def _reset(self):
        self.headers = {}
        self.on_header = self.headers.__setitem__
        self.body = []
        self.on_body = self.body.append
        self.url = b""
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url):
        self.url += url

    def connection_made(self, transport):
        self.transport = transport
        self.state.open += 1

    def pause_writing(self):
        """Its caller does not read: nothing more is made until it does."""
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def connection_lost(self, exc):
        self.state.open -= 1
        if self.task is not None:
            self.task.cancel()

    def eof_received(self):
        """As engines do: nothing is made for a caller that has closed its side."""
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_message_complete(self):
        self.task = asyncio.ensure_future(
            self.answer(self.parser.get_method().decode(), self.url.decode(), b"".join(self.body))
        )

    def send(self, body, status=200, kind="application/json", more=""):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.transport.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self._reset()

    async def answer(self, method, url, body):
        state = self.state
        if url == "/count":
            self.send(
                {
                    "complete": state.complete,
                    "started": state.started,
                    "requests": state.requests,
                    "open": state.open,
                }
            )
            return
        if url == "/last":
            self.send({"bodies": state.bodies[-5:], "heads": state.heads[-5:]})
            return
        if url == "/release":
            state.released.set()
            state.released = asyncio.Event()
            self.send({})
            return
        if url.startswith("/behave"):
            state.behave = json.loads(unquote(url.partition("?")[2]) or "{}")
            self.send(state.behave)
            return
        if url.endswith("/models"):
            if state.behave.get("fail") == "hang":
                await asyncio.sleep(3600)
            self.send({"object": "list", "data": [{"id": "stub"}]})
            return
        if url.startswith("/v1/messages/count_tokens"):
            self.send({"input_tokens": 7})
            return
        if url.startswith("/v1/responses/input_tokens"):
            self.send({"object": "response.input_tokens", "input_tokens": 8})
            return
        state.requests += 1
        try:
            request = json.loads(body)
        except ValueError:
            self.send({"error": {"message": "bad json"}}, 400)
            return
        state.bodies.append(request)
        state.heads.append({k.decode(): v.decode() for k, v in self.headers.items()} | {":path": url})
        if "model" not in request:
            self.send({"error": {"message": "model is missing", "type": "invalid_request_error"}}, 400)
            return
        told = (
            request.get("user")
            or (request.get("metadata") or {}).get("user_id")
            or (request.get("metadata") or {}).get("told")
            or "{}"
        )
        told = (json.loads(told) if told.startswith("{") else {}) | state.behave
        if told.get("every") and state.requests % told["every"]:
            told = {name: value for name, value in told.items() if name not in state.behave}
        path = url.partition("?")[0]
        if told.get("status"):
            await asyncio.sleep(told.get("wait_ms", 0) / 1000)
            self.send({"error": {"message": "told to"}}, told["status"], more=told.get("more", ""))
            return
        if told.get("fail") == "close":
            self.transport.abort()
            return
        if told.get("fail") == "hang":
            await asyncio.sleep(3600)
        if told.get("fail") == "long":
            # It says more than it sends.
            self.transport.write(
                b'HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"id": "x", "choices": ['
            )
            self.transport.close()
            return
        if told.get("fail") == "short":
            # It sends more than it says.
            body = (
                b'{"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "tok"}}]}'
            )
            self.transport.write(
                b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n" + body
            )
            self._reset()
            return
        if told.get("fail") == "garbage":
            self.transport.write(b"\x00\x01garbage\r\n\r\n")
            return
        state.number += 1
        limit = (
            request.get("max_completion_tokens")
            or request.get("max_tokens")
            or request.get("max_output_tokens")
            or 16
        )
        tokens = min(told.get("tokens", 5), limit)
        prompt = told.get("prompt", 11)
        wait = told.get("wait_ms", 0) / 1000
        if wait:
            await asyncio.sleep(wait)
        protocol = {
            "/v1/chat/completions": Chat, "/v1/completions": Completions, "/v1/messages": Messages, "/v1/responses": Responses,
            "/v1/embeddings": Embeddings,
        }[path](f"up-{state.number}-{id(state) % 997}", prompt, told, pad=told.get("pad", 0))  # fmt: skip
        state.started[protocol.id] = [0, prompt]
        if not request.get("stream"):
            state.started[protocol.id][0] = tokens
            self.send(protocol.whole(tokens))
            state.complete[protocol.id] = protocol.usage(tokens)
            return
        wants = protocol.always_usage or (request.get("stream_options") or {}).get("include_usage")
        await self.stream(protocol, tokens, told, wants and not told.get("no_usage"))

    async def stream(self, protocol, tokens, told, usage):
        state = self.state
        gap = told.get("gap_ms", 0) / 1000
        out = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        first = protocol.begin()
        out += b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        for at in range(tokens):
            if told.get("cut_after") == at:
                self.transport.write(out)
                await asyncio.sleep(0)
                self.transport.close()
                return
            if told.get("stall_after") == at:
                self.transport.write(out)
                await asyncio.sleep(3600)
            if told.get("hold_after") == at:
                self.transport.write(out)
                out = b""
                await state.released.wait()
            event = protocol.token(at)
            out += b"%x\r\n%b\r\n" % (len(event), event)
            state.started[protocol.id][0] = at + 1
            if gap:
                self.transport.write(out)
                out = b""
                await asyncio.sleep(gap)
                await self.writable.wait()
        end = protocol.end(tokens, usage, done=not told.get("no_done"))
        out += b"%x\r\n%b\r\n" % (len(end), end) if end else b""
        if told.get("linger_ms"):
            self.transport.write(out)
            out = b""
            await asyncio.sleep(told["linger_ms"] / 1000)
        self.transport.write(out + b"0\r\n\r\n")
        state.complete[protocol.id] = protocol.usage(tokens)
        self._reset()


class Base:
    always_usage = False

    def __init__(self, id_, prompt, told, pad):
        self.id = id_
        self.prompt = prompt
        self.told = told
        self.text = "x" * pad + "tok "

    def begin(self):
        return b""


def sse(content, event=None):
    return (
        (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(content).encode() + b"\n\n"
    )


class Chat(Base):
    def usage(self, tokens):
        told = self.told
        usage = {
            "prompt_tokens": self.prompt,
            "completion_tokens": tokens,
            "total_tokens": self.prompt + tokens,
        }
        if "cached" in told:
            usage["prompt_tokens_details"] = {"cached_tokens": told["cached"]}
        if "reasoning" in told:
            usage["completion_tokens_details"] = {"reasoning_tokens": told["reasoning"]}
        return usage | told.get("usage", {})

    def whole(self, tokens):
        body = {
            "id": self.id, "object": "chat.completion", "created": 1, "model": "stub",
            "choices": [{"index": 0, "finish_reason": self.told.get("finish", "stop"), "message": {"role": "assistant", "content": self.text * tokens}}],
        }  # fmt: skip
        message = body["choices"][0]["message"]
        if "think" in self.told:
            message["reasoning_content"] = self.told["think"]
        if "call" in self.told:
            message["tool_calls"] = [self.tool_call()]
            body["choices"][0]["finish_reason"] = "tool_calls"
        return body if self.told.get("no_usage") else body | {"usage": self.usage(tokens)}

    def tool_call(self):
        name, arguments = self.told["call"]
        return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}

    def chunk(self, choices, **more):
        return sse(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "stub",
                "choices": choices,
            }
            | more
        )

    def begin(self):
        first = {"role": "assistant", "content": ""}
        if "think" in self.told:
            first["reasoning_content"] = self.told["think"]
        return self.chunk([{"index": 0, "delta": first, "finish_reason": None}])

    def token(self, at):
        return self.chunk([{"index": 0, "delta": {"content": self.text}, "finish_reason": None}])

    def end(self, tokens, usage, done):
        out, finish = b"", self.told.get("finish", "stop")
        if "call" in self.told:
            out, finish = self.calls(), "tool_calls"
        out += self.chunk([{"index": 0, "delta": {}, "finish_reason": finish}])
        if usage:
            out += self.chunk([], usage=self.usage(tokens))
        return out + (b"data: [DONE]\n\n" if done else b"")

    def calls(self):
        """A tool call in two pieces: its name, then its arguments."""
        call, out = self.tool_call() | {"index": 0}, b""
        arguments = call["function"].pop("arguments")
        for piece in (call, {"index": 0, "function": {"arguments": arguments}}):
            out += self.chunk([{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}])
        return out


class Completions(Chat):
    def whole(self, tokens):
        return {"id": self.id, "object": "text_completion", "created": 1, "model": "stub",
                "choices": [{"index": 0, "text": self.text * tokens, "finish_reason": "stop", "logprobs": None}], "usage": self.usage(tokens)}  # fmt: skip

    def begin(self):
        return b""

    def token(self, at):
        return self.chunk([{"index": 0, "text": self.text, "finish_reason": None}])

    def end(self, tokens, usage, done):
        more = {"usage": self.usage(tokens)} if usage else {}
        return self.chunk([{"index": 0, "text": "", "finish_reason": "stop"}], **more) + (
            b"data: [DONE]\n\n" if done else b""
        )


class Embeddings(Base):
    def usage(self, tokens):
        return {"prompt_tokens": self.prompt, "total_tokens": self.prompt}

    def whole(self, tokens):
        return {"object": "list", "model": "stub", "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}],
                "usage": self.usage(tokens)}  # fmt: skip


class Messages(Base):
    always_usage = True

    def usage(self, tokens):
        return {
            "input_tokens": self.prompt, "output_tokens": tokens,
            "cache_read_input_tokens": self.told.get("cached", 0), "cache_creation_input_tokens": self.told.get("written", 0),
        }  # fmt: skip

    def message(self, content, stop, usage):
        return {"id": self.id, "type": "message", "role": "assistant", "model": "stub", "content": content, "stop_reason": stop,
                "stop_sequence": None, "usage": usage}  # fmt: skip

    def whole(self, tokens):
        content = [{"type": "text", "text": self.text * tokens}]
        if "think" in self.told:
            content.insert(0, {"type": "thinking", "thinking": self.told["think"], "signature": "c2ln"})
        if "call" in self.told:
            name, arguments = self.told["call"]
            content.append({"type": "tool_use", "id": "call_1", "name": name, "input": json.loads(arguments)})
        return self.message(content, self.stop_reason(), self.usage(tokens))

    def stop_reason(self):
        return "tool_use" if "call" in self.told else "end_turn"

    def block(self, at, block, *deltas):
        """A content block with its deltas."""
        out = sse({"type": "content_block_start", "index": at, "content_block": block}, "content_block_start")
        for delta in deltas:
            out += sse({"type": "content_block_delta", "index": at, "delta": delta}, "content_block_delta")
        return out

    def begin(self):
        out = sse(
            {"type": "message_start", "message": self.message([], None, self.usage(1))}, "message_start"
        )
        self.at = 0
        if "think" in self.told:
            out += self.block(
                0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": self.told["think"]},
                {"type": "signature_delta", "signature": "c2ln"},
            ) + sse({"type": "content_block_stop", "index": 0}, "content_block_stop")  # fmt: skip
            self.at = 1
        return out + self.block(self.at, {"type": "text", "text": ""})

    def token(self, at):
        return sse(
            {
                "type": "content_block_delta",
                "index": self.at,
                "delta": {"type": "text_delta", "text": self.text},
            },
            "content_block_delta",
        )

    def end(self, tokens, usage, done):
        call = b""
        if "call" in self.told:
            name, arguments = self.told["call"]
            call = self.block(
                self.at + 1, {"type": "tool_use", "id": "call_1", "name": name, "input": {}},
                {"type": "input_json_delta", "partial_json": arguments},
            ) + sse({"type": "content_block_stop", "index": self.at + 1}, "content_block_stop")  # fmt: skip
        return (
            sse({"type": "content_block_stop", "index": self.at}, "content_block_stop")
            + call
            + sse(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": self.stop_reason(), "stop_sequence": None},
                    "usage": {"output_tokens": tokens},
                },
                "message_delta",
            )
            + (sse({"type": "message_stop"}, "message_stop") if done else b"")
        )


class Responses(Base):
    always_usage = True

    def usage(self, tokens):
        return {"input_tokens": self.prompt, "output_tokens": tokens, "total_tokens": self.prompt + tokens,
                "input_tokens_details": {"cached_tokens": self.told.get("cached", 0)},
                "output_tokens_details": {"reasoning_tokens": self.told.get("reasoning", 0)}}  # fmt: skip

    def response(self, status, text, usage):
        output = []
        if text and "think" in self.told:
            output.append({"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": self.told["think"]}]})  # fmt: skip
        if text:
            output.append(self.message("completed", text))
        if text and "call" in self.told:
            output.append(self.call("completed"))
        return {"id": self.id, "object": "response", "created_at": 1, "status": status, "model": "stub", "output": output,
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage}  # fmt: skip

    def message(self, status, text):
        content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
        return {"id": "msg", "type": "message", "role": "assistant", "status": status, "content": content}

    def call(self, status, done=True):
        name, arguments = self.told["call"]
        return {"id": "fc", "type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments if done else "", "status": status}  # fmt: skip

    def event(self, kind, **fields):
        self.number += 1
        return sse({"type": f"response.{kind}", "sequence_number": self.number} | fields, f"response.{kind}")

    def whole(self, tokens):
        return self.response("completed", self.text * tokens, self.usage(tokens))

    def begin(self):
        self.number, self.at = -1, 0
        out = self.event("created", response=self.response("in_progress", "", None))
        if "think" in self.told:
            item = {"type": "reasoning", "id": "rs", "summary": []}
            out += self.event("output_item.added", output_index=0, item=item)
            out += self.event("reasoning_text.delta", output_index=0, item_id="rs", content_index=0, delta=self.told["think"])  # fmt: skip
            whole = item | {"content": [{"type": "reasoning_text", "text": self.told["think"]}]}
            out += self.event("output_item.done", output_index=0, item=whole)
            self.at = 1
        return out + self.event("output_item.added", output_index=self.at, item=self.message("in_progress", ""))  # fmt: skip

    def token(self, at):
        return self.event("output_text.delta", item_id="msg", output_index=self.at, content_index=0, delta=self.text, logprobs=[])  # fmt: skip

    def end(self, tokens, usage, done):
        text = self.text * tokens
        out = self.event("output_text.done", item_id="msg", output_index=self.at, content_index=0, text=text, logprobs=[])  # fmt: skip
        out += self.event("output_item.done", output_index=self.at, item=self.message("completed", text))
        if "call" in self.told:
            at, arguments = self.at + 1, self.told["call"][1]
            out += self.event("output_item.added", output_index=at, item=self.call("in_progress", done=False))
            out += self.event("function_call_arguments.delta", output_index=at, item_id="fc", delta=arguments)
            out += self.event("function_call_arguments.done", output_index=at, item_id="fc", arguments=arguments)  # fmt: skip
            out += self.event("output_item.done", output_index=at, item=self.call("completed"))
        return out + self.event("completed", response=self.response("completed", text, self.usage(tokens)))


async def main(port):
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Server(state), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
