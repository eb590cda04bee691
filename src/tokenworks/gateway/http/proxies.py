"""Trusted proxies in front of the gateway, and the client's address as they report it."""

from ipaddress import IPv4Network, IPv6Network, ip_address

from tokenworks.gateway.http.head import Head


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class Proxies:
    """`networks`: of the trusted proxies; empty if clients connect directly. `tls`: True if this worker speaks TLS."""

    __slots__ = ("_tls", "networks")

    def __init__(self, networks: tuple[IPv4Network | IPv6Network, ...], *, tls: bool) -> None:
        self.networks = networks
        self._tls = tls

    def trusts(self, address: str) -> bool:
        """True if a peer is one of the proxies."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.networks)

    def client_address(self, peer: str, head: Head) -> str:
        """The peer's address or, behind trusted proxies, the last forwarded address that is no proxy's. A client could have written
        the addresses before that one, so they are ignored.
        """
        if self.networks:
            for named in reversed(head.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
                address = named.strip()
                if address and not self.trusts(address):
                    return address if _is_address(address) else peer
        return peer

    def reached(self, head: Head) -> tuple[bytes, bytes]:
        """(scheme, host) that the client used: this worker's own, or those that a trusted proxy reports."""
        scheme = b"https" if self._tls else b"http"
        host = head.headers.get(b"host", b"localhost")
        if self.networks:
            named = head.headers.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower()
            scheme = named if named in {b"http", b"https"} else scheme
            host = head.headers.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip() or host
        return scheme, host
