"""Checks the media URLs of a request. An upstream would fetch them from its own network, so they must satisfy the same rules as the
addresses of deployments, in every spelling of an address.

The gateway resolves each host name at most once a minute. A name that does not resolve here is accepted: the upstream may know other
names, and the name leads to no address that is private here. A request with a name that was not resolved in time is refused, and the
client may send it again (`RETRY_LATER`). Look-ups have their own threads, so slow name servers do not delay the resolution of
deployments' names.
"""

import asyncio
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from queue import SimpleQueue
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog

from tokenworks.factory import address_refusal, parse_address

URL_CHARS_MAX: Final = 8_192
# Not Final, so that tests can set it: a compiled module has the value of a Final built in.
RESOLVE_S_MAX = 1.0
CACHE_S: Final = 60.0
CACHE_MAX: Final = 10_000
# Different host names in one request.
NAMES_MAX: Final = 16
# Host names of all requests of a worker whose look-up is queued or running. Requests beyond it are refused with `RETRY_LATER`.
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
    """The reason why no upstream may fetch the URL, from the URL alone; None if it is acceptable."""
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
    """The host as a resolver reads it: NFKC, lower case, no dots at the end."""
    return unicodedata.normalize("NFKC", host).casefold().replace("。", ".").rstrip(".")


def _host_refusal(written_host: str) -> str | None:
    host = _plain_host(written_host)
    if "%" in host and ":" not in host:
        return "a URL's host is written without %"
    address = _literal(host)
    if address is not None:
        return f"{written_host} {_REFUSED}" if address_refusal(address, allow_private=False) else None
    last_label = host.rpartition(".")[2]
    if not host or last_label.isdigit() or last_label.startswith("0x") or ":" in host:
        return f"{written_host} is not an address"
    if "." not in host or host.endswith(_PRIVATE_ENDS):
        return f"{written_host} {_REFUSED}"
    return None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host spells, in any form that resolvers accept: dotted, with parts left out, decimal, octal, hexadecimal,
    IPv6. None if the host is a name.
    """
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


class _PendingCheck:
    """The check of one request's host names. It ends when all names are resolved, one is refused, or the time is over; then it calls
    `done` with the reason for a refusal, or None.
    """

    __slots__ = ("done", "timer", "unresolved")

    def __init__(self, unresolved: set[str], done: Callable[[str | None], None]) -> None:
        self.unresolved = unresolved
        self.done: Callable[[str | None], None] | None = done
        self.timer: asyncio.TimerHandle | None = None

    def end(self, reason: str | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        done, self.done = self.done, None
        if done is None:
            return
        try:
            done(reason)
        except Exception:  # a failure of one request must not affect the other requests
            log.exception("links.waiter_failed")

    def resolved(self, host: str, reason: str | None) -> None:
        self.unresolved.discard(host)
        if reason is not None or not self.unresolved:
            self.end(reason)


class _Lookup:
    """A queued or running look-up of a host name. After `until_s` no check needs its result."""

    __slots__ = ("checks", "host", "until_s")

    def __init__(self, host: str) -> None:
        self.host = host
        self.until_s = 0.0
        self.checks: list[_PendingCheck] = []


class AddressLookup(Protocol):
    """The form of `socket.getaddrinfo` that is used here: the last element of each result is (address, port, …)."""

    def __call__(
        self,
        host: str,
        port: None,
        /,
        *,
        type: int,  # noqa: A002  (the standard library's name)
    ) -> Iterable[tuple[object, object, object, object, tuple[object, ...]]]: ...


class LinkCheck:
    """Resolves the host names in media URLs, in background threads, and refuses private addresses."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, getaddrinfo: AddressLookup = socket.getaddrinfo
    ) -> None:
        self._loop = loop
        self._getaddrinfo = getaddrinfo
        # (valid until, reason for refusal or None) of each resolved host.
        self._known: dict[str, tuple[float, str | None]] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._queue: SimpleQueue[_Lookup] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def check(self, urls: Iterable[str], done: Callable[[str | None], None]) -> None:
        """Call `done` once: with the reason why a URL may not be fetched, with `RETRY_LATER` itself, or with None if all URLs are
        acceptable. If all hosts are known, `done` is called before this returns.
        """
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
        elif len(self._lookups.keys() | unknown) > IN_FLIGHT_MAX:
            done(RETRY_LATER)
        else:
            self._start(_PendingCheck(unknown, done))

    def _start(self, check: _PendingCheck) -> None:
        check.timer = self._loop.call_later(RESOLVE_S_MAX, check.end, RETRY_LATER)
        until_s = time.monotonic() + RESOLVE_S_MAX
        for host in check.unresolved:
            lookup = self._lookups.get(host)
            new = lookup is None
            if lookup is None:
                lookup = self._lookups[host] = _Lookup(host)
            lookup.checks = [other for other in lookup.checks if other.done is not None]
            lookup.checks.append(check)
            lookup.until_s = until_s
            if new:
                self._queue.put(lookup)
        while len(self._threads) < THREADS:
            # Daemon threads, so that a worker can exit while a name server is silent.
            thread = threading.Thread(target=self._run_lookups, name="tw-links", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run_lookups(self) -> None:
        """The loop of a look-up thread."""
        while True:
            lookup = self._queue.get()
            try:
                expired = time.monotonic() >= lookup.until_s
                reason = RETRY_LATER if expired else self._resolve(lookup.host)
            except Exception:
                log.exception("links.look_up_failed")
                reason = RETRY_LATER
            try:
                self._loop.call_soon_threadsafe(self._finish, lookup, reason)
            except RuntimeError:
                return  # the loop has ended

    def _resolve(self, host: str) -> str | None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return None  # the name does not resolve here
        for *_, address in found:
            if address_refusal(parse_address(str(address[0])), allow_private=False):
                return f"{host} {_REFUSED}"
        return None

    def _finish(self, lookup: _Lookup, reason: str | None) -> None:
        """Take a look-up's result. A late result is stored, too: the client's next request finds it."""
        self._lookups.pop(lookup.host, None)
        if reason is not RETRY_LATER:
            if len(self._known) >= CACHE_MAX:
                self._known.clear()
            self._known[lookup.host] = (self._loop.time() + CACHE_S, reason)
        for check in lookup.checks:
            check.resolved(lookup.host, reason)
