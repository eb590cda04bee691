"""A cut stream's last: what was on its way is counted once, and its end comes once, whatever the upstream does."""

import asyncio
import functools

import pytest

from tests.gateway.http.test_upstream import HEAD, Wire
from tests.gateway.protocol.streams import chunk, sse
from tests.gateway.protocol.test_meter import meter_of
from tokenworks.gateway.request import tail
from tokenworks.gateway.request.tail import StreamTail

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def looped(test):
    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run


def framed(*events):
    data = sse(*events)
    return b"%x\r\n%b\r\n" % (len(data), data)


def piece(text):
    return framed(chunk({"content": text}))


class Cut:
    """A stream of which "one " came before it was cut; `overs`: how often its tail was over."""

    def __init__(self, wire=None):
        self.wire = wire or Wire()
        self.connection, self.transport = self.wire.connection, self.wire.transport
        self.transport.can_write_eof = lambda: True
        self.transport.closed_side = False
        self.transport.write_eof = lambda: setattr(self.transport, "closed_side", True)
        self.meter = meter_of(requested_model="m")
        self.connection.data_received(EVENTS)
        self.meter.feed(sse(chunk({"content": "one "})))
        self.overs = 0

    def cut(self):
        assert self.connection.end_request()
        StreamTail(self.connection, self.meter, 10, asyncio.get_running_loop(), self.over)

    def over(self):
        self.overs += 1


@looped
async def test_what_is_on_its_way_is_counted_until_the_upstream_closes():
    stream = Cut()
    stream.connection.pause()  # as while more is asked for
    stream.cut()
    assert stream.transport.closed_side and not stream.transport.paused
    stream.connection.data_received(piece("two ") + piece("three "))
    assert (stream.meter.progress, stream.overs) == (3, 0)
    stream.connection.connection_lost(None)
    assert (stream.meter.progress, stream.overs) == (3, 1)
    await asyncio.sleep(0)
    assert stream.overs == 1


@looped
async def test_a_stream_that_ends_meanwhile_gives_its_usage_and_is_not_used_again():
    stream = Cut()
    stream.cut()
    used = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    last = {"choices": [], "usage": used}
    stream.connection.data_received(piece("two ") + framed(chunk({}, "stop"), last, "[DONE]") + b"0\r\n\r\n")
    assert stream.overs == 1
    assert (stream.meter.usage.counts.fresh_input, stream.meter.usage.counts.output) == (7, 2)
    assert stream.transport.aborted and not stream.wire.pool.idle


@looped
async def test_an_upstream_that_does_not_stop_is_reset_in_time(monkeypatch):
    monkeypatch.setattr(tail, "TAIL_MAX_S", 0.0)
    stream = Cut()
    over = asyncio.Event()
    stream.over = over.set
    stream.cut()
    stream.connection.data_received(piece("two "))
    await asyncio.wait_for(over.wait(), 10)
    assert stream.transport.aborted and stream.connection.user is None
    assert stream.meter.progress == 2


@pytest.mark.parametrize("data", [
    framed({"error": {"message": "no"}}), b"5\r\nnot a chunk", b"%x\r\n%b" % (70_000, b"data: " + b"x" * 60_000),
], ids=["an error", "broken", "an event without end"])  # fmt: skip
@looped
async def test_what_can_not_be_read_ends_it_once(data):
    stream = Cut()
    stream.meter._event_bytes_max = 50_000
    stream.cut()
    stream.connection.data_received(data)
    stream.connection.connection_lost(None)
    assert stream.overs == 1 and stream.meter.progress == 1


@looped
async def test_where_one_side_can_not_be_closed_alone_there_is_no_tail():
    stream = Cut()
    stream.transport.can_write_eof = lambda: False
    assert not stream.connection.end_request()
    coded = Wire()
    coded.connection.data_received(HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
    coded.transport.can_write_eof = lambda: True
    assert not coded.connection.end_request()
    gone = Cut()
    gone.transport.aborted = True
    assert not gone.connection.end_request()
