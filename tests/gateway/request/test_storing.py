"""A request that continues a stored response sends its items, holds them, and is refused before it costs anything."""

import json

import pytest

from tests.gateway.request.support import Worker, deployment
from tokenworks.catalog import Service
from tokenworks.charging import OBJECT_OWNER, REPLAY_LOOKUP, ObjectOwner, ReplayFound
from tokenworks.gateway.protocol.fields.scan import object_decoder
from tokenworks.gateway.protocol.stored import encode_stored, input_items

OUTPUT = [
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "four"}],
    }
]


def document(words="2+2", output=OUTPUT, previous=None):
    fields = object_decoder.decode(json.dumps({"id": "resp_1", "status": "completed", "output": output}))
    items = input_items(object_decoder.decode(json.dumps({"input": words}))["input"])
    return encode_stored(fields, items, previous)


def found(text=None, verdict="found"):
    return ReplayFound(verdict, "5" * 32, "6" * 32, answer=document() if text is None else text)


def storing(*, permitted=True, protocols=("responses",), **settings):
    worker = Worker(deployment("d1", protocols=protocols), **settings)
    worker.user.service = Service(stores_responses=permitted)
    return worker


def begins(worker, headers=b"", free=False, **fields):
    body = json.dumps({"model": "m", "input": "and 3+3", "max_output_tokens": 50, **fields}).encode()
    return worker.begins(protocol="responses", body=body, headers=headers, free=free)


def questions(worker, kind):
    return [(argument, answered) for asked, argument, answered in worker.recorder.requests if asked is kind]


def sent(worker):
    return worker.upstream().body


@pytest.mark.parametrize("store", [None, False, True])
def test_what_is_continued_is_sent_and_held_and_its_deployment_stores_nothing(store):
    worker = storing()
    alone = storing()
    begins(alone)
    exchange = begins(worker, previous_response_id="resp_1", **({} if store is None else {"store": store}))
    assert not worker.pools and not worker.held
    ((asked, answered),) = questions(worker, REPLAY_LOOKUP)
    assert asked.name.account_id == "acc" and asked.name.kind == "stored_response"
    answered(found())
    body = sent(worker)
    assert [item["role"] for item in body["input"]] == ["user", "assistant", "user"]
    assert body["input"][2]["content"] == "and 3+3" and "id" not in body["input"][1]
    assert "previous_response_id" not in body
    assert body["store"] is False
    assert (exchange.stored is not None) == (store is not False)
    (longer, shorter) = (exchange.input_bound, alone.upstream().user.request.input_bound)
    assert longer > shorter, "the hold covers what is continued"
    assert not questions(worker, OBJECT_OWNER)


def test_without_the_plans_permission_everything_is_as_it_was():
    worker = storing(permitted=False)
    begins(worker, previous_response_id="resp_1", store=True)
    assert not questions(worker, REPLAY_LOOKUP)
    ((_, answered),) = questions(worker, OBJECT_OWNER)
    answered(ObjectOwner("d1", 7))
    assert (sent(worker)["previous_response_id"], sent(worker)["store"]) == ("resp_1", True)


def test_a_response_that_is_not_stored_here_is_left_to_the_deployment_that_made_it():
    worker = storing()
    exchange = begins(worker, previous_response_id="resp_1", store=True)
    questions(worker, REPLAY_LOOKUP)[0][1](ReplayFound("none"))
    questions(worker, OBJECT_OWNER)[0][1](ObjectOwner("d1", 7))
    assert sent(worker)["previous_response_id"] == "resp_1" and exchange.stored is None
    foreign = storing()
    begins(foreign, previous_response_id="resp_1")
    questions(foreign, REPLAY_LOOKUP)[0][1](ReplayFound("none"))
    questions(foreign, OBJECT_OWNER)[0][1](ObjectOwner("", 0))
    assert foreign.client.refused.code == "foreign_object"


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [(None, "database_away", 503), (ReplayFound("in_flight"), "response_in_flight", 409)],
)
def test_a_response_that_can_not_be_looked_up_now_is_asked_for_again(answer, code, status):
    worker = storing()
    begins(worker, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](answer)
    assert (worker.client.refused.code, worker.client.refused.status) == (code, status)
    assert worker.client.refused.retry_after_s == 1
    assert not worker.recorder.records and not worker.held and worker.shared.memory.used == 0


def test_what_is_too_large_is_refused_before_it_costs_anything():
    worker = storing(body_bytes_max=300)
    begins(worker, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](found(document("x" * 300)))
    assert worker.client.refused.code == "response_too_large"
    assert worker.shared.memory.used == 0 and not worker.held and not worker.pools
    worker = storing(replay_answer_bytes_max=100)
    begins(worker, store=True, input="x" * 100)
    assert worker.client.refused.code == "response_too_large" and not worker.pools
    worker = storing(replay_answer_bytes_max=100)
    begins(worker, input="x" * 100)
    assert worker.client.refused is None, "what is not to be stored has no such limit"
    worker = storing(memory_bytes_max=1000)
    begins(worker, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](found(document("x" * 600)))
    assert worker.client.refused.status in {429, 503} and worker.shared.memory.used == 0


def test_the_body_that_takes_the_place_of_the_clients_is_counted_in_the_memory_budget():
    """The items of the client's own body are kept beside it, for the store."""
    worker = storing(body_bytes_max=100_000)
    begins(worker, store=True, instructions="x" * 50_000)
    assert worker.shared.memory.used > 50_000
    worker.upstream().user.request.client_gone()
    worker = storing(body_bytes_max=100_000, memory_bytes_max=40_000)
    begins(worker, store=True, instructions="x" * 50_000)
    assert worker.client.refused.status in {429, 503} and worker.shared.memory.used == 0
    assert not worker.held and not worker.pools


def test_a_stored_item_passes_the_allow_list_like_any_other():
    worker = storing()
    begins(worker, previous_response_id="resp_1")
    bad = [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_image", "image_url": "http://10.0.0.1/a"}],
        }
    ]
    questions(worker, REPLAY_LOOKUP)[0][1](found(document(output=bad)))
    assert worker.client.refused.code == "forbidden_link"
    worker = storing()
    begins(worker, store=True, input={"odd": 1})
    assert (worker.client.refused.code, worker.client.refused.param) == ("invalid_body", "input")


def test_a_client_that_leaves_during_the_look_up_leaves_nothing():
    worker = storing()
    exchange = begins(worker, previous_response_id="resp_1")
    exchange.client_gone()
    exchange.conn = None
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    assert exchange.ended and not worker.pools and worker.shared.memory.used == 0
    assert len(worker.ended) == 1


def test_a_count_of_tokens_counts_what_is_continued_and_stores_nothing():
    worker = storing()
    exchange = begins(worker, free=True, previous_response_id="resp_1", store=True)
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    assert exchange.stored is None and b"2+2" in exchange.body


def test_no_days_store_nothing_and_continue_what_is_left():
    worker = storing(stored_response_days=0)
    exchange = begins(worker, store=True)
    assert exchange.stored is None and sent(worker)["store"] is True
    worker = storing(stored_response_days=0)
    begins(worker, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    assert len(sent(worker)["input"]) == 3
    assert sent(worker)["store"] is False, "nor is the conversation stored at a vendor, whose default that is"


def test_names_differ_by_account_member_and_id():
    from tokenworks.gateway.request.replay import stored_name

    names = {stored_name("a", member, id_, "r").digest for member, id_ in [("m", "x"), ("n", "x"), ("m", "y"), ("mx", "")]}  # fmt: skip
    assert len(names) == 4


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"temperature": 0.5}])
def test_a_request_without_a_wish_is_relayed_as_it_came(fields):
    """In a plan with the store, too: its body is not decoded for it, and nobody is asked."""
    body = json.dumps(
        {"model": "m", "input": [{"role": "user", "content": "hi"}], **fields}, separators=(",", ":")
    )
    worker = storing()
    exchange = worker.begins(protocol="responses", body=body.encode())
    assert exchange.body == body.encode() and exchange.parsed.scan is None
    assert exchange.stored is None and exchange.replay is None and not questions(worker, REPLAY_LOOKUP)
    assert sent(worker)["input"] == [{"role": "user", "content": "hi"}]


def test_a_repeat_of_a_request_that_continues_a_response_is_answered_after_that_was_deleted():
    """An idempotency key knows the client's own body: the one that is sent has the conversation, which a repeat has not any more."""
    key = b"idempotency-key: order 1\r\n"
    worker = storing()
    exchange = begins(worker, headers=key, previous_response_id="resp_1")
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    first = questions(worker, REPLAY_LOOKUP)[1][0]
    assert exchange.body != exchange.own_body
    again = storing()
    begins(again, headers=key, previous_response_id="resp_1")
    questions(again, REPLAY_LOOKUP)[0][1](ReplayFound("none"))
    questions(again, OBJECT_OWNER)[0][1](ObjectOwner("", 0))
    repeat, answered = questions(again, REPLAY_LOOKUP)[1]
    assert repeat.body_digest == first.body_digest != b""
    answered(
        ReplayFound("found", "5" * 32, "6" * 32, "provider", media_type="application/json", answer=b"{}")
    )
    again.recorder.durable()
    assert again.client.written.endswith(b"\r\n\r\n{}") and not again.pools
    other = storing()
    begins(other, headers=key, previous_response_id="resp_2")
    questions(other, REPLAY_LOOKUP)[0][1](found())
    assert questions(other, REPLAY_LOOKUP)[1][0].body_digest != first.body_digest
