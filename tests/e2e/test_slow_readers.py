"""A large answer to a client that reads slowly arrives whole, however long that takes; one that takes nothing is let go."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support.raw import RawUpstream, whole
from tests.support.server import Server, until

BYTES = 8_000_000
READ_BYTES = 16_384
READ_FOR_S = 14
ANSWER = json.dumps(
    {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x" * BYTES}}],
    }
).encode()  # fmt: skip
BODY = json.dumps(
    {"model": "big", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with (
        RawUpstream(whole(ANSWER, b"content-type: application/json")) as upstream,
        Server(tmp_path_factory.mktemp("slow"), write_timeout_s=2, idle_timeout_s=1) as server,
    ):
        server.add_deployment("big", "big", upstream.url)
        yield server, server.subscriber("ctc-flagship")[1]


def asked(server, key, version="1.1", *lines):
    """A connection with a small receive buffer, on which the answer has begun."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    sock.settimeout(30)
    sock.connect((server.host, server.port))
    head = [f"POST /v1/chat/completions HTTP/{version}", "host: x", f"authorization: Bearer {key}"]
    head += [f"content-length: {len(BODY)}", "content-type: application/json", *lines]
    sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + BODY)
    assert sock.recv(4, socket.MSG_PEEK) == b"HTTP"
    return sock


def read_slowly(sock):
    """All bytes of the answer's body, read at an even pace; then whether the connection goes on."""
    begun_s, got = time.monotonic(), b""
    while b"\r\n\r\n" not in got:
        got += sock.recv(READ_BYTES)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0]
    count = len(body)
    while count < len(ANSWER):
        time.sleep(max(0.0, begun_s + READ_FOR_S * count / len(ANSWER) - time.monotonic()))
        piece = sock.recv(READ_BYTES)
        if not piece:
            break
        count += len(piece)
    return count


def test_every_byte_arrives_at_a_client_that_reads_slowly(served):
    ways = [("1.1", "connection: close"), ("1.0",), ("1.1",)]
    with ThreadPoolExecutor(len(ways)) as pool:
        counts = list(pool.map(lambda way: read_slowly(asked(*served, *way)), ways))
    assert all(len(ANSWER) - 1000 <= count <= len(ANSWER) + 1000 for count in counts), counts
    assert len(set(counts)) == 1


@pytest.mark.parametrize("way", [("1.1", "connection: close"), ("1.1",)])
def test_a_client_that_takes_nothing_is_let_go(served, way):
    server, _ = served
    sock = asked(*served, *way)
    mine = sock.getsockname()[1]
    worker = psutil.Process(next(pid for name, pid in server.processes() if name == "worker"))
    begun_s = time.monotonic()
    until(
        lambda: all(not one.raddr or one.raddr.port != mine for one in worker.net_connections("tcp")),
        20,
        what="the worker to let go",
    )
    assert time.monotonic() - begun_s > 1
    sock.close()


def test_a_connection_whose_answer_was_read_is_idle_then(served):
    server, key = served
    sock = asked(server, key)
    count = 0
    while count < len(ANSWER):
        count += len(sock.recv(1_000_000))
    begun_s = time.monotonic()
    while sock.recv(1_000_000):
        pass
    assert time.monotonic() - begun_s < 6
    sock.close()
