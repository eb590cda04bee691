"""The tail of a stream that is cut: tokens that the upstream made before it noticed. They are counted and not sent to the client.

An engine goes on between the decision to cut and its arrival, and what it has sent by then is in the sockets' buffers. To reset the
connection would lose those tokens, which were made for the account, and the operator would pay for them. So the sending side of the
connection is closed, the response is read until the upstream closes its side, and then the record is made.
"""

import asyncio
from collections.abc import Callable

from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter

# The connection to an upstream that does not stop is reset after this time. It is not Final, so that tests can set it: a compiled
# module has the value of a Final built in.
TAIL_MAX_S = 1.0


class StreamTail:
    """Takes over the response of a connection from its attempt. `on_end` is called once."""

    __slots__ = ("_connection", "_meter", "_on_end", "_timer")

    def __init__(
        self,
        connection: UpstreamConnection,
        meter: StreamMeter,
        idle_s: int,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._meter = meter
        self._on_end: Callable[[], None] | None = on_end
        self._timer = loop.call_later(TAIL_MAX_S, self._end)
        connection.user = self
        connection.resume(idle_s)

    def upstream_head(self, connection: UpstreamConnection) -> None:
        """Never called: the head was read before the stream began."""

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        try:
            self._meter.feed(data)
        except EventTooLarge:
            self._end()
            return
        if self._meter.fault is not None:
            self._end()

    def upstream_end(self, connection: UpstreamConnection) -> None:
        self._end()

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        self._end()

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        self._timer.cancel()
        self._connection.abort()
        on_end()
