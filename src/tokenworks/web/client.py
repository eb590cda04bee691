"""Who asks over HTTP: from where, and whether from a page of ours."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from tokenworks.trust import NotAllowed
from tokenworks.web.urls import base_url


def client_address(request: Request) -> str:
    """Where somebody asks from. Only the gateway reaches us, over its socket: it strips what clients say, and writes this."""
    said = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        return str(ip_address(said.partition("%")[0]))
    except ValueError:
        return request.client.host if request.client and request.client.host else "local"


def is_secure(request: Request) -> bool:
    """Whether the asker came by TLS, to the gateway or to a proxy in front of it."""
    return request.headers.get("x-forwarded-proto") == "https" or base_url.get().startswith("https://")


_OWN_PORTS: Final = re.compile(r":(80|443)$")


def _authority(text: str) -> str:
    """Host and port of an origin, or of a Host header; the port of its scheme is left out."""
    return _OWN_PORTS.sub("", text.partition("://")[2] or text).lower()


def check_own_page(request: Request) -> None:
    """What changes something comes from a page of ours, or from no page. By `Sec-Fetch-Site`; a browser that does not send it
    sends `Origin`, or at least `Referer` (OWASP, CSRF prevention). Raises `NotAllowed`.
    """
    refusal = NotAllowed("another site's page can't do this")
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise refusal
        return
    origin = request.headers.get("origin")
    if origin is None:
        referer = urlsplit(request.headers.get("referer", ""))
        origin = f"{referer.scheme}://{referer.netloc}" if referer.netloc else None
    if origin is None:
        return
    ours = {_authority(base_url.get()), _authority(request.headers.get("host", ""))}
    if "://" not in origin or _authority(origin) not in ours:
        raise refusal
