"""Streams of responses as providers and engines send them."""

import json
from pathlib import Path

import pytest

from tests.gateway.translate.responses.conftest import (
    CALL,
    FULL_EVENTS,
    FULL_RESPONSE,
    MESSAGE,
    REASONING,
    USAGE,
    event,
    events_of,
)
from tests.support.translation import assembled
from tokenworks.catalog import Counts
from tokenworks.gateway.translate.form import (
    Answer,
    Begin,
    CallBegin,
    Delta,
    End,
    Finish,
    PartEnd,
    Reasoning,
    ReasoningBegin,
    Refused,
    Stop,
    SummaryDelta,
    Text,
    TextBegin,
    ToolCall,
    UsageReport,
)
from tokenworks.gateway.translate.responses import codec
from tokenworks.gateway.translate.responses.reader import ITEMS_MAX
from tokenworks.gateway.translate.responses.reader_items import PARTS_MAX

COUNTS = Counts(50, 40, 10, 0, 10, 20)


def read(events, finish=True):
    reader = codec.event_reader()
    out = []
    for one in events:
        out += reader.read("", json.dumps(one).encode())
    return out + list(reader.finish()) if finish else out


def test_a_full_stream_and_the_whole_answer_are_the_same():
    expected = Answer("9", "m", (
        Reasoning(summary=("It thinks.", "And more."), encrypted="gAAA", item_id="rs_1"),
        Text("Hello there"), Refused("No more"),
        ToolCall("c1", "look", '{"a": 1}', item_id="fc_1"), ToolCall("c2", "patch", "*** Begin", custom=True, item_id="ctc_1"),
    ), Stop.TOOL, usage=COUNTS, created_s=1790000000)  # fmt: skip
    assert assembled(read(FULL_EVENTS)) == expected
    whole = codec.read_answer(FULL_RESPONSE)
    assert (whole.service_tier, whole.parts, whole.usage, whole.stop) == (
        "default",
        expected.parts,
        COUNTS,
        Stop.TOOL,
    )


def test_pieces_pass_as_they_come():
    events = events_of({**FULL_RESPONSE, "output": [MESSAGE]})
    reader = codec.event_reader()
    made = [list(reader.read("", json.dumps(one).encode())) for one in events]
    assert made[:6] == [
        [Begin("9", "m", 1790000000)],
        [],
        [],
        [],
        [TextBegin(0), Delta(0, "Hel")],
        [Delta(0, "lo there")],
    ]


@pytest.mark.parametrize("kept", [
    {"created", "completed"},
    {"created", "output_item.done", "completed"},
    {"output_text.delta", "refusal.delta", "output_item.added", "function_call_arguments.delta", "custom_tool_call_input.delta",
     "reasoning_summary_text.delta", "completed"},
    {"created", "output_item.added", "output_text.done", "refusal.done", "function_call_arguments.done", "custom_tool_call_input.done",
     "reasoning_summary_text.done", "completed"},
    {"content_part.done", "reasoning_summary_part.done", "completed"},
])  # fmt: skip
def test_streams_that_lack_events_give_the_whole_text_once(kept):
    """Engines and other gateways leave out events: LiteLLM began with pieces (BerriAI/litellm issue 22102)."""
    events = [one for one in FULL_EVENTS if one["type"].removeprefix("response.") in kept]
    answer = assembled(read(events))
    texts = [
        getattr(part, "text", "") or getattr(part, "arguments", "") or part.summary for part in answer.parts
    ]
    assert sorted(map(str, texts)) == sorted(
        map(str, [("It thinks.", "And more."), "Hello there", "No more", '{"a": 1}', "*** Begin"])
    )
    assert answer.stop is Stop.TOOL and answer.usage == COUNTS


def test_events_without_index_or_with_other_ids_at_the_end():
    """The last event of some gateways has other ids than the stream (BerriAI/litellm pull 37946)."""
    events = events_of({**FULL_RESPONSE, "output": [MESSAGE]})
    for one in events:
        one.pop("output_index", None)
    assert assembled(read(events)).parts == (Text("Hello there"), Refused("No more"))
    events = events_of({**FULL_RESPONSE, "output": [MESSAGE]})
    events[-1] = event("completed", response={**FULL_RESPONSE, "output": [{**MESSAGE, "id": "chatcmpl-1"}]})
    assert assembled(read(events)).parts == (Text("Hello there"), Refused("No more"))


@pytest.mark.parametrize("other_ids", [False, True])
def test_an_index_that_is_used_for_all_items(other_ids):
    """Gateways that translate themselves number each item 0."""
    events = [{**one, "output_index": 0} if "output_index" in one else one for one in FULL_EVENTS]
    if other_ids:
        output = [{**item, "id": "chatcmpl-1"} for item in FULL_RESPONSE["output"]]
        events[-1] = event("completed", response={**FULL_RESPONSE, "output": output})
    assert assembled(read(events)) == assembled(read(FULL_EVENTS))


def test_ids_that_change_with_each_piece():
    """LiteLLM made a new id for each piece of reasoning (BerriAI/litellm pull 37946)."""
    pieces = [
        event("reasoning_summary_text.delta", delta=text, item_id=f"rs_{at}", output_index=0, summary_index=0)
        for at, text in enumerate("abc")
    ]
    assert read(pieces, finish=False)[2:] == [SummaryDelta(0, 0, text) for text in "abc"]


def test_reasoning_text_is_the_text():
    item = {
        "id": "rs",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    place = {"item_id": "rs", "output_index": 0, "content_index": 0}
    begun = event("output_item.added", output_index=0, item={**item, "content": []})
    part = event("content_part.added", part={"type": "reasoning_text", "text": ""}, **place)
    pieces = [event("reasoning_text.delta", delta=text, **place) for text in ("H", "m.")]
    whole = [
        event("reasoning_text.done", text="Hm.", **place),
        event("content_part.done", part=item["content"][0], **place),
    ]
    made = read(
        [begun, part, *pieces, *whole, event("output_item.done", output_index=0, item=item)], finish=False
    )
    assert made == [Begin("", ""), ReasoningBegin(0, "rs"), Delta(0, "H"), Delta(0, "m."), PartEnd(0)]


def test_reasoning_with_nothing_in_it_is_no_part():
    """OpenAI sends an empty reasoning item for each thought that it does not show."""
    empty = {"id": "rs", "type": "reasoning", "summary": []}
    made = read(events_of({**FULL_RESPONSE, "output": [empty, MESSAGE]}))
    assert assembled(made).parts == (Text("Hello there"), Refused("No more"))


def test_summaries_are_numbered_in_their_order():
    place = {"item_id": "rs", "output_index": 0}
    pieces = [
        event("reasoning_summary_text.delta", delta=text, summary_index=at, **place)
        for at, text in ((4, "a"), (4, "b"), (7, "c"), (4, "d"))
    ]
    assert read(pieces, finish=False)[2:] == [
        SummaryDelta(0, 0, "a"),
        SummaryDelta(0, 0, "b"),
        SummaryDelta(0, 1, "c"),
        SummaryDelta(0, 2, "d"),
    ]


@pytest.mark.parametrize(("status", "details", "stop"), [
    ("completed", None, Stop.END), ("incomplete", {"reason": "max_output_tokens"}, Stop.LENGTH),
    ("incomplete", {"reason": "content_filter"}, Stop.FILTER), ("incomplete", None, Stop.LENGTH), ("incomplete", {"reason": "steered"}, Stop.END),
])  # fmt: skip
def test_why_a_stream_stopped(status, details, stop):
    response = {**FULL_RESPONSE, "output": [MESSAGE], "status": status, "incomplete_details": details}
    made = read(events_of(response))
    assert made[-3:] == [Finish(stop), UsageReport(COUNTS), End()]
    assert codec.read_answer(response).stop is stop


def test_a_stream_that_fails_or_breaks_off_has_no_end():
    events = events_of({**FULL_RESPONSE, "output": [MESSAGE]})
    for end in (
        [],
        [event("failed", response={**FULL_RESPONSE, "status": "failed"})],
        [{"type": "error", "message": "x"}],
    ):
        made = read([*events[:6], *end])
        assert made[-1] == PartEnd(0)
        assert not [one for one in made if isinstance(one, Finish | UsageReport | End)]
    made = read([*events[:6], {"type": "error"}, *events[6:]])
    assert made[-1] == PartEnd(0), "what follows an error is not read"


def test_a_recorded_stream_that_fails():
    recorded = Path(__file__).parents[1] / "streams" / "openai-responses-error-mid.json"
    stream = json.loads(recorded.read_text())
    made = read([one["data"] for one in stream["events"]])
    assert made == [Begin("TWsyn0003", "gpt-5-nano-2025-08-07", 1790000000)]


def test_items_of_the_providers_tools_are_nothing():
    other = {"id": "mcp_1", "type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s"}
    made = read(events_of({**FULL_RESPONSE, "output": [other, MESSAGE]}))
    assert assembled(made).parts == (Text("Hello there"), Refused("No more"))
    assert assembled(made).stop is Stop.END


def test_a_call_begins_when_its_name_is_known():
    early = event("function_call_arguments.delta", delta='{"a"', item_id="fc_1", output_index=0)
    made = read([early, event("output_item.done", output_index=0, item=CALL)], finish=False)
    assert made == [
        Begin("", ""),
        CallBegin(0, "c1", "look", item_id="fc_1"),
        Delta(0, '{"a": 1}'),
        PartEnd(0),
    ]


def test_halves_of_surrogate_pairs_do_not_lose_a_piece():
    payloads = [
        b'{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":"a\\ud83e"}',
        b'{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":"\\udd8ab"}',
    ]
    reader = codec.event_reader()
    made = [one for payload in payloads for one in reader.read("", payload)]
    assert [one.text for one in made if isinstance(one, Delta)] == ["a\ufffd", "\ufffdb"]


def test_items_are_bounded():
    reader = codec.event_reader()
    for at in range(ITEMS_MAX + 10):
        made = reader.read(
            "", json.dumps(event("output_text.delta", delta="x", output_index=at, content_index=0)).encode()
        )
    assert made == []
    ends = reader.finish()
    assert len(ends) == ITEMS_MAX


def test_summaries_are_bounded():
    reader = codec.event_reader()
    made = []
    for at in range(PARTS_MAX + 10):
        piece = event(
            "reasoning_summary_text.delta", delta="x", item_id="rs", output_index=0, summary_index=at
        )
        made += reader.read("", json.dumps(piece).encode())
    assert len([one for one in made if isinstance(one, SummaryDelta)]) == PARTS_MAX


def test_usage_is_read_as_the_meter_reads_it():
    made = read(
        [
            event(
                "completed",
                response={**FULL_RESPONSE, "output": [REASONING], "usage": {**USAGE, "input_tokens": None}},
            )
        ]
    )
    assert UsageReport(Counts(50, 40, 10, 0, 10, 20)) in made
    assert not [
        one
        for one in read([event("completed", response={**FULL_RESPONSE, "usage": None})])
        if isinstance(one, UsageReport)
    ]
