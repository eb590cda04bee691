"""The host's tokenizer process: counts what workers send it, one job after the other, each within its time.

One process is enough: a count is the exception, and one that counts at leisure must not take the workers' processors. It reads a
tokenizer where a worker names it, and is next to nothing until then. It answers every job: what can't be counted in time, or
stands behind too many others, as not counted. What holds it for longer than that is ended by the supervisor, which sees no
heartbeat; the jobs that it had are not counted then.
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
PEERS_MAX: Final = 512
# What can't be read is looked at again after this.
LOAD_AGAIN_S: Final = 10.0
# It gives way to those who serve.
NICE: Final = 2
FRAME_BYTES_MAX: Final = JOB_BYTES_MAX + 65_536


class _Late(Exception):
    """Nobody waits for this job any more."""


class _Peer:
    """One worker's connection."""

    __slots__ = ("data", "open", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.open = True


class TokenizerServer:
    """`listener` is bound and listening; the end of file of `supervisor` ends it."""

    def __init__(self, settings: Settings, listener: socket.socket, supervisor: int) -> None:
        self._settings = settings
        self._listener = listener
        self._supervisor = supervisor
        self._selector = selectors.DefaultSelector()
        self._peers: set[_Peer] = set()
        self._queue: deque[tuple[_Peer, JobFrame]] = deque()
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
        """It lives."""
        now_s = time.monotonic()
        if now_s >= self._beat_due_s:
            self._beat_due_s = now_s + BEAT_S
            self._beat.beat()

    def retire(self) -> None:
        """Another tokenizer takes those who come; this one ends when the workers that it has are gone. Called by a signal's handler."""
        self._retired = True

    # Workers.

    def _look(self, timeout_s: float) -> bool:
        """Take what has come. False where the supervisor is gone, or this one is retired and nobody is left."""
        if self._retired:
            if self._listens:
                self._listens = False
                self._selector.unregister(self._listener)
                self._listener.close()
            if not self._peers:
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
            if len(self._peers) >= PEERS_MAX:
                sock.close()
                return
            peer = _Peer(sock)
            self._peers.add(peer)
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.data += data
        if not data or not self._take_frames(peer):
            self._drop(peer)

    def _take_frames(self, peer: _Peer) -> bool:
        """False where they are none that a worker sends."""
        data, at = peer.data, 0
        try:
            while len(data) - at >= FRAME_HEADER.size:
                length, kind = FRAME_HEADER.unpack_from(data, at)
                if length > FRAME_BYTES_MAX:
                    return False
                if len(data) - at < FRAME_HEADER.size + length:
                    break
                begin = at + FRAME_HEADER.size
                at = begin + length
                self._take(peer, kind, bytes(data[begin:at]))
        except msgspec.DecodeError as error:
            log.error("tokenizer.wire", error=str(error))
            return False
        del data[:at]
        return True

    def _take(self, peer: _Peer, kind: int, body: bytes) -> None:
        if kind == LOAD:
            self._to_load.extend(
                name for name in names_decoder.decode(body)[:LOADED_MAX] if name not in self._loaded
            )
        elif kind == JOB:
            job = job_decoder.decode(body)
            if len(self._queue) >= self._settings.tokenize_queue_max:
                self._answer(peer, job.number, None, "too many jobs wait")
            else:
                self._queue.append((peer, job))

    def _drop(self, peer: _Peer) -> None:
        """A worker that is gone waits for nothing."""
        peer.open = False
        self._peers.discard(peer)
        self._selector.unregister(peer.sock)
        peer.sock.close()
        self._queue = deque(waiting for waiting in self._queue if waiting[0].open)

    def _answer(self, peer: _Peer, number: int, counted: TokenizerCounts | None, why: str = "") -> None:
        if not peer.open:
            return
        data = count_frame(number, counted, why)
        try:
            sent = peer.sock.send(data)
        except OSError:
            sent = 0
        if sent != len(data):
            # It does not read what it asks for.
            self._drop(peer)

    # Counting.

    def _work(self, peer: _Peer, job: JobFrame) -> None:
        def pause() -> None:
            self._pause()
            if time.monotonic_ns() > job.until_ns:
                raise _Late

        counted, why = None, ""
        try:
            pause()
            tokenizer = self._tokenizer(job.tokenizer)
            if tokenizer is None:
                why = f"the tokenizer {job.tokenizer} can't be read"
            else:
                counted = _count(tokenizer, job, pause)
        except _Late:
            return  # it has been told by its own clock
        except Exception as error:  # a tokenizer raises what it likes; the next job is another's
            log.error("tokenizer.count_failed", tokenizer=job.tokenizer, error=type(error).__name__)
            why = f"counting failed: {type(error).__name__}"
        self._answer(peer, job.number, counted, why)

    def _tokenizer(self, name: str) -> ModelTokenizer | None:
        found = self._loaded.get(name)
        now_s = time.monotonic()
        if found is None or (found[1] is None and now_s - found[0] > LOAD_AGAIN_S):
            made = None
            try:
                made = ModelTokenizer(self._settings.tokenizers / name)
            except TokenworksError as error:
                log.error("tokenizer.load", tokenizer=name, error=str(error))
            found = self._loaded[name] = (now_s, made)
            while len(self._loaded) > LOADED_MAX:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return found[1]


def _count(tokenizer: ModelTokenizer, job: JobFrame, pause: Pause) -> TokenizerCounts:
    inputs = tokenizer.count_request(job.protocol, job.request, pause) if job.request else 0
    output = tokenizer.count_answer(job.protocol, job.chunks, streamed=job.streamed, pause=pause)
    return TokenizerCounts(inputs, output + tokenizer.count_texts(job.texts, pause))


def run(settings: Settings, listener: socket.socket, supervisor: int) -> None:
    """Serve until the supervisor's end of the pipe is closed."""
    configure_logs(settings.log_level, settings.log_format, "tokenizer")
    # Threads of the tokenizers' library would take the workers' processors, and it warns where it is forked with them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.nice(NICE)
    server = TokenizerServer(settings, listener, supervisor)
    signal.signal(RETIRE, lambda _number, _frame: server.retire())
    server.run()
