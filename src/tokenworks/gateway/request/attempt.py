"""One attempt at a deployment: the upstream connection, the response, and the attempt's outcome.

A response is recognised by its content, whatever its status is. Until content was sent to the client another deployment may be
tried. An attempt ends when its upstream ended or was cut; then the attempt calls its owner once, with the outcome.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

from tokenworks.catalog import Counts
from tokenworks.charging import Admission, Hold, RecorderAway, Start, Verdict
from tokenworks.factory import COOL_DOWN_S, Candidate
from tokenworks.gateway.http.decoding import SNIFFED_BYTES, looks_like_events
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter
from tokenworks.gateway.protocol.outcome import fault_of_body, read_body
from tokenworks.gateway.protocol.splice import body_with_model
from tokenworks.gateway.protocol.usage import BOM, Usage
from tokenworks.gateway.protocol.vendor_errors import Fault, retry_after_s
from tokenworks.gateway.request import credentials
from tokenworks.gateway.request.answer import JSON, NoRoom
from tokenworks.gateway.request.losses import NO_COUNTS
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.reply import send_piece
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest, TranslatedRequest
from tokenworks.gateway.request.tail import StreamTail
from tokenworks.gateway.translate.translation import TranslationFailed

# A partial event of this size is parsed in a turn of the loop of its own: a megabyte of small objects takes 10 ms.
LARGE_EVENT_BYTES: Final = 262_144
# Time limit of a connection if another deployment could be tried.
FAILOVER_CONNECT_S: Final = 0.8
# Reasons to pause the upstream, as bits: the client can't take more, or an extension of the hold is pending.
FOR_CLIENT: Final = 1
FOR_HOLD: Final = 2


class AttemptOwner(Protocol):
    """The part that made the attempt. Exactly one of these methods is called, once, when the attempt has ended."""

    def attempt_completed(
        self, attempt: "Attempt", usage: Usage | None, upstream_id: str | None, progress: Counts
    ) -> None:
        """The attempt gave a whole answer."""

    def attempt_interrupted(self, attempt: "Attempt", reason: str, charge: str | None) -> None:
        """The attempt ended half-way. `charge`: how it is charged, in place of the plan's policy."""

    def attempt_failed(self, attempt: "Attempt", reason: str, *, count: bool, cause: str) -> None:
        """The attempt gave nothing that reached the client. `count`: count it as a failure of the deployment; `cause`: the cause in
        the usage record; "": `reason`.
        """

    def attempt_faulted(self, attempt: "Attempt", fault: Fault) -> None:
        """The upstream answered with an error."""

    def attempt_not_begun(self, attempt: "Attempt", refusal: Refusal) -> None:
        """The attempt can't be recorded, so nothing was sent."""

    def attempt_empty(self, attempt: "Attempt") -> None:
        """The stream ended properly without content."""

    def attempt_counted(self, attempt: "Attempt") -> None:
        """The answer of a request that costs nothing is complete."""


class Attempt(AnsweredAttempt):
    __slots__ = ("_owner", "_parts")

    def __init__(
        self,
        parts: Parts,
        request: HeldRequest,
        owner: AttemptOwner,
        chosen: Candidate,
        admission: Admission | None,
        translated: TranslatedRequest | None = None,
    ) -> None:
        """`admission`: under the deployment's limits; None if it has none. `translated`: the request, if the deployment does not speak
        the client's protocol.
        """
        super().__init__(request, chosen, admission, parts.shared.settings.progress_tokens, translated)
        self._parts = parts
        self._owner = owner

    # The request.

    def begin(self, chosen: Candidate) -> None:
        parts, request = self._parts, self.request
        parts.placements.began(request, self, chosen)
        pool = parts.pools.of(self.view)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        elif parts.placements.has_others(request):
            pool.connect(self._connected, FAILOVER_CONNECT_S)
        else:
            pool.connect(self._connected)

    def _connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        """A connection was made, or `reason` says why not."""
        request = self.request
        if request.conn is None or request.ended:
            # The client has gone: another request can use the connection.
            if connection is not None:
                connection.pool.give_back(connection)
        elif connection is None:
            self._owner.attempt_failed(self, reason, count=True, cause="")
        else:
            self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        parts, request, view = self._parts, self.request, self.view
        if not request.free:
            shared = parts.shared
            if request.attempt_no == 1:
                if request.arrived_s:
                    request.sent_s = perf_counter()
                request.usage_id = request.request_id
            else:
                request.usage_id = shared.ids.next()
                request.started_ms = shared.ids.ms
            request.deployment = view.name
            try:
                shared.client.begin(request.usage_id, self)
            except RecorderAway as error:
                connection.pool.give_back(connection)
                self._owner.attempt_not_begun(self, Refusal(503, "recorder_away", str(error), 1))
                return
        renderer = parts.renderer
        if view.credentials is not None and self.slot is None:
            self.slot = credentials.take(parts.shared, view.credentials)
        self.heads_number = parts.shared.heads_number
        body = renderer.body(self)
        self.upstream = connection
        connection.begin(
            self,
            b"%b%d\r\n\r\n" % (renderer.head(self), len(body)),
            body,
            renderer.patience_s(self),
            renderer.idle_timeout_s(view),
        )

    def start_op(self) -> Start:
        """The attempt and its hold, for the journal."""
        return self._parts.records.start_op(self)

    # The response.

    def upstream_head(self, connection: UpstreamConnection) -> None:
        status = connection.status
        if self.slot is not None:
            credentials.note_left(self.slot, connection.headers)
        if 200 <= status < 300:
            self._parts.answers.head(self, connection)
        else:
            # The body says what is wrong, so it is read, up to a limit, before the attempt ends.
            self.refused_status = status

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        request, parts = self.request, self._parts
        if request.first_byte_ms is None:
            request.first_byte_ms = int((parts.shared.loop.time() - request.began_s) * 1000)
        if (
            self.undecided
            and self.size < SNIFFED_BYTES
            and looks_like_events(b"".join((*self.chunks, data)) if self.chunks else data)
        ):
            parts.answers.begin_stream(self)
            data = b"".join((*self.chunks, data))
            self.chunks, self.size = [], 0
        meter = self.meter
        if meter is None:
            self._keep_whole(connection, data)
            return
        try:
            out = meter.feed(data)
            if self.translator is not None and out:
                out = parts.answers.translate(self, self.translator, meter, out)
        except (EventTooLarge, TranslationFailed, NoRoom) as error:
            self._stream_failed(connection, error, len(data))
            return
        if out:
            self.relay(out)
        if meter.fault is not None:
            connection.abort()
            self.upstream = None
            if request.sent:
                self.interrupt_or_fail("upstream_error")
            else:
                # The first event is an error: another deployment may do better.
                self._owner.attempt_faulted(self, meter.fault)
            return
        if not out or meter.kept:
            if not parts.answers.count_buffered(self, meter):
                self._no_memory(len(data))
                return
            if meter.part_bytes > LARGE_EVENT_BYTES:
                connection.large = True
        if (
            meter.shown_bytes >= meter.maximum_check_bytes
            and meter.over_maximum
            and not meter.stopped
            and not parts.answers.is_below_maximum(self, meter)
        ):
            self._cut_at_maximum()
            return
        if (
            request.cuttable
            and meter.shown_bytes > request.held_output - parts.shared.settings.stream_hold_tokens // 4
        ):
            self._extend(meter)
        if meter.stopped:
            self.stopping = True
        if request.conn is None:
            if not self.drain_until_s:
                # The client has gone, and this stream is not to be read to its end.
                self.leave()
        elif meter.progress >= self.progress_at:
            parts.answers.report_progress(self, meter)

    def _stream_failed(self, connection: UpstreamConnection, error: Exception, size: int) -> None:
        """The stream can't be read on, or there is no memory for it. `size`: of the latest data."""
        if isinstance(error, NoRoom):
            self._no_memory(size)
            return
        connection.abort()
        self.upstream = None
        self.interrupt_or_fail("event_too_large" if isinstance(error, EventTooLarge) else "upstream_error")

    def release_finish(self, connection: UpstreamConnection, meter: StreamMeter) -> None:
        """Pass on what the meter withholds until the usage, since that is late."""
        out = meter.release()
        if self.translator is not None and out:
            try:
                out = self._parts.answers.translate(self, self.translator, meter, out)
            except (EventTooLarge, TranslationFailed, NoRoom) as error:
                self._stream_failed(connection, error, len(out))
                return
        if out:
            self.relay(out)

    def relay(self, out: bytes) -> None:
        """Write a piece of a stream to the client."""
        request, parts = self.request, self._parts
        conn = request.conn
        if request.copy is not None:
            request.copy.add(out)
        if not request.sent:
            parts.placements.succeeded(self, first_token=True)
            request.sent = True
        if conn is None:
            return
        shared = parts.shared
        shared.stats.c["chunks"] += 1
        request.written_s = shared.wheel.now_s
        send_piece(request, conn, out)
        if conn.write_paused:
            self.pause(FOR_CLIENT)

    def _keep_whole(self, connection: UpstreamConnection, data: bytes) -> None:
        """Keep a piece of an answer that is not streamed, or of an error's body, until it is complete."""
        kept = self._parts.answers.keep(self, data)
        if kept == "kept":
            return
        if self.refused_status:
            self.abort()
            self._refused_by_upstream(connection, b"")
        elif kept == "no_memory":
            self._no_memory(len(data))
        elif self.abort():
            message = "the answer is larger than this gateway relays"
            self.request.last_refusal = Refusal(502, "upstream_error", message)
            self._owner.attempt_interrupted(self, "response_too_large", "nothing")

    def _no_memory(self, size: int) -> None:
        """The worker has no memory for the answer. The deployment is not at fault, and the operator pays for the tokens."""
        if self.abort():
            request = self.request
            request.last_refusal = self._parts.shared.memory.refusal(request.address, size)
            self._owner.attempt_interrupted(self, "no_memory", "nothing")

    # The end.

    def upstream_end(self, connection: UpstreamConnection) -> None:
        self.upstream = None
        request, placements = self.request, self._parts.placements
        if request.arrived_s:
            request.over_s = perf_counter()
        if self.meter is not None:
            self.stream_ended(self.meter)
            return
        if len(self.chunks) != 1:
            self.chunks = [b"".join(self.chunks)]
        body = self.chunks[0].removeprefix(BOM)
        if self.refused_status:
            self._refused_by_upstream(connection, body)
            return
        if request.free:
            placements.succeeded(self)
            self._owner.attempt_counted(self)
            return
        fault, usage, upstream_id, model = read_body(connection.status, body, self.protocol)
        if self.undecided and fault is None:
            # A stream was requested, and this is none: the answer is relayed as it is, unless its head has left.
            kind = (connection.content_type if self.translated is None else None) or JSON
            request.response_head = request.response_head.replace(b"text/event-stream", kind, 1)
            if request.headed:
                fault = Fault("server", 502, "", "", None)
        if self.translated is not None and fault is None:
            fault = self._parts.answers.translate_whole(self, self.translated)
        if fault is not None:
            if usage is not None and usage.total:
                # The failed attempt reports tokens: they are the operator's loss.
                self._parts.records.write_loss(self, "failed_attempt", usage, upstream_id)
            self._owner.attempt_faulted(self, fault)
            return
        placements.succeeded(self)
        requested = request.shown_model
        if self.translated is None:
            self.chunks[0] = body if model == requested else body_with_model(body, requested)
        self._owner.attempt_completed(self, usage, upstream_id, NO_COUNTS)

    def stream_ended(self, meter: StreamMeter) -> None:
        meter.finish()
        if meter.fault is not None and not self.request.sent:
            self._owner.attempt_faulted(self, meter.fault)
        elif not meter.complete:
            self.interrupt_or_fail("upstream_error")
        elif meter.begun or meter.usage is not None:
            self._owner.attempt_completed(self, meter.usage, meter.upstream_id or None, meter.counts())
        elif meter.upstream_id is None:
            # The stream has an end and nothing before it.
            self._owner.attempt_failed(self, "upstream_error", count=True, cause="")
        else:
            self._owner.attempt_empty(self)

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        self.upstream = None
        request, parts = self.request, self._parts
        if (
            connection.reused
            and not request.sent
            and not self.chunks
            and reason != "timeout"
            and request.conn is not None
            and self.meter is None
            and not self.refused_status
        ):
            # The deployment was closing a kept-alive connection: try the same deployment on a new one.
            parts.records.drop(request)
            request.attempt_no += 1
            parts.pools.of(self.view).connect(self._connected)
            return
        if self.meter is not None:
            self.meter.finish()
            if self.meter.complete and self.meter.usage is not None:
                # Only the stream's terminal event is missing.
                self.stream_ended(self.meter)
                return
        if reason == "timeout":
            if not request.sent and not self.over and parts.placements.has_others(request):
                # The deployment was silent for much longer than predicted: it rests, apart from a trial now and then.
                self.view.cool_down(parts.shared.loop.time(), COOL_DOWN_S)
            message = f"the deployment of {request.model} did not answer in time"
            request.last_refusal = Refusal(504, "upstream_timeout", message, 1)
        self.interrupt_or_fail("upstream_timeout" if reason == "timeout" else "upstream_error")

    def _refused_by_upstream(self, connection: UpstreamConnection, body: bytes) -> None:
        """The upstream answered with a status that is no success."""
        status = self.refused_status
        fault = fault_of_body(status, body, self.protocol) or Fault("server", status, "", "", None)
        seconds = retry_after_s(connection.headers, self._parts.shared.clock.civil_ms() / 1000)
        if seconds is not None:
            fault = fault._replace(retry_after_s=seconds)
        if not 300 <= status < 500 and fault.kind == "client":
            fault = fault._replace(kind="server")
        self._owner.attempt_faulted(self, fault)

    def interrupt_or_fail(self, reason: str) -> None:
        """End the attempt before its answer is complete: as interrupted if content was sent, else as failed."""
        request = self.request
        if request.sent:
            if not self.over and reason in {"upstream_error", "upstream_timeout"}:
                # A deployment that often breaks off is as bad as one that never begins an answer.
                self._parts.placements.failed(request, self)
            self._owner.attempt_interrupted(self, reason, None)
        elif request.conn is None and reason in {"upstream_timeout", "shutdown"}:
            # The client has gone. The tokens up to here were produced all the same.
            self._owner.attempt_interrupted(self, "client_gone", None)
        else:
            self._owner.attempt_failed(self, reason, count=True, cause="")

    # Extensions of the hold.

    def _extend(self, meter: StreamMeter) -> None:
        """Extend the hold before the shown bytes reach it. If they have reached it, pause the upstream until it is extended."""
        request = self.request
        if (
            request.hold is None
            or request.held_output >= request.need.output_tokens
            or meter.terminal
            or (request.denied and meter.shown_bytes <= request.held_output)
        ):
            return
        request.denied = False
        if request.pending_hold is None:
            before = request.held_output
            self._parts.holds.extend(request, meter.shown_bytes, self._extension_answered)
            if request.held_output > before:
                return
        if meter.shown_bytes > request.held_output:
            self.pause(FOR_HOLD)

    def _extension_answered(self, extension: Hold | None, verdict: Verdict, _back_s: int) -> None:
        request, holds, meter = self.request, self._parts.holds, self.meter
        request.pending_hold = None
        hold = request.hold
        if hold is None or meter is None:  # the attempt has ended
            if extension is not None:
                holds.give(extension)
            return
        if extension is not None:
            holds.add(request, hold, extension)
        elif meter.shown_bytes <= request.held_output:
            # The next request for an extension follows when the hold is spent, not with each chunk until then.
            request.denied = True
        elif not holds.extend_rest(request, hold):
            self._cut(verdict)
            return
        if request.held_output < meter.shown_bytes and request.held_output < request.need.output_tokens:
            self._extend(meter)
        if request.pending_hold is None:
            self.resume(FOR_HOLD)

    # The upstream is paused while the client can't take more or an extension of the hold is pending.

    def pause(self, reason: int) -> None:
        request = self.request
        before = request.paused
        request.paused |= reason
        if not before and self.upstream is not None:
            self.upstream.pause()

    def resume(self, reason: int) -> None:
        request = self.request
        before = request.paused
        request.paused &= ~reason
        if before and not request.paused and self.upstream is not None:
            self.upstream.resume(self._parts.renderer.idle_timeout_s(self.view))

    # Cutting.

    def abort(self) -> bool:
        """Break the upstream connection off. False if there is none."""
        upstream, self.upstream = self.upstream, None
        if upstream is None or self.request.ended:
            return False
        upstream.abort()
        return True

    def _cut(self, verdict: Verdict) -> None:
        """Nothing is left, or the balance is not known: take the plan's final unit action, in the stream."""
        reason = "nothing_left" if verdict == Verdict.NOTHING_LEFT else "hold_unavailable"
        if self._cut_upstream(lambda: self.interrupt_or_fail(reason)):
            over = verdict == Verdict.NOTHING_LEFT
            self._parts.shared.stats.c["free_rider_over_balance"] += over

    def _cut_at_maximum(self) -> None:
        """The upstream made more than the maximum that it was sent: end the stream as one that reached its maximum."""
        if self.abort():
            self._parts.shared.stats.c["cut_at_maximum"] += 1
            self._owner.attempt_interrupted(self, "beyond_maximum", None)

    def leave(self) -> None:
        """The client has gone, and the stream is not read to its end."""
        self.request.user.abandon(self._parts.shared.loop.time())
        self._cut_upstream(lambda: self._owner.attempt_interrupted(self, "client_gone", None))

    def _cut_upstream(self, on_end: Callable[[], None]) -> bool:
        """Stop the upstream of a stream, count the tokens that it had made by then, and call `on_end`."""
        upstream, meter, request = self.upstream, self.meter, self.request
        if upstream is None or request.ended:
            return False
        if meter is None or not upstream.end_request():
            self.abort()
            on_end()
            return True

        def counted() -> None:
            request.counting = False
            on_end()

        self.upstream = None
        request.counting = True
        parts = self._parts
        StreamTail(upstream, meter, parts.renderer.idle_timeout_s(self.view), parts.shared.loop, counted)
        return True
