"""A lean upstream for benchmarks: it answers what it is asked as cheaply as it can, and keeps count.

Streams: chunks at a fixed spacing; how many and how far apart is in the request's `user` field ("tokens,gap_ms"); with
",usage" behind it, each chunk says the usage so far.
Run: python -m bench.upstream [PORT [CERTIFICATE KEY]]
"""

import asyncio
import json
import re
import ssl
import sys

import uvloop

USER = re.compile(rb'"user": ?"(\d+),(\d+)(,usage)?"')
LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
# Four bytes a token, as text has about: a stream whose text is far longer than its maximum would be cut.
CHUNK = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "bench",
    "choices": [{"index": 0, "delta": {"content": "tok "}, "finish_reason": None}],
}
TOKEN = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
TOKEN = b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
count = {"requests": 0, "tokens": 0, "open": 0}


def counted_token(number):
    """A token as engines send it that report usage as they go."""
    usage = b',"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}' % (number, 9 + number)
    event = b"data: " + json.dumps(CHUNK).encode()[:-1] + usage + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def end(tokens):
    usage = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": [],
             "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}}  # fmt: skip
    body = b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n"
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


WHOLE = json.dumps({
    "id": "c-1", "object": "chat.completion", "created": 1, "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "token " * 9}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
}).encode()  # fmt: skip
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(WHOLE),
    WHOLE,
)


class Connection(asyncio.Protocol):
    def __init__(self):
        self.buffer = b""
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer = self.buffer + data if self.buffer else data
        at = self.buffer.find(b"\r\n\r\n")
        if at < 0:
            return
        length = LENGTH.search(self.buffer, 0, at)
        need = at + 4 + (int(length.group(1)) if length else 0)
        if len(self.buffer) < need:
            return
        request, self.buffer = self.buffer[:need], b""
        if request.startswith(b"GET /count"):
            body = json.dumps(count).encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        elif request.startswith(b"GET"):
            self.transport.write(
                b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 28\r\n\r\n{"object":"list","data":[]}\n'
            )
        elif b'"stream":true' in request:
            tokens, gap, counted = USER.search(request).groups()
            tokens, gap = int(tokens), int(gap)
            count["requests"] += 1
            count["open"] += 1
            self.transport.write(STREAM_HEAD)
            self.step(tokens, tokens, gap / 1000, counted is not None)
        elif b'"messages"' in request:
            count["requests"] += 1
            count["tokens"] += 9
            self.transport.write(WHOLE)
        else:
            self.transport.write(
                b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
            )

    def step(self, left, tokens, gap, counted):
        if self.transport.is_closing():
            count["open"] -= 1
            return
        if left:
            self.transport.write(counted_token(tokens - left + 1) if counted else TOKEN)
            asyncio.get_running_loop().call_later(gap, self.step, left - 1, tokens, gap, counted)
        else:
            count["tokens"] += tokens
            count["open"] -= 1
            self.transport.write(end(tokens))


async def main(port, certificate, key):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", port, ssl=context, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(
        main(
            int(sys.argv[1]) if len(sys.argv) > 1 else 0,
            *(sys.argv[2:4] if len(sys.argv) > 3 else (None, None)),
        )
    )
