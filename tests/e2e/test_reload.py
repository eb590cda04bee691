"""A host takes new settings and a new release while clients stream from it without a pause, and none of them hears of it."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.test_concurrency import _stream
from tests.support.server import ROOT, Server, StubUpstream, until
from tokenworks import __version__
from tokenworks.app.database.schema import SCHEMA
from tokenworks.app.process.served import read_reload

CLIENTS = 6
CATALOGUE = "/tmf-api/productCatalogManagement/v4/productOffering"
TOLD = {"tokens": 12, "prompt": 5, "gap_ms": 20}
HI = [{"role": "user", "content": "hi"}]
# Streams are held over reloads, which take their time on a busy machine; and so do the workers that finish them.
STREAM_S_MAX = 600
DRAIN = {"drain_s": 600}
TOO_LARGE = {"messages": [{"role": "user", "content": "x" * 3000}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with (
        StubUpstream() as upstream,
        Server(tmp_path_factory.mktemp("reload"), workers=2, **DRAIN) as server,
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
    until(
        lambda: read_reload(server.settings.run_dir).retired == 0, 60, what="the processes of before to end"
    )
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
        "model": "stub", "max_tokens": 50, "user": json.dumps({"tokens": 12, "prompt": 5}), "messages": HI,
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
        for path in ("/readyz", CATALOGUE):
            status, _, _ = await asyncio.to_thread(server.get, path)
            seen.add((path, status))
        seen.add(("admin", await asyncio.to_thread(server.ready)))
        await asyncio.sleep(0.05)
    return seen


@pytest.mark.parametrize(
    "sizes",
    [(4096, 2048), pytest.param((2048, 4096) * 5, marks=pytest.mark.nightly)],
    ids=["twice", "ten times"],
)
def test_no_client_hears_of_reloads_and_the_new_settings_count(server, sizes):
    subscriber, key = server.subscriber("ctc-premium")
    before = pids(server)
    main = server.process.pid

    async def run():
        enough = asyncio.Event()
        looking = asyncio.create_task(keep_looking(server, enough))
        clients = [asyncio.create_task(keep_streaming(server, key, enough)) for _ in range(CLIENTS)]
        clients += [asyncio.create_task(keep_asking(server, key, enough)) for _ in range(3)]
        said = []
        for size in sizes:
            configure(server, body_bytes_max=size)
            done = await asyncio.to_thread(server.cli, "reload", process=True)
            said.append(done.stdout)
            status, _, _ = await asyncio.to_thread(server.chat, key, **TOO_LARGE)
            assert status == (200 if size > 3000 else 413), (
                "a request finds the new settings once the command has ended"
            )
        enough.set()
        counts = await asyncio.gather(*clients)
        return said, sum(counts), await looking

    said, count, seen = asyncio.run(run())
    assert all(text.startswith(f"Reloaded: release {__version__} serves") for text in said), said
    assert seen == {("/readyz", 200), (CATALOGUE, 206), ("admin", True)}
    assert count > CLIENTS
    assert retired(server) == {"control": 1, "recorder": 1, "tokenizer": 1, "worker": 2}
    after = pids(server)
    assert not any(before[kind] & after[kind] for kind in before), "every process is another one"
    assert server.process.poll() is None and server.process.pid == main
    assert (server.data_dir / "serve.pid").read_text().strip() == str(main)
    held = {os.path.basename(os.path.realpath(fd)) for fd in Path(f"/proc/{main}/fd").iterdir()}
    assert {"serve.lock", "pg.users"} <= held, (
        "the data directory and the embedded database are held as before"
    )
    assert len(server.metrics("requests_open")) == 2, "those that are gone are not exported"
    assert server.metrics("reload_failed") == [0.0]
    # Each record once: those of the clients, and the requests that were not too large.
    until(lambda: server.metrics("recorder_unsettled_records") == [0.0], what="settlement")
    settled = "SELECT count(*), count(DISTINCT usage_id) FROM usage WHERE account_id = %s"
    made = count + sizes.count(4096)
    until(
        lambda: server.connection.execute(settled, (subscriber.account_id,)).fetchone() == (made, made),
        what=f"{made} records, each once",
    )
    assert server.findings() == []
    assert "child_silent" not in server.log_text() and "recorder_killed" not in server.log_text()


def refused(server, why):
    """A reload that changes nothing, and says why."""
    before, number = pids(server), read_reload(server.settings.run_dir).number
    done = server.cli("reload", check=False)
    assert done.returncode == 1 and why in done.stderr, done.stderr
    assert "the server runs as before" in done.stderr and "Traceback" not in done.stderr
    assert pids(server) == before
    assert read_reload(server.settings.run_dir).number == number + 1
    assert server.metrics("reload_failed") == [1.0]


def test_settings_that_do_not_start_leave_the_old_ones(server, tmp_path):
    _, key = server.subscriber()
    assert server.ready() and retired(server)
    configure(server, body_bytes_max="large")
    refused(server, "body_bytes_max")
    pair = {"tls_certificate": str(tmp_path / "none.pem"), "tls_key": str(tmp_path / "none.pem")}
    configure(server, **pair)
    refused(server, "can't be used")
    configure(server, journal_dir=str(tmp_path / "journal"))
    refused(server, "journal_dir can't change while a server runs")
    configure(server)
    assert server.chat(key)[0] == 200 and server.ready()


def streams(server, key, count=1):
    """Streams that are under way, and go on when the upstream is told to."""
    told = {"tokens": 6, "prompt": 5, "hold_after": 2}
    found = []

    def read(data):
        body = json.dumps(
            {"model": "stub", "stream": True, "max_tokens": 50, "user": json.dumps(told), "messages": HI}
        ).encode()
        with contextlib.closing(server.open()) as sock:
            sock.settimeout(STREAM_S_MAX)
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
            )
            got = b"".join(iter(lambda: sock.recv(65536), b""))
        data.append(got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"))

    before = server.upstream.running()
    for _ in range(count):
        data = []
        thread = threading.Thread(target=read, args=(data,))
        thread.start()
        found.append((thread, data))
    until(lambda: server.upstream.running() - before == count, what="streams under way")
    return found


def whole(found):
    for thread, _ in found:
        thread.join(STREAM_S_MAX)
    return all(data == [True] for _, data in found)


@pytest.mark.nightly
def test_streams_outlive_two_reloads_at_once_and_a_stopped_server_is_not_reloaded(server):
    subscriber, key = server.subscriber()
    configure(server)
    retired(server)
    running = streams(server, key)
    number = read_reload(server.settings.run_dir).number
    commands = [
        subprocess.Popen(
            [*server.command(), "reload"], cwd=ROOT, env=server.environ(), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [command.communicate()[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    assert read_reload(server.settings.run_dir).number in {number + 1, number + 2}
    running += streams(server, key)
    assert server.process.poll() is None
    assert read_reload(server.settings.run_dir).retired >= 1, "a worker of before has a stream"
    server.process.send_signal(signal.SIGTERM)
    until((server.settings.run_dir / "leaving").exists, what="the server to leave")
    done = server.cli("reload", check=False, process=True)
    assert done.returncode == 1 and "being stopped" in done.stderr
    server.upstream.release()
    assert whole(running), "both generations finished what they had"
    server.stop()
    assert pids(server) == {}
    server.start()
    assert len(server.usage(subscriber, 2)) == 2


@pytest.mark.parametrize("state", [pytest.param("checking", marks=pytest.mark.nightly), "starting"])
def test_a_server_that_is_stopped_while_it_reloads_drains(server, state):
    subscriber, key = server.subscriber()
    retired(server)
    running = streams(server, key)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: read_reload(server.settings.run_dir).state == state, 60, what=f"the reload to be {state}")
    server.process.send_signal(signal.SIGTERM)
    until(
        lambda: not (server.data_dir / "serve.pid").exists() or server.upstream.release() is None, what="it"
    )
    assert whole(running)
    assert until(lambda: [server.process.poll()], 60) == [0] or server.process.wait(60) == 0
    assert pids(server) == {}
    server.stop()
    server.start()
    assert len(server.usage(subscriber, 1)) == 1


def tree(folder, **changed):
    """A copy of the release's code, with other texts in some of its files: path -> (text, in its place)."""
    shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, (text, other) in changed.items():
        change(folder, path, text, other)
    return folder


def change(folder, path, text, other):
    file = folder / "tokenworks" / path
    before = file.read_text()
    assert text in before
    file.write_text(before.replace(text, other))


class Unpacked(Server):
    """A server whose code is what a link points to, as a release that is unpacked beside the one before it."""

    def environ(self):
        return super().environ() | {
            "PYTHONPATH": str(self.data_dir / "current"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def link(self, folder):
        half = self.data_dir / "next"
        half.symlink_to(folder)
        half.rename(self.data_dir / "current")


def releases(server):
    host, port = server.admin.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return re.findall(r'^tokenworks_release{release="([^"]+)"', text, re.MULTILINE)


@pytest.fixture
def unpacked(tmp_path, upstream):
    """A server with a copy of the release, and beside it the next one, `second`."""
    first = tree(tmp_path / "first")
    (tmp_path / "data").mkdir()
    server = Unpacked(tmp_path / "data", **DRAIN)
    server.second = tree(tmp_path / "second", **{"__init__.py": (f'"{__version__}"', '"9.9.9"')})
    server.upstream = upstream
    server.link(first)
    with server:
        server.add_deployment("stub", "stub", upstream.url)
        assert releases(server) == [__version__]
        yield server
        assert server.findings() == []


BROKEN = [
    ("app/process/worker.py", "import asyncio", "import nothing_of_this_name", "nothing_of_this_name"),
    ("app/database/schema.py", f'SCHEMA: Final = "{SCHEMA}"', 'SCHEMA: Final = "9999"', "this release needs 9999"),
    ("charging/wire.py", "VERSION: Final = 1\nTAKES: Final = frozenset({1})",
     "VERSION: Final = 3\nTAKES: Final = frozenset({2, 3})", "restart the server"),
]  # fmt: skip


@pytest.mark.parametrize(
    "broken", [BROKEN[:1], pytest.param(BROKEN[1:], marks=pytest.mark.nightly)], ids=["one", "others"]
)
def test_a_new_release_is_taken_and_one_that_does_not_start_is_not(unpacked, broken):
    server = unpacked
    subscriber, key = server.subscriber()
    running = streams(server, key)
    server.link(server.second)
    for path, text, other, why in broken:
        change(server.second, path, text, other)
        refused(server, why)
        change(server.second, path, other, text)
    assert releases(server) == [__version__]
    assert "release 9.9.9 serves" in server.cli("reload", process=True).stdout
    until(lambda: releases(server) == ["9.9.9"], what="the metrics of the new release")
    assert server.chat(key)[0] == 200
    server.upstream.release()
    assert whole(running), "a stream that the old release began"
    assert len(server.usage(subscriber, 2)) == 2


@pytest.mark.nightly
def test_new_workers_that_do_not_get_ready_are_ended_and_those_of_before_serve_on(unpacked):
    """What no trial shows: they end when they begin to serve."""
    server = unpacked
    subscriber, key = server.subscriber()
    running = streams(server, key)
    before = pids(server)
    change(
        server.second, "app/process/worker.py", "        shared.client.connect()\n", "        sys.exit(3)\n"
    )
    change(server.second, "app/process/worker.py", "import socket\n", "import socket\nimport sys\n")
    change(server.second, "app/process/served.py", "READY_S: Final = 90.0", "READY_S: Final = 5.0")
    server.link(server.second)
    done = server.cli("reload", check=False, process=True)
    assert done.returncode == 1 and "not ready: worker-1; the processes of before serve on" in done.stderr
    until(lambda: pids(server)["worker"] == before["worker"], what="the worker of before alone")
    assert server.ready() and server.chat(key)[0] == 200
    # As good as any: it is looked after, and a reload that is whole takes over from it.
    change(
        server.second, "app/process/worker.py", "        sys.exit(3)\n", "        shared.client.connect()\n"
    )
    server.cli("reload", process=True)
    assert server.chat(key)[0] == 200
    server.upstream.release()
    assert whole(running)
    assert retired(server)["worker"] == 1 and not pids(server)["worker"] & before["worker"]
    assert len(server.usage(subscriber, 3)) == 3


@pytest.mark.nightly
def test_a_changed_address_is_bound_and_the_one_before_is_served_for_the_grace(tmp_path, upstream):
    first, second, taken = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
    ports = [sock.getsockname()[1] for sock in (first, second, taken)]
    first.close()
    second.close()

    def listens(port):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    class FromFile(Server):
        def start(self, ready_s=30.0):
            super().start(ready_s=ready_s, options=())

    server = FromFile(tmp_path / "data")
    server.data_dir.mkdir()
    configure(server, listen=f"127.0.0.1:{ports[0]}", admin_listen="127.0.0.1:0")
    with server, taken:
        server.add_deployment("stub", "stub", upstream.url)
        _, key = server.subscriber()
        assert server.port == ports[0]
        configure(server, listen=f"127.0.0.1:{ports[2]}", admin_listen="127.0.0.1:0")
        refused(server, "can't listen on")
        configure(server, listen=f"127.0.0.1:{ports[1]}", admin_listen="127.0.0.1:0")
        server.cli("reload", process=True)
        assert listens(ports[1])
        until(lambda: not listens(ports[0]), what="the address before to be left")
        server.port = ports[1]
        assert server.chat(key)[0] == 200
        assert retired(server)["worker"] == 1
