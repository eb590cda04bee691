"""A client's connection: heads and bodies in, responses out, with limits, time-outs and back-pressure.

llhttp reads heads and chunked bodies; a body with a length is taken by its length, so nothing that a header says can
swallow it. A request that comes while one is served waits in a bounded buffer and is answered in order. What is kept of
heads and bodies is counted in the worker's memory budget under the client's address.
"""

import asyncio
import fcntl
import struct
import termios
import time
from typing import Final, Protocol, cast

import structlog

from tokenworks.gateway.http.chunked import ChunkedBody, ChunkedError
from tokenworks.gateway.http.head import MEMO_BYTES_MAX, Head, HeadError, around_length, parse_head
from tokenworks.gateway.http.proxies import Proxies
from tokenworks.gateway.http.upstream import WRITE_APART_BYTES
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.protocol.errors import Refusal, error_response, in_language
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()

_HEAD, _BODY, _CHUNKED, _BUSY, _CLOSED = range(5)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Pieces of a body that are smaller are put together as they come: each object of its own takes 40 bytes beside its data.
SMALL_PIECE_BYTES: Final = 4096
# A remembered head is there three times: before and after its length, and as headers.
MEMO_TIMES: Final = 3
DISCARDED_BYTES_MAX: Final = 4_194_304
# An answer that was handed over to the system may take so long to arrive before the connection is closed.
END_TIMEOUT_S: Final = 5
# A chunked body is read in pieces, in case its chunks are of a few bytes; what takes long is put off.
CHUNKED_PIECE_BYTES: Final = 8192


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the client has not acknowledged. The system's send buffer counts, too: it takes more only
    when a third of it is free, which at its four megabytes is longer than a time-out for somebody who reads slowly.
    """
    size = transport.get_write_buffer_size()
    if not size:
        return 0
    number: int = transport.get_extra_info("socket").fileno()
    if number < 0:
        return size
    (queued,) = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))
    return size + int(queued)


class Served(Protocol):
    """What a connection is busy with, from its request to the end of the response."""

    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Routes(Protocol):
    """Where a connection's requests go."""

    @property
    def connections(self) -> "set[ClientConnection]":
        """Those that are open."""

    @property
    def proxies(self) -> Proxies: ...

    def after_head(self, conn: "ClientConnection", head: Head) -> None:
        """Notes of a head what does not change while a connection sends the same again."""

    def refuse_early(self, head: Head) -> Refusal | None:
        """What can be said before a body is read."""

    def dispatch(self, conn: "ClientConnection", head: Head, body: bytes) -> None: ...

    def refused(self, refusal: Refusal, request_id: str, head: Head | None) -> None:
        """A connection refused what never became an exchange."""


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_after", "_before", "_body", "_body_left", "_buffer", "_buffer_taken", "_chunked", "_head", "_memo", "_memo_taken", "_partial", "_routes", "_shared", "_state",
        "_taken", "_unread", "_unsent", "_whole", "address", "deadline_s", "exchange", "peer", "streamed", "transport", "wheel_s", "write_paused",
    )  # fmt: skip

    def __init__(self, shared: Shared, routes: Routes) -> None:
        self._shared = shared
        self._routes = routes
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.address = ""  # the client's, behind a trusted proxy: under it memory is counted
        self.exchange: Served | None = None
        self.streamed = False  # the last answer was a stream
        self.write_paused = False
        self._buffer = b""
        self._partial: bytearray | None = None  # a head that is not whole
        self._state = _HEAD
        self._head: Head | None = None
        self._memo: Head | None = None
        self._before = b""
        self._after = b""
        self._chunked: ChunkedBody | None = None
        self._body: list[bytes | bytearray | memoryview] = []
        self._body_left = 0
        self._whole = False  # a whole answer is being written
        # What the client had not taken when that was last looked at, with what was written since.
        self._unsent = 0
        # Bytes that the budget counts: of the request, of what waits behind it, of the memo, of what is not read.
        self._taken = self._buffer_taken = self._memo_taken = self._unread = 0
        self.deadline_s = 0
        self.wheel_s = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        shared, routes = self._shared, self._routes
        peer = self.transport.get_extra_info("peername")
        self.peer = self.address = peer[0] if isinstance(peer, tuple) else ""
        shared.stats.c["connections"] += 1
        proxies = routes.proxies
        refused = bool(proxies.networks) and not proxies.trusts(self.peer)
        if refused or len(routes.connections) >= shared.settings.connections_max:
            self._state = _CLOSED
            self.transport.abort()
            return
        routes.connections.add(self)
        self.transport.set_write_buffer_limits(high=shared.settings.write_buffer_bytes)
        shared.wheel.set(self, shared.settings.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self.transport = None
        self._routes.connections.discard(self)
        self._shared.wheel.remove(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()
        elif self.streamed and isinstance(exc, ConnectionResetError):
            # A client that stops at the finish reason leaves the rest of the stream unread.
            self._shared.stats.c["free_rider_left_at_finish"] += 1
        self._give_all()

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
            if self._partial is not None:
                self._take_more_head(self._partial, data)
                return
            if self._buffer:
                data = self._waiting() + data
            if self._memo is not None and data.startswith(self._before):
                self._take_known_head(self._memo, data)
            else:
                self._take_head(data)
        elif state == _BUSY:
            self._wait_behind(data)
        else:
            self._discard(len(data))

    def _discard(self, count: int) -> None:
        """Bytes after the last answer: read so that it arrives, but not without end."""
        self._body_left += count
        if self._body_left > DISCARDED_BYTES_MAX and self.transport is not None:
            self.transport.abort()

    def _wait_behind(self, data: bytes) -> None:
        """Bytes of a next request while one is served."""
        if not self._shared.memory.take(self.address, len(data)):
            # They are not kept: the connection ends with the answer that is on its way.
            if self._head is not None:
                self._head.keep_alive = False
            if self.transport is not None:
                self.transport.pause_reading()
            return
        self._buffer_taken += len(data)
        self._buffer += data
        if len(self._buffer) > self._shared.settings.header_bytes_max and self.transport is not None:
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

    def _take_more_head(self, partial: bytearray, data: bytes) -> None:
        """More of a head that came in pieces: only what is new is looked at."""
        before = len(partial)
        partial += data
        if partial.find(b"\r\n\r\n", max(0, before - 3)) >= 0:
            self._partial = None
            self._give()
            self._take_head(bytes(partial))
        elif len(partial) > self._shared.settings.header_bytes_max:
            self._partial = None
            self.refuse(self._head_too_large())
        elif len(partial) > UNCOUNTED_BYTES:
            self.keep(len(partial) - self._taken)

    def _head_too_large(self) -> Refusal:
        most = self._shared.settings.header_bytes_max
        return Refusal(431, "headers_too_large", f"the headers are over {most} bytes")

    def _take_head(self, data: bytes) -> None:
        shared = self._shared
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._begin_head(data)
            return
        end += 4
        if end > shared.settings.header_bytes_max:
            self.refuse(self._head_too_large())
            return
        raw = data if end == len(data) else data[:end]
        self._buffer = b""
        self._forget_memo()
        try:
            head = parse_head(raw, shared.settings.header_count_max)
        except HeadError as error:
            self.refuse(error.refusal)
            return
        self._head = head
        self._routes.after_head(self, head)
        if head.chunked:
            self._state = _CHUNKED
            self._chunked = ChunkedBody(head.body_max)
            rest = data[end:]
            self._expect_body(head, sent=bool(rest))
            if rest:
                self._take_chunked(rest)
            return
        if len(raw) <= MEMO_BYTES_MAX:
            around = around_length(raw)
            if around is not None and shared.memory.take_memo(self.address, MEMO_TIMES * len(raw)):
                self._memo = head
                self._memo_taken = MEMO_TIMES * len(raw)
                self._before, self._after = around
        self._take_length(head, data, end)

    def _begin_head(self, data: bytes) -> None:
        """The first piece of a head that is not whole."""
        shared = self._shared
        if data[:2] == b"\r\n":
            data = data[2:]
        if len(data) > shared.settings.header_bytes_max:
            self.refuse(self._head_too_large())
        elif data and not 0x41 <= data[0] <= 0x5A:
            self.refuse(Refusal(400, "bad_request", "this is not HTTP/1.1"))
        elif data:
            shared.wheel.set(self, shared.settings.header_timeout_s)
            self._buffer = b""
            self._partial = bytearray(data)
            if len(data) > UNCOUNTED_BYTES:
                self.keep(len(data))

    def _take_length(self, head: Head, data: bytes, at: int) -> None:
        """The body begins at `at`; its length is known."""
        have = len(data) - at
        length = head.body_length
        if length > head.body_max:
            self.refuse(self._body_too_large(head))
            return
        if have >= length:
            if length > UNCOUNTED_BYTES and not self.keep(length * head.copies):
                return
            if have > length:
                self._buffer = data[at + length :]
                self._ready(head, data[at : at + length])
            else:
                self._ready(head, data[at:])
            return
        self._state = _BODY
        self._body_left = length - have
        self._expect_body(head, sent=have > 0)
        if have and self._state == _BODY and self.keep(have * head.copies):
            self._body = [data[at:]]

    def _body_too_large(self, head: Head) -> Refusal:
        return Refusal(413, "body_too_large", f"a body is at most {head.body_max} bytes here")

    def _expect_body(self, head: Head, *, sent: bool) -> None:
        refusal = self._routes.refuse_early(head)
        if refusal is not None:
            self.refuse(refusal)
            return
        self._shared.wheel.set(self, self._shared.settings.body_timeout_s)
        if head.expect and not sent and self.transport is not None:
            self.transport.write(CONTINUE)

    def _take_body(self, data: bytes) -> None:
        left = self._body_left
        size = len(data)
        if size > left:
            self._buffer = data[left:]
            data = data[:left]
            size = left
        assert self._head is not None
        if not self.keep(size * self._head.copies):
            return
        pieces = self._body
        if size >= SMALL_PIECE_BYTES or not pieces:
            pieces.append(data)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += data
        else:
            pieces.append(bytearray(data))
        self._body_left = left - size
        if left > size:
            return
        body = b"".join(pieces)
        self._body = []
        self._ready(self._head, body)

    def _take_chunked(self, data: bytes) -> None:
        """A piece at once, and more while the loop has time; the rest waits for turns of its own, and reading with it."""
        turns = self._shared.turns
        at = 0
        while at < len(data) and self._state == _CHUNKED and turns.free():
            begun_s = time.perf_counter()
            self._feed_chunked(data[at : at + CHUNKED_PIECE_BYTES])
            at += CHUNKED_PIECE_BYTES
            turns.spent(begun_s)
        if at >= len(data):
            return
        rest = data[at:]
        if self._state != _CHUNKED:
            self.data_received(rest)
            return
        if self.transport is not None:
            self.transport.pause_reading()
        turns.later(lambda: self._chunked_turn(rest))

    def _chunked_turn(self, data: bytes) -> None:
        if self._state == _CHUNKED:
            self._feed_chunked(data[:CHUNKED_PIECE_BYTES])
            data = data[CHUNKED_PIECE_BYTES:]
        if self._state == _CHUNKED and data:
            self._shared.turns.later(lambda: self._chunked_turn(data))
            return
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            if data:
                self.data_received(data)

    def _feed_chunked(self, data: bytes) -> None:
        chunked, head = self._chunked, self._head
        assert chunked is not None
        assert head is not None
        before = len(chunked.data)
        try:
            chunked.feed(data)
        except ChunkedError as error:
            self._chunked = None
            if error.status == 413:
                self.refuse(self._body_too_large(head))
            elif error.status == 431:
                self.refuse(
                    Refusal(431, "headers_too_large", "trailers, or a chunk's extensions, are too long")
                )
            else:
                self.refuse(Refusal(400, "bad_request", "the chunked body is malformed"))
            return
        if not self.keep((len(chunked.data) - before) * head.copies):
            self._chunked = None
        elif chunked.complete:
            self._chunked = None
            if chunked.overrun:
                head.keep_alive = False
            self._ready(head, bytes(chunked.data))

    def _ready(self, head: Head, body: bytes) -> None:
        self._state = _BUSY
        self.streamed = False
        self.deadline_s = 0
        if self._buffer:
            waiting, self._buffer = self._buffer, b""
            self._wait_behind(waiting)
        try:
            self._routes.dispatch(self, head, body)
        except Exception:  # a defect of ours costs this client its connection, and nobody else anything
            log.exception("server.dispatch_failed", path=head.path)
            self.abort()

    # What is kept, and counted.

    def count(self, count: int) -> bool:
        """Whether the budget has room for `count` bytes more of this request. They are given back with the request's end."""
        if self._shared.memory.take(self.address, count):
            self._taken += count
            return True
        return False

    def keep(self, count: int) -> bool:
        """The same; where there is no room, the request is refused."""
        if self.count(count):
            return True
        self.refuse(self._shared.memory.refusal(self.address, count))
        return False

    def _give(self) -> None:
        if self._taken:
            self._shared.memory.give(self.address, self._taken)
            self._taken = 0

    def _give_all(self) -> None:
        self._shared.memory.give(
            self.address, self._taken + self._buffer_taken + self._memo_taken + self._unread
        )
        self._taken = self._buffer_taken = self._memo_taken = self._unread = 0
        self._body = []
        self._buffer = b""
        self._partial = self._chunked = self._memo = None

    def _forget_memo(self) -> None:
        if self._memo is not None:
            self._memo = None
            self._shared.memory.give(self.address, self._memo_taken)
            self._memo_taken = 0

    def set_address(self, address: str) -> None:
        """Whom the next request is counted under. What waits behind this one moves along."""
        if address != self.address:
            memory = self._shared.memory
            kept = self._taken + self._buffer_taken + self._memo_taken + self._unread
            memory.give(self.address, kept)
            self.address = address
            if kept:
                memory.force(address, kept)

    # Out.

    @property
    def keep_alive(self) -> bool:
        shared = self._shared
        return (
            self._head is not None and self._head.keep_alive and not shared.draining and not shared.retiring
        )

    def write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if self.write_paused:
                self._unsent += len(data)
            transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """A response in two pieces: joining a large body to its head would cost more than the second piece."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if self.write_paused:
                self._unsent += len(head) + len(body)
            if len(body) < WRITE_APART_BYTES:
                transport.write(head + body)
            else:
                self._whole = True
                transport.writelines((head, body))
                self._whole = False

    def refuse(self, refusal: Refusal, protocol: str | None = None, request_id: str | None = None) -> None:
        """Answer with an error. Where the request was not read to its end, the connection ends, too."""
        shared = self._shared
        shared.count_refusal(refusal)
        close = self._state != _BUSY or not self.keep_alive
        asked = self._head
        if asked is not None:
            refusal = in_language(refusal, asked.headers.get(b"accept-language"))
        if protocol is None:
            protocol = "messages" if asked is not None and asked.messages else "chat"
        if request_id is None:
            request_id = shared.ids.next()
            self._routes.refused(refusal, request_id, asked)
        self.write(
            error_response(
                refusal,
                protocol,
                request_id,
                close=close,
                head=asked is not None and asked.method == b"HEAD",
                lines=b"" if asked is None else asked.lines,
            )
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
        self._head = None
        if self.transport is not None:
            self._unsent = _untaken(self.transport)
        if self._taken:
            self._give()
        shared = self._shared
        wheel = shared.wheel
        settings = shared.settings
        wait_s = settings.write_timeout_s if self.write_paused else settings.idle_timeout_s
        self.deadline_s = at = wheel.now_s + wait_s + 1
        if not self.wheel_s or at < self.wheel_s:
            wheel.put(self, at)
        if self._buffer:
            assert self.transport is not None
            self.transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._state == _HEAD and self._buffer:
            self._take_head(self._waiting())

    def _waiting(self) -> bytes:
        """What came behind the last request."""
        data, self._buffer = self._buffer, b""
        self._shared.memory.give(self.address, self._buffer_taken)
        self._buffer_taken = 0
        return data

    def _end(self) -> None:
        self._state = _CLOSED
        self._body_left = 0
        unread, self._unread = self._unread, 0  # what is written is still there
        self._give_all()
        self._unread = unread
        if self.transport is not None:
            self._unsent = _untaken(self.transport)
        wait_s = self._shared.settings.write_timeout_s if self._unsent else END_TIMEOUT_S
        self._shared.wheel.set(self, wait_s)
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
        if self._state in {_BODY, _CHUNKED} or (self._state == _HEAD and (self._buffer or self._partial)):
            self.refuse(Refusal(408, "request_timeout", "the request did not arrive in time"))
            return
        before, self._unsent = self._unsent, _untaken(self.transport)
        if 0 < self._unsent < before:
            # It reads, however slowly.
            self._shared.wheel.set(self, self._shared.settings.write_timeout_s)
        else:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Draining: who waits for nothing is let go."""
        if self._state == _HEAD and not self._buffer and not self._partial and self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.transport is not None:
            # What a slow reader leaves here is counted, too.
            unread = self.transport.get_write_buffer_size()
            self._unsent = _untaken(self.transport)
            if self._shared.memory.take(self.address, unread):
                self._unread += unread
            elif self._whole:
                # The answer was counted as it came.
                self._shared.memory.force(self.address, unread)
                self._unread += unread
            else:
                self._shared.stats.c["slow_readers_cut"] += 1
                self.abort()
                return
        self._shared.wheel.set(self, self._shared.settings.write_timeout_s)
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._unread:
            self._shared.memory.give(self.address, self._unread)
            self._unread = 0
        if self._state == _BUSY:
            self._shared.wheel.clear(self)
        elif self._state == _HEAD and not self._buffer and self._partial is None:
            self._shared.wheel.set(self, self._shared.settings.idle_timeout_s)
        if self.exchange is not None:
            self.exchange.resume()
