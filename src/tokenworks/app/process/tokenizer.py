"""The host's tokenizer process: counts texts for the workers, one job after the other, each within its time.

One process is enough: most requests are counted by their upstream, and counting must not take the workers' processors. The process
loads a tokenizer when a worker names it, and is small until then. It answers every job; a job that can't be counted in time, or that
waits behind too many others, is answered as not counted. Where a tokenizer blocks the process for longer, the supervisor sees no
heartbeat and kills it; the waiting jobs are not counted then.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import OrderedDict, deque
from typing import Final

import msgspec
import structlog

from tokenworks.app.logs import configure_logs
from tokenworks.app.process.forked import RETIRE
from tokenworks.app.settings import Settings
from tokenworks.charging.wire import FRAME_HEADER
from tokenworks.gateway import Heartbeat, ModelTokenizer
from tokenworks.gateway.counting import (
    JOB,
    JOB_BYTES_MAX,
    LOAD,
    JobFrame,
    TokenizerCounts,
    count_frame,
    job_decoder,
    names_decoder,
)
from tokenworks.gateway.tokenizer import Pause
from tokenworks.kernel import TokenworksError

log = structlog.get_logger()

BEAT_S: Final = 0.25
READ_BYTES: Final = 1024 * 1024
LOADED_MAX: Final = 16
WORKERS_MAX: Final = 512
# A tokenizer that can't be loaded is tried again after this time.
LOAD_AGAIN_S: Final = 10.0
# The workers have priority.
NICE: Final = 2
FRAME_BYTES_MAX: Final = JOB_BYTES_MAX + 65_536


class _JobTimedOut(Exception):
    """The worker does not wait for this job any more."""


class _WorkerConnection:
    """One worker's connection, with the bytes of a frame that is not complete yet."""

    __slots__ = ("data", "open", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.open = True


class TokenizerServer:
    """`listener` is bound and listening; end of file on `supervisor` ends the server."""

    def __init__(self, settings: Settings, listener: socket.socket, supervisor: int) -> None:
        self._settings = settings
        self._listener = listener
        self._supervisor = supervisor
        self._selector = selectors.DefaultSelector()
        self._workers: set[_WorkerConnection] = set()
        self._queue: deque[tuple[_WorkerConnection, JobFrame]] = deque()
        self._to_load: deque[str] = deque()
        self._loaded: OrderedDict[str, tuple[float, ModelTokenizer | None]] = OrderedDict()
        self._beat = Heartbeat(settings.run_dir / "tokenizer.stats", os.getpid())
        self._beat_due_s = 0.0
        self._retired = self._listens = False

    def run(self) -> None:
        self._listens = True
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        self._selector.register(self._supervisor, selectors.EVENT_READ, None)
        while self._look(0.0 if self._queue or self._to_load else BEAT_S):
            self._pause()
            if self._queue:
                self._work(*self._queue.popleft())
            elif self._to_load:
                self._tokenizer(self._to_load.popleft())

    def _pause(self) -> None:
        """Beat, where a heartbeat is due."""
        now_s = time.monotonic()
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + BEAT_S
            self._beat.beat()

    def retire(self) -> None:
        """Accept no worker any more, since another tokenizer does; end when the connected workers are gone. Called by a signal handler."""
        self._retired = True

    # Workers.

    def _look(self, timeout_s: float) -> bool:
        """Read what has arrived. False where the supervisor is gone, or this process is retired and no worker is connected."""
        if self._retired:
            if self._listens:
                self._listens = False
                self._selector.unregister(self._listener)
                self._listener.close()
            if not self._workers:
                return False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                return False
            if key.data is self._listener:
                self._accept()
            else:
                self._read(key.data)
        return True

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            if len(self._workers) >= WORKERS_MAX:
                sock.close()
                return
            worker = _WorkerConnection(sock)
            self._workers.add(worker)
            self._selector.register(sock, selectors.EVENT_READ, worker)

    def _read(self, worker: _WorkerConnection) -> None:
        try:
            data = worker.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        worker.data += data
        if not data or not self._take_frames(worker):
            self._drop(worker)

    def _take_frames(self, worker: _WorkerConnection) -> bool:
        """Take the complete frames. False where the bytes are no frames of a worker."""
        data, at = worker.data, 0
        try:
            while len(data) - at >= FRAME_HEADER.size:
                length, kind = FRAME_HEADER.unpack_from(data, at)
                if length > FRAME_BYTES_MAX:
                    return False
                if len(data) - at < FRAME_HEADER.size + length:
                    break
                begin = at + FRAME_HEADER.size
                at = begin + length
                self._take(worker, kind, bytes(data[begin:at]))
        except msgspec.DecodeError as error:
            log.error("tokenizer.wire", error=str(error))
            return False
        del data[:at]
        return True

    def _take(self, worker: _WorkerConnection, kind: int, body: bytes) -> None:
        if kind == LOAD:
            self._to_load.extend(
                name for name in names_decoder.decode(body)[:LOADED_MAX] if name not in self._loaded
            )
        elif kind == JOB:
            job = job_decoder.decode(body)
            if len(self._queue) >= self._settings.tokenize_queue_max:
                self._answer(worker, job.number, None, "too many jobs wait")
            else:
                self._queue.append((worker, job))

    def _drop(self, worker: _WorkerConnection) -> None:
        """Forget a worker that is gone, and its jobs."""
        worker.open = False
        self._workers.discard(worker)
        self._selector.unregister(worker.sock)
        worker.sock.close()
        self._queue = deque(waiting for waiting in self._queue if waiting[0].open)

    def _answer(
        self, worker: _WorkerConnection, number: int, counted: TokenizerCounts | None, why: str = ""
    ) -> None:
        if not worker.open:
            return
        data = count_frame(number, counted, why)
        try:
            sent = worker.sock.send(data)
        except OSError:
            sent = 0
        if sent != len(data):
            # The worker does not read its answers.
            self._drop(worker)

    # Counting.

    def _work(self, worker: _WorkerConnection, job: JobFrame) -> None:
        def pause() -> None:
            self._pause()
            if time.monotonic_ns() > job.until_ns:
                raise _JobTimedOut

        counted, why = None, ""
        try:
            pause()
            tokenizer = self._tokenizer(job.tokenizer)
            if tokenizer is None:
                why = f"the tokenizer {job.tokenizer} can't be read"
            else:
                counted = _count(tokenizer, job, pause)
        except _JobTimedOut:
            return  # the worker has given the job up by its own clock
        except Exception as error:  # a tokenizer may raise anything; the next job is not concerned
            log.error("tokenizer.count_failed", tokenizer=job.tokenizer, error=type(error).__name__)
            why = f"counting failed: {type(error).__name__}"
        self._answer(worker, job.number, counted, why)

    def _tokenizer(self, name: str) -> ModelTokenizer | None:
        """The tokenizer of this name, loaded at the first use; None where it can't be loaded."""
        entry = self._loaded.get(name)
        now_s = time.monotonic()
        if entry is None or (entry[1] is None and now_s - entry[0] > LOAD_AGAIN_S):
            tokenizer = None
            try:
                tokenizer = ModelTokenizer(self._settings.tokenizers / name)
            except TokenworksError as error:
                log.error("tokenizer.load", tokenizer=name, error=str(error))
            entry = self._loaded[name] = (now_s, tokenizer)
            while len(self._loaded) > LOADED_MAX:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return entry[1]


def _count(tokenizer: ModelTokenizer, job: JobFrame, pause: Pause) -> TokenizerCounts:
    inputs = tokenizer.count_request(job.protocol, job.request, pause) if job.request else 0
    output = tokenizer.count_answer(job.protocol, job.chunks, streamed=job.streamed, pause=pause)
    return TokenizerCounts(inputs, output + tokenizer.count_texts(job.texts, pause))


def run(settings: Settings, listener: socket.socket, supervisor: int) -> None:
    """Serve until the supervisor's end of the pipe is closed."""
    configure_logs(settings.log_level, settings.log_format, "tokenizer")
    # Threads of the tokenizers' library would take the workers' processors, and the library warns when a process with threads forks.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.nice(NICE)
    server = TokenizerServer(settings, listener, supervisor)
    signal.signal(RETIRE, lambda _number, _frame: server.retire())
    server.run()
