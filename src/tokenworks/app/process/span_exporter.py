"""Sends the workers' spans to an OpenTelemetry collector: a thread of the control plane, which takes datagrams from the workers of its host.

The thread keeps a bounded number of spans. A collector that is away, or says that it is busy, gets them again later; what does not fit
meanwhile, and what the collector refuses, is dropped and counted. Nothing waits for the thread.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from tokenworks import __version__
from tokenworks.app.ports.otlp import Attribute, export_request, span_count
from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import Settings
from tokenworks.gateway import RequestSpans, read_datagram
from tokenworks.kernel import flaw

log = structlog.get_logger()

SOCKET_FILE: Final = "spans.sock"
HEADERS_FILE: Final = "otlp-headers"
TRACES_PATH: Final = "/v1/traces"
# Requests (with their attempts) that are kept, and those that are sent at once.
KEPT_REQUESTS_MAX: Final = 20_000
BATCH_REQUESTS: Final = 500
# A batch is sent when it is full, or so long after its first datagram.
BATCH_S: Final = 1.0
DATAGRAM_BYTES_MAX: Final = 65_536
SEND_S: Final = 5.0
# At the end of the process: for the last spans.
STOP_S: Final = 2.0
# Pauses after a failure, doubled each time.
PAUSE_S: Final = 1.0
PAUSE_S_MAX: Final = 30.0
HEADERS_BYTES_MAX: Final = 8192
# Answers after which the OTLP specification (1.x, "Failures", read 2026-11) lets a client send the same again.
_AGAIN: Final = frozenset({429, 502, 503, 504})


class SpanExporter:
    """`sent` and `dropped`: spans since the start."""

    def __init__(self, settings: Settings, instance: str = "") -> None:
        """`instance`: the name of this host for `service.instance.id`; "": the system's."""
        self._path = settings.run_dir / SOCKET_FILE
        self._url = traces_url(settings.otlp_endpoint)
        self._headers_path = settings.secrets / HEADERS_FILE
        self._resource: dict[str, Attribute] = {
            "service.name": "tokenworks",
            "service.version": __version__,
            "service.instance.id": instance or socket.gethostname(),
            "deployment.environment.name": settings.environment,
        }
        self._kept: deque[RequestSpans] = deque()
        self._stopping = threading.Event()
        self._failing = False
        self._pause_s = PAUSE_S
        self._not_before_s = 0.0
        self.sent = 0
        self.dropped = 0
        self._socket = self._listen()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def _listen(self) -> socket.socket:
        """The socket, under its path only when it is ready: a control plane that is replaced loses the path to its successor."""
        half = self._path.with_suffix(".new")
        half.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(half))
        half.chmod(0o600)
        half.replace(self._path)
        listener.settimeout(BATCH_S / 4)
        return listener

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what is kept once more, and end."""
        self._stopping.set()
        self._thread.join(STOP_S + BATCH_S)

    def _run(self) -> None:
        due_s = 0.0
        while not self._stopping.is_set():
            try:
                self._receive()
                now_s = time.monotonic()
                if not self._kept:
                    due_s = now_s + BATCH_S
                elif (now_s >= due_s or len(self._kept) >= BATCH_REQUESTS) and now_s >= self._not_before_s:
                    self._send()
                    due_s = time.monotonic() + BATCH_S
            except Exception as error:  # tracing ends for this batch; nothing else is concerned
                self._drop(min(len(self._kept), BATCH_REQUESTS))
                log.error("spans.failed", error=type(error).__name__)
        self._drain()

    def _receive(self) -> None:
        """Wait for a datagram, for a moment."""
        try:
            data = self._socket.recv(DATAGRAM_BYTES_MAX)
        except TimeoutError:
            return
        try:
            self._kept.extend(read_datagram(data))
        except ValueError:  # a worker of another release: during a reload
            self.dropped += 1
        self._make_room()

    def _make_room(self) -> None:
        """The oldest make room."""
        self._drop(len(self._kept) - KEPT_REQUESTS_MAX)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self.dropped += span_count(self._kept.popleft())

    def _send(self) -> None:
        """Send a batch. It is removed when the collector took or refused it."""
        batch = [self._kept[at] for at in range(min(len(self._kept), BATCH_REQUESTS))]
        body = export_request(batch, self._resource, __version__)
        headers = {"Content-Type": "application/x-protobuf", **read_headers(self._headers_path)}
        try:
            post(
                self._url,
                body,
                headers,
                allow_private=True,
                timeout_s=STOP_S if self._stopping.is_set() else SEND_S,
            )
        except NotDelivered as error:
            self._failed(str(error), error.status, len(batch))
            return
        for _ in batch:
            self.sent += span_count(self._kept.popleft())
        self._pause_s = PAUSE_S
        if self._failing:
            self._failing = False
            log.info("spans.delivered_again")

    def _failed(self, reason: str, status: int | None, count: int) -> None:
        if not self._failing:  # one line until the collector takes spans again
            self._failing = True
            log.warning("spans.not_delivered", reason=reason, status=status)
        if status is not None and status not in _AGAIN:
            self._drop(count)
            return
        self._not_before_s = time.monotonic() + self._pause_s
        self._pause_s = min(PAUSE_S_MAX, 2 * self._pause_s)

    def _drain(self) -> None:
        """The last spans: one try."""
        with contextlib.suppress(OSError, ValueError):
            self._socket.setblocking(False)
            while data := self._socket.recv(DATAGRAM_BYTES_MAX):
                self._kept.extend(read_datagram(data))
        self._failing = True  # no further line
        while self._kept:
            before = len(self._kept)
            with contextlib.suppress(Exception):
                self._send()
            if len(self._kept) == before:
                self._drop(before)
        self._socket.close()


def traces_url(endpoint: str) -> str:
    """Where spans go: below the collector's base address, unless the setting names the place itself."""
    base, mark, query = endpoint.partition("?")
    base = base.rstrip("/")
    return f"{base if base.endswith(TRACES_PATH) else base + TRACES_PATH}{mark}{query}"


def read_headers(path: Path) -> dict[str, str]:
    """Headers for the collector, such as its key: lines `name: value` of a file in the folder of secrets. A line that is none is ignored."""
    try:
        with path.open("rb") as file:
            content = file.read(HEADERS_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError):
        return {}
    headers = {}
    for line in content.splitlines():
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if (
            colon
            and name.replace("-", "").isalnum()
            and name.isascii()
            and value.isascii()
            and not flaw(value)
        ):
            headers[name] = value
    return headers
