"""The writer of a chat stream: what it writes is read back, and the SDK of OpenAI rebuilds the same message from it."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from tests.gateway.translate.chat.test_answers import REQUEST, naming_of
from tests.gateway.translate.chat.test_reader import STREAMS, bytes_of
from tests.support.translation import assembled, counts, read_stream, streams
from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.usage import read_openai
from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.chat.usage import written_usage
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Finish,
    PartEnd,
    Reasoning,
    ReasoningBegin,
    Stop,
    SummaryDelta,
    Text,
    TextBegin,
    Tool,
    ToolCall,
    UsageReport,
)

CARRIED = frozenset({
    "both", "interleaved", "begin.usage", "reasoning", "reasoning.signature", "reasoning.encrypted", "refused", "call.custom",
    "stop_sequence", "usage.audio", "usage.hour",
})  # fmt: skip
STREAMED = msgspec.structs.replace(REQUEST, stream=True, stream_usage=True)
BEGIN = Begin("1", "m", 1_790_000_000)


def written(events, answer, request=STREAMED, *, step=1):
    writer = codec.event_writer(naming_of(answer, request))
    return b"".join(writer.write(events[at : at + step]) for at in range(0, len(events), step))


def payloads(data):
    events = data.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events.pop() == "data: [DONE]"
    return [json.loads(event[6:]) for event in events]


def chunks(events, request=STREAMED):
    writer = codec.event_writer(naming_of(BEGIN, request))
    return payloads(writer.write(events))


@given(streams(CARRIED))
@settings(max_examples=60, deadline=None)
def test_what_is_carried_is_read_back(case):
    answer, events = case
    assert assembled(events) == answer
    data = written(events, answer)
    assert data == written(events, answer, step=len(events))
    assert assembled(read_stream(codec.event_reader(), data)) == answer


@given(streams(CARRIED - {"call.custom"}))
@settings(max_examples=40, deadline=None)
def test_the_sdk_rebuilds_the_message(case):
    answer, events = case
    state = ChatCompletionStreamState()
    for payload in payloads(written(events, answer)):
        state.handle_chunk(ChatCompletionChunk.model_validate(payload, strict=True))
    completion = state.current_completion_snapshot
    message = completion.choices[0].message
    assert (message.content or "") == "".join(p.text for p in answer.parts if isinstance(p, Text))
    thought = "".join(p.text for p in answer.parts if isinstance(p, Reasoning))
    assert (message.model_extra.get("reasoning_content") or "") == thought
    calls = [ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    assert calls == [part for part in answer.parts if isinstance(part, ToolCall)]
    assert completion.usage.total_tokens == answer.usage.total
    # What the client sends back is the reasoning with its signature.
    body = {"messages": [{"role": "user", "content": "x"}, message.model_dump()], "model": "m"}
    request, _ = codec.read_request(body)
    back = [p for t in request.turns[1:] for p in t.parts if isinstance(p, Reasoning)]
    assert back == [p for p in answer.parts if isinstance(p, Reasoning)]


def test_usage_is_written_only_if_the_client_asked_for_it():
    report = UsageReport(Counts(3, output=2))
    events = (BEGIN, TextBegin(0), Delta(0, "x"), PartEnd(0), Finish(Stop.END), report, End())
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks(events, REQUEST))
    assert chunks(events)[-1]["choices"] == []
    assert chunks(events)[-1]["usage"]["total_tokens"] == 5


def test_a_custom_tools_input_comes_as_free_text():
    request = msgspec.structs.replace(STREAMED, tools=(Tool("patch", custom=True), Tool("f", parameters={})))
    pieces = ['{"in', 'put": "a\\', "nb\\ud83e", '\\udd8a"', "}"]
    events = (
        BEGIN, CallBegin(0, "c1", "patch"), *(Delta(0, piece) for piece in pieces), PartEnd(0),
        CallBegin(1, "c2", "f"), Delta(1, "{}"), PartEnd(1), Finish(Stop.TOOL), End(),
    )  # fmt: skip
    calls = [
        call
        for chunk in chunks(events, request)
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert calls[0] == {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert "".join(call["custom"]["input"] for call in calls if call["index"] == 0) == "a\nb\U0001f98a"
    assert calls[-1] == {"index": 1, "function": {"arguments": "{}"}}


def test_summaries_and_parts_of_reasoning_are_paragraphs():
    events = (
        BEGIN, ReasoningBegin(0), SummaryDelta(0, 0, "One"), SummaryDelta(0, 0, "."), SummaryDelta(0, 1, "Two."), PartEnd(0),
        ReasoningBegin(1), Delta(1, "Three."), PartEnd(1), Finish(Stop.END), End(),
    )  # fmt: skip
    deltas = [choice["delta"] for chunk in chunks(events) for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "One.\n\nTwo.\n\nThree."


def test_a_stream_has_one_finish_and_always_one():
    twice = (
        BEGIN,
        TextBegin(0),
        Delta(0, "x"),
        PartEnd(0),
        Finish(Stop.LENGTH),
        Finish(Stop.END),
        End(),
    )
    for events, reason in ((twice, "length"), ((BEGIN, End()), "stop")):
        reasons = [choice["finish_reason"] for chunk in chunks(events) for choice in chunk["choices"]]
        assert reasons == [None] * (len(reasons) - 1) + [reason]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_the_sdk_rebuilds_a_vendors_answer(path):
    """A vendor's stream, read and written again, is one that the SDK takes, whatever the vendor's own spelling is."""
    told = json.loads(path.read_text())
    expect = told["expect"]
    events = read_stream(codec.event_reader(), bytes_of(told))
    if "error" in expect:
        return
    state = ChatCompletionStreamState()
    last = None
    for payload in payloads(written(events, events[0])):
        last = ChatCompletionChunk.model_validate(payload, strict=True)
        state.handle_chunk(last)
    message = state.current_completion_snapshot.choices[0].message
    assert (message.content or "") == expect["text"]
    assert (message.model_extra.get("reasoning_content") or "") == expect["reasoning"]
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in message.tool_calls or ()
    ]
    assert calls == expect["tool_calls"]
    if "usage" in expect:
        assert not last.choices
        report = next(event for event in reversed(events) if isinstance(event, UsageReport))
        assert read_openai(last.usage.model_dump(exclude_none=True)).counts == report.usage


@given(counts())
@settings(max_examples=50, deadline=None)
def test_usage_is_read_back_class_by_class(usage):
    found = read_openai(written_usage(usage))
    assert (found.counts, found.total, found.flags) == (usage, usage.total, ())
