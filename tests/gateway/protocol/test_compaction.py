"""The request for a summary, and the item that stands for it: nothing of a conversation is lost unnoticed, and nobody else's item is read."""

import json

import msgspec
import pytest

from tokenworks.gateway.protocol.compaction import (
    CUT_NOTE,
    INSTRUCTION,
    OWN_ITEMS_MAX,
    OWN_MARK,
    PREFACE,
    compacted,
    events_of,
    find,
    is_trigger,
    item_of,
    opened_item,
    response_with,
    route_body,
    summary_body,
    summary_of,
    triggered,
    with_input,
    written,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.body import COUNTED_BYTES, VALUES_MAX
from tokenworks.gateway.protocol.fields.scan import object_decoder
from tokenworks.gateway.protocol.stored import ended_response

TRIGGER = {"type": "compaction_trigger"}
USER = {"role": "user", "content": "hi"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ho"}]}


def fields(value):
    return object_decoder.decode(json.dumps(value))


def raw(value):
    return msgspec.Raw(json.dumps(value).encode())


def read(body):
    return json.loads(bytes(body))


@pytest.mark.parametrize(
    ("given", "items"),
    [("hi", [USER, TRIGGER]), ([USER], [USER, TRIGGER]), (None, [TRIGGER])],
)
def test_the_route_is_a_trigger_at_the_end_of_an_input_that_is_not_stored(given, items):
    body = read(triggered(json.dumps({"model": "m", "input": given, "stream": True}).encode()))
    assert body == {"model": "m", "input": items, "store": False}
    assert read(triggered(b'{"model":"m","previous_response_id":"r"}'))["input"] == [TRIGGER]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"input":5}', b'{"input":{}}'])
def test_what_is_no_request_is_refused(body):
    refusal = triggered(body)
    assert isinstance(refusal, Refusal) and refusal.status == 400


def test_the_items_of_this_gateway_are_found_and_others_are_left():
    own = {"type": "compaction", "encrypted_content": written(b"sealed")}
    theirs = {"type": "compaction", "encrypted_content": "gAAAA"}
    found = find(raw([USER, own, TRIGGER, theirs, SAID, 5, {"type": "compaction"}]))
    assert [read(item) for item in found.items] == [USER, own, theirs, SAID, 5, {"type": "compaction"}]
    assert (found.own, found.triggers) == ([(1, b"sealed")], True)
    assert [read(item) for item in found.users] == [USER]
    assert not find(raw("text")).triggers
    broken = {"type": "compaction", "encrypted_content": OWN_MARK + "ä!"}
    assert find(raw([broken])).code == "foreign_object"
    assert find(raw([own] * (OWN_ITEMS_MAX + 1))).status == 400
    assert is_trigger(raw(TRIGGER)) and not is_trigger(raw(USER))


def test_a_summary_is_asked_for_in_the_conversation_and_may_call_no_tool():
    asked = {"model": "m", "instructions": "be", "tools": [{"type": "function", "name": "f"}], "tool_choice": "required",
             "stream": True, "text": {"format": {"type": "json_object"}}, "include": [], "input": [TRIGGER], "max_output_tokens": 9}  # fmt: skip
    body = read(summary_body(fields(asked), [raw(USER)]))
    last = body["input"].pop()
    assert (last["role"], last["content"][0]["text"]) == ("user", INSTRUCTION)
    assert body == {"model": "m", "instructions": "be", "tools": asked["tools"], "tool_choice": "none", "input": [USER], "max_output_tokens": 9}  # fmt: skip
    assert "tool_choice" not in read(summary_body(fields({"model": "m", "tool_choice": "auto"}), []))


def test_a_vendors_route_gets_its_own_fields_alone():
    asked = {"model": "m", "input": [], "store": False, "tools": [], "reasoning": {}, "prompt_cache_key": "k"}
    body, dropped = route_body(fields(asked), [raw(USER)])
    assert read(body) == {"model": "m", "input": [USER], "prompt_cache_key": "k"}
    assert dropped == ("tools", "reasoning")
    assert read(with_input(fields(asked), [raw(SAID)])) == asked | {"input": [SAID]}


def test_a_summary_is_the_text_of_an_answer_and_says_that_it_was_cut():
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "no"}]}
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
    answer = {"output": [thought, SAID, call, SAID], "status": "completed"}
    assert summary_of(fields(answer)) == "ho\n\nho"
    assert summary_of(fields(answer | {"status": "incomplete"})) == "ho\n\nho" + CUT_NOTE
    for output in (
        [thought, call],
        [],
        None,
        5,
        [SAID | {"content": [{"type": "refusal", "refusal": "no"}]}],
    ):
        assert summary_of(fields({"output": output, "status": "incomplete"})) == ""


def test_the_answer_has_the_shape_of_what_asked_for_it():
    item = item_of("cmp_1", "twc1.x")
    answer = fields({"id": "resp_1", "object": "response", "created_at": 7, "status": "incomplete", "output": [SAID],
                     "usage": {"input_tokens": 3}, "incomplete_details": {"reason": "max_output_tokens"}})  # fmt: skip
    made = {"type": "compaction", "id": "cmp_1", "encrypted_content": "twc1.x"}
    assert read(compacted(answer, [raw(USER), item])) == {
        "id": "resp_1", "object": "response.compaction", "created_at": 7, "output": [USER, made], "usage": {"input_tokens": 3},
    }  # fmt: skip
    response = response_with(answer, item)
    assert read(msgspec.json.encode(response)) == {
        "id": "resp_1", "object": "response", "created_at": 7, "status": "completed", "output": [made], "usage": {"input_tokens": 3},
        "incomplete_details": None,
    }  # fmt: skip
    events = events_of(response, item)
    assert read(msgspec.json.encode(ended_response(events))) == read(msgspec.json.encode(response))
    told = [json.loads(line[6:]) for line in events.decode().splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in told] == list(range(5))
    assert [event["item"] for event in told if event["type"] == "response.output_item.done"] == [made]


def test_a_compaction_is_read_as_a_message_of_the_user():
    message = read(opened_item("was \ud83d getan".encode("utf-8", "replace")))
    assert (message["type"], message["role"]) == ("message", "user")
    assert message["content"][0]["text"].startswith(PREFACE + "was ")


def test_an_input_of_very_many_values_is_refused_before_each_of_them_is_read():
    objects = b'{"model":"m","input":[%b{}]}' % (b"{}," * (VALUES_MAX + 1))
    assert len(objects) > COUNTED_BYTES
    found = triggered(objects)
    assert isinstance(found, Refusal) and found.code == "invalid_body"
    numbers = find(msgspec.Raw(b"[%b0]" % (b"0," * VALUES_MAX)))
    assert isinstance(numbers, Refusal) and numbers.code == "invalid_body"
    assert len(find(msgspec.Raw(b'[0,"a",{}]')).items) == 3
