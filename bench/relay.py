"""The floor: what two sockets cost in this interpreter's event loop, with nothing done to what passes. No HTTP is read.

Run: python -m bench.relay UPSTREAM_PORT PORT
"""

import asyncio
import sys

import uvloop


class Upstream(asyncio.Protocol):
    def __init__(self, client):
        self.client = client
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.client.transport.write(data)

    def connection_lost(self, exc):
        self.client.transport.close()


class Client(asyncio.Protocol):
    def __init__(self, port):
        self.port = port
        self.transport = None
        self.upstream = None
        self.early = []
        self.connecting = None

    def connection_made(self, transport):
        self.transport = transport
        self.connecting = asyncio.ensure_future(self.connect())

    async def connect(self):
        loop = asyncio.get_running_loop()
        _, self.upstream = await loop.create_connection(lambda: Upstream(self), "127.0.0.1", self.port)
        for data in self.early:
            self.upstream.transport.write(data)

    def data_received(self, data):
        if self.upstream is None:
            self.early.append(data)
        else:
            self.upstream.transport.write(data)

    def connection_lost(self, exc):
        if self.upstream is not None:
            self.upstream.transport.close()


async def main(upstream_port, port):
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(upstream_port), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
