"""The request log: a structured line for the outcome of each request, without content, in files of bounded size beside the data.

A line has ids, model, deployment, status, cause, tokens by class and durations; no prompt, completion, key or name. A share of the
served requests is written (`log_requests_ppm`), and each failed or refused one up to a rate for its kind. `find_lines` finds the lines
of a request by any of its ids, on the host that served it.
"""

import contextlib
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from tokenworks.kernel import LineLimit

log = structlog.get_logger()

# Lines about failures of one cause and deployment: a burst, then a rate.
FAILURES_BURST: Final = 50
FAILURES_PER_S: Final = 1.0
SUMMARY_S: Final = 10.0
# Limit of a worker's lines in a second.
LINES_PER_S_MAX: Final = 5_000
# Limit of lines that are shown for one id, the newest ones.
LINES_SHOWN_MAX: Final = 100
# The ids by which a line is found.
_NAMED_BY: Final = ("request_id", "client_request_id", "usage_id", "upstream_id")
# A worker has a present file and a previous one, each of at most half the size that is allowed for both.
FILES: Final = 2
SHARE_WHOLE_PPM: Final = 1_000_000


class RequestLine(msgspec.Struct, omit_defaults=True):
    """A line of the log. Times are UTC; the gateway's ids are 32 hex digits."""

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
    """The file of one worker's lines."""

    path: Path
    bytes_max: int


class RequestLog:
    """`file` None: the lines go to the process's log. Lines are written with `flush`."""

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
        """Lines that were left out since the start: over a rate, or because the disk had no room."""

    def wants(self) -> bool:
        """True if the line of the present served request is to be written."""
        self._due_ppm += self._share_ppm
        if self._due_ppm < SHARE_WHOLE_PPM:
            return False
        self._due_ppm -= SHARE_WHOLE_PPM
        return self._room()

    def wants_failure(self, cause: str, deployment: str, now_s: float) -> bool:
        """True if the line of a failed or refused request is to be written."""
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
        """The present UTC time in ISO 8601, to the millisecond."""
        second, ms = divmod(self._civil_ms(), 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{ms:03}Z"

    def write(self, line: RequestLine) -> None:
        self._lines.append(_encode(line))

    def flush(self, now_s: float, *, room: bool = True, last: bool = False) -> None:
        """Once a second: write the lines to the file. `room` False: the disk has no room, and they are left out."""
        for kind, count in self._failures.left_out(now_s, include_recent=last):
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
    """The lines in pieces that fit into a file. A line that is larger than a file is left out."""
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
    """A worker's file; None if its lines go to its log."""
    return LogFile(folder / f"requests-{worker}.jsonl", bytes_max) if bytes_max else None


def find_lines(folder: Path, wanted: str) -> list[dict[str, object]]:
    """Find the lines of this host with an id, oldest first. The id is of a request, a record or an upstream's answer; the gateway's own
    are 32 hex digits.
    """
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob("requests-*.jsonl")):
        with contextlib.suppress(OSError, ValueError):  # the file was rotated away or is empty
            found += _lines_with(path, wanted)
    found.sort(key=lambda line: str(line.get("time", "")))
    return found[-LINES_SHOWN_MAX:]


def _lines_with(path: Path, wanted: str) -> Iterator[dict[str, object]]:
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
