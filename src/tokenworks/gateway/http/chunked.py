"""A parser of chunked bodies that is apart from the head's, so no header (an upgrade, a `Connection` option) changes how a body is
read. Trailers are skipped, and one-byte chunks cost no more than their bytes.
"""

from typing import Final

import httptools

# Framing and trailers may take this many times the bytes of the body: one-byte chunks take five bytes each.
FRAMING_TIMES: Final = 2
# Limit of consecutive bytes that are no body: chunk extensions, trailers.
SILENT_BYTES_MAX: Final = 32_768
_HEAD: Final = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


class ChunkedError(Exception):
    """`status`: 413 if the body is too large, 431 if trailers or extensions are, 400 if the framing is malformed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ChunkedBody:
    """Call `feed` with data until `complete`, that is until the last chunk and its trailers were read. `overrun`: bytes came after
    the body; their begin is not known, so the connection can't be used any more.
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
