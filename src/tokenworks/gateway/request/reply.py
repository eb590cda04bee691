"""Writes a response to the client: head, pieces of a stream, pings, the last bytes.

A stream is chunked, except to an HTTP/1.0 client, which reads until the connection closes.
"""

from typing import Final

from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.refusals import CUT
from tokenworks.gateway.request.state import ArrivedRequest

PING_COMMENT: Final = b": ping\n\n"
PINGS: Final = {"messages": b'event: ping\ndata: {"type": "ping"}\n\n'}


def send_head(request: ArrivedRequest, conn: ClientConnection, first: bytes) -> None:
    """Write the head of a stream with its first bytes."""
    request.headed = True
    if request.head.http10:
        request.head.keep_alive = False
        conn.write(request.response_head + b"connection: close\r\n\r\n" + first)
        return
    close = b"" if conn.keep_alive else b"connection: close\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
    conn.write(request.response_head + close + b"transfer-encoding: chunked\r\n\r\n" + chunk)


def send_piece(request: ArrivedRequest, conn: ClientConnection, piece: bytes) -> None:
    """Write a piece of a stream, which must not be empty."""
    if not request.headed:
        send_head(request, conn, piece)
    elif request.head.http10:
        conn.write(piece)
    else:
        conn.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def end_stream(request: ArrivedRequest, conn: ClientConnection, last: bytes) -> None:
    conn.streamed = True
    if not request.headed:
        send_head(request, conn, last)
        last = b""
    if request.head.http10:
        conn.write(last)
    else:
        conn.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")


def write_whole(request: ArrivedRequest, conn: ClientConnection, body: bytes) -> None:
    close = b"" if conn.keep_alive else b"connection: close\r\n"
    conn.write_whole(b"%b%bcontent-length: %d\r\n\r\n" % (request.response_head, close, len(body)), body)


def ping(request: ArrivedRequest, conn: ClientConnection, now_s: int) -> None:
    """Write a ping. The first one takes the head along, after which the status can't change."""
    request.written_s = now_s
    if not request.headed and not request.response_head:
        request.response_head = _early_head(request)
    send_piece(request, conn, PINGS.get(request.protocol, PING_COMMENT))


def _early_head(request: ArrivedRequest) -> bytes:
    ids = request.request_id.encode()
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-request-id: %b\r\nrequest-id: %b\r\n"
        % (ids, ids)
    ) + request.head.lines


def broke_off(reason: str) -> Refusal:
    """The refusal for a stream that ended half-way."""
    if reason == "upstream_timeout":
        message = "the deployment went silent: what was produced until here was charged"
        return Refusal(504, "upstream_timeout", message)
    if reason == "shutdown":
        return CUT._replace(message=f"{CUT.message}; what was produced until here was charged")
    return Refusal(
        502, "upstream_error", "the deployment broke off: what was produced until here was charged"
    )
