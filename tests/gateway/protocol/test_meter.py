"""What passes, what waits and what was made, in every protocol, wherever a stream is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.protocol.streams import (
    STOP,
    chat_stream,
    chunk,
    message_delta,
    message_start,
    piece,
    response,
    sse,
    text_block,
    usage_chunk,
    used,
)
from tokenworks.catalog import Counts
from tokenworks.factory.facts.profiles import load_profile
from tokenworks.gateway.protocol.meter import EventTooLarge, UsageOptions
from tokenworks.gateway.protocol.stream import make_meter, read_whole
from tokenworks.gateway.protocol.vendor_errors import by_codes

ROLE = chunk({"role": "assistant", "content": ""})
CREATED = {"type": "response.created", "response": response("in_progress")}
START = message_start({"input_tokens": 1000, "output_tokens": 1})
COMPLETED = {
    "type": "response.completed",
    "response": response("completed", usage={"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}),
}


def meter_of(protocol="chat", **more):
    settings = {
        "requested_model": "",
        "usage_options": UsageOptions(),
        "event_bytes_max": 10**6,
        "text_max": None,
    }
    return make_meter(protocol, **(settings | more))


def run(meter, *events):
    """(what passed of each event, what was held)"""
    return [meter.feed(sse(event)) for event in events], meter.finish()


def state(meter):
    """What is known after a stream, however it came."""
    return (
        meter.begun, meter.fault, meter.filtered, meter.stopped, meter.terminal, meter.complete, meter.usage, meter.progress,
        meter.shown_bytes, meter.calls, meter.choices, meter.hidden, meter.upstream_id, meter.over_maximum, meter.counts(), "".join(meter.kept),
    )  # fmt: skip


# What is kept back until there is content.


@pytest.mark.parametrize(("protocol", "early", "first"), [
    ("chat", [": keep-alive", ROLE, chunk({"role": "assistant", "content": None}), {"choices": [], "prompt_filter_results": [{}], "id": ""}], chunk({"content": "a"})),
    ("chat", [ROLE], chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]})),
    ("chat", [ROLE], chunk({"reasoning_content": "a"})), ("chat", [ROLE], chunk({"content": [{"type": "text", "text": "a"}]})),
    ("completions", [": x"], {"id": "c", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}),
    ("messages", [START, {"type": "ping"}, text_block()[0]], text_block("a")[1]),
    ("messages", [START], {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
    ("messages", [START], {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "xx"}}),
    ("responses", [CREATED, {"type": "response.in_progress", "response": response("in_progress")}, {"type": "response.output_item.added", "output_index": 0, "item": {"id": "m1", "type": "message", "content": []}}], piece("a")),
    ("responses", [CREATED], {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "content": [{"type": "output_text", "text": "a"}]}}),
    ("responses", [CREATED], {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call", "name": "f", "arguments": ""}}),
])  # fmt: skip
def test_the_beginning_waits_for_content(protocol, early, first):
    meter = meter_of(protocol)
    assert [meter.feed(sse(event)) for event in early] == [b""] * len(early)
    assert not meter.begun
    assert meter.feed(sse(first)) == sse(*early, first)
    assert meter.begun


@pytest.mark.parametrize(("protocol", "events", "kind"), [
    ("chat", [{"error": {"message": "engine is full", "code": 503}}, "[DONE]"], "overloaded"),
    ("chat", [": wait", ROLE, {"error": {"message": "engine is full", "code": 500}}], "server"),
    ("chat", [ROLE, chunk({"content": ""}, "error")], "server"), ("chat", [ROLE, chunk({}, "abort")], "server"), ("chat", ["null"], "server"),
    ("chat", [{"id": "c", "choices": None, "base_resp": {"status_code": 1008, "status_msg": "x"}}], "quota"),
    ("messages", [START, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}], "overloaded"),
    ("messages", [START, text_block()[0], {"type": "error", "error": {"type": "api_error", "message": "x"}}], "server"),
    ("responses", [CREATED, {"type": "error", "code": "insufficient_quota", "message": "x"}], "quota"),
    ("responses", [CREATED, {"type": "response.failed", "response": response("failed", error={"code": "rate_limit_exceeded", "message": "x"})}], "rate"),
])  # fmt: skip
def test_a_fault_before_content_lets_nothing_pass(protocol, events, kind):
    meter = meter_of(protocol)
    passed, held = run(meter, *events)
    assert b"".join(passed) + held == b""
    fault = by_codes(meter.fault, load_profile("minimax").error_codes)
    assert (fault.kind, meter.begun, meter.complete) == (kind, False, False)


@pytest.mark.parametrize(("protocol", "events", "fault"), [
    ("chat", [ROLE, chunk({"content": "a"})], {"error": {"message": "of AcmeCloud", "code": 500}}),
    ("chat", [ROLE, chunk({"content": "a"})], chunk({"content": ""}, "error", error={"message": "of AcmeCloud"})),
    ("messages", [START, *text_block("a")], {"type": "error", "error": {"type": "api_error", "message": "of AcmeCloud"}}),
    ("responses", [CREATED, piece("a")], {"type": "error", "code": "server_error", "message": "of AcmeCloud"}),
])  # fmt: skip
def test_a_fault_after_content_ends_it_and_is_not_said_raw(protocol, events, fault):
    meter = meter_of(protocol)
    passed, held = run(meter, *events, fault, chunk({"content": "more"}), "[DONE]")
    assert b"".join(passed) + held == sse(*events)
    assert meter.begun and not meter.complete
    assert "AcmeCloud" in meter.fault.message


def test_usage_after_a_fault_is_read():
    failed = response(
        "failed",
        error={"code": "server_error"},
        usage={"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
    )
    meter = meter_of("responses")
    run(
        meter,
        CREATED,
        piece("abc"),
        {"type": "error", "code": "x", "message": "y"},
        {"type": "response.failed", "response": failed},
    )
    assert meter.usage.counts == Counts(9, output=4)


def test_an_endless_beginning_passes_at_last():
    meter = meter_of(event_bytes_max=1000)
    passed = [meter.feed(b": wait, it comes\n\n") for _ in range(100)]
    assert b"".join(passed).count(b"wait") > 30
    assert meter.begun


# The finish waits for the usage.


def test_a_finish_without_content_waits_for_the_usage():
    events = chat_stream(("a",), used(10, 1))
    meter = meter_of(usage_options=UsageOptions(final=True))
    passed, held = run(meter, *events)
    assert passed == [b"", sse(*events[:2]), b"", sse(*events[2:4]), b""]
    assert held == sse("[DONE]")
    meter = meter_of()
    for event in events[:3]:
        meter.feed(sse(event))
    assert meter.finish_withheld and meter.stopped and not meter.terminal
    assert meter.feed(sse(events[3])) == sse(events[2])  # the usage event was asked for by the gateway alone
    assert not meter.finish_withheld


def test_what_waits_can_be_given_out_and_usage_is_still_read():
    events = chat_stream(("a",), used(10, 1))
    meter = meter_of()
    for event in events[:3]:
        meter.feed(sse(event))
    assert meter.release() == sse(events[2])
    assert meter.release() == b""
    assert meter.feed(sse(": still here")) == sse(": still here")
    assert meter.feed(sse(events[3])) == b""
    assert meter.usage.counts == Counts(10, output=1)


def test_a_finish_with_content_passes_and_the_next_event_waits():
    meter = meter_of()
    last = chunk({"content": "b"}, "stop")
    passed, held = run(meter, chunk({"content": "a"}), last, ": wait", "[DONE]")
    assert passed == [sse(chunk({"content": "a"})), sse(last), b"", b""]
    assert held == sse(": wait", "[DONE]")


def test_a_finish_that_brings_its_usage_waits_for_nothing():
    meter = meter_of(usage_options=UsageOptions(final=True))
    finish = chunk({}, "stop", usage=used(10, 1))
    assert run(meter, chunk({"content": "a"}), finish)[0][1] == sse(finish)
    assert (meter.usage.counts, meter.complete) == (Counts(10, output=1), True)


def test_several_choices_end_one_by_one():
    meter = meter_of()
    one, two = chunk({"content": "a"}), chunk({"content": "b"}, index=1)
    passed, _ = run(meter, one, two, chunk({}, "stop"))
    assert not meter.stopped and passed[2] == sse(chunk({}, "stop"))
    assert meter.feed(sse(chunk({}, "length", index=1))) == b""
    assert meter.stopped and meter.choices == 2


def test_choices_that_come_one_after_the_other_are_waited_for():
    meter = meter_of(choices=2)
    run(meter, chunk({"content": "a"}), chunk({}, "stop"))
    assert not meter.stopped
    run(meter, chunk({"content": "b"}, index=1), chunk({}, "stop", index=1))
    assert meter.stopped and meter.complete


def test_an_empty_answer_goes_out_whole_with_its_end():
    meter = meter_of()
    passed, held = run(meter, ROLE, chunk({}, "stop"), "[DONE]")
    assert (passed, held) == ([b"", b"", b""], sse(ROLE, chunk({}, "stop"), "[DONE]"))
    assert meter.complete and not meter.progress and not meter.begun


# How it ends.


def test_a_stream_without_end_is_interrupted():
    for protocol, events in (
        ("chat", [ROLE, chunk({"content": "a"})]),
        ("messages", [START, *text_block("a")]),
        ("responses", [CREATED, piece("a")]),
    ):
        meter = meter_of(protocol)
        run(meter, *events)
        assert not meter.complete and not meter.stopped and meter.progress == 1
    assert not meter_of().complete


def test_messages_that_say_why_they_stop_are_whole_without_their_last_event():
    meter = meter_of("messages")
    events = [START, *text_block("a"), message_delta({"output_tokens": 20})]
    passed, held = run(meter, *events)
    assert b"".join(passed) + held == sse(*events)
    assert meter.complete and not meter.terminal
    assert meter.usage.counts == Counts(1000, output=20)
    late = meter_of("messages")
    run(late, START, *text_block("a"), message_delta({"input_tokens": 0, "output_tokens": 20}), STOP)
    assert late.usage.counts == Counts(1000, output=20) and late.terminal


def test_a_last_event_without_its_empty_line_gets_it_and_one_that_was_cut_is_dropped():
    meter = meter_of()
    meter.feed(sse(chunk({"content": "a"})) + b"data: [DONE]")
    assert meter.finish() == b"data: [DONE]\n\n" and meter.terminal
    meter = meter_of()
    meter.feed(sse(chunk({"content": "a"})) + sse(chunk({"content": "bc"}))[:-20])
    assert (meter.finish(), meter.progress, meter.complete) == (b"", 1, False)


@pytest.mark.parametrize(
    ("finish", "filtered"),
    [("content_filter", True), ("sensitive", True), ("stop", False), ("tool_calls", False), (None, False)],
)
def test_the_filter_is_seen(finish, filtered):
    meter = meter_of()
    run(meter, chunk({"content": "a"}), chunk({}, finish))
    assert meter.filtered is filtered
    assert (meter.fault, meter.stopped) == (None, finish is not None)


def test_an_event_too_large_is_refused_however_it_comes():
    for step in (1, 100, 5000):
        meter = meter_of(event_bytes_max=1000)
        data = b"data: " + b"x" * 5000
        with pytest.raises(EventTooLarge):
            for at in range(0, len(data), step):
                meter.feed(data[at : at + step])


# Usage that nobody asked for.


EACH = [
    chunk({"content": "a"}, usage=used(10, 1)),
    chunk({"content": "b"}, usage=used(10, 2)),
    chunk({}, "stop", usage=used(10, 2)),
]


def test_usage_in_every_chunk_is_taken_out_by_its_place():
    final = usage_chunk(used(10, 2))
    meter = meter_of()
    passed, held = run(meter, *EACH, final, "[DONE]")
    assert b"".join(passed) + held == sse(
        chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"), "[DONE]"
    )
    assert meter.usage.counts == Counts(10, output=2)
    meter = meter_of(usage_options=UsageOptions(final=True))
    assert b"".join(run(meter, *EACH, final)[0]) == sse(
        chunk({"content": "a"}), chunk({"content": "b"}), EACH[2], final
    )
    meter = meter_of(usage_options=UsageOptions(final=True, each=True))
    assert b"".join(run(meter, *EACH, final)[0]) == sse(*EACH, final)


@pytest.mark.parametrize("text", [
    '{"usage":{"a":1},"choices":[{"index":0,"delta":{"content":"x"}}]}',
    '{ "choices" : [{"index":0,"delta":{"content":"x"}}] , "usage" : {"a": [1, {"b": "}"}]} }',
    '{"choices":[{"index":0,"delta":{"content":"say \\"usage\\":{} "}}],"usage":{"a":1},"id":"c"}',
    '{"choices":[{"index":0,"delta":{"content":"x"},"usage":{"a":1}}],"usage":{"a":1}}',
    '{"x_groq":{"usage":{"a":1}},"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"a":1}}',
    '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"a":1},"x_groq":{"usage":{"a":1}}}',
    '{"choices":[{"index":0,"delta":{"content":"x"}}],"us\\u0061ge":{"a":1}}',
    '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"a":2},"usage":{"a":1}}',
    '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":"none today"}',
    '{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":[]}',
])  # fmt: skip
def test_wherever_usage_is_it_is_taken_out_and_nothing_else(text):
    out = meter_of().feed(f"data: {text}\n\n".encode())
    assert out.startswith(b"data: ") and out.endswith(b"\n\n")
    expected = json.loads(text)
    del expected["usage"]
    assert json.loads(out[6:]) == expected


def test_usage_of_nothing_stays():
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":null}\n\n'
    assert meter_of().feed(event) == event


def test_kimi_reports_inside_the_choice():
    finish = chunk({}, "stop")
    finish["choices"][0]["usage"] = used(100, 20, cached_tokens=80)
    meter = meter_of()
    assert run(meter, chunk({"content": "a"}), finish)[0][1] == sse(finish)
    assert meter.usage.counts == Counts(20, 80, output=20)


def test_real_usage_and_then_zeros():
    meter = meter_of()
    run(
        meter,
        chunk({"content": "a"}),
        chunk({}, "stop", usage=used(100, 20)),
        usage_chunk(used(0, 0)),
        "[DONE]",
    )
    assert meter.usage.counts == Counts(100, output=20) and meter.complete
    meter = meter_of()
    run(meter, chunk({"content": "a"}), chunk({}, "stop"), usage_chunk(used(0, 0)), "[DONE]")
    assert meter.usage is None and meter.complete


# The model's name.


def test_every_event_says_the_model_that_was_asked_for():
    events = chat_stream(("a", "b"), model="vendor-secret-7b")
    meter = meter_of(requested_model="shop/best")
    passed, held = run(meter, *events)
    assert b"".join(passed) + held == sse(*chat_stream(("a", "b"), model="shop/best"))
    meter = meter_of("messages", requested_model='shop/"best"')
    passed, _ = run(meter, message_start({"input_tokens": 1}, "vendor-secret-7b"), *text_block("a"))
    assert b"".join(passed) == sse(message_start({"input_tokens": 1}, 'shop/"best"'), *text_block("a"))
    meter = meter_of("responses", requested_model="shop/best")
    passed, held = run(meter, CREATED, piece("a"), COMPLETED)
    assert (b"".join(passed) + held).count(b'"model":"shop/best"') == 2 and b'"v"' not in b"".join(
        passed
    ) + held


def test_a_name_that_changes_or_is_written_otherwise_is_learnt_anew():
    meter = meter_of(requested_model="best")
    out = [
        meter.feed(
            b'data: {"model": "Qwen\\/Qwen3","choices":[{"index":0,"delta":{"content":"\\"model\\":\\"x\\" "}}]}\n\n'
        ),
        meter.feed(b'data: {"model":"fallback","choices":[{"index":0,"delta":{"content":"b"}}]}\n\n'),
        meter.feed(b'data: {"model":"best","choices":[{"index":0,"delta":{"content":"c"}}]}\n\n'),
        meter.feed(b'data: {"model":"","choices":[{"index":0,"delta":{"content":"d"}}]}\n\n'),
    ]
    names = [json.loads(event[6:])["model"] for event in out]
    assert names == ["best", "best", "best", ""]
    assert b'\\"model\\":\\"x\\"' in out[0]


# Text is counted once.


@pytest.mark.parametrize(("deltas", "size", "calls"), [
    ([{"content": "wörd"}, {"content": " \u4e2d\U0001f600"}, {"content": '\n"\\'}], 16, 0),
    ([{"reasoning": "ab", "reasoning_details": [{"type": "reasoning.text", "text": "ab"}]}], 2, 0),
    ([{"reasoning_content": "ab", "reasoning": "ab", "content": "c"}], 3, 0),
    ([{"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "Two"}]}, {"reasoning_details": [{"text": " options"}]}], 11, 0),
    ([{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "ab"}]}, {"type": "text", "text": "c"}]}], 3, 0),
    ([{"refusal": "no"}, {"audio": {"data": "AAAA", "transcript": "yes"}}], 5, 0),
    ([{"function_call": {"name": "f", "arguments": "{}"}}], 3, 1),
    ([{"tool_calls": [{"index": 0, "id": "1", "function": {"name": "look", "arguments": ""}}]}, {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}, {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}], 11, 1),
    ([{"tool_calls": [{"index": 0, "id": "1", "function": {"name": "look", "arguments": "{"}}]}, {"tool_calls": [{"index": 0, "id": "", "function": {"name": "look", "arguments": "}"}}]}], 6, 1),
    ([{"tool_calls": [{"index": 0, "id": f"call_{at}", "function": {"name": "look", "arguments": "{}"}}]} for at in range(12)], 72, 12),
    ([{"tool_calls": [{"id": "a", "function": {"name": "look", "arguments": {"a": 1}}}, {"id": "b", "function": {"name": "see", "arguments": "{}"}}]}], 16, 2),
    ([{"tool_calls": [{"index": 0, "id": "1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]}], 4, 1),
])  # fmt: skip
def test_text_of_a_chat_is_counted_once(deltas, size, calls):
    meter = meter_of(keep_bytes_max=10**6)
    run(meter, *(chunk(delta) for delta in deltas))
    assert (meter.shown_bytes, meter.calls) == (size, calls)
    assert sum(len(text.encode()) for text in meter.kept) == size


def test_deltas_that_repeat_all_so_far():
    meter = meter_of(keep_bytes_max=100)
    run(
        meter,
        *(chunk({"content": text}) for text in ("The", "The second", "The second one", "The second one")),
    )
    assert (meter.shown_bytes, "".join(meter.kept), meter.progress) == (14, "The second one", 3)
    # Pieces that only look like it are counted as pieces, from the first one on that does not.
    meter = meter_of()
    run(meter, *(chunk({"content": text}) for text in ("a", "ab", "abc", "x")))
    assert meter.shown_bytes == 7
    meter = meter_of()
    run(meter, *(chunk({"content": "ha"}) for _ in range(50)))
    assert (meter.shown_bytes, meter.progress) == (100, 50)


ITEM = {
    "type": "message",
    "id": "m1",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "hello you"}],
}


@pytest.mark.parametrize(("events", "size"), [
    ([{"type": "response.output_item.done", "output_index": 0, "item": ITEM}], 9),
    ([piece("hello"), piece(" you")], 9),
    ([piece("hello"), piece(" you"), {"type": "response.output_text.done", "item_id": "m1", "output_index": 0, "text": "hello you"}, {"type": "response.output_item.done", "output_index": 0, "item": ITEM}], 9),
    ([{"type": "response.output_text.delta", "item_id": "m1", "delta": "hello"}, {"type": "response.output_item.done", "output_index": 0, "item": ITEM}], 9),
    ([{"type": "response.output_text.delta", "output_index": 0, "delta": "hello"}, {"type": "response.output_item.done", "output_index": 0, "item": ITEM}], 9),
    ([{"type": "response.output_text.done", "item_id": "m1", "output_index": 0, "text": "hello you"}], 9),
    ([{"type": "response.completed", "response": response("completed", output=[ITEM])}], 9),
    ([piece("hello you"), {"type": "response.completed", "response": response("completed", output=[ITEM])}], 9),
    ([{"type": "response.output_item.added", "output_index": 0, "item": {"id": "f1", "type": "function_call", "name": "look", "arguments": ""}}, piece('{"a"', "f1", "response.function_call_arguments"), {"type": "response.function_call_arguments.done", "item_id": "f1", "output_index": 0, "arguments": '{"a":1}'}, {"type": "response.output_item.done", "output_index": 0, "item": {"id": "f1", "type": "function_call", "name": "look", "arguments": '{"a":1}'}}], 11),
    ([piece("why", "r1", "response.reasoning_summary_text"), {"type": "response.output_item.done", "output_index": 0, "item": {"id": "r1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}], "encrypted_content": "xxxx"}}], 3),
    ([{"type": "response.output_audio.delta", "item_id": "a", "delta": "QUFBQQ=="}, piece("hi", "a", "response.output_audio_transcript")], 2),
    ([{"type": "response.output_item.done", "output_index": 0, "item": {"id": "l", "type": "local_shell_call", "action": {"command": ["ls"]}}}], 18),
])  # fmt: skip
def test_text_of_responses_is_counted_once(events, size):
    meter = meter_of("responses", keep_bytes_max=1000)
    run(meter, CREATED, *events)
    assert meter.shown_bytes == size
    assert sum(len(text.encode()) for text in meter.kept) == size


def test_hidden_work_and_calls_are_seen():
    meter = meter_of("responses")
    run(
        meter,
        CREATED,
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "compaction", "id": "c", "encrypted_content": "x"},
        },
        COMPLETED,
    )
    assert meter.hidden and meter.calls == 0
    meter = meter_of("messages")
    block = {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "name": "look", "input": {"a": 1}},
    }
    run(
        meter,
        START,
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "signature_delta", "signature": "E" * 2000},
        },
        block,
        STOP,
    )
    assert meter.hidden and (meter.calls, meter.shown_bytes) == (1, 11)


CALL = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(("protocol", "body", "expected"), [
    ("chat", {"choices": [{"message": {"content": "wörd", "reasoning_content": "ab", "tool_calls": [CALL]}, "finish_reason": "stop"}, {"index": 1, "message": {"content": [{"type": "text", "text": "c"}]}}]}, (14, 1, 2, False, False)),
    ("completions", {"choices": [{"text": "abc", "finish_reason": "content_filter"}]}, (3, 0, 1, False, True)),
    ("messages", {"content": [{"type": "thinking", "thinking": "why", "signature": "x"}, {"type": "text", "text": "so"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}], "stop_reason": "tool_use"}, (13, 1, 1, True, False)),
    ("messages", {"content": [{"type": "redacted_thinking", "data": "xx"}], "stop_reason": "refusal"}, (0, 0, 1, True, True)),
    ("responses", response("incomplete", output=[ITEM, {"type": "reasoning", "id": "r", "summary": []}], incomplete_details={"reason": "content_filter"}), (9, 0, 1, True, True)),
    ("embeddings", {"data": []}, (0, 0, 1, False, False)),
])  # fmt: skip
def test_of_an_answer_that_is_not_streamed(protocol, body, expected):
    meter = read_whole(protocol, b"\xef\xbb\xbf" + json.dumps(body, indent=1).encode(), keep_bytes_max=100)
    assert (meter.shown_bytes, meter.calls, meter.choices, meter.hidden, meter.filtered) == expected
    assert len("".join(meter.kept).encode()) == meter.shown_bytes


@given(
    st.sampled_from(["chat", "completions", "messages", "responses", "embeddings"]), st.binary(max_size=60)
)
def test_of_no_answer_nothing_shows(protocol, body):
    assert read_whole(protocol, body).shown_bytes == 0


# The maximum.


def test_a_stream_that_passes_its_maximum_is_told():
    meter = meter_of(text_max=10)
    for at in range(200):
        meter.feed(sse(chunk({"content": f"word{at} "})))
        assert meter.over_maximum == (meter.text_tokens() * 10 > 10 * 11 + 160)
    assert meter.over_maximum
    meter.measured(meter.shown_bytes, 25)
    assert not meter.over_maximum  # a tokenizer knows better
    meter.measured(meter.shown_bytes, 28)
    assert meter.over_maximum
    assert not meter_of(text_max=None).over_maximum


def test_the_upstreams_own_count_tells_it_too():
    meter = meter_of(text_max=10)
    run(meter, chunk({"content": "a"}, usage=used(5, 10)))
    assert not meter.over_maximum
    meter.feed(sse(chunk({"content": "a"}, usage=used(5, 11))))
    assert meter.over_maximum


def test_what_is_kept_for_a_tokenizer_is_bounded():
    meter = meter_of(keep_bytes_max=10)
    run(meter, *(chunk({"content": f"word{at} "}) for at in range(50)))
    assert meter.kept == ["word0 ", "word1 "]
    assert meter_of().kept == []


def test_what_is_buffered_is_said():
    meter = meter_of(keep_bytes_max=100)
    assert meter.buffered_bytes == 0
    meter.feed(sse(ROLE) + b"data: half")
    assert meter.buffered_bytes == len(sse(ROLE)) + 10
    meter.feed(b"\n\n" + sse(chunk({"content": "abc"}), chunk({}, "stop")))
    assert meter.buffered_bytes >= len(sse(chunk({}, "stop"))) + 3
    meter.feed(sse("[DONE]"))
    assert meter.buffered_bytes >= len(sse(chunk({}, "stop"), "[DONE]"))


def test_what_cannot_be_read_is_counted_and_passes():
    meter = meter_of()
    strange = b'data: {"choices":[{"delta":{"content":"half a \xff text"}}]\n\n'
    assert meter.feed(strange) == strange
    assert meter.shown_bytes > 40 and meter.begun


# Cut anywhere, and read in either way.

WORDS = st.text(st.characters(codec="utf-8"), max_size=6)
DELTAS = st.one_of(
    WORDS.map(lambda text: {"content": text}), WORDS.map(lambda text: {"reasoning_content": text}), WORDS.map(lambda text: {"reasoning": text, "content": ""}),
    st.builds(lambda name, args: {"tool_calls": [{"index": 0, "id": "t", "function": {"name": name, "arguments": args}}]}, WORDS, WORDS),
    WORDS.map(lambda args: {"tool_calls": [{"index": 0, "function": {"arguments": args}}]}), WORDS.map(lambda text: {"content": [{"type": "text", "text": text}]}),
    st.just({}), st.just({"content": None}), WORDS.map(lambda text: {"refusal": text}),
)  # fmt: skip
USAGES = st.none() | st.builds(used, st.integers(0, 99), st.integers(0, 99))
CHUNKS = st.builds(
    lambda delta, usage, index, model, extra: chunk(delta, model=model, index=index, **(extra | ({} if usage is None else {"usage": usage}))),
    DELTAS, USAGES, st.sampled_from([0, 0, 0, 1]), st.sampled_from(["v", "v", "w"]), st.sampled_from([{}, {"error": None}, {"usage": None}, {"x_groq": {"id": "x"}}]),
)  # fmt: skip
EVENTS = st.one_of(
    CHUNKS,
    CHUNKS,
    CHUNKS,
    st.just(": wait"),
    st.just({"choices": []}),
    st.just(chunk({}, "stop")),
    st.just({"error": {"message": "x"}}),
)
ENDINGS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"])


def cut(data, cuts):
    edges = sorted({at % (len(data) + 1) for at in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(EVENTS, max_size=12),
    st.booleans(),
    ENDINGS,
    st.lists(st.integers(0, 5000), max_size=20),
    st.sampled_from([UsageOptions(), UsageOptions(final=True), UsageOptions(final=True, each=True)]),
)
def test_a_chat_cut_anywhere_is_the_same(events, done, end, cuts, usage_options):
    data = sse(*events, *(["[DONE]"] if done else []), end=end)
    readings = []
    for pieces in ([data], cut(data, cuts), cut(data, range(len(data)))):
        meter = meter_of(requested_model="best", usage_options=usage_options, text_max=20, keep_bytes_max=50)
        out = b"".join(meter.feed(piece) for piece in pieces)
        readings.append((out, meter.withheld if meter.terminal else meter.finish(), state(meter)))
    assert readings[0] == readings[1] == readings[2]


BLOCKS = st.one_of(
    st.lists(WORDS, max_size=3).map(lambda words: text_block(*words)),
    st.just([{"type": "ping"}]), st.just([": wait"]),
    WORDS.map(lambda text: [{"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": text}}]),
    st.builds(lambda a, b: [message_delta({"input_tokens": a, "output_tokens": b})], st.integers(0, 9), st.integers(0, 9)),
    st.just([STOP]), st.just([{"type": "error", "error": {"type": "api_error", "message": "x"}}]),
)  # fmt: skip
PIECES = st.one_of(
    st.builds(lambda text, item: [piece(text, item)], WORDS, st.sampled_from(["m1", "m2"])), st.just([CREATED]), st.just([COMPLETED]), st.just([": wait"]),
    WORDS.map(lambda text: [{"type": "response.output_text.done", "item_id": "m1", "output_index": 0, "text": text}]),
    WORDS.map(lambda text: [{"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "id": "m1", "content": [{"type": "output_text", "text": text}]}}]),
    st.just([{"type": "error", "code": "x", "message": "y"}]),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.sampled_from(["messages", "responses"]),
    ENDINGS,
    st.lists(st.integers(0, 5000), max_size=20),
)
def test_the_other_protocols_cut_anywhere_are_the_same(data, protocol, end, cuts):
    groups = data.draw(st.lists(BLOCKS if protocol == "messages" else PIECES, max_size=8))
    stream = sse(
        START if protocol == "messages" else CREATED, *(event for group in groups for event in group), end=end
    )
    readings = []
    for pieces in ([stream], cut(stream, cuts), cut(stream, range(len(stream)))):
        meter = meter_of(protocol, requested_model="best", text_max=20, keep_bytes_max=50)
        out = b"".join(meter.feed(part) for part in pieces)
        readings.append((out, meter.withheld if meter.terminal else meter.finish(), state(meter)))
    assert readings[0] == readings[1] == readings[2]


@settings(max_examples=150, deadline=None)
@given(st.lists(CHUNKS, max_size=10))
def test_the_typed_and_the_lenient_way_agree(events):
    """A field of another type in every event, which means nothing, sends them all the lenient way."""
    readings = []
    for odd in ({}, {"created": 1}, {"choices_": 0}):
        meter = meter_of(keep_bytes_max=100)
        for event in events:
            event = json.loads(json.dumps(event)) | odd
            if odd == {"choices_": 0}:
                for choice in event["choices"]:
                    choice["text"] = 7
            meter.feed(sse(event))
        readings.append(state(meter))
    assert readings[0] == readings[1] == readings[2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=12),
    st.booleans(),
)
def test_bytes_of_text_are_what_they_are_however_they_are_written(words, ascii_only):
    """An upstream that escapes what is not ASCII shows no more text than one that does not."""
    meter = meter_of()
    meter.feed(
        b"".join(
            b"data: " + json.dumps(chunk({"content": word}), ensure_ascii=ascii_only).encode() + b"\n\n"
            for word in words
        )
    )
    pieces = sum(len(word.encode()) for word in words)
    assert meter.shown_bytes <= pieces
    if not all(later.startswith(earlier) for earlier, later in pairwise(words)):
        assert (meter.shown_bytes, meter.progress) == (pieces, len(words)) or meter.shown_bytes == pieces


NAMES = [
    "type", "id", "model", "choices", "delta", "message", "content", "text", "usage", "error", "index", "finish_reason", "tool_calls", "function", "name",
    "arguments", "response", "output", "item", "item_id", "output_index", "status", "summary", "content_block", "x_groq", "base_resp", "reasoning_details",
]  # fmt: skip
TYPES = st.sampled_from(
    [
        "message_start",
        "content_block_delta",
        "content_block_start",
        "message_delta",
        "response.output_item.done",
        "response.created",
        "response.output_text.delta",
        "message",
        "reasoning",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | TYPES | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5), max_leaves=15,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, max_size=5), st.sampled_from(["chat", "completions", "messages", "responses"]))
def test_whatever_an_event_holds_it_is_read_or_counted(events, protocol):
    meter = meter_of(protocol, requested_model="best", text_max=5, keep_bytes_max=20)
    out = b"".join(meter.feed(b"data: " + json.dumps(event).encode() + b"\n\n") for event in events)
    meter.finish()
    assert meter.shown_bytes >= 0 and meter.progress >= 0
    assert meter.usage is None or min(meter.usage.counts) >= 0
    assert not (out and meter.fault and not meter.begun)
    assert meter.complete == (meter.fault is None and (meter.stopped or meter.terminal))
