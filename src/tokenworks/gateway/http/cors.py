"""Cross-origin requests (the Fetch standard, 3.2): the pages that may read answers of the data plane.

A page sends its key in a header by itself, never the browser, so a preflight is answered before a key is known.
`Access-Control-Allow-Credentials` is never sent: cookies belong to the control plane, which no other origin may call.
"""

import re
from typing import Final

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.protocol.errors import Refusal

PREFLIGHT_FOR_S: Final = 7200
_HEADER_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{1,2000}")
_EXPOSED_NAMES: Final = (
    "x-request-id", "request-id", "x-client-request-id", "retry-after", "x-should-retry", "x-tokenworks-model", "x-tokenworks-choice",
    "x-tokenworks-queued-ms", "x-tokenworks-restricted-to", "x-tokenworks-dropped", "x-tokenworks-cost", "x-tokenworks-translated", "x-tokenworks-counted",
    "x-tokenworks-replayed", "x-tokenworks-cache", "x-tokenworks-stored", "x-tokenworks-compacted", "age",
    *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    *(f"anthropic-ratelimit-{of}-{what}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)  # fmt: skip
"""Headers of answers that a page may read."""
_EXPOSED: Final = f"access-control-expose-headers: {', '.join(_EXPOSED_NAMES)}\r\n".encode()


class Origins:
    """The setting `cors_origins`: `*`, or origins separated by spaces or commas, or nothing."""

    __slots__ = ("_named", "any")

    def __init__(self, setting: str) -> None:
        named = frozenset(setting.replace(",", " ").split())
        self.any = "*" in named
        self._named = frozenset(origin.rstrip("/").lower().encode() for origin in named)

    def lines(self, origin: bytes) -> bytes:
        """Header lines of an answer to a page of this origin; b"" if the page may not read it."""
        if self.any:
            return b"access-control-allow-origin: *\r\n" + _EXPOSED
        if origin.lower() in self._named:
            return b"access-control-allow-origin: " + origin + b"\r\nvary: origin\r\n" + _EXPOSED
        return b""


def is_preflight(head: Head) -> bool:
    return (
        head.method == b"OPTIONS"
        and head.origin is not None
        and b"access-control-request-method" in head.headers
    )


def preflight_response(head: Head, request_id: bytes, *, close: bool) -> bytes:
    """Allow the page any header: the gateway reads only the headers of its own allow-list."""
    wanted = head.headers.get(b"access-control-request-headers", b"")
    lines = head.lines
    if lines:
        lines += b"access-control-allow-methods: GET, HEAD, POST, DELETE, OPTIONS\r\n"
        if wanted and _HEADER_NAMES.fullmatch(wanted):
            lines += b"access-control-allow-headers: " + wanted + b"\r\n"
        lines += b"access-control-max-age: %d\r\n" % PREFLIGHT_FOR_S
    end = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 204 No Content\r\n%bx-request-id: %b\r\nrequest-id: %b\r\n%b\r\n" % (
        lines,
        request_id,
        request_id,
        end,
    )


def refusal_of_key(origin: bytes | None, allowed: frozenset[str] | None) -> Refusal | None:
    """The refusal if a page of this origin may not use a key; else None. A client that is no page sends no origin."""
    if origin is None or allowed is None or origin.decode("latin-1").lower() in allowed:
        return None
    return Refusal(
        403,
        "origin_not_allowed",
        "this key may not be used from this page: its origin is not among the key's",
    )
