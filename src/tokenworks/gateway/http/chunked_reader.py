"""A chunked request body on its way from the connection to its parser: in pieces, with the loop free between them."""

import asyncio
import time
from typing import Final, Protocol

from tokenworks.gateway.http.chunked import ChunkedBody, ChunkedError
from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.refusals import refusal_of_chunks
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.turns import Turns

# The size of a piece. A body whose chunks have a few bytes each takes long to parse.
PIECE_BYTES: Final = 8192


class ChunkedConnection(Protocol):
    """The client connection that the body comes over."""

    transport: asyncio.Transport | None

    @property
    def reads_chunks(self) -> bool:
        """True until the body is complete or refused."""

    def keep(self, count: int) -> bool: ...
    def refuse(self, refusal: Refusal) -> None: ...
    def chunks_complete(self, head: Head, body: bytes) -> None: ...
    def data_received(self, data: bytes) -> None:
        """Bytes behind the body."""


class ChunkedReader:
    """Parses pieces at once while the loop has time; later ones in turns of the loop, and nothing is read until then."""

    __slots__ = ("_body", "_conn", "_head", "_turns")

    def __init__(self, conn: ChunkedConnection, head: Head, turns: Turns) -> None:
        self._conn = conn
        self._head = head
        self._turns = turns
        self._body = ChunkedBody(head.body_max)

    def feed(self, data: bytes) -> None:
        conn, turns = self._conn, self._turns
        at = 0
        while at < len(data) and conn.reads_chunks and turns.free():
            begun_s = time.perf_counter()
            self._parse(data[at : at + PIECE_BYTES])
            at += PIECE_BYTES
            turns.spent(begun_s)
        if at >= len(data):
            return
        rest = data[at:]
        if not conn.reads_chunks:
            conn.data_received(rest)
            return
        if conn.transport is not None:
            conn.transport.pause_reading()
        turns.later(lambda: self._turn(rest))

    def _turn(self, data: bytes) -> None:
        conn = self._conn
        if conn.reads_chunks:
            self._parse(data[:PIECE_BYTES])
            data = data[PIECE_BYTES:]
        if conn.reads_chunks and data:
            self._turns.later(lambda: self._turn(data))
            return
        if conn.transport is not None and not conn.transport.is_closing():
            conn.transport.resume_reading()
            if data:
                conn.data_received(data)

    def _parse(self, data: bytes) -> None:
        body, head, conn = self._body, self._head, self._conn
        before = len(body.data)
        try:
            body.feed(data)
        except ChunkedError as error:
            conn.refuse(refusal_of_chunks(error, head.body_max))
            return
        if conn.keep((len(body.data) - before) * head.copies) and body.complete:
            if body.overrun:
                head.keep_alive = False
            conn.chunks_complete(head, bytes(body.data))
