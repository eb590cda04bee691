"""The cost in the usage of an answer: whole, or in the last events of a stream, and nothing else of it changed."""

import json

import msgspec
import pytest

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.cost_fields import body_with_cost, events_with_cost

COST = {"cost": msgspec.Raw(b"12.5"), "cost_details": msgspec.Raw(b'{"unit":"token","drawn":[]}')}
COUNTS = Counts(fresh_input=5, cached_input=3, output=2)


def event(content, name=None):
    line = b"" if name is None else b"event: %b\n" % name.encode()
    return (
        line + b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"
    )


def read(events):
    return [
        json.loads(part[5:])
        for part in events.split(b"\n")
        if part.startswith(b"data:") and b"[DONE]" not in part
    ]


def test_a_whole_answer_keeps_every_other_value():
    body = b'{"id":"x","n":1.50,"usage":{"prompt_tokens":8,"details":{"a":1.0}},"choices":[]}'
    out = body_with_cost(body, "chat", COST, COUNTS)
    assert json.loads(out)["usage"] == {
        "prompt_tokens": 8,
        "details": {"a": 1.0},
        "cost": 12.5,
        "cost_details": {"unit": "token", "drawn": []},
    }
    assert b'"n":1.50' in out and b'"a":1.0' in out


@pytest.mark.parametrize("usage", [b"", b',"usage":null', b',"usage":7'])
def test_an_answer_without_usage_gets_one_from_the_record(usage):
    out = json.loads(body_with_cost(b'{"id":"x"%b}' % usage, "responses", COST, COUNTS))
    assert out["usage"] == {
        "input_tokens": 8,
        "output_tokens": 2,
        "total_tokens": 10,
        "cost": 12.5,
        "cost_details": {"unit": "token", "drawn": []},
    }
    assert body_with_cost(b"[1]", "chat", COST, COUNTS) == b"[1]"


def test_an_upstreams_own_cost_is_replaced():
    out = json.loads(body_with_cost(b'{"usage":{"cost":0.002}}', "chat", COST, COUNTS))
    assert out["usage"]["cost"] == 12.5


def test_the_last_usage_of_chat_gets_it_and_the_events_around_stay():
    finish = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    usage = event({"id": "u", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2}})
    out = events_with_cost(finish + usage + b"data: [DONE]\n\n", "chat", COST, COUNTS, "u", "m")
    assert out.startswith(finish) and out.endswith(b"\n\ndata: [DONE]\n\n")
    assert read(out)[-1]["usage"]["cost"] == 12.5 and len(read(out)) == 2


def test_chat_without_a_usage_event_gets_one_before_the_end():
    out = events_with_cost(b"data: [DONE]\n\n", "chat", COST, COUNTS, "u-1", 'a"b')
    (made,) = read(out)
    assert (made["id"], made["model"], made["choices"], made["usage"]["prompt_tokens"]) == (
        "u-1",
        'a"b',
        [],
        8,
    )
    assert out.endswith(b"data: [DONE]\n\n")
    assert (
        read(events_with_cost(b"", "completions", COST, COUNTS, "u", "m"))[0]["object"] == "text_completion"
    )


def test_messages_have_it_in_the_delta_and_responses_in_the_response():
    delta = event(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        "message_delta",
    )
    stop = event({"type": "message_stop"}, "message_stop")
    out = events_with_cost(delta + stop, "messages", COST, COUNTS, "u", "m")
    assert read(out)[0]["usage"] == {
        "output_tokens": 2,
        "cost": 12.5,
        "cost_details": {"unit": "token", "drawn": []},
    }
    assert out.startswith(b"event: message_delta\n") and out.endswith(stop)
    assert events_with_cost(stop, "messages", COST, COUNTS, "u", "m") == stop
    done = event(
        {"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 8}}},
        "response.completed",
    )
    out = events_with_cost(done, "responses", COST, COUNTS, "r", "m")
    assert read(out)[0]["response"]["usage"]["cost"] == 12.5
