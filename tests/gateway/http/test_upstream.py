"""What upstreams send that is not as it should be: coded, marked, endless, in pieces."""

import asyncio
import gzip
import zlib

import brotli
import pytest

from tokenworks.gateway.http import coding as codings
from tokenworks.gateway.http.decoding import TURN_BYTES, looks_like_events
from tokenworks.gateway.http.upstream import HEAD_BYTES_MAX, SILENT_BYTES_MAX, Pool, UpstreamConnection
from tokenworks.gateway.memory import Budget
from tokenworks.gateway.wheel import Wheel

JSON = b'{"id": "c1", "choices": []}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Transport:
    def __init__(self):
        self.aborted = self.paused = False

    def write(self, data):
        pass

    def is_closing(self):
        return self.aborted

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class User:
    def __init__(self):
        self.heads, self.data, self.ended, self.failed, self.pieces = 0, b"", False, None, []
        self.on_data = lambda: None

    def upstream_head(self, connection):
        self.heads += 1

    def upstream_data(self, connection, data):
        self.data += data
        self.pieces.append(len(data))
        self.on_data()

    def upstream_end(self, connection):
        self.ended = True

    def upstream_failed(self, connection, reason):
        self.failed = reason


class Wire:
    """A connection with a request on it, and what its user was told."""

    def __init__(self, memory=None, decoded_max=67_108_864):
        self.pool = Pool(
            None, Wheel(0), idle_max=4, connect_timeout_s=1, memory=memory, decoded_max=decoded_max
        )
        self.connection = UpstreamConnection(self.pool)
        self.transport = Transport()
        self.connection.connection_made(self.transport)
        self.ask()

    def ask(self, **options):
        self.user = User()
        self.connection.begin(self.user, b"head", b"", 10, 10, **options)
        return self.user

    def feed(self, data, cut=None):
        for at in range(0, len(data), cut or len(data)):
            if self.connection.transport is not None:
                self.connection.data_received(data[at : at + (cut or len(data))])
        return self.user


def answer(body, *lines):
    return (
        HEAD + b"".join(line + b"\r\n" for line in lines) + b"content-length: %d\r\n\r\n" % len(body) + body
    )


ENCODED = {
    "gzip": gzip.compress(JSON), "x-gzip": gzip.compress(JSON), "deflate": zlib.compress(JSON), "br": brotli.compress(JSON),
    "zstd": codings.zstd.compress(JSON), "utf-8": JSON, "identity": JSON, "": JSON,
}  # fmt: skip


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize("name", ENCODED)
def test_a_coded_answer_is_decoded(name, cut):
    wire = Wire()
    user = wire.feed(answer(ENCODED[name], b"Content-Encoding: " + name.encode()), cut)
    assert (user.data, user.ended, user.failed) == (JSON, True, None)
    assert wire.pool.idle


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize(
    "body",
    [gzip.compress(JSON, mtime=0), codings.zstd.compress(JSON), b"\xef\xbb\xbf" + JSON, JSON],
    ids=["gzip", "zstd", "marked", "plain"],
)
def test_what_is_coded_or_marked_without_a_word_is_seen(body, cut):
    user = Wire().feed(answer(body), cut)
    assert (user.data, user.ended) == (JSON, True)


def test_what_is_plain_though_it_says_it_is_coded_passes():
    user = Wire().feed(answer(JSON, b"content-encoding: gzip"))
    assert (user.data, user.ended) == (JSON, True)


@pytest.mark.parametrize("value", [b"compress", b"gzip, br, gzip"])
def test_an_unknown_coding_is_a_failed_answer(value):
    user = Wire().feed(answer(b"xxxxx", b"CONTENT-encoding: " + value))
    assert user.failed
    assert not user.heads


def test_what_is_not_in_its_coding_is_a_failed_answer():
    user = Wire().feed(answer(b"\xff\xff\xff\xffnothing", b"content-encoding: gzip"))
    assert user.failed
    assert not user.ended


def test_short_answers_are_whole():
    for body in (b"\xef", b"\x1f\x8b", b"(", b"\xef\xbb", b""):
        user = Wire().feed(answer(body), 1)
        assert (user.data, user.ended) == (body, True)


def test_events_leave_as_they_come():
    wire, out = Wire(), zlib.compressobj(wbits=31)
    wire.feed(
        b"HTTP/1.1 200 OK\r\nContent-Type: TEXT/Event-Stream ; charset=utf-8\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    assert wire.connection.content_type == b"text/event-stream"
    said = b""
    for n in range(20):
        event = b"data: %d\n\n" % n
        said += event
        sent = out.compress(event) + out.flush(zlib.Z_SYNC_FLUSH)
        wire.feed(b"%x\r\n%b\r\n" % (len(sent), sent))
        assert wire.user.data == said
    sent = out.flush()
    wire.feed(b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent))
    assert wire.user.ended
    # The next answer on the same connection is read as it is.
    assert wire.ask() is wire.user
    assert wire.feed(answer(JSON)).data == JSON


@pytest.mark.parametrize("name", ["gzip", "br", "zstd"])
def test_a_bomb_is_decoded_in_turns_and_ends_at_the_limit(name):
    bomb = {
        "gzip": gzip.compress,
        "br": lambda data: brotli.compress(data, quality=1),
        "zstd": codings.zstd.compress,
    }[name](bytes(60_000_000))

    async def main():
        wire = Wire(decoded_max=20_000_000)
        wire.feed(answer(bomb, b"content-encoding: " + name.encode()))
        assert len(wire.user.data) <= TURN_BYTES + 1_048_576
        assert wire.transport.paused
        while not wire.user.failed:
            before = len(wire.user.data)
            await asyncio.sleep(0)
            assert len(wire.user.data) - before <= TURN_BYTES + 1_048_576
        assert len(wire.user.data) <= 20_000_000
        assert not wire.user.ended

    asyncio.run(main())


def test_decoding_waits_while_its_user_takes_nothing():
    body = gzip.compress(bytes(10_000_000))

    async def main():
        wire = Wire()
        wire.user.on_data = wire.connection.pause
        wire.feed(answer(body, b"content-encoding: gzip"))
        assert len(wire.user.pieces) == 1
        while not wire.user.ended:
            count = len(wire.user.pieces)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(wire.user.pieces) == count
            wire.connection.resume(10)
            while len(wire.user.pieces) == count and not wire.user.ended:
                await asyncio.sleep(0)
        assert len(wire.user.data) == 10_000_000

    asyncio.run(main())


def test_a_coded_body_that_ends_with_its_connection_is_decoded_to_its_end():
    async def main():
        wire = Wire()
        wire.feed(HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(bytes(10_000_000)))
        wire.connection.connection_lost(None)
        while not wire.user.ended:
            await asyncio.sleep(0)
        assert len(wire.user.data) == 10_000_000

    asyncio.run(main())


def test_a_coded_body_that_breaks_off_is_a_failed_answer():
    async def main():
        wire = Wire()
        body = gzip.compress(bytes(10_000_000))
        wire.feed(answer(body, b"content-encoding: gzip")[:-1])
        wire.connection.connection_lost(None)
        assert wire.user.failed
        assert not wire.user.ended

    asyncio.run(main())


def test_a_coded_body_that_is_whole_outlives_its_connection():
    async def main():
        wire = Wire()
        wire.feed(answer(gzip.compress(bytes(10_000_000)), b"content-encoding: gzip"))
        wire.connection.connection_lost(None)
        while not wire.user.ended:
            await asyncio.sleep(0)
        assert len(wire.user.data) == 10_000_000

    asyncio.run(main())


def test_an_endless_header_ends_the_answer():
    memory = Budget(10_000_000, 100)
    wire = Wire(memory)
    wire.feed(b"HTTP/1.1 200 OK\r\nx-endless: ")
    fed = 0
    while not wire.user.failed:
        wire.connection.data_received(b"y" * 4096)
        fed += 4096
        assert fed <= 2 * HEAD_BYTES_MAX
        assert memory.used or wire.user.failed
    wire.connection.connection_lost(None)
    assert memory.used == 0
    assert wire.transport.aborted


def test_thousands_of_headers_end_the_answer():
    assert (
        Wire()
        .feed(HEAD + b"".join(b"h%d: v\r\n" % n for n in range(5000)) + b"content-length: 0\r\n\r\n")
        .failed
    )
    assert Wire().feed(HEAD + b"".join(b"h%d: v\r\n" % n for n in range(500)), 64).failed


@pytest.mark.parametrize("begin", [b"0\r\nx: ", b"0\r\n", b"5;"])
def test_endless_trailers_end_the_answer(begin):
    wire = Wire()
    wire.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\n{} \r\n" + begin)
    fed = 0
    while not wire.user.failed:
        wire.connection.data_received(b"y" * 4096 if begin != b"0\r\n" else b"a: b\r\n" * 700)
        fed += 4096
        assert fed <= 2 * SILENT_BYTES_MAX
    assert wire.user.data == b"{} "


@pytest.mark.parametrize("cut", [None, 1, 3])
def test_interim_answers_are_read_past(cut):
    early = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    user = Wire().feed(b"HTTP/1.1 100 Continue\r\n\r\n" + early + answer(JSON), cut)
    assert (user.data, user.ended, user.heads) == (JSON, True, 1)


def in_turns(data):
    """What its user was told of an answer that comes in one read, and is read in turns of the loop."""

    async def main():
        wire = Wire()
        wire.feed(data)
        while wire.transport.paused and not wire.user.failed:
            await asyncio.sleep(0)
        return wire.user

    return asyncio.run(main())


def test_interim_answers_without_end_end_the_answer():
    assert Wire().feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 100).failed
    assert in_turns(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000).failed
    assert Wire().feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, 25).failed
    assert Wire().feed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").failed


FINE = HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000


def test_chunks_of_a_byte_are_read_in_turns():
    user = in_turns(FINE + b"0\r\n\r\n")
    assert (len(user.data), user.ended) == (20_000, True)
    assert max(user.pieces) < 2000


def test_chunks_of_a_byte_that_end_with_their_connection_are_read():
    async def main():
        wire = Wire()
        wire.feed(FINE + b"0\r\n\r\n")
        wire.connection.connection_lost(None)
        return wire.user

    user = asyncio.run(main())
    assert (len(user.data), user.ended) == (20_000, True)


def test_bytes_after_the_end_never_reach_the_next_request():
    async def main():
        wire = Wire()
        first = wire.user
        wire.feed(FINE + b"0\r\n\r\n" + answer(b"forged" * 5000))
        while not first.ended and not first.failed:
            await asyncio.sleep(0)
        assert wire.transport.aborted
        assert not wire.pool.idle

    asyncio.run(main())


def test_more_framing_than_answer_ends_it():
    async def main():
        wire = Wire()
        wire.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        fed = 0
        while not wire.user.failed:
            wire.connection.data_received(b"1\r\nx\r\n" * 10_000)
            fed += 60_000
            assert fed <= 5_000_000

    asyncio.run(main())


def test_what_follows_much_that_is_kept_is_read_in_a_turn_of_its_own():
    async def main():
        wires = [Wire() for _ in range(3)]
        for wire in wires[1:]:
            wire.connection.pool.turns = wires[0].pool.turns
        for wire in wires:
            wire.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            wire.connection.large = True
            wire.feed(b"4\r\nrest\r\n0\r\n\r\n")
            assert wire.user.data == b"first" and wire.transport.paused
        for done in range(1, 4):
            await asyncio.sleep(0)
            assert [wire.user.ended for wire in wires].count(True) == done, "one a turn"
        assert all(wire.user.data == b"firstrest" and wire.pool.idle for wire in wires)
        assert not any(wire.connection.large or wire.transport.paused for wire in wires)

    asyncio.run(main())


def test_a_head_in_pieces_leaves_a_connection_that_can_be_used():
    wire = Wire()
    assert wire.feed(answer(JSON), 9).ended
    assert wire.pool.idle


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: {}", True), (b"event: x\n", True), (b": ping\n\n", True), (b"\xef\xbb\xbf\n\ndata: {}", True), (b"id: 1\n", True), (b"retry: 5\n", True),
        (b"  \r\n data:{}", True), (b'{"data": 1}', False), (b"", False), (b"<html>", False), (b"database error", False),
    ],
)  # fmt: skip
def test_a_stream_is_known_by_how_it_begins(data, events):
    assert looks_like_events(data) is events
    assert events or not any(looks_like_events(data[:at]) for at in range(len(data))), "nor on the way"
