"""A worker's data plane: what all its connections share, and where each request goes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from tokenworks.catalog import Weights
from tokenworks.charging import RESTED, RecorderClient, Rested, Slices
from tokenworks.factory import PROTOCOL_PATHS, Candidate, Place, Placement, RetryBudget
from tokenworks.gateway.coding import coding_of
from tokenworks.gateway.cors import Origins, is_preflight, preflight_response, refusal_of_key
from tokenworks.gateway.counting import TokenizerClient
from tokenworks.gateway.ending import Ending
from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.exchange import Exchange
from tokenworks.gateway.head import Head
from tokenworks.gateway.health import HealthCheck
from tokenworks.gateway.ids import IdSource
from tokenworks.gateway.inflate import UNKNOWN_CODING, Inflation
from tokenworks.gateway.keys import KeyCache, KeyEntry
from tokenworks.gateway.lag import LoopLag
from tokenworks.gateway.links import LinkCheck
from tokenworks.gateway.memory import Budget
from tokenworks.gateway.models import model_body, models_body, with_model
from tokenworks.gateway.passthrough import ControlExchange
from tokenworks.gateway.placing import Placing
from tokenworks.gateway.refusals import not_found, unusable_key
from tokenworks.gateway.request_log import RequestLog, Written
from tokenworks.gateway.risk import RiskBook
from tokenworks.gateway.seen import write_seen
from tokenworks.gateway.series import Series
from tokenworks.gateway.server import ClientConnection
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.gateway.stats import Stats
from tokenworks.gateway.turns import Turns
from tokenworks.gateway.upstream import Pool
from tokenworks.gateway.watching import Watching
from tokenworks.gateway.wheel import Wheel
from tokenworks.kernel import Clock

log = structlog.get_logger()

# Of decisions that found no place, in a second; and of a decision's candidates.
FAILURES_LOGGED_PER_S: Final = 10
CANDIDATES_LOGGED_MAX: Final = 20
_PROTOCOL_OF: Final = {path: protocol for protocol, path in PROTOCOL_PATHS.items()}
_COUNT_PATH: Final = "/v1/messages/count_tokens"
_METERED_PATHS: Final = frozenset({*_PROTOCOL_OF, _COUNT_PATH})
_KNOWN_PATHS: Final = frozenset({*_METERED_PATHS, "/v1/models"})
NO_KEY: Final = Refusal(
    401,
    "invalid_api_key",
    "no API key: send it as Authorization: Bearer twk_… or x-api-key",
    zh="未提供 API 密钥：请以 Authorization: Bearer twk_… 或 x-api-key 发送。",
)
NO_WEBSOCKET: Final = Refusal(
    426, "upgrade_required", "WebSocket is not spoken here: send the same request over HTTP"
)
# A client that asks whether its base URL is right, before anything else.
_HELLO_PATHS: Final = frozenset({"/", "/api/hello"})
# The one route of the control plane that takes files.
_FILE_PATHS: Final = frozenset({"/api/operations/charge-files/acknowledgements"})
BOM: Final = b"\xef\xbb\xbf"
BAD_KEY: Final = Refusal(
    401, "invalid_api_key", "this is not an API key of ours, or it has a typo: its checksum is wrong"
)
KEYS_AWAY: Final = Refusal(503, "database_away", "keys can't be looked up now", 1)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class Limits(Protocol):
    """The settings that the data plane reads; `tokenworks.app.settings` documents each."""

    header_bytes_max: int
    header_count_max: int
    body_bytes_max: int
    control_body_bytes_max: int
    memory_bytes_max: int
    memory_address_percent: int
    cors_origins: str
    response_bytes_max: int
    event_bytes_max: int
    write_buffer_bytes: int
    connections_max: int
    control_connections_max: int
    requests_max: int
    key_requests_max: int
    upstream_idle_max: int
    header_timeout_s: int
    body_timeout_s: int
    idle_timeout_s: int
    write_timeout_s: int
    upstream_connect_timeout_s: int
    upstream_first_byte_timeout_s: int
    upstream_idle_timeout_s: int
    request_timeout_s: int
    attempts_max: int
    retries_per_s: int
    decision_log_every: int
    failover_patience_s: int
    queue_wait_s: int
    flex_deadline_s: int
    filing_required: bool
    health_check_s: int
    stream_hold_tokens: int
    progress_tokens: int
    key_max_stale_s: int
    key_abandons_per_min: int
    operator_loss_budget_tokens: int
    drain_s: int
    drain_tokens: int
    log_requests_ppm: int

    @property
    def proxy_networks(self) -> "tuple[IPv4Network | IPv6Network, ...]": ...


class Gateway:
    """Everything is handed in; `client`, `keys`, `slices` and `counter` are wired by the app."""

    def __init__(self, settings: Limits, clock: Clock, stats: Stats, control_path: str, *, tls: bool) -> None:
        self.settings = settings
        self.clock = clock
        self.stats = stats
        self.tls = tls
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel(int(self.loop.time()))
        self.ids = IdSource(clock.civil_ms)
        self.snapshot = Snapshot(0, (), {}, {}, {})
        self.slices: Slices
        self.client: RecorderClient
        self.keys: KeyCache
        self.memory = Budget(settings.memory_bytes_max, settings.memory_address_percent)
        self.origins = Origins(settings.cors_origins)
        self.lag = LoopLag(stats)
        self.turns = Turns()
        self.connections: set[ClientConnection] = set()
        self.exchanges: set[Exchange] = set()
        self.control_open = 0
        self.broken_credentials: frozenset[str] = frozenset()
        self.draining = False
        self.retiring = False  # other workers of the host take what is new
        self.leaving_path: Path | None = None
        self.certificate_words: Callable[[], str | None] = lambda: None
        """What is to be said of the certificate, where something is."""
        self.cutting = False  # the time to drain is over: nothing is sent any more
        self.journal_full = False
        self.risk = RiskBook(settings.operator_loss_budget_tokens, lambda: clock.civil_ms() / 1000)
        self.links = LinkCheck(self.loop)
        self.stopping: set[Exchange] = set()  # their streams have stopped, and their usage is late
        self.clock_off_s: float | None = None  # by so much, which is more than it may be
        self.database_ok_s = self.loop.time()
        self.proxies = settings.proxy_networks
        self.counter: TokenizerClient
        self.placement = Placement()
        self.retries = RetryBudget(settings.retries_per_s)
        self.seen_path: Path | None = None
        self.series_path: Path | None = None
        self.series = Series()
        self.request_log = RequestLog(settings.log_requests_ppm, None, clock.civil_ms)
        self.watching = Watching(self.request_log, self.series)
        self.seen_before: dict[str, Any] = {}  # by an earlier worker on this host
        self.deferred: list[Placing] = []  # they look again with the next tick
        self._decisions = 0
        self._failures_logged = 0  # in this second
        self._pools: dict[Place, Pool] = {}
        self.control_pool = Pool(
            None,
            self.wheel,
            idle_max=16,
            connect_timeout_s=settings.upstream_connect_timeout_s,
            unix_path=control_path,
            memory=self.memory,
            turns=self.turns,
            decoded_max=settings.response_bytes_max,
        )
        self._checked_s = 0.0

    def keep_log_in(self, file: Written | None) -> None:
        """Where the lines of requests go; None: to the process's log."""
        self.request_log = RequestLog(self.settings.log_requests_ppm, file, self.clock.civil_ms)
        self.watching = Watching(self.request_log, self.series)

    # Routes.

    def after_head(self, conn: ClientConnection, head: Head) -> None:
        """What a connection's first head of its kind says, once for all requests that have the same."""
        path = head.path
        data_plane = path in _KNOWN_PATHS or path.startswith("/v1/") or head.meant is not None
        head.body_max = self.settings.body_bytes_max
        if path not in _METERED_PATHS and path not in _FILE_PATHS:
            head.body_max = min(head.body_max, self.settings.control_body_bytes_max)
        head.copies = 2 if path in _METERED_PATHS else 1
        if head.origin is not None and data_plane:
            head.lines = self.origins.lines(head.origin)
        if data_plane and head.client_request_id is not None and head.method != b"OPTIONS":
            head.lines += b"x-client-request-id: " + head.client_request_id.encode() + b"\r\n"
        head.coding = coding_of(head.headers.get(b"content-encoding"))
        if not data_plane and head.coding:
            head.coding = None
        head.plain = (
            path in _METERED_PATHS
            and head.method == b"POST"
            and not head.upgrade
            and head.coding == b""
            and head.model is None
        )
        if self.proxies:
            conn.set_address(self.client_address(conn, head))

    def dispatch(self, conn: ClientConnection, head: Head, body: bytes) -> None:
        path = head.path
        protocol = _PROTOCOL_OF.get(path)
        if head.plain:
            self._metered(conn, head, body, protocol or "messages", free=protocol is None)
        elif head.upgrade:
            conn.refuse(NO_WEBSOCKET)
        elif head.coding is None:
            conn.refuse(UNKNOWN_CODING)
        elif path in _METERED_PATHS:
            self._metered_after_a_look(conn, head, body, protocol)
        elif path.startswith("/v1/") or path == "/v1" or head.meant is not None:
            self._models(conn, head)
        elif path in {"/healthz", "/readyz"}:
            self._health(conn, path)
        elif path in _HELLO_PATHS and (head.method == b"HEAD" or path != "/"):
            self._hello(conn, head)
        else:
            self._control(conn, head, body)

    def _metered_after_a_look(
        self, conn: ClientConnection, head: Head, body: bytes, protocol: str | None
    ) -> None:
        """A request of a metered route that is not as most are."""
        if head.method == b"OPTIONS":
            self._options(conn, head)
        elif head.method != b"POST":
            conn.refuse(Refusal(405, "method_not_allowed", f"{head.path} takes POST"))
        elif head.coding:
            self._inflate(conn, head, body, protocol)
        else:
            self._metered_of_path(conn, head, body, protocol)

    def _metered_of_path(self, conn: ClientConnection, head: Head, body: bytes, protocol: str | None) -> None:
        if head.model is not None:
            body = with_model(body, head.model)
        self._metered(conn, head, body, protocol or "messages", free=protocol is None)

    def _inflate(self, conn: ClientConnection, head: Head, body: bytes, protocol: str | None) -> None:
        """Decode a body, for a key that is known: an unknown one could make this worker compute for nothing."""

        def decoded(content: bytes) -> None:
            self._metered_of_path(conn, head, content, protocol)

        def identified(user: KeyEntry | None) -> None:
            if conn.transport is None:
                return
            unusable = KEYS_AWAY if user is None else self._unusable(user)
            if unusable is None:
                inflation = Inflation(self, conn, head.coding or b"", body, decoded, conn.refuse)
                conn.exchange = inflation
                inflation.run()
            else:
                conn.refuse(unusable)

        self._identify(head, identified, conn.refuse)

    def _options(self, conn: ClientConnection, head: Head) -> None:
        """A preflight, or a client that asks what may be asked."""
        request_id = self.ids.next().encode()
        if is_preflight(head):
            conn.write(preflight_response(head, request_id, close=not conn.keep_alive))
        else:
            close = b"" if conn.keep_alive else b"connection: close\r\n"
            conn.write(
                b"HTTP/1.1 204 No Content\r\nallow: GET, HEAD, POST, OPTIONS\r\nx-request-id: %b\r\nrequest-id: %b\r\n%b%b\r\n"
                % (request_id, request_id, head.lines, close)
            )
        conn.done()

    def _hello(self, conn: ClientConnection, head: Head) -> None:
        """Claude Code asks `HEAD /` and `/api/hello` whether anything is there."""
        self._json(conn, 200, b'{"message":"hello"}', head)

    def is_proxy(self, address: str) -> bool:
        """Whether a peer is one of the proxies in front."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.proxies)

    def client_address(self, conn: ClientConnection, head: Head) -> str:
        """The peer, or behind trusted proxies the last address that is not one of them. What a client wrote before that
        is its own word, and is not taken.
        """
        if self.proxies:
            for named in reversed(head.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
                address = named.strip()
                if address and not self.is_proxy(address):
                    return address if _is_address(address) else conn.peer
        return conn.peer

    def reached(self, head: Head) -> tuple[bytes, bytes]:
        """(scheme, host) by which the client came: our own, or, of a trusted proxy that ends TLS, what that one says."""
        scheme = b"https" if self.tls else b"http"
        host = head.headers.get(b"host", b"localhost")
        if self.proxies:
            named = head.headers.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower()
            scheme = named if named in {b"http", b"https"} else scheme
            host = head.headers.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip() or host
        return scheme, host

    def _metered(self, conn: ClientConnection, head: Head, body: bytes, protocol: str, *, free: bool) -> None:
        counters = self.stats.c
        counters["requests"] += 1
        if counters["requests_open"] >= self.settings.requests_max:
            conn.refuse(
                Refusal(
                    429, "too_many_requests", "this server has all the requests that it takes at once", 1
                ),
                protocol,
            )
            return
        now_s = self.loop.time()
        if now_s - self.database_ok_s > self.settings.key_max_stale_s:
            conn.refuse(
                Refusal(
                    503, "database_away", "keys can't be checked: the database has been away for too long", 5
                ),
                protocol,
            )
            return
        if self.journal_full:
            conn.refuse(
                Refusal(
                    503,
                    "journal_full",
                    "this host's journal has no room, or too much of it waits for the database: it takes nothing new",
                    5,
                ),
                protocol,
            )
            return
        if body[:3] == BOM:
            body = body[3:]
        if self.clock_off_s is not None:
            conn.refuse(
                Refusal(
                    503, "clock_skew", "this host's clock is wrong: it takes nothing new until it is set", 5
                ),
                protocol,
            )
            return
        exchange = Exchange(self, conn, head, body, protocol, now_s, free=free)
        conn.exchange = exchange
        counters["requests_open"] += 1
        self.exchanges.add(exchange)
        entry: KeyEntry | None = head.key
        if entry is not None and now_s < entry.fresh_until_s:
            exchange.identified(entry)
        else:
            self._identify(head, exchange.identified, exchange.refuse)

    def _identify(self, head: Head, identified: Any, refuse: Any) -> None:
        """Who sends this: `identified(entry)`, None where nobody can say, or `refuse(refusal)`."""
        entry: KeyEntry | None = head.key
        if entry is not None and self.loop.time() < entry.fresh_until_s:
            identified(entry)
        elif head.raw_key is None:
            refuse(NO_KEY)
        elif head.origin is None and not head.other_keys:
            self._look_up(head, head.raw_key, identified, refuse)
        else:
            self._identify_one_of(head, (head.raw_key, *head.other_keys), identified, refuse)

    def _unusable(self, user: KeyEntry) -> Refusal | None:
        return unusable_key(user, self.keys.lacking, self.clock.civil_ms())

    def _look_up(self, head: Head, text: str, identified: Any, refuse: Any) -> None:
        keys = self.keys
        entry = keys.get(text, self.loop.time())  # monotonic seconds, as the keys' own
        if entry is not None:
            head.key = entry
            identified(entry)
        elif not keys.well_formed(text):
            refuse(BAD_KEY)
        elif not keys.look_up(text, identified):
            refuse(Refusal(503, "database_away", "too many unknown keys are asked for: try again", 1))

    def _identify_one_of(self, head: Head, texts: tuple[str, ...], identified: Any, refuse: Any) -> None:
        """Of several keys in one request the first that is known counts; a page may use it only if the key says so."""

        def answered(entry: KeyEntry | None) -> None:
            if entry is not None and not entry.known and len(texts) > 1:
                head.key = None
                self._identify_one_of(head, texts[1:], identified, refuse)
                return
            refusal = None if entry is None else refusal_of_key(head.origin, entry.origins)
            if refusal is not None:
                head.key = None
                refuse(refusal)
            else:
                identified(entry)

        def refused(refusal: Refusal) -> None:
            if len(texts) > 1 and refusal is BAD_KEY:
                self._identify_one_of(head, texts[1:], identified, refuse)
            else:
                refuse(refusal)

        self._look_up(head, texts[0], answered, refused)

    def refuse_early(self, head: Head) -> Refusal | None:
        """What can be said before a body is read: nobody sends megabytes without a key."""
        if head.path in _METERED_PATHS and head.method == b"POST":
            if head.raw_key is None:
                return NO_KEY
            if not self.keys.well_formed(head.raw_key):
                return BAD_KEY
        if head.coding is None:
            return UNKNOWN_CODING
        return None

    def _models(self, conn: ClientConnection, head: Head) -> None:
        path = head.path
        if head.method == b"OPTIONS":
            self._options(conn, head)
            return
        if path != "/v1/models" and not path.startswith("/v1/models/"):
            conn.refuse(not_found(path, head.meant))
            return
        if head.method not in {b"GET", b"HEAD"}:
            conn.refuse(Refusal(405, "method_not_allowed", f"{path} takes GET"))
            return
        protocol = "messages" if b"anthropic-version" in head.headers else "chat"

        def refuse(refusal: Refusal) -> None:
            conn.refuse(refusal, protocol)

        def identified(user: KeyEntry | None) -> None:
            if conn.transport is None:
                return
            unusable = KEYS_AWAY if user is None else self._unusable(user)
            if unusable is not None or user is None:
                refuse(unusable or KEYS_AWAY)
            elif path == "/v1/models":
                self._json(conn, 200, models_body(self.snapshot, user), head)
            else:
                name = path.removeprefix("/v1/models/")
                body = model_body(self.snapshot, user, name)
                if body is None:
                    refuse(
                        Refusal(
                            404,
                            "model_not_found",
                            f"there is no model {name} here: GET /v1/models lists them",
                        )
                    )
                else:
                    self._json(conn, 200, body, head)

        self._identify(head, identified, refuse)

    def _health(self, conn: ClientConnection, path: str) -> None:
        reasons = self.not_ready() if path == "/readyz" else []
        words = self.certificate_words() if path == "/readyz" else None
        text = (
            ("not ready: " + ", ".join(reasons) if reasons else "ok") + (f"; {words}" if words else "") + "\n"
        )
        status = b"503 Service Unavailable" if reasons else b"200 OK"
        request_id = self.ids.next().encode()
        conn.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nx-request-id: %b\r\nrequest-id: %b\r\n\r\n%b"
            % (status, len(text), request_id, request_id, text.encode())
        )
        conn.done()

    def not_ready(self) -> list[str]:
        """Why this worker can't serve, if so."""
        reasons = []
        self._look_whether_leaving()
        if not self.client.is_there or self.client.hangs():
            reasons.append("the recorder does not answer")
        if not self.snapshot.number:
            reasons.append("no snapshot yet")
        if self.loop.time() - self.database_ok_s > self.settings.key_max_stale_s:
            reasons.append("the database has been away for too long")
        if self.journal_full:
            reasons.append("the journal's disk is full, or too much of it is not settled")
        if self.clock_off_s is not None:
            reasons.append(f"the host's clock is off by {self.clock_off_s:.1f} s")
        if self.keys.lacking:
            reasons.append(f"pepper-{self.keys.lacking[-1]} of the works is not in secrets_dir here")
        if self.draining:
            reasons.append("draining")
        return reasons

    def _json(self, conn: ClientConnection, status: int, body: bytes, head: Head) -> None:
        close = b"" if conn.keep_alive else b"connection: close\r\n"
        request_id = self.ids.next().encode()
        conn.write(
            b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nrequest-id: %b\r\n%b%b\r\n%b"
            % (
                status,
                len(body),
                request_id,
                request_id,
                head.lines,
                close,
                b"" if head.method == b"HEAD" else body,
            )
        )
        conn.done()

    def _control(self, conn: ClientConnection, head: Head, body: bytes) -> None:
        if self.control_open >= self.settings.control_connections_max:
            conn.refuse(
                Refusal(429, "too_many_requests", "too many requests to the control plane at once", 1)
            )
            return
        self.control_open += 1
        exchange = ControlExchange(self, conn, head, body)
        conn.exchange = exchange
        exchange.run()

    # What exchanges share.

    def pool(self, place: Place) -> Pool:
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = Pool(
                place.deployment,
                self.wheel,
                idle_max=self.settings.upstream_idle_max,
                connect_timeout_s=self.settings.upstream_connect_timeout_s,
                memory=self.memory,
                turns=self.turns,
                decoded_max=self.settings.response_bytes_max,
            )
        return pool

    def rest(self, place: Place, seconds: float) -> None:
        """The upstream of a place named a time: until then no worker of this host asks it."""
        now_s = self.loop.time()
        place.rest(now_s, seconds)
        self.client.request(RESTED, Rested(place.name, place.named_until_s), lambda _told: None)

    def rested(self, until_s: Mapping[str, float]) -> None:
        """Times that upstreams named to workers of this host, by place, in monotonic seconds of the host."""
        now_s = self.loop.time()
        for place in self.snapshot.places:
            left_s = until_s.get(place.name, 0.0) - now_s
            if left_s > place.resting_s(now_s):
                place.rest(now_s, left_s)

    def rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        """(model class, weights) in the snapshot of now."""
        return self.snapshot.rate(rate_version, model)

    def exchange_ended(self, exchange: Ending) -> None:
        self.exchanges.discard(exchange)
        self.stats.c["requests_open"] -= 1
        exchange.over()
        self.watching.ended(exchange, self.loop.time())
        if exchange.user is not None:
            exchange.user.in_flight -= 1

    def count_refusal(self, refusal: Refusal) -> None:
        name = f"refused_{refusal.status}"
        counters = self.stats.c
        counters[name if name in counters else "refused_other"] += 1

    def decided(self, exchange: Placing, chosen: Candidate | None) -> None:
        """Keep a sample of placement's decisions in the log, and every one that found no place, so many a second. What became
        of a request is in its usage record, under the same id.
        """
        every = self.settings.decision_log_every
        self._decisions += 1
        if chosen is None:
            self._failures_logged += 1
            if self._failures_logged > FAILURES_LOGGED_PER_S:
                return
        elif not every or self._decisions % every:
            return
        ask = exchange.ask
        assert ask is not None
        log.info(
            "placement.decision",
            request_id=exchange.request_id,
            model=exchange.model,
            chosen=None if chosen is None else chosen.place.name,
            objective=ask.objective,
            regions=ask.regions,
            tried=exchange.tried,
            candidates=[
                {"deployment": c.place.name, "excluded": c.excluded}
                if c.excluded
                else {
                    "deployment": c.place.name,
                    "first_token_ms": round(c.first_token_ms),
                    "wait_ms": round(c.wait_ms),
                    "cached_blocks": c.matched_blocks,
                    "cost_nano": c.cost_nano,
                }
                for c in self.placement.explain(exchange.places, exchange.tried, ask, self.loop.time())[
                    :CANDIDATES_LOGGED_MAX
                ]
            ],
        )

    def swap(self, snapshot: Snapshot, broken_credentials: frozenset[str]) -> None:
        """A new snapshot; running requests keep the one that they began with."""
        self.snapshot = snapshot
        self.series.known((place.deployment.model, place.name) for place in snapshot.places)
        for place in snapshot.places:
            if place.name in self.seen_before:
                place.learn_from(self.seen_before.pop(place.name))
        self.placement.set_places(snapshot.places, self.loop.time())
        self.broken_credentials = broken_credentials
        live = set(snapshot.places)
        for place in [place for place in self._pools if place not in live]:
            self._pools.pop(place).close_idle()

    # Time.

    def tick(self) -> None:
        """Once a second: time-outs, health, heartbeat."""
        now_s = self.loop.time()
        self._failures_logged = 0
        self.wheel.tick(int(now_s))
        self.client.tick()
        self._look_whether_leaving()
        oldest_s = now_s - self.settings.request_timeout_s
        deferred, self.deferred = self.deferred, []
        second = int(now_s)
        self._each(deferred, lambda exchange: exchange.again())
        late = [e for e in self.exchanges if e.began_s < oldest_s]
        self._each(late, lambda exchange: exchange.timed_out_whole())
        due = [e for e in self.exchanges if e.is_due(second)]
        self._each(due, lambda exchange: exchange.tick(second))
        self._each(list(self.stopping), lambda exchange: exchange.stop_waited(second))
        if now_s - self._checked_s >= self.settings.health_check_s:
            self._checked_s = now_s
            for place in self.snapshot.places:
                if place.check_due(now_s, 6.0 * self.settings.health_check_s):
                    HealthCheck(self, place).run()
        counters = self.stats.c
        counters["connections_open"] = len(self.connections)
        counters["memory_used_bytes"] = self.memory.used
        counters["memory_peak_bytes"] = self.memory.peak
        counters["memory_refused"] = self.memory.refused
        counters["upstream_open"] = sum(len(pool.open) for pool in self._pools.values())
        counters["upstream_idle"] = sum(len(pool.idle) for pool in self._pools.values())
        counters["unacknowledged"] = self.client.open_messages
        counters["deployments"] = len(self.snapshot.places)
        counters["recorder_ready"] = int(self.client.is_there)
        counters["snapshot_age_ms"] = int((now_s - self.database_ok_s) * 1000)
        self.series.settle(self.stats)
        self.stats.beat()
        self.request_log.flush(now_s, room=not self.journal_full)
        counters["request_lines_left_out"] = self.request_log.left_out
        if self.series_path is not None:
            self.series.keep(self.series_path)
        if self.seen_path is not None and self.snapshot.places:
            write_seen(self.seen_path, self.snapshot.places, now_s)

    @staticmethod
    def _each(exchanges: Iterable[Placing], call: Callable[[Any], None]) -> None:
        """A defect of ours in one exchange costs its client the connection, and no other anything."""
        for exchange in exchanges:
            try:
                call(exchange)
            except Exception:
                log.exception("gateway.tick_failed", request_id=exchange.request_id)
                if exchange.conn is not None:
                    exchange.conn.abort()

    def _look_whether_leaving(self) -> None:
        """A host that leaves still takes requests, and asks its clients with each answer to connect anew: elsewhere."""
        if not self.draining and self.leaving_path is not None and self.leaving_path.exists():
            self.draining = True

    def drain(self) -> None:
        """No new connections; those that idle are closed, the others when their response is written."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    @property
    def idle(self) -> bool:
        return not self.exchanges and not self.client.open_messages
