"""The metered requests in flight in a worker, their timers, and the notes of those that are over."""

from collections.abc import Callable, Iterable

import structlog

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.request.content_logging import log_content
from tokenworks.gateway.request.exchange import Exchange
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.ticking import cut, is_due, is_stopping, stop_waited, tick, time_out
from tokenworks.gateway.request.traced import keep_spans
from tokenworks.gateway.request.watching import RequestObserver
from tokenworks.gateway.request_log import RequestLog
from tokenworks.gateway.series import Series
from tokenworks.gateway.shared import Shared

log = structlog.get_logger()


class RunningRequests:
    __slots__ = ("_ended_callback", "_parts", "_shared", "open", "watching")

    def __init__(self, shared: Shared, pools: Pools, request_log: RequestLog, series: Series) -> None:
        self._shared = shared
        self._parts = Parts(shared, pools)
        self._ended_callback = self._ended  # one object for all requests
        self.open: set[Exchange] = set()
        self.watching = RequestObserver(request_log, series)

    def begin(
        self, conn: ClientConnection, head: Head, body: bytes, protocol: str, now_s: float, *, free: bool
    ) -> Exchange:
        """`free`: a `count_tokens` request, which produces no tokens and costs nothing."""
        exchange = Exchange(self._parts, self._ended_callback, conn, head, body, protocol, now_s, free=free)
        conn.exchange = exchange
        self._shared.stats.c["requests_open"] += 1
        self.open.add(exchange)
        return exchange

    def _ended(self, exchange: Exchange) -> None:
        self.open.discard(exchange)
        self._shared.stats.c["requests_open"] -= 1
        self._parts.holds.end(exchange)
        self.watching.ended(exchange, self._shared.loop.time())
        if exchange.trace is not None:
            keep_spans(self._shared, exchange.trace, exchange)
        if exchange.is_known:
            exchange.user.in_flight -= 1
            if exchange.logs_content:
                log_content(self._parts, exchange, exchange.attempt)

    def tick(self, now_s: float) -> None:
        """Once a second: deferred requests look for a deployment again, overdue ones are cut, silent streams are pinged."""
        second = int(now_s)
        deferred = sorted([e for e in self.open if e.deferred], key=_began_s)
        _each(deferred, Exchange.again)
        oldest_s = now_s - self._shared.settings.request_timeout_s
        _each([e for e in self.open if e.began_s < oldest_s], time_out)
        _each([e for e in self.open if is_due(e, second)], lambda exchange: tick(exchange, second))
        _each([e for e in self.open if is_stopping(e)], lambda exchange: stop_waited(exchange, second))

    def cut(self) -> int:
        """The worker ends: end the requests in flight. Returns their number."""
        exchanges = list(self.open)
        for exchange in exchanges:
            cut(exchange)
        return len(exchanges)


def _began_s(exchange: Exchange) -> float:
    return exchange.began_s


def _each(exchanges: Iterable[Exchange], call: Callable[[Exchange], None]) -> None:
    """Call `call` with each exchange. An exception ends the connection of that exchange's client and affects no other."""
    for exchange in exchanges:
        try:
            call(exchange)
        except Exception:
            log.exception("gateway.tick_failed", request_id=exchange.request_id)
            if exchange.conn is not None:
                exchange.conn.abort()
