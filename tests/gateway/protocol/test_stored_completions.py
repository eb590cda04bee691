"""A stored chat completion is what its client got, put together from a stream as clients do."""

import json

import msgspec

from tokenworks.gateway.protocol.fields.scan import object_decoder
from tokenworks.gateway.protocol.stored import decode_stored, read_items_page
from tokenworks.gateway.protocol.stored_completions import (
    completion_id,
    deleted_body,
    encode_completion,
    messages_body,
    messages_of,
    streamed_completion,
)

USED = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chunk(delta=None, index=0, finish=None, **more):
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": choices,
    } | more


def stream(*chunks):
    return b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks) + b"data: [DONE]\n\n"


def read(fields):
    return json.loads(msgspec.json.encode(fields))


def test_a_stream_is_put_together_choice_by_choice_with_its_calls():
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    made = streamed_completion(stream(
        chunk({"role": "assistant", "content": ""}), chunk({"content": "he"}), chunk({"reasoning_content": "why"}), chunk({"content": "llo"}),
        chunk({"tool_calls": [call]}), chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}), chunk({}, finish="tool_calls"),
        chunk({"refusal": "no"}, index=1, finish="stop"), chunk(usage=USED),
    ))  # fmt: skip
    whole = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    first = {"role": "assistant", "content": "hello", "reasoning_content": "why", "tool_calls": [whole]}
    second = {"role": "assistant", "content": None, "refusal": "no"}
    assert read(made) == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m", "usage": USED,
        "choices": [{"index": 0, "message": first, "logprobs": None, "finish_reason": "tool_calls"},
                    {"index": 1, "message": second, "logprobs": None, "finish_reason": "stop"}],
    }  # fmt: skip


def test_a_stream_without_a_choice_or_with_broken_ones_is_read_tolerantly():
    assert streamed_completion(b"") is None
    assert streamed_completion(stream(chunk(usage=USED))) is None
    odd = chunk({"content": 5, "tool_calls": [1]}, index="x")
    (choice,) = read(streamed_completion(stream(odd, chunk({"content": "a"}), {"choices": 5})))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a"}
    endless = stream(chunk({"content": "a"})).replace(b'"index": 0', b'"index": 1e999')
    assert b"1e999" in endless and len(read(streamed_completion(endless))["choices"]) == 1


def test_what_is_kept_has_its_metadata_and_messages_with_ids_of_their_places():
    fields = object_decoder.decode(json.dumps({"id": "chatcmpl-1", "choices": []}))
    assert completion_id(fields) == "chatcmpl-1"
    assert completion_id(object_decoder.decode(b'{"id":"x"}')) is None
    assert completion_id(object_decoder.decode(b'{"id":5,"choices":[]}')) is None
    for name in ("a/b", "a b", "\u4f60", "x" * 201, ""):
        unreadable = object_decoder.decode(json.dumps({"id": name, "choices": []}))
        assert completion_id(unreadable) is None, "no route could read or delete it"
    messages = messages_of(msgspec.Raw(b'[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]'))
    stored = decode_stored(encode_completion(fields, messages, msgspec.Raw(b'{"k":"v"}')))
    assert read(stored.fields)["metadata"] == {"k": "v"}
    listed = json.loads(messages_body(stored, read_items_page(b"", "asc")))
    assert [(each["id"], each["content"]) for each in listed["data"]] == [
        ("chatcmpl-1-0", "a"),
        ("chatcmpl-1-1", "b"),
    ]
    page = json.loads(messages_body(stored, read_items_page(b"limit=1&order=desc", "asc")))
    assert (page["data"][0]["content"], page["has_more"], page["first_id"]) == ("b", True, "chatcmpl-1-1")
    assert messages_body(stored, read_items_page(b"after=no", "asc")) is None
    assert json.loads(deleted_body("x")) == {"object": "chat.completion.deleted", "id": "x", "deleted": True}
