"""Writes messages in the wire format of Protocol Buffers (https://protobuf.dev/programming-guides/encoding/): varints, fixed numbers, and
fields with a length. Numbers of fields stand in the message's own module.
"""

import struct
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_INT64_MASK: Final = (1 << 64) - 1


def varint(value: int) -> bytes:
    """A number of at most 64 bits. A negative one is written in two's complement, as `int64` is."""
    value &= _INT64_MASK
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | _FIXED64) + struct.pack("<Q", value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | _FIXED64) + struct.pack("<d", value)


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | _FIXED32) + struct.pack("<I", value)


def data(field: int, value: bytes) -> bytes:
    """Bytes, or a message that is already written."""
    return varint(field << 3 | _LENGTH) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    return data(field, value.encode("utf-8", "replace"))
