"""Decoders of content codings (RFC 9110, 8.4.1). The caller sets the size of a piece, so a small input can't become a large output
at once.
"""

import sys
import zlib
from typing import Final, Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# RFC 9659: a decoder of HTTP content need not take a larger window.
_ZSTD_WINDOW_LOG: Final = 23
# A body may consist of several gzip members or zstd frames; each needs a decoder of its own.
MEMBERS_MAX: Final = 64
PIECE_BYTES: Final = 262_144
# The first bytes of coded data, by which an answer without `Content-Encoding` is recognised as coded.
_MAGIC: Final = {b"\x1f\x8b\x08": b"gzip", b"\x28\xb5\x2f": b"zstd"}
# Values that mean "not coded". Some engines write the charset `utf-8` here.
PLAIN: Final = frozenset({b"", b"identity", b"none", b"utf-8", b"utf8"})
_WINDOW_BYTES: Final = {b"gzip": 65_536, b"deflate": 65_536, b"br": 16_777_216, b"zstd": 8_388_608}
CODINGS: Final = tuple(_WINDOW_BYTES)
CODINGS_AT_ONCE_MAX: Final = 2


class CodingError(Exception):
    """The data is malformed for its coding."""


class Decoder(Protocol):
    """Call `push` with data, then `pull` until it returns nothing."""

    def push(self, data: bytes) -> None: ...
    def pull(self, bytes_max: int) -> bytes:
        """Decode up to about `bytes_max` bytes; b"" if more input is needed or the data has ended. Raises `CodingError`."""
        ...

    @property
    def whole(self) -> bool:
        """True if the data came to its proper end."""
        ...


def coding_of(value: bytes | None) -> bytes | None:
    """One or two of `CODINGS` from a `Content-Encoding`, in the order in which they were applied; b"" if nothing is coded; None if
    a coding is unknown or there are more than two.
    """
    if value is None:
        return b""
    names = [name.strip().lower().removeprefix(b"x-") for name in value.split(b",", CODINGS_AT_ONCE_MAX + 1)]
    names = [name for name in names if name not in PLAIN]
    if len(names) > CODINGS_AT_ONCE_MAX or not all(name in _WINDOW_BYTES for name in names):
        return None
    return b",".join(names)


def window_bytes(coding: bytes) -> int:
    """About how many bytes a decoder keeps in its window."""
    return sum(_WINDOW_BYTES[name] for name in coding.split(b","))


def sniffed(data: bytes) -> bytes:
    """The coding of data without `Content-Encoding`, by its first bytes; JSON and events never begin so. b"" if not coded."""
    return _MAGIC.get(data[:3], b"")


def is_plain(data: bytes) -> bool:
    """True if data with a `Content-Encoding` is plain JSON or events: a proxy decoded it and kept the header."""
    return data[:1] in {b"{", b"["} or data[:5] in {b"data:", b"event"}


def make_decoder(coding: bytes) -> Decoder:
    """A decoder for a result of `coding_of`."""
    first, _, second = coding.partition(b",")
    if second:
        return _Chain(make_decoder(second), make_decoder(first))
    if coding == b"br":
        return _Brotli()
    return _Zstd() if coding == b"zstd" else _Zlib(gzip=coding == b"gzip")


class _Chain:
    """A decoder of two codings: the one that was applied last is removed first."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: Decoder, inner: Decoder) -> None:
        self._outer = outer
        self._inner = inner

    @property
    def whole(self) -> bool:
        return self._outer.whole and self._inner.whole

    def push(self, data: bytes) -> None:
        self._outer.push(data)

    def pull(self, bytes_max: int) -> bytes:
        while True:
            piece = self._inner.pull(bytes_max)
            if piece:
                return piece
            between = self._outer.pull(bytes_max)
            if not between:
                return b""
            self._inner.push(between)


class _Zlib:
    __slots__ = ("_gzip", "_inner", "_members", "_waiting", "whole")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        # "deflate" is zlib's format, but some servers send bare deflate: the first two bytes show which it is.
        self._inner = zlib.decompressobj(31) if gzip else None
        self._waiting = b""
        self._members = 1
        self.whole = False

    def push(self, data: bytes) -> None:
        self._waiting += data

    def pull(self, bytes_max: int) -> bytes:
        if self._inner is None:
            if len(self._waiting) < 2:
                return b""
            first = int.from_bytes(self._waiting[:2])
            self._inner = zlib.decompressobj(15 if (first >> 8) & 15 == 8 and first % 31 == 0 else -15)
        while True:
            if self._inner.eof and not self._next_member():
                return b""
            data, self._waiting = self._waiting, b""
            try:
                out = self._inner.decompress(data, bytes_max)
            except zlib.error as error:
                raise CodingError(str(error)) from None
            self._waiting = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
            self.whole = self._inner.eof
            if out or not self._inner.eof:
                return out

    def _next_member(self) -> bool:
        """Begin the next gzip member. False if only padding follows."""
        if not self._gzip or not self._waiting.startswith(b"\x1f\x8b"):
            self._waiting = b""
            return False
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise CodingError("too many members")
        self._inner = zlib.decompressobj(31)
        return True


class _Brotli:
    __slots__ = ("_inner", "_waiting")

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self._waiting = b""

    @property
    def whole(self) -> bool:
        return bool(self._inner.is_finished())

    def push(self, data: bytes) -> None:
        self._waiting += data

    def pull(self, bytes_max: int) -> bytes:
        if self._inner.is_finished():
            self._waiting = b""
            return b""
        data = b""
        if self._inner.can_accept_more_data():
            data, self._waiting = self._waiting, b""
        try:
            out: bytes = self._inner.process(data, output_buffer_limit=bytes_max)
        except brotli.error as error:
            raise CodingError(str(error)) from None
        return out


class _Zstd:
    __slots__ = ("_frames", "_inner", "_waiting", "whole")

    def __init__(self) -> None:
        self._inner = self._decompressor()
        self._waiting = b""
        self._frames = 1
        self.whole = False

    @staticmethod
    def _decompressor() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})

    def push(self, data: bytes) -> None:
        self._waiting += data

    def pull(self, bytes_max: int) -> bytes:
        while True:
            if self._inner.eof:
                if not self._waiting:
                    return b""
                self._frames += 1
                if self._frames > MEMBERS_MAX:
                    raise CodingError("too many frames")
                self._inner = self._decompressor()
            data, self._waiting = self._waiting, b""
            if not data and self._inner.needs_input:
                return b""
            try:
                out = self._inner.decompress(data, bytes_max)
            except zstd.ZstdError as error:
                raise CodingError(str(error)) from None
            self.whole = self._inner.eof
            if self._inner.eof:
                self._waiting = self._inner.unused_data
            if out or not self._inner.eof:
                return out
