"""An answer that is given again is held, recorded and then given; what is stored is stored before its record, and is free of nothing."""

import json

import msgspec
import pytest

from tests.gateway.request.support import WHOLE, Worker, deployment
from tokenworks.catalog import Counts, Service
from tokenworks.charging import (
    REPLAY_DROP,
    REPLAY_KEEP,
    REPLAY_LOOKUP,
    Admission,
    Limit,
    LimitLeft,
    ReplayFound,
    Verdict,
)
from tokenworks.factory import Intent, ModelCard
from tokenworks.gateway.request.replay import begin_replay
from tokenworks.gateway.request.ticking import cut

KEY = b"idempotency-key: order 1\r\n"
CACHE = b"x-tokenworks-cache: on\r\n"
CHARGED = Counts(fresh_input=9, output=21)
ANSWER = json.dumps(
    WHOLE | {"usage": {"prompt_tokens": 9, "completion_tokens": 21, "total_tokens": 30}}
).encode()
FOUND = ReplayFound("found", "5" * 32, "6" * 32, "provider", CHARGED, 7, "application/json", ANSWER)


def cached(percent=50, **settings):
    worker = Worker(**settings)
    worker.user.service = Service(cache_percent=percent)
    return worker


def asked(worker, question):
    """The arguments and the callbacks of the questions of one kind, in order."""
    return [(argument, answered) for kind, argument, answered in worker.recorder.requests if kind is question]


def answer_lookup(worker, found):
    ((_, answered),) = asked(worker, REPLAY_LOOKUP)[-1:]
    answered(found)


def is_over(worker):
    """Everything is given back: memory, holds, the exchange's parts."""
    (exchange,) = worker.ended
    assert (exchange.replay, exchange.copy, exchange.attempt) == (None, None, None)
    assert worker.shared.memory.used == 0
    assert not worker.held
    return True


def serves(worker, *, stored=True):
    """The deployment answers, and what is to be stored is stored."""
    worker.upstream().answers(ANSWER)
    worker.upstream().ends()
    if stored is not None:
        asked(worker, REPLAY_KEEP)[-1][1](stored)
    worker.recorder.durable()


@pytest.mark.parametrize("percent", [0, 1, 50, 100])
def test_a_hit_holds_exactly_what_it_is_charged_and_ends_after_its_record(percent):
    worker = cached(percent)
    before = worker.free_tokens
    exchange = worker.begins(headers=CACHE)
    assert not worker.held
    answer_lookup(worker, FOUND)
    assert worker.client.written == b"" and not worker.held
    ((record, _),) = worker.recorder.records
    share = Counts(fresh_input=9 * percent // 100, output=21 * percent // 100)
    assert (record.state, record.c, record.replay_of, record.replay_percent) == (
        "replayed",
        share,
        "5" * 32,
        percent,
    )
    assert (record.usage_id, record.request_id, record.attempt_no) == (
        exchange.request_id,
        exchange.request_id,
        1,
    )
    assert (record.deployment, record.upstream_id, record.provider_total, record.unpaid) == (
        "",
        None,
        None,
        None,
    )
    assert sum(part.amount for part in record.parts) == 1000 * sum(share)
    assert worker.free_tokens == before - sum(share)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert body == ANSWER
    assert b"x-tokenworks-cache: hit\r\nage: 7\r\n" in head
    assert b"x-tokenworks-replayed: " + b"6" * 32 in head
    assert worker.client.done_times == 1 and is_over(worker)
    assert not worker.pools, "no deployment was asked"


def test_a_hit_that_the_slices_do_not_cover_asks_and_is_refused_like_any_request():
    worker = cached(100, tokens=10)
    exchange = worker.begins(headers=CACHE)
    answer_lookup(worker, FOUND)
    (need,) = worker.recorder.asked
    assert (need.need.requests, need.need.input_tokens, need.need.output_tokens) == (1, 9, 21)
    need.answered(None, Verdict.NOTHING_LEFT, 0)
    assert worker.client.refused.status == 402 and not worker.recorder.records
    assert exchange.ended and is_over(worker)


def test_a_client_that_leaves_during_the_hold_of_a_hit_pays_nothing():
    worker = cached(100, tokens=10)
    exchange = worker.begins(headers=CACHE)
    answer_lookup(worker, FOUND)
    exchange.client_gone()
    worker.grant(100)
    account = worker.slices.account("acc")
    need = worker.recorder.asked[0].need
    hold = worker.slices.hold(account, (), "m", need, 0)
    worker.recorder.asked[0].answered(hold, Verdict.ENOUGH, 0)
    assert not worker.recorder.records and not worker.held
    assert is_over(worker)


def test_a_client_that_leaves_before_its_hit_is_recorded_is_charged_once():
    worker = cached(100)
    exchange = worker.begins(headers=CACHE)
    answer_lookup(worker, FOUND)
    exchange.client_gone()
    assert not exchange.ended
    worker.recorder.durable()
    assert len(worker.recorder.records) == 1 and worker.client.written == b""
    assert is_over(worker)


@pytest.mark.parametrize(
    ("found", "status", "code"),
    [
        (ReplayFound("in_flight"), 409, "idempotency_in_flight"),
        (ReplayFound("other_request"), 422, "idempotency_key_reused"),
        (ReplayFound("spent"), 409, "idempotency_key_spent"),
        (ReplayFound("full"), 429, "too_many_idempotency_keys"),
    ],
)
def test_a_key_that_is_not_free_refuses_and_frees_nothing(found, status, code):
    worker = Worker()
    worker.begins(headers=KEY)
    answer_lookup(worker, found)
    assert (worker.client.refused.status, worker.client.refused.code) == (status, code)
    assert (status == 409 and code.endswith("flight")) <= bool(worker.client.refused.retry_after_s)
    assert not asked(worker, REPLAY_DROP) and not worker.pools and is_over(worker)


def test_a_key_whose_lookup_had_no_answer_in_time_may_be_claimed_and_is_freed():
    worker = Worker()
    worker.begins(headers=KEY)
    ((looked_up, answered),) = asked(worker, REPLAY_LOOKUP)
    answered(None)
    assert (worker.client.refused.status, worker.client.refused.code) == (503, "database_away")
    ((freed, _),) = asked(worker, REPLAY_DROP)
    assert freed == looked_up.name and not worker.pools and is_over(worker)


def test_without_the_database_the_cache_is_a_miss():
    worker = cached()
    worker.begins(headers=CACHE)
    answer_lookup(worker, None)
    serves(worker, stored=None)
    assert b"x-tokenworks-cache" not in worker.client.written and worker.client.written.endswith(ANSWER)
    assert not asked(worker, REPLAY_KEEP) and is_over(worker)


@pytest.mark.parametrize("stored", [True, False, None])
def test_an_answer_is_stored_before_its_record_and_its_key_is_not_freed_after_it(stored):
    worker = Worker()
    worker.begins(headers=KEY)
    answer_lookup(worker, ReplayFound("none"))
    worker.upstream().answers(ANSWER)
    worker.upstream().ends()
    assert not worker.recorder.records and worker.held
    ((kept, answered),) = asked(worker, REPLAY_KEEP)
    assert (kept.answer, kept.usage_id, kept.media_type) == (
        ANSWER,
        worker.recorder.began.popitem()[0],
        "application/json",
    )
    answered(stored)
    assert worker.client.written == b""
    worker.recorder.durable()
    assert worker.client.written.endswith(ANSWER) and b"x-tokenworks-replayed" not in worker.client.written
    assert len(worker.recorder.records) == 1 and not asked(worker, REPLAY_DROP) and is_over(worker)


def test_a_client_that_left_has_its_answer_stored_for_its_repeat():
    worker = Worker()
    exchange = worker.begins(headers=KEY)
    answer_lookup(worker, ReplayFound("none"))
    exchange.client_gone()
    worker.upstream().answers(ANSWER)
    worker.upstream().ends()
    asked(worker, REPLAY_KEEP)[0][1](True)
    worker.recorder.durable()
    assert len(worker.recorder.records) == 1 and not asked(worker, REPLAY_DROP)


def test_a_request_that_comes_to_nothing_frees_its_key():
    worker = Worker()
    exchange = worker.begins(headers=KEY)
    exchange.client_gone()
    assert exchange.ended and not asked(worker, REPLAY_DROP)
    answer_lookup(worker, ReplayFound("none"))
    assert len(asked(worker, REPLAY_DROP)) == 1 and not worker.held and is_over(worker)
    failing = Worker()
    failing.begins(headers=KEY)
    answer_lookup(failing, ReplayFound("none"))
    failing.upstream().answers(b'{"error": {"message": "no"}}', status=400)
    failing.upstream().ends()
    assert failing.client.refused is not None
    assert len(asked(failing, REPLAY_DROP)) == 1 and not failing.recorder.records and is_over(failing)


def test_an_answer_that_is_too_large_spends_its_key_and_stays_out_of_the_cache():
    worker = Worker(replay_answer_bytes_max=100)
    worker.begins(headers=KEY)
    answer_lookup(worker, ReplayFound("none"))
    serves(worker)
    assert asked(worker, REPLAY_KEEP)[0][0].answer is None and is_over(worker)
    caching = cached(replay_answer_bytes_max=100)
    caching.begins(headers=CACHE)
    answer_lookup(caching, ReplayFound("none"))
    serves(caching, stored=None)
    assert not asked(caching, REPLAY_KEEP) and is_over(caching)


STREAM = (
    b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"u","model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":21,"total_tokens":30}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("bytes_max", [10_000, 60])
def test_a_stream_is_stored_as_its_client_gets_it_or_not_at_all(bytes_max):
    worker = cached(replay_answer_bytes_max=bytes_max)
    worker.begins(headers=CACHE, stream=True)
    answer_lookup(worker, ReplayFound("none"))
    worker.upstream().answers(STREAM, kind=b"text/event-stream")
    worker.upstream().ends()
    kept = asked(worker, REPLAY_KEEP)
    assert bool(kept) is (bytes_max > 60)
    for _, answered in kept:
        answered(True)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    assert b"x-tokenworks-cache: miss" in head
    chunks = body.split(b"\r\n")[1::2]
    assert is_over(worker)
    if kept:
        stored = kept[0][0].answer
        assert stored == b"".join(chunks) and b"usage" not in stored
        again = cached()
        again.begins(headers=CACHE, stream=True)
        answer_lookup(
            again,
            ReplayFound("found", "5" * 32, "6" * 32, "provider", CHARGED, 0, "text/event-stream", stored),
        )
        again.recorder.durable()
        assert b"".join(again.client.written.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]) == stored


def test_an_answer_under_a_lower_maximum_than_asked_for_is_not_stored():
    worker = cached()
    exchange = worker.begins(headers=CACHE)
    answer_lookup(worker, ReplayFound("none"))
    exchange.maximum = 50
    serves(worker, stored=None)
    assert not asked(worker, REPLAY_KEEP) and is_over(worker)


def test_a_maximum_that_the_gateway_adds_for_all_alike_is_stored():
    worker = cached()
    exchange = worker.begins(headers=CACHE, max_tokens=None)
    answer_lookup(worker, ReplayFound("none"))
    assert exchange.maximum == 1000
    serves(worker)
    assert len(asked(worker, REPLAY_KEEP)) == 1 and is_over(worker)


def digest(**fields):
    headers = fields.pop("headers", b"")
    worker = cached()
    worker.begins(headers=CACHE + headers, **fields)
    found = asked(worker, REPLAY_LOOKUP)
    return found[0][0].name.digest if found else None


def test_equal_requests_have_one_name_and_others_have_others():
    one = digest(temperature=1, user="a", metadata={"x": "1"}, safety_identifier="s")
    assert one == digest(safety_identifier="t", user="b", metadata={}, temperature=1)
    body = b'{"temperature": 1,  "max_tokens":100, "messages":[{"content":"hi", "role":"user"}], "model":"m"}'
    assert one == digest(body=body)
    others = [
        digest(temperature=0), digest(temperature=1, stream=True), digest(temperature=1, content="ho"), digest(temperature=1, max_tokens=99),
        digest(temperature=1, headers=b"anthropic-beta: x\r\n"), digest(),
        digest(temperature=1, seed=1), digest(temperature=1, response_format={"type": "json_object"}), digest(temperature=1, reasoning_effort="low"),
        digest(temperature=1, tools=[{"type": "function", "function": {"name": "f"}}]), digest(temperature=1.0001), digest(temperature="1"),
    ]  # fmt: skip
    assert len({one, *others}) == 1 + len(others)
    assert digest(n=2) is None
    assert digest(content="x" * 300_000) is None


@pytest.mark.parametrize(
    ("headers", "age_s", "refresh"),
    [
        (b"x-tokenworks-cache: on\r\n", 3600, False),
        (b"x-tokenworks-cache: ON; ttl=60\r\n", 60, False),
        (b"x-tokenworks-cache: on, ttl=999999999\r\n", 3600, False),
        (b"x-tokenworks-cache: refresh\r\n", 3600, True),
        (b"x-tokenworks-cache: on; ttl=0\r\n", None, None),
        (b"x-tokenworks-cache: on; ttl=-1\r\n", None, None),
        (b"x-tokenworks-cache: off\r\n", None, None),
        (b"x-tokenworks-cache: yes please\r\n", None, None),
        (b"x-tokenworks-cache: on\r\nx-tokenworks-cache: off\r\n", None, None),
    ],
)
def test_a_wish_about_the_cache_is_read_exactly_or_is_none(headers, age_s, refresh):
    worker = cached()
    worker.begins(headers=headers)
    found = asked(worker, REPLAY_LOOKUP)
    assert bool(found) is (age_s is not None and not refresh)
    if found:
        assert found[0][0].age_max_s == age_s
    if refresh:
        serves(worker)
        assert asked(worker, REPLAY_KEEP)[0][0].expires_in_s == age_s


def test_the_headers_have_no_effect_where_nothing_declares_one():
    for worker, headers in (
        (Worker(), CACHE),
        (cached(cache_age_max_s=0), CACHE),
        (Worker(idempotency_hours=0), KEY),
        (Worker(), b"idempotency-key: stainless-node-retry-1\r\n"),
    ):
        exchange = worker.begins(headers=headers)
        assert exchange.replay is None and not worker.recorder.requests
    counting = cached().arrives(headers=CACHE + KEY, free=True)
    assert begin_replay(counting.parts, counting, *[None] * 4) is None


NONE = ReplayFound("none")
BARE = json.dumps(WHOLE).encode()


def body_of_stream(client):
    """The bytes of a chunked response, without HTTP."""
    rest, out = client.written.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out, rest = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


@pytest.mark.parametrize("protocol", ["messages", "responses"])
@pytest.mark.parametrize("answer", [STREAM, ANSWER, BARE], ids=["stream", "whole", "without usage"])
def test_a_translated_answer_is_stored_as_its_client_gets_it_and_given_so_again(protocol, answer):
    worker, streams = cached(), answer is STREAM
    asking = {"protocol": protocol, "stream": streams, "headers": CACHE, "input": "hi"}
    exchange = worker.begins(**asking)
    answer_lookup(worker, NONE)
    assert exchange.translated is not None
    worker.upstream().answers(answer, kind=b"text/event-stream" if streams else b"application/json")
    worker.upstream().ends()
    ((kept, answered),) = asked(worker, REPLAY_KEEP)
    assert not worker.recorder.records and worker.held
    answered(True)
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    given = body_of_stream(worker.client) if streams else worker.client.written.partition(b"\r\n\r\n")[2]
    assert kept.answer == given and b"hello" in given
    usage = b'"output_tokens":%d' % record.c.output
    assert usage in given and record.c.output == (1 if answer is BARE else 21)
    assert is_over(worker)
    again = cached()
    again.begins(**asking)
    found = ReplayFound("found", "5" * 32, "6" * 32, "provider", record.c, 0, kept.media_type, kept.answer)
    answer_lookup(again, found)
    again.recorder.durable()
    repeated = body_of_stream(again.client) if streams else again.client.written.partition(b"\r\n\r\n")[2]
    assert repeated == given and is_over(again)


@pytest.mark.parametrize("protocol", ["chat", "messages"])
@pytest.mark.parametrize("leaves", ["client", "worker"])
def test_one_that_leaves_while_its_answer_is_stored_is_charged_once(protocol, leaves):
    worker = Worker()
    exchange = worker.begins(headers=KEY, protocol=protocol)
    answer_lookup(worker, NONE)
    worker.upstream().answers(ANSWER)
    worker.upstream().ends()
    if leaves == "client":
        exchange.client_gone()
    else:
        cut(exchange)
    assert not exchange.ended and worker.held
    asked(worker, REPLAY_KEEP)[0][1](True)
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    assert (record.state, record.c.output) == ("complete", 21)
    assert not asked(worker, REPLAY_DROP) and is_over(worker)


def test_a_worker_that_ends_while_an_answer_is_looked_up_frees_the_key():
    worker = Worker()
    cut(worker.begins(headers=KEY))
    assert worker.client.refused.status == 503
    answer_lookup(worker, NONE)
    assert len(asked(worker, REPLAY_DROP)) == 1 and not worker.pools and is_over(worker)


def test_the_answer_of_a_model_fallen_back_to_is_stored_once_for_its_key_and_never_for_the_cache():
    for headers, count in ((KEY, 1), (CACHE, 0)):
        worker = Worker(deployment("d1", "m"), deployment("d2", "small"))
        worker.user.service = Service(cache_percent=50)
        worker.begins(headers=headers, models=["small"])
        answer_lookup(worker, NONE)
        worker.upstream("d1").answers(b"{}", status=500)
        worker.upstream("d1").ends()
        worker.upstream("d2").answers(ANSWER)
        worker.upstream("d2").ends()
        kept = asked(worker, REPLAY_KEEP)
        assert len(kept) == count and len(asked(worker, REPLAY_LOOKUP)) == 1
        for argument, answered in kept:
            answered(True)
            assert argument.usage_id == worker.recorder.records[0][0].usage_id
        worker.recorder.durable()
        assert len(worker.recorder.records) == 1 and not asked(worker, REPLAY_DROP) and is_over(worker)


def test_a_hit_counts_against_the_limits_and_names_what_is_left_of_them():
    worker, limit = cached(50), Limit("l-1", 60, 0, 0)
    worker.user.limits, worker.user.limit_scopes = (limit,), ("key",)
    worker.begins(headers=CACHE)
    (question,) = worker.recorder.admissions.asked
    admission = Admission((limit,), question.tokens, 1, left=(LimitLeft(59, 0),))
    question.answered(admission, 0, limit, 0)
    answer_lookup(worker, FOUND)
    worker.recorder.durable()
    head = worker.client.written.partition(b"\r\n\r\n")[0]
    assert b"\r\nx-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\n" in head
    (exchange,) = worker.ended
    worker.parts.holds.end(exchange)
    assert worker.recorder.admissions.ended == [(admission, 14, True)] and is_over(worker)


def test_a_hit_has_the_tags_of_its_own_request():
    worker = cached()
    worker.begins(headers=CACHE + b"x-tokenworks-tag-team: search\r\n", metadata={"job": "j"})
    answer_lookup(worker, FOUND)
    assert worker.recorder.records[0][0].tags == {"team": "search", "job": "j"}


@pytest.mark.parametrize("wish", [{"usage": {"include": True}}, {"headers": b"x-tokenworks-cost: 1\r\n"}])
@pytest.mark.parametrize("headers", [CACHE, KEY])
def test_an_answer_that_is_given_again_names_what_its_own_record_draws(headers, wish):
    worker = cached(50)
    worker.begins(**{**wish, "headers": headers + wish.get("headers", b"")})
    answer_lookup(worker, FOUND)
    worker.recorder.durable()
    head, _, body = worker.client.written.partition(b"\r\n\r\n")
    usage, drawn = json.loads(body)["usage"], 14 if headers is CACHE else 0
    assert (usage["cost"], usage["total_tokens"]) == (drawn, 30)
    assert b"x-tokenworks-cost: %d token\r\n" % drawn in head and is_over(worker)


def test_a_stream_with_a_cost_is_stored_without_it_and_for_those_alone_that_ask_for_it():
    worker = cached()
    asking = {"headers": CACHE, "stream": True, "usage": {"include": True}}
    worker.begins(**asking)
    answer_lookup(worker, NONE)
    worker.upstream().answers(STREAM, kind=b"text/event-stream")
    worker.upstream().ends()
    ((kept, answered),) = asked(worker, REPLAY_KEEP)
    answered(True)
    worker.recorder.durable()
    assert b'"cost":30' in worker.client.written
    assert b"cost" not in kept.answer and b'"usage"' in kept.answer
    assert kept.name.digest == digest(stream=True, headers=b"x-tokenworks-cost: 1\r\n") != digest(stream=True)
    assert digest() == digest(usage={"include": True})  # the cost of a whole answer is not stored
    again = cached(50)
    again.begins(**asking)
    found = ReplayFound("found", "5" * 32, "6" * 32, "provider", CHARGED, 0, "text/event-stream", kept.answer)
    answer_lookup(again, found)
    again.recorder.durable()
    assert b'"cost":14' in body_of_stream(again.client) and is_over(again)


@pytest.mark.parametrize("cause", ["model", "protocol", "object", "modality"])
def test_a_repeat_is_answered_although_nothing_serves_its_request_any_more(cause):
    """The answer is stored: neither a model nor a deployment is needed, and nothing is charged."""
    card = ModelCard(name="m", modalities=("text",))
    worker = Worker(models=(card,) if cause == "modality" else ())
    image = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}
    ]
    more = {
        "model": {"model": "gone"},
        "protocol": {"protocol": "embeddings", "body": b'{"model":"m","input":"hi"}'},
        "object": {
            "protocol": "responses",
            "body": b'{"model":"m","input":"hi","previous_response_id":"resp_gone"}',
        },
        "modality": {"messages": image},
    }[cause]
    exchange = worker.begins(headers=KEY, **more)
    assert not exchange.ended
    answer_lookup(worker, FOUND)
    worker.recorder.durable()
    ((record, _),) = worker.recorder.records
    assert (record.state, record.replay_percent, record.parts) == ("replayed", 0, [])
    assert worker.client.written.endswith(ANSWER) and is_over(worker)


def test_a_first_request_that_nothing_serves_is_refused_as_without_a_key_and_its_key_is_free():
    worker = Worker()
    worker.begins(headers=KEY, model="gone")
    answer_lookup(worker, ReplayFound("none"))
    assert worker.client.refused.status == 404
    assert len(asked(worker, REPLAY_DROP)) == 1 and not worker.recorder.records and is_over(worker)
    # A client that leaves meanwhile is charged nothing, and frees its key, too.
    worker = Worker()
    exchange = worker.begins(headers=KEY, model="gone")
    exchange.client_gone()
    answer_lookup(worker, ReplayFound("none"))
    assert len(asked(worker, REPLAY_DROP)) == 1 and is_over(worker)


def test_a_repeat_with_a_key_that_may_not_use_the_model_gets_no_answer_of_it():
    worker = Worker()
    worker.user.models = frozenset({"other"})
    worker.begins(headers=KEY)
    assert worker.client.refused.code == "model_not_allowed" and not asked(worker, REPLAY_LOOKUP)


@pytest.mark.parametrize(
    ("models", "given"), [(["smart", "y"], True), (["y", "x"], True), (["y", "alias"], True), (["y"], False)]
)
@pytest.mark.parametrize("served", ["x", "y"])
def test_a_repeat_of_an_intents_answer_is_given_to_keys_that_may_use_its_model(models, given, served):
    """A key of the account that may not use it asks by the same idempotency key and body."""
    intent = Intent(name="smart", models=("x", "y"))
    worker = Worker(deployment("d1", served), intents=(intent,), aliases={"alias": "x"})
    worker.user.models = frozenset(models)
    worker.begins(headers=KEY, model="smart")
    answer_lookup(worker, msgspec.structs.replace(FOUND, model="x", asked="smart"))
    if given:
        worker.recorder.durable()
        assert worker.client.written.endswith(ANSWER)
    else:
        assert worker.client.refused.code == "model_not_allowed" and not worker.recorder.records
        assert not asked(worker, REPLAY_DROP)
    assert is_over(worker)


def test_the_name_of_a_model_that_is_gone_is_text_in_the_record_of_a_repeat():
    worker = Worker()
    worker.begins(headers=KEY, model="go\0ne")
    answer_lookup(worker, FOUND)
    ((record, _),) = worker.recorder.records
    assert record.model == "go?ne"


def test_a_key_that_wishes_the_cache_has_it_for_every_request_whose_header_says_nothing_else():
    for headers, percent, looks in (
        (b"", 50, True),
        (b"x-tokenworks-cache: off\r\n", 50, False),
        (b"", None, False),
    ):
        worker = cached(percent)
        worker.user.caches = True
        worker.begins(headers=headers)
        assert bool(asked(worker, REPLAY_LOOKUP)) == looks
        if looks:
            answer_lookup(worker, FOUND)
            worker.recorder.durable()
            assert b"x-tokenworks-cache: hit" in worker.client.written and is_over(worker)
    # An idempotency key comes first, as with the header.
    worker = cached()
    worker.user.caches = True
    worker.begins(headers=KEY)
    assert [question.name.kind for question, _ in asked(worker, REPLAY_LOOKUP)] == ["idempotency_key"]
