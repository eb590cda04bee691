"""The recorder's end of one worker's socket."""

import asyncio
from typing import Protocol, cast

import structlog

from tokenworks.charging import wire
from tokenworks.charging.errors import JournalFailed
from tokenworks.kernel import TokenworksError

log = structlog.get_logger()


class FrameHandler(Protocol):
    """The recorder, as its connections call it."""

    handed_over: bool

    def frame_received(self, connection: "WorkerConnection", kind: int, body: bytes) -> None: ...
    def connection_lost(self, connection: "WorkerConnection") -> None: ...
    def fatal(self, error: BaseException) -> None: ...


class WorkerConnection(asyncio.Protocol):
    """One worker's socket. When it closes, the worker counts as dead."""

    __slots__ = ("_out", "_reader", "_recorder", "ack_due", "ready", "transport", "worker_id")

    def __init__(self, recorder: FrameHandler) -> None:
        self._recorder = recorder
        self._reader = wire.FrameReader()
        self._out: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.worker_id = ""
        self.ready = False
        self.ack_due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has all methods of asyncio's, but is no subclass.
        self.transport = cast("asyncio.Transport", transport)
        if self._recorder.handed_over:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._recorder.handed_over:
            return
        try:
            for kind, body in self._reader.feed(data):
                self._recorder.frame_received(self, kind, body)
        except JournalFailed:
            raise
        except TokenworksError as error:
            log.error("recorder.bad_frame", worker=self.worker_id[:8], error=str(error))
            self.close()
        except Exception as error:  # an invariant is broken; the next recorder starts from the journal
            self._recorder.fatal(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._recorder.connection_lost(self)

    def send(self, kind: int, content: object) -> bool:
        """Queue a frame. Return False if the socket is closed."""
        if self.transport is None or self.transport.is_closing():
            return False
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(wire.frame(kind, wire.encode(content)))
        return True

    def _flush(self) -> None:
        """One write per turn of the loop."""
        out, self._out = self._out, []
        if out and self.transport is not None and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        self._flush()
        if self.transport is not None:
            self.transport.abort()

    def leave(self) -> None:
        """Close the socket after what was sent is written."""
        self._flush()
        if self.transport is not None:
            self.transport.close()
