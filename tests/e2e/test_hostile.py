"""Hostile input: a clear refusal, nothing leaked, nothing charged, the next client served."""

import contextlib
import json
import socket
import time

import pytest

from tests.support.server import Server, until


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, upstream):
    with Server(
        tmp_path_factory.mktemp("hostile"),
        workers=1,
        header_timeout_s=1,
        body_timeout_s=1,
        idle_timeout_s=2,
        body_bytes_max=100_000,
        connections_max=3000,
    ) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        yield server, subscriber, key
        assert server.chat(key)[0] == 200  # the next client is served
        assert len(server.usage(subscriber, 1)) >= 1
        assert server.findings() == []
        assert not [
            line
            for line in server.log_text().splitlines()
            if "Traceback" in line or "exception" in line.lower()
        ]


def talk(server, data, timeout=10, half_close=False):
    """All that comes back until the server ends the connection, or stays silent for a second after an answer."""
    with server.open() as sock:
        sock.settimeout(timeout)
        with contextlib.suppress(OSError):
            sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(OSError):
            while chunk := sock.recv(65536):
                got += chunk
                sock.settimeout(1)
        return got


def head(key, *more, length=None):
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {key}", *more]
    if length is not None:
        lines.append(f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


BODY = json.dumps({"model": "stub", "messages": [], "max_tokens": 5}).encode()

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "lower-case nonsense": b"hello there\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 2": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "version 0.9": b"GET / HTTP/0.9\r\nhost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n",
    "both framings": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings, other order": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a list of lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 5\r\n\r\nhello",
    "a signed length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello",
    "a huge length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "gzip, chunked": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "1.0 with a coding": b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nhost: x\n\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nhost: x\r\na: b\x00c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "two keys": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n",
    "an absolute target": b"GET http://other/ HTTP/1.1\r\nhost: x\r\n\r\n",
    "a double slash that leads nowhere": b"GET //admin HTTP/1.1\r\nhost: x\r\n\r\n",
    "dot segments": b"GET /v1/../admin HTTP/1.1\r\nhost: x\r\n\r\n",
    "encoded slash": b"GET /v1%2fmodels HTTP/1.1\r\nhost: x\r\n\r\n",
    "encoded dots": b"GET /%2e%2e/x HTTP/1.1\r\nhost: x\r\n\r\n",
    "encoded NUL": b"GET /a%00b HTTP/1.1\r\nhost: x\r\n\r\n",
    "a broken escape": b"GET /a%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    "a backslash": b"GET /a\\b HTTP/1.1\r\nhost: x\r\n\r\n",
    "another expectation": b"POST / HTTP/1.1\r\nhost: x\r\nexpect: a-miracle\r\ncontent-length: 0\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(200)) + b"\r\n",
    "headers too large": b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 40_000 + b"\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_requests_are_refused(hostile, name):
    server, _, _ = hostile
    answer = talk(server, MALFORMED[name])
    status = int(answer[9:12])
    assert status in {400, 405, 413, 417, 431, 505}, answer[:200]
    assert b'"error"' in answer
    assert b"x-request-id: " in answer


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"model": 1}', b'{"model": "stub"}', b'{"model": "stub", "messages": [], "max_tokens": -2}',
     b'{"model": "stub", "messages": [], "max_tokens": 1.5}', b'{"model": "\xff"}', b"[" * 50_000, b'{"model": "stub", "messages": [], "n": "1"}'],
)  # fmt: skip
def test_bad_bodies_are_refused(hostile, body):
    server, subscriber, key = hostile
    before = server.buckets(subscriber)[0].left
    status, content, _ = server.request("POST", "/v1/chat/completions", key, body)
    assert status == 400, content
    assert json.loads(content)["error"]["code"] in {"bad_request", "invalid_body"}
    assert server.buckets(subscriber)[0].left <= before


def test_a_field_given_twice_means_the_same_upstream_as_here(hostile, upstream):
    server, _, key = hostile
    body = b'{"model":"stub","messages":[{"role":"user","content":"twice"}],"max_tokens":5,"max_tokens":7,"n":1,"n":2}'
    assert server.request("POST", "/v1/chat/completions", key, body)[0] == 200
    sent = next(
        b
        for b in reversed(upstream.get("/last")["bodies"])
        if b.get("messages") and b["messages"][0]["content"] == "twice"
    )
    assert (sent["max_tokens"], sent["n"]) == (7, 2)


def test_a_body_too_large_is_refused_before_it_is_read(hostile):
    server, _, key = hostile
    answer = talk(server, head(key, length=10**8))
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_too_large_is_refused(hostile):
    server, _, key = hostile
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    assert talk(server, head(key, "transfer-encoding: chunked") + chunk * 3).startswith(b"HTTP/1.1 413")


def test_a_malformed_chunk_is_refused(hostile):
    server, _, key = hostile
    assert talk(server, head(key, "transfer-encoding: chunked") + b"zz\r\nhello\r\n").startswith(
        b"HTTP/1.1 400"
    )


def test_a_chunked_body_is_read_and_its_trailers_are_not_headers(hostile):
    server, _, key = hostile
    body = b"%x\r\n%b\r\n0\r\nauthorization: Bearer evil\r\n\r\n" % (len(BODY), BODY)
    answer = talk(server, head(key, "transfer-encoding: chunked") + body)
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_a_body_sent_by_the_byte(hostile):
    server, _, key = hostile
    with server.open() as sock:
        for byte in head(key, length=len(BODY)) + BODY:
            sock.sendall(bytes([byte]))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_offer_to_upgrade_does_not_swallow_the_body(hostile):
    server, _, key = hostile
    answer = talk(
        server,
        head(
            key,
            "connection: Upgrade, HTTP2-Settings",
            "upgrade: h2c",
            "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA",
            length=len(BODY),
        )
        + BODY,
    )
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_expect_100_continue(hostile):
    server, _, key = hostile
    with server.open() as sock:
        sock.sendall(head(key, "expect: 100-continue", length=len(BODY)))
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(hostile):
    server, _, key = hostile
    one = head(key, length=len(BODY)) + BODY
    answer = talk(server, one + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + one)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert (
        answer.index(b"chat.completion") < answer.index(b"\r\n\r\nok\n") < answer.rindex(b"chat.completion")
    )


@pytest.mark.parametrize(
    ("version", "connection", "ends"),
    [
        ("1.1", "close", True),
        ("1.1", "keep-alive", False),
        ("1.0", "keep-alive", False),
        ("1.0", "close", True),
    ],
)
def test_a_request_without_a_body_ends_its_connection_if_it_says_so(hostile, version, connection, ends):
    server, _, _ = hostile
    sock = server.open()
    asked = f"GET /healthz HTTP/{version}\r\nhost: x\r\nconnection: {connection}\r\n\r\n".encode()
    for _ in range(1 if ends else 2):
        sock.sendall(asked)
        data = b""
        while not data.endswith(b"ok\n"):
            data += sock.recv(1000)
    if ends:
        assert sock.recv(1000) == b""
    sock.close()


def test_http_1_0_gets_an_answer_and_the_end(hostile):
    server, _, key = hostile
    body = json.dumps({"model": "stub", "messages": [], "max_tokens": 5, "stream": True}).encode()
    answer = talk(server, head(key, length=len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"transfer-encoding" not in answer


def test_slow_heads_and_bodies_time_out(hostile):
    server, _, key = hostile
    assert talk(server, b"POST /v1/chat/comp").startswith(b"HTTP/1.1 408")
    assert talk(server, head(key, length=100) + b"{").startswith(b"HTTP/1.1 408")


def test_idle_connections_are_ended_and_thousands_do_no_harm(hostile):
    server, _, key = hostile
    socks = [server.open() for _ in range(2000)]
    assert server.chat(key)[0] == 200
    for sock in socks:
        sock.settimeout(10)
    assert all(sock.recv(10) == b"" for sock in socks)
    for sock in socks:
        sock.close()


def test_a_client_that_leaves_at_any_byte_costs_nothing_it_did_not_get(hostile, upstream):
    server, _, _ = hostile
    subscriber, key = server.subscriber()
    request = head(key, length=len(BODY)) + BODY
    for cut in range(1, len(request), 7):
        with server.open() as sock:
            sock.sendall(request[:cut])
    assert server.chat(key)[0] == 200
    assert len(server.usage(subscriber, 1)) == 1


def test_a_client_that_leaves_mid_stream_is_charged_for_what_was_produced(hostile, upstream):
    server, _, _ = hostile
    subscriber, key = server.subscriber()
    body = json.dumps(
        {
            "model": "stub",
            "messages": [],
            "max_tokens": 5000,
            "stream": True,
            "user": json.dumps({"tokens": 2000, "gap_ms": 20}),
        }
    ).encode()
    with server.open() as sock:
        sock.sendall(head(key, length=len(body)) + body)
        seen = b""
        while seen.count(b"tok ") < 5:
            seen += sock.recv(65536)
    record = server.usage(subscriber, 1)[0]
    assert (record["state"], record["reason"]) == ("interrupted", "client_gone")
    assert 5 <= record["output"] <= 2000
    produced = upstream.count()["started"][record["upstream_id"]][0]
    assert record["output"] <= produced
    until(
        lambda: upstream.count()["started"][record["upstream_id"]][0] < 2000,
        what="the upstream to be cancelled",
    )


def test_a_slow_reader_pauses_its_upstream_and_is_let_go(tmp_path, upstream):
    with Server(tmp_path, workers=1, write_timeout_s=1, write_buffer_bytes=4096) as server:
        server.add_deployment("stub", "stub", upstream.url, "--context-tokens", "100000000")
        subscriber, key = server.subscriber("ctc-premium")
        body = json.dumps(
            {
                "model": "stub",
                "messages": [],
                "max_tokens": 50_000_000,  # by its bytes, the text is within it
                "stream": True,
                "user": json.dumps({"tokens": 50_000, "pad": 2000, "gap_ms": 0.01}),
            }
        ).encode()
        with server.open() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(head(key, length=len(body)) + body)
            record = server.usage(subscriber, 1)[0]
        assert (record["state"], record["reason"]) == ("interrupted", "client_gone")
        produced = upstream.count()["started"][record["upstream_id"]][0]
        assert produced < 50_000, "the upstream was never paused"
        # A token of this upstream shows as 2004 bytes, which are taken for 250 tokens at least; its first event adds a few.
        assert produced * 200 < record["output"] < (produced + 1) * 260
        assert server.findings() == []


def test_forged_forwarding_headers_do_not_pass(hostile, upstream):
    server, _, key = hostile
    forged = {"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4", "x-real-ip": "1.2.3.4", "x-tokenworks-account": "x", "x-request-id": "mine",
              "cookie": "a=b", "proxy-authorization": "x", "x-harmless": "yes", "traceparent": "00-1-2-01"}  # fmt: skip
    _, _, headers = server.chat(key, headers=forged)
    sent = {name.lower(): value for name, value in upstream.get("/last")["heads"][-1].items()}
    assert sent["traceparent"] == "00-1-2-01"
    assert not set(sent) & (set(forged) - {"traceparent"})
    assert not any(key in value for value in sent.values())
    assert headers["x-request-id"] != "mine"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/v1",
        "http://[fe80::1]/v1",
        "http://0.0.0.0/v1",
        "http://[::ffff:169.254.1.1]/",
        "http://100.100.100.200/",
    ],
)
def test_a_deployment_at_a_link_local_address_is_refused(hostile, url):
    server, _, _ = hostile
    done = server.cli(
        "deployment",
        "add",
        "--name",
        "evil",
        "--model",
        "m",
        "--base-url",
        url,
        "--allow-private",
        "--protocol",
        "chat",
        check=False,
    )
    assert done.returncode == 1
    assert "never there" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_private_deployment_needs_to_be_allowed(hostile, upstream):
    server, _, _ = hostile
    done = server.cli(
        "deployment",
        "add",
        "--name",
        "evil",
        "--model",
        "m",
        "--base-url",
        upstream.url,
        "--protocol",
        "chat",
        check=False,
    )
    assert (done.returncode, "--allow-private" in done.stderr) == (1, True)


def test_a_name_that_resolves_to_a_private_address_is_refused_at_connect(hostile, upstream):
    server, _, _ = hostile
    server.cli(
        "deployment",
        "add",
        "--name",
        "by-name",
        "--model",
        "by-name",
        "--base-url",
        f"http://localhost:{upstream.port}/v1",
        "--protocol",
        "chat",
    )
    _, key = server.subscriber()
    until(lambda: b"by-name" in server.get("/v1/models", key)[1], what="the deployment")
    requests = upstream.count()["requests"]
    status, content, _ = server.chat(key, model="by-name")
    assert status == 502, content
    assert upstream.count()["requests"] == requests


def test_two_deployments_fail_over_before_the_first_byte(hostile, upstream):
    server, subscriber, key = hostile
    server.add_deployment("good", "pair", upstream.url)
    server.cli(
        "deployment",
        "add",
        "--name",
        "bad",
        "--model",
        "pair",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--protocol",
        "chat",
        "--allow-private",
    )
    time.sleep(0)
    until(lambda: len(server.services.deployments.all()) >= 3)
    assert [server.chat(key, model="pair")[0] for _ in range(8)] == [200] * 8
