"""Addresses: rules for URLs, the address under which a client reached us, and links between the pages of a list."""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Final
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenworks.kernel import flaw

# The base path of TMF678; pages link to the document of a bill.
BILL_API: Final = "/tmf-api/customerBillManagement/v4"
PATH_CHARS_MAX: Final = 1000
PATH_PART_CHARS_MAX: Final = 200
QUERY_BYTES_MAX: Final = 8192

# The address under which the client of the current request reached us, for its hrefs.
base_url: ContextVar[str] = ContextVar("base_url", default="")
# Path and query of the current request, for the links between pages of its list.
request_target: ContextVar[tuple[str, str]] = ContextVar("target", default=("", ""))
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class CleanUrl:
    """Refuses a path or a query that is too long or has characters that no text may have, before a route sees it."""

    def __init__(self, app: ASGIApp, refuse: Callable[[str], Response]) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            found = _url_flaw(scope["path"], scope["query_string"])
            if found is not None:
                await self._refuse(found)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _url_flaw(path: str, query: bytes) -> str | None:
    if len(path) > PATH_CHARS_MAX or any(len(part) > PATH_PART_CHARS_MAX for part in path.split("/")):
        return f"a path has at most {PATH_CHARS_MAX} characters, a part of it {PATH_PART_CHARS_MAX}"
    if len(query) > QUERY_BYTES_MAX:
        return f"a query has at most {QUERY_BYTES_MAX} bytes"
    try:
        text = unquote_to_bytes(query.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return "the query is not UTF-8"
    bad = flaw(path) or flaw(text)
    return None if bad is None else f"the URL has {bad}: leave it out"


class BaseUrl:
    """Sets `base_url` for a request: `public_url` if it is set, else by the request's own headers."""

    def __init__(self, app: ASGIApp, public_url: str = "") -> None:
        self._app = app
        self._public_url = public_url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"localhost").decode("latin-1")
            scheme = "https" if headers.get(b"x-forwarded-proto") == b"https" else "http"
            found = self._public_url or f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"
            base_url.set(found)
            request_target.set((scope["path"], scope["query_string"].decode("latin-1")))
        await self._app(scope, receive, send)


def link_header(changes: Mapping[str, Mapping[str, str]]) -> str:
    """A `Link` header (RFC 8288). `changes`: by relation, the parameters that replace those of the current request's query."""
    path, query = request_target.get()
    parameters = parse_qsl(query, keep_blank_values=True)
    found = []
    for rel in sorted(changes):
        kept = [(name, value) for name, value in parameters if name not in {"offset", "cursor"}]
        address = f"{base_url.get()}{quote(path)}?{urlencode([*kept, *changes[rel].items()])}"
        found.append(f'<{address}>; rel="{rel}"')
    return ", ".join(found)
