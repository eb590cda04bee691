"""What the codec writes, it reads again: requests, answers and streams. And no input of any shape makes it fail otherwise than it may."""

import copy
import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.translate.responses.conftest import FULL_EVENTS
from tests.support.translation import (
    EVERYTHING,
    Assembly,
    answers,
    assembled,
    read_stream,
    requests,
    streams,
    tools_of,
)
from tokenworks.gateway.translate.codec import Codec, EventReader, EventWriter, Naming, Target
from tokenworks.gateway.translate.form import (
    File,
    Image,
    Reasoning,
    ReasoningOptions,
    Request,
    Text,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.responses import codec
from tokenworks.gateway.translate.responses.items import ERROR_HEAD
from tokenworks.gateway.translate.responses.reasoning import MARK
from tokenworks.gateway.translate.responses.request_writer import OUTPUT_TOKENS_MIN
from tokenworks.gateway.translate.responses.responses_codec import ResponsesCodec

# What responses have no place for, or another one (fields.yaml).
NOT_IN_REQUESTS = {
    "text.cache", "image.cache", "file.cache", "call.cache", "result.cache", "tool.cache", "file.text", "reasoning.signature",
    "call.item_id", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop", "reasoning.budget_tokens", "reasoning.enabled",
    "reasoning.adaptive",
}  # fmt: skip
NOT_IN_ANSWERS = {"text.cache", "call.item_id", "call.cache", "tool.cache", "stop_sequence", "begin.usage"}
replace = msgspec.structs.replace


def test_the_codec_has_all_of_the_interface():
    assert isinstance(codec, ResponsesCodec)
    made = (
        (Codec, codec),
        (EventReader, codec.event_reader()),
        (EventWriter, codec.event_writer(Naming("a", "m", 1, Request("m", ())))),
    )
    for interface, one in made:
        for name in (name for name in vars(interface) if not name.startswith("_")):
            assert callable(getattr(one, name))


def joined(turns):
    """Turns of one role in a row as one."""
    out = []
    for turn in turns:
        if out and isinstance(turn, Turn) and isinstance(out[-1], Turn) and out[-1].role == turn.role:
            out[-1] = Turn(turn.role, out[-1].parts + turn.parts)
        elif not isinstance(turn, Turn) or turn.parts:
            out.append(turn)
    return tuple(out)


def by_name(tools):
    return sorted(tools, key=lambda tool: (tool.namespace or "", tool.name))


def read_back(part):
    """The part as it is read again: with the protocol's defaults, and without what it has no place for."""
    match part:
        case Image(detail="auto"):
            return replace(part, detail=None)
        case File(data=str(), name=None):
            return replace(part, name="file.pdf")
        case File(data=None):
            return replace(part, name=None)
        case ToolResult():
            content = tuple(read_back(inner) for inner in part.content)
            if part.is_error and part.custom:
                # A custom tool's result has no status: the model reads that it failed, and a reader does not.
                head, rest = (
                    (content[0].text, content[1:])
                    if content and isinstance(content[0], Text)
                    else ("", content)
                )
                content = (Text(ERROR_HEAD + head), *rest)
            return replace(part, content=content, is_error=part.is_error and not part.custom)
    return part


def expected(request):
    turns = []
    for turn in joined(request.turns):
        if isinstance(turn, Turn):
            kept = [part for part in turn.parts if not isinstance(part, Reasoning) or part.encrypted]
            kept = [replace(part, text="") if isinstance(part, Reasoning) else part for part in kept]
            turn = Turn(turn.role, tuple(read_back(part) for part in kept))
        turns.append(turn)
    tools = [tool if tool.custom else replace(tool, strict=bool(tool.strict)) for tool in request.tools]
    if request.max_output_tokens is not None:
        request = replace(request, max_output_tokens=max(request.max_output_tokens, OUTPUT_TOKENS_MIN))
    return replace(request, turns=joined(turns), tools=tuple(by_name(tools)), stream_usage=request.stream)


@given(requests(EVERYTHING - NOT_IN_REQUESTS))
@settings(max_examples=30, deadline=None)
def test_a_request_comes_back(request):
    body, _ = codec.write_request(request, Target(signed_reasoning=True, system_turns=True))
    body = json.loads(msgspec.json.encode(body))
    again, dropped = codec.read_request(body)
    again = replace(again, turns=joined(again.turns), tools=tuple(by_name(again.tools)))
    assert again == expected(request)
    assert dropped == (("tools.description",) if any(tool.namespace for tool in request.tools) else ())


def naming_of(answer, tools=()):
    request = Request(answer.model, (), tools=tools, reasoning=ReasoningOptions(encrypted=True))
    return Naming(answer.answer_id, answer.model, answer.created_s, request)


def as_shown(answer):
    """The answer as a client of responses sees it: reasoning is a summary, a signature is inside of the encrypted content."""
    parts = []
    for part in answer.parts:
        if isinstance(part, Reasoning):
            shown = bool(part.text) and not part.summary
            mark = MARK + (part.signature or "") if shown or part.signature else None
            summary = (part.text,) if shown else part.summary
            part = Reasoning("", summary, None, part.encrypted or mark)
        parts.append(part)
    return replace(answer, parts=tuple(parts))


def without_ids(answer):
    parts = [replace(part, item_id=None) if hasattr(part, "item_id") else part for part in answer.parts]
    return replace(answer, parts=tuple(parts))


CASES = tools_of(EVERYTHING).flatmap(
    lambda tools: st.tuples(st.just(tools), streams(EVERYTHING - NOT_IN_ANSWERS, tools=tools))
)


@given(answers(EVERYTHING - NOT_IN_ANSWERS))
@settings(max_examples=50, deadline=None)
def test_an_answer_comes_back(answer):
    body = json.loads(msgspec.json.encode(codec.write_answer(answer, naming_of(answer))))
    assert without_ids(codec.read_answer(body)) == without_ids(as_shown(answer))


@given(CASES)
@settings(max_examples=50, deadline=None)
def test_a_stream_comes_back_and_ends_with_the_whole_answer(case):
    tools, (answer, events) = case
    writer = codec.event_writer(naming_of(answer, tools))
    data = b"".join(writer.write([event]) for event in events)
    again = assembled(read_stream(codec.event_reader(), data))
    assert without_ids(again) == without_ids(as_shown(answer))
    written = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]
    assert [event["sequence_number"] for event in written] == list(range(len(written)))
    whole = json.loads(msgspec.json.encode(codec.write_answer(answer, naming_of(answer, tools))))
    assert written[-1]["response"] == whole


@given(CASES)
@settings(max_examples=20, deadline=None)
def test_events_may_come_in_one_call(case):
    tools, (answer, events) = case
    one, each = codec.event_writer(naming_of(answer, tools)), codec.event_writer(naming_of(answer, tools))
    assert one.write(events) == b"".join(each.write([event]) for event in events)


# Values of wrong types, and of right types with odd contents.
HOSTILE = [
    None, True, -1, 2**70, 1.5, "", "x", [], {}, [None], [[]], [{}], {"type": "message"}, {"type": 7}, ["a"], [{"type": "function"}],
    {"role": "user"}, {"text": None}, float("inf"),
]  # fmt: skip


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(inner, (*path, key))


def with_value(root, path, value):
    if not path:
        return value
    root = copy.deepcopy(root)
    place = root
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return root


def odd_requests(request, sample=None):
    cases = [(path, value) for path in paths_of(request) for value in HOSTILE if path]
    for path, value in cases if sample is None else random.Random(5).sample(cases, sample):
        yield with_value(request, path, value)


def are_read_or_refused(bodies):
    refused = 0
    for body in bodies:
        try:
            request, dropped = codec.read_request(body)
        except Untranslatable:
            refused += 1
            continue
        assert all(isinstance(name, str) and name for name in dropped)
        again, _ = codec.write_request(request, Target(signed_reasoning=True))
        msgspec.json.encode(again)
    assert refused, "no value was refused: the bodies are not what they should be"


def test_a_request_with_a_wrong_value_is_read_or_refused(full_request):
    are_read_or_refused(odd_requests(full_request, sample=1000))


@pytest.mark.nightly
def test_a_request_with_a_wrong_value_anywhere_is_read_or_refused(full_request):
    are_read_or_refused(odd_requests(full_request))


def test_an_answer_with_a_wrong_value_anywhere_is_read(full_response):
    for path in paths_of(full_response):
        for value in HOSTILE:
            body = with_value(full_response, path, value)
            if isinstance(body, dict):
                answer = codec.read_answer(body)
                assert all(not isinstance(part, Text) or part.text for part in answer.parts)


def odd_streams(events, sample=None):
    """(the streams with one wrong value in one event), all of them or a seeded sample."""
    cases = [
        (number, path, value)
        for number, event in enumerate(events)
        for path in paths_of(event)
        for value in [*HOSTILE, "\ud83d"]
    ]
    written = [json.dumps(event).encode() for event in events]
    for number, path, value in cases if sample is None else random.Random(5).sample(cases, sample):
        odd = json.dumps(with_value(events[number], path, value)).encode()
        yield [*written[:number], odd, *written[number + 1 :]]


def keeps_the_order(payloads):
    """The assembly refuses what the form does not permit: events of parts that are not open, empty pieces, anything after the end."""
    reader, assembly = codec.event_reader(), Assembly()
    for payload in payloads:
        assembly.take(reader.read("", payload))
    assembly.take(reader.finish())
    return assembly


def test_a_stream_with_a_wrong_value_keeps_the_order_of_its_events(full_events):
    for payloads in odd_streams(full_events, sample=600):
        keeps_the_order(payloads)


@pytest.mark.nightly
def test_a_stream_with_a_wrong_value_anywhere_keeps_the_order_of_its_events(full_events):
    for payloads in odd_streams(full_events):
        keeps_the_order(payloads)


@given(st.lists(st.integers(0, 200), max_size=40))
@settings(max_examples=50, deadline=None)
def test_events_in_any_order_keep_the_order_of_the_form(order):
    keeps_the_order(json.dumps(FULL_EVENTS[at % len(FULL_EVENTS)]).encode() for at in order)


def test_what_is_no_event_gives_nothing():
    reader = codec.event_reader()
    for payload in (
        b"",
        b"[DONE]",
        b"\xff\xfe",
        b"[1]",
        b"7",
        b'"x"',
        b"{",
        b"[" * 5000,
        b"{}",
        b'{"type": 7}',
    ):
        assert list(reader.read("", payload)) == []
    assert list(reader.finish()) == []
