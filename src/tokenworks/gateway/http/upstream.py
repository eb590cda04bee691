"""Connections to deployments: pooled per deployment, addresses checked at connect, TLS with certificate checks."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from tokenworks.factory import Deployment
from tokenworks.gateway.http.coding import coding_of
from tokenworks.gateway.http.connect import Connector
from tokenworks.gateway.http.decoding import CODED_FIRST_BYTES, CodedBody
from tokenworks.gateway.http.fine_chunks import FINE_BYTES_MAX, LARGE_READ_BYTES, PIECE_BYTES, has_fine_chunks
from tokenworks.gateway.http.names import MEDIA_TYPES, HeaderNames, header_names, media_type
from tokenworks.gateway.memory import Budget
from tokenworks.gateway.turns import Turns
from tokenworks.gateway.wheel import Wheel

HEADERS_MAX: Final = 200
# Limits of a response's head, and of consecutive bytes that are no body: chunk extensions and trailers.
HEAD_BYTES_MAX: Final = 65_536
SILENT_BYTES_MAX: Final = 65_536
INTERIM_MAX: Final = 16
# A body of this size is written apart from its head: to join them would cost more than a second write.
WRITE_APART_BYTES: Final = 65_536
_ONE: Final = (None,)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class UpstreamUser(Protocol):
    """The part that sent a request on a connection: the connection calls it as the response comes."""

    def upstream_head(self, connection: "UpstreamConnection") -> None: ...
    def upstream_data(self, connection: "UpstreamConnection", data: bytes) -> None: ...
    def upstream_end(self, connection: "UpstreamConnection") -> None: ...
    def upstream_failed(self, connection: "UpstreamConnection", reason: str) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """A connection to a deployment: one response at a time, after which the connection goes back to its pool or closes.

    The parser lives as long as the connection, and its callbacks are methods of C objects. Each `_once` list has one item to
    pop, so a second message to one request is a parser error and never the answer to the next request.
    """

    __slots__ = (
        "_begin_once", "_body", "_bodyless_bytes", "_closes", "_coded", "_complete_once", "_fine_bytes", "_fine_data",
        "_head_memory_bytes", "_head_once", "_head_tail", "_interims", "_paused", "_plain", "_reported", "content_type", "deadline_s",
        "headers", "idle_s", "large", "names", "no_body", "on_body", "on_header", "on_headers_complete", "on_message_begin",
        "on_message_complete", "parser", "pool", "reused", "status", "transport", "user", "wheel", "wheel_s",
    )  # fmt: skip

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.wheel = pool.wheel
        self.transport: asyncio.Transport | None = None
        self.user: UpstreamUser | None = None
        self.headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._begin_once: list[None] = []
        self._head_once: list[None] = []
        self._complete_once: list[None] = []
        self.on_header = self.headers.__setitem__
        self.on_body = self._body.append
        self.on_message_begin = self._begin_once.pop
        self.on_headers_complete = self._head_once.pop
        self.on_message_complete = self._complete_once.pop
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self._reported = False
        self._closes = False
        self._plain = False  # the body is not coded
        self._coded: CodedBody | None = None
        self._head_tail = b""  # the last bytes of the head's last piece
        self._bodyless_bytes = 0  # consecutive bytes that brought no body
        self._fine_data = b""  # data that is to be parsed in pieces
        self._fine_bytes = 0
        self.large = False  # the user buffers so much that the next data is parsed in a turn of its own
        self._paused = False  # the user has paused the connection
        self._head_memory_bytes = 0  # bytes of the memory budget for an incomplete head
        self._interims = 0
        self.names: HeaderNames | None = None  # of the last answer's headers
        self.content_type = b""  # the media type, without parameters and in small letters
        self.no_body = False
        self.reused = False
        self.deadline_s = 0
        self.idle_s = 0
        self.wheel_s = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def begin(
        self,
        user: UpstreamUser,
        head: bytes,
        body: bytes,
        timeout_s: int,
        idle_s: int,
        *,
        no_body: bool = False,
    ) -> None:
        """Send a request. `timeout_s`: the limit to the first byte of the body; `idle_s`: between bytes."""
        transport = self.transport
        assert transport is not None
        self.user = user
        self._expect_message()
        self._reported = False
        self._coded = None
        self._paused = False
        if self._fine_bytes:
            self._fine_bytes = 0
        self.large = False
        if self._interims or self._head_tail:
            self._interims = 0
            self._head_tail = b""
        self.no_body = no_body
        self.idle_s = idle_s
        self.wheel.set(self, timeout_s)
        if len(body) < WRITE_APART_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def _expect_message(self) -> None:
        self.headers.clear()
        self._body.clear()
        self._plain = False
        # One item in each list: what the last response left over must not count.
        self._begin_once[:] = self._head_once[:] = self._complete_once[:] = _ONE

    def data_received(self, data: bytes) -> None:
        if self._fine_data or self.large or (len(data) > LARGE_READ_BYTES and has_fine_chunks(data)):
            self._take_fine(data)
        else:
            self._take(data)

    def _take_fine(self, data: bytes) -> None:
        """Parse large data with fine framing in pieces, one in each turn of the loop."""
        if not self.large or has_fine_chunks(data):
            self._fine_bytes += len(data)
        if self._fine_bytes > FINE_BYTES_MAX:
            self.fail("more framing than answer")
            return
        self._fine_data += data
        if len(self._fine_data) == len(data):
            if self.transport is not None:
                self.transport.pause_reading()
            self.pool.turns.later(self._take_piece)

    def _take_piece(self) -> None:
        size = len(self._fine_data) if self.large and not self._fine_bytes else PIECE_BYTES
        self.large = False
        piece, self._fine_data = self._fine_data[:size], self._fine_data[size:]
        if not piece:
            return
        self._take(piece)
        if self._fine_data:
            self.pool.turns.later(self._take_piece)
        elif not self._paused:
            self.read_on()

    def read_on(self) -> None:
        """Resume reading if the connection is open."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        user = self.user
        if user is None:
            # Unsolicited bytes would be read as the next response.
            self.abort()
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(data, error)
            return
        ended = not self._complete_once
        if not self._reported:
            if not self._head_received(user, data):
                return
            ended = ended or self.no_body
        body = self._body
        if body:
            # A head alone is no answer yet: the limit to the first byte stays as it was.
            if not ended:
                wheel = self.wheel
                self.deadline_s = at = wheel.now_s + self.idle_s + 1
                if not self.wheel_s or at < self.wheel_s:
                    wheel.put(self, at)
            if self._bodyless_bytes:
                self._bodyless_bytes = 0
            whole = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            if self._plain:
                user.upstream_data(self, whole)
            else:
                self._body_begins(user, whole)
            if self.user is not user:
                return
        elif not ended:
            # Chunk extensions and trailers are read, never kept, and bounded.
            self._bodyless_bytes += len(data)
            if self._bodyless_bytes > SILENT_BYTES_MAX:
                self.fail("too much that is no body")
                return
        if ended:
            coded = self._coded
            if coded is None or coded.over(user):
                self._end(user)

    def _head_received(self, user: UpstreamUser, data: bytes) -> bool:
        """True if the response's head is complete and the user still wants the body."""
        headers = self.headers
        if self._head_once:
            self._bodyless_bytes += len(data)
            self._head_tail = (self._head_tail + data)[-3:]
            if len(headers) > HEADERS_MAX or self._bodyless_bytes > HEAD_BYTES_MAX:
                self.fail("the head of the answer is too large")
            elif not self.pool.take_bytes(len(data)):
                self.fail("no memory for the answer's head")
            else:
                self._head_memory_bytes += len(data)
            return False
        if self._bodyless_bytes:
            self._give_head_memory()
        if len(headers) > HEADERS_MAX:
            self.fail("too many headers")
            return False
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self._interim(data)
            return False
        self._closes = not data.startswith(b"HTTP/1.1") and self.parser.get_http_version() != "1.1"
        names = self.names = header_names(headers)
        if names.content_encoding is not None:
            coding = coding_of(headers[names.content_encoding])
            if coding is None:
                self.fail("the answer is in a coding that is not known here")
                return False
            if coding:
                self._coded = CodedBody(self, coding, self.pool.decoded_max)
        value = b"" if names.content_type is None else headers[names.content_type]
        self.content_type = MEDIA_TYPES.get(value) or media_type(value)
        self._reported = True
        user.upstream_head(self)
        return self.user is user

    def _give_head_memory(self) -> None:
        self._bodyless_bytes = 0
        if self._head_memory_bytes:
            self.pool.give_bytes(self._head_memory_bytes)
            self._head_memory_bytes = 0

    def _body_begins(self, user: UpstreamUser, data: bytes) -> None:
        """Decide by a body's first bytes whether it has to be decoded, and hand them on."""
        coded = self._coded
        if coded is None:
            if data[:1] not in CODED_FIRST_BYTES:
                self._plain = True
                user.upstream_data(self, data)
                return
            coded = self._coded = CodedBody(self, b"", self.pool.decoded_max)
        coded.data(user, data)

    def _broken(self, data: bytes, error: Exception) -> None:
        """The parser failed. It takes an interim response for a whole one, and the response after it for one too many."""
        if not self._reported and not self._head_once and 100 <= self.parser.get_status_code() < 200:
            self.status = self.parser.get_status_code()
            self._interim(data)
        else:
            self.fail(f"not HTTP: {type(error).__name__}")

    def _interim(self, data: bytes) -> None:
        """Read on with a new parser after an interim response."""
        _, found, rest = (self._head_tail + data).partition(b"\r\n\r\n")
        self._head_tail = b""
        self._interims += 1
        if self.status == 101 or not found or self._interims > INTERIM_MAX:
            self.fail("an interim response that we did not ask for")
            return
        self._expect_message()
        self._give_head_memory()
        self.parser = httptools.HttpResponseParser(self)
        if rest:
            self._take(rest)

    def decodes_with(self, coded: CodedBody) -> bool:
        return self._coded is coded

    def hand_over(self, data: bytes) -> None:
        """Give the user the next piece of a decoded body."""
        if self.user is not None:
            self.user.upstream_data(self, data)

    def decode_later(self, turn: Callable[[], None]) -> None:
        """Decode in a turn of the loop, and read nothing more until then."""
        if self.transport is not None:
            self.transport.pause_reading()
        self.pool.turns.later(turn)

    def end(self) -> None:
        """The coded body is decoded to its end."""
        if self.user is not None:
            self._end(self.user)

    def _end(self, user: UpstreamUser) -> None:
        self.user = None
        self.deadline_s = 0
        self._coded = None
        # llhttp's keep-alive flag is valid only until the next bytes, so the header is read; the parser refuses bytes after
        # a last message.
        option = self.headers.get(b"connection") or self.headers.get(b"Connection")
        if (
            self.no_body
            or self._closes
            or self._fine_data
            or (option is not None and option.lower() != b"keep-alive")
        ):
            self.abort()
        else:
            self.pool.give_back(self)
        user.upstream_end(self)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        while self._fine_data and self.user is not None:
            self._take_piece()
        self._fine_data = b""
        self.transport = None
        self.pool.lost(self)
        self._give_head_memory()
        user = self.user
        if user is None:
            return
        coded = self._coded
        # The response is complete by its framing or, without framing, by the connection's end.
        whole = self._reported and (not self._complete_once or not self._framed())
        if whole and (coded is None or coded.over(user)):
            self.user = None
            user.upstream_end(self)
        elif not whole:
            self.user = None
            user.upstream_failed(
                self, "the connection broke" if self._reported else "the connection closed before a response"
            )

    def _framed(self) -> bool:
        return any(name.lower() in _FRAMING for name in self.headers)

    def timed_out(self) -> None:
        self.fail("timeout")

    def fail(self, reason: str) -> None:
        """Abort the connection; `user` is told why."""
        user, self.user = self.user, None
        self.abort()
        if user is not None:
            user.upstream_failed(self, reason)

    def abort(self) -> None:
        """Close the connection at once, which cancels its request upstream."""
        self.user = None
        self._coded = None
        self._fine_data = b""
        if self.transport is not None:
            self.transport.abort()

    def end_request(self) -> bool:
        """Close the sending side alone, so that the upstream stops and what it has sent can still be read. False if that is not
        possible: TLS closes both sides at once, and a decoder hands on its data in later turns of the loop.
        """
        transport = self.transport
        if (
            transport is None
            or transport.is_closing()
            or self._coded is not None
            or not transport.can_write_eof()
        ):
            return False
        self._closes = True
        transport.write_eof()
        return True

    def pause(self) -> None:
        self._paused = True
        if self._coded is not None:
            self._coded.paused = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self.pool.wheel.clear(self)

    def resume(self, timeout_s: int) -> None:
        self._paused = False
        if self._coded is not None:
            self._coded.resume()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self.pool.wheel.set(self, timeout_s)


ConnectCallback = Callable[[UpstreamConnection | None, str], None]


class Pool:
    """The connections to one deployment: the idle ones, used newest first, and new ones as needed."""

    def __init__(
        self,
        deployment: Deployment | None,
        wheel: Wheel,
        *,
        idle_max: int,
        connect_timeout_s: int,
        unix_path: str | None = None,
        memory: Budget | None = None,
        turns: Turns | None = None,
        decoded_max: int = 67_108_864,
    ) -> None:
        self.deployment = deployment
        self.wheel = wheel
        self._connector = Connector(deployment, unix_path)
        self._idle_max = idle_max
        self._connect_timeout_s = connect_timeout_s
        self.idle: deque[UpstreamConnection] = deque()
        self.open: set[UpstreamConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self._memory = memory
        self.decoded_max = decoded_max
        self.turns = turns or Turns()

    @property
    def _name(self) -> str:
        return "" if self.deployment is None else f"deployment {self.deployment.name}"

    def take_bytes(self, count: int) -> bool:
        """Count `count` bytes of an incomplete head. False if the worker's memory budget has no room for them."""
        return self._memory is None or self._memory.take(self._name, count)

    def give_bytes(self, count: int) -> None:
        if self._memory is not None:
            self._memory.give(self._name, count)

    def take(self) -> UpstreamConnection | None:
        """Take an idle connection out of the pool; None if there is none."""
        while self.idle:
            connection = self.idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.reused = True
                return connection
        return None

    def give_back(self, connection: UpstreamConnection) -> None:
        if self.closed or len(self.idle) >= self._idle_max or connection.transport is None:
            connection.abort()
        else:
            self.idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self.wheel.remove(connection)
        self.open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def connect(self, connected: ConnectCallback, timeout_s: float | None = None) -> None:
        """Make a connection, then call `connected(connection, "")` or `connected(None, reason)`."""
        task = asyncio.get_running_loop().create_task(
            self._connect(connected, timeout_s or self._connect_timeout_s)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connected: ConnectCallback, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connector.connect(lambda: UpstreamConnection(self))
                self.open.add(connection)
        except TimeoutError:
            connected(None, "timeout")
            return
        except (OSError, ssl.SSLError, ValueError) as error:
            self._connector.forget_addresses()
            connected(None, f"can't connect: {error}")
            return
        connected(connection, "")

    def close_idle(self) -> None:
        self.closed = True
        while self.idle:
            self.idle.pop().abort()
