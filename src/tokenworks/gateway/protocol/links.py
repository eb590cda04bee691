"""URLs of media in a request: an upstream would fetch them from its own network, so they pass the rules that deployments' own
addresses pass, in every spelling of an address.

What a name resolves to is asked here, once a minute at most. A name that does not resolve here passes: the upstream may
see other names, and can't be talked into an address that we know. One that was not looked up in time passes never: then the
client comes again (`LATER`). Look-ups have threads of their own: however slow the names' servers are, deployments' own
names are resolved beside them.
"""

import asyncio
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from tokenworks.factory import address_refusal, parse_address

URL_CHARS_MAX: Final = 8_192
# Not Final, so that tests can set it: a compiled module has the value of a Final built in.
RESOLVE_S_MAX = 1.0
CACHE_S: Final = 60.0
CACHE_MAX: Final = 10_000
# Different names that one request may bring.
NAMES_MAX: Final = 16
# Names of all requests of a worker that are being looked up, or wait for that; of more the client hears `LATER`.
IN_FLIGHT_MAX: Final = 64
THREADS: Final = 2
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
RETRY_LATER: Final = "the names of this request's media can't be looked up now: try again"
_REFUSED: Final = "is not fetched: media come from public addresses, or inline as data:"

log = structlog.get_logger()


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


class _Wait:
    """One request, until all of its names are known, one is refused, or its time is over."""

    __slots__ = ("done", "left", "timer")

    def __init__(self, left: set[str], done: Callable[[str | None], None]) -> None:
        self.left = left
        self.done: Callable[[str | None], None] | None = done
        self.timer: asyncio.TimerHandle | None = None

    def end(self, why: str | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        done, self.done = self.done, None
        if done is None:
            return
        try:
            done(why)
        except Exception:  # one request's failure must not keep others from their answers
            log.exception("links.waiter_failed")

    def known(self, host: str, why: str | None) -> None:
        self.left.discard(host)
        if why is not None or not self.left:
            self.end(why)


class _Asked:
    """A name that is being looked up. After `until_s` nobody waits for it."""

    __slots__ = ("host", "until_s", "waits")

    def __init__(self, host: str) -> None:
        self.host = host
        self.until_s = 0.0
        self.waits: list[_Wait] = []


class LinkCheck:
    """What the names in URLs resolve to, in the background."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, getaddrinfo: Callable[..., Any] = socket.getaddrinfo
    ) -> None:
        self._loop = loop
        self._getaddrinfo = getaddrinfo
        self._known: dict[str, tuple[float, str | None]] = {}
        self._asking: dict[str, _Asked] = {}
        self._queue: SimpleQueue[_Asked] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def check(self, urls: Iterable[str], done: Callable[[str | None], None]) -> None:
        """Calls `done` once, with why a URL may not be fetched, `RETRY_LATER` itself, or None; at once where all is known."""
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
        unknown: set[str] = set()
        for host in hosts:
            if _literal(host) is not None:
                continue
            known = self._known.get(host)
            if known is None or known[0] <= now_s:
                unknown.add(host)
            elif known[1] is not None:
                done(known[1])
                return
        if not unknown:
            done(None)
        elif len(self._asking.keys() | unknown) > IN_FLIGHT_MAX:
            done(RETRY_LATER)
        else:
            self._wait(_Wait(unknown, done))

    def _wait(self, wait: _Wait) -> None:
        wait.timer = self._loop.call_later(RESOLVE_S_MAX, wait.end, RETRY_LATER)
        until_s = time.monotonic() + RESOLVE_S_MAX
        for host in wait.left:
            asked = self._asking.get(host)
            new = asked is None
            if asked is None:
                asked = self._asking[host] = _Asked(host)
            asked.waits = [other for other in asked.waits if other.done is not None]
            asked.waits.append(wait)
            asked.until_s = until_s
            if new:
                self._queue.put(asked)
        while len(self._threads) < THREADS:
            # Daemons: a worker's end waits for no name's server.
            thread = threading.Thread(target=self._look_up, name="tw-links", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _look_up(self) -> None:
        """A thread's work."""
        while True:
            asked = self._queue.get()
            try:
                why = RETRY_LATER if time.monotonic() >= asked.until_s else self._resolve(asked.host)
            except Exception:
                log.exception("links.look_up_failed")
                why = RETRY_LATER
            try:
                self._loop.call_soon_threadsafe(self._answered, asked, why)
            except RuntimeError:
                return  # the loop has ended

    def _resolve(self, host: str) -> str | None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return None  # there is no such name here, or nobody here can say
        for *_, address in found:
            if address_refusal(parse_address(str(address[0])), allow_private=False):
                return f"{host} {_REFUSED}"
        return None

    def _answered(self, asked: _Asked, why: str | None) -> None:
        """However late: who comes again finds it."""
        self._asking.pop(asked.host, None)
        if why is not RETRY_LATER:
            if len(self._known) >= CACHE_MAX:
                self._known.clear()
            self._known[asked.host] = (self._loop.time() + CACHE_S, why)
        for wait in asked.waits:
            wait.known(asked.host, why)
