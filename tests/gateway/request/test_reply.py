"""What a client is written: one head, whole chunks, an end that is none where it is not whole."""

import pytest

from tests.gateway.request.support import Worker, answering, events, piece
from tokenworks.gateway.request.ending import interrupted_end
from tokenworks.gateway.request.reply import end_stream, ping, send_piece, write_whole


@pytest.fixture
def request_():
    worker = Worker()
    request = worker.held_state(stream=True)
    request.response_head = b"HTTP/1.1 200 OK\r\n"
    return request


def test_the_head_leaves_with_the_first_piece_and_once(request_):
    conn = request_.conn
    send_piece(request_, conn, b"one")
    send_piece(request_, conn, b"two")
    end_stream(request_, conn, b"")
    assert conn.written == (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )
    assert conn.streamed


def test_a_stream_of_one_piece_is_whole(request_):
    end_stream(request_, request_.conn, b"all")
    assert request_.conn.written.endswith(b"\r\n\r\n3\r\nall\r\n0\r\n\r\n")


def test_http_1_0_reads_until_the_connection_closes():
    worker = Worker()
    request = worker.arrives(version=b"1.0")
    request.response_head = b"HTTP/1.1 200 OK\r\n"
    send_piece(request, worker.client, b"one")
    send_piece(request, worker.client, b"two")
    end_stream(request, worker.client, b"!")
    assert worker.client.written == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo!"
    assert request.head.keep_alive is False


def test_a_ping_before_the_upstreams_head_makes_one(request_):
    request_.response_head = b""
    ping(request_, request_.conn, 7)
    ping(request_, request_.conn, 9)
    assert request_.conn.written.count(b"HTTP/1.1 200 OK") == 1
    assert request_.conn.written.count(b": ping\n\n") == 2 and request_.written_s == 9


def test_a_connection_that_closes_says_so(request_):
    request_.conn.keep_alive = False
    write_whole(request_, request_.conn, b"all")
    assert request_.conn.written == b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nall"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("beyond_maximum", b'"finish_reason": "length"'),
        ("nothing_left", b"error"),
        ("hold_unavailable", b"error"),
        ("upstream_timeout", b"went silent"),
        ("upstream_error", b"broke off"),
        ("shutdown", b"was charged"),
    ],
)
def test_a_stream_that_was_cut_says_why(reason, said):
    worker = Worker()
    request = worker.held_state(stream=True)
    attempt = answering(worker, request)
    worker.parts.answers.begin_stream(attempt)
    attempt.meter.feed(events(piece("one")))
    assert said in interrupted_end(attempt, attempt.meter, reason)
