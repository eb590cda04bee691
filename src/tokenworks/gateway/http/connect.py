"""New connections to one deployment: its addresses, checked before and after the connection is made, and TLS with certificate checks."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, TypeVar

from tokenworks.factory import Deployment, address_refusal, parse_address

# Resolved addresses are used for this long; a failed connection ends it at once.
RESOLVE_FOR_S: Final = 30.0

P = TypeVar("P", bound=asyncio.Protocol)
SocketAddress = tuple[object, ...]
"""(address, port), and for IPv6 the flow label and the scope id."""


class Connector:
    """Makes connections to a deployment, or to the Unix socket `unix_path`."""

    def __init__(self, deployment: Deployment | None, unix_path: str | None) -> None:
        self._deployment = deployment
        self._unix_path = unix_path
        self._addresses: list[tuple[int, SocketAddress]] = []
        self._resolved_s = -1e9
        self._tls: ssl.SSLContext | None = None

    def forget_addresses(self) -> None:
        """Resolve the name again with the next connection."""
        self._resolved_s = -1e9

    async def connect(self, make_protocol: Callable[[], P]) -> P:
        """Connect to the first address that accepts. Raises `OSError`, with the reason where no address is allowed."""
        loop = asyncio.get_running_loop()
        if self._unix_path is not None:
            _, connection = await loop.create_unix_connection(make_protocol, self._unix_path)
            return connection
        deployment = self._deployment
        assert deployment is not None
        error: OSError | None = None
        for family, address in await self._resolve(deployment):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
                # The address of the connected peer is checked, too.
                peer = sock.getpeername()[0]
                reason = address_refusal(parse_address(peer), allow_private=deployment.allow_private)
                if reason:
                    raise OSError(reason)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, connection = await loop.create_connection(
                    make_protocol,
                    sock=sock,
                    ssl=self._tls_context() if deployment.tls else None,
                    server_hostname=deployment.host if deployment.tls else None,
                )
            except OSError as failure:
                sock.close()
                error = failure
                continue
            return connection
        raise error or OSError("no address")

    async def _resolve(self, deployment: Deployment) -> list[tuple[int, SocketAddress]]:
        """(address family, address) of each address that the deployment may have."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._resolved_s < RESOLVE_FOR_S:
            return self._addresses
        try:
            literal = ip_address(deployment.host)
            family: int = socket.AF_INET if literal.version == 4 else socket.AF_INET6
            found: list[tuple[int, SocketAddress]] = [(family, (deployment.host, deployment.port))]
        except ValueError:
            infos = await loop.getaddrinfo(deployment.host, deployment.port, type=socket.SOCK_STREAM)
            found = [(info[0], info[4]) for info in infos]
        allowed: list[tuple[int, SocketAddress]] = []
        reason: str | None = None
        for family, address in found:
            reason = address_refusal(parse_address(str(address[0])), allow_private=deployment.allow_private)
            if reason is None:
                allowed.append((family, address))
        if not allowed:
            raise OSError(reason or f"{deployment.host} has no address")
        self._addresses, self._resolved_s = allowed, loop.time()
        return allowed

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
