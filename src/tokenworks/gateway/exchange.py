"""One metered request from its body to its record: identify, hold, place, relay, meter, commit, finish.

Nothing here waits: every step that needs somebody else goes on in a callback. Until the first byte went to the client
another deployment may be tried; after it an attempt ends as complete or interrupted, and either way as a record. The
end of the response is withheld until the record is on disk.
"""

import math
from time import perf_counter
from typing import Final

from tokenworks.charging import OWNS, ObjectOwner, RecorderAway, UpstreamObject, Verdict
from tokenworks.factory import PROTOCOL_PATHS, Candidate, Place
from tokenworks.gateway.answering import Answering
from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.fields import (
    BodyError,
    allowed_query,
    is_maximum,
    parse_body,
    render,
    tools_refused,
)
from tokenworks.gateway.headers import forwarded
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.leaving import STOP_WAIT_S, USAGE_WAIT_S, drain_of, drain_until_s, name_leaving
from tokenworks.gateway.links import LATER
from tokenworks.gateway.refusals import CUT, consent_missing, no_route, suspended, unusable_key
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import allows
from tokenworks.gateway.upstream import UpstreamConnection

# An answer that is not streamed is thought to be written so fast, where another place could be tried.
UNSTREAMED_TOKENS_PER_S: Final = 100
# A stream that says nothing says this often that it lives.
PING_EVERY_S: Final = 15
PING_COMMENT: Final = b": ping\n\n"
PINGS: Final = {"messages": b'event: ping\ndata: {"type": "ping"}\n\n'}
# Ids of upstream objects in one request: each is looked up.
OBJECTS_MAX: Final = 32
# Where another deployment could be tried, a connection is waited for no longer than this.
FAILOVER_CONNECT_S: Final = 0.8
# A first byte that is so many times later than foreseen is not waited for, where there is another deployment.
LATE_TIMES: Final = 4.0
FORWARD_MEMO_MAX: Final = 100


class Exchange(Answering):
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
        unusable = unusable_key(user, gateway.keys.lacking, gateway.clock.civil_ms())
        if unusable is not None:
            self.refuse(unusable)
            return
        if user.suspended_by:
            self.refuse(suspended(user))
            return
        if user.refused_by is not None:
            self.refuse(consent_missing(user.refused_by))
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
        elif why is LATER:
            self.refuse(Refusal(503, "overloaded", why, 1))
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

        def answered(owner: ObjectOwner | None) -> None:
            if self.conn is None:
                self._finish()
                return
            if owner is None:
                self.refuse(Refusal(503, "database_away", "the object can't be looked up now", 1))
                return
            deployment = owner.deployment
            self.places = [place for place in self.places if deployment and place.name == deployment]
            if not self.places:
                said = f"no such object as {param} names: an id works only for the account that received it"
                self.refuse(Refusal(400, "foreign_object", said, param=param))
                return
            self.object_place = deployment
            self.stored_tokens += owner.tokens
            self._check_object(at + 1)

        self.gateway.client.request(OWNS, UpstreamObject(user.account_id, name), answered)

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
                if self.arrived_s:
                    self.sent_s = perf_counter()
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
        connection.begin(
            self,
            b"%b%d\r\n\r\n" % (self._request_head(place), len(body)),
            body,
            self._patience_s(),
            self._idle_timeout_s(),
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

    # Cutting.

    def _cut(self, verdict: Verdict) -> None:
        """Nothing is left (or nobody can say): the plan's final unit action, in the stream."""
        reason = "nothing_left" if verdict == Verdict.NOTHING_LEFT else "hold_unavailable"
        if self._cut_upstream(lambda: self._interrupt_or_fail(reason)):
            self.gateway.stats.c["free_rider_over_balance"] += verdict == Verdict.NOTHING_LEFT

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

    def timed_out_whole(self) -> None:
        """`request_timeout_s` is over."""
        if self._abort_upstream():
            self.last_refusal = Refusal(
                504, "upstream_timeout", "the request took longer than this gateway waits"
            )
            self.tried += [place.name for place in self.places]
            self._interrupt_or_fail("upstream_timeout")

    # Time, once a second.

    def is_due(self, now_s: int) -> bool:
        """Whether `tick` has something to do: a client of a stream that hears nothing, or none at all."""
        if self.conn is None:
            return self.drain_until_s > 0
        return now_s - self.written_s >= PING_EVERY_S or (self.sent and not self.reported)

    def tick(self, now_s: int) -> None:
        """A stream that is silent says that it lives; an answer without a client is waited for no longer than it may."""
        conn, place = self.conn, self.place
        if conn is None:
            if self.drain_until_s and now_s >= self.drain_until_s and self._abort_upstream():
                self._interrupted("client_gone")
            return
        if self.sent and not self.reported and self.meter is not None:
            self._report_progress(self.meter)
        if now_s - self.written_s < PING_EVERY_S or self.paused or self.free or not self.streams:
            return
        if self.streaming or self.headed or (place is not None and place.deployment.early_head):
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
        ) + self.head.lines

    def stop_waited(self, now_s: int) -> None:
        """A stream has stopped and its usage is late: its finish waits `STOP_WAIT_S` for it, the record `USAGE_WAIT_S`."""
        meter = self.meter
        if meter is None or self.ended or self.upstream is None or not meter.stopped:
            self.gateway.stopping.discard(self)
            return
        if self.paused:
            self.stopped_s = 0  # its client does not read: its usage lies behind what waits for that
            return
        if not self.stopped_s:
            self.stopped_s = now_s
        waited_s = now_s - self.stopped_s
        if waited_s >= USAGE_WAIT_S:
            self.gateway.stopping.discard(self)
            if self._abort_upstream():
                self._stream_ended()
        elif waited_s + 1 >= STOP_WAIT_S and meter.waiting and self.conn is not None:
            out = meter.release()
            if out:
                self._relay(out)

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
        self._cut_upstream(lambda: self._interrupted("client_gone"))
