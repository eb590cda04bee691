"""The load: closed-loop connections, paced requests, or many open streams; in this process, cheap, on uvloop."""

import asyncio
import re
import time

LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)


def request(key, body, path="/v1/chat/completions"):
    return (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


def plain_body(size):
    head, tail = b'{"model":"bench","max_tokens":16,"messages":[{"role":"user","content":"', b'"}]}'
    return head + b"x " * ((size - len(head) - len(tail)) // 2) + tail


def stream_body(tokens, gap_ms, *, usage_in_every_chunk=False):
    """`usage_in_every_chunk`: the upstream reports as it goes, and the client has not asked for usage."""
    asked = b"" if usage_in_every_chunk else b'"stream_options":{"include_usage":true},'
    told = b"%d,%d,usage" % (tokens, gap_ms) if usage_in_every_chunk else b"%d,%d" % (tokens, gap_ms)
    return (
        b'{"model":"bench","max_tokens":%d,"stream":true,%b"user":"%b","messages":[{"role":"user","content":"hi"}]}'
        % (tokens, asked, told)
    )


class Client(asyncio.Protocol):
    """One connection: sends, waits for the whole answer, calls `done(client)`."""

    def __init__(self, data, done):
        self.data = data
        self.done = done
        self.buffer = b""
        self.sent_s = self.first_s = self.content_s = 0.0
        self.chunks = 0
        self.failed = 0

    def connection_made(self, transport):
        self.transport = transport

    def send(self):
        self.buffer = b""
        self.first_s = self.content_s = 0.0
        self.sent_s = time.perf_counter()
        self.transport.write(self.data)

    def data_received(self, data):
        if not self.first_s:
            self.first_s = time.perf_counter()
            if not data.startswith(b"HTTP/1.1 200"):
                self.failed += 1
        self.buffer = (
            self.buffer + data
            if len(self.buffer) < 4096 or b"chunked" not in self.buffer
            else self.buffer[:512] + self.buffer[-64:] + data
        )
        self.chunks += data.count(b"data: {")
        if not self.content_s and b"data: {" in data:
            self.content_s = time.perf_counter()
        at = self.buffer.find(b"\r\n\r\n")
        if at < 0:
            return
        length = LENGTH.search(self.buffer, 0, at)
        if length:
            if len(self.buffer) >= at + 4 + int(length.group(1)):
                self.done(self)
        elif self.buffer.endswith(b"0\r\n\r\n"):
            self.done(self)

    def connection_lost(self, exc):
        self.failed += 1
        self.done(self)


async def closed_loop(port, data, connections, seconds):
    """(requests, failures) of `connections` that each send again as soon as they are answered."""
    loop = asyncio.get_running_loop()
    state = {"n": 0, "stop": False, "left": connections}
    ended = asyncio.Event()

    def done(client):
        state["n"] += 1
        if state["stop"] or client.transport.is_closing():
            state["left"] -= 1
            client.done = lambda _: None
            if not state["left"]:
                ended.set()
        else:
            client.send()

    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(data, done), "127.0.0.1", port)
        clients.append(client)
    for client in clients:
        client.send()
    await asyncio.sleep(seconds)
    state["stop"] = True
    await asyncio.wait_for(ended.wait(), 30)
    for client in clients:
        client.transport.close()
    return state["n"], sum(client.failed for client in clients)


async def paced(port, data, per_second, seconds):
    """Requests at a fixed rate over a few connections: (first byte, first content, end) in seconds of each, failures."""
    loop = asyncio.get_running_loop()
    free, times, pending = [], [], set()

    def done(client):
        times.append(
            (
                client.first_s - client.sent_s,
                (client.content_s or client.first_s) - client.sent_s,
                time.perf_counter() - client.sent_s,
            )
        )
        pending.discard(client)
        free.append(client)

    clients = []
    for _ in range(16):
        _, client = await loop.create_connection(lambda: Client(data, done), "127.0.0.1", port)
        clients.append(client)
    free.extend(clients)
    began = loop.time()
    for n in range(int(per_second * seconds)):
        await asyncio.sleep(max(0, began + n / per_second - loop.time()))
        while not free:
            await asyncio.sleep(0.001)
        client = free.pop()
        pending.add(client)
        client.send()
    while pending:
        await asyncio.sleep(0.001)
    failed = sum(client.failed for client in clients)
    for client in clients:
        client.done = lambda _: None
        client.transport.close()
    return times, failed


async def streams(port, data, count, on_open=None):
    """`count` streams at once, read to their end: (chunks, failures). `on_open` runs when all have begun."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    left = [count]

    def done(client):
        client.done = lambda _: None
        left[0] -= 1
        if not left[0]:
            ended.set()

    clients = []
    for _ in range(count):
        _, client = await loop.create_connection(lambda: Client(data, done), "127.0.0.1", port)
        clients.append(client)
    for client in clients:
        client.send()
    if on_open is not None:
        while any(not client.first_s for client in clients):
            await asyncio.sleep(0.01)
        on_open()
    await asyncio.wait_for(ended.wait(), 120)
    for client in clients:
        client.transport.close()
    return sum(client.chunks for client in clients), sum(client.failed for client in clients)
