"""A host takes new settings and a new release while clients stream from it without a pause, and none of them hears of it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.test_concurrency import _stream
from tests.support.server import ROOT, Server, StubUpstream, until
from tokenworks import __version__
from tokenworks.app.embedded import Embedded
from tokenworks.app.served import read_reload

CLIENTS = 12
TOLD = {"tokens": 12, "prompt": 5, "gap_ms": 20}
TOO_LARGE = {"messages": [{"role": "user", "content": "x" * 3000}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with (
        StubUpstream() as upstream,
        Server(tmp_path_factory.mktemp("reload"), workers=2) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        server.upstream = upstream
        yield server
        assert server.findings() == []


def configure(server, **settings):
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (server.data_dir / "tokenworks.toml").write_text(text)


def pids(server):
    found = {}
    for name, pid in server.processes():
        found.setdefault(name, set()).add(pid)
    return found


def retired(server):
    """Waits until nothing of before is left."""
    until(lambda: read_reload(server.settings.run_dir).retired == 0, 60, what="the processes of before to end")
    return {name: len(found) for name, found in pids(server).items()}


async def keep_streaming(server, key, enough):
    count = 0
    while not enough.is_set():
        status, data = await _stream(server, key, TOLD, 50)
        assert status == 200 and data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), (status, data[-300:])
        count += 1
    return count


async def keep_asking(server, key, enough):
    """On one connection as long as it lasts, as clients with a pool do."""
    body = json.dumps({
        "model": "stub", "max_tokens": 50, "user": json.dumps({"tokens": 12, "prompt": 5}), "messages": [{"role": "user", "content": "hi"}],
    }).encode()  # fmt: skip
    count, reader, writer = 0, None, None
    while not enough.is_set():
        if writer is None:
            reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (key.encode(), len(body), body)
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        count += 1
        if b"connection: close" in head.lower():
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    return count


async def keep_looking(server, enough):
    """What a load balancer reads, of both ports, and a page of the control plane."""
    seen = set()
    while not enough.is_set():
        for path in ("/readyz", "/api/offerings"):
            status, _, _ = await asyncio.to_thread(server.get, path)
            seen.add((path, status))
        seen.add(("admin", await asyncio.to_thread(server.ready)))
        await asyncio.sleep(0.05)
    return seen


def test_no_client_hears_of_reloads_and_the_new_settings_count(server):
    subscriber, key = server.subscriber("ctc-premium")
    before = pids(server)
    main = server.process.pid

    async def run():
        enough = asyncio.Event()
        looking = asyncio.create_task(keep_looking(server, enough))
        clients = [asyncio.create_task(keep_streaming(server, key, enough)) for _ in range(CLIENTS)]
        clients += [asyncio.create_task(keep_asking(server, key, enough)) for _ in range(3)]
        said = []
        for size in (2048, 4096, 2048):
            configure(server, body_bytes_max=size)
            done = await asyncio.to_thread(server.cli, "reload", process=True)
            said.append(done.stdout)
            status, _, _ = await asyncio.to_thread(server.chat, key, **TOO_LARGE)
            assert status == (200 if size > 3000 else 413), "a request finds the new settings once the command has ended"
        enough.set()
        counts = await asyncio.gather(*clients)
        return said, sum(counts), await looking

    said, count, seen = asyncio.run(run())
    assert all(text.startswith(f"Reloaded: release {__version__} serves") for text in said), said
    assert seen == {("/readyz", 200), ("/api/offerings", 200), ("admin", True)}
    assert count > CLIENTS
    assert retired(server) == {"control": 1, "recorder": 1, "tokenizer": 1, "worker": 2}
    after = pids(server)
    assert not any(before[kind] & after[kind] for kind in before), "every process is another one"
    assert server.process.poll() is None and server.process.pid == main
    assert (server.data_dir / "serve.pid").read_text().strip() == str(main)
    assert len(server.metrics("requests_open")) == 2, "those that are gone are not exported"
    assert server.metrics("reload_failed") == [0.0]
    # Each record once: those of the clients, and the one request that was not too large.
    until(lambda: server.metrics("recorder_unsettled_records") == [0.0], what="settlement")
    settled = "SELECT count(*), count(DISTINCT usage_id) FROM usage WHERE account_id = %s"
    expected = (count + 1, count + 1)
    until(lambda: server.connection.execute(settled, (subscriber.account_id,)).fetchone() == expected,
          what=f"{expected} records")  # fmt: skip
    assert server.findings() == []
    assert "child_silent" not in server.log_text() and "recorder_killed" not in server.log_text()
