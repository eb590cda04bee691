"""A client's connection: heads and bodies in, responses out, with limits, time-outs and back-pressure.

llhttp reads heads and chunked bodies; a body with a length is taken by its length, so nothing that a header says can
swallow it. A request that comes while one is served waits in a bounded buffer and is answered in order.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
import structlog

from tokenworks.gateway.errors import Refusal, error_response
from tokenworks.gateway.head import Head, HeadError, Sink, around_length, parse_head
from tokenworks.gateway.upstream import WRITE_APART_BYTES

if TYPE_CHECKING:
    from tokenworks.gateway.gateway import Gateway

log = structlog.get_logger()

_HEAD, _BODY, _CHUNKED, _BUSY, _CLOSED = range(5)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_after", "_before", "_body", "_body_left", "_buffer", "_gateway", "_head", "_memo", "_parser", "_sink", "_state", "deadline_s",
        "exchange", "peer", "transport", "wheel_s", "write_paused",
    )  # fmt: skip

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.exchange: Any = None
        self.write_paused = False
        self._buffer = b""
        self._state = _HEAD
        self._head: Head | None = None
        self._memo: Head | None = None
        self._before = b""
        self._after = b""
        self._parser: Any = None
        self._sink: Sink | None = None
        self._body: list[bytes | memoryview] = []
        self._body_left = 0
        self.deadline_s = 0
        self.wheel_s = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        gateway = self._gateway
        peer = self.transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        gateway.stats.c["connections"] += 1
        refused = bool(gateway.proxies) and not gateway.is_proxy(self.peer)
        if refused or len(gateway.connections) >= gateway.settings.connections_max:
            self._state = _CLOSED
            self.transport.abort()
            return
        gateway.connections.add(self)
        self.transport.set_write_buffer_limits(high=gateway.settings.write_buffer_bytes)
        gateway.wheel.set(self, gateway.settings.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self.transport = None
        self._gateway.connections.discard(self)
        self._gateway.wheel.remove(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        # Gone. Somebody could still read who only closed his sending side, but nobody does: a request that nobody
        # waits for must not go on costing.
        return False

    # In.

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _BODY:
            self._take_body(data)
        elif state == _CHUNKED:
            self._take_chunked(data)
        elif state == _HEAD:
            if self._buffer:
                data = self._buffer + data
            if self._memo is not None and data.startswith(self._before):
                self._take_known_head(self._memo, data)
            else:
                self._take_head(data)
        elif state == _BUSY:
            self._buffer += data
            if len(self._buffer) > self._gateway.settings.header_bytes_max and self.transport is not None:
                self.transport.pause_reading()

    def _take_known_head(self, head: Head, data: bytes) -> None:
        """A head like the last one, but for its content length."""
        at = len(self._before)
        end = data.find(b"\r", at, at + 13)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            self._take_head(data)
            return
        self._buffer = b""
        head.body_length = int(digits)
        self._head = head
        self._take_length(head, data, end + len(self._after))

    def _take_head(self, data: bytes) -> None:
        gateway = self._gateway
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if data[:2] == b"\r\n":
                data = data[2:]
            if len(data) > gateway.settings.header_bytes_max:
                self.refuse(
                    Refusal(
                        431,
                        "headers_too_large",
                        f"the headers are over {gateway.settings.header_bytes_max} bytes",
                    )
                )
            elif data and not 0x41 <= data[0] <= 0x5A:
                self.refuse(Refusal(400, "bad_request", "this is not HTTP/1.1"))
            else:
                if data and not self._buffer:
                    gateway.wheel.set(self, gateway.settings.header_timeout_s)
                self._buffer = data
            return
        end += 4
        if end > gateway.settings.header_bytes_max:
            self.refuse(
                Refusal(
                    431,
                    "headers_too_large",
                    f"the headers are over {gateway.settings.header_bytes_max} bytes",
                )
            )
            return
        raw = data if end == len(data) else data[:end]
        self._buffer = b""
        self._memo = None
        try:
            head, self._parser, self._sink = parse_head(raw, gateway.settings.header_count_max)
        except HeadError as error:
            self.refuse(error.refusal)
            return
        self._head = head
        if head.chunked:
            self._state = _CHUNKED
            self._body_left = gateway.settings.body_bytes_max
            rest = data[end:]
            self._expect_body(head, sent=bool(rest))
            self._take_chunked(rest)
            return
        self._parser = self._sink = None
        around = around_length(raw)
        if around is not None:
            self._memo = head
            self._before, self._after = around
        self._take_length(head, data, end)

    def _take_length(self, head: Head, data: bytes, at: int) -> None:
        """The body begins at `at`; its length is known."""
        have = len(data) - at
        if head.body_length > self._gateway.settings.body_bytes_max:
            self.refuse(
                Refusal(
                    413,
                    "body_too_large",
                    f"a body is at most {self._gateway.settings.body_bytes_max} bytes",
                )
            )
        elif have == head.body_length:
            self._ready(head, data[at:])
        elif have > head.body_length:
            self._buffer = data[at + head.body_length :]
            self._ready(head, data[at : at + head.body_length])
        else:
            self._state = _BODY
            self._body = [memoryview(data)[at:]] if have else []
            self._body_left = head.body_length - have
            self._expect_body(head, sent=have > 0)

    def _expect_body(self, head: Head, *, sent: bool) -> None:
        refusal = self._gateway.refuse_early(head)
        if refusal is not None:
            self.refuse(refusal)
            return
        self._gateway.wheel.set(self, self._gateway.settings.body_timeout_s)
        if head.expect and not sent and self.transport is not None:
            self.transport.write(CONTINUE)

    def _take_body(self, data: bytes) -> None:
        left = self._body_left
        if len(data) < left:
            self._body.append(data)
            self._body_left = left - len(data)
            return
        if len(data) > left:
            self._buffer = data[left:]
            data = data[:left]
        self._body.append(data)
        body = b"".join(self._body)
        self._body = []
        assert self._head is not None
        self._ready(self._head, body)

    def _take_chunked(self, data: bytes) -> None:
        if self._state != _CHUNKED:
            return
        assert self._sink is not None
        assert self._head is not None
        try:
            if data:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refuse(Refusal(400, "bad_request", "the chunked body is malformed"))
            return
        if sum(map(len, self._sink.body)) > self._gateway.settings.body_bytes_max:
            self.refuse(
                Refusal(
                    413, "body_too_large", f"a body is at most {self._gateway.settings.body_bytes_max} bytes"
                )
            )
        elif self._sink.complete:
            body = b"".join(self._sink.body)
            self._parser = self._sink = None
            # What follows a chunked body was read by its parser: the connection ends with this answer.
            self._head.keep_alive = False
            self._ready(self._head, body)
        elif len(self._sink.body) > 64:
            self._sink.body[:] = [b"".join(self._sink.body)]

    def _ready(self, head: Head, body: bytes) -> None:
        self._state = _BUSY
        self.deadline_s = 0
        if (
            self._buffer
            and len(self._buffer) > self._gateway.settings.header_bytes_max
            and self.transport is not None
        ):
            self.transport.pause_reading()
        try:
            self._gateway.dispatch(self, head, body)
        except Exception:  # a defect of ours costs this client its connection, and nobody else anything
            log.exception("server.dispatch_failed", path=head.path)
            self.abort()

    # Out.

    @property
    def keep_alive(self) -> bool:
        return self._head is not None and self._head.keep_alive and not self._gateway.draining

    def write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """A response in two pieces: joining a large body to its head would cost more than the second piece."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if len(body) < WRITE_APART_BYTES:
                transport.write(head + body)
            else:
                transport.writelines((head, body))

    def refuse(self, refusal: Refusal, protocol: str | None = None, request_id: str | None = None) -> None:
        """Answer with an error. Where the request was not read to its end, the connection ends, too."""
        gateway = self._gateway
        gateway.count_refusal(refusal)
        close = self._state != _BUSY or not self.keep_alive
        head = self._head is not None and self._head.method == b"HEAD"
        if protocol is None:
            protocol = (
                "messages"
                if self._head is not None and self._head.path.startswith("/v1/messages")
                else "chat"
            )
        self.write(
            error_response(refusal, protocol, request_id or gateway.ids.next(), close=close, head=head)
        )
        if close:
            self._end()
        else:
            self.done()

    def done(self) -> None:
        """The response is written: the next request, or the end."""
        self.exchange = None
        if self._state == _CLOSED:
            return
        if not self.keep_alive:
            self._end()
            return
        self._state = _HEAD
        gateway = self._gateway
        wheel = gateway.wheel
        self.deadline_s = at = wheel.now_s + gateway.settings.idle_timeout_s + 1
        if not self.wheel_s or at < self.wheel_s:
            wheel.put(self, at)
        if self._buffer:
            assert self.transport is not None
            self.transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._state == _HEAD and self._buffer:
            data, self._buffer = self._buffer, b""
            self._take_head(data)

    def _end(self) -> None:
        self._state = _CLOSED
        self._buffer = b""
        self._body = []
        self._gateway.wheel.set(self, 5)  # what is written may take so long to leave
        if self.transport is not None:
            if self.transport.get_write_buffer_size():
                self.transport.close()
            else:
                # Let the client read the answer before a reset for its unread bytes could destroy it.
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                asyncio.get_running_loop().call_later(0.05, self._abort)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """The response can't be finished: the client must not take it for whole."""
        self._state = _CLOSED
        if self.transport is not None:
            self.transport.abort()

    def timed_out(self) -> None:
        if self.transport is None:
            return
        if self._state in {_BODY, _CHUNKED} or (self._state == _HEAD and self._buffer):
            self.refuse(Refusal(408, "request_timeout", "the request did not arrive in time"))
        else:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Draining: who waits for nothing is let go."""
        if self._state == _HEAD and not self._buffer and self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._gateway.wheel.set(self, self._gateway.settings.write_timeout_s)
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._state == _BUSY:
            self._gateway.wheel.clear(self)
        if self.exchange is not None:
            self.exchange.resume()
