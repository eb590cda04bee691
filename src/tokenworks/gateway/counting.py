"""The worker's end of the socket to the host's tokenizer process: jobs go out, counts come in.

A BPE takes 4.5 ms for 10 kB, which is too long for the event loop. Every job ends within `tokenize_timeout_s`: with its count, or with
None if the process is away, too busy, too slow or does not have the tokenizer. Its caller then uses bounds from bytes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

import msgspec
import structlog

from tokenworks.charging.wire import FRAME_HEADER, FrameReader, WireError, frame

log = structlog.get_logger()

RECONNECT_S: Final = 0.1
# Limit of one job. A body and an answer at the default limits fit in, and would take too long to be counted in time.
JOB_BYTES_MAX: Final = 32 * 1024 * 1024
# Limit of all unanswered jobs of a worker.
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
NS_PER_S: Final = 1_000_000_000
JOB: Final = 1
COUNT: Final = 2
LOAD: Final = 3


class TokenizerCounts(NamedTuple):
    """Tokens of a request and of its answer."""

    input: int
    output: int


class TokenizerJob(NamedTuple):
    """Texts to count, and the tokenizer: a request's body (with the chat template), the chunks of an answer, or pieces of its text.
    An empty field counts nothing.
    """

    tokenizer: str
    protocol: str
    request: bytes = b""
    chunks: Sequence[bytes] = ()
    streamed: bool = False
    texts: Sequence[str] = ()

    @property
    def size(self) -> int:
        """About the size of its frame: bytes, and characters of its texts."""
        return len(self.request) + sum(map(len, self.chunks)) + sum(map(len, self.texts))


class JobFrame(msgspec.Struct, array_like=True, gc=False):
    """A job as sent. `until_ns`: of the host's monotonic clock; after it the answer is not needed any more."""

    number: int
    until_ns: int
    tokenizer: str
    protocol: str
    request: bytes
    chunks: list[bytes]
    streamed: bool
    texts: list[str]


class CountFrame(msgspec.Struct, array_like=True, gc=False):
    """The answer to a job. `counted` None: `why` has the reason."""

    number: int
    counted: tuple[int, int] | None
    why: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_count_decoder: Final = msgspec.msgpack.Decoder(CountFrame)
job_decoder: Final = msgspec.msgpack.Decoder(JobFrame)
names_decoder: Final = msgspec.msgpack.Decoder(list[str])
CountCallback = Callable[[TokenizerCounts | None], None]


def count_frame(number: int, counted: TokenizerCounts | None, why: str = "") -> bytes:
    return frame(COUNT, _encode(CountFrame(number, counted, why)))


class _PendingJob:
    __slots__ = ("done", "size", "timer")

    def __init__(self, done: CountCallback, size: int, timer: asyncio.TimerHandle) -> None:
        self.done = done
        self.size = size
        self.timer = timer


class TokenizerClient(asyncio.Protocol):
    """`counters` are the worker's: `tokenizer_jobs`, `tokenizer_timeouts`, `tokenizer_refused`, `tokenizer_waiting`."""

    def __init__(self, path: str, *, queue_max: int, timeout_s: float, counters: dict[str, int]) -> None:
        self._path = path
        self._queue_max = queue_max
        self._timeout_s = timeout_s
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reader = FrameReader()
        self._waiting: dict[int, _PendingJob] = {}
        self._waiting_bytes = 0
        self._number = 0
        self._names: frozenset[str] = frozenset()
        self._closed = False

    @property
    def ready(self) -> bool:
        """True if the process can be reached."""
        return self._transport is not None

    # For the data plane.

    def count(self, job: TokenizerJob, done: CountCallback) -> None:
        """Have a job counted. `done` is called once: at once if the job can't be sent, else within `tokenize_timeout_s`."""
        counters, size = self._counters, job.size
        if (
            self._transport is None
            or len(self._waiting) >= self._queue_max
            or size > JOB_BYTES_MAX
            or self._waiting_bytes + size > WAITING_BYTES_MAX
        ):
            counters["tokenizer_refused"] += 1
            self._connect()
            done(None)
            return
        counters["tokenizer_jobs"] += 1
        self._number = number = self._number + 1
        timer = self._loop.call_later(self._timeout_s, self._late, number)
        self._waiting[number] = _PendingJob(done, size, timer)
        self._waiting_bytes += size
        counters["tokenizer_waiting"] = len(self._waiting)
        until_ns = time.monotonic_ns() + int(self._timeout_s * NS_PER_S)
        job_frame = JobFrame(
            number, until_ns, job.tokenizer, job.protocol, job.request, list(job.chunks), job.streamed, list(job.texts)
        )  # fmt: skip
        self._transport.write(frame(JOB, _encode(job_frame)))

    def load(self, names: frozenset[str]) -> None:
        """Connect, and have these tokenizers, which deployments name, loaded before the first job."""
        self._names = names
        if names:
            self._connect()
            if self._transport is not None:
                self._transport.write(frame(LOAD, _encode(sorted(names))))

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def _late(self, number: int) -> None:
        self._counters["tokenizer_timeouts"] += 1
        self._end(number, None)

    def _end(self, number: int, counted: TokenizerCounts | None) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # the answer came after the time limit
        waiting.timer.cancel()
        self._waiting_bytes -= waiting.size
        self._counters["tokenizer_waiting"] = len(self._waiting)
        try:
            waiting.done(counted)
        except Exception:  # a failing callback must not affect the jobs behind it
            log.exception("counting.waiter_failed")

    # The connection.

    def _connect(self) -> None:
        if self._connecting is None and self._transport is None and self._names and not self._closed:
            self._connecting = self._loop.create_task(self._try_connect())

    async def _try_connect(self) -> None:
        while not self._closed:
            try:
                await self._loop.create_unix_connection(lambda: self, self._path)
                break
            except OSError:
                await asyncio.sleep(RECONNECT_S)
        self._connecting = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._reader = FrameReader()
        self._transport.write(frame(LOAD, _encode(sorted(self._names))))

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._reader.feed(data):
                if kind != COUNT:
                    raise WireError(f"a frame of kind {kind}")
                found = _count_decoder.decode(body)
                if found.why:
                    log.warning("counting.not_counted", why=found.why)
                self._end(found.number, None if found.counted is None else TokenizerCounts(*found.counted))
        except (WireError, msgspec.DecodeError) as error:
            log.error("counting.wire", error=str(error))
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process ended: its jobs are not counted. The supervisor starts another one."""
        self._transport = None
        for number in list(self._waiting):
            self._counters["tokenizer_refused"] += 1
            self._end(number, None)
        self._connect()


__all__ = [
    "COUNT",
    "FRAME_HEADER",
    "JOB",
    "JOB_BYTES_MAX",
    "LOAD",
    "NS_PER_S",
    "CountFrame",
    "JobFrame",
    "TokenizerClient",
    "TokenizerCounts",
    "TokenizerJob",
    "count_frame",
    "job_decoder",
    "names_decoder",
]  # fmt: skip
