"""The response that gives a stored answer again. Its body is what was stored; its head, and the cost in it, are of the repeat itself."""

from typing import Final

from tokenworks.charging import RESPONSE_CACHE, ReplayFound, ReplayKind
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.fields import dropped_header
from tokenworks.gateway.request.cost import stream_end, whole_answer
from tokenworks.gateway.request.rate_headers import admitted_lines
from tokenworks.gateway.request.reply import end_stream, write_whole
from tokenworks.gateway.request.state import HeldRequest

_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-request-id: %b\r\nrequest-id: %b\r\nx-tokenworks-replayed: %b\r\n%b"


def write_replayed(
    request: HeldRequest, conn: ClientConnection, found: ReplayFound, kind: ReplayKind, now_ms: int
) -> None:
    """Write a stored answer whose replay is recorded. `now_ms`: civil time."""
    request.response_head = _head(request, found, kind, now_ms)
    body = found.answer
    if request.parsed.stream:
        end_stream(request, conn, stream_end(request, None, body) if request.wants_cost else body)
    else:
        write_whole(request, conn, whole_answer(request, body) if request.wants_cost else body)


def _head(request: HeldRequest, found: ReplayFound, kind: ReplayKind, now_ms: int) -> bytes:
    ids = request.request_id.encode()
    lines = [
        _HEAD % (found.media_type.encode(), ids, ids, found.request_id.encode(), request.head.lines),
    ]
    if kind == RESPONSE_CACHE:
        lines.append(b"x-tokenworks-cache: hit\r\nage: %d\r\n" % found.age_s)
    if request.intent is not None or request.falls_back:
        lines += (b"x-tokenworks-model: ", request.model.encode(), b"\r\n")
        if request.choice is not None:
            lines += (b"x-tokenworks-choice: ", request.choice.encode(), b"\r\n")
    if request.admission is not None:
        lines.append(admitted_lines(request.admission, request.protocol, now_ms))
    if request.parsed.dropped:
        lines += (b"x-tokenworks-dropped: ", dropped_header(request.parsed.dropped), b"\r\n")
    return b"".join(lines)
