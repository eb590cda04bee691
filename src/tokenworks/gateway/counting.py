"""The worker's end of the socket to the host's tokenizer process: what is to be counted out, counts in.

A BPE takes 4.5 ms for 10 kB: the loop has no time for that. Every job ends within `tokenize_timeout_s`: with its count, or with
None where the process is away, too busy, too slow or does not have the tokenizer. Its caller then bounds by bytes.
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
# Of one job: a body and an answer as large as the limits' defaults let them be fit in, and are too long to be counted in time.
JOB_BYTES_MAX: Final = 32 * 1024 * 1024
# Of all jobs of a worker that are not answered.
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
    """What is to be counted, with which tokenizer: a request's body (template included), an answer as its chunks came, or pieces
    of its text. What is empty counts nothing.
    """

    tokenizer: str
    protocol: str
    request: bytes = b""
    chunks: Sequence[bytes] = ()
    streamed: bool = False
    texts: Sequence[str] = ()

    @property
    def size(self) -> int:
        """In bytes, or characters of its texts: about what it takes to be sent."""
        return len(self.request) + sum(map(len, self.chunks)) + sum(map(len, self.texts))


class JobFrame(msgspec.Struct, array_like=True, gc=False):
    """A job on its way. `until_ns` is of the host's monotonic clock: after it nobody waits."""

    number: int
    until_ns: int
    tokenizer: str
    protocol: str
    request: bytes
    chunks: list[bytes]
    streamed: bool
    texts: list[str]


class CountFrame(msgspec.Struct, array_like=True, gc=False):
    """The answer. `counted` is None where `why` says why not."""

    number: int
    counted: tuple[int, int] | None
    why: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_count_decoder: Final = msgspec.msgpack.Decoder(CountFrame)
job_decoder: Final = msgspec.msgpack.Decoder(JobFrame)
names_decoder: Final = msgspec.msgpack.Decoder(list[str])
Done = Callable[[TokenizerCounts | None], None]


def count_frame(number: int, counted: TokenizerCounts | None, why: str = "") -> bytes:
    return frame(COUNT, _encode(CountFrame(number, counted, why)))


class _Waiting:
    __slots__ = ("done", "size", "timer")

    def __init__(self, done: Done, size: int, timer: asyncio.TimerHandle) -> None:
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
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_bytes = 0
        self._number = 0
        self._names: frozenset[str] = frozenset()
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether the process can be reached."""
        return self._transport is not None

    # What the data plane asks.

    def count(self, job: TokenizerJob, done: Done) -> None:
        """Have it counted. `done` is called once: at once where it can't be, else within `tokenize_timeout_s`."""
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
        self._waiting[number] = _Waiting(done, size, timer)
        self._waiting_bytes += size
        counters["tokenizer_waiting"] = len(self._waiting)
        until_ns = time.monotonic_ns() + int(self._timeout_s * NS_PER_S)
        made = JobFrame(
            number, until_ns, job.tokenizer, job.protocol, job.request, list(job.chunks), job.streamed, list(job.texts)
        )  # fmt: skip
        self._transport.write(frame(JOB, _encode(made)))

    def load(self, names: frozenset[str]) -> None:
        """These are named by deployments: connect, and have them read before the first job."""
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
            return  # it was late
        waiting.timer.cancel()
        self._waiting_bytes -= waiting.size
        self._counters["tokenizer_waiting"] = len(self._waiting)
        try:
            waiting.done(counted)
        except Exception:  # one waiter's failure must not wedge those behind it
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
        """It died or was ended: what it had is not counted. The next one is there in a moment."""
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
