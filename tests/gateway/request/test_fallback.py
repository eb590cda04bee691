"""Fallback: the next model of the request, the key or the plan, held and rated as itself, before any content was sent."""

import json

import pytest

from tests.gateway.request.support import Worker, deployment, events, piece, used, whole
from tokenworks.catalog import Service
from tokenworks.factory import Intent
from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request.fallback import CONTEXT, MODERATION, cause_of_fault
from tokenworks.gateway.request.ticking import PING_EVERY_S, tick, time_out

TOO_LONG = {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
MODERATED = {"error": {"message": "no", "code": "content_policy_violation"}}
WRONG = {
    "error": {"message": "temperature is too hot", "code": "invalid_value", "type": "invalid_request_error"}
}


def three(**named):
    return Worker(deployment("d1", "big"), deployment("d2", "small"), deployment("d3", "tiny"), **named)


def fails(worker, name, status=500, content=None):
    upstream = worker.upstream(name)
    upstream.answers(json.dumps(content or {"error": {"message": "x"}}).encode(), status=status)
    upstream.ends()


def answers(worker, name, model):
    upstream = worker.upstream(name)
    upstream.answers(whole(5, 2, model=f"{model}-at-vendor"))
    upstream.ends()
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    return head, json.loads(body)


def test_a_failed_model_goes_on_with_the_next_one_which_is_held_and_named_as_itself():
    worker = three()
    worker.begins(model="big", models=["small", "tiny"])
    fails(worker, "d1")
    assert worker.upstream("d2").body["model"] == "small"
    assert worker.slices.account("acc").held  # the first model's hold is given back, the second has its own
    fails(worker, "d2")
    head, body = answers(worker, "d3", "tiny")
    record, _ = worker.recorder.records[-1]
    assert (record.model, record.asked, record.choice) == ("tiny", "big", "fallback after upstream_error")
    assert record.tried == [("d1", "server 500"), ("d2", "server 500")]
    assert body["model"] == "tiny" and b"\r\nx-tokenworks-model: tiny\r\n" in head
    assert len(worker.recorder.records) == 1 and worker.free_tokens == 100_000 - 7 and not worker.held


def test_the_first_model_answers_under_its_own_name_and_the_header_says_so():
    worker = three()
    worker.begins(model="big", models=["small"])
    head, body = answers(worker, "d1", "big")
    assert body["model"] == "big" and b"\r\nx-tokenworks-model: big\r\n" in head
    assert b"x-tokenworks-choice" not in head
    assert worker.recorder.records[-1][0].asked is None


@pytest.mark.parametrize(
    ("content", "cause"), [(TOO_LONG, "context"), (MODERATED, "moderation")], ids=["context", "moderation"]
)
def test_too_long_or_moderated_goes_on_and_the_deployment_is_not_at_fault(content, cause):
    worker = three()
    worker.begins(model="big", models=["small"])
    fails(worker, "d1", 400, content)
    answers(worker, "d2", "small")
    record, _ = worker.recorder.records[-1]
    assert record.choice == f"fallback after {cause}" and record.tried == [("d1", cause)]
    assert worker.view("d1").failures == 0 and worker.view("d1").outstanding == 0


def test_another_error_of_the_client_is_its_own():
    worker = three()
    worker.begins(model="big", models=["small"])
    fails(worker, "d1", 400, WRONG)
    assert worker.client.refused.status == 400 and not worker.pool("d2").made and not worker.held


def test_a_plan_may_end_what_was_moderated():
    worker = three()
    worker.user.service = Service(fallback_after_moderation=False)
    request = worker.begins(model="big", models=["small"])
    assert cause_of_fault(request, Fault("moderation", 400, "", "")) == ""
    assert cause_of_fault(request, Fault("client", 400, "context_length_exceeded", "")) == CONTEXT
    worker.user.service = Service()
    assert cause_of_fault(request, Fault("moderation", 400, "", "")) == MODERATION
    fails(worker, "d1", 400, WRONG)


def test_without_models_to_fall_back_to_nothing_changes():
    worker = three()
    worker.begins(model="big")
    fails(worker, "d1", 400, TOO_LONG)
    assert worker.client.refused.code == "context_length_exceeded" and not worker.pool("d2").made


def test_after_content_there_is_no_fallback():
    worker = three()
    worker.begins(model="big", models=["small"], stream=True)
    upstream = worker.upstream("d1")
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    upstream.user.upstream_data(
        upstream, events({"error": {"message": "x", "code": "context_length_exceeded"}})
    )
    worker.recorder.durable()
    assert not worker.pool("d2").made and worker.recorder.records[-1][0].state == "interrupted"


def test_a_stream_that_fails_before_content_goes_on_and_its_chunks_have_the_name():
    worker = three()
    worker.begins(model="big", models=["small"], stream=True)
    upstream = worker.upstream("d1")
    upstream.answers(events(TOO_LONG), kind=b"text/event-stream")
    upstream = worker.upstream("d2")
    upstream.answers(events(piece("one", model="small-v2")), kind=b"text/event-stream")
    upstream.user.upstream_data(upstream, events(piece(None, "stop", model="small-v2"), used(5, 2), "[DONE]"))
    upstream.ends()
    worker.recorder.durable()
    assert b'"model":"small"' in worker.client.written.replace(b": ", b":")
    assert b"small-v2" not in worker.client.written


def test_the_key_may_not_use_a_model_so_it_is_left_out():
    worker = three()
    worker.user.models = frozenset({"big", "tiny"})
    worker.begins(model="big", models=["small", "tiny"])
    fails(worker, "d1")
    assert not worker.pool("d2").made and worker.upstream("d3").body["model"] == "tiny"


def test_a_first_model_that_the_key_may_not_use_is_refused_and_one_that_is_not_served_is_not():
    worker = three()
    worker.user.models = frozenset({"small"})
    worker.begins(model="big", models=["small"])
    assert worker.client.refused.code == "model_not_allowed"
    worker.user.models = None
    worker.begins(model="gone", models=["away", "small"])
    _, body = answers(worker, "d2", "small")
    assert body["model"] == "small" and worker.recorder.records[-1][0].choice == "fallback after not_served"


def test_the_request_comes_before_the_key_and_an_empty_list_is_none():
    worker = three()
    worker.user.fallbacks = ("tiny",)
    worker.begins(model="big", models=["small"])
    fails(worker, "d1")
    fails(worker, "d2")
    assert worker.client.refused.status == 502 and not worker.pool("d3").made
    worker.begins(model="big", models=[])
    fails(worker, "d1")
    assert not worker.pool("d3").made
    worker.begins(model="big")
    fails(worker, "d1")
    answers(worker, "d3", "tiny")


def test_each_model_has_all_its_attempts_and_the_retry_budget_is_one():
    worker = Worker(
        *(deployment(f"a{n}", "big") for n in range(4)), deployment("d2", "small"), attempts_max=2
    )
    worker.begins(model="big", models=["small"])
    for name in [f"a{n}" for n in range(4)]:
        if worker.pool(name).made:
            fails(worker, name)
    for name in [f"a{n}" for n in range(4)]:
        if worker.pool(name).made and not worker.pool("d2").made:
            upstream = worker.upstream(name)
            if upstream.user is not None and not upstream.user.over:
                fails(worker, name)
    tried = [name for name in ("a0", "a1", "a2", "a3") if worker.pool(name).made]
    assert len(tried) == 2 and worker.pool("d2").made
    answers(worker, "d2", "small")


def test_an_intent_may_be_fallen_back_to_and_fall_back_itself():
    worker = three(intents=[Intent(name="best", models=("small", "tiny"))])
    worker.begins(model="big", models=["best"])
    fails(worker, "d1")
    made = [name for name in ("d2", "d3") if worker.pool(name).made]
    assert len(made) == 1
    fails(worker, made[0])
    other = "d3" if made == ["d2"] else "d2"
    _, body = answers(worker, other, "x")
    assert body["model"] == "best"
    worker.begins(model="best", models=["big"])
    fails(worker, "d2")
    fails(worker, "d3")
    _, body = answers(worker, "d1", "big")
    assert body["model"] == "big" and worker.recorder.records[-1][0].asked == "best"


def test_embeddings_never_fall_back():
    worker = Worker(
        deployment("d1", "big", protocols=("embeddings",)),
        deployment("d2", "small", protocols=("embeddings",)),
    )
    worker.user.fallbacks = ("small",)
    worker.begins(protocol="embeddings", body=b'{"model":"big","input":"x"}')
    fails(worker, "d1")
    assert not worker.pool("d2").made and worker.client.refused.status == 502


def test_a_name_that_no_database_takes_is_recorded_as_one_that_it_takes():
    worker = three()
    worker.begins(model="no\0ne\n", models=["small"])
    answers(worker, "d2", "small")
    assert worker.recorder.records[-1][0].asked == "no?ne?"


def test_the_first_byte_in_a_record_is_of_its_own_attempt():
    worker = three()
    worker.begins(model="big", models=["small"])
    worker.loop.now_s += 1
    fails(worker, "d1")
    worker.loop.now_s += 2
    answers(worker, "d2", "small")
    assert worker.recorder.records[0][0].first_byte_ms == 3000


def test_a_request_whose_time_is_over_goes_on_with_no_other_model():
    worker = three(intents=[Intent(name="best", models=("small", "tiny"))])
    for named in ({"model": "big", "models": ["small"]}, {"model": "best"}):
        exchange = worker.begins(**named)
        time_out(exchange)
        assert worker.client.refused.status == 504 and exchange.ended and not worker.held
        assert exchange.attempt_no == 1


def test_the_translation_for_a_model_is_over_with_it():
    """The next model's hold covers what its own deployment reads."""
    tools = [{"type": "function", "function": {"name": f"t{n}"}} for n in range(60)]
    asking = {"model": "big", "models": ["small"], "tools": tools}
    translating = Worker(deployment("d1", "big", protocols=("messages",)), deployment("d2", "small"))
    exchange = translating.begins(**asking)
    first = exchange.need
    fails(translating, "d1")
    relaying = three()
    other = relaying.begins(**asking)
    fails(relaying, "d1")
    assert exchange.model == other.model == "small"
    assert exchange.need == other.need and exchange.need.input_tokens < first.input_tokens
    assert exchange.translated is None and translating.shared.memory.used == 0


def test_a_ping_before_the_next_models_answer_names_no_model_that_failed():
    worker = Worker(deployment("d1", "big"), deployment("d2", "small", early_head=True))
    exchange = worker.begins(model="big", models=["small"], stream=True)
    worker.upstream("d1").answers(events(TOO_LONG), kind=b"text/event-stream")
    assert exchange.model == "small"
    tick(exchange, int(exchange.written_s) + PING_EVERY_S)
    assert b": ping" in worker.client.written and b"x-tokenworks-model: big" not in worker.client.written
