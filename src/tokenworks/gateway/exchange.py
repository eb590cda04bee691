"""One metered request from its body to its record: identify, hold, place, relay, meter, commit, finish.

Nothing here waits: every step that needs somebody else goes on in a callback. Until the first byte went to the client
another deployment may be tried; after it an attempt ends as complete or interrupted, and either way as a record. The
end of the response is withheld until the record is on disk.
"""

import math
from typing import Any, Final

import structlog

from tokenworks.charging import RecorderAway
from tokenworks.charging import wire as charging_wire
from tokenworks.factory import COOL_DOWN_S, PROTOCOL_PATHS, Candidate, Place, eject_outlier
from tokenworks.gateway.decoding import looks_like_events
from tokenworks.gateway.errors import Refusal, cut_events, error_event
from tokenworks.gateway.fields import (
    BodyError,
    allowed_query,
    dropped_header,
    is_maximum,
    parse_body,
    render,
    tools_refused,
)
from tokenworks.gateway.headers import forwarded, response_lines
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.leaving import STOP_WAIT_S, USAGE_WAIT_S, drain_of, drain_until_s, name_leaving
from tokenworks.gateway.outcome import Fault, fault_of_body, read_body
from tokenworks.gateway.placing import Placing
from tokenworks.gateway.recording import NO_COUNTS
from tokenworks.gateway.refusals import no_hold, no_route
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import allows
from tokenworks.gateway.splice import body_with_model
from tokenworks.gateway.stream import EventTooLarge, StreamMeter, UsageAsked, make_meter
from tokenworks.gateway.upstream import UpstreamConnection
from tokenworks.gateway.usage import BOM
from tokenworks.gateway.vendor_errors import refusal_of, retry_after_s

log = structlog.get_logger()

# Of an answer that is no success so much is read: what is wrong stands at its beginning.
REFUSAL_BYTES_MAX: Final = 65_536
# An answer that is not streamed is thought to be written so fast, where another place could be tried.
UNSTREAMED_TOKENS_PER_S: Final = 100
# A stream that says nothing says this often that it lives.
PING_EVERY_S: Final = 15
PING_COMMENT: Final = b": ping\n\n"
PINGS: Final = {"messages": b'event: ping\ndata: {"type": "ping"}\n\n'}
# Ids of upstream objects in one request: each is looked up.
OBJECTS_MAX: Final = 32
# A stream that lets nothing pass is counted in the memory budget from here on.
UNCOUNTED_STREAM_BYTES: Final = 65_536
# An answer that begins so is not taken for a good one before it is whole.
ERROR_SIGN: Final = b'"error"'
ERROR_SIGN_WITHIN: Final = 512
# Of a stream's text so much is kept for a tokenizer.
KEPT_TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
# Where another deployment could be tried, a connection is waited for no longer than this.
FAILOVER_CONNECT_S: Final = 0.8
# A first byte that is so many times later than foreseen is not waited for, where there is another deployment.
LATE_TIMES: Final = 4.0
FORWARD_MEMO_MAX: Final = 100
CUT: Final = Refusal(503, "shutting_down", "this server ends: try again, another one takes it", 1)


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


def names_of(place: Place) -> tuple[str, ...]:
    """What a customer does not get to read in an upstream's words: who runs the deployment, and where."""
    deployment, profile = place.deployment, place.profile
    vendor = () if deployment.vendor is None else (deployment.vendor,)
    return (*vendor, *profile.names, *profile.hosts, deployment.host)


class Exchange(Placing):
    __slots__ = ()

    # Before upstream.

    def identified(self, user: KeyEntry | None) -> None:
        """The key is known (or nobody could say)."""
        if self.conn is None:
            return
        gateway = self.gateway
        if user is None:
            self.refuse(Refusal(503, "database_away", "keys can't be looked up now", 1))
            return
        if not user.known or (
            user.expires_s is not None and gateway.clock.civil_ms() >= user.expires_s * 1000
        ):
            self.refuse(
                Refusal(
                    401, "invalid_api_key", "this API key is not valid here: check it, or ask for a new one"
                )
            )
            return
        limit = gateway.settings.key_requests_max
        if user.in_flight >= limit:
            self.refuse(
                Refusal(
                    429,
                    "too_many_requests",
                    f"this key has {limit} requests in flight: wait for one to end",
                    1,
                )
            )
            return
        abandons_max = gateway.settings.key_abandons_per_min
        if abandons_max and user.abandoned(gateway.loop.time()) >= abandons_max:
            self.refuse(
                Refusal(
                    429,
                    "too_many_requests",
                    "this key leaves too many of its requests before their end: read them to the end",
                    60,
                )
            )
            return
        user.in_flight += 1
        self.user = user
        try:
            self.parsed = parsed = parse_body(self.body, self.protocol)
        except BodyError as error:
            self.refuse(error.refusal)
            return
        self.streams = parsed.stream
        if parsed.choices > 1 or parsed.dropped:
            self._name_riders()
        refusal = tools_refused(parsed.hosted, user.service) if parsed.hosted else None
        if refusal is not None:
            self.refuse(refusal)
            return
        if parsed.links:
            gateway.links.check(parsed.links, self._links_checked)
        else:
            self._find_model()

    def _name_riders(self) -> None:
        counters, parsed = self.gateway.stats.c, self.parsed
        counters["free_rider_many_choices"] += parsed.choices > 1
        counters["free_rider_maximum_aliases"] += any(is_maximum(name) for name in parsed.dropped)

    def _links_checked(self, why: str | None) -> None:
        """Whether an upstream may fetch what the request links to."""
        if self.conn is None:
            self._finish()
        elif why is not None:
            self.refuse(Refusal(400, "forbidden_link", why))
        else:
            self._find_model()

    def _find_model(self) -> None:
        gateway, parsed, user = self.gateway, self.parsed, self.user
        assert user is not None
        snapshot = gateway.snapshot
        self.model = model = snapshot.model_for(
            parsed.model, self.protocol, user.models, user.service.default_model
        )
        self.flex = parsed.flex
        intent = snapshot.intents.get(model) if self.protocol != "embeddings" else None
        if intent is not None and (model, self.protocol) not in snapshot.routes:
            if self._choose_model(intent):
                self._placed_model()
            return
        if user.models is not None and not allows(user.models, parsed.model, model):
            self.refuse(
                Refusal(403, "model_not_allowed", f"this key may not use {parsed.model}", param="model")
            )
            return
        route = snapshot.routes.get((model, self.protocol))
        if route is None:
            self.refuse(no_route(snapshot, parsed.model, model, self.protocol))
            return
        self.route, self.places = route, route.places
        refusal = self._check_model()
        if refusal is not None:
            self.refuse(refusal)
            return
        self._placed_model()

    def _placed_model(self) -> None:
        """The model is known, and so are the places that serve it."""
        if len(self.parsed.objects) > OBJECTS_MAX:
            said = f"a request names at most {OBJECTS_MAX} objects of an upstream"
            self.refuse(Refusal(400, "invalid_body", said))
        elif self.parsed.objects:
            self._check_object(0)
        else:
            self._hold()

    def _check_object(self, at: int) -> None:
        """An upstream object resolves only for the account that received it, and only where it was made."""
        objects, user = self.parsed.objects, self.user
        assert user is not None
        if at == len(objects):
            self._hold()
            return
        param, name = objects[at]

        def answered(owner: list[Any] | None) -> None:
            if self.conn is None:
                self._finish()
                return
            deployment, tokens = owner or ("", 0)
            self.places = [place for place in self.places if place.name == deployment]
            if not self.places:
                said = f"no such object as {param} names: an id works only for the account that received it"
                self.refuse(Refusal(400, "foreign_object", said, param=param))
                return
            self.stored_tokens += tokens
            self._check_object(at + 1)

        self.gateway.client.request("owns", [user.account_id, name], answered)

    def _begin_at(self, chosen: Candidate) -> None:
        gateway = self.gateway
        self.place = place = chosen.place
        self.tried.append(place.name)
        self.attempt_no += 1
        now_s = gateway.loop.time()
        place.began(now_s)
        assert self.ask is not None
        self.foreseen_ms = chosen.first_token_ms
        gateway.placement.sent(self, chosen, self.ask, now_s, streams=self.parsed.stream)
        gateway.stats.c["attempts"] += 1
        pool = gateway.pool(place)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        elif self._others():
            pool.connect(self._connected, FAILOVER_CONNECT_S)
        else:
            pool.connect(self._connected)

    def _others(self) -> bool:
        """Whether another deployment could be tried."""
        return len(self.tried) < min(len(self.places), self.gateway.settings.attempts_max)

    def _connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        if self.conn is None or self.ended:
            # The client left meanwhile: the connection is good for another request.
            if connection is not None:
                connection.pool.give_back(connection)
            return
        if connection is None:
            self._attempt_failed(reason)
            return
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        gateway, place, parsed = self.gateway, self.place, self.parsed
        assert place is not None
        deployment = place.deployment
        if not self.free:
            if self.attempt_no == 1:
                self.usage_id = self.request_id
            else:
                self.usage_id = gateway.ids.next()
                self.started_ms = gateway.ids.ms
            self.deployment = place.name
            try:
                gateway.client.begin(self.usage_id, self)
            except RecorderAway as error:
                connection.pool.give_back(connection)
                self._end_attempt()
                self._release_hold()
                self.refuse(Refusal(503, "recorder_away", str(error), 1))
                return
        body, dropped = render(
            parsed,
            self.body,
            deployment,
            place.profile,
            maximum=None if self.free else self.maximum,
            usage=not self.free,
        )
        self.dropped = (*parsed.dropped, *dropped) if dropped else parsed.dropped
        self.upstream = connection
        settings = gateway.settings
        connection.begin(
            self,
            b"%b%d\r\n\r\n" % (self._request_head(place), len(body)),
            body,
            self._patience_s(),
            deployment.idle_timeout_s or settings.upstream_idle_timeout_s,
        )

    def _patience_s(self) -> int:
        """How long to wait for the first byte of the answer.

        A stream's first byte is foreseen: one that is much later does not come, or not soon. An answer that is not
        streamed comes as a whole, so it may take as long as the request, unless another place could be tried.
        """
        settings, parsed = self.gateway.settings, self.parsed
        if not parsed.stream:
            left_s = max(1, math.ceil(self.began_s + settings.request_timeout_s - self.gateway.loop.time()))
            if not self._others():
                return left_s
            writing_s = (parsed.output_tokens or 0) // UNSTREAMED_TOKENS_PER_S
            return min(left_s, max(settings.upstream_first_byte_timeout_s, writing_s))
        if not self._others():
            return settings.upstream_first_byte_timeout_s
        late_s = math.ceil(LATE_TIMES * self.foreseen_ms / 1000.0)
        return min(settings.upstream_first_byte_timeout_s, max(settings.failover_patience_s, late_s))

    def _request_head(self, place: Place) -> bytes:
        """The head for one deployment up to the content length; remembered with the client's head."""
        number = self.gateway.snapshot.number
        forward = self.head.forward
        memo = forward.get(place.name)
        if memo is not None and memo[0] == number:
            return memo[1]
        deployment, profile = place.deployment, place.profile
        passing = allowed_query(self.protocol, self.head.query).decode()
        query = f"?{passing}" if passing else ""
        endpoint = PROTOCOL_PATHS[self.protocol] + ("/count_tokens" if self.free else "")  # type: ignore[index]
        host = deployment.host if ":" not in deployment.host else f"[{deployment.host}]"
        port = "" if deployment.port == (443 if deployment.tls else 80) else f":{deployment.port}"
        credential = self.gateway.snapshot.credentials.get(deployment.credential or "")
        lines = (f"POST {deployment.path(endpoint)}{query} HTTP/1.1\r\nhost: {host}{port}\r\n").encode()
        lines += forwarded(self.head, profile)
        if credential:
            if self.protocol == "messages":
                lines += b"x-api-key: " + credential.encode() + b"\r\n"
            lines += b"authorization: Bearer " + credential.encode() + b"\r\n"
        lines += b"accept-encoding: identity\r\ncontent-length: "
        if len(forward) < FORWARD_MEMO_MAX or place.name in forward:
            forward[place.name] = (number, lines)
        return lines

    # From upstream.

    def upstream_head(self, connection: UpstreamConnection) -> None:
        status = connection.status
        if not 200 <= status < 300:
            # Its body says what is wrong: it is read, bounded, before it is judged.
            self.refused_status = status
            return
        assert self.place is not None
        kind = connection.content_type
        events = kind == b"text/event-stream" and not self.free
        self.undecided = (
            self.parsed.stream and not events and not self.free
        )  # what its first bytes look like decides
        ids = self.request_id.encode()
        lines = [
            b"HTTP/1.1 200 OK\r\ncontent-type: ",
            b"text/event-stream" if events or self.undecided else kind or b"application/json",
            b"\r\n",
            *response_lines(connection.headers, self.place.profile),
            b"x-request-id: ", ids, b"\r\nrequest-id: ", ids, b"\r\n", self.head.cors,
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
        parsed, settings = self.parsed, self.gateway.settings
        self.meter = make_meter(
            self.protocol,
            asked_model=parsed.model,
            ask=UsageAsked(final=parsed.client_usage, each=parsed.client_usage_each),
            event_bytes_max=settings.event_bytes_max,
            text_max=None if self.maximum is None else self.maximum * parsed.choices,
            keep_bytes_max=0 if self.place.deployment.tokenizer is None else KEPT_TEXT_BYTES_MAX,
        )

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = int((self.gateway.loop.time() - self.began_s) * 1000)
        if self.undecided and looks_like_events(data if not self.chunks else self.chunks[0] + data):
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
        if meter.failed is not None and not self.sent:
            # The first thing it said is an error: another place may do better.
            connection.abort()
            self.upstream = None
            self._attempt_refused(meter.failed)
            return
        if out:
            self._relay(out)
        elif not self._count_buffered(meter):
            connection.abort()
            self.upstream = None
            self._interrupt_or_fail("event_too_large")
            return
        if meter.over_maximum and not meter.stopped:
            self._cut_at_maximum()
            return
        if (
            self.cuttable
            and meter.shown_bytes > self.held_output - self.gateway.settings.stream_hold_tokens // 4
        ):
            self._extend(meter)
        if meter.stopped:
            self.gateway.stopping.add(self)
        if self.conn is None:
            self._go_on_alone()
        elif meter.progress >= self.progress_at and self.hold is not None:
            self.progress_at = meter.progress + self.gateway.settings.progress_tokens
            self.gateway.client.progress(
                self.usage_id,
                self._least(meter.counts()),
                self.first_byte_ms,
                self.gateway.clock.civil_ms(),
                self.hold,
            )

    def _count_buffered(self, meter: StreamMeter) -> bool:
        """Whether the worker's budget has room for what a stream keeps back."""
        more = meter.buffered_bytes - self.kept_bytes
        if more <= UNCOUNTED_STREAM_BYTES:
            return True
        if not self.gateway.memory.take(self.address, more):
            return False
        self.kept_bytes += more
        return True

    def _keep_whole(self, connection: UpstreamConnection, data: bytes) -> None:
        """An answer that is not streamed is kept until it is whole; so is what a refusal says."""
        most = REFUSAL_BYTES_MAX if self.refused_status else self.gateway.settings.response_bytes_max
        self.size += len(data)
        if self.size <= most and self.gateway.memory.take(self.address, len(data)):
            self.kept_bytes += len(data)
            begins = not self.chunks and not self.refused_status
            if begins and self.place is not None and ERROR_SIGN not in data[:ERROR_SIGN_WITHIN]:
                self.place.succeeded(self.gateway.loop.time())  # its first good bytes
            self.chunks.append(data)
            return
        connection.abort()
        self.upstream = None
        if self.refused_status:
            self._answered_badly(connection, b"")
            return
        self.last_refusal = Refusal(
            502, "upstream_error", "the answer is larger than this gateway relays", None
        )
        self._interrupt_or_fail("response_too_large")

    def _relay(self, out: bytes) -> None:
        conn = self.conn
        assert self.place is not None
        if not self.sent:
            now_s = self.gateway.loop.time()
            self.place.succeeded(now_s)
            self.gateway.placement.first_token(self, self.place, now_s)
            self.sent = True
        if conn is None:
            return
        gateway = self.gateway
        gateway.stats.c["chunks"] += 1
        self.written_s = gateway.wheel.now_s
        if not self.headed:
            self._send_head(conn, out)
        elif self.head.http10:
            conn.write(out)
        else:
            conn.write(b"%x\r\n%b\r\n" % (len(out), out))
        if conn.write_paused:
            self.pause()

    def _send_head(self, conn: ClientConnection, first: bytes) -> None:
        self.headed = True
        if self.head.http10:
            self.head.keep_alive = False
            conn.write(self.response_head + b"connection: close\r\n\r\n" + first)
            return
        close = b"" if conn.keep_alive else b"connection: close\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        conn.write(self.response_head + close + b"transfer-encoding: chunked\r\n\r\n" + chunk)

    def upstream_end(self, connection: UpstreamConnection) -> None:
        self.upstream = None
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
            self.place.succeeded(self.gateway.loop.time())
            self._relay_free()
            return
        if self.undecided:
            # A stream was asked for, and this is none: it goes on as what it is, if its head can still say so.
            if self.headed:
                self._attempt_failed("upstream_error")
                return
            kind = connection.content_type or b"application/json"
            self.response_head = self.response_head.replace(b"text/event-stream", kind, 1)
        fault, usage, upstream_id = read_body(connection.status, body, self.protocol)
        if fault is not None:
            if usage is not None and usage.total:
                # It failed, and reports tokens all the same: they are the operator's loss.
                self._record_loss("failed_attempt", usage, upstream_id)
            self._attempt_refused(fault)
            return
        self.place.succeeded(self.gateway.loop.time())
        self.chunks[0] = body_with_model(body, self.parsed.model)
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
            self.gateway.pool(self.place).connect(self._connected)
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
                self.place.cool_down(self.gateway.loop.time(), COOL_DOWN_S)
            self.last_refusal = Refusal(
                504, "upstream_timeout", f"the deployment of {self.model} did not answer in time", 1
            )
        self._interrupt_or_fail("upstream_timeout" if reason == "timeout" else "upstream_error")

    # What the upstream refuses.

    def _answered_badly(self, connection: UpstreamConnection, body: bytes) -> None:
        """An answer with a status that is no success."""
        status = self.refused_status
        fault = fault_of_body(status, body, self.protocol) or Fault("server", status, "", "", None)
        seconds = retry_after_s(connection.headers, self.gateway.clock.civil_ms() / 1000)
        if seconds is not None:
            fault = fault._replace(retry_after_s=seconds)
        if not 300 <= status < 500 and fault.kind == "client":
            fault = fault._replace(kind="server")
        self._attempt_refused(fault)

    def _attempt_refused(self, fault: Fault) -> None:
        """The upstream answered, and not with what was asked for: say it on, or try another place."""
        gateway, place = self.gateway, self.place
        assert place is not None
        now_s = gateway.loop.time()
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
            gateway.rest(place, wait_s)
        self.last_refusal = self._refusal_for(fault)
        # What says itself when it has room is not ill.
        self._attempt_failed("", count=wait_s is None and fault.status not in {404, 409, 425})

    def _refusal_for(self, fault: Fault) -> Refusal:
        """What the client is told where no other place does better. What the vendor said stays between us."""
        seconds = max(1, math.ceil(fault.retry_after_s or 1))
        if fault.kind == "rate":
            said = f"{self.model} is busy: every deployment is at its limit, try again in {seconds} s"
            return Refusal(429, "too_many_requests", said, seconds)
        if fault.kind == "quota" or (fault.kind == "overloaded" and fault.retry_after_s is not None):
            return Refusal(503, "no_deployment", f"no deployment can take {self.model} now", seconds)
        return Refusal(502, "upstream_error", f"the deployment of {self.model} failed", seconds)

    def _count_failure(self) -> None:
        place, now_s = self.place, self.gateway.loop.time()
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

    def _attempt_failed(self, reason: str, *, count: bool = True) -> None:
        """The attempt gave nothing that reached the client: it costs nothing, and another deployment may be tried."""
        gateway = self.gateway
        assert self.place is not None
        gateway.stats.c["attempts_failed"] += 1
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

    def _forget_answer(self) -> None:
        self.streaming = self.undecided = False
        self.meter = None
        self.chunks = []
        self.size = 0
        self.refused_status = 0
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

    # Cutting.

    def _cut(self, verdict: int) -> None:
        """Nothing is left (or nobody can say): the plan's final unit action, in the stream."""
        if self._abort_upstream():
            reason = "nothing_left" if verdict == charging_wire.NOTHING_LEFT else "hold_unavailable"
            self.gateway.stats.c["free_rider_over_balance"] += verdict == charging_wire.NOTHING_LEFT
            self._interrupt_or_fail(reason)

    def _cut_at_maximum(self) -> None:
        """It made more than the maximum that was sent: the client gets the end that a maximum has."""
        if self._abort_upstream():
            self.gateway.stats.c["cut_at_maximum"] += 1
            self._interrupted("beyond_maximum")

    def cut_for_shutdown(self) -> None:
        """The worker ends and its time to drain is over: end in protocol, charge what was produced.

        A record that is on its way to the recorder ends the exchange as usual.
        """
        if self.ended or self.counting or (self.hold is None and self.usage_id):
            return
        if self.asking is not None:
            self.gateway.client.forget(self.asking)
        if self.queue_number:
            self.gateway.client.admissions.forget(self.queue_number)
        if self._abort_upstream() and self.hold is not None and (self.sent or self.conn is None):
            self._interrupted("shutdown" if self.sent else "client_gone")
            return
        self._end_attempt()
        self._drop_attempt()
        self._release_hold()
        self.refuse(CUT)

    def _abort_upstream(self) -> bool:
        upstream, self.upstream = self.upstream, None
        if upstream is None or self.ended:
            return False
        upstream.abort()
        return True

    def timed_out_whole(self) -> None:
        """`request_timeout_s` is over."""
        if self._abort_upstream():
            self.last_refusal = Refusal(
                504, "upstream_timeout", "the request took longer than this gateway waits"
            )
            self.tried += [place.name for place in self.places]
            self._interrupt_or_fail("upstream_timeout")

    # The end.

    def _relay_free(self) -> None:
        """A count of tokens, which costs nothing."""
        self._end_attempt()
        self._release_hold()
        self._write_whole()
        self._finish()

    def _empty(self) -> None:
        """A stream that says it is done and gave nothing: it costs nothing."""
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
        assert self.meter is not None
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
        verdict = charging_wire.NOTHING_LEFT if reason == "nothing_left" else charging_wire.AWAY
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

    # Time, once a second.

    def is_due(self, now_s: int) -> bool:
        """Whether `tick` has something to do: a client of a stream that hears nothing, or none at all."""
        return now_s - self.written_s >= PING_EVERY_S or (self.conn is None and self.drain_until_s > 0)

    def tick(self, now_s: int) -> None:
        """A stream that is silent says that it lives; an answer without a client is waited for no longer than it may."""
        conn, place = self.conn, self.place
        if conn is None:
            if self.drain_until_s and now_s >= self.drain_until_s and self._abort_upstream():
                self._interrupted("client_gone")
        elif self.paused or self.free or not self.streams:
            return
        elif self.streaming or self.headed or (place is not None and place.deployment.early_head):
            self._ping(conn, now_s)

    def _ping(self, conn: ClientConnection, now_s: int) -> None:
        ping = PINGS.get(self.protocol, PING_COMMENT)
        self.written_s = now_s
        if not self.headed:
            if not self.response_head:
                self.response_head = self._early_head()
            self._send_head(conn, ping)
        elif self.head.http10:
            conn.write(ping)
        else:
            conn.write(b"%x\r\n%b\r\n" % (len(ping), ping))

    def _early_head(self) -> bytes:
        ids = self.request_id.encode()
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-request-id: %b\r\nrequest-id: %b\r\n"
            % (ids, ids)
        ) + self.head.cors

    def stop_waited(self, now_s: int) -> bool:
        """A stream that has stopped and whose usage is late. Whether it waits no longer."""
        meter = self.meter
        if meter is None or self.ended or self.upstream is None:
            return True
        if not self.stopped_s:
            self.stopped_s = now_s
        waited_s = now_s - self.stopped_s
        if waited_s >= USAGE_WAIT_S:
            if self._abort_upstream():
                self._stream_ended()
            return True
        if waited_s + 1 >= STOP_WAIT_S and meter.waiting and self.conn is not None:
            out = meter.release()
            if out:
                self._relay(out)
        return False

    # The client.

    def client_gone(self) -> None:
        """The client went away: read what ends soon to its end, cut the rest, and charge what was produced."""
        self.conn = None
        if self.ended or self.counting:
            return
        if self.asking is not None and self.upstream is None:
            self.gateway.client.forget(self.asking)
        if self.queue_number:
            self.gateway.client.admissions.forget(self.queue_number)
        if self.free or self.hold is None:
            # Nothing is held yet, or the record is on its way and ends this exchange.
            self._leave_free()
            return
        if self.upstream is None:
            # Held and not sent: it waits for a place or a connection.
            self._end_attempt()
            self._drop_attempt()
            self._release_hold()
            self._finish()
            return
        drain, counters = drain_of(self), self.gateway.stats.c
        counters["abandoned"] += 1
        counters[f"free_rider_{name_leaving(self, drain)}"] += 1
        self.resume()  # no client's pace holds it back any longer
        if drain == "whole":
            counters["drained"] += 1
            # Its connection does not count the body any more, and a tokenizer may have to.
            self.gateway.memory.force(self.address, len(self.body))
            self.kept_bytes += len(self.body)
            self.drain_until_s = drain_until_s(self)
        else:
            self._leave()

    def _leave_free(self) -> None:
        upstream = self.upstream
        if self.free and upstream is not None:
            self._abort_upstream()
            self._end_attempt()
        if not self.usage_id or self.free:
            self._release_hold()
            self._finish()

    def _go_on_alone(self) -> None:
        """A stream without a client went on: it may have come so near to its end that it is read to it, or the other way."""
        if not self.drain_until_s:
            self._leave()

    def _leave(self) -> None:
        assert self.user is not None
        self.user.abandon(self.gateway.loop.time())
        if self._abort_upstream():
            self._interrupted("client_gone")
