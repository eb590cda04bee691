"""Writes a response to the client: head, pieces of a stream, pings, end, and the end of a stream that was cut.

A stream is chunked, except to an HTTP/1.0 client, which reads until the connection closes.
"""

from typing import Final

from tokenworks.charging import Verdict
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal, cut_events, error_event
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter
from tokenworks.gateway.request.answer import Answers
from tokenworks.gateway.request.refusals import CUT, no_hold
from tokenworks.gateway.request.state import AnsweredAttempt, ArrivedRequest
from tokenworks.gateway.request.translating import failure_noted
from tokenworks.gateway.translate.translation import TranslationFailed

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


def write_end(conn: ClientConnection, attempt: AnsweredAttempt, answers: Answers, interrupted: str) -> None:
    """Write the end of a response whose record is on disk. `interrupted`: why a stream is not complete, or ""."""
    request, meter = attempt.request, attempt.meter
    if meter is not None:
        last = interrupted_end(attempt, meter, interrupted) if interrupted else complete_end(attempt, meter)
        end_stream(request, conn, last)
    elif attempt.whole is not None:
        write_whole(request, conn, answers.translated_body(attempt, attempt.whole))
    else:
        write_whole(request, conn, attempt.chunks[0] if attempt.chunks else b"")


def complete_end(attempt: AnsweredAttempt, meter: StreamMeter) -> bytes:
    """The last events of a stream that is complete. The client of a translated one gets what the record counts, if its upstream reported
    no usage.
    """
    translator, record = attempt.translator, attempt.request.record
    if translator is None:
        return meter.withheld
    try:
        return translator.finish(meter.withheld, None if record is None else record.c)
    except (EventTooLarge, TranslationFailed) as error:
        return _untranslated_end(attempt, error)


def _untranslated_end(attempt: AnsweredAttempt, error: Exception) -> bytes:
    """The end of a stream whose own end can't be translated."""
    request = attempt.request
    if isinstance(error, TranslationFailed):
        failure_noted(error, attempt.protocol)
    return error_event(broke_off("upstream_error"), request.protocol, request.request_id)


def interrupted_end(attempt: AnsweredAttempt, meter: StreamMeter, reason: str) -> bytes:
    """The last events of a stream that was cut. A client does not take them for the end of a whole answer, except those of a stream that
    reached its maximum.

    If nothing is left they are the final unit action in the client's protocol: a chunk with a finish reason, then the cause and what
    to do.
    """
    request, translator = attempt.request, attempt.translator
    refusal: Refusal | None = None
    if reason in {"nothing_left", "hold_unavailable"}:
        verdict = Verdict.NOTHING_LEFT if reason == "nothing_left" else Verdict.AWAY
        refusal = no_hold(verdict, request.user)
    elif reason != "beyond_maximum":
        return error_event(broke_off(reason), request.protocol, request.request_id)
    if translator is not None:
        event = b"" if refusal is None else error_event(refusal, request.protocol, request.request_id)
        try:
            return translator.cut(event, meter.counts() if request.record is None else request.record.c)
        except (EventTooLarge, TranslationFailed) as error:
            return _untranslated_end(attempt, error)
    return cut_events(
        refusal,
        request.protocol,
        request.request_id,
        request.parsed.model,
        meter.upstream_id,
        meter.progress,
    )
