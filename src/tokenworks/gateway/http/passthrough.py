"""The relay of requests that are not of the data plane to the control plane, over its Unix socket.

An answer is relayed when it is complete. A stream of events (`text/event-stream`) is relayed piece by piece, while the client reads.
"""

from collections.abc import Callable
from typing import Final

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.headers import relayed
from tokenworks.gateway.http.proxies import Proxies
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.http.upstream import Pool, UpstreamConnection
from tokenworks.gateway.protocol.errors import REASONS, Refusal
from tokenworks.gateway.shared import Shared

_DROPPED: Final = frozenset(
    b"connection keep-alive transfer-encoding content-length upgrade te trailer x-request-id request-id server".split()
)
# To the first byte of an answer, and between two bytes of it. The control plane sends a comment in a stream without events more often.
CONTROL_TIMEOUT_S: Final = 60
_EVENTS: Final = b"text/event-stream"


class ControlExchange:
    """One request to the control plane."""

    __slots__ = (
        "_body",
        "_head",
        "_key",
        "_on_end",
        "_pool",
        "_proxies",
        "_request_body",
        "_shared",
        "_streams",
        "conn",
        "ended",
        "head_bytes",
        "request_id",
        "size",
        "upstream",
    )

    def __init__(
        self,
        shared: Shared,
        pool: Pool,
        proxies: Proxies,
        on_end: Callable[[], None],
        conn: ClientConnection,
        head: Head,
        body: bytes,
        key: str | None = None,
    ) -> None:
        """`on_end` is called once, when the request has ended. `key`: the API key that is the request's credential, in place of those in
        its head.
        """
        self._key = key
        self._shared = shared
        self._pool = pool
        self._proxies = proxies
        self._on_end = on_end
        self.conn: ClientConnection | None = conn
        self._head = head
        self._request_body = body
        self.request_id = shared.ids.next()
        self.upstream: UpstreamConnection | None = None
        self.head_bytes = b""
        self._body: list[bytes] = []
        self.size = 0
        self.ended = False
        self._streams = False

    def run(self) -> None:
        connection = self._pool.take()
        if connection is not None:
            self._connected(connection, "")
        else:
            self._pool.connect(self._connected)

    def _connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        if self.conn is None:
            if connection is not None:
                connection.pool.give_back(connection)
            return
        if connection is None:
            self._refuse(
                Refusal(503, "no_deployment", "the control plane does not answer: it is being restarted", 1)
            )
            return
        head, conn = self._head, self.conn
        query = b"?" + head.query if head.query else b""
        scheme, host = self._proxies.reached(head)
        lines = (
            head.method + b" " + head.path.encode() + query + b" HTTP/1.1\r\nhost: " + host + b"\r\n"
            + relayed(head)
            + self._credentials()
            + b"x-forwarded-for: " + self._proxies.client_address(conn.peer, head).encode() + b"\r\nx-forwarded-proto: " + scheme
            + b"\r\nx-request-id: " + self.request_id.encode() + b"\r\ncontent-length: " + str(len(self._request_body)).encode() + b"\r\n\r\n"
        )  # fmt: skip
        self.upstream = connection
        connection.begin(
            self,
            lines,
            self._request_body,
            CONTROL_TIMEOUT_S,
            CONTROL_TIMEOUT_S,
            no_body=head.method == b"HEAD",
        )

    def _credentials(self) -> bytes:
        if self._key is not None:
            return b"authorization: Bearer " + self._key.encode() + b"\r\n"
        headers = self._head.headers
        found = [
            name + b": " + headers[name] + b"\r\n"
            for name in (b"authorization", b"cookie")
            if name in headers
        ]
        return b"".join(found)

    def upstream_head(self, connection: UpstreamConnection) -> None:
        lines = [
            name + b": " + value + b"\r\n"
            for name, value in connection.headers.items()
            if name.lower() not in _DROPPED
        ]
        reason = REASONS.get(connection.status, "Unknown").encode()
        self.head_bytes = (
            b"HTTP/1.1 %d %b\r\n" % (connection.status, reason)
            + b"".join(lines)
            + b"x-request-id: "
            + self.request_id.encode()
            + b"\r\nrequest-id: "
            + self.request_id.encode()
            + b"\r\n"
            + self._head.lines
        )
        kind = connection.headers.get(b"content-type") or connection.headers.get(b"Content-Type") or b""
        if kind.startswith(_EVENTS) and self._head.method == b"GET" and self.conn is not None:
            self._begin_stream(self.conn)

    def _begin_stream(self, conn: ClientConnection) -> None:
        self._streams = True
        if self._head.http10:
            self._head.keep_alive = False
            conn.write(self.head_bytes + b"connection: close\r\n\r\n")
        else:
            close = b"" if conn.keep_alive else b"connection: close\r\n"
            conn.write(self.head_bytes + close + b"transfer-encoding: chunked\r\n\r\n")

    def _stream(self, connection: UpstreamConnection, conn: ClientConnection, data: bytes) -> None:
        """Write a piece of a stream, and end the stream if the worker drains: the client opens another one, at the next worker."""
        conn.write(data if self._head.http10 else b"%x\r\n%b\r\n" % (len(data), data))
        if self._shared.draining or self._shared.retiring:
            connection.abort()
            self._end_stream(conn)

    def _end_stream(self, conn: ClientConnection) -> None:
        conn.streamed = True
        if not self._head.http10:
            conn.write(b"0\r\n\r\n")
        self._end()
        conn.done()

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        conn = self.conn
        if self._streams:
            if conn is not None and data:
                self._stream(connection, conn, data)
            return
        if conn is not None and not conn.count(len(data)):
            connection.abort()
            self._refuse(self._shared.memory.refusal(conn.address, len(data)))
            return
        self._body.append(data)
        self.size += len(data)
        if self.size > self._shared.settings.response_bytes_max:
            connection.abort()
            self._refuse(Refusal(502, "upstream_error", "the answer is larger than this gateway relays"))

    def upstream_end(self, connection: UpstreamConnection) -> None:
        conn = self.conn
        if self._streams:
            if conn is not None:
                self._end_stream(conn)
            return
        if conn is not None:
            body = b"".join(self._body)
            length = (
                connection.headers.get(b"content-length", b"0")
                if self._head.method == b"HEAD"
                else b"%d" % len(body)
            )
            close = b"" if conn.keep_alive else b"connection: close\r\n"
            if connection.status in {204, 304}:
                conn.write(self.head_bytes + close + b"\r\n")
            else:
                conn.write_whole(b"%b%bcontent-length: %b\r\n\r\n" % (self.head_bytes, close, length), body)
        self._end()
        if conn is not None:
            conn.done()

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        if self._streams:
            conn = self.conn
            self._end()
            if conn is not None:
                conn.abort()
            return
        if connection.reused and not self.head_bytes and reason != "timeout" and self.conn is not None:
            self._pool.connect(self._connected)
            return
        self._refuse(
            Refusal(503, "no_deployment", "the control plane does not answer: it is being restarted", 1)
        )

    def _refuse(self, refusal: Refusal) -> None:
        conn = self.conn
        self._end()
        if conn is not None:
            conn.exchange = None
            conn.refuse(refusal, "chat", self.request_id)

    def _end(self) -> None:
        self.conn = None
        if not self.ended:
            self.ended = True
            self._on_end()

    def client_gone(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None and upstream.user is self:
            upstream.abort()
        self._end()

    def pause(self) -> None:
        """The client reads slowly: a stream is read no further. Another answer is complete before it is written."""
        if self._streams and self.upstream is not None:
            self.upstream.pause()

    def resume(self) -> None:
        if self._streams and self.upstream is not None:
            self.upstream.resume(CONTROL_TIMEOUT_S)
