"""A request's head: read by llhttp, checked beyond it, normalised once."""

import re
from typing import Any, Final

import httptools

from tokenworks.gateway.errors import Refusal

PATH_BYTES_MAX: Final = 2048
TARGET_BYTES_MAX: Final = 8192
_PLAIN_PATH: Final = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@/%-]*")
_AMBIGUOUS: Final = re.compile(rb"//|/\.{1,2}(?:/|$)|%(?:2[ef]|5c|00|25)|%(?![0-9a-fA-F]{2})", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,12})(?=\r\n)", re.IGNORECASE)
# Never forwarded: hop by hop, credentials, what we set ourselves, what would hide the body from us.
_DROPPED: Final = frozenset(
    b"""host connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding
    upgrade content-length expect accept-encoding authorization x-api-key api-key x-goog-api-key cookie set-cookie
    forwarded x-real-ip x-request-id http2-settings x-auth-token x-access-token""".split()
)
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-tokenworks-", b"proxy-", b"cf-", b"x-amz-")
# A second one of these is an attack or a bug; others are joined with a comma, as RFC 9110, 5.3 has it.
_ONCE: Final = frozenset(
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


class HeadError(Exception):
    """The head is refused."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, code, message)


class Head:
    """What a request's head says. Heads of a connection that differ in nothing but the content length share one."""

    __slots__ = (
        "body_length", "chunked", "expect", "forward", "headers", "http10", "keep_alive", "key", "method", "path", "query",
        "raw_key",
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
        self.raw_key: str | None = None
        # The gateway's memos: the head for each deployment, with the snapshot's number, and who this is.
        self.forward: dict[str, tuple[int, bytes]] = {}
        self.key: Any = None


class Sink:
    """What llhttp calls back: it only collects."""

    __slots__ = ("body", "complete", "headers", "on_body", "on_header", "on_url", "url")

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.on_body = self.body.append
        self.complete = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.url: list[bytes] = []
        self.on_url = self.url.append

        def on_header(name: bytes, value: bytes, add: Any = self.headers.append) -> None:
            add((name, value))

        self.on_header = on_header

    def on_message_complete(self) -> None:
        self.complete = True


def parse_head(data: bytes, header_count_max: int) -> tuple[Head, Any, Sink]:
    """A head that ends with its empty line. Returns it with its parser, which goes on with a chunked body, and the
    parser's sink. Raises `HeadError`.
    """
    sink = Sink()
    parser = httptools.HttpRequestParser(sink)
    upgrade = False
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        upgrade = True
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
    # An offer to upgrade is declined by answering in HTTP/1.1; it must not swallow the body.
    # llhttp says whether to keep alive only until a message is over, and one without a body is over at once.
    options = {option.strip().lower() for option in head.headers.get(b"connection", b"").split(b",")}
    head.keep_alive = b"keep-alive" in options if head.http10 else b"close" not in options
    if upgrade and head.chunked:
        raise HeadError(400, "bad_request", "an upgrade with a chunked body: send it without Upgrade")
    _read_target(head, b"".join(sink.url))
    return head, parser, sink


def around_length(raw: bytes) -> tuple[bytes, bytes] | None:
    """A head before and after its content length's digits; None where it has none that is written plainly."""
    found = _LENGTH.search(raw)
    return None if found is None else (raw[: found.start(1)], raw[found.end(1) :])


def _read_headers(head: Head, pairs: list[tuple[bytes, bytes]]) -> None:
    headers = head.headers
    for name_as_sent, value in pairs:
        name = name_as_sent.lower()
        if name in headers:
            if name in _ONCE:
                raise HeadError(400, "bad_request", f"two {name.decode('latin-1')} headers")
            headers[name] += b", " + value
        else:
            headers[name] = value
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
    head.raw_key = _raw_key(headers)


def _raw_key(headers: dict[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip().decode("latin-1")
    key = headers.get(b"x-api-key") or headers.get(b"api-key")
    return None if key is None else key.strip().decode("latin-1")


def _read_target(head: Head, target: bytes) -> None:
    path, _, query = target.partition(b"?")
    if len(target) > TARGET_BYTES_MAX or len(path) > PATH_BYTES_MAX:
        raise HeadError(400, "bad_request", "the path is too long")
    if not _PLAIN_PATH.fullmatch(path) or _AMBIGUOUS.search(path):
        raise HeadError(
            400, "ambiguous_path", "a path is /plain/segments: no //, no dot segments, no encoded separators"
        )
    if any(byte < 0x21 or byte > 0x7E for byte in query):
        raise HeadError(400, "bad_request", "the query has bytes that are not visible ASCII")
    head.path = path.decode("ascii")
    head.query = query


def forwarded(head: Head) -> bytes:
    """The client's own headers that pass to an upstream, as lines."""
    lines = []
    for name, value in head.headers.items():
        if name in _DROPPED or name.startswith(_DROPPED_PREFIXES):
            continue
        lines.append(name + b": " + value + b"\r\n")
    return b"".join(lines)
