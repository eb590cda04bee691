"""Content codings are decoded in pieces of a bounded size, whatever the input would become at once."""

import gzip
import zlib

import brotli
import pytest

from tokenworks.gateway.http import coding as codings
from tokenworks.gateway.http.coding import CodingError, coding_of, is_plain, make_decoder, sniffed

TEXT = b"".join(b'{"n": %d, "text": "some words of a body"}' % n for n in range(300))


def bare_deflate(data):
    out = zlib.compressobj(wbits=-15)
    return out.compress(data) + out.flush()


ENCODERS = {
    "gzip": (b"gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "bare deflate": (b"deflate", bare_deflate),
    "br": (b"br", lambda data: brotli.compress(data, quality=1)),
    "zstd": (b"zstd", codings.zstd.compress),
}


def decoded(coding, pieces, most=1000):
    decoder = make_decoder(coding)
    out = b""
    for piece in pieces:
        decoder.push(piece)
        while got := decoder.pull(most):
            assert len(got) <= 4 * most + 65_536
            out += got
    return out, decoder.whole


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_was_encoded_comes_back_however_it_is_cut(name, size):
    coding, encode = ENCODERS[name]
    data = encode(TEXT)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert decoded(coding, pieces) == (TEXT, True)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_broken_off_is_not_whole(name):
    coding, encode = ENCODERS[name]
    out, whole = decoded(coding, [encode(TEXT)[:-30]])
    assert TEXT.startswith(out)
    assert not whole


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bomb_comes_in_pieces(name):
    coding, encode = ENCODERS[name]
    decoder = make_decoder(coding)
    decoder.push(encode(bytes(20_000_000)))
    got = decoder.pull(65_536)
    assert 0 < len(got) <= 262_144


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate"])
def test_what_is_not_in_its_coding_is_an_error(coding):
    with pytest.raises(CodingError):
        decoded(coding, [b"\xff\xfe\xfd this is nothing that was encoded at all" * 20])


def test_members_and_frames_are_one_body_up_to_a_number():
    one = gzip.compress(b"one ")
    assert decoded(b"gzip", [one * 3]) == (b"one " * 3, True)
    assert decoded(b"gzip", [one + b"\0" * 100])[0] == b"one "
    frame = codings.zstd.compress(b"one ")
    assert decoded(b"zstd", [frame * 3]) == (b"one " * 3, True)
    for coding, many in ((b"gzip", one * 1000), (b"zstd", frame * 1000)):
        with pytest.raises(CodingError):
            decoded(coding, [many])


def test_two_codings_are_taken_off_in_turn():
    """aio-libs/aiohttp#13364."""
    for first, second in (("gzip", "gzip"), ("gzip", "br"), ("zstd", "deflate")):
        (one, encode_one), (two, encode_two) = ENCODERS[first], ENCODERS[second]
        data = encode_two(encode_one(TEXT))
        pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
        assert decoded(one + b"," + two, pieces) == (TEXT, True)
    double = gzip.compress(gzip.compress(bytes(20_000_000)))
    decoder = make_decoder(b"gzip,gzip")
    decoder.push(double)
    assert 0 < len(decoder.pull(65_536)) <= 65_536


def test_a_zstd_window_larger_than_a_browsers_is_refused():
    level = {codings.zstd.CompressionParameter.window_log: 27}
    data = codings.zstd.compress(TEXT * 2000, options=level)
    with pytest.raises(CodingError):
        decoded(b"zstd", [data])


def test_an_event_leaves_as_it_came():
    """Each event is flushed by its upstream: none may wait for the next one."""
    for coding, make in (
        (b"gzip", lambda: zlib.compressobj(wbits=31)),
        (b"zstd", codings.zstd.ZstdCompressor),
    ):
        out, decoder = make(), make_decoder(coding)
        for n in range(5):
            event = b"data: %d\n\n" % n
            flushed = (
                out.compress(event) + out.flush(zlib.Z_SYNC_FLUSH)
                if coding == b"gzip"
                else out.compress(event, codings.zstd.ZstdCompressor.FLUSH_BLOCK)
            )
            decoder.push(flushed)
            assert decoder.pull(1000) == event
            assert decoder.pull(1000) == b""


def test_values_of_the_header():
    assert [coding_of(value) for value in (None, b"", b"identity", b"UTF-8", b" GZIP ", b"x-gzip", b"br", b"zstd")] == [
        b"", b"", b"", b"", b"gzip", b"gzip", b"br", b"zstd",
    ]  # fmt: skip
    assert coding_of(b"compress") is None
    assert coding_of(b"gzip, br") == b"gzip,br"
    assert coding_of(b"identity, GZip") == b"gzip"
    assert coding_of(b"gzip, gzip, gzip") is None
    assert coding_of(b"gzip," * 10_000) is None
    assert sniffed(gzip.compress(b"x")) == b"gzip"
    assert sniffed(codings.zstd.compress(b"x")) == b"zstd"
    assert sniffed(b'{"a": 1}') == b""
    assert is_plain(b'{"a": 1}')
    assert is_plain(b"data: {}")
    assert not is_plain(gzip.compress(b"x"))
