"""Sizes read from real headers, and nothing read from hostile ones."""

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.factory import image_size
from tokenworks.factory.facts.image_size import SIDE_PX_MAX


def png(width, height):
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)
        + bytes(40)
    )


def jpeg(width, height, *segments, marker=0xC0):
    data = b"\xff\xd8"
    for segment in segments:
        data += struct.pack(">BBH", 0xFF, 0xE1, len(segment) + 2) + segment
    return data + struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3) + bytes(40)


def gif(width, height, frame=(0, 0, 1, 1), *, colours=True, extension=b""):
    flags = 0x81 if colours else 0
    table = bytes(3 << 2) if colours else b""
    made = b"\x21\xf9" + bytes([len(extension)]) + extension + b"\0" if extension else b""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, flags, 0, 0)
        + table
        + made
        + b"\x2c"
        + struct.pack("<HHHH", *frame)
        + bytes(40)
    )


def webp(kind, width, height):
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I4s4sI", 100, b"WEBP", kind, len(body)) + body + bytes(40)


def bmp(width, height, head=40):
    return b"BM" + bytes(12) + struct.pack("<Iii", head, width, height) + bytes(40)


def read(data, mime):
    return image_size(base64.b64encode(data).decode(), mime)


GOOD = [
    (png(1024, 768), "image/png"),
    (jpeg(1024, 768), "image/jpeg"),
    (jpeg(1024, 768, b"Exif" + bytes(60_000), bytes(65_533), b"http://ns.adobe.com"), "image/jpg"),
    (jpeg(1024, 768, marker=0xC2), "image/jpeg"),
    (gif(1024, 768), "image/gif"),
    (gif(1024, 768, colours=False, extension=b"abcd"), "image/gif"),
    (gif(1, 1, (24, 68, 1000, 700)), "image/gif"),
    (webp(b"VP8 ", 1024, 768), "image/webp"),
    (webp(b"VP8L", 1024, 768), "image/webp"),
    (webp(b"VP8X", 1024, 768), "IMAGE/WEBP;q=1"),
    (bmp(1024, 768), "image/bmp"),
    (bmp(1024, -768), "image/bmp"),
]


@pytest.mark.parametrize(("data", "mime"), GOOD)
def test_a_size_is_read_from_the_first_bytes(data, mime):
    assert read(data, mime) == (1024, 768)


@pytest.mark.parametrize(("data", "mime"), GOOD)
def test_the_wrong_type_has_no_size(data, mime):
    for other in ("image/tiff", "text/plain", "", "image/png" if "png" not in mime else "image/gif"):
        assert read(data, other) is None


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (png(0, 0), "image/png"),
        (png(2**31, 1), "image/png"),
        (png(5, SIDE_PX_MAX + 1), "image/png"),
        (png(1024, 768).replace(b"IHDR", b"CgBI"), "image/png"),
        (jpeg(1024, 0), "image/jpeg"),
        (jpeg(1024, 768, *[b"x"] * 100), "image/jpeg"),
        (jpeg(1024, 768).replace(b"\xff\xc0", b"\xff\xda"), "image/jpeg"),
        (jpeg(1024, 768).replace(b"\xff\xc0", b"\xff\xe0\0\0"), "image/jpeg"),
        (b"\xff\xd8\xff" + bytes(100), "image/jpeg"),
        (gif(0, 0, (0, 0, 0, 0)), "image/gif"),
        (gif(1024, 768).replace(b"\x2c", b"\x3b"), "image/gif"),
        (webp(b"VP8 ", 1024, 768).replace(b"\x9d", b"\x9e"), "image/webp"),
        (webp(b"ANIM", 1024, 768), "image/webp"),
        (webp(b"VP8X", 1024, 768).replace(b"WEBP", b"WAVE"), "image/webp"),
        (bmp(1024, 768, head=12), "image/bmp"),
        (bmp(-1024, 768), "image/bmp"),
        (b"", "image/png"),
        (b"<svg width='1' height='1'/>", "image/svg+xml"),
    ],
)
def test_a_hostile_head_has_no_size(data, mime):
    assert read(data, mime) is None


@pytest.mark.parametrize(("data", "mime"), GOOD)
def test_what_is_cut_or_is_no_base64_has_no_size(data, mime):
    whole = base64.b64encode(data).decode()
    assert image_size(whole[:12], mime) is None
    assert image_size("*" + whole, mime) is None
    assert image_size(whole[:4] + "\n" + whole[4:], mime) is None
    assert image_size(whole[:9] + "é" + whole[10:], mime) is None


def test_megabytes_of_an_image_are_not_decoded():
    huge = base64.b64encode(png(1024, 768)).decode() + "!" * 16_000_000
    assert image_size(huge, "image/png") == (1024, 768), "what follows the size is not looked at"


@settings(deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"]),
)
def test_no_bytes_do_harm(noise, mime):
    for begin in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF1234WEBP", b"BM"):
        size = read(begin + noise, mime)
        assert size is None or all(0 < side <= SIDE_PX_MAX for side in size)
