"""The last of a stream that is cut: what its upstream made before it could know is read and counted, and shown to nobody.

Between the decision to cut and its arrival upstream an engine goes on, and what it sent meanwhile lies in the sockets' buffers.
A connection that is reset loses those tokens: they were made for the account and would be paid by the operator. So the request's
side of the connection is closed, the response is read until the upstream has closed its own, and then the record is made.
"""

import asyncio
from collections.abc import Callable

from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter

# An upstream that does not stop when its caller closes is reset after so long. Not Final, so that tests can set it: a compiled
# module has the value of a Final built in.
TAIL_MAX_S = 1.0


class StreamTail:
    """Takes a connection's response over from its exchange; `over` is called once."""

    __slots__ = ("_connection", "_meter", "_over", "_timer")

    def __init__(
        self,
        connection: UpstreamConnection,
        meter: StreamMeter,
        idle_s: int,
        loop: asyncio.AbstractEventLoop,
        over: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._meter = meter
        self._over: Callable[[], None] | None = over
        self._timer = loop.call_later(TAIL_MAX_S, self._end)
        connection.user = self
        connection.resume(idle_s)

    def upstream_head(self, connection: UpstreamConnection) -> None:
        """It was read before the stream began."""

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        try:
            self._meter.feed(data)
        except EventTooLarge:
            self._end()
            return
        if self._meter.failed is not None:
            self._end()

    def upstream_end(self, connection: UpstreamConnection) -> None:
        self._end()

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        self._end()

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is None:
            return
        self._timer.cancel()
        self._connection.abort()
        over()
