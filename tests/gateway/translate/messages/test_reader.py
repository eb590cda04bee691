"""Streams of messages as vendors send them, read as the events of the form."""

import json
import random

import pytest

from tests.gateway.protocol.streams import STOP, message_delta, message_start, text_block
from tests.gateway.translate.messages.support import RECORDED, read, written
from tests.support.hostile import twisted
from tests.support.translation import Assembly, assembled
from tokenworks.catalog import Counts
from tokenworks.gateway.translate.form import (
    Begin,
    Delta,
    End,
    Finish,
    PartEnd,
    Reasoning,
    Stop,
    Text,
    TextBegin,
    ToolCall,
    UsageReport,
)
from tokenworks.gateway.translate.messages import codec
from tokenworks.gateway.translate.messages.reader import OPEN_BLOCKS_MAX

STOPS = {"end_turn": Stop.END, "tool_use": Stop.TOOL}
USAGE = {"input_tokens": 3, "output_tokens": 1}


def start(index, block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index, **delta):
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index):
    return {"type": "content_block_stop", "index": index}


def whole(*blocks, reason="end_turn"):
    return [message_start(USAGE), *blocks, message_delta({"output_tokens": 9}, reason), STOP]


@pytest.mark.parametrize("path", RECORDED or [None], ids=lambda path: path.stem if path else "none")
def test_a_recorded_stream_is_read_as_it_is_meant(path):
    if path is None:
        pytest.skip("no vendors' streams beside the checkout")
    told = json.loads(path.read_text())
    expect = told["expect"]
    assembly = Assembly().take(read(*(event["data"] for event in told["events"])))
    parts = assembly.answer().parts
    assert "".join(part.text for part in parts if isinstance(part, Text)) == expect["text"]
    assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == expect["reasoning"]
    calls = [
        {"id": p.call_id, "name": p.name, "arguments": p.arguments} for p in parts if isinstance(p, ToolCall)
    ]
    assert calls == expect["tool_calls"]
    said, counts = expect["usage"], assembly.usage
    if "error" in expect:
        assert not assembly.ended and assembly.stop is None and not assembly.open
        assert counts.output == said["output_reported"]
        return
    assert assembly.ended and assembly.stop is STOPS[expect["finish_reason"]]
    assert counts == Counts(
        said["input_uncached"], said["cache_read"], said.get("cache_write_5m", 0), 0, said["output"],
        cache_write_1h=said.get("cache_write_1h", 0),
    )  # fmt: skip


def test_the_events_of_a_text():
    assert read(*whole(*text_block("a", "b"))) == [
        Begin("1", "v", 0, Counts(3, output=1)), TextBegin(0), Delta(0, "a"), Delta(0, "b"), PartEnd(0), Finish(Stop.END),
        UsageReport(Counts(3, output=9)), End(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("max_tokens", Stop.LENGTH), ("pause_turn", Stop.PAUSE), ("refusal", Stop.REFUSAL), ("stop_sequence", Stop.SEQUENCE),
        ("model_context_window_exceeded", Stop.CONTEXT), ("something_new", Stop.END),
    ],
)  # fmt: skip
def test_reasons_to_stop(reason, expected):
    assert assembled(read(*whole(*text_block("a"), reason=reason))).stop is expected


def test_a_reason_that_is_not_known_after_a_call_is_a_call():
    blocks = [start(0, {"type": "tool_use", "id": "c", "name": "f", "input": {}}), stop(0)]
    answer = assembled(read(*whole(*blocks, reason="something_new")))
    assert answer.stop is Stop.TOOL and answer.parts == (ToolCall("c", "f", "{}"),)


def test_usage_is_restated():
    """Server tools raise the input; what is not said again stays."""
    first = {"input_tokens": 5, "cache_creation_input_tokens": 30, "output_tokens": 1,
             "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}}  # fmt: skip
    last = {
        "input_tokens": 500,
        "cache_creation_input_tokens": 30,
        "output_tokens": 8,
        "output_tokens_details": {"thinking_tokens": 3},
    }
    answer = assembled(read(message_start(first), message_delta(last), STOP))
    assert answer.usage == Counts(500, 0, 10, 0, 5, 3, 0, 20)


def test_tools_that_run_at_the_vendor_are_nothing():
    blocks = [
        start(0, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}), piece(0, type="input_json_delta", partial_json="{}"),
        stop(0), start(1, {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]}), stop(1),
        start(2, {"type": "text", "text": ""}), piece(2, type="citations_delta", citation={"type": "char_location"}),
        piece(2, type="text_delta", text="a"), stop(2),
    ]  # fmt: skip
    answer = assembled(read(*whole(*blocks)))
    assert answer.parts == (Text("a"),)


def test_what_stands_in_the_start_of_a_block_is_read():
    blocks = [
        start(0, {"type": "thinking", "thinking": "t", "signature": "s"}), stop(0), start(1, {"type": "redacted_thinking", "data": "d"}), stop(1),
        start(2, {"type": "text", "text": "a"}), stop(2), start(3, {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}), stop(3),
    ]  # fmt: skip
    assert assembled(read(*whole(*blocks, reason="tool_use"))).parts == (
        Reasoning("t", signature="s"), Reasoning(encrypted="d"), Text("a"), ToolCall("c", "f", '{"x":1}'),
    )  # fmt: skip


def test_text_in_a_block_of_another_kind_is_not_lost():
    blocks = [
        start(0, {"type": "text", "text": ""}), piece(0, type="thinking_delta", thinking="t"), piece(0, type="text_delta", text="a"), stop(0),
        piece(1, type="text_delta", text="b"), stop(1),
    ]  # fmt: skip
    parts = assembled(read(*whole(*blocks))).parts
    assert parts == (Text(""), Reasoning("t"), Text("a"), Text("b"))


def test_blocks_that_do_not_end_end_with_the_message():
    events = [
        message_start(USAGE),
        start(0, {"type": "text", "text": "a"}),
        start(1, {"type": "text", "text": "b"}),
    ]
    assert assembled(read(*events, message_delta({"output_tokens": 2}), STOP)).parts == (Text("a"), Text("b"))
    assert [type(event) for event in read(*events)[-2:]] == [PartEnd, PartEnd]
    assert isinstance(read(*events, message_delta({"output_tokens": 2}))[-1], End)


def test_the_blocks_that_are_open_are_bounded():
    opened = [
        start(at, {"type": "tool_use", "id": f"c{at}", "name": "f"}) for at in range(3 * OPEN_BLOCKS_MAX)
    ]
    late = [piece(at + 10**6, type="text_delta", text="t") for at in range(OPEN_BLOCKS_MAX)]
    assembly = Assembly()
    reader = codec.event_reader()
    for event in [message_start(USAGE), *opened, *late]:
        assembly.take(reader.read("", json.dumps(event).encode()))
        assert len(assembly.open) <= OPEN_BLOCKS_MAX
    assert len(assembly.open) == OPEN_BLOCKS_MAX


def test_events_that_can_not_be_read_are_nothing():
    reader = codec.event_reader()
    for payload in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"type":5}',
        b'{"type":"ping"}',
        b'{"type":"error","error":{}}',
    ):
        assert list(reader.read("", payload)) == []
    assert reader.read("message_stop", b"{}")[-1] == End()
    assert list(reader.read("", b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}')) == []
    assert list(reader.finish()) == []


def test_whatever_an_upstream_sends_is_read_in_an_order_that_the_form_permits():
    seeded = random.Random(5)
    tool = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    native = whole(
        start(0, {"type": "thinking", "thinking": "", "signature": ""}), piece(0, type="thinking_delta", thinking="t"),
        piece(0, type="signature_delta", signature="s"), stop(0), *text_block("a", "b", index=1), start(2, tool),
        piece(2, type="input_json_delta", partial_json="{}"), stop(2), reason="tool_use",
    )  # fmt: skip
    for _ in range(800):
        events = twisted(seeded, native)
        events = [event for event in events if isinstance(event, dict)]
        if seeded.random() < 0.3:
            seeded.shuffle(events)
        out = read(*events)
        assembly = Assembly()
        assembly.take(out)
        written(out)
