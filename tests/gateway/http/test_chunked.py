"""Chunked bodies: read past trailers and extensions that are never kept, within limits of their own."""

import tracemalloc

import pytest

from tokenworks.gateway.http.chunked import SILENT_BYTES_MAX, ChunkedBody, ChunkedError


def chunks(data, size):
    return b"".join(
        b"%x\r\n%b\r\n" % (len(data[at : at + size]), data[at : at + size])
        for at in range(0, len(data), size)
    )


@pytest.mark.parametrize("cut", [1, 5, 1000])
@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_body_is_read_however_it_is_cut(cut, size):
    data = bytes(range(256)) * 20
    sent = chunks(data, size) + b"0\r\nauthorization: Bearer x\r\nx-a: b\r\n\r\n"
    body = ChunkedBody(100_000)
    for at in range(0, len(sent), cut):
        assert not body.complete
        body.feed(sent[at : at + cut])
    assert body.complete
    assert not body.overrun
    assert bytes(body.data) == data


def test_what_follows_the_body_is_told():
    body = ChunkedBody(1000)
    body.feed(b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert body.complete
    assert body.overrun
    assert bytes(body.data) == b"abc"


@pytest.mark.parametrize(
    "sent", [b"zz\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"3;\n", b"fffffffffffffffff\r\n", b"1 \r\nx\r\n\n"]
)
def test_what_is_no_chunk_is_refused(sent):
    with pytest.raises(ChunkedError) as error:
        ChunkedBody(1000).feed(sent)
    assert error.value.status == 400


def test_a_body_over_its_limit_is_refused():
    body = ChunkedBody(1000)
    body.feed(chunks(b"x" * 1000, 100))
    with pytest.raises(ChunkedError) as error:
        body.feed(b"1\r\nx\r\n")
    assert error.value.status == 413


@pytest.mark.parametrize("begin", [b"0\r\n", b"5;", b"0\r\nx: "])
def test_trailers_and_extensions_without_end_are_refused_and_not_kept(begin):
    body = ChunkedBody(10_000_000)
    tracemalloc.start()
    body.feed(begin)
    with pytest.raises(ChunkedError) as error:
        for _ in range(10_000):
            body.feed(b"y: z\r\n" * 700 if begin == b"0\r\n" else b"y" * 4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.status in {400, 431}
    assert peak < 4 * SILENT_BYTES_MAX


def test_framing_without_end_is_refused():
    body = ChunkedBody(10_000)
    with pytest.raises(ChunkedError) as error:
        for _ in range(1000):
            body.feed(b"1;" + b"e" * 1000 + b"\r\nx\r\n")
    assert error.value.status == 413
