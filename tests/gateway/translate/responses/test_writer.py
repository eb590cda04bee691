"""Streams of responses as they are written: OpenAI's SDK rebuilds the answer from them, and each event is what its types demand."""

import json

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tokenworks.catalog import Counts
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Finish,
    PartEnd,
    ReasoningBegin,
    ReasoningOptions,
    RefusedBegin,
    Request,
    Signed,
    Stop,
    SummaryDelta,
    Text,
    TextBegin,
    Tool,
    ToolChoice,
    UsageReport,
)
from tokenworks.gateway.translate.responses import codec

TOOLS = (
    Tool("look", "Looks.", {"type": "object", "properties": {}}),
    Tool("apply_patch", custom=True, grammar=("lark", "start: x")),
    Tool("send", namespace="mail", parameters={"type": "object"}),
    Tool("local_shell", parameters={}, builtin="local_shell"),
)
REQUEST = Request(
    "m", (), system=(Text("Be brief."),), tools=TOOLS, tool_choice=ToolChoice("auto", allowed=("look", "apply_patch")), max_output_tokens=50,
    metadata={"a": "b"}, reasoning=ReasoningOptions(effort="low", encrypted=True), stream=True,
)  # fmt: skip
USAGE = Counts(10, 4, 2, 0, 7, 3)
EVENT = TypeAdapter(ResponseStreamEvent)


def naming(**changes):
    fields = {"answer_id": "r1", "model": "m", "created_s": 1_790_000_000, "request": REQUEST}
    return Naming(**fields | changes)


def stream(*events, stop=Stop.END, **changes):
    writer = codec.event_writer(naming(**changes))
    whole = (Begin("x", "m"), *events, Finish(stop), UsageReport(USAGE), End())
    return b"".join(writer.write([event]) for event in whole)


def events_in(data):
    """The events of a stream. Each has its type as its name, too."""
    out = []
    for block in data.decode().split("\n\n")[:-1]:
        name, payload = block.split("\n")
        out.append(json.loads(payload.removeprefix("data: ")))
        assert name == f"event: {out[-1]['type']}"
    return out


def kinds(data):
    return [event["type"].removeprefix("response.") for event in events_in(data)]


# Reasoning, a text, and calls whose pieces come in turn.
FULL = (
    ReasoningBegin(0), Delta(0, "Hm"), Delta(0, "m."), Signed(0, signature="c2ln"), PartEnd(0),
    TextBegin(1), Delta(1, "Ein "), Delta(1, "Wort 🦊"), PartEnd(1),
    CallBegin(2, "c1", "look"), CallBegin(3, "c2", "apply_patch"), CallBegin(4, "c3", "mail__send"), CallBegin(5, "c4", "local_shell"),
    Delta(2, '{"a"'), Delta(3, '{"input": "*** Be'), Delta(4, "{}"), Delta(2, ": 1}"), Delta(3, 'gin\\n"}'),
    Delta(5, '{"command": ["ls", "-l"]}'),
    PartEnd(2), PartEnd(3), PartEnd(4), PartEnd(5),
)  # fmt: skip


def rebuilt(data):
    """The response that OpenAI's SDK makes of a stream."""
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=data)
    transport = httpx.MockTransport(lambda request: answer)
    client = openai.OpenAI(
        api_key="k",
        base_url="http://gateway.example/v1",
        http_client=httpx.Client(transport=transport),
        max_retries=0,
    )
    with client, client.responses.stream(model="m", input="hi") as made:
        deltas = [event.delta for event in made if event.type == "response.output_text.delta"]
        return made.get_final_response(), "".join(deltas)


def test_the_sdk_rebuilds_the_answer():
    response, text = rebuilt(stream(*FULL, stop=Stop.TOOL))
    assert (response.id, response.status, response.model, response.store if hasattr(response, "store") else False) == (
        "resp_r1", "completed", "m", False,
    )  # fmt: skip
    assert text == response.output_text == "Ein Wort 🦊"
    reasoning, message, look, patch, send, shell = response.output
    assert [part.text for part in reasoning.summary] == ["Hmm."]
    assert reasoning.encrypted_content == "tokenworks.text:c2ln"
    assert (message.role, message.status) == ("assistant", "completed")
    assert (look.type, look.name, look.call_id, look.arguments) == ("function_call", "look", "c1", '{"a": 1}')
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "apply_patch", "*** Begin\n")
    assert (send.name, send.namespace, send.arguments) == ("send", "mail", "{}")
    assert (shell.type, shell.call_id, shell.action.command) == ("local_shell_call", "c4", ["ls", "-l"])
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (16, 10, 26)
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (4, 2)
    assert usage.output_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize("events", [
    FULL, (), (TextBegin(0), PartEnd(0)), (RefusedBegin(0), Delta(0, "No."), PartEnd(0)), (CallBegin(0, "c", "unknown"), PartEnd(0)),
    (ReasoningBegin(0), SummaryDelta(0, 0, "a"), SummaryDelta(0, 1, "b"), Delta(0, "c"), Delta(0, "d"), Signed(0, encrypted="gAAA"), PartEnd(0)),
    (CallBegin(0, "c", "p", custom=True), Delta(0, "free"), PartEnd(0)),
])  # fmt: skip
def test_each_event_is_what_its_type_demands(events):
    for event in events_in(stream(*events)):
        EVENT.validate_python(event)


def test_the_order_of_the_events():
    """Strict clients refuse a piece of an item or part that was not added before (BerriAI/litellm issues 22102, 41185 and pull 32777)."""
    data = stream(
        ReasoningBegin(0),
        Delta(0, "a"),
        PartEnd(0),
        TextBegin(1),
        Delta(1, "b"),
        PartEnd(1),
        CallBegin(2, "c", "look"),
        PartEnd(2),
    )
    assert kinds(data) == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_numbers_are_dense_and_ids_are_those_of_the_end():
    """The streamed ids have to be those of the last event (BerriAI/litellm pull 37946)."""
    events = events_in(stream(*FULL))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    output = events[-1]["response"]["output"]
    added = {
        event["output_index"]: event["item"]["id"]
        for event in events
        if event["type"] == "response.output_item.added"
    }
    assert added == {at: item["id"] for at, item in enumerate(output)}
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == added[event["output_index"]]


def test_the_request_is_repeated():
    response = events_in(stream())[-1]["response"]
    assert response["tools"] == [
        {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}, "strict": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
        {"type": "namespace", "name": "mail", "description": "The tools of mail.", "tools": [
            {"type": "function", "name": "send", "parameters": {"type": "object"}, "strict": False},
        ]},
        {"type": "local_shell"},
    ]  # fmt: skip
    assert response["tool_choice"]["tools"] == [
        {"type": "function", "name": "look"},
        {"type": "custom", "name": "apply_patch"},
    ]
    assert (
        response["instructions"] == "Be brief."
        and response["max_output_tokens"] == 50
        and response["metadata"] == {"a": "b"}
    )
    assert response["reasoning"] == {"effort": "low", "summary": None} and response["store"] is False


@pytest.mark.parametrize(("stop", "status", "reason"), [
    (Stop.END, "completed", None), (Stop.TOOL, "completed", None), (Stop.SEQUENCE, "completed", None), (Stop.PAUSE, "completed", None),
    (Stop.LENGTH, "incomplete", "max_output_tokens"), (Stop.CONTEXT, "incomplete", "max_output_tokens"),
    (Stop.FILTER, "incomplete", "content_filter"), (Stop.REFUSAL, "incomplete", "content_filter"),
])  # fmt: skip
def test_how_an_answer_ended(stop, status, reason):
    last = events_in(stream(TextBegin(0), Delta(0, "a"), PartEnd(0), stop=stop))[-1]
    assert last["type"] == f"response.{status}" and last["response"]["status"] == status
    assert last["response"]["incomplete_details"] == (reason and {"reason": reason})


def test_words_of_a_refusal_are_a_whole_answer():
    last = events_in(stream(RefusedBegin(0), Delta(0, "No."), PartEnd(0), stop=Stop.REFUSAL))[-1]["response"]
    assert last["status"] == "completed" and last["output"][0]["content"] == [
        {"type": "refusal", "refusal": "No."}
    ]


def test_encrypted_reasoning_only_where_it_was_asked_for():
    plain = Request("m", ())
    for request, encrypted in ((REQUEST, "gAAA"), (plain, None)):
        data = stream(
            ReasoningBegin(0),
            SummaryDelta(0, 0, "a"),
            Signed(0, encrypted="gAAA"),
            PartEnd(0),
            request=request,
        )
        assert events_in(data)[-1]["response"]["output"][0].get("encrypted_content") == encrypted


def test_arguments_that_no_item_can_have_are_those_of_a_function():
    """The client answers such a call with an error, which the model reads; an item of another type would break the client."""
    for arguments in ("not JSON", "[]", '{"command": "ls"}', '{"command": [1]}', ""):
        events = (CallBegin(0, "c", "local_shell"), *([Delta(0, arguments)] if arguments else []), PartEnd(0))
        data = stream(*events)
        item = events_in(data)[-1]["response"]["output"][0]
        assert (item["type"], item["name"], item["arguments"]) == ("function_call", "local_shell", arguments)
        assert kinds(data).count("output_item.added") == kinds(data).count("output_item.done") == 1


def test_parts_that_are_open_at_the_end_are_closed_and_nothing_follows_the_end():
    writer = codec.event_writer(naming())
    data = writer.write([Begin("x", "m"), TextBegin(0), Delta(0, "a"), End()])
    assert kinds(data)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert events_in(data)[-1]["response"]["usage"] is None
    assert (
        writer.write([TextBegin(1), Delta(1, "b"), Delta(0, "c"), PartEnd(0), Finish(Stop.END), End()]) == b""
    )


def test_pieces_of_parts_that_never_began_are_left_out():
    writer = codec.event_writer(naming())
    data = writer.write(
        [Begin("x", "m"), Delta(3, "a"), SummaryDelta(3, 0, "a"), Signed(3), PartEnd(3), End()]
    )
    assert kinds(data) == ["created", "in_progress", "completed"]
