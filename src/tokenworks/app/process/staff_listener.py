"""The staff port and the doors of staff: where /ops is served, and what a start refuses.

The control plane serves the staff port itself, beside the socket of the gateway: a stream of events reaches a browser as it goes, and no
worker has a part in it. So what the gateway does for the public port is done here: addresses that proxies report, bounds of a request's
head, body and time, TLS.
"""

import asyncio
import contextlib
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, cast
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokenworks.app.ports.oidc import client_secret, fetch
from tokenworks.app.process.renewing import Certificates
from tokenworks.app.settings import Settings, parse_address
from tokenworks.kernel import Invalid
from tokenworks.trust import OidcClient, OidcClientConfig
from tokenworks.web.errors import problem
from tokenworks.web.staff_door import StaffDoor, is_loopback

BODY_BYTES_MAX: Final = 65_536
# From the first byte of a connection, or of its next request, to the end of the request.
REQUEST_S: Final = 15.0
CONNECTIONS_MAX: Final = 200
# What a proxy in front writes, and a client could write.
_FORWARDING: Final = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
BACK_PATH: Final = "/ops/sign-in/oidc/back"


def _is_near(settings: Settings, address: str, url: str) -> bool:
    """True if a listener is reached from this host alone: it is on loopback, and no proxy in front and no URL says otherwise."""
    host, _ = parse_address(address)
    reached = urlsplit(url).hostname or "" if url else "localhost"
    return is_loopback(host) and is_loopback(reached) and not settings.trusted_proxies


def staff_base_url(settings: Settings) -> str:
    """The URL under which staff reach /ops."""
    if settings.staff_url:
        return settings.staff_url.rstrip("/")
    if not settings.staff_listen and settings.public_url:
        return settings.public_url.rstrip("/")
    scheme = "https" if settings.tls_key else "http"
    return f"{scheme}://{settings.staff_listen or settings.listen}"


def check_staff(settings: Settings) -> None:
    """Refuse a start that would let staff in without a second factor, or in the clear. Raises `Invalid`, whose text says what to do."""
    _check_provider(settings)
    if not settings.staff_listen:
        if settings.staff_url:
            raise Invalid("staff_url goes with staff_listen: give the staff port an address")
        return
    if _is_near(settings, settings.staff_listen, settings.staff_url):
        return
    if not settings.staff_totp and not settings.staff_oidc_issuer:
        raise Invalid(
            f"staff on {settings.staff_listen} needs a second factor: set staff_oidc_issuer, or set staff_totp = true and give each member a "
            "link with `tokenworks staff enrol`; or listen on 127.0.0.1"
        )
    if not settings.staff_url:
        raise Invalid(f"staff on {settings.staff_listen} needs staff_url, the URL under which it is reached")
    if settings.tls_key is None and not settings.trusted_proxies and not settings.allow_plain_http:
        raise Invalid(
            f"plain HTTP for staff on {settings.staff_listen} is refused: give tls_certificate and tls_key, or name the proxies in front in "
            "trusted_proxies"
        )
    if not settings.staff_url.startswith("https://") and not settings.allow_plain_http:
        raise Invalid("staff_url begins with https:// elsewhere than on loopback")


def _check_provider(settings: Settings) -> None:
    issuer = settings.staff_oidc_issuer
    if not issuer:
        if settings.staff_oidc_creates or settings.staff_oidc_roles:
            raise Invalid("staff_oidc_roles and staff_oidc_creates go with staff_oidc_issuer")
        return
    if not settings.staff_oidc_client_id:
        raise Invalid("staff_oidc_issuer goes with staff_oidc_client_id, our client id there")
    if issuer.startswith("http://") and not is_loopback(urlsplit(issuer).hostname or ""):
        raise Invalid("staff_oidc_issuer begins with https:// elsewhere than on loopback")
    if settings.staff_oidc_creates and not settings.staff_oidc_roles:
        raise Invalid("staff_oidc_creates goes with staff_oidc_roles, which says who gets which role")
    client_secret(settings.secrets)


def oidc_client(settings: Settings) -> OidcClient | None:
    """The client of the provider, shared by all requests of a process; None if there is no provider."""
    if not settings.staff_oidc_issuer:
        return None
    secrets_dir = settings.secrets
    config = OidcClientConfig(
        settings.staff_oidc_issuer,
        settings.staff_oidc_client_id,
        settings.staff_oidc_roles_claim,
        f"{staff_base_url(settings)}{BACK_PATH}",
        lambda: client_secret(secrets_dir),
    )
    return OidcClient(config, fetch)


def public_door(settings: Settings) -> StaffDoor | None:
    """The door of the public port: there is one if no staff port is set and the public port is reached from this host alone."""
    if settings.staff_listen or not _is_near(settings, settings.listen, settings.public_url):
        return None
    return StaffDoor("public", frozenset(), settings.staff_totp, oidc_client(settings))


def staff_door(settings: Settings) -> StaffDoor:
    """The door of the staff port."""
    near = _is_near(settings, settings.staff_listen, settings.staff_url)
    authority = _authority(settings.staff_url) if settings.staff_url else ""
    hosts = frozenset() if near or not authority else frozenset({authority})
    return StaffDoor("staff", hosts, settings.staff_totp or not near, oidc_client(settings))


def _authority(url: str) -> str:
    """Host and port of a URL as a browser writes them into `Host`: without the default port."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2].lower().removesuffix(":443" if parts.scheme == "https" else ":80")


class StaffEdge:
    """What the gateway does for the public port: a request has one client's address, a bounded body, and no header that a proxy writes.

    `networks`: of proxies in front, if there are any; other peers are refused then. `tls`: the port speaks TLS itself.
    """

    def __init__(self, app: ASGIApp, networks: tuple[IPv4Network | IPv6Network, ...], *, tls: bool) -> None:
        self._app = app
        self._networks = networks
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        peer = scope["client"][0] if scope.get("client") else ""
        if self._networks and not self._trusts(peer):
            await problem(403, "NotAllowed", "the staff port is reached through its proxy")(
                scope, receive, send
            )
            return
        names = [name for name, _ in headers]
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        if (
            b"transfer-encoding" in names
            or not length.isdigit()
            or len(length) > 10
            or int(length) > BODY_BYTES_MAX
        ):
            refusal = problem(413, "Invalid", f"a body has a length, of at most {BODY_BYTES_MAX} bytes")
            await refusal(scope, receive, send)
            return
        await self._app({**scope, "headers": self._own(headers, peer)}, receive, send)

    def _trusts(self, address: str) -> bool:
        with contextlib.suppress(ValueError):
            parsed = ip_address(address)
            return any(parsed in network for network in self._networks)
        return False

    def _own(self, headers: list[tuple[bytes, bytes]], peer: str) -> list[tuple[bytes, bytes]]:
        """The headers of the request, with those that a trusted proxy wrote, or our own in their place."""
        kept = [(name, value) for name, value in headers if name not in _FORWARDING]
        said = {name: value for name, value in headers if name in _FORWARDING}
        address, scheme = peer, b"https" if self._tls else b"http"
        if self._networks:
            lines = [value for name, value in headers if name == b"x-forwarded-for"]
            for named in reversed(b",".join(lines).decode("latin-1").split(",")):
                found = named.strip()
                if found and not self._trusts(found):
                    with contextlib.suppress(ValueError):
                        address = str(ip_address(found))
                    break
            proto = said.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower()
            scheme = proto if proto in {b"http", b"https"} else scheme
            host = said.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip()
            if host:
                kept = [(name, value) for name, value in kept if name != b"host"] + [(b"host", host)]
        return [*kept, (b"x-forwarded-for", address.encode()), (b"x-forwarded-proto", scheme)]


class _TimedProtocol(HttpToolsProtocol):
    """A connection whose client has `REQUEST_S` for each request: uvicorn alone waits for ever for the end of a head or a body."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(REQUEST_S, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            self.transport.close()


def server_config(app: ASGIApp, settings: Settings, certificates: Certificates | None) -> uvicorn.Config:
    """How the staff port is served. With TLS, its certificate is that of the public port."""
    tls = certificates is not None
    config = uvicorn.Config(
        StaffEdge(app, () if tls else settings.proxy_networks, tls=tls), log_config=None, log_level="warning", access_log=False, server_header=False,
        date_header=False, limit_concurrency=CONNECTIONS_MAX, timeout_graceful_shutdown=3, proxy_headers=False, http=_TimedProtocol,
        ws="none", lifespan="off",
    )  # fmt: skip
    config.load()
    if certificates is not None:
        config.ssl = certificates.context
    return config


def certificates_of(settings: Settings) -> Certificates | None:
    """The certificate of the staff port, if it speaks TLS. Raises `Invalid` where it can't be loaded."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key)


__all__ = ["certificates_of", "check_staff", "public_door", "server_config", "staff_door"]
