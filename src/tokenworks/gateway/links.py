"""URLs of media in a request: an upstream would fetch them from its own network, so they pass the rules that deployments' own
addresses pass, in every spelling of an address.

What a name resolves to is asked here, once a minute at most. A name that does not resolve here passes: the upstream may
see other names, and can't be talked into an address that we know.
"""

import asyncio
import socket
import unicodedata
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from tokenworks.factory import address_refusal, parse_address

URL_CHARS_MAX: Final = 8_192
RESOLVE_S_MAX: Final = 1.0
CACHE_S: Final = 60.0
CACHE_MAX: Final = 10_000
# Different names that one request may bring.
NAMES_MAX: Final = 64
_PRIVATE_ENDS: Final = (
    ".localhost",
    ".local",
    ".internal",
    ".intranet",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
    ".onion",
)
LATER: Final = "the names of this request's media can't be looked up now: try again"
_REFUSED: Final = "is not fetched: media come from public addresses, or inline as data:"


def link_refusal(url: str) -> str | None:
    """Why no upstream may fetch a URL, as far as it says so itself; None where nothing is against it."""
    if len(url) > URL_CHARS_MAX:
        return f"a URL has at most {URL_CHARS_MAX} characters"
    if any(c <= " " or c in {"\\", "\x7f"} for c in url):
        return "a URL has no spaces, control characters or backslashes"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in {"http", "https"} or not host:
        return "media are linked by http and https, or inline as data:"
    if "@" in parts.netloc:
        return "a URL of media has no user and no password"
    return _host_refusal(host)


def host_of(url: str) -> str:
    return _plain_host(urlsplit(url).hostname or "")


def _plain_host(host: str) -> str:
    """As a resolver takes it: one width, small letters, no dots at its end."""
    return unicodedata.normalize("NFKC", host).casefold().replace("。", ".").rstrip(".")


def _host_refusal(said: str) -> str | None:
    host = _plain_host(said)
    if "%" in host and ":" not in host:
        return "a URL's host is written without %"
    address = _literal(host)
    if address is not None:
        return f"{said} {_REFUSED}" if address_refusal(address, allow_private=False) else None
    last = host.rpartition(".")[2]
    if not host or last.isdigit() or last.startswith("0x") or ":" in host:
        return f"{said} is not an address"
    if "." not in host or host.endswith(_PRIVATE_ENDS):
        return f"{said} {_REFUSED}"
    return None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """An address in whatever spelling a resolver takes: dotted, with parts left out, decimal, octal, hexadecimal, IPv6."""
    if ":" in host:
        try:
            address = parse_address(host.strip("[]"))
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            # NAT64 and 6to4 carry an IPv4 address.
            number = int(address)
            if number >> 32 == 0x64FF9B << 64:
                return ip_address(number & 0xFFFFFFFF)
            if address.sixtofour is not None:
                return address.sixtofour
            if number >> 32 == 0 and number > 1:
                return ip_address(number)
        return address
    parts = host.split(".")
    if len(parts) > 4:
        return None
    numbers: list[int] = []
    for part in parts:
        try:
            base = 16 if part[:2] == "0x" else 8 if part[:1] == "0" and part != "0" else 10
            numbers.append(int(part[2:] or "0", 16) if base == 16 else int(part, base))
        except ValueError:
            return None
        if "_" in part or part[:1] in {"+", "-"}:
            return None
    value = 0
    for number in numbers[:-1]:
        if number > 255:
            return None
        value = value << 8 | number
    width = 8 * (5 - len(numbers))
    if numbers[-1] >> width:
        return None
    return IPv4Address(value << width | numbers[-1])


class LinkCheck:
    """What the names in URLs resolve to, in the background."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[str, tuple[float, str | None]] = {}
        self._asking: dict[str, asyncio.Task[str | None]] = {}

    def check(self, urls: Iterable[str], done: Callable[[str | None], None]) -> None:
        """Calls `done` once, with why a URL may not be fetched, or None; at once where all is known."""
        hosts: dict[str, None] = {}
        for url in urls:
            reason = link_refusal(url)
            if reason is not None:
                done(reason)
                return
            hosts[host_of(url)] = None
        if len(hosts) > NAMES_MAX:
            done(f"media are linked from at most {NAMES_MAX} hosts")
            return
        now_s = self._loop.time()
        waiting: list[asyncio.Task[str | None]] = []
        for host in hosts:
            if _literal(host) is not None:
                continue
            known = self._known.get(host)
            if known is not None and known[0] > now_s:
                if known[1] is not None:
                    done(known[1])
                    return
                continue
            task = self._asking.get(host)
            if task is None:
                task = self._asking[host] = self._loop.create_task(self._resolve(host))
            waiting.append(task)
        if not waiting:
            done(None)
            return
        gathered = asyncio.gather(*waiting)
        gathered.add_done_callback(lambda all_of: done(next((r for r in all_of.result() if r), None)))

    async def _resolve(self, host: str) -> str | None:
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError):
            found = []
        finally:
            self._asking.pop(host, None)
        reason = None
        for *_, address in found:
            if address_refusal(parse_address(str(address[0])), allow_private=False):
                reason = f"{host} {_REFUSED}"
        if len(self._known) >= CACHE_MAX:
            self._known.clear()
        self._known[host] = (self._loop.time() + CACHE_S, reason)
        return reason
