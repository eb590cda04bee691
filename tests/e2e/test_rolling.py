"""Hosts that are restarted one after the other behind a load balancer that reads `/readyz`: no client sees an error."""

import asyncio
import contextlib
import itertools
import json
import signal
import socket

from tests.e2e.test_concurrency import _stream
from tests.e2e.test_hosts import two_hosts
from tests.support.server import until

__all__ = ["two_hosts"]

CLIENTS = 20
LOOK_S = 0.05


class Balancer:
    """Takes connections to those hosts in turn whose `/readyz` said 200 when it was looked at last."""

    def __init__(self, ports):
        self.host, self.port = "127.0.0.1", 0
        self._ports = ports
        self._ready = dict.fromkeys(ports, False)
        self._turns = itertools.count()
        self.taken = dict.fromkeys(ports, 0)

    async def __aenter__(self):
        self._looking = [asyncio.create_task(self._look(port)) for port in self._ports]
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        for task in self._looking:
            task.cancel()
        self._server.close()

    async def ready(self, port, want=True):
        while self._ready[port] is not want:
            await asyncio.sleep(LOOK_S)

    async def _look(self, port):
        while True:
            self._ready[port] = await self._is_ready(port)
            await asyncio.sleep(LOOK_S)

    async def _is_ready(self, port):
        try:
            reader, writer = await asyncio.open_connection(self.host, port)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            said = await reader.read()
            writer.close()
        except OSError:
            return False
        return said.startswith(b"HTTP/1.1 200")

    async def _serve(self, reader, writer):
        ready = [port for port in self._ports if self._ready[port]]
        port = ready[next(self._turns) % len(ready)]
        self.taken[port] += 1
        up_reader, up_writer = await asyncio.open_connection(self.host, port)
        await asyncio.gather(self._pipe(reader, up_writer), self._pipe(up_reader, writer))

    @staticmethod
    async def _pipe(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.close()


async def keep_asking(balancer, key, enough):
    """Streams one after the other until it is enough: how many there were."""
    told, count = {"tokens": 12, "prompt": 5, "gap_ms": 20}, 0
    while not enough.is_set():
        status, data = await _stream(balancer, key, told, 50)
        assert status == 200 and data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), (status, data[-300:])
        count += 1
    return count


def test_no_client_sees_that_hosts_are_restarted(two_hosts):
    hosts = list(two_hosts)
    for host in hosts:
        host.env["TOKENWORKS_DRAIN_GRACE_S"] = "2"
        host.stop()
        host.start()
        until(lambda host=host: host.metrics("deployments") == [1.0], what="deployments")
    subscriber, key = hosts[0].subscriber()

    async def run():
        ports = [host.port for host in hosts]
        async with Balancer(ports) as balancer:
            for port in ports:
                await balancer.ready(port)
            enough = asyncio.Event()
            clients = [asyncio.create_task(keep_asking(balancer, key, enough)) for _ in range(CLIENTS)]
            for host, port in zip(hosts, ports, strict=True):
                before = balancer.taken[port]
                host.process.send_signal(signal.SIGTERM)
                await balancer.ready(port, want=False)
                await asyncio.to_thread(host.stop)
                await asyncio.to_thread(host.start, f"127.0.0.1:{port}")
                await balancer.ready(port)
                while balancer.taken[port] == before:
                    await asyncio.sleep(LOOK_S)
            enough.set()
            return sum(await asyncio.gather(*clients))

    count = asyncio.run(run())
    assert count > CLIENTS
    records = hosts[0].usage(subscriber, min(count, 1000))
    assert {record["output"] for record in records} == {12}


def test_a_host_that_leaves_is_not_ready_serves_and_then_refuses_connections(two_hosts):
    host, _ = two_hosts
    host.env["TOKENWORKS_DRAIN_GRACE_S"] = "600"
    host.stop()
    host.start()
    until(lambda: host.metrics("deployments") == [1.0], what="deployments")
    _, key = host.subscriber()
    host.process.send_signal(signal.SIGTERM)
    until(lambda: not host.ready(), what="the admin port to say so")
    assert host.get("/readyz")[0] == 503
    status, _, headers = host.chat(key, {"tokens": 3, "prompt": 5})
    assert status == 200 and headers["connection"] == "close", "its clients are asked to go elsewhere"
    # A stream runs on beyond the end of the grace, which a second signal brings.
    told = json.dumps({"tokens": 60, "prompt": 5, "gap_ms": 50})
    body = json.dumps({
        "model": "stub", "stream": True, "max_tokens": 90, "user": told, "messages": [{"role": "user", "content": "hi"}],
    }).encode()  # fmt: skip
    sock = host.open()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), len(body), body)
    )
    first = sock.recv(4096)
    assert first.startswith(b"HTTP/1.1 200")
    host.process.send_signal(signal.SIGTERM)

    def refused():
        try:
            socket.create_connection((host.host, host.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, what="connections to be refused")
    data = first
    while more := sock.recv(65536):
        data += more
    sock.close()
    assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    host.stop()
