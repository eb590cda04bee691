"""Whatever the reads are, what passes and what is counted is the same."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.upstream import Chat, Messages, Responses
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.meter import EventTooLarge, UsageOptions
from tokenworks.gateway.protocol.stream import make_meter

TOLD = {"cached": 3, "reasoning": 2}


def whole(kind, tokens=5, usage=True, done=True, crlf=False):
    made = kind("id-1", 11, TOLD, 0)
    data = made.begin() + b"".join(made.token(at) for at in range(tokens)) + made.end(tokens, usage, done)
    return data.replace(b"\n", b"\r\n") if crlf else data


def meter_of(protocol, *, usage=True, limit=10**6, **more):
    settings = {
        "requested_model": "",
        "usage_options": UsageOptions(final=usage),
        "event_bytes_max": limit,
        "text_max": None,
    }
    return make_meter(protocol, **(settings | more))


KINDS = {"chat": Chat, "messages": Messages, "responses": Responses}
EXPECTED = {
    "chat": Counts(8, 3, 0, 0, 3, 2, 0),
    "messages": Counts(11, 3, 0, 0, 5, 0, 0),
    "responses": Counts(8, 3, 0, 0, 3, 2, 0),
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(KINDS)), st.lists(st.integers(1, 4000), max_size=30), st.booleans())
def test_cut_anywhere_it_is_the_same(protocol, cuts, drop):
    data = whole(KINDS[protocol])
    meter = meter_of(protocol, usage=not drop)
    out = b""
    edges = sorted({cut % len(data) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(edges):
        piece = meter.feed(data[start:end])
        assert not piece or piece.endswith(b"\n\n")
        out += piece
    assert meter.terminal
    assert meter.usage.counts == EXPECTED[protocol]
    assert meter.progress == 5
    assert meter.upstream_id == "id-1"
    expected = data
    if protocol == "chat" and drop:
        expected = whole(Chat, usage=False)
    assert out + meter.finish() == expected
    terminal = {
        "chat": b"data: [DONE]",
        "messages": b"event: message_stop",
        "responses": b"event: response.completed",
    }[protocol]
    assert terminal not in out
    assert terminal in meter.withheld


@pytest.mark.parametrize("protocol", list(KINDS))
def test_line_ends_may_be_crlf(protocol):
    data = whole(KINDS[protocol], crlf=True)
    meter = meter_of(protocol)
    out = meter.feed(data)
    assert meter.terminal
    assert out + meter.finish() == data
    assert meter.usage.counts == EXPECTED[protocol]


def test_an_event_without_end_is_refused():
    meter = meter_of("chat", limit=1000)
    with pytest.raises(EventTooLarge):
        for _ in range(100):
            meter.feed(b"data: " + b"x" * 100)


def test_text_that_looks_like_an_event_is_not_counted():
    meter = meter_of("chat")
    event = b'data: {"id":"a","choices":[{"delta":{"content":"say \\"content\\":\\"x\\" and [DONE] and \\"usage\\""}}]}\n\n'
    assert meter.feed(event) == event
    assert meter.progress == 1
    assert not meter.terminal
    assert meter.usage is None


def test_usage_null_in_every_chunk_is_no_usage():
    meter = meter_of("chat", usage=False)
    first = b'data: {"id":"a","choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
    assert meter.feed(first * 3) == first * 3
    assert meter.usage is None
