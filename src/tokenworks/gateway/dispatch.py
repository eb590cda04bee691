"""The routes of a worker's requests: metered ones, models, health, the control plane."""

from collections.abc import Callable
from typing import Final

from tokenworks.factory import COUNT_PATHS, PROTOCOL_PATHS
from tokenworks.gateway.http.coding import coding_of
from tokenworks.gateway.http.cors import Origins, is_preflight, preflight_response
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.inflate import UNKNOWN_CODING, RequestDecoding
from tokenworks.gateway.http.passthrough import ControlExchange
from tokenworks.gateway.http.paths import KEY_PATHS, STORED_CHAT_HEAD, STORED_HEAD
from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.http.proxies import Proxies
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.identify import BAD_KEY, KEYS_AWAY, NO_KEY, Identification
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.compaction import COMPACT_PATH, triggered
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.usage import BOM
from tokenworks.gateway.request import stored_routes
from tokenworks.gateway.request.models import ModelList, read_page, with_model
from tokenworks.gateway.request.refusals import not_found
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request.storing import RESPONSES
from tokenworks.gateway.shared import Shared

_PROTOCOL_OF: Final[dict[str, str]] = {path: protocol for protocol, path in PROTOCOL_PATHS.items()}
# Routes that count a request's tokens, which costs nothing.
_COUNTED_OF: Final = {path: protocol for protocol, path in COUNT_PATHS.items()}
_METERED_PATHS: Final = frozenset({*_PROTOCOL_OF, *_COUNTED_OF, COMPACT_PATH})
_KNOWN_PATHS: Final = frozenset({*_METERED_PATHS, *KEY_PATHS, "/v1/models"})
NO_WEBSOCKET: Final = Refusal(
    426, "upgrade_required", "WebSocket is not spoken here: send the same request over HTTP"
)
# Paths by which a client checks its base URL before anything else.
_HELLO_PATHS: Final = frozenset({"/", "/api/hello"})
# The one route of the control plane that takes files.
_FILE_PATHS: Final = frozenset({"/api/operations/charge-files/acknowledgements"})


class Dispatch:
    """`not_ready()`: the reasons why this worker can't serve; `certificate_words()`: a warning about the certificate, or None."""

    def __init__(
        self,
        shared: Shared,
        pools: Pools,
        running: RunningRequests,
        *,
        tls: bool,
        not_ready: Callable[[], list[str]],
        certificate_words: Callable[[], str | None],
    ) -> None:
        settings = shared.settings
        self._shared = shared
        self._pools = pools
        self._running = running
        self._identify = Identification(shared)
        self._origins = Origins(settings.cors_origins)
        self._not_ready = not_ready
        self._certificate_words = certificate_words
        self._control_open = 0
        self._models_list = ModelList()
        self.proxies = Proxies(settings.proxy_networks, tls=tls)
        self.connections: set[ClientConnection] = set()

    def after_head(self, conn: ClientConnection, head: Head) -> None:
        """Set the fields of a head that stay the same while its connection repeats it."""
        path = head.path
        data_plane = path in _KNOWN_PATHS or path.startswith("/v1/") or head.similar_route is not None
        settings = self._shared.settings
        head.body_max = settings.body_bytes_max
        if path not in _METERED_PATHS and path not in _FILE_PATHS:
            head.body_max = min(head.body_max, settings.control_body_bytes_max)
        head.copies = 2 if path in _METERED_PATHS else 1
        if head.origin is not None and data_plane:
            head.lines = self._origins.lines(head.origin)
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
            and path != COMPACT_PATH
        )
        if self.proxies.networks:
            conn.set_address(self.proxies.client_address(conn.peer, head))

    def refuse_early(self, head: Head) -> Refusal | None:
        """The refusal of a request before its body is read, so that no client sends megabytes without a key; None if it may go on."""
        if head.path in _METERED_PATHS and head.method == b"POST":
            if head.raw_key is None:
                return NO_KEY
            if not self._shared.keys.well_formed(head.raw_key):
                return BAD_KEY
        if head.coding is None:
            return UNKNOWN_CODING
        return None

    def refused(self, refusal: Refusal, request_id: str, head: Head | None) -> None:
        self._running.watching.refused(refusal, request_id, head, self._shared.loop.time())

    def dispatch(self, conn: ClientConnection, head: Head, body: bytes) -> None:
        path = head.path
        protocol = _PROTOCOL_OF.get(path)
        if head.plain:
            self._metered(conn, head, body, protocol or _COUNTED_OF[path], free=protocol is None)
        elif head.upgrade:
            conn.refuse(NO_WEBSOCKET)
        elif head.coding is None:
            conn.refuse(UNKNOWN_CODING)
        elif path in _METERED_PATHS:
            self._metered_after_a_look(conn, head, body, protocol)
        elif path in KEY_PATHS:
            self._of_key(conn, head)
        elif path.startswith((STORED_HEAD, STORED_CHAT_HEAD)):
            self._of_response(conn, head)
        elif path.startswith("/v1/") or path == "/v1" or head.similar_route is not None:
            self._models(conn, head)
        elif path in {"/healthz", "/readyz"}:
            self._health(conn, path)
        elif path in _HELLO_PATHS and (head.method == b"HEAD" or path != "/"):
            self._hello(conn, head)
        else:
            self._control(conn, head, body)

    # Metered routes.

    def _metered_after_a_look(
        self, conn: ClientConnection, head: Head, body: bytes, protocol: str | None
    ) -> None:
        """Route a metered request whose head needs checks: another method, a coded body, a model in the path."""
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
        if head.path == COMPACT_PATH:
            self._compact(conn, head, body)
        else:
            self._metered(conn, head, body, protocol or _COUNTED_OF[head.path], free=protocol is None)

    def _compact(self, conn: ClientConnection, head: Head, body: bytes) -> None:
        """Give a request for a compaction its trigger if the key is known, so that a client without a key can't make this worker compute."""

        def identified(user: KeyEntry | None) -> None:
            if conn.transport is None:
                return
            unusable = self._identify.unusable(user)
            compacting = triggered(body) if unusable is None else unusable
            if isinstance(compacting, Refusal):
                conn.refuse(compacting)
            else:
                self._metered(conn, head, compacting, RESPONSES, free=False)

        self._identify.identify(conn, head, identified, conn.refuse)

    def _inflate(self, conn: ClientConnection, head: Head, body: bytes, protocol: str | None) -> None:
        """Decode a body if the key is known, so that a client without a key can't make this worker compute."""

        def decoded(content: bytes) -> None:
            self._metered_of_path(conn, head, content, protocol)

        def identified(user: KeyEntry | None) -> None:
            if conn.transport is None:
                return
            unusable = self._identify.unusable(user)
            if unusable is None:
                inflation = RequestDecoding(
                    self._shared, conn, head.coding or b"", body, decoded, conn.refuse
                )
                conn.exchange = inflation
                inflation.run()
            else:
                conn.refuse(unusable)

        self._identify.identify(conn, head, identified, conn.refuse)

    def _metered(self, conn: ClientConnection, head: Head, body: bytes, protocol: str, *, free: bool) -> None:
        shared = self._shared
        counters = shared.stats.c
        counters["requests"] += 1
        now_s = shared.loop.time()
        if (
            counters["requests_open"] >= shared.settings.requests_max
            or now_s - shared.database_ok_s > shared.settings.key_max_stale_s
            or shared.journal_full
            or shared.clock_off_s is not None
        ):
            conn.refuse(self._nothing_new(now_s), protocol)
            return
        if body[:3] == BOM:
            body = body[3:]
        exchange = self._running.begin(conn, head, body, protocol, now_s, free=free)
        entry: KeyEntry | None = head.key
        if entry is not None and now_s < entry.fresh_until_s:
            exchange.identified(entry)
        else:
            self._identify.identify(conn, head, exchange.identified, exchange.refuse)

    def _nothing_new(self, now_s: float) -> Refusal:
        """The refusal of new requests by this worker."""
        shared = self._shared
        if shared.stats.c["requests_open"] >= shared.settings.requests_max:
            return Refusal(
                429, "too_many_requests", "this server has all the requests that it takes at once", 1
            )
        if now_s - shared.database_ok_s > shared.settings.key_max_stale_s:
            return Refusal(
                503, "database_away", "keys can't be checked: the database has been away for too long", 5
            )
        if shared.journal_full:
            return Refusal(
                503,
                "journal_full",
                "this host's journal has no room, or too much of it waits for the database: it takes nothing new",
                5,
            )
        return Refusal(
            503, "clock_skew", "this host's clock is wrong: it takes nothing new until it is set", 5
        )

    # Routes without a charge.

    def _options(self, conn: ClientConnection, head: Head) -> None:
        """Answer a preflight, or another OPTIONS request."""
        request_id = self._shared.ids.next().encode()
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
        """Claude Code checks with `HEAD /` and `/api/hello` whether a server is there."""
        self._json(conn, 200, b'{"message":"hello"}', head)

    def _models(self, conn: ClientConnection, head: Head) -> None:
        path = head.path
        if head.method == b"OPTIONS":
            self._options(conn, head)
            return
        if path != "/v1/models" and not path.startswith("/v1/models/"):
            conn.refuse(not_found(path, head.similar_route))
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
            unusable = self._identify.unusable(user)
            if unusable is not None or user is None:
                refuse(unusable or KEYS_AWAY)
                return
            snapshot = self._shared.snapshot
            if path == "/v1/models":
                page = read_page(head.query)
                if isinstance(page, Refusal):
                    refuse(page)
                else:
                    self._json(conn, 200, self._models_list.body(snapshot, user, page), head)
                return
            name = path.removeprefix("/v1/models/")
            body = self._models_list.model_body(snapshot, user, name)
            if body is None:
                message = f"there is no model {name} here: GET /v1/models lists them"
                refuse(Refusal(404, "model_not_found", message))
            else:
                self._json(conn, 200, body, head)

        self._identify.identify(conn, head, identified, refuse)

    def _of_response(self, conn: ClientConnection, head: Head) -> None:
        if head.method == b"OPTIONS":
            self._options(conn, head)
            return
        refusal = stored_routes.refusal_of(head)
        if refusal is not None:
            conn.refuse(refusal)
            return

        self._with_key(
            conn,
            head,
            lambda user: stored_routes.StoredRoute(self._shared, conn, head, user, self._json).run(),
        )

    def _health(self, conn: ClientConnection, path: str) -> None:
        reasons = self._not_ready() if path == "/readyz" else []
        words = self._certificate_words() if path == "/readyz" else None
        text = (
            ("not ready: " + ", ".join(reasons) if reasons else "ok") + (f"; {words}" if words else "") + "\n"
        )
        status = b"503 Service Unavailable" if reasons else b"200 OK"
        request_id = self._shared.ids.next().encode()
        conn.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nx-request-id: %b\r\nrequest-id: %b\r\n\r\n%b"
            % (status, len(text), request_id, request_id, text.encode())
        )
        conn.done()

    def _json(self, conn: ClientConnection, status: int, body: bytes, head: Head) -> None:
        close = b"" if conn.keep_alive else b"connection: close\r\n"
        request_id = self._shared.ids.next().encode()
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

    # The control plane.

    def _of_key(self, conn: ClientConnection, head: Head) -> None:
        """Relay what a client asks about its own key to the control plane, with the key as the credential."""
        if head.method == b"OPTIONS":
            self._options(conn, head)
            return
        if head.method not in {b"GET", b"HEAD"}:
            conn.refuse(Refusal(405, "method_not_allowed", f"{head.path} takes GET"))
            return

        self._with_key(conn, head, lambda user: self._control(conn, head, b"", user.text))

    def _with_key(self, conn: ClientConnection, head: Head, serve: Callable[[KeyEntry], None]) -> None:
        """Call `serve` with the request's key if it may be used; refuse the request if not."""

        def identified(user: KeyEntry | None) -> None:
            if conn.transport is None:
                return
            unusable = self._identify.unusable(user)
            if unusable is not None or user is None:
                conn.refuse(unusable or KEYS_AWAY)
            else:
                serve(user)

        self._identify.identify(conn, head, identified, conn.refuse)

    def _control(self, conn: ClientConnection, head: Head, body: bytes, key: str | None = None) -> None:
        if self._control_open >= self._shared.settings.control_connections_max:
            conn.refuse(
                Refusal(429, "too_many_requests", "too many requests to the control plane at once", 1)
            )
            return
        self._control_open += 1
        exchange = ControlExchange(
            self._shared, self._pools.control, self.proxies, self._control_over, conn, head, body, key
        )
        conn.exchange = exchange
        exchange.run()

    def _control_over(self) -> None:
        self._control_open -= 1
