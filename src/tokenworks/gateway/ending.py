"""How an attempt and its exchange end: whole, half-way or refused, and what of it is given back.

The end of a response leaves after its record is on disk. A refusal is a status as long as no head has left, and an event of the
stream afterwards.
"""

from collections.abc import Callable

from tokenworks.charging import Verdict
from tokenworks.gateway.errors import Refusal, cut_events, error_event
from tokenworks.gateway.placing import Placing
from tokenworks.gateway.refusals import CUT, no_hold
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.tail import Tail


def _broke_off(reason: str) -> Refusal:
    """What a client is told whose stream ended half-way."""
    if reason == "upstream_timeout":
        said = "the deployment went silent: what was produced until here was charged"
        return Refusal(504, "upstream_timeout", said)
    if reason == "shutdown":
        return CUT._replace(message=f"{CUT.message}; what was produced until here was charged")
    return Refusal(
        502, "upstream_error", "the deployment broke off: what was produced until here was charged"
    )


class Ending(Placing):
    __slots__ = ()

    def _forget_answer(self) -> None:
        self.streaming = self.undecided = False
        self.meter = None
        self.chunks = []
        self.size = 0
        self.refused_status = 0
        self.stopped_s = 0
        self.gateway.stopping.discard(self)
        self._give_memory()

    def _give_memory(self) -> None:
        if self.kept_bytes:
            self.gateway.memory.give(self.address, self.kept_bytes)
            self.kept_bytes = 0

    def _drop_attempt(self) -> None:
        if self.usage_id:
            self.gateway.client.drop(self.usage_id)
            self.usage_id = ""

    def _end_attempt(self) -> None:
        if self.place is not None:
            self.gateway.placement.dropped(self, self.place)
            self.place.ended()
            self.place = None
        if self.place_admission is not None:
            admission, self.place_admission = self.place_admission, None
            self.gateway.client.admissions.end(admission, self.spent_tokens, begun=True)

    def _abort_upstream(self) -> bool:
        upstream, self.upstream = self.upstream, None
        if upstream is None or self.ended:
            return False
        upstream.abort()
        return True

    def _cut_upstream(self, over: Callable[[], None]) -> bool:
        """Stop the upstream of a stream that is paid for, count what it had made until then, and call `over`."""
        upstream, meter = self.upstream, self.meter
        if upstream is None or self.ended:
            return False
        if meter is None or not upstream.end_request():
            self._abort_upstream()
            over()
            return True

        def counted() -> None:
            self.counting = False
            over()

        self.upstream = None
        self.counting = True
        Tail(upstream, meter, self._idle_timeout_s(), self.gateway.loop, counted)
        return True

    def _relay_free(self) -> None:
        """A count of tokens, which costs nothing."""
        self.answered = "free"
        self._end_attempt()
        self._release_hold()
        self._write_whole()
        self._finish()

    def _empty(self) -> None:
        """A stream that says it is done and gave nothing: it costs nothing."""
        self.answered = "empty_stream"
        self._end_attempt()
        self._drop_attempt()
        self._release_hold()
        self._durable("")

    def _write_whole(self) -> None:
        conn = self.conn
        if conn is None:
            return
        body = self.chunks[0] if self.chunks else b""
        close = b"" if conn.keep_alive else b"connection: close\r\n"
        conn.write_whole(b"%b%bcontent-length: %d\r\n\r\n" % (self.response_head, close, len(body)), body)

    def _durable(self, interrupted: str) -> None:
        """The record is on disk: the client may have the end."""
        if self.ended:
            return
        if interrupted:
            self._after_interrupt(interrupted)
            return
        conn = self.conn
        if conn is not None:
            if self.streaming:
                self._end_stream(conn, self.meter.held if self.meter is not None else b"")
            else:
                self._write_whole()
        self._finish()

    def _send_head(self, conn: ClientConnection, first: bytes) -> None:
        self.headed = True
        if self.head.http10:
            self.head.keep_alive = False
            conn.write(self.response_head + b"connection: close\r\n\r\n" + first)
            return
        close = b"" if conn.keep_alive else b"connection: close\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        conn.write(self.response_head + close + b"transfer-encoding: chunked\r\n\r\n" + chunk)

    def _end_stream(self, conn: ClientConnection, last: bytes) -> None:
        conn.streamed = True
        if not self.headed:
            self._send_head(conn, last)
            last = b""
        if self.head.http10:
            conn.write(last)
        else:
            conn.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")

    def _after_interrupt(self, reason: str) -> None:
        """In protocol: an error event, and an end that no client takes for a whole answer."""
        conn = self.conn
        if conn is None:
            self._finish()
            return
        if self.meter is None or not self.sent:
            self._refuse_or_say(self.last_refusal or _broke_off(reason))
            return
        if reason == "beyond_maximum":
            last = cut_events(
                None,
                self.protocol,
                self.request_id,
                self.parsed.model,
                self.meter.upstream_id,
                self.meter.progress,
            )
        elif reason in {"nothing_left", "hold_unavailable"}:
            last = self._nothing_left_events(reason)
        else:
            last = error_event(_broke_off(reason), self.protocol, self.request_id)
        self._end_stream(conn, last)
        self._finish()

    def _nothing_left_events(self, reason: str) -> bytes:
        """The final unit action in protocol: a last chunk with a finish reason, then why, and what to do."""
        assert self.user is not None
        assert self.meter is not None
        verdict = Verdict.NOTHING_LEFT if reason == "nothing_left" else Verdict.AWAY
        refusal = no_hold(verdict, self.user)
        return cut_events(
            refusal,
            self.protocol,
            self.request_id,
            self.parsed.model,
            self.meter.upstream_id,
            self.meter.progress,
        )

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._give_memory()
        self.gateway.exchange_ended(self)
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.done()

    def refuse(self, refusal: Refusal) -> None:
        """Nothing changed, nothing is charged."""
        if self.ended:
            return
        self._refuse_or_say(refusal)

    def _refuse_or_say(self, refusal: Refusal) -> None:
        """With a status where the head is still to come, else as an event of the stream that has begun with pings."""
        conn = self.conn
        self.refusal = refusal
        if conn is not None and self.headed:
            self.gateway.count_refusal(refusal)
            self._end_stream(conn, error_event(refusal, self.protocol, self.request_id))
            self._finish()
            return
        self.ended = True
        self._give_memory()
        self.gateway.exchange_ended(self)
        self.conn = None
        if conn is not None:
            conn.exchange = None
            conn.refuse(refusal, self.protocol, self.request_id)
