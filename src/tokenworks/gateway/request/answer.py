"""What comes from upstream: heads, data, ends, failures, and what they make of the attempt.

An answer is one by what it holds, whatever its status says. Until content has left another deployment may be tried.
"""

import math
from time import perf_counter
from typing import Final

import structlog

from tokenworks.factory import COOL_DOWN_S, Place, eject_outlier
from tokenworks.gateway.counting import Counted, Job
from tokenworks.gateway.http.decoding import SNIFFED_BYTES, looks_like_events
from tokenworks.gateway.http.headers import response_lines
from tokenworks.gateway.http.upstream import UpstreamConnection
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import (
    dropped_header,
)
from tokenworks.gateway.protocol.outcome import Fault, fault_of_body, read_body
from tokenworks.gateway.protocol.splice import body_with_model
from tokenworks.gateway.protocol.stream import EventTooLarge, StreamMeter, UsageAsked, make_meter
from tokenworks.gateway.protocol.usage import BOM
from tokenworks.gateway.protocol.vendor_errors import refusal_of, retry_after_s
from tokenworks.gateway.request.hold import INPUT_BYTES_PER_TOKEN_MAX
from tokenworks.gateway.request.record import NO_COUNTS
from tokenworks.gateway.request.reply import Ending

log = structlog.get_logger()

# Of an answer that is no success so much is read: what is wrong stands at its beginning.
REFUSAL_BYTES_MAX: Final = 65_536
# A stream that lets nothing pass is counted in the memory budget from here on.
UNCOUNTED_STREAM_BYTES: Final = 65_536
# An answer that begins so is not taken for a good one before it is whole.
ERROR_SIGN: Final = b'"error"'
ERROR_SIGN_WITHIN: Final = 512
# Of a stream's text so much is kept for a tokenizer.
KEPT_TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
# An event of which so much is there is read in a turn of the loop of its own: 10 ms for a megabyte of small objects.
LARGE_EVENT_BYTES: Final = 262_144


def names_of(place: Place) -> tuple[str, ...]:
    """What a customer does not get to read in an upstream's words: who runs the deployment, and where."""
    deployment, profile = place.deployment, place.profile
    vendor = () if deployment.vendor is None else (deployment.vendor,)
    return (*vendor, *profile.names, *profile.hosts, deployment.host)


class Answering(Ending):
    __slots__ = ()

    def _others(self) -> bool:
        """Whether another deployment could be tried."""
        raise NotImplementedError

    def _connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        """A connection was made, or not."""
        raise NotImplementedError

    def _cut_at_maximum(self) -> None:
        """It made more than the maximum that was sent."""
        raise NotImplementedError

    def _go_on_alone(self) -> None:
        """Its client has gone."""
        raise NotImplementedError

    def upstream_head(self, connection: UpstreamConnection) -> None:
        status = connection.status
        if not 200 <= status < 300:
            # Its body says what is wrong: it is read, bounded, before it is judged.
            self.refused_status = status
            return
        assert self.place is not None
        kind = connection.content_type
        events = kind == b"text/event-stream" and self.parsed.stream and not self.free
        self.undecided = (
            self.parsed.stream and not events and not self.free
        )  # what its first bytes look like decides
        ids = self.request_id.encode()
        lines = [
            b"HTTP/1.1 200 OK\r\ncontent-type: ",
            b"text/event-stream" if events or self.undecided else kind or b"application/json",
            b"\r\n",
            *response_lines(connection.headers, self.place.profile, connection.names),
            b"x-request-id: ", ids, b"\r\nrequest-id: ", ids, b"\r\n", self.head.lines,
        ]  # fmt: skip
        if self.asked is not None:
            lines += (b"x-tokenworks-model: ", self.model.encode(), b"\r\nx-tokenworks-choice: ", (self.choice or "").encode(), b"\r\n")  # fmt: skip
        if self.queued_ms:
            lines.append(b"x-tokenworks-queued-ms: %d\r\n" % self.queued_ms)
        if self.restricted:
            lines += (b"x-tokenworks-restricted-to: ", self.model.encode(), b"\r\n")
        if self.dropped:
            lines += (b"x-tokenworks-dropped: ", dropped_header(self.dropped), b"\r\n")
        self.response_head = b"".join(lines)
        if events:
            self._begin_stream()

    def _begin_stream(self) -> None:
        assert self.place is not None
        self.streaming = True
        self.undecided = False
        parsed, settings = self.parsed, self.shared.settings
        self.meter = make_meter(
            self.protocol,
            asked_model=parsed.model,
            ask=UsageAsked(final=parsed.client_usage, each=parsed.client_usage_each),
            event_bytes_max=settings.event_bytes_max,
            text_max=None if self.maximum is None else self.maximum * parsed.choices,
            keep_bytes_max=0 if self.place.deployment.tokenizer is None else KEPT_TEXT_BYTES_MAX,
            choices=parsed.choices,
        )

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = int((self.shared.loop.time() - self.began_s) * 1000)
        if (
            self.undecided
            and self.size < SNIFFED_BYTES
            and looks_like_events(b"".join((*self.chunks, data)) if self.chunks else data)
        ):
            self._begin_stream()
            data = b"".join((*self.chunks, data))
            self.chunks, self.size = [], 0
        meter = self.meter
        if meter is None:
            self._keep_whole(connection, data)
            return
        try:
            out = meter.feed(data)
        except EventTooLarge:
            connection.abort()
            self.upstream = None
            self._interrupt_or_fail("event_too_large")
            return
        if out:
            self._relay(out)
        if meter.failed is not None:
            connection.abort()
            self.upstream = None
            if self.sent:
                self._interrupt_or_fail("upstream_error")
            else:
                # The first thing it said is an error: another place may do better.
                self._attempt_refused(meter.failed)
            return
        if not out or meter.kept:
            if not self._count_buffered(meter):
                self._no_memory(len(data))
                return
            if meter.part_bytes > LARGE_EVENT_BYTES:
                connection.large = True
        if (
            meter.shown_bytes >= meter.look_bytes
            and meter.over_maximum
            and not meter.stopped
            and not self._is_below_maximum(meter)
        ):
            self._cut_at_maximum()
            return
        if (
            self.cuttable
            and meter.shown_bytes > self.held_output - self.shared.settings.stream_hold_tokens // 4
        ):
            self._extend(meter)
        if meter.stopped:
            self.stopping = True
        if self.conn is None:
            self._go_on_alone()
        elif meter.progress >= self.progress_at:
            self._report_progress(meter)

    def _report_progress(self, meter: StreamMeter) -> None:
        """For the journal: what is charged of this stream if this worker dies."""
        if self.hold is None:
            return
        shared = self.shared
        self.progress_at = meter.progress + shared.settings.progress_tokens
        self.reported = True
        counts = meter.counts()
        if not counts.input_tokens:
            counts = counts._replace(fresh_input=self.parsed.text_bytes // INPUT_BYTES_PER_TOKEN_MAX)
        now_ms = shared.clock.civil_ms()
        shared.client.progress(self.usage_id, counts, self.first_byte_ms, now_ms, self.hold)

    def _is_below_maximum(self, meter: StreamMeter) -> bool:
        """Whether the model's tokenizer says that a text which is too long by its bytes is not; it is asked, and until it has answered
        the stream goes on.
        """
        assert self.place is not None
        shared, tokenizer = self.shared, self.place.deployment.tokenizer
        if tokenizer is None or meter.says_over or self.measuring is None:
            return False
        if not self.measuring:
            self.measuring = True
            size, texts = meter.shown_bytes, tuple(meter.kept)

            def done(found: Counted | None) -> None:
                # Not counted: from now on its bytes say how long it is.
                self.measuring = None if found is None else False
                if found is not None:
                    meter.measured(size, found.output)

            shared.counter.count(Job(tokenizer, self.protocol, texts=texts), done)
        return True

    def _no_memory(self, size: int) -> None:
        """The worker has no room for the answer: no fault of its deployment, and the operator bears what was made."""
        if self._abort_upstream():
            self.last_refusal = self.shared.memory.refusal(self.address, size)
            self._interrupted("no_memory", charge="nothing")

    def _count_buffered(self, meter: StreamMeter) -> bool:
        """Whether the worker's budget has room for what a stream keeps back."""
        more = meter.buffered_bytes - self.kept_bytes
        if more <= UNCOUNTED_STREAM_BYTES:
            return True
        if not self.shared.memory.take(self.address, more):
            return False
        self.kept_bytes += more
        return True

    def _keep_whole(self, connection: UpstreamConnection, data: bytes) -> None:
        """An answer that is not streamed is kept until it is whole; so is what a refusal says."""
        most = REFUSAL_BYTES_MAX if self.refused_status else self.shared.settings.response_bytes_max
        self.size += len(data)
        # What is small is bounded by the number of requests, as a small body is.
        more = len(data)
        if self.size <= UNCOUNTED_BYTES:
            more = 0
        elif self.size - more <= UNCOUNTED_BYTES:
            more = self.size
        if self.size <= most and (not more or self.shared.memory.take(self.address, more)):
            self.kept_bytes += more
            begins = not self.chunks and not self.refused_status
            if begins and self.place is not None and ERROR_SIGN not in data[:ERROR_SIGN_WITHIN]:
                self.place.succeeded(self.shared.loop.time())  # its first good bytes
            self.chunks.append(data)
            return
        if self.refused_status:
            self._abort_upstream()
            self._answered_badly(connection, b"")
        elif self.size <= most:
            self._no_memory(len(data))
        elif self._abort_upstream():
            said = "the answer is larger than this gateway relays"
            self.last_refusal = Refusal(502, "upstream_error", said)
            self._interrupted("response_too_large", charge="nothing")

    def _relay(self, out: bytes) -> None:
        conn = self.conn
        assert self.place is not None
        if not self.sent:
            now_s = self.shared.loop.time()
            self.place.succeeded(now_s)
            self.shared.placement.first_token(self, self.place, now_s)
            self.sent = True
        if conn is None:
            return
        shared = self.shared
        shared.stats.c["chunks"] += 1
        self.written_s = shared.wheel.now_s
        if not self.headed:
            self._send_head(conn, out)
        elif self.head.http10:
            conn.write(out)
        else:
            conn.write(b"%x\r\n%b\r\n" % (len(out), out))
        if conn.write_paused:
            self.pause()

    def upstream_end(self, connection: UpstreamConnection) -> None:
        self.upstream = None
        if self.arrived_s:
            self.over_s = perf_counter()
        if self.streaming:
            self._stream_ended()
            return
        if len(self.chunks) != 1:
            self.chunks = [b"".join(self.chunks)]
        body = self.chunks[0].removeprefix(BOM)
        assert self.place is not None
        if self.refused_status:
            self._answered_badly(connection, body)
            return
        if self.free:
            self.place.succeeded(self.shared.loop.time())
            self._relay_free()
            return
        fault, usage, upstream_id, model = read_body(connection.status, body, self.protocol)
        if self.undecided and fault is None:
            # A stream was asked for, and this is none: it goes on as what it is, if its head can still say so.
            kind = connection.content_type or b"application/json"
            self.response_head = self.response_head.replace(b"text/event-stream", kind, 1)
            if self.headed:
                fault = Fault("server", 502, "", "", None)
        if fault is not None:
            if usage is not None and usage.total:
                # It failed, and reports tokens all the same: they are the operator's loss.
                self._record_loss("failed_attempt", usage, upstream_id)
            self._attempt_refused(fault)
            return
        self.place.succeeded(self.shared.loop.time())
        self.chunks[0] = body if model == self.parsed.model else body_with_model(body, self.parsed.model)
        self._complete(usage, upstream_id, NO_COUNTS)

    def _stream_ended(self) -> None:
        meter = self.meter
        assert meter is not None
        meter.finish()
        if meter.failed is not None and not self.sent:
            self._attempt_refused(meter.failed)
        elif not meter.whole:
            self._interrupt_or_fail("upstream_error")
        elif meter.begun or meter.usage is not None:
            self._complete(meter.usage, meter.upstream_id or None, meter.counts())
        elif meter.upstream_id is None:
            self._attempt_failed("upstream_error")  # an end, and nothing before it
        else:
            self._empty()

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        self.upstream = None
        if (
            connection.reused
            and not self.sent
            and not self.chunks
            and reason != "timeout"
            and self.conn is not None
            and not self.streaming
            and not self.refused_status
        ):
            # A kept-alive connection that the other side was closing: the same deployment, a new connection.
            self._drop_attempt()
            assert self.place is not None
            self.attempt_no += 1
            self.parts.pools.of(self.place).connect(self._connected)
            return
        if self.meter is not None:
            self.meter.finish()
            if self.meter.whole and self.meter.usage is not None:
                # It said everything but its goodbye.
                self._stream_ended()
                return
        if reason == "timeout":
            if not self.sent and self.place is not None and self._others():
                # Silent for much longer than it should be: it rests, but for one trial now and then.
                self.place.cool_down(self.shared.loop.time(), COOL_DOWN_S)
            self.last_refusal = Refusal(
                504, "upstream_timeout", f"the deployment of {self.model} did not answer in time", 1
            )
        self._interrupt_or_fail("upstream_timeout" if reason == "timeout" else "upstream_error")

    # What the upstream refuses.

    def _answered_badly(self, connection: UpstreamConnection, body: bytes) -> None:
        """An answer with a status that is no success."""
        status = self.refused_status
        fault = fault_of_body(status, body, self.protocol) or Fault("server", status, "", "", None)
        seconds = retry_after_s(connection.headers, self.shared.clock.civil_ms() / 1000)
        if seconds is not None:
            fault = fault._replace(retry_after_s=seconds)
        if not 300 <= status < 500 and fault.kind == "client":
            fault = fault._replace(kind="server")
        self._attempt_refused(fault)

    def _attempt_refused(self, fault: Fault) -> None:
        """The upstream answered, and not with what was asked for: say it on, or try another place."""
        shared, place = self.shared, self.place
        assert place is not None
        self._note_failed_usage()
        now_s = shared.loop.time()
        if fault.kind in {"client", "moderation"}:
            upstream_model = place.deployment.upstream_model
            said = refusal_of(
                fault, names=names_of(place), model=self.parsed.model, upstream_model=upstream_model
            )
            if said is not None:
                place.succeeded(now_s)
                self._end_attempt()
                self._drop_attempt()
                self._release_hold()
                self._refuse_or_say(said)
                return
        wait_s = fault.retry_after_s
        if wait_s is not None:
            shared.rest(place, wait_s)
        self.last_refusal = self._refusal_for(fault)
        # What says itself when it has room is not ill.
        count = wait_s is None and fault.status not in {404, 409, 425}
        self._attempt_failed("", count=count, cause=f"{fault.kind} {fault.status}")

    def _refusal_for(self, fault: Fault) -> Refusal:
        """What the client is told where no other place does better. What the vendor said stays between us."""
        seconds = max(1, math.ceil(fault.retry_after_s or 1))
        if fault.kind == "rate":
            said = f"{self.model} is busy: every deployment is at its limit, try again in {seconds} s"
            return Refusal(429, "too_many_requests", said, seconds)
        if fault.kind == "quota" or (fault.kind == "overloaded" and fault.retry_after_s is not None):
            return Refusal(503, "no_deployment", f"no deployment can take {self.model} now", seconds)
        return Refusal(502, "upstream_error", f"the deployment of {self.model} failed", seconds)

    def _note_failed_usage(self) -> None:
        """A stream that failed before its content, and reported tokens all the same: they are the operator's loss."""
        meter = self.meter
        if self.usage_id and meter is not None and meter.usage is not None and meter.usage.total:
            self._record_loss("failed_attempt", meter.usage, meter.upstream_id or None)

    def _count_failure(self) -> None:
        place, now_s = self.place, self.shared.loop.time()
        assert place is not None
        place.failed(now_s)
        if eject_outlier(place, self.places, now_s):
            cool_s = round(place.cool_until_s - now_s)
            log.warning("placement.ejected", deployment=place.name, cool_s=cool_s)

    def _interrupt_or_fail(self, reason: str) -> None:
        if self.sent:
            if self.place is not None and reason in {"upstream_error", "upstream_timeout"}:
                # It began well, and broke off: a place that does that often is no better than one that never begins.
                self._count_failure()
            self._interrupted(reason)
        elif self.conn is None and reason in {"upstream_timeout", "shutdown"}:
            # Nobody waits for it, and it was never finished: it worked all the same.
            self._interrupted("client_gone")
        else:
            self._attempt_failed(reason)

    def _attempt_failed(self, reason: str, *, count: bool = True, cause: str = "") -> None:
        """The attempt gave nothing that reached the client: it costs nothing, and another deployment may be tried.

        `cause`: what is kept of it, where that is no `reason`.
        """
        shared = self.shared
        assert self.place is not None
        self._note_failed_usage()
        cause = cause or ("no_connection" if reason.startswith("can't connect") else reason)
        self.failures = [*(self.failures or ()), (self.place.name, cause)]
        shared.stats.c["attempts_failed"] += 1
        if count:
            self._count_failure()
        self._end_attempt()
        self._drop_attempt()
        self._forget_answer()
        if reason and (self.last_refusal is None or self.last_refusal.status != 504):
            self.last_refusal = Refusal(502, "upstream_error", f"the deployment of {self.model} failed", 1)
        if self.conn is not None:
            self._try()
        else:
            self._release_hold()
            self._finish()
