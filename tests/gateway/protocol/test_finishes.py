"""Finish reasons for spans: words of a protocol, and never what an upstream writes in their place."""

import json

import pytest

from tests.gateway.protocol.streams import chunk, message_delta, message_start, response, sse
from tests.gateway.protocol.test_meter import meter_of
from tokenworks.gateway.protocol.finishes import FINISHES_MAX, OTHER, known_finish, whole_finishes

START = message_start({"input_tokens": 10, "output_tokens": 1})


@pytest.mark.parametrize(
    ("protocol", "body", "found"),
    [
        ("chat", {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, ("stop", "length")),
        ("chat", {"choices": [{"finish_reason": None}, {}]}, ()),
        ("completions", {"choices": [{"finish_reason": "length"}]}, ("length",)),
        ("messages", {"stop_reason": "tool_use"}, ("tool_use",)),
        ("responses", {"status": "completed", "incomplete_details": None}, ("completed",)),
        (
            "responses",
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ("max_output_tokens",),
        ),
        ("chat", {"choices": [{"finish_reason": "the user's phone is 13900000000"}]}, (OTHER,)),
        ("chat", {"choices": [{"finish_reason": {"a": 1}}]}, (OTHER,)),
        ("chat", {"choices": "none"}, ()),
        ("chat", {"choices": [{"finish_reason": "stop"}] * 100}, ("stop",) * FINISHES_MAX),
        ("embeddings", {"data": []}, ()),
    ],
)
def test_a_whole_answer_says_why_each_choice_ended(protocol, body, found):
    assert whole_finishes(json.dumps(body).encode(), protocol) == found


def test_what_cannot_be_read_has_none():
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 5000):
        assert whole_finishes(body, "chat") == ()
    assert known_finish("") == known_finish(None) == ""
    assert known_finish("a" * 41) == known_finish("x\ny") == known_finish(True) == OTHER


@pytest.mark.parametrize(
    ("protocol", "events", "found"),
    [
        ("chat", [chunk({"content": "a"}), chunk(finish="tool_calls"), "[DONE]"], ("tool_calls",)),
        (
            "chat",
            [
                chunk({"content": "a"}),
                chunk(finish="stop"),
                chunk(finish="stop"),
                chunk(finish="length", index=1),
            ],
            ("stop", "length"),
        ),
        ("chat", [chunk(finish="stop", index=at) for at in range(100)], ("stop",) * (FINISHES_MAX + 1)),
        ("messages", [START, message_delta("end_turn"), {"type": "message_stop"}], ("end_turn",)),
        ("responses", [{"type": "response.completed", "response": response("completed")}], ("completed",)),
        (
            "responses",
            [
                {
                    "type": "response.incomplete",
                    "response": response("incomplete")
                    | {"incomplete_details": {"reason": "max_output_tokens"}},
                }
            ],
            ("max_output_tokens",),
        ),
    ],
)
def test_a_stream_says_why_each_choice_ended(protocol, events, found):
    meter = meter_of(protocol)
    assert meter.finishes == ()
    meter.feed(sse(*events))
    assert meter.finishes == found
