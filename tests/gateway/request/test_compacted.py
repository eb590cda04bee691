"""A summary is charged once as its provider counts, given sealed in the shape that was asked for, and never missing unnoticed."""

import base64
import json

import pytest

from tests.gateway.protocol.streams import sse
from tests.gateway.request.support import deployment
from tests.gateway.request.test_compacting import (
    MEMBER,
    OPENAI,
    PERSON,
    USER,
    begins,
    gives_keys,
    worker_of,
)
from tests.gateway.request.test_storing import questions, storing
from tokenworks.charging import REPLAY_KEEP
from tokenworks.gateway.protocol.stored import decode_stored, ended_response, response_body
from tokenworks.trust import SEALED_KEY_BYTES, open_content, open_content_key

USED = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "all of it", "annotations": []}]}  # fmt: skip
ANSWER = {"id": "resp_9", "object": "response", "created_at": 5, "status": "completed", "model": "m", "output": [ITEM], "usage": USED}  # fmt: skip
CHAT = {"id": "c-1", "object": "chat.completion", "created": 5, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "all of it"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}}}  # fmt: skip


def answered(worker, answer=ANSWER):
    worker.upstream().answers(json.dumps(answer).encode())
    worker.upstream().ends()
    for _, done in questions(worker, REPLAY_KEEP):
        done(True)
    ((record, _),) = worker.recorder.records
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert not worker.held and worker.shared.memory.used == 0
    assert f"content-length: {len(body)}".encode() in head
    return record, head, body


def opened(item):
    sealed = base64.urlsafe_b64decode(item["encrypted_content"].removeprefix("twc1."))
    key = open_content_key(PERSON, MEMBER, sealed[:SEALED_KEY_BYTES])
    return open_content(key, sealed[SEALED_KEY_BYTES:]).decode()


@pytest.mark.parametrize(("protocol", "answer"), [("responses", ANSWER), ("chat", CHAT)])
@pytest.mark.parametrize("shape", ["route", "response", "stream"])
def test_it_is_charged_as_its_provider_counts_and_given_in_the_shape_that_was_asked_for(
    protocol, answer, shape
):
    worker = worker_of(deployment("d1", protocols=(protocol,)))
    begins(worker, route=shape == "route", stream=shape == "stream")
    gives_keys(worker)
    record, head, body = answered(worker, answer)
    assert (record.state, record.counted_by, sum(record.c), record.c.cached_input) == ("complete", "provider", 12, 4)  # fmt: skip
    assert head.startswith(b"HTTP/1.1 200 OK") and b"x-tokenworks-compacted: summary" in head
    assert (b"content-type: text/event-stream" in head) == (shape == "stream")
    if shape == "stream":
        given = json.loads(response_of(ended_response(body)))
    else:
        given = json.loads(body)
    assert given["object"] == ("response.compaction" if shape == "route" else "response")
    assert given["usage"]["input_tokens"] == 9 and given["usage"]["total_tokens"] == 12
    *users, item = given["output"]
    assert users == ([USER] if shape == "route" else []) and item["type"] == "compaction"
    assert "all of it" not in body.decode() and opened(item) == "all of it"


def response_of(fields):
    return json.dumps({name: json.loads(bytes(value)) for name, value in fields.items()})


@pytest.mark.parametrize(
    "output", [[], [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]]
)
def test_without_a_summary_the_client_is_told_so_and_the_tokens_are_charged(output):
    worker = worker_of()
    begins(worker, route=True)
    gives_keys(worker)
    record, head, body = answered(worker, ANSWER | {"output": output})
    assert (record.state, sum(record.c)) == ("complete", 12)
    assert head.startswith(b"HTTP/1.1 422 ") and json.loads(body)["error"]["code"] == "not_compacted"


def test_a_repeat_by_its_idempotency_key_gets_the_same_one():
    worker = worker_of()
    begins(worker, route=True, headers=b"idempotency-key: k\r\n")
    gives_keys(worker)
    from tokenworks.charging import REPLAY_LOOKUP, ReplayFound

    ((asked, found),) = questions(worker, REPLAY_LOOKUP)
    found(ReplayFound("none"))
    _, _, body = answered(worker)
    ((kept, _),) = questions(worker, REPLAY_KEEP)
    assert kept.answer == body and kept.body_digest == asked.body_digest != b""
    other = worker_of()
    begins(other, headers=b"idempotency-key: k\r\n", store=False)
    gives_keys(other)
    assert questions(other, REPLAY_LOOKUP)[0][0].body_digest != asked.body_digest, "another shape"


def test_neither_the_cache_nor_a_key_has_an_effect_on_a_streamed_one():
    worker = worker_of()
    exchange = begins(worker, stream=True, headers=b"idempotency-key: k\r\nx-tokenworks-cache: on\r\n")
    gives_keys(worker)
    assert exchange.replay is None and worker.upstream()


def test_a_response_that_is_to_be_stored_is_stored_as_its_client_gets_it():
    worker = storing()
    begins(worker, store=True)
    gives_keys(worker)
    _, _, body = answered(worker)
    ((kept, _),) = questions(worker, REPLAY_KEEP)
    stored = decode_stored(kept.answer)
    given = json.loads(response_body(stored))
    assert given["output"] == json.loads(body)["output"] and given["output"][0]["type"] == "compaction"
    assert b"all of it" not in kept.answer and len(stored.items) == 2


def test_a_vendors_own_answer_is_passed_on():
    worker = worker_of(OPENAI)
    begins(worker, route=True)
    answer = {"id": "resp_1", "object": "response.compaction", "created_at": 5, "usage": USED,
              "output": [USER, {"type": "compaction", "id": "cmp", "encrypted_content": "gAAA"}]}  # fmt: skip
    record, _, body = answered(worker, answer)
    assert json.loads(body) == answer and (record.counted_by, sum(record.c)) == ("provider", 12)
    assert record.loss == []


def test_a_client_that_leaves_once_it_has_a_vendors_compaction_is_charged_for_it():
    """The item comes before the usage: to hang up in between must not be cheaper."""
    worker = worker_of(OPENAI)
    begins(worker, stream=True)
    item = {"type": "compaction", "id": "cmp", "encrypted_content": "gAAA"}
    response = ANSWER | {"status": "in_progress", "output": [], "usage": None}
    upstream = worker.upstream()
    upstream.answers(
        sse({"type": "response.created", "response": response},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item}),
        kind=b"text/event-stream",
    )  # fmt: skip
    assert b"gAAA" in worker.client.written
    upstream.user.request.client_gone()
    ended = ANSWER | {"output": [item], "usage": USED | {"output_tokens": 900, "total_tokens": 909}}
    upstream.user.upstream_data(upstream, sse({"type": "response.completed", "response": ended}))
    upstream.ends()
    ((record, _),) = worker.recorder.records
    assert (record.state, record.counted_by, sum(record.c), record.loss) == ("complete", "provider", 909, [])
    worker.recorder.durable()
    assert not worker.held and worker.shared.memory.used == 0
