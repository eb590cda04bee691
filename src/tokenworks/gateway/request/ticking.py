"""Timers of a request: pings, time limits, and its end when the worker ends."""

from typing import Final

from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.exchange import Exchange
from tokenworks.gateway.request.leaving import STOP_WAIT_S, USAGE_WAIT_S
from tokenworks.gateway.request.refusals import CUT
from tokenworks.gateway.request.reply import ping

# Interval of pings in a silent stream.
PING_EVERY_S: Final = 15


def is_due(exchange: Exchange, now_s: int) -> bool:
    """True if `tick` has something to do: a ping, a first progress report, or the end of a drain."""
    attempt = exchange.attempt
    if exchange.conn is None:
        return attempt is not None and attempt.drain_until_s > 0
    if now_s - exchange.written_s >= PING_EVERY_S:
        return True
    return exchange.sent and attempt is not None and not attempt.reported


def tick(exchange: Exchange, now_s: int) -> None:
    """Ping a silent stream, report progress, and end a drain whose time is over."""
    attempt, conn = exchange.attempt, exchange.conn
    if conn is None:
        if attempt is not None and 0 < attempt.drain_until_s <= now_s and attempt.abort():
            exchange.attempt_interrupted(attempt, "client_gone", None)
        return
    meter = None if attempt is None else attempt.meter
    if attempt is not None and meter is not None and exchange.sent and not attempt.reported:
        exchange.parts.answers.report_progress(attempt, meter)
    if now_s - exchange.written_s < PING_EVERY_S or exchange.paused or exchange.free or not exchange.streams:
        return
    early = attempt is not None and not attempt.over and attempt.view.deployment.early_head
    if meter is not None or exchange.headed or early:
        ping(exchange, conn, now_s)


def is_stopping(exchange: Exchange) -> bool:
    """True if the stream has stopped and its usage is late."""
    return exchange.attempt is not None and exchange.attempt.stopping


def stop_waited(exchange: Exchange, now_s: int) -> None:
    """After a stream has stopped, its finish reason is kept back for the usage for `STOP_WAIT_S`, and its record for `USAGE_WAIT_S`."""
    attempt = exchange.attempt
    meter = None if attempt is None else attempt.meter
    if attempt is None or meter is None:
        return
    if exchange.ended or attempt.upstream is None or not meter.stopped:
        attempt.stopping = False
        return
    if exchange.paused:
        attempt.stopped_s = 0  # the client does not read, and the usage comes after data that waits for it
        return
    if not attempt.stopped_s:
        attempt.stopped_s = now_s
    waited_s = now_s - attempt.stopped_s
    if waited_s >= USAGE_WAIT_S:
        attempt.stopping = False
        if attempt.abort():
            attempt.stream_ended(meter)
    elif waited_s + 1 >= STOP_WAIT_S and meter.finish_withheld and exchange.conn is not None:
        attempt.release_finish(attempt.upstream, meter)


def time_out(exchange: Exchange) -> None:
    """End a request after `request_timeout_s`."""
    attempt = exchange.attempt
    if attempt is not None and attempt.abort():
        message = "the request took longer than this gateway waits"
        exchange.last_refusal = Refusal(504, "upstream_timeout", message)
        exchange.tried += [view.name for view in exchange.views]
        exchange.choices, exchange.fallbacks = [], ()  # its time is over for every model
        attempt.interrupt_or_fail("upstream_timeout")


def cut(exchange: Exchange) -> None:
    """End a request whose worker ends after its time to drain: in the client's protocol, with a charge for what was produced.

    An exchange whose record is on its way to the recorder ends as usual.
    """
    if exchange.ended or exchange.counting or (exchange.hold is None and exchange.usage_id):
        return
    exchange.cancel_pending()
    attempt = exchange.attempt
    if (
        attempt is not None
        and attempt.abort()
        and exchange.hold is not None
        and (exchange.sent or exchange.conn is None)
    ):
        exchange.attempt_interrupted(attempt, "shutdown" if exchange.sent else "client_gone", None)
        return
    exchange.give_up()
    exchange.refuse(CUT)
