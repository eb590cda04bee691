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
from tokenworks.gateway.dialects import BodyError, body_usage, is_json, parse_body, render_body
from tokenworks.gateway.errors import REASONS, Refusal, cut_events, error_event
from tokenworks.gateway.head import forwarded
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.placing import Placing
from tokenworks.gateway.recording import NO_COUNTS
from tokenworks.gateway.refusals import no_hold, no_route
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.stream import EventTooLarge, make_meter
from tokenworks.gateway.upstream import UpstreamConnection

log = structlog.get_logger()

# Upstream answers that another deployment may do better than.
_RETRY: Final = frozenset({401, 402, 403, 404, 408, 409, 425, 429, *range(300, 400), *range(500, 600)})
_RESPONSE_DROPPED: Final = frozenset(
    b"""connection keep-alive proxy-connection transfer-encoding content-length trailer upgrade te set-cookie
    x-request-id request-id server date alt-svc strict-transport-security""".split()
)
RETRY_AFTER_S_MAX: Final = 60
# Where another deployment could be tried, a connection is waited for no longer than this.
FAILOVER_CONNECT_S: Final = 0.8
# A first byte that is so many times later than foreseen is not waited for, where there is another deployment.
LATE_TIMES: Final = 4.0
FORWARD_MEMO_MAX: Final = 100
CUT: Final = Refusal(503, "shutting_down", "this server ends: try again, another one takes it", 1)
HEADER_MEMO_MAX: Final = 10_000
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, reason.encode()) for status, reason in REASONS.items()
}
_DROP: Final = b""
_CODING: Final = b"content-encoding: "
# How a response header's line begins, by its name as an upstream writes it; a bounded memo.
_LINES: Final[dict[bytes, bytes]] = {}


def _line_begin(name_as_sent: bytes) -> bytes:
    name = name_as_sent.lower()
    line = _CODING if name == b"content-encoding" else _DROP if name in _RESPONSE_DROPPED else name + b": "
    if len(_LINES) < HEADER_MEMO_MAX:
        _LINES[name_as_sent] = line
    return line


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
        user.in_flight += 1
        self.user = user
        try:
            self.parsed = parsed = parse_body(self.body, self.protocol)
        except BodyError as error:
            self.refuse(error.refusal)
            return
        snapshot = gateway.snapshot
        self.model = model = snapshot.aliases.get(parsed.model, parsed.model)
        self.flex = parsed.flex
        intent = snapshot.intents.get(model) if self.protocol != "embeddings" else None
        if intent is not None and (model, self.protocol) not in snapshot.routes:
            if self._choose_model(intent):
                self._placed_model()
            return
        if user.models is not None and parsed.model not in user.models and model not in user.models:
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
        gateway, parsed, user = self.gateway, self.parsed, self.user
        assert user is not None
        if parsed.upstream_object is not None:
            gateway.client.request("owns", [user.account_id, parsed.upstream_object], self._owner_known)
            return
        if self.free:
            self._try()
        else:
            self._hold()

    def _owner_known(self, deployment: str | None) -> None:
        if self.conn is None:
            return
        self.places = [place for place in self.places if place.name == deployment]
        if not self.places:
            self.refuse(
                Refusal(
                    400,
                    "foreign_object",
                    "no such response: an id works only for the account that received it",
                    param="previous_response_id",
                )
            )
            return
        self._hold()

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
            # The client left meanwhile: the connection is good for somebody else.
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
        changes: dict[str, Any] | None = None
        if place.deployment.upstream_model != parsed.model:
            changes = {"model": place.deployment.upstream_model}
        if not self.free:
            if parsed.output_tokens is None and parsed.output_field:
                most = self.need.output_tokens if self.cuttable else self.held_output
                changes = (changes or {}) | {parsed.output_field: most // parsed.choices}
            elif not self.cuttable and self.held_output < self.need.output_tokens:
                changes = (changes or {}) | {parsed.output_field: self.held_output // parsed.choices}
            if parsed.add_usage:
                changes = (changes or {}) | {"stream_options": {"include_usage": True}}
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
        body = self.body
        if changes is not None or not parsed.canonical:
            body = render_body(parsed, body, changes)
        self.upstream = connection
        settings = gateway.settings
        connection.begin(
            self,
            b"%b%d\r\n\r\n" % (self._request_head(place), len(body)),
            body,
            self._patience_s(settings.upstream_first_byte_timeout_s),
            settings.upstream_idle_timeout_s,
        )

    def _patience_s(self, most_s: int) -> int:
        """How long to wait for the first byte. A stream's is foreseen: what is much later does not come, or not soon."""
        if not self.parsed.stream or not self._others():
            return most_s
        late_s = math.ceil(LATE_TIMES * self.foreseen_ms / 1000.0)
        return min(most_s, max(self.gateway.settings.failover_patience_s, late_s))

    def _request_head(self, place: Place) -> bytes:
        """The head for one deployment up to the content length; remembered with the client's head."""
        number = self.gateway.snapshot.number
        forward = self.head.forward
        memo = forward.get(place.name)
        if memo is not None and memo[0] == number:
            return memo[1]
        deployment = place.deployment
        endpoint = PROTOCOL_PATHS[self.protocol] + ("/count_tokens" if self.free else "")  # type: ignore[index]
        query = b"?" + self.head.query if self.head.query else b""
        host = deployment.host if ":" not in deployment.host else f"[{deployment.host}]"
        port = "" if deployment.port == (443 if deployment.tls else 80) else f":{deployment.port}"
        credential = self.gateway.snapshot.credentials.get(deployment.credential or "")
        lines = (
            f"POST {deployment.path(endpoint)}".encode()
            + query
            + f" HTTP/1.1\r\nhost: {host}{port}\r\n".encode()
        )
        lines += forwarded(self.head)
        if b"content-type" not in self.head.headers:
            lines += b"content-type: application/json\r\n"
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
        headers = connection.headers
        if status in _RETRY:
            self._retry_status(connection, status)
            return
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
        kind = b""
        for name, value in headers.items():
            line = _LINES.get(name)
            if line is None:
                line = _line_begin(name)
            if line is _DROP:
                continue
            if line is _CODING:
                if value.lower() != b"identity":
                    connection.abort()
                    self._attempt_failed("a compressed answer, which can't be metered")
                    return
                continue
            if line == b"content-type: ":
                kind = value
            lines += (line, value, b"\r\n")
        lines += (b"x-request-id: ", self.request_id.encode(), b"\r\n")
        if self.asked is not None:
            lines += (b"x-tokenworks-model: ", self.model.encode(), b"\r\nx-tokenworks-choice: ", (self.choice or "").encode(), b"\r\n")  # fmt: skip
        if self.queued_ms:
            lines += (b"x-tokenworks-queued-ms: %d\r\n" % self.queued_ms,)
        if self.restricted:
            lines += (b"x-tokenworks-restricted-to: ", self.model.encode(), b"\r\n")
        self.response_head = b"".join(lines)
        if status < 300 and kind.startswith(b"text/event-stream") and not self.free:
            self.streaming = True
            self.meter = make_meter(
                self.protocol,
                drop_usage=self.parsed.add_usage,
                event_bytes_max=self.gateway.settings.event_bytes_max,
            )

    def _retry_status(self, connection: UpstreamConnection, status: int) -> None:
        """An answer that another deployment may do better than. What the vendor said stays between us."""
        retry_after = connection.headers.get(b"retry-after") or connection.headers.get(b"Retry-After")
        connection.abort()
        assert self.place is not None
        if status == 429:
            seconds = int(retry_after) if retry_after is not None and retry_after.isdigit() else 1
            seconds = max(1, min(seconds, RETRY_AFTER_S_MAX))
            if retry_after is not None:
                self.gateway.rest(self.place, seconds)
            self.last_refusal = Refusal(
                429, "too_many_requests", f"{self.model} is busy: every deployment is at its limit", seconds
            )
        else:
            self.last_refusal = Refusal(
                502, "upstream_error", f"the deployment of {self.model} answered {status}", 1
            )
        self._attempt_failed("", count=status not in {404, 409, 425})

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        if self.first_byte_ms is None:
            now_s = self.gateway.loop.time()
            self.first_byte_ms = int((now_s - self.began_s) * 1000)
            if self.streaming and self.place is not None:
                self.gateway.placement.first_token(self, self.place, now_s)
        meter = self.meter
        if meter is None:
            self.chunks.append(data)
            self.size += len(data)
            if self.size > self.gateway.settings.response_bytes_max:
                connection.abort()
                self.last_refusal = Refusal(
                    502, "upstream_error", "the answer is larger than this gateway relays", None
                )
                self._interrupt_or_fail("response_too_large")
            return
        try:
            out = meter.feed(data)
        except EventTooLarge:
            connection.abort()
            self._interrupt_or_fail("event_too_large")
            return
        conn = self.conn
        assert self.place is not None
        if out and self.place.deployment.tokenizer is not None and meter.usage is None:
            self._keep(out)
        if out and conn is not None:
            self.gateway.stats.c["chunks"] += 1
            if not self.sent:
                self._send_head(conn, out)
            elif self.head.http10:
                conn.write(out)
            else:
                conn.write(b"%x\r\n%b\r\n" % (len(out), out))
            if conn.write_paused:
                self.pause()
        if (
            self.cuttable
            and meter.shown_bytes > self.held_output - self.gateway.settings.stream_hold_tokens // 4
        ):
            self._extend(meter)
        if meter.progress >= self.progress_at and self.hold is not None:
            self.progress_at = meter.progress + self.gateway.settings.progress_tokens
            self.gateway.client.progress(
                self.usage_id, meter.counts(), self.first_byte_ms, self.gateway.clock.civil_ms(), self.hold
            )

    def _keep(self, out: bytes) -> None:
        """For the tokenizer, should the provider report nothing. Too much of it is not kept: then it is estimated."""
        self.size += len(out)
        if self.size <= self.gateway.settings.response_bytes_max:
            self.chunks.append(out)

    def _cut(self, verdict: int) -> None:
        """Nothing is left (or nobody can say): the plan's final unit action, in the stream."""
        upstream, self.upstream = self.upstream, None
        if upstream is None or self.ended:
            return
        upstream.abort()
        reason = "nothing_left" if verdict == charging_wire.NOTHING_LEFT else "hold_unavailable"
        self._interrupt_or_fail(reason)

    def _send_head(self, conn: ClientConnection, first: bytes) -> None:
        self.sent = True
        assert self.place is not None
        self.place.succeeded(self.gateway.loop.time())
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
            meter = self.meter
            assert meter is not None
            meter.finish()
            if meter.usage is not None and (meter.terminal or self.protocol != "messages"):
                self._complete(meter.usage, meter.upstream_id or None, meter.counts())
            elif meter.failed or (not meter.terminal and not meter.progress):
                self._interrupt_or_fail("upstream_error")
            elif meter.progress:
                self._complete(None, meter.upstream_id or None, meter.counts())
            else:
                self._empty()
            return
        if len(self.chunks) != 1:
            self.chunks = [b"".join(self.chunks)]
        body = self.chunks[0]
        assert self.place is not None
        if connection.status >= 300 or self.free:
            self.place.succeeded(self.gateway.loop.time())
            self._relay_free()
            return
        usage, upstream_id = body_usage(body, self.protocol)
        if usage is None and (body[:64].lstrip().startswith(b'{"error"') or not is_json(body)):
            self._attempt_failed("upstream_error")
            return
        self.place.succeeded(self.gateway.loop.time())
        self._complete(usage, upstream_id, NO_COUNTS)

    def upstream_failed(self, connection: UpstreamConnection, reason: str) -> None:
        self.upstream = None
        if (
            connection.reused
            and not self.sent
            and not self.chunks
            and reason != "timeout"
            and self.conn is not None
            and not self.streaming
        ):
            # A kept-alive connection that the other side was closing: the same deployment, a new connection.
            self._drop_attempt()
            assert self.place is not None
            self.attempt_no += 1
            self.gateway.pool(self.place).connect(self._connected)
            return
        if reason == "timeout":
            if self.parsed.stream and not self.sent and self.place is not None and self._others():
                # Silent for much longer than it should be: it rests, but for one trial now and then.
                self.place.cool_down(self.gateway.loop.time(), COOL_DOWN_S)
            self.last_refusal = Refusal(
                504, "upstream_timeout", f"the deployment of {self.model} did not answer in time", 1
            )
        self._interrupt_or_fail("upstream_timeout" if reason == "timeout" else "upstream_error")

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
                # It began well, and broke off: who does that often is no better than who never begins.
                self._count_failure()
            self._interrupted(reason)
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
        self.streaming = False
        self.meter = None
        self.chunks = []
        self.size = 0
        if reason and (self.last_refusal is None or self.last_refusal.status != 504):
            self.last_refusal = Refusal(502, "upstream_error", f"the deployment of {self.model} failed", 1)
        if self.conn is not None:
            self._try()

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

    # The end.

    def _relay_free(self) -> None:
        """An answer that costs nothing: a client's own error, or a count of tokens."""
        self._end_attempt()
        self._drop_attempt()
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
                held = self.meter.held if self.meter is not None else b""
                if not self.sent:
                    self._send_head(conn, held)
                    held = b""
                if self.head.http10:
                    conn.write(held)
                else:
                    conn.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(held), held) if held else b"0\r\n\r\n")
            else:
                self._write_whole()
        self._finish()

    def _after_interrupt(self, reason: str) -> None:
        """In protocol: an error event, and an end that nobody takes for a whole answer."""
        conn = self.conn
        if conn is not None and self.sent and reason in {"nothing_left", "hold_unavailable"}:
            self._say_nothing_left(conn, reason)
        elif conn is not None and self.sent:
            refusal = Refusal(
                502, "upstream_error", "the deployment broke off: what was produced until here was charged"
            )
            if reason == "upstream_timeout":
                refusal = Refusal(
                    504,
                    "upstream_timeout",
                    "the deployment went silent: what was produced until here was charged",
                )
            if reason == "shutdown":
                refusal = CUT._replace(message=f"{CUT.message}; what was produced until here was charged")
            event = error_event(refusal, self.protocol, self.request_id)
            conn.write(event if self.head.http10 else b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
            self.head.keep_alive = False
        self._finish()

    def _say_nothing_left(self, conn: ClientConnection, reason: str) -> None:
        """The final unit action in protocol: a last chunk with a finish reason, then why, and what to do."""
        assert self.user is not None
        assert self.meter is not None
        verdict = charging_wire.NOTHING_LEFT if reason == "nothing_left" else charging_wire.AWAY
        refusal = no_hold(verdict, self.user)
        out = cut_events(
            refusal, self.protocol, self.request_id, self.model, self.meter.upstream_id, self.meter.progress
        )
        conn.write(out if self.head.http10 else b"%x\r\n%b\r\n0\r\n\r\n" % (len(out), out))

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.gateway.exchange_ended(self)
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.done()

    def refuse(self, refusal: Refusal) -> None:
        """Nothing changed, nothing is charged."""
        if self.ended:
            return
        self.ended = True
        self.gateway.exchange_ended(self)
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.exchange = None
            conn.refuse(refusal, self.protocol, self.request_id)

    # The client.

    def client_gone(self) -> None:
        """The client went away: cancel upstream, charge what was produced and could reach it."""
        self.conn = None
        if self.ended or self.counting:
            return
        if self.asking is not None:
            self.gateway.client.forget(self.asking)
        if self.queue_number:
            self.gateway.client.admissions.forget(self.queue_number)
        if self.hold is None and not self.free:
            # Either nothing was held yet, or the record is on its way and ends this exchange.
            if not self.usage_id:
                self._finish()
            return
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        if self.sent:
            self._interrupted("client_gone")
        else:
            self._end_attempt()
            self._drop_attempt()
            self._release_hold()
            self._finish()

    def timed_out_whole(self) -> None:
        """`request_timeout_s` is over."""
        upstream, self.upstream = self.upstream, None
        if upstream is None or self.ended:
            return
        upstream.abort()
        self.last_refusal = Refusal(
            504, "upstream_timeout", "the request took longer than this gateway waits"
        )
        self.tried += [place.name for place in self.places]
        self._interrupt_or_fail("upstream_timeout")

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
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        if self.sent and self.hold is not None:
            self._interrupted("shutdown")
            return
        self._end_attempt()
        self._drop_attempt()
        self._release_hold()
        self.refuse(CUT)

    # Upstream is not read while the client can't take more, or while a hold is waited for.
