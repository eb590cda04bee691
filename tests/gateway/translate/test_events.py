"""What a meter lets pass is divided into events as a browser divides it (WHATWG HTML, 9.2.6)."""

import pytest

from tokenworks.gateway.translate.events import split_events


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b'data: {"a":1}\n\n', [("", b'{"a":1}')]),
        (b'data:{"a":1}\n\n', [("", b'{"a":1}')]),
        (b"event: x\ndata: 1\n\n", [("x", b"1")]),
        (b"data: 1\nevent: x\n\n", [("x", b"1")]),
        (b"data: 1\n\ndata: 2\n\n", [("", b"1"), ("", b"2")]),
        (b": ping\n\ndata: 1\n\n: pong\n\n", [("", b"1")]),
        (b": ping\ndata: 1\n\n", [("", b"1")]),
        (b"data: 1\ndata: 2\n\n", [("", b"1\n2")]),
        (b"event: x\r\ndata: 1\r\n\r\n", [("x", b"1")]),
        (b"event: x\rdata: 1\r\r", [("x", b"1")]),
        (b"\xef\xbb\xbfdata: 1\n\n", [("", b"1")]),
        (b"id: 7\nretry: 1\ndata: [DONE]\n\n", [("", b"[DONE]")]),
        (b"event: x\n\n", []),
        (b"", []),
        (b"data: 1", [("", b"1")]),
    ],
)
def test_events_are_divided(data, events):
    assert split_events(data) == events
