"""A structured line for each request, in files of bounded size beside the data: what became of it, without content.

A line has ids, model, deployment, status, cause, tokens by class and durations; no prompt, completion, key or name. Of requests
that were served a share is written (`log_requests_ppm`); of those that failed or were refused each, so many a second of a kind.
`find_lines` reads the lines of one request by any of its ids, on the host that served it.
"""

import contextlib
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from tokenworks.kernel import LineLimit

log = structlog.get_logger()

# Of lines about what failed, of each cause and deployment: so many at once, then so many a second.
FAILURES_BURST: Final = 50
FAILURES_PER_S: Final = 1.0
SUMMARY_S: Final = 10.0
# Of all lines of a worker in a second.
LINES_PER_S_MAX: Final = 5_000
# Lines that are looked at for one id, newest first.
LINES_SHOWN_MAX: Final = 100
# By which of a line's ids it is found.
_NAMED_BY: Final = ("request_id", "client_request_id", "usage_id", "upstream_id")
# A file of a worker and the one before it: the newer one is at most half of what both may be.
FILES: Final = 2
SHARE_WHOLE_PPM: Final = 1_000_000


class RequestLine(msgspec.Struct, omit_defaults=True):
    """What is said of a request. Times in UTC; ids of ours are 32 hex digits."""

    time: str
    event: str
    request_id: str
    client_request_id: str | None = None
    usage_id: str | None = None
    account_id: str | None = None
    member_id: str | None = None
    key_id: str | None = None
    protocol: str | None = None
    model: str | None = None
    deployment: str | None = None
    outcome: str | None = None
    status: int | None = None
    cause: str | None = None
    attempts: int = 0
    tried: list[tuple[str, str]] | None = None
    upstream_id: str | None = None
    choice: str | None = None
    places: int = 0
    tokens: dict[str, int] | None = None
    losses: list[str] | None = None
    streamed: bool = False
    queued_ms: int = 0
    first_byte_ms: int | None = None
    latency_ms: int = 0
    added_us: int = 0
    suppressed: int = 0


class LogFile(NamedTuple):
    """A file of lines: its number is its worker's."""

    path: Path
    bytes_max: int


class RequestLog:
    """`file` None: the lines go to the process's own log. Nothing is written before `flush`."""

    def __init__(self, share_ppm: int, file: LogFile | None, civil_ms: Callable[[], int]) -> None:
        self._share_ppm = share_ppm
        self._file = file
        self._civil_ms = civil_ms
        self._due_ppm = 0
        self._failures = LineLimit(FAILURES_BURST, FAILURES_PER_S, SUMMARY_S)
        self._lines: list[bytes] = []
        self._in_second = 0
        self._descriptor: int | None = None
        self._size = 0
        self._second = 0
        self._second_text = ""
        self.left_out = 0
        """Lines that were left out since this began: over a limit of rate, or for want of room."""

    def wants(self) -> bool:
        """Whether the line of a request that was served is among those that are written."""
        self._due_ppm += self._share_ppm
        if self._due_ppm < SHARE_WHOLE_PPM:
            return False
        self._due_ppm -= SHARE_WHOLE_PPM
        return self._room()

    def wants_failure(self, cause: str, deployment: str, now_s: float) -> bool:
        """The same of one that was not."""
        if self._failures.admits((cause, deployment), now_s):
            return self._room()
        self.left_out += 1
        return False

    def _room(self) -> bool:
        self._in_second += 1
        if self._in_second <= LINES_PER_S_MAX:
            return True
        self.left_out += 1
        return False

    def time(self) -> str:
        """Now, as ISO 8601 has it in UTC, to the millisecond."""
        second, ms = divmod(self._civil_ms(), 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{ms:03}Z"

    def write(self, line: RequestLine) -> None:
        self._lines.append(_encode(line))

    def flush(self, now_s: float, *, room: bool = True, last: bool = False) -> None:
        """Once a second: what was said goes to the file. `room`: whether the disk has room for it; what it has not is left out."""
        for kind, count in self._failures.left_out(now_s, all_of_them=last):
            cause, deployment = kind if isinstance(kind, tuple) else (str(kind), "")
            self.write(
                RequestLine(
                    self.time(),
                    "requests_suppressed",
                    "",
                    deployment=deployment or None,
                    cause=cause,
                    suppressed=count,
                )
            )
        self._in_second = 0
        lines, self._lines = self._lines, []
        if not lines:
            return
        if self._file is None:
            for line in lines:
                log.info("request", **json.loads(line))
        else:
            for piece in _pieces(lines, self._file.bytes_max // FILES):
                if not room or not self._append(self._file, b"\n".join(piece) + b"\n"):
                    self.left_out += len(piece)

    def _append(self, file: LogFile, data: bytes) -> bool:
        try:
            if self._descriptor is None:
                file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._descriptor = os.open(
                    file.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
                self._size = os.fstat(self._descriptor).st_size
            if self._size and self._size + len(data) > file.bytes_max // FILES:
                os.close(self._descriptor)
                self._descriptor = None
                file.path.replace(file.path.with_suffix(".before.jsonl"))
                return self._append(file, data)
            self._size += os.write(self._descriptor, data)
        except OSError:
            return False
        return True

    def close(self, now_s: float) -> None:
        self.flush(now_s, last=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _pieces(lines: list[bytes], bytes_max: int) -> Iterator[list[bytes]]:
    """The lines in pieces that a file has room for; none of a line that no file has room for."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) + 1 > bytes_max:
            yield piece
            piece, size = [], 0
        if len(line) < bytes_max:
            piece.append(line)
            size += len(line) + 1
    if piece:
        yield piece


_encode: Final = msgspec.json.Encoder().encode


def file_of(folder: Path, worker: int, bytes_max: int) -> LogFile | None:
    """Where a worker writes; None where its lines go to its log."""
    return LogFile(folder / f"requests-{worker}.jsonl", bytes_max) if bytes_max else None


def find_lines(folder: Path, wanted: str) -> list[dict[str, Any]]:
    """The lines of this host that have an id (of a request, a record or an upstream's answer, ours as 32 hex digits), oldest first."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("requests-*.jsonl")):
        with contextlib.suppress(OSError, ValueError):  # it was rotated away, or is empty
            found += _lines_with(path, wanted)
    found.sort(key=lambda line: str(line.get("time", "")))
    return found[-LINES_SHOWN_MAX:]


def _lines_with(path: Path, wanted: str) -> Iterator[dict[str, Any]]:
    mark = json.dumps(wanted).encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at, count = text.rfind(mark), 0
        while at >= 0 and count < LINES_SHOWN_MAX:
            begin = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            with contextlib.suppress(ValueError):  # a line that a full disk cut off
                line = json.loads(text[begin : end if end >= 0 else len(text)])
                if any(line.get(name) == wanted for name in _NAMED_BY):
                    count += 1
                    yield line
            at = text.rfind(mark, 0, begin)
