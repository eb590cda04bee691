"""Traces of requests: which request has one, its ids (W3C Trace Context), and the way of its spans to the host's exporter.

A worker never waits for the exporter: spans are kept up to `KEPT_BYTES_MAX` and sent as datagrams without blocking. What does not fit is
dropped and counted. A worker without a tracer does nothing of this.
"""

import os
import re
import socket
from typing import Final

import msgspec

from tokenworks.gateway.span_records import AttemptSpan, RequestSpans

# Limits of the bytes that wait for the exporter in a worker, of a datagram, and of the attempts of a request that have spans.
KEPT_BYTES_MAX: Final = 4_194_304
DATAGRAM_BYTES_MAX: Final = 32_768
ATTEMPTS_MAX: Final = 16
LENGTH_BYTES: Final = 4
SHARE_WHOLE_PPM: Final = 1_000_000

# https://www.w3.org/TR/trace-context/ (3.2): version 00, and what a later version may add behind it. Version ff is invalid.
_TRACEPARENT: Final = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
# The trace ids of which a share is traced are compared by their last 7 bytes, which W3C Trace Context level 2 has made at random.
_RANDOM_BYTES: Final = 7
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_SAMPLED: Final = "01"


class RequestTrace:
    """The trace of one request in flight. Times are UTC milliseconds."""

    __slots__ = ("attempts", "began_ms", "left_out", "parent_id", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, parent_id: bytes, began_ms: int) -> None:
        """`parent_id`: the client's span, or b""."""
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = new_span_id()
        self.began_ms = began_ms
        self.attempts: list[AttemptSpan] = []
        self.left_out = 0  # attempts beyond ATTEMPTS_MAX

    def traceparent(self) -> bytes:
        """The header line that makes the latest attempt's span the parent of the upstream's spans."""
        span_id = self.attempts[-1].span_id if self.attempts else self.span_id
        return f"traceparent: 00-{self.trace_id.hex()}-{span_id.hex()}-{_SAMPLED}\r\n".encode()

    def head(self, head: bytes) -> bytes:
        """The head for an upstream with this trace's line in place of the client's. `head` ends with an unfinished line. The client's
        `tracestate` belongs to its `traceparent`: it goes if that is not continued.
        """
        first, *lines = head.split(b"\r\n")
        last = lines.pop()
        dropped = (b"traceparent:",) if self.parent_id else (b"traceparent:", b"tracestate:")
        kept = [line for line in lines if not line.startswith(dropped)]
        return b"\r\n".join((first, *kept, self.traceparent() + last))


class Tracer:
    """Chooses the requests that are traced, and sends their spans to the exporter's socket."""

    __slots__ = ("_blocked", "_bytes", "_limit", "_lines", "_path", "_socket", "dropped", "sent")

    def __init__(self, share_ppm: int, path: str) -> None:
        """`share_ppm`: how many of a million traces have spans. `path`: of the exporter's datagram socket."""
        self._limit = (share_ppm << (8 * _RANDOM_BYTES)) // SHARE_WHOLE_PPM
        self._path = path
        self._lines: list[bytes] = []
        self._bytes = 0
        self._blocked = False  # until the next flush the exporter takes nothing
        self._socket: socket.socket | None = None
        self.sent = 0
        self.dropped = 0
        """Requests whose spans were sent, and those whose spans did not fit, since the start."""

    def begin(self, traceparent: bytes | None, civil_ms: int) -> RequestTrace | None:
        """The trace of a new request, which continues the client's; None if it has no spans. Whether it has is decided by the trace id
        alone, so a client's flag does not make the gateway trace more, and hosts of one trace decide alike.
        """
        found = None if traceparent is None else parse_traceparent(traceparent)
        trace_id, parent_id = (os.urandom(_TRACE_BYTES), b"") if found is None else found
        if int.from_bytes(trace_id[-_RANDOM_BYTES:], "big") >= self._limit:
            return None
        return RequestTrace(trace_id, parent_id, civil_ms)

    def keep(self, spans: RequestSpans) -> None:
        """Hand the spans of a request that is over to the exporter, soon."""
        data = _encode(spans)
        size = len(data) + LENGTH_BYTES
        if size > DATAGRAM_BYTES_MAX or self._bytes + size > KEPT_BYTES_MAX:
            self.dropped += 1
            return
        self._lines.append(data)
        self._bytes += size
        if self._bytes >= DATAGRAM_BYTES_MAX and not self._blocked:
            self._send()

    def flush(self) -> None:
        """Once a second: send what is kept. What the exporter does not take now is kept for the next turn."""
        self._blocked = False
        self._send()

    def _send(self) -> None:
        while self._lines and not self._blocked:
            frame: list[bytes] = []
            size = 0
            for data in self._lines:
                if size + len(data) + LENGTH_BYTES > DATAGRAM_BYTES_MAX:
                    break
                frame += (len(data).to_bytes(LENGTH_BYTES, "big"), data)
                size += len(data) + LENGTH_BYTES
            if not self._send_datagram(b"".join(frame)):
                self._blocked = True
                return
            count = len(frame) // 2
            del self._lines[:count]
            self._bytes -= size
            self.sent += count

    def _send_datagram(self, data: bytes) -> bool:
        """False if the exporter is not there or takes nothing now."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(data, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """The worker ends: send what is kept, and drop what the exporter does not take."""
        self.flush()
        self.dropped += len(self._lines)
        self._lines, self._bytes = [], 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def parse_traceparent(value: bytes) -> tuple[bytes, bytes] | None:
    """(trace id, the client's span id) of a `traceparent` header; None if it is not valid."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, more = match.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == b"00" and more):
        return None
    return bytes.fromhex(trace_id.decode()), bytes.fromhex(span_id.decode())


def new_span_id() -> bytes:
    return os.urandom(_SPAN_BYTES)


def read_datagram(data: bytes) -> list[RequestSpans]:
    """The spans in a worker's datagram. Raises `ValueError` if it is none, or of a release with other spans."""
    found, at = [], 0
    while at < len(data):
        begin = at + LENGTH_BYTES
        end = begin + int.from_bytes(data[at:begin], "big")
        if end > len(data):
            raise ValueError("a datagram of spans is cut")
        try:
            found.append(_decode(data[begin:end]))
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None
        at = end
    return found


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(RequestSpans).decode
