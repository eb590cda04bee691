"""Where passkeys can be used: the relying party's id and the origins of its pages, from the settings.

A passkey belongs to one relying party id, a host name. A browser uses it on pages of that host and of hosts below it (W3C Web
Authentication Level 3, section 5.1.2). The headers of a request decide nothing, except on `localhost`, which no other machine reaches.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tokenworks.kernel import Invalid

ORIGINS_MAX: Final = 16
_LOCAL: Final = "localhost"
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class PasskeySite:
    """A relying party: its id, and the origins whose pages may use its passkeys."""

    rp_id: str
    origins: tuple[str, ...]


def _origin_of(address: str) -> tuple[str, str]:
    """(origin, host) of an address, as a browser writes them: lower case, without a default port. Raises `Invalid`."""
    try:
        parts = urlsplit(address)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        raise Invalid(f"{address!r} is no origin") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise Invalid(f"{address!r} is no origin: https://shop.example, for example")
    named = f"[{host}]" if ":" in host else host
    shown = "" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}"
    return f"{parts.scheme}://{named}{shown}", host


def _is_local(host: str) -> bool:
    return host == _LOCAL or host.endswith(f".{_LOCAL}")


class PasskeySites:
    """The relying party of an installation. `origins`: with spaces between; empty: that of `public_url`; with neither, passkeys work on
    `localhost` alone. `rp_id`: empty: the host of the first origin. Raises `Invalid`.
    """

    def __init__(self, rp_id: str = "", origins: str = "", public_url: str = "") -> None:
        self._site: PasskeySite | None = None
        is_set = bool(origins.strip() or rp_id)
        named = origins.split() or ([public_url] if public_url else [])
        if len(named) > ORIGINS_MAX:
            raise Invalid(f"passkey_origins has at most {ORIGINS_MAX} origins")
        if is_set and not named:
            raise Invalid("passkey_rp_id needs passkey_origins, or public_url")
        found = [_origin_of(address) for address in named]
        party = rp_id.lower() or (found[0][1] if found else "")
        usable = [origin for origin, host in found if self._is_usable(origin, host, party)]
        if is_set and len(usable) < len(found):
            raise Invalid(
                f"passkey_origins: each begins with https://, and its host is {party} or one below it; only localhost may be http://"
            )
        if usable:
            self._site = PasskeySite(party, tuple(dict.fromkeys(usable)))

    @staticmethod
    def _is_usable(origin: str, host: str, party: str) -> bool:
        is_name = "." in party or party == _LOCAL
        is_address = ":" in party or party.replace(".", "").isdigit()
        is_below = host == party or host.endswith(f".{party}")
        return is_name and not is_address and is_below and (origin.startswith("https://") or _is_local(host))

    def of(self, reached: str) -> PasskeySite | None:
        """The relying party for a page that was reached at an address; None if passkeys can't be used there."""
        try:
            origin, host = _origin_of(reached)
        except Invalid:
            return None
        if self._site is not None:
            return self._site if origin in self._site.origins else None
        return PasskeySite(_LOCAL, (origin,)) if host == _LOCAL else None
