"""Clients that stream one answer after the other through a balancer in front of the hosts, and what each of them saw."""

import asyncio
import contextlib
import itertools
import json
import random
import re
import ssl
import threading
import time
from collections import Counter
from typing import NamedTuple

from tests.support.server import until

LOOK_S = 0.05
LOOK_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 120.0
PAUSE_S = 0.02
OK = "ok"
# A connection that ended before its answer did, or before it began; where no host took it, too.
BROKEN = "broken"
CHUNKED_END = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """`code`: ok, broken, or the code of the refusal or of the error event in the stream."""

    client: int
    status: int
    code: str
    began_s: float
    ended_s: float
    request_id: str
    upstream_id: str
    told: int
    retry_after: bool


def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Balancer:
    """Passes connections on to the hosts in turn whose `/readyz` said 200 when it was looked at last; where none did, to any that is
    there, as balancers do that would rather try than refuse. One that refuses the connection is passed over.
    """

    def __init__(self):
        self.host, self.port = "127.0.0.1", 0
        self.ready, self.open = {}, Counter()
        self._tasks, self._out = {}, set()
        self._turns = itertools.count()
        self._tls = tls()
        self._pipes = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        for task in (*self._tasks.values(), *self._pipes):
            task.cancel()
        self._server.close()
        await asyncio.gather(*self._tasks.values(), *self._pipes, return_exceptions=True)

    def add(self, port):
        self.ready[port] = False
        self._tasks[port] = asyncio.create_task(self._look(port))

    def drop(self, port):
        self._tasks.pop(port).cancel()
        del self.ready[port]

    def out(self, port):
        self._out.add(port)

    def back(self, port):
        self._out.discard(port)

    async def _look(self, port):
        while True:
            try:
                self.ready[port] = await asyncio.wait_for(self._is_ready(port), LOOK_TIMEOUT_S)
            except (OSError, TimeoutError):
                self.ready[port] = False
            await asyncio.sleep(LOOK_S)

    async def _is_ready(self, port):
        reader, writer = await asyncio.open_connection(self.host, port, ssl=self._tls)
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return (await reader.readline()).startswith(b"HTTP/1.1 200")
        finally:
            writer.transport.abort()

    def _candidates(self):
        inside = [port for port in self.ready if port not in self._out]
        ready = [port for port in inside if self.ready[port]]
        turn = next(self._turns)
        ready = ready[turn % len(ready) :] + ready[: turn % len(ready)] if ready else []
        return ready + [port for port in inside if port not in ready]

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._pipes.add(task)
        try:
            await self._pass_on(reader, writer)
        finally:
            self._pipes.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() == 0 else writer.close()

    async def _pass_on(self, reader, writer):
        for port in self._candidates():
            try:
                up_reader, up_writer = await asyncio.open_connection(self.host, port)
            except OSError:
                continue
            self.open[port] += 1
            try:
                await asyncio.gather(self._pipe(reader, up_writer), self._pipe(up_reader, writer))
            finally:
                self.open[port] -= 1
            return

    @staticmethod
    async def _pipe(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


class Traffic:
    """The clients and the balancer, in a thread with a loop of their own."""

    def __init__(self, keys, seed):
        self.keys, self.answers = list(keys), []
        self.balancer = Balancer()
        self._seed, self._tls = seed, tls()
        self._enough = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._running = []

    def __enter__(self):
        self._thread.start()
        self._call(self.balancer.start())
        return self

    def __exit__(self, *_):
        self.end()
        self._call(self.balancer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine, timeout_s=180.0):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _soon(self, call, *args):
        async def run():
            return call(*args)

        return self._call(run())

    def add(self, host):
        self._soon(self.balancer.add, host.port)

    def drop(self, host):
        self._soon(self.balancer.drop, host.port)

    def sees(self, host, ready=True):
        """Wait until the balancer has seen that a host is ready, or is not."""
        until(
            lambda: self.balancer.ready[host.port] is ready, 90, what=f"the balancer to see host {host.name}"
        )

    @contextlib.contextmanager
    def without(self, host):
        """The host is out of the balancer, and has finished what it had."""
        self._soon(self.balancer.out, host.port)
        try:
            until(lambda: not self.balancer.open[host.port], 120, what=f"host {host.name} to finish")
            yield
            self.sees(host)
        finally:
            self._soon(self.balancer.back, host.port)

    def begin(self, clients):
        async def begin():
            self._running += [asyncio.create_task(self._client(number)) for number in range(clients)]

        self.clients = clients
        self._call(begin())

    def end(self):
        """Ask nothing more, and wait for what was asked."""
        self._enough.set()

        async def wait():
            await asyncio.gather(*self._running)

        self._call(wait())
        self._running = []

    async def _client(self, number):
        rng = random.Random(f"{self._seed}/{number}")
        while not self._enough.is_set():
            answer = await self._ask(number, rng)
            self.answers.append(answer)
            await asyncio.sleep(PAUSE_S if answer.code == OK else 5 * PAUSE_S)

    async def _ask(self, number, rng):
        tokens = rng.randrange(2, 24)
        # No fewer than the least that an input of this length can have: of a broken stream that is charged.
        told = {"tokens": tokens, "prompt": rng.randrange(12, 60), "gap_ms": rng.choice((5, 10, 20))}
        body = json.dumps({
            "model": "stub", "stream": True, "max_tokens": 50, "user": json.dumps(told), "messages": [{"role": "user", "content": "hi"}],
        }).encode()  # fmt: skip
        key = self.keys[number % len(self.keys)]
        began_s, data = time.monotonic(), b""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    self.balancer.host, self.balancer.port, ssl=self._tls
                )
                try:
                    writer.write(
                        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
                        b"content-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
                    )
                    while piece := await reader.read(65536):
                        data += piece
                finally:
                    writer.transport.abort()
        except TimeoutError:
            status, code = 0, f"nothing within {ANSWER_TIMEOUT_S:g} s"
        except (OSError, EOFError):
            status, code = self._said(data, tokens)
        else:
            status, code = self._said(data, tokens)
        return Answer(
            number, status, code, began_s, time.monotonic(), _first(rb"x-request-id: (\w+)", data),
            _first(rb'"id": ?"([^"]+)"', data), tokens, b"\r\nretry-after: " in data,
        )  # fmt: skip

    @staticmethod
    def _said(data, tokens):
        if not data:
            return 0, BROKEN
        status = int(data[9:12])
        head, _, body = data.partition(b"\r\n\r\n")
        if status != 200:
            lengths = re.findall(rb"content-length: (\d+)", head)
            if not lengths or len(body) < int(lengths[0]):
                return status, BROKEN
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return status, json.loads(body)["error"]["code"]
            return status, "no error body"
        error = re.search(rb'data: \{"error": ?(\{.*?\})', body)
        if error is not None:
            return status, json.loads(error[1])["code"]
        if not data.endswith(CHUNKED_END) or b"data: [DONE]" not in body:
            return status, BROKEN
        shown = body.count(b"tok ")
        return status, OK if shown == tokens else f"{shown} tokens of {tokens}"

    def more(self, count, since_s=None, timeout_s=180.0):
        """Wait until every client has had so many more good answers that began after this moment."""
        since_s = time.monotonic() if since_s is None else since_s

        def enough():
            by = Counter(a.client for a in self.answers if a.code == OK and a.began_s >= since_s)
            return all(by[client] >= count for client in range(self.clients))

        until(enough, timeout_s, what=f"{count} good answers of each client")


def _first(pattern, data):
    found = re.search(pattern, data)
    return "" if found is None else found[1].decode()
