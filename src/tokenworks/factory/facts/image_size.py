"""The size of an image in a request, read from the first bytes of its base64 text.

The headers are those of PNG (ISO/IEC 15948), JPEG (ITU-T T.81), GIF89a, WebP (RFC 9649) and BMP. Only the bytes that are read are
decoded, so an image of megabytes costs microseconds. An image that does not follow its format exactly has no size, and the caller
takes the declared maximum.
"""

import binascii
import struct
from collections.abc import Callable
from typing import Final

SIDE_PX_MAX: Final = 65_535
# The most segments of a JPEG before its frame header (Exif, ICC profiles, XMP), or blocks of a GIF before its first image.
SEGMENTS_MAX: Final = 64
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_NO_SIZE: Final = (0, 0)
Size = tuple[int, int]


class _Base64:
    """Random access to the bytes behind base64 text."""

    __slots__ = ("_begin", "_text")

    def __init__(self, text: str, begin: int) -> None:
        self._text = text
        self._begin = begin

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from byte `at` on. Raises `ValueError` if they are missing or are not base64."""
        first = at // 3
        begin = self._begin
        piece = self._text[begin + 4 * first : begin + 4 * ((at + count + 2) // 3)]
        data = binascii.a2b_base64(piece + "=" * (-len(piece) % 4), strict_mode=True)
        data = data[at - 3 * first : at - 3 * first + count]
        if len(data) != count:
            raise ValueError("the image ends before its size")
        return data


def _png(data: _Base64) -> Size:
    head = data.read(8, 16)
    if head[:8] != b"\0\0\0\rIHDR":
        return _NO_SIZE
    width, height = struct.unpack(">II", head[8:])
    return width, height


def _jpeg(data: _Base64) -> Size:
    at = 2
    for _ in range(SEGMENTS_MAX):
        head = data.read(at, 4)
        marker = head[1]
        if head[0] != 0xFF:
            return _NO_SIZE
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(head[2:])
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack(">HH", data.read(at + 5, 4))
            return width, height
        if length < 2 or marker in {0xD9, 0xDA}:
            return _NO_SIZE
        at += 2 + length
    return _NO_SIZE


def _gif(data: _Base64) -> Size:
    """The screen, or the first image if it is larger: decoders enlarge the screen then."""
    width, height, flags = struct.unpack("<HHB", data.read(6, 5))
    at = 13 + (3 << (flags % 8 + 1) if flags & 0x80 else 0)
    in_extension = False
    for _ in range(SEGMENTS_MAX):
        kind = data.read(at, 1)[0]
        if in_extension:
            at += 1 + kind
            in_extension = kind != 0
        elif kind == 0x21:
            at, in_extension = at + 2, True
        elif kind == 0x2C:
            left, top, wide, high = struct.unpack("<HHHH", data.read(at + 1, 8))
            return max(width, left + wide), max(height, top + high)
        else:
            return _NO_SIZE
    return _NO_SIZE


def _webp(data: _Base64) -> Size:
    if data.read(8, 4) != b"WEBP":
        return _NO_SIZE
    kind = data.read(12, 4)
    if kind == b"VP8X":
        canvas = data.read(24, 6)
        return 1 + int.from_bytes(canvas[:3], "little"), 1 + int.from_bytes(canvas[3:], "little")
    if kind == b"VP8L":
        head = data.read(20, 5)
        bits = int.from_bytes(head[1:], "little")
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if head[0] == 0x2F else _NO_SIZE
    if kind == b"VP8 " and data.read(23, 3) == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data.read(26, 4))
        return width & 0x3FFF, height & 0x3FFF
    return _NO_SIZE


def _bmp(data: _Base64) -> Size:
    if int.from_bytes(data.read(14, 4), "little") < 40:
        return _NO_SIZE
    width, height = struct.unpack("<ii", data.read(18, 8))
    return width, abs(height)


_FORMATS: Final[tuple[tuple[bytes, frozenset[str], Callable[[_Base64], Size]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", frozenset({"png", "apng"}), _png),
    (b"\xff\xd8\xff", frozenset({"jpeg", "jpg", "pjpeg"}), _jpeg),
    (b"GIF8", frozenset({"gif"}), _gif),
    (b"RIFF", frozenset({"webp"}), _webp),
    (b"BM", frozenset({"bmp", "x-ms-bmp", "x-bmp"}), _bmp),
)


def image_size(text: str, mime: str, begin: int = 0) -> Size | None:
    """(width, height) in pixels of an image that is declared as `mime` and encoded as base64 in a text, from `begin` on.

    None if the size can't be read, is zero or is beyond `SIDE_PX_MAX`, or if the data has another format than declared, because it is
    not known how an upstream reads such data.
    """
    kind = mime.lower().partition("/")[2].partition(";")[0].strip()
    data = _Base64(text, begin)
    try:
        magic_bytes = data.read(0, 8)
        for magic, names, read in _FORMATS:
            if magic_bytes.startswith(magic):
                width, height = read(data) if kind in names else _NO_SIZE
                return (width, height) if 0 < width <= SIDE_PX_MAX and 0 < height <= SIDE_PX_MAX else None
    except ValueError:  # not base64 (binascii.Error), or shorter than its header says
        return None
    return None
