"""A client's connection: heads and bodies in, responses out, with limits, time-outs and back-pressure.

llhttp parses heads and chunked bodies. A body with a content length is taken by its length, so no other header can swallow it.
A request that comes while another one is served waits in a bounded buffer; requests are answered in order. The memory of heads and
bodies is counted in the worker's budget under the client's address.
"""

import asyncio
from typing import Final, Protocol, cast

import structlog

from tokenworks.gateway.http import refusals
from tokenworks.gateway.http.chunked_reader import ChunkedReader
from tokenworks.gateway.http.connection_memory import ConnectionMemory
from tokenworks.gateway.http.head import Head, HeadError, parse_head
from tokenworks.gateway.http.head_memo import MEMO_TIMES, HeadMemo
from tokenworks.gateway.http.proxies import Proxies
from tokenworks.gateway.http.sockets import unacknowledged_bytes
from tokenworks.gateway.http.upstream import WRITE_APART_BYTES
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()

_HEAD, _BODY, _CHUNKED, _BUSY, _CLOSED = range(5)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Smaller pieces of a body are joined as they come: each object takes 40 bytes beside its data.
SMALL_PIECE_BYTES: Final = 4096
DISCARDED_BYTES_MAX: Final = 4_194_304
# The connection is closed this long after the answer was handed over to the operating system.
END_TIMEOUT_S: Final = 5


class ServedRequest(Protocol):
    """The request that a connection serves, from its arrival to the end of the response."""

    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Routes(Protocol):
    """The routes of a worker's requests."""

    @property
    def connections(self) -> "set[ClientConnection]":
        """The open connections."""

    @property
    def proxies(self) -> Proxies: ...

    def after_head(self, conn: "ClientConnection", head: Head) -> None:
        """Set the fields of a head that stay the same while the connection repeats it."""

    def refuse_early(self, head: Head) -> Refusal | None:
        """The refusal of a request before its body is read; None if it may go on."""

    def dispatch(self, conn: "ClientConnection", head: Head, body: bytes) -> None: ...

    def refused(self, refusal: Refusal, request_id: str, head: Head | None) -> None:
        """The connection refused a request before it was dispatched."""


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_body", "_body_left", "_buffer", "_chunked", "_head", "_memo", "_memory", "_partial", "_routes", "_shared", "_state", "_unacknowledged_bytes", "_writes_whole",
        "address", "deadline_s", "exchange", "peer", "streamed", "transport", "wheel_s", "write_paused",
    )  # fmt: skip

    def __init__(self, shared: Shared, routes: Routes) -> None:
        self._shared = shared
        self._routes = routes
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.address = ""  # of the client, also behind a trusted proxy: memory is counted under it
        self.exchange: ServedRequest | None = None
        self.streamed = False  # the last answer was a stream
        self.write_paused = False
        self._buffer = b""
        self._partial: bytearray | None = None  # an incomplete head
        self._state = _HEAD
        self._head: Head | None = None
        self._memo = HeadMemo()
        self._chunked: ChunkedReader | None = None
        self._body: list[bytes | bytearray | memoryview] = []
        self._body_left = 0
        self._writes_whole = False  # a whole answer is being written
        # Bytes that the client had not acknowledged at the last check, and bytes written since then.
        self._unacknowledged_bytes = 0
        self._memory = ConnectionMemory(shared.memory)
        self.deadline_s = 0
        self.wheel_s = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        shared, routes = self._shared, self._routes
        peer = self.transport.get_extra_info("peername")
        self.peer = self.address = self._memory.address = peer[0] if isinstance(peer, tuple) else ""
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
        self._memory.give_unread()
        self._forget_all()

    def eof_received(self) -> bool:
        # The client is taken for gone. It could have closed its sending side alone and still read, but no client does so, and
        # a request whose client has gone must not go on and cost tokens.
        return False

    # In.

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _BODY:
            self._take_body(data)
        elif state == _CHUNKED:
            assert self._chunked is not None
            self._chunked.feed(data)
        elif state == _HEAD:
            if self._partial is not None:
                self._take_more_head(self._partial, data)
                return
            if self._buffer:
                data = self._take_buffer() + data
            memo = self._memo
            head = memo.head
            at = memo.body_start(head, data) if head is not None and data.startswith(memo.before) else -1
            if head is None or at < 0:
                self._take_head(data)
            else:
                self._buffer = b""
                self._head = head
                self._take_sized_body(head, data, at)
        elif state == _BUSY:
            self._keep_next_request(data)
        else:
            self._discard(len(data))

    def _discard(self, count: int) -> None:
        """Drop bytes that come after the last answer. They are read, up to a limit, so that the answer arrives."""
        self._body_left += count
        if self._body_left > DISCARDED_BYTES_MAX and self.transport is not None:
            self.transport.abort()

    def _keep_next_request(self, data: bytes) -> None:
        """Keep bytes of the next request while one is served."""
        if not self._memory.take_waiting(len(data)):
            # There is no memory for them: the connection ends with the present answer.
            if self._head is not None:
                self._head.keep_alive = False
            if self.transport is not None:
                self.transport.pause_reading()
            return
        self._buffer += data
        if len(self._buffer) > self._shared.settings.header_bytes_max and self.transport is not None:
            self.transport.pause_reading()

    def _take_more_head(self, partial: bytearray, data: bytes) -> None:
        """Add data to an incomplete head. Only the new bytes are searched for its end."""
        before = len(partial)
        partial += data
        if partial.find(b"\r\n\r\n", max(0, before - 3)) >= 0:
            self._partial = None
            self._memory.give_request()
            self._take_head(bytes(partial))
        elif len(partial) > self._shared.settings.header_bytes_max:
            self._partial = None
            self.refuse(refusals.head_too_large(self._shared.settings.header_bytes_max))
        elif len(partial) > UNCOUNTED_BYTES:
            self.keep(len(partial) - self._memory.request_bytes)

    def _take_head(self, data: bytes) -> None:
        shared = self._shared
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._begin_head(data)
            return
        end += 4
        if end > shared.settings.header_bytes_max:
            self.refuse(refusals.head_too_large(self._shared.settings.header_bytes_max))
            return
        raw = data if end == len(data) else data[:end]
        self._buffer = b""
        memo, memory = self._memo, self._memory
        if memo.head is not None:
            memo.head = None
            shared.memory.give(self.address, memory.memo_bytes)
            memory.memo_bytes = 0
        try:
            head = parse_head(raw, shared.settings.header_count_max)
        except HeadError as error:
            self.refuse(error.refusal)
            return
        self._head = head
        self._routes.after_head(self, head)
        if head.chunked:
            self._state = _CHUNKED
            self._chunked = reader = ChunkedReader(self, head, shared.turns)
            rest = data[end:]
            self._expect_body(head, sent=bool(rest))
            if rest:
                reader.feed(rest)
            return
        size = MEMO_TIMES * len(raw)
        if memo.prepare(raw) and shared.memory.take_memo(self.address, size):
            memo.head = head
            memory.memo_bytes = size
        self._take_sized_body(head, data, end)

    def _begin_head(self, data: bytes) -> None:
        """Keep the first piece of an incomplete head."""
        shared = self._shared
        if data[:2] == b"\r\n":
            data = data[2:]
        if len(data) > shared.settings.header_bytes_max:
            self.refuse(refusals.head_too_large(self._shared.settings.header_bytes_max))
        elif data and not 0x41 <= data[0] <= 0x5A:
            self.refuse(refusals.NOT_HTTP)
        elif data:
            shared.wheel.set(self, shared.settings.header_timeout_s)
            self._buffer = b""
            self._partial = bytearray(data)
            if len(data) > UNCOUNTED_BYTES:
                self.keep(len(data))

    def _take_sized_body(self, head: Head, data: bytes, at: int) -> None:
        """Take a body of known length that begins at `at`."""
        have = len(data) - at
        length = head.body_length
        if length > head.body_max:
            self.refuse(refusals.body_too_large(head.body_max))
            return
        if have >= length:
            if length > UNCOUNTED_BYTES and not self.keep(length * head.copies):
                return
            if have > length:
                self._buffer = data[at + length :]
                self._body_complete(head, data[at : at + length])
            else:
                self._body_complete(head, data[at:])
            return
        self._state = _BODY
        self._body_left = length - have
        self._expect_body(head, sent=have > 0)
        if have and self._state == _BODY and self.keep(have * head.copies):
            self._body = [data[at:]]

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
        self._body_complete(self._head, body)

    @property
    def reads_chunks(self) -> bool:
        """True until the chunked body is complete or refused."""
        return self._state == _CHUNKED

    def chunks_complete(self, head: Head, body: bytes) -> None:
        self._chunked = None
        self._body_complete(head, body)

    def _body_complete(self, head: Head, body: bytes) -> None:
        """Hand the complete request to its route."""
        self._state = _BUSY
        self.streamed = False
        self.deadline_s = 0
        if self._buffer:
            waiting, self._buffer = self._buffer, b""
            self._keep_next_request(waiting)
        try:
            self._routes.dispatch(self, head, body)
        except Exception:  # a defect of ours ends this connection and affects no other
            log.exception("server.dispatch_failed", path=head.path)
            self.abort()

    # Memory.

    def count(self, count: int) -> bool:
        """Count `count` bytes more of this request in the memory budget. False if the budget has no room for them."""
        return self._memory.take_request(count)

    def keep(self, count: int) -> bool:
        """The same; if the budget has no room, the request is refused."""
        if self._memory.take_request(count):
            return True
        self.refuse(self._memory.refusal(count))
        return False

    def _forget_all(self) -> None:
        """Give back all memory but that of unread answers, which the transport still holds."""
        self._memory.give_all_but_unread()
        self._body = []
        self._buffer = b""
        self._partial = self._chunked = None
        self._memo.head = None

    def set_address(self, address: str) -> None:
        """Count this connection under another client address, from this request on."""
        if address != self.address:
            self.address = address
            self._memory.move_to(address)

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
                self._unacknowledged_bytes += len(data)
            transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write a whole response. To join a large body to its head would cost more than a second write."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if self.write_paused:
                self._unacknowledged_bytes += len(head) + len(body)
            if len(body) < WRITE_APART_BYTES:
                transport.write(head + body)
            else:
                self._writes_whole = True
                transport.writelines((head, body))
                self._writes_whole = False

    def refuse(self, refusal: Refusal, protocol: str | None = None, request_id: str | None = None) -> None:
        """Answer with an error. If the request was not read to its end, the connection is closed, too."""
        shared = self._shared
        shared.count_refusal(refusal)
        close = self._state != _BUSY or not self.keep_alive
        if request_id is None:
            request_id = shared.ids.next()
            self._routes.refused(refusal, request_id, self._head)
        self.write(refusals.refusal_response(refusal, self._head, protocol, request_id, close=close))
        if close:
            self._end()
        else:
            self.done()

    def done(self) -> None:
        """The response is written: serve the next request, or end the connection."""
        self.exchange = None
        if self._state == _CLOSED:
            return
        if not self.keep_alive:
            self._end()
            return
        self._state = _HEAD
        self._head = None
        if self.transport is not None:
            self._unacknowledged_bytes = unacknowledged_bytes(self.transport)
        if self._memory.request_bytes:
            self._memory.give_request()
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
            self._take_head(self._take_buffer())

    def _take_buffer(self) -> bytes:
        """Take the bytes that came behind the last request out of the buffer."""
        data, self._buffer = self._buffer, b""
        self._memory.give_waiting()
        return data

    def _end(self) -> None:
        self._state = _CLOSED
        self._body_left = 0
        self._forget_all()
        if self.transport is not None:
            self._unacknowledged_bytes = unacknowledged_bytes(self.transport)
        wait_s = self._shared.settings.write_timeout_s if self._unacknowledged_bytes else END_TIMEOUT_S
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
        """Break the connection off, so that the client does not take an unfinished response for a complete one."""
        self._state = _CLOSED
        if self.transport is not None:
            self.transport.abort()

    def timed_out(self) -> None:
        if self.transport is None:
            return
        if self._state in {_BODY, _CHUNKED} or (self._state == _HEAD and (self._buffer or self._partial)):
            self.refuse(refusals.NOT_IN_TIME)
            return
        before, self._unacknowledged_bytes = self._unacknowledged_bytes, unacknowledged_bytes(self.transport)
        if 0 < self._unacknowledged_bytes < before:
            # The client reads, however slowly.
            self._shared.wheel.set(self, self._shared.settings.write_timeout_s)
        else:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Close the connection for a drain unless a request or a part of one is here."""
        if self._state == _HEAD and not self._buffer and not self._partial and self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.transport is not None:
            # The bytes that a slow reader leaves in the buffer are counted, too.
            unread = self.transport.get_write_buffer_size()
            self._unacknowledged_bytes = unacknowledged_bytes(self.transport)
            # A whole answer was counted when it came from upstream, so it is not refused here.
            if not self._memory.take_unread(unread, force=self._writes_whole):
                self._shared.stats.c["slow_readers_cut"] += 1
                self.abort()
                return
        self._shared.wheel.set(self, self._shared.settings.write_timeout_s)
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._memory.give_unread()
        if self._state == _BUSY:
            self._shared.wheel.clear(self)
        elif self._state == _HEAD and not self._buffer and self._partial is None:
            self._shared.wheel.set(self, self._shared.settings.idle_timeout_s)
        if self.exchange is not None:
            self.exchange.resume()
