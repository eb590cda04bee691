"""Hostile input of every size beside honest streams: a worker's memory stays under its bound, its loop goes on, and the
streams lose nothing.
"""

import contextlib
import gzip
import json
import socket
import threading

import psutil
import pytest

from tests.support.raw import RawUpstream, whole
from tests.support.server import Server, until
from tokenworks.gateway import WorkerStats

RSS_MAX = 300_000_000
# CPU of the loop in its worst second. 50 to 60 ms on a quiet machine; beside two other tests on two cores 203 was seen, and what
# this guards against took 5 s.
STALL_MAX_MS = 400
STREAMS = 50
TOKENS = 150
BODY = json.dumps(
    {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
).encode()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, upstream):
    with Server(
        tmp_path_factory.mktemp("memory"), workers=1, body_timeout_s=5, header_timeout_s=5, write_timeout_s=5
    ) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("ctc-flagship")
        assert server.chat(key)[0] == 200
        yield server, subscriber, key
        assert server.findings() == []
        assert "Traceback" not in server.log_text()


def post(key, path="/v1/chat/completions", *lines):
    return (
        "\r\n".join([f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}", *lines]) + "\r\n\r\n"
    ).encode()


class Watch:
    """A worker's largest memory and most computing in one turn while the context lasts, with honest streams beside."""

    def __init__(self, attacked):
        self.server, self.subscriber, self.key = attacked

    def __enter__(self):
        worker = next(pid for name, pid in self.server.processes() if name == "worker")
        self.process = psutil.Process(worker)
        self.rss = self.busy_ms = 0
        self.stop = threading.Event()
        self.sampler = threading.Thread(target=self._sample)
        self.sampler.start()
        told = json.dumps({"tokens": TOKENS, "gap_ms": 20})
        body = json.dumps(
            {"model": "stub", "messages": [], "max_tokens": TOKENS, "stream": True, "user": told}
        ).encode()
        self.streams = []
        for _ in range(STREAMS):
            sock = self.server.open()
            sock.sendall(post(self.key, "/v1/chat/completions", f"content-length: {len(body)}") + body)
            self.streams.append(sock)
        for sock in self.streams:
            assert sock.recv(4, socket.MSG_PEEK) == b"HTTP"
        return self

    def _sample(self):
        path = next((self.server.data_dir / "run").glob("worker-*.stats"))
        while not self.stop.wait(0.01):
            self.busy_ms = max(self.busy_ms, WorkerStats(path).counters["loop_busy_second_ms"])
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rss = max(self.rss, self.process.memory_info().rss)

    def __exit__(self, kind, *_):
        try:
            for sock in self.streams:
                data = b""
                while chunk := sock.recv(262_144):
                    data += chunk
                    if data.endswith(b"0\r\n\r\n"):
                        break
                if kind is None:
                    assert data.count(b'"content"') >= TOKENS
                    assert b"data: [DONE]" in data
                sock.close()
        finally:
            self.stop.set()
            self.sampler.join()
        if kind is None:
            assert self.process.is_running()
            assert self.rss < RSS_MAX
            until(
                lambda: self.server.metrics("memory_used_bytes")[0] < 2_000_000,
                what="what was kept to be given back",
            )
            print(f"{self.rss / 1e6:.0f} MB, {self.busy_ms} ms")
            assert self.busy_ms < STALL_MAX_MS
            assert self.server.chat(self.key)[0] == 200


def send(sock, data, times=1):
    """As much of it as the server takes: it may end the connection at any time."""
    sent = 0
    with contextlib.suppress(OSError):
        for _ in range(times):
            sock.sendall(data)
            sent += len(data)
    return sent


def status_of(sock):
    with contextlib.suppress(OSError):
        return int(sock.recv(65_536)[9:12] or 0)
    return 0


@pytest.mark.parametrize("path", ["/api/sign-in", "/v1/chat/completions"])
@pytest.mark.parametrize("trailer", [b"x-trailer: " + b"y" * 100 + b"\r\n", b"y" * 128])
def test_trailers_without_end(attacked, path, trailer):
    with Watch(attacked) as watch:
        for _ in range(4):
            with watch.server.open() as sock:
                send(sock, post(watch.key, path, "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n")
                if trailer.startswith(b"yy"):
                    send(sock, b"x: ")
                sent = send(sock, trailer * 500, 600)
                assert sent < 30_000_000


def test_half_sent_bodies(attacked):
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(watch.server.open()) for _ in range(60)]
        for sock in socks:
            sock.settimeout(0.5)
            send(sock, post(watch.key, "/v1/chat/completions", "content-length: 16000000"))
            send(sock, b"x" * 1_000_000, 15)
        # Others from elsewhere would be served; what is small is, from here too.
        assert watch.server.chat(watch.key)[0] == 200
        statuses = {status_of(sock) for sock in socks}
        assert statuses & {429, 503}


def test_half_sent_bodies_on_the_control_plane(attacked):
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(watch.server.open())
            send(sock, b"POST /api/sign-in HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n")
            assert status_of(sock) == 413
        chunked = stack.enter_context(watch.server.open())
        send(chunked, b"POST /api/sign-in HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert send(chunked, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 500) < 30_000_000


def test_half_sent_heads(attacked):
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        for _ in range(3000):
            sock = stack.enter_context(watch.server.open())
            send(sock, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 31_000)
        assert watch.server.chat(watch.key)[0] == 200


def test_kept_heads(attacked):
    """A connection that idles keeps little of the head that it sent."""
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        for _ in range(2000):
            sock = stack.enter_context(watch.server.open())
            send(
                sock,
                b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nx-long: "
                + b"y" * 31_000
                + b"\r\n\r\n",
            )
            assert status_of(sock) == 200


def test_bodies_by_the_byte(attacked):
    with Watch(attacked) as watch:
        for framing, data in (
            ("transfer-encoding: chunked", b"1\r\nx\r\n" * 50_000),
            ("content-length: 16000000", b"x" * 300_000),
        ):
            with watch.server.open() as sock:
                send(sock, post(watch.key, "/v1/chat/completions", framing))
                send(sock, data, 10)
        with watch.server.open() as sock:
            send(sock, post(watch.key, "/v1/chat/completions", "content-length: 20000"))
            for _ in range(19_999):
                sock.sendall(b"x")
        with watch.server.open() as sock:
            for byte in b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000 + b"\r\n\r\n":
                sock.sendall(bytes([byte]))
            assert status_of(sock) == 200


def test_heads_of_every_shape(attacked):
    heads = [
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 7000 + b"\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"accept: a\r\n" * 90 + b"\r\n",
        b"GET /v1/models?" + b"a=%41&" * 1300 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET " + b"/v1" * 600 + b"/x/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models/" + b"%2F" * 600 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: " + b"Bearer " * 4000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: " + b"a," * 15_000 + b"\r\n\r\n",
        b"OPTIONS /v1/models HTTP/1.1\r\nhost: x\r\norigin: "
        + b"o" * 30_000
        + b"\r\naccess-control-request-method: GET\r\n\r\n",
    ]
    with Watch(attacked) as watch:
        for head in heads:
            for _ in range(20):
                with watch.server.open() as sock:
                    send(sock, head)
                    assert status_of(sock) in {204, 400, 401, 404, 431}


def test_pipelined_requests(attacked):
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(watch.server.open())
            sock.settimeout(0.5)
            send(sock, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 5000)
        told = json.dumps({"tokens": 100, "gap_ms": 20})
        body = json.dumps(
            {"model": "stub", "messages": [], "max_tokens": 100, "stream": True, "user": told}
        ).encode()
        for _ in range(300):
            sock = stack.enter_context(watch.server.open())
            sock.settimeout(0.5)
            send(
                sock,
                post(watch.key, "/v1/chat/completions", f"content-length: {len(body)}")
                + body
                + b"x" * 300_000,
            )


def test_bombs(attacked):
    content = gzip.compress(bytes(200_000_000))
    with Watch(attacked) as watch, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(watch.server.open()) for _ in range(40)]
        for sock in socks:
            send(
                sock,
                post(
                    watch.key,
                    "/v1/chat/completions",
                    "content-encoding: gzip",
                    f"content-length: {len(content)}",
                )
                + content,
            )
        assert {status_of(sock) for sock in socks} <= {413, 429, 503}


def endless(piece, begin=b"HTTP/1.1 200 OK\r\n"):
    def answer(head, body):
        yield begin
        for _ in range(2000):
            yield piece

    return answer


def bomb(head, body):
    yield whole(
        gzip.compress(bytes(300_000_000)), b"content-type: application/json", b"content-encoding: gzip"
    )


ANSWERS = {
    "a header line": endless(b"y" * 65_536, b"HTTP/1.1 200 OK\r\nx-endless: "),
    "headers": endless(b"x-more: y\r\n" * 6000),
    "a trailer": endless(
        b"y" * 65_536, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: "
    ),
    "interim answers": endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 3000, b""),
    "a bomb": bomb,
    "chunks of a byte": endless(
        b"1\r\nx\r\n" * 10_000, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_upstreams_without_end(attacked, name):
    server, _, key = attacked
    with RawUpstream(ANSWERS[name]) as bad:
        server.add_deployment("bad", "bad", bad.url, "--protocol", "chat")
        try:
            with Watch(attacked) as watch:
                threads = [
                    threading.Thread(target=watch.server.chat, args=(key,), kwargs={"model": "bad"})
                    for _ in range(4)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            server.cli("deployment", "remove", "bad")
            until(lambda: b'"bad"' not in server.get("/v1/models", key)[1], what="the deployment to be gone")


def test_slow_readers_of_large_answers(attacked):
    server, _, key = attacked
    large = json.dumps(
        {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 8_000_000}, "finish_reason": "stop"}],
         "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    ).encode()  # fmt: skip
    with RawUpstream(whole(large, b"content-type: application/json")) as bad:
        server.add_deployment("large", "large", bad.url, "--protocol", "chat")
        body = BODY.replace(b'"stub"', b'"large"')
        with Watch(attacked) as watch, contextlib.ExitStack() as stack:
            for _ in range(40):
                sock = stack.enter_context(watch.server.open())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                send(sock, post(key, "/v1/chat/completions", f"content-length: {len(body)}") + body)
        server.cli("deployment", "remove", "large")
        until(lambda: b'"large"' not in server.get("/v1/models", key)[1], what="the deployment to be gone")
