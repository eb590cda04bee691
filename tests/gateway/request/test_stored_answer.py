"""A response is stored before its record is written: whole, translated, cut, repeated; the record does not depend on it."""

import json

import pytest

from tests.gateway.protocol.test_stored import MESSAGE, sse
from tests.gateway.request.support import whole
from tests.gateway.request.test_storing import begins, found, questions, storing
from tokenworks.catalog import ChargingPolicy, Service
from tokenworks.charging import REPLAY_KEEP, REPLAY_LOOKUP, STORED_CUT, ReplayFound
from tokenworks.gateway.protocol.stored import decode_stored, response_body
from tokenworks.gateway.request.replay import stored_name
from tokenworks.gateway.request.ticking import tick

USED = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
ITEM = MESSAGE | {"content": [{"type": "output_text", "text": "six", "annotations": []}]}
ANSWER = {"id": "resp_9", "object": "response", "status": "completed", "model": "m", "output": [ITEM], "usage": USED, "store": False}  # fmt: skip


def kept(worker):
    ((argument, answered),) = questions(worker, REPLAY_KEEP)
    return argument, answered


def read(argument):
    stored = decode_stored(argument.answer)
    return json.loads(response_body(stored)), [json.loads(bytes(item)) for item in stored.items]


def is_over(worker):
    (exchange,) = worker.ended
    assert (exchange.replay, exchange.copy, exchange.attempt) == (None, None, None)
    assert worker.shared.memory.used == 0 and not worker.held
    return True


@pytest.mark.parametrize("is_kept", [True, False, None])
def test_a_whole_answer_is_stored_before_its_record_and_charged_whether_or_not_it_is(is_kept):
    worker = storing()
    exchange = begins(worker, store=True)
    assert worker.upstream().body["store"] is False
    worker.upstream().answers(json.dumps(ANSWER).encode())
    worker.upstream().ends()
    assert not worker.recorder.records, "the response is stored first"
    argument, answered = kept(worker)
    assert argument.name == stored_name("acc", "member", "resp_9", exchange.request_id)
    assert argument.media_type == "application/json"
    assert (argument.usage_id, argument.member_id, argument.expires_in_s) == (exchange.usage_id, "member", 30 * 86_400)  # fmt: skip
    response, items = read(argument)
    assert response == ANSWER | {"store": True, "previous_response_id": None}
    assert items == [{"role": "user", "content": "and 3+3"}]
    answered(is_kept)
    ((record, _),) = worker.recorder.records
    assert (record.state, record.counted_by, sum(record.c)) == ("complete", "provider", 12)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert json.loads(body) == ANSWER
    assert (b"x-tokenworks-stored: true" in head, b"x-tokenworks-stored: false" in head) == (bool(is_kept), not is_kept)  # fmt: skip
    assert is_over(worker)


def test_what_it_continues_is_in_its_input():
    worker = storing()
    begins(worker, previous_response_id="resp_1", store=True)
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    worker.upstream().answers(json.dumps(ANSWER).encode())
    worker.upstream().ends()
    argument, answered = kept(worker)
    response, items = read(argument)
    assert response["previous_response_id"] == "resp_1" and len(items) == 3
    answered(True)
    worker.recorder.durable()
    assert is_over(worker)


def test_an_answer_for_a_client_without_the_wish_is_not_stored():
    worker = storing()
    begins(worker)
    worker.upstream().answers(json.dumps(ANSWER).encode())
    worker.upstream().ends()
    worker.recorder.durable()
    assert not questions(worker, REPLAY_KEEP) and b"x-tokenworks-stored" not in worker.client.written
    assert is_over(worker)


@pytest.mark.parametrize("body", [{"output": []}, {"id": "x"}, {"id": 7, "output": []}])
def test_an_answer_that_is_no_response_is_charged_and_not_stored(body):
    worker = storing()
    begins(worker, store=True)
    worker.upstream().answers(json.dumps(body | {"object": "response", "usage": USED}).encode())
    worker.upstream().ends()
    assert not questions(worker, REPLAY_KEEP) and len(worker.recorder.records) == 1


def test_a_translated_answer_is_stored_as_its_client_reads_it():
    worker = storing(protocols=("chat",))
    begins(worker, store=True, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    assert [turn["role"] for turn in worker.upstream().body["messages"]] == ["user", "assistant", "user"]
    assert "store" not in worker.upstream().body
    worker.upstream().answers(whole(7, 2))
    worker.upstream().ends()
    argument, answered = kept(worker)
    response, _ = read(argument)
    answered(True)
    ((record, _),) = worker.recorder.records
    assert (record.c.fresh_input, record.c.output) == (7, 2)
    worker.recorder.durable()
    given = json.loads(worker.client.written.partition(b"\r\n\r\n")[2])
    assert response == given | {"store": True, "previous_response_id": "resp_1"}
    assert is_over(worker)


def stream(worker, *events):
    worker.upstream().answers(sse(*events), kind=b"text/event-stream")


CREATED = {
    "type": "response.created",
    "response": ANSWER | {"status": "in_progress", "output": [], "usage": None},
}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE}
DELTA = {
    "type": "response.output_text.delta",
    "output_index": 0,
    "content_index": 0,
    "item_id": "msg_1",
    "delta": "si",
}


def test_a_stream_is_stored_by_its_last_event():
    worker = storing()
    begins(worker, store=True, stream=True)
    stream(worker, CREATED, ADDED, DELTA, {"type": "response.completed", "response": ANSWER})
    worker.upstream().ends()
    argument, answered = kept(worker)
    assert read(argument)[0] == ANSWER | {"store": True, "previous_response_id": None}
    answered(True)
    worker.recorder.durable()
    assert b"response.completed" in worker.client.written and is_over(worker)


@pytest.mark.parametrize("output", [None, []])
def test_a_stream_whose_last_event_leaves_its_output_out_is_stored_with_what_it_showed(output):
    worker = storing()
    begins(worker, store=True, stream=True)
    ended = {name: value for name, value in ANSWER.items() if name != "output"} | (
        {} if output is None else {"output": output}
    )
    done = {"type": "response.output_item.done", "output_index": 0, "item": ITEM}
    stream(worker, CREATED, ADDED, DELTA, done, {"type": "response.completed", "response": ended})
    worker.upstream().ends()
    response, _ = read(kept(worker)[0])
    assert (response["status"], response["output"]) == ("completed", [ITEM])


@pytest.mark.parametrize("room", [10_000, 40])
def test_a_stream_that_was_cut_is_stored_as_incomplete_if_its_copy_has_room(room):
    worker = storing(replay_answer_bytes_max=room)
    begins(worker, store=True, stream=True, input="a")
    stream(worker, CREATED, ADDED, DELTA)
    worker.upstream().user.upstream_failed(worker.upstream(), "broken")
    asked = questions(worker, REPLAY_KEEP)
    assert len(asked) == (room > 40)
    if asked:
        response, _ = read(asked[0][0])
        assert (response["status"], response["output"][0]["content"][0]["text"]) == ("incomplete", "si")
        assert asked[0][0].media_type == STORED_CUT
        asked[0][1](True)
    ((record, _),) = worker.recorder.records
    assert record.state == "interrupted"
    worker.recorder.durable()
    assert is_over(worker)


def test_a_repeat_by_its_idempotency_key_is_looked_for_first_and_stored_last():
    worker = storing()
    begins(worker, headers=b"idempotency-key: one\r\n", store=True)
    ((_, answered),) = questions(worker, REPLAY_LOOKUP)
    answered(ReplayFound("none"))
    worker.upstream().answers(json.dumps(ANSWER).encode())
    worker.upstream().ends()
    kinds = []
    for _ in range(2):
        argument, answered = questions(worker, REPLAY_KEEP)[-1]
        kinds.append(argument.name.kind)
        assert not worker.recorder.records
        answered(True)
    assert kinds == ["stored_response", "idempotency_key"]
    worker.recorder.durable()
    assert is_over(worker)


def test_a_response_that_is_to_be_stored_is_not_answered_from_the_cache():
    worker = storing()
    worker.user.service = Service(stores_responses=True, cache_percent=50)
    begins(worker, headers=b"x-tokenworks-cache: on\r\n", store=True)
    assert not questions(worker, REPLAY_LOOKUP) and worker.upstream().body["store"] is False


def test_a_client_that_leaves_while_its_response_is_stored_pays_once():
    worker = storing()
    exchange = begins(worker, store=True)
    worker.upstream().answers(json.dumps(ANSWER).encode())
    worker.upstream().ends()
    exchange.client_gone()
    kept(worker)[1](True)
    assert len(worker.recorder.records) == 1
    worker.recorder.durable()
    assert is_over(worker)


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_that_is_too_large_to_be_stored_does_not_burden_the_recorder(streams):
    """The recorder serves the whole host, and ends the connection of a worker whose message is too large."""
    worker = storing(replay_answer_bytes_max=3_000)
    begins(worker, store=True, stream=streams)
    answer = ANSWER | {"output": [ITEM | {"content": [{"type": "output_text", "text": "x" * 3_000}]}]}
    if streams:
        stream(worker, CREATED, ADDED, DELTA, {"type": "response.completed", "response": answer})
    else:
        worker.upstream().answers(json.dumps(answer).encode())
    worker.upstream().ends()
    assert not questions(worker, REPLAY_KEEP)
    ((record, _),) = worker.recorder.records
    assert (record.state, sum(record.c)) == ("complete", 12)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert b"x" * 3_000 in body and (b"x-tokenworks-stored: false" in head) == (not streams)
    assert is_over(worker)


@pytest.mark.parametrize("waived", [False, True])
def test_what_came_after_its_client_had_left_is_not_stored_where_the_plan_waives_it(waived):
    """Else a client could leave each stream at its first word and read the rest of it for nothing."""
    worker = storing()
    if waived:
        worker.user.policy = ChargingPolicy(client_gone_in_content="nothing")
    exchange = begins(worker, store=True, stream=True)
    stream(worker, CREATED, ADDED, DELTA)
    exchange.client_gone()
    assert exchange.attempt.drain_until_s, "so few tokens are left that the stream is read on"
    upstream = worker.upstream()
    upstream.user.upstream_data(upstream, sse(DELTA))
    tick(exchange, int(exchange.attempt.drain_until_s))
    assert len(questions(worker, REPLAY_KEEP)) == (not waived)
    if not waived:
        assert "sisi" in json.dumps(read(kept(worker)[0])[0])
        kept(worker)[1](True)
    ((record, _),) = worker.recorder.records
    assert (record.reason, bool(record.loss)) == ("client_gone", waived)
    worker.recorder.durable()
    assert is_over(worker)


CHATTED = {"id": "c-9", "object": "chat.completion", "created": 5, "model": "m",
           "choices": [{"index": 0, "message": {"role": "assistant", "content": "six"}, "finish_reason": "stop"}],
           "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}  # fmt: skip
CHUNKS = [
    {"id": "c-9", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    for text, finish in (("s", None), ("ix", None), ("", "stop"))
] + [{"id": "c-9", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [], "usage": CHATTED["usage"]}]  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_completion_is_stored_as_its_client_got_it_and_no_deployment_stores_it(streamed):
    worker = storing(protocols=("chat",))
    asked = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    exchange = worker.begins(store=True, metadata={"k": "v"}, **asked)
    assert "store" not in worker.upstream().body
    if streamed:
        data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in CHUNKS) + b"data: [DONE]\n\n"
        worker.upstream().answers(data, kind=b"text/event-stream")
    else:
        worker.upstream().answers(json.dumps(CHATTED).encode())
    worker.upstream().ends()
    assert not worker.recorder.records, "the completion is stored first"
    argument, answered = kept(worker)
    assert argument.name == stored_name("acc", "member", "c-9", exchange.request_id, of_chat=True)
    completion, items = read(argument)
    assert completion["metadata"] == {"k": "v"} and completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": "six"}
    assert completion["usage"] == CHATTED["usage"] and [item["role"] for item in items] == ["user"]
    answered(True)
    ((record, _),) = worker.recorder.records
    assert (record.state, sum(record.c)) == ("complete", 12)
    worker.recorder.durable()
    assert is_over(worker)


@pytest.mark.parametrize(
    "settings", [{"permitted": False}, {"stored_response_days": 0}, {"replay_answer_bytes_max": 10}]
)
def test_a_chat_completion_that_can_not_be_stored_is_refused_before_it_costs_anything(settings):
    worker = storing(protocols=("chat",), **settings)
    worker.begins(store=True)
    refusal = worker.client.refused
    assert (refusal.status, refusal.code) in {(400, "unpriced_field"), (413, "response_too_large")}
    assert not worker.pools and not worker.held
    plain = storing(protocols=("chat",), **settings)
    exchange = plain.begins(store=False)
    assert exchange.stored is None and plain.upstream().body["store"] is False
