"""A request's head: read by llhttp, checked beyond it, normalised once."""

import re
from collections.abc import Callable
from typing import Final

import httptools

from tokenworks.gateway.http.credentials import keys_of
from tokenworks.gateway.http.own_ids import own_id
from tokenworks.gateway.http.paths import (
    ENDPOINTS,
    RequestTarget,
    speaks_messages,
    target_of,
    without_separators,
)
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal

PATH_BYTES_MAX: Final = 2048
TARGET_BYTES_MAX: Final = 8192
_PLAIN_PATH: Final = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@/%-]*")
_PLAIN_QUERY: Final = re.compile(rb"[!-~]*")
_AMBIGUOUS: Final = re.compile(rb"//|/\.{1,2}(?:/|$)|%(?:2[ef]|5c|00|25)|%(?![0-9a-fA-F]{2})", re.IGNORECASE)
# A second header of these names is an attack or a bug. Other repeated headers are joined with a comma (RFC 9110, 5.3).
_SINGLE_HEADERS: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"x-api-key",
        b"content-type",
        b"expect",
        b"connection",
    }
)
PLAIN_SEGMENTS: Final = "a path is /plain/segments: no dot segments, no encoded separators but in a model's id, and // only before a route"
_SLASHES: Final = re.compile(rb"/{2,}")
_OWN: Final = b"x-tokenworks-"
_TAG: Final = b"x-tokenworks-tag-"
# Paths of by far the most requests, which need no further check.
_PLAIN_PATHS: Final = frozenset({b"/", *(b"/v1" + endpoint.encode() for endpoint in ENDPOINTS)})


class HeadError(Exception):
    """The head is refused."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, code, message)


class Head:
    """A request's head. Requests of a connection whose heads differ in nothing but the content length share one object."""

    __slots__ = (
        "body_length",
        "body_max",
        "chunked",
        "client_request_id",
        "coding",
        "copies",
        "expect",
        "forward",
        "headers",
        "http10",
        "keep_alive",
        "key",
        "lines",
        "may_replay",
        "messages",
        "method",
        "model",
        "origin",
        "other_keys",
        "path",
        "plain",
        "query",
        "raw_key",
        "similar_route",
        "tags",
        "upgrade",
        "wants_cost",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.path = ""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}
        self.body_length = 0
        self.chunked = False
        self.expect = False
        self.keep_alive = True
        self.http10 = False
        self.plain = True  # an uncoded POST of a metered route, so the fields below need no check
        self.body_max = 0
        self.copies = 1  # of the body in memory; 2 for a metered request: as it came and as it is sent on
        self.coding: bytes | None = b""  # of the body; None: unknown
        self.upgrade = False  # an offer to speak WebSocket
        self.may_replay = False  # an idempotency key, or a wish about the response cache
        self.messages = False  # refusals are in Anthropic's protocol
        self.raw_key: str | None = None
        self.other_keys: tuple[str, ...] = ()
        self.model: str | None = None  # named by the path
        self.similar_route: str | None = None  # the route that the path resembles, if it is of no route
        self.origin: bytes | None = None
        self.lines = b""  # header lines of every response: CORS, and the client's own id
        self.client_request_id: str | None = None
        self.tags: dict[str, str] | None = None  # of the usage record, by `x-tokenworks-tag-<name>`
        self.wants_cost = False  # `x-tokenworks-cost: 1`
        # Memos: the head for each deployment with the number of its snapshot, and the key's entry.
        self.forward: dict[str, tuple[int, bytes]] = {}
        self.key: KeyEntry | None = None


_AddPair = Callable[[tuple[bytes, bytes]], None]


class HeadCollector:
    """Collects the headers and the URL from llhttp's callbacks."""

    __slots__ = ("headers", "on_header", "on_url", "url")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url: list[bytes] = []
        self.on_url = self.url.append

        def on_header(name: bytes, value: bytes, add: _AddPair = self.headers.append) -> None:
            add((name, value))

        self.on_header = on_header


def parse_head(data: bytes, header_count_max: int) -> Head:
    """Parse a head that ends with its empty line. Raises `HeadError`."""
    sink = HeadCollector()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade is an offer only: the body is read by its framing
    except httptools.HttpParserError as error:
        raise HeadError(400, "bad_request", f"this is not a request that we take: {error}") from None
    if len(sink.headers) > header_count_max:
        raise HeadError(431, "headers_too_large", f"more than {header_count_max} headers")
    head = Head()
    version = parser.get_http_version()
    if version not in {"1.1", "1.0"}:
        raise HeadError(505, "http_version", "HTTP/1.1, please")
    head.http10 = version == "1.0"
    head.method = bytes(parser.get_method())
    if head.method == b"CONNECT":
        raise HeadError(405, "method_not_allowed", "CONNECT is not for us")
    _read_headers(head, sink.headers)
    # A server declines an upgrade by answering in HTTP/1.1 (RFC 9110, 7.8); the offer must not swallow the body.
    # llhttp's own keep-alive flag is valid only until the message ends, and a message without a body ends at once.
    options = {option.strip().lower() for option in head.headers.get(b"connection", b"").split(b",")}
    head.keep_alive = b"keep-alive" in options if head.http10 else b"close" not in options
    head.upgrade = b"websocket" in head.headers.get(b"upgrade", b"").lower()
    head.origin = head.headers.get(b"origin")
    head.client_request_id = own_id(head.headers)
    head.may_replay = b"idempotency-key" in head.headers or b"x-tokenworks-cache" in head.headers
    _read_target(head, b"".join(sink.url))
    head.messages = speaks_messages(head.path) or b"anthropic-version" in head.headers
    keys = keys_of(head.headers, head.query)
    if keys:
        head.raw_key, head.other_keys = keys[0], keys[1:]
    return head


def _read_headers(head: Head, pairs: list[tuple[bytes, bytes]]) -> None:
    headers = head.headers
    for name_as_sent, value in pairs:
        name = name_as_sent.lower()
        if name in headers:
            if name in _SINGLE_HEADERS:
                raise HeadError(400, "bad_request", f"two {name.decode('latin-1')} headers")
            headers[name] += b", " + value
        else:
            headers[name] = value
            if name.startswith(_OWN):
                _read_own(head, name, value)
    if b"host" not in headers and not head.http10:
        raise HeadError(400, "bad_request", "no Host header")
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if head.http10 or length is not None or coding.strip().lower() != b"chunked":
            raise HeadError(
                400, "bad_request", "one framing per message: a content length, or chunked, and nothing else"
            )
        head.chunked = True
    elif length is not None:
        if not length.isdigit() or len(length) > 12:
            raise HeadError(400, "bad_request", "a content length is a number")
        head.body_length = int(length)
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise HeadError(417, "expectation_failed", "the only expectation that we know is 100-continue")
        head.expect = not head.http10


def _read_own(head: Head, name: bytes, value: bytes) -> None:
    """Read a header that is for this gateway. Tags are checked with those of the body, and as many as a head has room for are read, so that
    those which the record has no room for are named.
    """
    if name == b"x-tokenworks-cost":
        head.wants_cost = value.strip().lower() in {b"1", b"true"}
    elif name.startswith(_TAG):
        tags = head.tags = {} if head.tags is None else head.tags
        tags[name[len(_TAG) :].decode("latin-1")] = value.strip().decode("utf-8", "replace")


def _read_target(head: Head, target: bytes) -> None:
    path, _, query = target.partition(b"?")
    if len(target) > TARGET_BYTES_MAX or len(path) > PATH_BYTES_MAX:
        raise HeadError(400, "bad_request", "the path is too long")
    found: RequestTarget | None = None
    if path not in _PLAIN_PATHS:
        if not _PLAIN_PATH.fullmatch(path):
            raise HeadError(400, "ambiguous_path", PLAIN_SEGMENTS)
        found = target_of(path.decode("ascii"))
        if _AMBIGUOUS.search(path) and (found is None or not _only_slashes(path)):
            raise HeadError(400, "ambiguous_path", PLAIN_SEGMENTS)
    if query and not _PLAIN_QUERY.fullmatch(query):
        raise HeadError(400, "bad_request", "the query has bytes that are not visible ASCII")
    if found is None:
        head.path = path.decode("ascii")
    else:
        head.path, head.model, head.similar_route = found
    head.query = query


def _only_slashes(path: bytes) -> bool:
    """True if a route's path is ambiguous only by doubled slashes, which a joined base URL makes, or by encoded slashes in a
    model's id.
    """
    return not _AMBIGUOUS.search(without_separators(_SLASHES.sub(b"/", path)))
