"""Streams of messages: what is written is read as it was, the SDK rebuilds it, and blocks never interleave."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.translate.messages.support import (
    RECORDED,
    check_order,
    naming,
    parsed,
    read,
    rebuilt,
    written,
)
from tests.support.translation import EVERYTHING, assembled, streams
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.meter import EventTooLarge
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Finish,
    PartEnd,
    Reasoning,
    ReasoningBegin,
    RefusedBegin,
    Signed,
    Stop,
    SummaryDelta,
    TextBegin,
    Tool,
    UsageReport,
)
from tokenworks.gateway.translate.messages import codec
from tokenworks.gateway.translate.messages.writer import BUFFERED_BYTES_MAX
from tokenworks.gateway.translate.names import ToolNames

CARRIED = EVERYTHING - {
    "reasoning.summary", "reasoning.item_id", "refused", "both", "call.custom", "call.namespace", "call.item_id", "usage.audio",
    "interleaved", "answer.service_tier",
}  # fmt: skip
STOPS = st.sampled_from([Stop.END, Stop.LENGTH, Stop.REFUSAL, Stop.PAUSE, Stop.CONTEXT])
USED = Counts(10, 2, 3, 0, 5, 1, 0, 4)


def expected(answer):
    """As messages tell it: no time, what is encrypted is a block of its own, and marks where no provider signed."""
    parts = []
    for part in answer.parts:
        if isinstance(part, Reasoning):
            if part.text or part.signature:
                parts.append(Reasoning(part.text, signature=part.signature or "tokenworks.text:"))
            if part.encrypted:
                parts.append(Reasoning(encrypted="tokenworks.data:" + part.encrypted))
        else:
            parts.append(part)
    return msgspec.structs.replace(answer, parts=tuple(parts), answer_id="a1", model="shop/best", created_s=0)


@settings(max_examples=30, deadline=None)
@given(streams(CARRIED, stops=STOPS))
def test_what_is_written_is_read_as_it_was(drawn):
    answer, events = drawn
    out = written(events)
    check_order(out)
    assert assembled(read(*out)) == expected(answer)


@settings(max_examples=30, deadline=None)
@given(streams(CARRIED | {"interleaved", "call.custom", "reasoning.summary"}, stops=STOPS), st.data())
def test_the_sdk_rebuilds_the_message_however_the_events_come(drawn, data):
    answer, events = drawn
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=4).map(sorted))
    writer = codec.event_writer(naming())
    ends = [0, *cuts, len(events)]
    out = parsed(b"".join(writer.write(events[a:b]) for a, b in pairwise(ends)))
    check_order(out)
    message = rebuilt(out)
    whole = codec.write_answer(answer, naming())
    content = [block.to_dict() for block in message.content]
    if any(isinstance(part, Reasoning) and part.encrypted and part.text for part in answer.parts):
        assert len(content) == len(whole["content"])
    assert content == whole["content"]
    assert message.stop_reason == whole["stop_reason"]
    assert message.usage.output_tokens == answer.usage.output_tokens
    assert message.usage.input_tokens == answer.usage.fresh_input
    assert message.usage.cache_read_input_tokens == answer.usage.cached_input


@pytest.mark.parametrize("path", RECORDED or [None], ids=lambda path: path.stem if path else "none")
def test_a_recorded_stream_is_rebuilt_as_a_native_one(path):
    if path is None:
        pytest.skip("no vendors' streams beside the checkout")
    told = json.loads(path.read_text())
    if "error" in told["expect"]:
        return
    native = [event["data"] for event in told["events"]]
    again = rebuilt(written(read(*native)))
    first = rebuilt(native)
    assert again.content == first.content and again.stop_reason == first.stop_reason
    assert again.usage.to_dict() | {"service_tier": "standard"} == first.usage.to_dict()


def test_a_call_keeps_what_others_say_until_it_ends():
    events = [
        Begin("x", "m"), TextBegin(0), Delta(0, "a"), CallBegin(1, "c1", "f"), CallBegin(2, "c2", "g"), Delta(2, '{"x"'), Delta(1, "{}"),
        Delta(0, "b"), PartEnd(0), Delta(2, ":1}"), PartEnd(2), PartEnd(1), Finish(Stop.TOOL), UsageReport(USED), End(),
    ]  # fmt: skip
    out = written(events)
    check_order(out)
    message = rebuilt(out)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use", "text"]
    assert message.content[1].input == {} and message.content[2].input == {"x": 1}
    assert message.content[3].text == "b" and message.stop_reason == "tool_use"


def test_parts_that_alternate_become_blocks_of_their_own():
    events = [
        Begin("x", "m"),
        TextBegin(0),
        ReasoningBegin(1),
        Delta(1, "t"),
        Delta(0, "a"),
        Delta(1, "u"),
        Delta(0, "b"),
    ]
    out = written([*events, PartEnd(0), PartEnd(1), Finish(Stop.END), UsageReport(USED), End()])  # fmt: skip
    check_order(out)
    blocks = rebuilt(out).content
    assert [getattr(block, "text", None) or block.thinking for block in blocks] == ["t", "a", "u", "b"]


def test_what_waits_is_bounded():
    writer = codec.event_writer(naming())
    writer.write([Begin("x", "m"), CallBegin(0, "c1", "f"), CallBegin(1, "c2", "g")])
    piece = "x" * 1_000_000
    for _ in range(BUFFERED_BYTES_MAX // 4_000_200):
        writer.write([Delta(1, piece)])
    with pytest.raises(EventTooLarge):
        for _ in range(2):
            writer.write([Delta(1, piece)])


def test_many_small_pieces_that_wait_are_bounded_too():
    writer = codec.event_writer(naming())
    writer.write([Begin("x", "m"), CallBegin(0, "c1", "f"), CallBegin(1, "c2", "g")])
    with pytest.raises(EventTooLarge):
        for _ in range(BUFFERED_BYTES_MAX // 100):
            writer.write([Delta(1, "x")])


def test_the_buffer_is_free_again():
    writer = codec.event_writer(naming())
    out = writer.write([Begin("x", "m")])
    for number in range(0, 40, 2):
        out += writer.write(
            [CallBegin(number, f"c{number}", "f"), CallBegin(number + 1, f"c{number + 1}", "g")]
        )
        out += writer.write(
            [Delta(number + 1, '"' + "x" * 200_000 + '"'), PartEnd(number + 1), PartEnd(number)]
        )
    out += writer.write([Finish(Stop.TOOL), UsageReport(USED), End()])
    check_order(parsed(out))
    assert writer._buffered_bytes == 0


def test_calls_that_never_end_end_with_the_stream():
    events = [
        Begin("x", "m"),
        CallBegin(0, "c1", "f"),
        CallBegin(1, "c2", "g"),
        TextBegin(2),
        Delta(2, "t"),
        Delta(1, "{}"),
        End(),
    ]
    out = written(events)
    check_order(out)
    assert [block.type for block in rebuilt(out).content] == ["tool_use", "tool_use", "text"]


def test_usage_at_the_end_restates_the_whole():
    out = written(
        [Begin("x", "m"), TextBegin(0), Delta(0, "a"), PartEnd(0), Finish(Stop.END), UsageReport(USED), End()]
    )
    assert out[0]["message"]["usage"]["input_tokens"] == 0
    assert out[-2]["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}, "output_tokens": 6,
        "output_tokens_details": {"thinking_tokens": 1},
    }  # fmt: skip
    usage = rebuilt(out).usage
    assert (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (
        10,
        7,
        2,
    )
    assert usage.output_tokens == 6 and usage.output_tokens_details.thinking_tokens == 1


def test_a_later_report_of_usage_is_told_if_it_differs():
    begin = [
        Begin("x", "m"),
        UsageReport(Counts(10)),
        TextBegin(0),
        Delta(0, "a"),
        PartEnd(0),
        Finish(Stop.END),
    ]
    assert len(written([*begin, UsageReport(USED), UsageReport(USED), End()])) == len(
        written([*begin, UsageReport(USED), End()])
    )
    out = written([*begin, UsageReport(Counts(10)), UsageReport(USED), End()])
    assert [event["type"] for event in out[-3:]] == ["message_delta", "message_delta", "message_stop"]
    assert rebuilt(out).usage.output_tokens == 6
    assert written([*begin, End()])[-2]["usage"]["input_tokens"] == 10


def test_a_cut_stream_tells_its_reason_without_an_end():
    writer = codec.event_writer(naming())
    writer.write([Begin("x", "m"), TextBegin(0), Delta(0, "a")])
    out = parsed(writer.write([PartEnd(0), Finish(Stop.LENGTH), UsageReport(USED)]))
    assert [event["type"] for event in out] == ["content_block_stop", "message_delta"]
    assert out[1]["delta"]["stop_reason"] == "max_tokens"


def test_thinking_without_a_signature_has_a_mark():
    events = [
        Begin("x", "m"),
        ReasoningBegin(0),
        SummaryDelta(0, 0, "a"),
        SummaryDelta(0, 0, "b"),
        SummaryDelta(0, 1, "c"),
    ]
    events += [
        Delta(0, "again"),
        Signed(0, encrypted="zz"),
        PartEnd(0),
        Finish(Stop.END),
        UsageReport(USED),
        End(),
    ]
    blocks = rebuilt(written(events)).content
    assert (blocks[0].thinking, blocks[0].signature, blocks[1].data) == (
        "ab\n\nc",
        "tokenworks.text:",
        "tokenworks.data:zz",
    )


def test_a_refusal_is_text():
    events = [
        Begin("x", "m"),
        RefusedBegin(0),
        Delta(0, "no"),
        PartEnd(0),
        Finish(Stop.FILTER),
        UsageReport(USED),
        End(),
    ]
    message = rebuilt(written(events))
    assert message.content[0].text == "no" and message.stop_reason == "refusal"


def test_names_come_back_and_free_text_is_an_object():
    tools = (Tool("a.long/name"), Tool("plain"))
    wire = ToolNames(tools).wire("a.long/name")
    events = [
        Begin("x", "m"),
        CallBegin(0, "", wire),
        PartEnd(0),
        CallBegin(1, "c2", "free", custom=True),
        Delta(1, 'say "'),
        Delta(1, "hi\n"),
    ]
    out = written([*events, PartEnd(1), Finish(Stop.END), UsageReport(USED), End()], tools=tools)
    message = rebuilt(out)
    assert message.content[0].name == "a.long/name" and message.content[0].id == "toolu_a1_0"
    assert message.content[1].input == {"input": 'say "hi\n'}
    assert message.stop_reason == "tool_use"


def test_a_stream_without_its_beginning_gets_one():
    out = written([TextBegin(0), Delta(0, "a"), PartEnd(0), Finish(Stop.END), End()])
    check_order(out)
    assert out[0]["message"]["id"] == "msg_a1" and out[0]["message"]["model"] == "shop/best"


def test_events_of_parts_that_never_began_are_nothing():
    assert written([Begin("x", "m")]) == written(
        [Begin("x", "m"), Delta(7, "a"), Signed(7, "s"), PartEnd(7), SummaryDelta(7, 0, "x")]
    )


def test_the_sdks_client_reads_the_bytes_of_a_stream():
    import anthropic
    import httpx2

    events = [
        Begin("x", "m"), ReasoningBegin(0), Delta(0, "t\u2028"), PartEnd(0), TextBegin(1), Delta(1, "data: x\n\n"), PartEnd(1),
        CallBegin(2, "c1", "f"), Delta(2, '{"a":'), Delta(2, '"\U0001f98a"}'), PartEnd(2), Finish(Stop.TOOL), UsageReport(USED), End(),
    ]  # fmt: skip
    writer = codec.event_writer(naming())
    body = b"".join(writer.write([event]) for event in events)
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    transport = httpx2.MockTransport(lambda _: answer)
    client = anthropic.Anthropic(
        api_key="k", base_url="http://stub", http_client=httpx2.Client(transport=transport)
    )
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].thinking == "t\u2028" and message.content[1].text == "data: x\n\n"
    assert message.content[2].input == {"a": "\U0001f98a"} and message.usage.output_tokens == 6
