"""A stream that says nothing: its client hears that it lives, and while only that has gone out another place may be tried."""

import json
import socket

import pytest

from tests.support.server import Server, until

PING = {"chat": b": ping\n\n", "messages": b'event: ping\ndata: {"type": "ping"}\n\n'}


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    with Server(
        tmp_path_factory.mktemp("silence"), upstream_first_byte_timeout_s=17, failover_patience_s=17
    ) as made:
        made.add_deployment("stub", "stub", upstream.url, "--protocol", "chat", "--protocol", "messages")
        yield made
        assert made.findings() == []


def start(server, key, protocol, model, told):
    path = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}[protocol]
    body = {
        "model": model,
        "max_tokens": 2000,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }
    body |= {"user": json.dumps(told)} if protocol == "chat" else {"metadata": {"user_id": json.dumps(told)}}
    data = json.dumps(body).encode()
    sock = server.open()
    sock.settimeout(40)
    sock.sendall(
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nanthropic-version: 2023-06-01\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return sock


def read_until(sock, sign, data=b""):
    while sign not in data:
        try:
            more = sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"{sign!r} is not in {data!r}") from None
        assert more, data
        data += more
    return data


def test_a_stream_that_falls_silent_pings_and_goes_on(server, upstream):
    subscriber, key = server.subscriber()
    told = {"tokens": 4, "prompt": 11, "hold_after": 2}
    socks = {protocol: start(server, key, protocol, "stub", told) for protocol in PING}
    data = {protocol: read_until(sock, PING[protocol]) for protocol, sock in socks.items()}
    for got in data.values():
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"tok ") == 2
    upstream.get("/release")
    for protocol, sock in socks.items():
        end = {"chat": b"[DONE]", "messages": b"message_stop"}[protocol]
        assert read_until(sock, end, data[protocol]).count(b"tok ") == 4
        sock.close()
    records = server.usage(subscriber, 2)
    assert [(r["state"], r["output"], r["fresh_input"]) for r in records] == [("complete", 4, 11)] * 2


def test_while_only_pings_have_gone_out_another_place_is_tried(server, upstream):
    """With `--early-head` the client's head does not wait for the upstream's. The first place never answers."""
    subscriber, key = server.subscriber()
    server.add_deployment("good", "two", upstream.url, "--upstream-model", "stub", "--protocol", "chat")
    server.cli("deployment", "drain", "good")  # until the first place has the request
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server.add_deployment(
            "mute",
            "two",
            f"http://127.0.0.1:{mute.getsockname()[1]}/v1",
            "--protocol",
            "chat",
            "--early-head",
        )
        added = len(server.services.deployments.all())
        until(lambda: server.metrics("deployments") == [added], what="both places")
        sock = start(server, key, "chat", "two", {"tokens": 4, "prompt": 11})
        connection, _ = mute.accept()
        server.cli("deployment", "resume", "good")
        data = read_until(sock, b"[DONE]")
        connection.close()
    sock.close()
    assert data.count(b"HTTP/1.1 200 ") == 1
    assert data.index(PING["chat"]) < data.index(b"tok ")
    assert data.count(b"tok ") == 4
    (record,) = server.usage(subscriber, 1)
    assert (record["deployment"], record["attempt_no"], record["output"]) == ("good", 2, 4)


def test_where_no_other_place_is_left_the_error_is_an_event(server):
    subscriber, key = server.subscriber()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server.add_deployment(
            "alone",
            "one",
            f"http://127.0.0.1:{mute.getsockname()[1]}/v1",
            "--protocol",
            "chat",
            "--early-head",
        )
        sock = start(server, key, "chat", "one", {})
        connection, _ = mute.accept()
        data = read_until(sock, b"upstream_timeout")
        connection.close()
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.index(PING["chat"]) < data.index(b"upstream_timeout")
    # The connection stays usable.
    read_until(sock, b"0\r\n\r\n", data)
    sock.sendall(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    sock.close()
    assert server.usage(subscriber) == []
    until(lambda: sum(server.metrics("requests_open")) == 0, what="the request's end")
