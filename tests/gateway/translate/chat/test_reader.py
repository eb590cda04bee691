"""The reader of a chat stream: the streams of all vendors, each as it is expected to be read."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.translation import Assembly, assembled, read_stream
from tokenworks.gateway.protocol.stream import UsageOptions, make_meter
from tokenworks.gateway.translate.chat import codec
from tokenworks.gateway.translate.chat.calls import KEPT_CHARS_MAX
from tokenworks.gateway.translate.chat.reader import CALLS_MAX
from tokenworks.gateway.translate.form import CallBegin, PartEnd, Reasoning, Stop, Text, ToolCall

STREAMS = sorted((Path(__file__).parent / "streams").glob("*.json"))
STOPS = {"stop": Stop.END, "tool_calls": Stop.TOOL, "abort": Stop.LENGTH, "error": Stop.LENGTH}


def stream_of(told, left_out=frozenset()):
    """The stream's bytes, without the events that have one of these fields."""
    out = []
    for event in told["events"]:
        if "comment" in event:
            out.append(event["comment"])
        elif event.get("done"):
            out.append("data: [DONE]")
        elif not left_out & event["data"].keys():
            out.append("data: " + json.dumps(event["data"], ensure_ascii=False))
    return "".join(f"{event}\n\n" for event in out).encode()


def bytes_of(told):
    """The stream as the meter hands it over: an event that reports an error does not pass."""
    return stream_of(told, {"error", "base_resp"})


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_vendors_stream_is_read_as_it_is_meant(path):
    told = json.loads(path.read_text())
    expect = told["expect"]
    assembly = Assembly().take(read_stream(codec.event_reader(), bytes_of(told)))
    if assembly.begin is None:
        assert "error" in expect and not expect["text"]
        return
    answer = assembly.answer()
    assert "".join(part.text for part in answer.parts if isinstance(part, Text)) == expect["text"]
    assert "".join(part.text for part in answer.parts if isinstance(part, Reasoning)) == expect["reasoning"]
    calls = [
        {"id": part.call_id, "name": part.name, "arguments": part.arguments}
        for part in answer.parts
        if isinstance(part, ToolCall)
    ]
    assert calls == expect["tool_calls"]
    if "error" in expect:
        return
    assert assembly.ended
    assert answer.stop is STOPS[expect["finish_reason"]]
    if "usage" in expect:
        usage = expect["usage"]
        assert answer.usage.input_tokens == usage["input"]
        assert answer.usage.output_tokens == usage["output"]
        assert answer.usage.cached_input == usage.get("cached", 0)
        assert answer.usage.cache_write == usage.get("cache_write", 0)
        assert answer.usage.reasoning == usage.get("reasoning", 0)
    else:
        assert answer.usage is None


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_what_the_meter_lets_pass_is_the_same_wherever_it_is_cut(path):
    told = json.loads(path.read_text())
    data = stream_of(told)
    read = []
    for step in (1, 7, len(data)):
        meter = make_meter(
            "chat", requested_model="m", usage_options=UsageOptions(final=True), event_bytes_max=10**6, text_max=None
        )  # fmt: skip
        passed = b"".join(meter.feed(data[at : at + step]) for at in range(0, len(data), step))
        reader = codec.event_reader()
        read.append(read_stream(reader, passed + meter.finish()))
        assert (meter.fault is None) == ("error" not in told["expect"])
        if meter.fault is None:
            assert meter.counts() == assembled(read[-1]).usage or meter.usage is None
    assert read[0] == read[1] == read[2]


def chunk(delta, finish=None, **fields):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps(
        {"id": "chatcmpl-1", "model": "m", "created": 7, "choices": [choice], **fields}
    ).encode()


def read(*deltas, finish="stop"):
    reader = codec.event_reader()
    events = [event for delta in deltas for event in reader.read("", chunk(delta))]
    events += reader.read("", chunk({}, finish))
    return Assembly().take([*events, *reader.read("", b"[DONE]"), *reader.finish()]).answer()


def call(name=None, arguments=None, **fields):
    return {"tool_calls": [{**fields, "function": {"name": name, "arguments": arguments}}]}


F, G = '{"a":1}', '{"b":2}'


@pytest.mark.parametrize(
    "deltas",
    [
        # Ollama, Gemini: every call at index 0.
        (call("f", F, index=0, id="1"), call("g", G, index=0, id="2")),
        (call("f", "", index=0, id="1"), call(None, F, index=0), call("g", "", index=0, id="2"), call(None, G, index=0)),
        # No index.
        (call("f", F, id="1"), call("g", G, id="2")),
        (call("f", "", id="1"), call(None, F), call("g", "", id="2"), call(None, G)),
        # The name with every piece, and a new id with every piece.
        (call("f", '{"a"', index=0, id="1"), call("f", ":1}", index=0, id="1"), call("g", G, index=1, id="2")),
        (call("f", '{"a"', index=0, id="1"), call(None, ":1}", index=0, id="x"), call("g", G, index=1, id="2")),
        # Pieces of two calls in turn.
        (call("f", '{"a"', index=0, id="1"), call("g", '{"b"', index=1, id="2"), call(None, ":1}", index=0), call(None, ":2}", index=1)),
        # The id before the name, and arguments before the name.
        (call(None, None, index=0, id="1"), call(None, '{"a"', index=0), call("f", ":1}", index=0), call("g", G, index=1, id="2")),
        # Both in one chunk, the arguments as objects.
        ({"tool_calls": [call("f", {"a": 1}, id="1")["tool_calls"][0], call("g", {"b": 2}, id="2")["tool_calls"][0]]},),
    ],
)  # fmt: skip
def test_calls_are_told_apart(deltas):
    assert read(*deltas).parts == (ToolCall("1", "f", F), ToolCall("2", "g", G))
    assert read(*deltas).stop is Stop.TOOL


def test_calls_of_one_name_without_ids_are_told_apart_by_whole_arguments():
    answer = read(call("f", F, index=0), call("f", G, index=0), call("h", "", index=0))
    assert [(part.name, part.arguments) for part in answer.parts] == [("f", F), ("f", G), ("h", "{}")]
    assert len({part.call_id for part in answer.parts}) == 3


def test_calls_of_one_name_and_index_are_told_apart_by_their_ids():
    pieces = (call("f", '{"a"', index=0, id="1"), call("f", G, index=0, id="2"))
    assert read(*pieces).parts == (ToolCall("1", "f", '{"a"'), ToolCall("2", "f", G))


def test_a_call_ends_when_the_next_one_begins():
    """So that a protocol that sends one call after the other need not wait."""
    reader = codec.event_reader()
    reader.read("", chunk(call("f", F, index=0, id="1")))
    kinds = [type(event).__name__ for event in reader.read("", chunk(call("g", G, index=1, id="2")))]
    assert kinds == ["PartEnd", "CallBegin", "Delta"]


def test_what_comes_after_the_finish_reason_counts():
    reader = codec.event_reader()
    events = [
        *reader.read("", chunk({"content": "a"})),
        *reader.read("", chunk({}, "stop")),
        *reader.read("", chunk({"content": "b"})),
        *reader.finish(),
    ]
    assert assembled(events).parts == (Text("ab"),)


def test_a_stream_without_an_end_has_none():
    reader = codec.event_reader()
    events = [*reader.read("", chunk({"content": "a"})), *reader.finish()]
    assert [type(event).__name__ for event in events] == ["Begin", "TextBegin", "Delta", "PartEnd"]


def test_only_the_first_choice_is_carried():
    reader = codec.event_reader()
    other = {"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}
    assert reader.read("", json.dumps({"id": "1", "model": "m", "choices": [other]}).encode()) == ()


def test_a_signature_ends_the_reasoning_that_it_signs():
    details = [{"type": "reasoning.text", "signature": "s1", "index": 0}]
    answer = read(
        {"reasoning": "One", "reasoning_details": [{"type": "reasoning.text", "text": "One", "index": 0}]},
        {"reasoning_details": details},
        {"reasoning": "Two"},
        {"content": "Three", "reasoning_details": [{"type": "reasoning.text", "signature": "lost"}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]},
    )
    assert answer.parts == (
        Reasoning("One", signature="s1"),
        Reasoning("Two", signature="lost"),
        Text("Three"),
        Reasoning(encrypted="e"),
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff", b'{"choices": 7}', b'{"choices": [[]]}'])
def test_what_is_no_chunk_is_no_event(data):
    assert tuple(codec.event_reader().read("", data)) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "stop", "1"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "function", "name", "arguments", "index", "id", "signature", "data", "custom", "input"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)  # fmt: skip
DELTA_FIELDS = (
    "content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls", "function_call", "refusal", "audio", "role",
)  # fmt: skip
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(
        st.fixed_dictionaries(
            {"delta": st.dictionaries(st.sampled_from(DELTA_FIELDS), JSON, max_size=4)},
            optional={"index": JSON, "finish_reason": JSON, "usage": JSON, "message": JSON},
        ),
        max_size=2,
    )},
    optional={"id": JSON, "model": JSON, "created": JSON, "usage": JSON, "x_groq": JSON},
)  # fmt: skip


@given(st.lists(CHUNKS | JSON, max_size=6), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_stream_gives_events_in_an_order_that_the_form_permits(stream, done):
    reader = codec.event_reader()
    events = [event for content in stream for event in reader.read("", json.dumps(content).encode())]
    events += reader.read("", b"[DONE]") if done else ()
    Assembly().take([*events, *reader.finish()])


def test_what_is_kept_of_arguments_is_bounded():
    """A call that is too long to be looked at stays open until the finish, and so does one that another one leaves no room."""
    reader = codec.event_reader()
    piece = "x" * (KEPT_CHARS_MAX // 2)
    for number in range(8):
        reader.read("", chunk(call(None, piece, index=100 + number)))  # no name: nothing is told
        reader.read("", chunk(call(f"f{number}", '{"a":"', index=number, id=str(number))))
        for _ in range(4):
            reader.read("", chunk(call(None, piece, index=number)))
    kept = sum(len("".join(c._pieces)) + len(c.early) for c in reader._calls.values())
    assert kept <= KEPT_CHARS_MAX
    ended = [event.part for event in reader.read("", b"[DONE]") if isinstance(event, PartEnd)]
    assert ended == list(range(8))


def test_a_stream_has_so_many_calls_also_if_all_of_them_have_one_index():
    reader, begun = codec.event_reader(), 0
    for number in range(CALLS_MAX + 50):
        call = {"index": 0, "id": f"c{number}", "function": {"name": f"f{number}"}}
        chunk = {"id": "a", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
        begun += sum(isinstance(event, CallBegin) for event in reader.read("", json.dumps(chunk).encode()))
    assert begun == CALLS_MAX
