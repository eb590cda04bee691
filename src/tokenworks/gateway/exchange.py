"""One metered request from its body to its record: identify, hold, place, relay, meter, commit, finish.

Nothing here waits: every step that needs somebody else goes on in a callback. Until the first byte went to the client
another deployment may be tried; after it an attempt ends as complete or interrupted, and either way as a record. The
end of the response is withheld until the record is on disk.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tokenworks.catalog import Counts
from tokenworks.charging import Finish, Hold, Need, RecorderAway, Start
from tokenworks.charging import wire as charging_wire
from tokenworks.factory import PROTOCOL_PATHS, Place, choose
from tokenworks.gateway.dialects import BodyError, Parsed, Usage, body_usage, parse_body, render_body
from tokenworks.gateway.errors import REASONS, Refusal, error_event
from tokenworks.gateway.head import Head, forwarded
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.gateway.stream import EventTooLarge, StreamMeter, make_meter
from tokenworks.gateway.upstream import UpstreamConnection

if TYPE_CHECKING:
    from tokenworks.gateway.gateway import Gateway

# Template and role tokens beyond the text itself.
INPUT_EXTRA_TOKENS: Final = 64
# Upstream answers that another deployment may do better than.
_RETRY: Final = frozenset({401, 402, 403, 404, 408, 409, 425, 429, *range(300, 400), *range(500, 600)})
_RESPONSE_DROPPED: Final = frozenset(
    b"""connection keep-alive proxy-connection transfer-encoding content-length content-encoding trailer upgrade te set-cookie
    x-request-id request-id server date alt-svc strict-transport-security""".split()
)
RETRY_AFTER_S_MAX: Final = 60
NO_COUNTS: Final = Counts()


class Exchange:
    __slots__ = (
        "account", "asking", "attempt_no", "began_s", "body", "chunks", "conn", "count_only", "ended", "first_byte_ms", "free", "gateway",
        "head", "hold", "last_refusal", "meter", "model", "need", "parsed", "paused", "place", "places", "progress_at", "protocol",
        "request_id", "response_head", "sent", "size", "start", "started_ms", "streaming", "tried", "upstream", "usage_id", "user",
    )  # fmt: skip

    def __init__(
        self,
        gateway: "Gateway",
        conn: ClientConnection,
        head: Head,
        body: bytes,
        protocol: str,
        *,
        free: bool,
    ) -> None:
        self.gateway = gateway
        self.conn: ClientConnection | None = conn
        self.head = head
        self.body = body
        self.protocol = protocol
        self.free = free  # count_tokens: produces nothing, costs nothing
        self.request_id = gateway.ids.next()
        self.began_s = gateway.loop.time()
        self.user: KeyEntry
        self.account: Any = None
        self.parsed: Parsed
        self.model = ""
        self.need: Need
        self.places: Sequence[Place] = ()
        self.place: Place | None = None
        self.tried: list[str] = []
        self.attempt_no = 0
        self.usage_id = ""
        self.started_ms = 0
        self.start: Start
        self.hold: Hold | None = None
        self.asking: Any = None
        self.upstream: UpstreamConnection | None = None
        self.meter: StreamMeter | None = None
        self.streaming = False
        self.response_head = b""
        self.chunks: list[bytes] = []
        self.size = 0
        self.sent = False
        self.first_byte_ms: int | None = None
        self.progress_at = 0
        self.last_refusal: Refusal | None = None
        self.paused = False
        self.ended = False

    # Before upstream.

    def identified(self, user: KeyEntry | None) -> None:
        """The key is known (or nobody could say)."""
        if self.conn is None:
            return
        gateway = self.gateway
        if user is None:
            self.refuse(Refusal(503, "database_away", "keys can't be looked up now", 1))
            return
        if not user.known or (user.expires_s is not None and time.time() >= user.expires_s):
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
        if user.models is not None and parsed.model not in user.models and model not in user.models:
            self.refuse(
                Refusal(403, "model_not_allowed", f"this key may not use {parsed.model}", param="model")
            )
            return
        self.places = snapshot.routes.get((model, self.protocol), ())
        if not self.places:
            self.refuse(_no_route(snapshot, parsed.model, model, self.protocol))
            return
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

    def _hold(self) -> None:
        gateway, parsed, user = self.gateway, self.parsed, self.user
        context = output = 0
        for place in self.places:
            deployment = place.deployment
            context = max(context, deployment.context_tokens)
            output = max(output, deployment.max_output_tokens)
        if parsed.output_tokens is not None:
            output = min(parsed.output_tokens, context)
        inputs = min(len(self.body) // gateway.settings.input_bytes_per_token + INPUT_EXTRA_TOKENS, context)
        self.need = need = Need(1, inputs, output * parsed.choices)
        account = gateway.slices.account(user.account_id)
        if not account.asking:
            self.hold = gateway.slices.hold(account, user.cap_id, self.model, need, gateway.clock.boot_ns())
            if self.hold is not None:
                self._try()
                return
        self.asking = gateway.client.ask(account, user.cap_id, self.model, need, self._held)

    def _held(self, hold: Hold | None, verdict: int) -> None:
        self.asking = None
        if self.conn is None:
            if hold is not None:
                self._release(hold)
            return
        if hold is None:
            self.refuse(_no_hold(verdict, self.user))
            return
        self.hold = hold
        self._try()

    def _try(self) -> None:
        """Send it to a deployment that was not tried yet."""
        gateway = self.gateway
        now_s = gateway.loop.time()
        place = (
            choose(self.places, self.tried, now_s)
            if len(self.tried) < gateway.settings.attempts_max
            else None
        )
        if place is None:
            self._release_hold()
            self.refuse(
                self.last_refusal
                or Refusal(503, "no_deployment", f"no deployment can take {self.model} now", 5)
            )
            return
        if place.name in gateway.broken_credentials:
            self.tried.append(place.name)
            self.last_refusal = Refusal(503, "no_deployment", f"no deployment can take {self.model} now", 5)
            self._try()
            return
        self.place = place
        self.tried.append(place.name)
        self.attempt_no += 1
        place.began(now_s)
        gateway.stats.c["attempts"] += 1
        pool = gateway.pool(place)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            pool.connect(self._connected)

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
        deployment = place.deployment
        changes: dict[str, Any] = {}
        if deployment.upstream_model != parsed.model:
            changes["model"] = deployment.upstream_model
        if not self.free:
            if parsed.output_tokens is None and parsed.output_field:
                changes[parsed.output_field] = self.need.output_tokens // parsed.choices
            if parsed.add_usage:
                changes["stream_options"] = {"include_usage": True}
            self.usage_id = self.request_id if self.attempt_no == 1 else gateway.ids.next()
            self.started_ms = time.time_ns() // 1_000_000
            assert self.hold is not None
            user = self.user
            self.start = Start(
                self.usage_id, user.account_id, self.request_id, self.attempt_no, user.key_id, user.member_id, self.protocol, self.model,
                place.name, self.started_ms,
            )  # fmt: skip
            try:
                gateway.client.begin(self.start, self.hold)
            except RecorderAway as error:
                connection.pool.give_back(connection)
                self._end_attempt()
                self._release_hold()
                self.refuse(Refusal(503, "recorder_away", str(error), 1))
                return
        body = render_body(parsed, self.body, changes)
        self.upstream = connection
        connection.begin(
            self,
            self._request_head(place) + str(len(body)).encode() + b"\r\n\r\n" + body,
            gateway.settings.upstream_first_byte_timeout_s,
        )

    def _request_head(self, place: Place) -> bytes:
        """The head for one deployment up to the content length; remembered with the client's head."""
        memo = self.head.forward.get(place.name)
        number = self.gateway.snapshot.number
        if memo is not None and self.head.forward.get("") == b"%d" % number:
            return memo
        if self.head.forward.get("") != b"%d" % number:
            self.head.forward.clear()
            self.head.forward[""] = b"%d" % number
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
        if len(self.head.forward) < 100:
            self.head.forward[place.name] = lines
        return lines

    # From upstream.

    def upstream_head(self, connection: UpstreamConnection) -> None:
        status = connection.status
        headers = connection.headers
        if status in _RETRY:
            self._retry_status(connection, status)
            return
        coding = headers.get(b"Content-Encoding") or headers.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            connection.abort()
            self._attempt_failed("a compressed answer, which can't be metered")
            return
        kind = b""
        lines = []
        for name_as_sent, value in headers.items():
            name = name_as_sent.lower()
            if name == b"content-type":
                kind = value
            elif name in _RESPONSE_DROPPED:
                continue
            lines.append(name + b": " + value + b"\r\n")
        reason = REASONS.get(status, "Unknown")
        self.response_head = (
            b"HTTP/1.1 %d %s\r\n" % (status, reason.encode())
            + b"".join(lines)
            + b"x-request-id: "
            + self.request_id.encode()
            + b"\r\n"
        )
        if status < 300 and kind.startswith(b"text/event-stream") and not self.free:
            self.streaming = True
            self.meter = make_meter(
                self.protocol,
                drop_usage=self.parsed.add_usage,
                event_bytes_max=self.gateway.settings.event_bytes_max,
            )
        self.gateway.wheel.set(connection, self.gateway.settings.upstream_idle_timeout_s)

    def _retry_status(self, connection: UpstreamConnection, status: int) -> None:
        """An answer that another deployment may do better than. What the vendor said stays between us."""
        retry_after = connection.headers.get(b"retry-after") or connection.headers.get(b"Retry-After")
        connection.abort()
        assert self.place is not None
        if status == 429:
            seconds = int(retry_after) if retry_after is not None and retry_after.isdigit() else 1
            seconds = max(1, min(seconds, RETRY_AFTER_S_MAX))
            if retry_after is not None:
                self.place.rest(self.gateway.loop.time(), seconds)
            self.last_refusal = Refusal(
                429, "too_many_requests", f"{self.model} is busy: every deployment is at its limit", seconds
            )
        else:
            self.last_refusal = Refusal(
                502, "upstream_error", f"the deployment of {self.model} answered {status}", 1
            )
        self._attempt_failed("", count=status not in {404, 409, 425})

    def upstream_data(self, connection: UpstreamConnection, data: bytes) -> None:
        conn = self.conn
        self.gateway.wheel.set(connection, self.gateway.settings.upstream_idle_timeout_s)
        if self.first_byte_ms is None:
            self.first_byte_ms = int((self.gateway.loop.time() - self.began_s) * 1000)
        if not self.streaming:
            self.chunks.append(data)
            self.size += len(data)
            if self.size > self.gateway.settings.response_bytes_max:
                connection.abort()
                self.last_refusal = Refusal(
                    502, "upstream_error", "the answer is larger than this gateway relays", None
                )
                self._interrupt_or_fail("response_too_large")
            return
        meter = self.meter
        assert meter is not None
        try:
            out = meter.feed(data)
        except EventTooLarge:
            connection.abort()
            self._interrupt_or_fail("event_too_large")
            return
        if out and conn is not None:
            self.gateway.stats.c["chunks"] += 1
            if self.sent:
                if self.head.http10:
                    conn.write(out)
                else:
                    conn.write(b"%x\r\n%b\r\n" % (len(out), out))
            else:
                self._send_head(conn, out)
            if conn.write_paused and not self.paused:
                self.pause()
        if meter.progress - self.progress_at >= self.gateway.settings.progress_tokens:
            self.progress_at = meter.progress
            self.gateway.client.progress(
                self.usage_id, meter.counts(), self.first_byte_ms, time.time_ns() // 1_000_000
            )

    def _send_head(self, conn: ClientConnection, first: bytes) -> None:
        self.sent = True
        assert self.place is not None
        self.place.succeeded()
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
        body = b"".join(self.chunks)
        self.chunks = [body]
        assert self.place is not None
        if connection.status >= 300 or self.free:
            self.place.succeeded()
            self._relay_free()
            return
        usage, upstream_id = body_usage(body, self.protocol)
        if usage is None and body.lstrip()[:9].startswith(b'{"error"'):
            self._attempt_failed("upstream_error")
            return
        self.place.succeeded()
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
            self.last_refusal = Refusal(
                504, "upstream_timeout", f"the deployment of {self.model} did not answer in time", 1
            )
        self._interrupt_or_fail("upstream_timeout" if reason == "timeout" else "upstream_error")

    def _interrupt_or_fail(self, reason: str) -> None:
        if self.sent:
            self._interrupted(reason)
        else:
            self._attempt_failed(reason)

    def _attempt_failed(self, reason: str, *, count: bool = True) -> None:
        """The attempt gave nothing that reached the client: it costs nothing, and another deployment may be tried."""
        gateway = self.gateway
        assert self.place is not None
        gateway.stats.c["attempts_failed"] += 1
        if count:
            self.place.failed(gateway.loop.time())
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
            self.place.ended()
            self.place = None

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
        conn.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (self.response_head, close, len(body), body))

    def _complete(self, usage: Usage | None, upstream_id: str | None, progress: Counts) -> None:
        if usage is not None:
            counts, total, flags, counted_by = usage.counts, usage.total, list(usage.flags), "provider"
        else:
            counts, total, flags, counted_by = self._estimate(progress), None, ["no_usage"], "estimate"
        self._record("complete", "completed", counted_by, counts, total, flags, upstream_id)

    def _estimate(self, progress: Counts) -> Counts:
        """A provider that reports nothing: counted from bytes, four to a token, marked as such."""
        size = 0 if self.streaming else len(self.chunks[0]) if self.chunks else 0
        output = 0 if self.protocol == "embeddings" else max(progress.output, size // 4)
        return Counts(fresh_input=max(1, len(self.body) // 4), output=min(output, self.need.output_tokens))

    def _interrupted(self, reason: str) -> None:
        """It stopped half-way: charged from what is known to have been produced."""
        meter = self.meter
        counts = meter.counts() if meter is not None else NO_COUNTS
        if not any(counts):
            self._end_attempt()
            self._drop_attempt()
            self._release_hold()
            self._after_interrupt(reason)
            return
        counted_by = "progress"
        self._record(
            "interrupted", reason, counted_by, counts, None, [], meter.upstream_id or None if meter else None
        )

    def _record(
        self,
        state: str,
        reason: str,
        counted_by: str,
        counts: Counts,
        total: int | None,
        flags: list[str],
        upstream_id: str | None,
    ) -> None:
        gateway, hold = self.gateway, self.hold
        assert hold is not None
        self._end_attempt()
        now_ms = time.time_ns() // 1_000_000
        parts, loss = gateway.slices.commit(hold, counts, gateway.clock.boot_ns())
        self.hold = None
        counters = gateway.stats.c
        counters[state] += 1
        counters["tokens_input"] += counts[0] + counts[1] + counts[2] + counts[3]
        counters["tokens_output"] += counts[4] + counts[5] + counts[6]
        if loss is not None:
            counters["loss_tokens"] += sum(loss[1])
        latency_ms = int((gateway.loop.time() - self.began_s) * 1000)
        if self.first_byte_ms is not None:
            gateway.stats.observe("first_byte_ms", self.first_byte_ms)
        gateway.stats.observe("latency_ms", latency_ms)
        gateway.client.finish(
            self.start,
            Finish(
                self.usage_id, state, reason, counted_by, now_ms, self.first_byte_ms, latency_ms, counts, total, parts, loss,  # type: ignore[arg-type]
                flags, upstream_id,
            ),
            self._durable, reason if state == "interrupted" else "",
        )  # fmt: skip
        gateway.client.released(hold.account)

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
        if conn is not None and self.sent:
            refusal = Refusal(
                502, "upstream_error", "the deployment broke off: what was produced until here was charged"
            )
            if reason == "upstream_timeout":
                refusal = Refusal(
                    504,
                    "upstream_timeout",
                    "the deployment went silent: what was produced until here was charged",
                )
            event = error_event(refusal, self.protocol, self.request_id)
            conn.write(event if self.head.http10 else b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
            self.head.keep_alive = False
        self._finish()

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

    def _release_hold(self) -> None:
        if self.hold is not None:
            hold, self.hold = self.hold, None
            self._release(hold)

    def _release(self, hold: Hold) -> None:
        self.gateway.slices.release(hold)
        self.gateway.client.released(hold.account)

    # The client.

    def client_gone(self) -> None:
        """The client went away: cancel upstream, charge what was produced and could reach it."""
        self.conn = None
        if self.ended:
            return
        if self.asking is not None:
            self.gateway.client.forget(self.asking)
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

    def pause(self) -> None:
        if self.upstream is not None and not self.paused:
            self.paused = True
            self.upstream.pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self.upstream is not None:
                self.upstream.resume(self.gateway.settings.upstream_idle_timeout_s)


def _no_route(snapshot: Snapshot, asked: str, model: str, protocol: str) -> Refusal:
    if model in snapshot.models:
        spoken = sorted(
            {
                p
                for place in snapshot.places
                if place.deployment.model == model
                for p in place.deployment.protocols
            }
        )
        return Refusal(
            404,
            "model_not_found",
            f"{asked} is not served over {protocol} here, but over {', '.join(spoken)}",
            param="model",
        )
    if snapshot.models:
        return Refusal(
            404,
            "model_not_found",
            f"there is no model {asked} here: GET /v1/models lists them",
            param="model",
        )
    return Refusal(503, "no_deployment", "no deployment is declared yet: tokenworks deployment add", 5)


def _no_hold(verdict: int, user: KeyEntry) -> Refusal:
    if verdict == charging_wire.NOTHING_LEFT:
        more = " (or what this key's cap leaves)" if user.cap_id is not None else ""
        return Refusal(
            402, "nothing_left",
            f"what the account has left{more} does not cover this request: order a plan or a top-up, or ask for fewer tokens",
        )  # fmt: skip
    if verdict == charging_wire.AWAY:
        return Refusal(503, "database_away", "the balance can't be asked for now", 1)
    return Refusal(
        503, "granted_elsewhere", "what is left is granted to another worker or host just now: try again", 1
    )
