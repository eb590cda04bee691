"""A chunked body, read by a parser of its own: nothing that the request's head says (an offer to upgrade, a `Connection`
option) changes how it is read, trailers are read past and never kept, and one-byte chunks cost what their bytes do.
"""

from typing import Final

import httptools

# What a body's framing and trailers may take beside it: one-byte chunks take five bytes each.
FRAMING_TIMES: Final = 2
# So many bytes may come one after the other that are no body: chunk extensions, trailers.
SILENT_BYTES_MAX: Final = 32_768
_HEAD: Final = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


class ChunkedError(Exception):
    """`status` is 413 where the body is too large, 431 for trailers, 400 for what is no chunked body."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ChunkedBody:
    """`feed` what comes; `complete` once its last chunk and the trailers after it were read. `overrun`: bytes came after it,
    and where they begin is not known, so that the connection can't go on.
    """

    __slots__ = ("_bytes_max", "_fed", "_parser", "_silent", "complete", "data", "on_body", "overrun")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._fed = 0
        self._silent = 0
        self.data = bytearray()
        self.on_body = self.data.extend
        self.complete = False
        self.overrun = False
        # No callback for headers: llhttp reads trailers, and httptools collects nothing of them.
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Raises `ChunkedError`."""
        before = len(self.data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:
                raise ChunkedError(400) from None
            self.overrun = True
        self._fed += len(data)
        grown = len(self.data) - before
        self._silent = 0 if grown else self._silent + len(data)
        if len(self.data) > self._bytes_max or self._fed > FRAMING_TIMES * self._bytes_max + SILENT_BYTES_MAX:
            raise ChunkedError(413)
        if self._silent > SILENT_BYTES_MAX:
            raise ChunkedError(431)
