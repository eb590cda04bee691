"""The response that gives a stored answer again says of the repeat itself what any other response says of its request."""

import json

import msgspec

from tests.gateway.request.support import Worker, deployment, events, piece, used
from tests.gateway.request.test_replay import (
    ANSWER,
    CACHE,
    CHARGED,
    FOUND,
    KEY,
    answer_lookup,
    asked,
    cached,
    digest,
    is_over,
)
from tokenworks.charging import REPLAY_LOOKUP, Admission, Limit, LimitLeft, ReplayFound

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":9,"seed":1e999}'
COST = b"x-tokenworks-cost: 1\r\n"
STORED = events(piece("hello"), piece(finish="stop"), used(9, 21), "[DONE]")


def given(worker, found=FOUND, **fields):
    """(head, body) of an answer that is given again, and its record."""
    worker.begins(**fields)
    answer_lookup(worker, found)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    ((record, _),) = worker.recorder.records
    assert is_over(worker)
    return head, body, record


def test_a_hit_has_the_tags_of_its_own_request():
    tagged = CACHE + b"x-tokenworks-tag-team: a\r\nx-tokenworks-tag-long: " + b"x" * 300 + b"\r\n"
    head, _, record = given(cached(), headers=tagged, metadata={"job": "nightly"})
    assert record.tags == {"team": "a", "job": "nightly"}
    assert b"x-tokenworks-dropped: tag:long\r\n" in head


def test_a_hit_and_a_repeat_name_their_own_cost():
    head, body, record = given(cached(50), headers=CACHE + COST)
    drawn = sum(part.amount for part in record.parts) // 1000
    assert json.loads(body)["usage"]["cost"] == drawn == 4 + 10
    assert b"x-tokenworks-cost: 14 token" in head
    head, body, record = given(Worker(), headers=KEY, usage={"include": True})
    assert json.loads(body)["usage"]["cost"] == 0 and b"x-tokenworks-cost: 0 token" in head
    assert given(cached(50), headers=CACHE)[1] == ANSWER


def test_a_streamed_hit_has_its_cost_in_its_last_usage():
    found = ReplayFound("found", "5" * 32, "6" * 32, "provider", CHARGED, 0, "text/event-stream", STORED)
    _, body, _ = given(cached(50), found, headers=CACHE + COST, stream=True)
    sent = b"".join(body.split(b"\r\n")[1::2])
    *first, usage, done, rest = sent.split(b"\n\n")
    assert (first, done, rest) == (STORED.split(b"\n\n")[:2], b"data: [DONE]", b"")
    assert json.loads(usage[6:])["usage"]["cost"] == 14


def test_a_stream_with_a_cost_answers_no_stream_without_one():
    # It has a usage event, which a client that requested none does not expect.
    assert digest(stream=True, headers=COST) != digest(stream=True)
    assert digest(headers=COST) == digest()


def test_a_hit_names_the_limits_and_the_model_that_any_answer_names():
    worker = cached()
    worker.user.limits, worker.user.limit_scopes = (Limit("key", 60, 0, 0),), ("key",)
    worker.begins(headers=CACHE, models=["other"])
    (admission,) = worker.recorder.admissions.asked
    limits = worker.user.limits
    admission.answered(Admission(limits, 10, 1, left=(LimitLeft(59, 0),)), 0, limits[0], 0)
    answer_lookup(worker, FOUND)
    worker.recorder.durable()
    assert b"x-ratelimit-remaining-requests: 59\r\n" in worker.client.written
    assert b"x-tokenworks-model: m\r\n" in worker.client.written


def test_a_repeat_and_a_hit_name_the_model_that_answered_first_and_why():
    """After a fallback, also if this request would get another model, or names none to fall back to itself."""
    why = "fallback after no_deployment"
    first = msgspec.structs.replace(FOUND, model="other", asked="m", choice=why)
    for worker, headers in ((cached(), CACHE), (Worker(), KEY)):
        for more in ({}, {"models": ["other"]}):
            head, _, _ = given(worker, first, headers=headers, **more)
            assert f"x-tokenworks-model: other\r\nx-tokenworks-choice: {why}\r\n".encode() in head
            worker = Worker() if headers is KEY else cached()
    # The first model of a list answered itself: no cause. Of a request without a list, no answer names a model.
    own = msgspec.structs.replace(FOUND, model="m")
    head, _, _ = given(Worker(), own, headers=KEY, models=["other"])
    assert b"x-tokenworks-model: m\r\n" in head and b"x-tokenworks-choice" not in head
    assert b"x-tokenworks-model" not in given(Worker(), own, headers=KEY)[0]


def test_the_name_that_an_answer_shows_is_part_of_its_own():
    worker = cached()
    worker.user.fallbacks = ("m",)
    worker.begins(model="gone", headers=CACHE)
    other = Worker(deployment("d1"), aliases={"alias": "m"})
    other.user.service, other.user.fallbacks = worker.user.service, ("alias",)
    other.begins(model="gone", headers=CACHE)
    names = {asked(each, REPLAY_LOOKUP)[0][0].name.digest for each in (worker, other)}
    assert len(names) == 2


def test_a_body_that_can_not_be_compared_is_answered_without_the_cache():
    worker = cached()
    worker.begins(headers=CACHE, body=BODY)
    assert not asked(worker, REPLAY_LOOKUP) and worker.upstream().body["seed"] == float("inf")
