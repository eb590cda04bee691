"""Requests to servers of others: webhooks, work orders, messages.

One request and one answer, within a time that is counted from the beginning, also where an answer arrives byte by byte. No redirect is
followed: it would take a signed body, or a one-time code, to an address that the operator has not allowed. Addresses follow the rules
for deployments: never link-local, loopback and private only where the operator allows them. The resolved address is checked, and the
connection goes to that address. Proxies of the environment are not used.
"""

import base64
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from tokenworks.factory import address_refusal, parse_address
from tokenworks.kernel import Unavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SEND_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 65_536


class NotDelivered(Unavailable):
    """A request did not arrive. `status` is the receiver's, where it answered. The text has no path and no secret."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._sock.recv_into(buffer)


class _DeadlineSocket:
    """A socket for `http.client` whose time-out is for the whole exchange, not for each read."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(max(0.001, self._deadline_s - time.monotonic()))
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> IO[bytes]:
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline_s))

    def close(self) -> None:
        """Does nothing: `post` closes the socket. `http.client` calls this before the body is read, where the answer ends with the
        connection.
        """


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool, timeout_s: float = SEND_S
) -> tuple[int, bytes]:
    """(status, body) of a 2xx answer; of a body, the first `ANSWER_BYTES_MAX`. Raises `NotDelivered`."""
    sent = {"Content-Type": "application/json", **headers}
    return exchange("POST", url, body, sent, allow_private=allow_private, timeout_s=timeout_s)


def exchange(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    allow_private: bool,
    timeout_s: float = SEND_S,
    bytes_max: int = ANSWER_BYTES_MAX,
) -> tuple[int, bytes]:
    """(status, body) of a 2xx answer; of a body, the first `bytes_max`. Raises `NotDelivered`."""
    parts = urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    deadline_s = time.monotonic() + timeout_s
    sent = {"User-Agent": "tokenworks", **headers}
    if parts.username is not None:
        userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        sent["Authorization"] = f"Basic {base64.b64encode(userinfo).decode()}"
    try:
        port = parts.port or (443 if tls else 80)
        sock = _connect(host, port, allow_private=allow_private, deadline_s=deadline_s)
    except (OSError, ValueError) as error:
        raise NotDelivered(f"{host} can't be reached: {_why(error)}") from None
    try:
        if tls:
            sock.settimeout(max(0.001, deadline_s - time.monotonic()))
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = _DeadlineSocket(sock, deadline_s)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        content = answer.read(bytes_max)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(f"{host} did not answer: {_why(error)}") from None
    finally:
        sock.close()
    if 300 <= answer.status < 400:
        raise NotDelivered(
            f"{host} answers with a redirect ({answer.status}), and none is followed: use the address that it names",
            answer.status,
        )
    if not 200 <= answer.status < 300:
        raise NotDelivered(f"{host} answers {answer.status}", answer.status)
    return answer.status, content


def _connect(host: str, port: int, *, allow_private: bool, deadline_s: float) -> socket.socket:
    refused: str | None = None
    failed: OSError | None = None
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if address_refusal(parse_address(str(address[0])), allow_private=allow_private):
            refused = "its address is loopback, private or link-local, which webhook_allow_private is about"
            continue
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        try:
            return socket.create_connection((str(address[0]), port), left_s)
        except OSError as error:
            failed = error
    raise failed or OSError(refused or "it has no address")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__).splitlines()[0][:200]
