"""The client of a request: its address, whether it came by TLS, and whether one of our own pages sent it."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from tokenworks.trust import NotAllowed
from tokenworks.web.urls import base_url


def client_address(request: Request) -> str:
    """The client's address. Only the gateway connects to this process: it removes the header that a client sends, and writes its own."""
    address = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        return str(ip_address(address.partition("%")[0]))
    except ValueError:
        return request.client.host if request.client and request.client.host else "local"


def is_secure(request: Request) -> bool:
    """True if the client used TLS, to the gateway or to a proxy in front of it."""
    return request.headers.get("x-forwarded-proto") == "https" or base_url.get().startswith("https://")


_OWN_PORTS: Final = re.compile(r":(80|443)$")


def _authority(text: str) -> str:
    """Host and port of an origin or of a Host header, without the default port of its scheme."""
    return _OWN_PORTS.sub("", text.partition("://")[2] or text).lower()


def check_own_page(request: Request) -> None:
    """Refuse a request that another site's page sent. `Sec-Fetch-Site` decides; a browser without it sends `Origin`, or at least
    `Referer` (OWASP, CSRF prevention). Raises `NotAllowed`.
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
