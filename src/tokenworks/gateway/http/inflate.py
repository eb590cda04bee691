"""Decodes a request body (gzip, br, zstd, deflate) in turns of the loop, within the limit of a body and the worker's memory budget."""

import time
from collections.abc import Callable
from typing import Final

from tokenworks.gateway.http.coding import (
    CODINGS,
    PIECE_BYTES,
    CodingError,
    is_plain,
    make_decoder,
    window_bytes,
)
from tokenworks.gateway.http.server import ClientConnection
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.shared import Shared

# About 5 ms of decoding.
TURN_BYTES: Final = 1_048_576
PUSH_BYTES: Final = 65_536
UNKNOWN_CODING: Final = Refusal(
    415,
    "unsupported_encoding",
    "a body may be in one of " + ", ".join(name.decode() for name in CODINGS) + ", two of them, or as it is",
)


class RequestDecoding:
    """The decoding of one body, which ends with `done(body)` or `refuse(refusal)`. Until then it is the connection's exchange."""

    __slots__ = (
        "_at",
        "_body",
        "_coding",
        "_decoder",
        "_done",
        "_pieces",
        "_refuse",
        "_shared",
        "_size",
        "_taken",
        "conn",
    )

    def __init__(
        self,
        shared: Shared,
        conn: ClientConnection,
        coding: bytes,
        body: bytes,
        done: Callable[[bytes], None],
        refuse: Callable[[Refusal], None],
    ) -> None:
        self._shared = shared
        self.conn: ClientConnection | None = conn
        self._coding = coding
        self._body = body
        self._done = done
        self._refuse = refuse
        self._decoder = make_decoder(coding)
        self._at = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._taken = 0

    def run(self) -> None:
        if is_plain(self._body):
            self._end(self._body)
        elif not self._take(window_bytes(self._coding)):
            return
        elif self._shared.turns.free():
            begun_s = time.perf_counter()
            self._turn()
            self._shared.turns.spent(begun_s)
        else:
            self._shared.turns.later(self._turn)

    def _turn(self) -> None:
        if self.conn is None:
            return
        budget = TURN_BYTES
        while budget > 0:
            try:
                piece = self._decoder.pull(PIECE_BYTES)
            except CodingError:
                self._fail(self._malformed())
                return
            if not piece:
                if self._at >= len(self._body):
                    self._over()
                    return
                self._decoder.push(self._body[self._at : self._at + PUSH_BYTES])
                self._at += PUSH_BYTES
                budget -= PUSH_BYTES
                continue
            budget -= len(piece)
            self._size += len(piece)
            bytes_max = self._shared.settings.body_bytes_max
            if self._size > bytes_max:
                self._fail(Refusal(413, "body_too_large", f"a body is at most {bytes_max} bytes, decoded"))
                return
            if not self._take(len(piece)):
                return
            self._pieces.append(piece)
        self._shared.turns.later(self._turn)

    def _over(self) -> None:
        if self._decoder.whole:
            self._end(b"".join(self._pieces))
        else:
            self._fail(self._malformed())

    def _malformed(self) -> Refusal:
        return Refusal(
            400, "bad_request", f"the body is not the {self._coding.decode()} that its header says"
        )

    def _take(self, count: int) -> bool:
        conn, memory = self.conn, self._shared.memory
        assert conn is not None
        if not memory.take(conn.address, count):
            self._fail(memory.refusal(conn.address, count))
            return False
        self._taken += count
        return True

    def _end(self, body: bytes) -> None:
        conn = self.conn
        assert conn is not None
        self._release()
        if self._taken:
            # The decoded body is counted until the connection's next request, as an uncoded one is.
            conn.count(2 * len(body))
        self._done(body)

    def _fail(self, refusal: Refusal) -> None:
        self._release()
        self._refuse(refusal)

    def _release(self) -> None:
        conn, self.conn = self.conn, None
        self._pieces = []
        if conn is not None:
            conn.exchange = None
            self._shared.memory.give(conn.address, self._taken)

    def client_gone(self) -> None:
        self._release()

    def pause(self) -> None:
        """Nothing to do: nothing is written yet."""

    def resume(self) -> None:
        """Nothing to do."""
