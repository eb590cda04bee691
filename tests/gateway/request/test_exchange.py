"""The order in which a request is handled: each step once, nothing before what it needs, and everything given back."""

import gc
import weakref

import pytest

from tests.gateway.request.support import (
    Worker,
    deployment,
    events,
    piece,
    used,
    whole,
)
from tokenworks.charging import OBJECT_OWNER, Limit, ObjectOwner, UpstreamObject, Verdict
from tokenworks.charging.worker.admission import Admission

MINE = Limit("l-1", 10, 0, 0)


class Marker:
    pass


def durable(worker):
    worker.recorder.durable()


def test_a_whole_answer_leaves_after_its_record_is_on_disk():
    worker = Worker()
    exchange = worker.begins()
    client, upstream = worker.client, worker.upstream()
    assert worker.held and worker.view("d1").outstanding == 1
    upstream.answers(whole(5, 2))
    upstream.ends()
    (record, risk_tokens) = worker.recorder.records[0]
    assert (record.state, record.c.fresh_input, record.c.output, risk_tokens) == ("complete", 5, 2, 0)
    assert record.usage_id == record.request_id == exchange.request_id and record.tried is None
    assert not worker.held and worker.free_tokens == 100_000 - 7 and worker.view("d1").outstanding == 0
    assert client.written == b"" and not worker.ended
    durable(worker)
    assert b'"hello"' in client.written and client.done_times == 1
    assert worker.ended == [exchange] and worker.user.in_flight == 1  # which `RunningRequests` counts down


def test_a_stream_passes_as_it_comes_and_its_end_waits_for_the_record():
    worker = Worker()
    worker.begins(stream=True)
    client, upstream = worker.client, worker.upstream()
    upstream.answers(events(piece("one"), piece(" two")), kind=b"text/event-stream")
    assert b"one" in client.written and b" two" in client.written
    upstream.user.upstream_data(upstream, events(piece(None, "stop"), used(5, 2), "[DONE]"))
    upstream.ends()
    assert b"[DONE]" not in client.written
    durable(worker)
    assert client.written.endswith(b"0\r\n\r\n") and b"[DONE]" in client.written


def test_what_fails_before_content_is_tried_elsewhere_under_an_id_of_its_own_and_costs_nothing():
    worker = Worker("d1", "d2")
    exchange = worker.begins()
    first = exchange.tried[0]
    worker.upstream(first).user.upstream_failed(worker.upstream(first), "the connection broke")
    second = exchange.tried[1]
    assert {first, second} == {"d1", "d2"} and worker.recorder.dropped == [exchange.request_id]
    upstream = worker.upstream(second)
    upstream.answers(whole())
    upstream.ends()
    (record, _) = worker.recorder.records[0]
    assert record.attempt_no == 2 and record.usage_id != record.request_id
    assert record.tried == [(first, "upstream_error")] and record.deployment == second
    assert [worker.view(name).outstanding for name in ("d1", "d2")] == [0, 0]


def test_a_refusal_gives_everything_back_and_is_said_once():
    worker = Worker()
    exchange = worker.begins()
    upstream = worker.upstream()
    upstream.answers(b'{"error": {"message": "no", "type": "server_error"}}', status=500)
    upstream.ends()
    assert worker.client.refused.code == "upstream_error" and worker.ended == [exchange]
    assert not worker.held and worker.free_tokens == 100_000 and not worker.recorder.records
    exchange.refuse(worker.client.refused)
    assert worker.ended == [exchange]


def test_a_refusal_that_is_the_clients_own_is_not_tried_elsewhere():
    worker = Worker("d1", "d2")
    exchange = worker.begins()
    upstream = worker.upstream(exchange.tried[0])
    upstream.answers(
        b'{"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}',
        status=400,
    )
    upstream.ends()
    assert len(exchange.tried) == 1 and worker.client.refused.status == 400 and not worker.held


def test_where_nothing_is_left_here_the_recorder_is_asked_and_then_the_rest_is_held():
    worker = Worker(tokens=0)
    exchange = worker.begins(content="x" * 400, max_tokens=1000)
    (asked,) = worker.recorder.asked
    assert not worker.pools and asked.need == exchange.need
    worker.grant(exchange.need.input_tokens + 40)
    asked.answered(None, Verdict.NOTHING_LEFT, 0)
    # The bound of its input does not fit: it is estimated, and asked for again; then what is left is made.
    less = worker.recorder.asked[1]
    assert exchange.estimated and less.need.input_tokens < asked.need.input_tokens
    less.answered(None, Verdict.NOTHING_LEFT, 0)
    assert worker.upstream().body["max_tokens"] == exchange.maximum < 1000
    assert exchange.at_risk == asked.need.input_tokens - less.need.input_tokens


def test_where_nothing_is_left_at_all_it_is_refused():
    worker = Worker(tokens=0)
    worker.begins()
    while worker.recorder.asked:
        worker.recorder.asked.pop().answered(None, Verdict.NOTHING_LEFT, 0)
    assert worker.client.refused.status in {402, 429} and not worker.pools and not worker.recorder.records


def test_limits_come_before_the_hold():
    worker = Worker()
    worker.user.limits, worker.user.limit_scopes = (MINE,), ("member",)
    exchange = worker.begins()
    (asked,) = worker.recorder.admissions.asked
    assert not worker.held and not worker.pools and asked.tokens > 100
    admission = Admission((MINE,), asked.tokens, 1)
    asked.answered(admission, 0, MINE, 0)
    upstream = worker.upstream()
    upstream.answers(whole(5, 2))
    upstream.ends()
    worker.parts.holds.end(exchange)
    assert worker.recorder.admissions.ended == [(admission, 7, True)]


def test_over_a_limit_it_is_refused_with_its_scope():
    worker = Worker()
    worker.user.limits, worker.user.limit_scopes = (MINE,), ("member",)
    worker.begins()
    worker.recorder.admissions.asked[0].answered(None, 1500, MINE, 1)
    assert worker.client.refused.status == 429 and "member" in worker.client.refused.message
    assert not worker.held


@pytest.mark.parametrize("again", [False, True])
def test_room_is_waited_for_and_its_admission_ends_with_the_attempt(again):
    limit = Limit("d1", 1, 0, 0)
    worker = Worker(limits={"d1": limit})
    exchange = worker.begins()
    asked = worker.recorder.admissions.asked[0]
    assert asked.limits == (limit,) and asked.queued.wait_ms == 2000 and not worker.pools
    worker.loop.now_s += 0.5
    admission = Admission((limit,), 10, 1)
    if again:  # it went bad meanwhile
        worker.view("d1").draining = True
        asked.answered(admission, 0, limit, 0)
        assert worker.recorder.admissions.ended == [(admission, 0, False)] and not worker.pools
        return
    asked.answered(admission, 0, limit, 0)
    assert exchange.queued_ms == 500
    upstream = worker.upstream()
    upstream.answers(whole(5, 2))
    upstream.ends()
    assert worker.recorder.admissions.ended == [(admission, 7, True)]


def test_no_room_in_time_is_a_refusal_and_gives_the_hold_back():
    limit = Limit("d1", 1, 0, 0)
    worker = Worker(limits={"d1": limit})
    worker.begins()
    worker.recorder.admissions.asked[0].answered(None, 900, limit, 1)
    assert worker.client.refused.status in {429, 503} and not worker.held


def test_a_client_that_leaves_before_anything_is_sent_costs_nothing():
    worker = Worker()
    worker.pool("d1").cold = True
    exchange = worker.begins()
    ((connected, _),) = worker.pool("d1").connecting
    exchange.client_gone()
    assert worker.ended == [exchange] and not worker.held and worker.view("d1").outstanding == 0
    upstream = worker.pool("d1").take() or object()
    late = type("Late", (), {"pool": worker.pool("d1")})()
    connected(late, "")
    assert worker.pool("d1").back == [late] and upstream is not late


def test_a_free_request_whose_client_leaves_while_it_connects_frees_its_place():
    worker = Worker(deployment("d1", protocols=("chat", "messages")))
    worker.pool("d1").cold = True
    exchange = worker.begins(free=True, protocol="messages", max_tokens=None)
    assert worker.view("d1").outstanding == 1
    exchange.client_gone()
    assert worker.view("d1").outstanding == 0 and worker.ended == [exchange]


def test_a_client_that_leaves_a_long_stream_pays_what_was_made_when_its_tail_is_read():
    worker = Worker(drain_tokens=0)
    exchange = worker.begins(stream=True, max_tokens=900)
    upstream = worker.upstream()
    upstream.answers(events(piece("one"), piece(" two")), kind=b"text/event-stream")
    exchange.client_gone()
    assert upstream.half_closed and not worker.recorder.records and exchange.counting
    upstream.user.upstream_end(upstream)
    (record, _) = worker.recorder.records[0]
    assert (record.state, record.reason, record.c.output) == ("interrupted", "client_gone", 2)
    durable(worker)
    assert worker.ended == [exchange] and worker.user.abandoned(worker.loop.now_s) == 1


def test_a_client_that_leaves_a_whole_answer_has_it_read_to_its_end():
    worker = Worker()
    exchange = worker.begins()
    upstream = worker.upstream()
    exchange.client_gone()
    assert exchange.attempt.drain_until_s == worker.loop.now_s + 30 and not upstream.aborted
    upstream.answers(whole())
    upstream.ends()
    assert worker.recorder.records[0][0].state == "complete"
    durable(worker)
    assert worker.ended == [exchange] and worker.shared.memory.used == 0


def test_an_upstreams_object_is_asked_for_and_goes_where_it_was_made():
    worker = Worker(deployment("d1", protocols=("responses",)), deployment("d2", protocols=("responses",)))
    body = b'{"model": "m", "input": "hi", "max_output_tokens": 50, "previous_response_id": "resp_1"}'
    exchange = worker.begins(protocol="responses", body=body)
    ((question, argument, answered),) = worker.recorder.requests
    assert question is OBJECT_OWNER and argument == UpstreamObject("acc", "resp_1") and not worker.held
    answered(ObjectOwner("d2", 300))
    assert exchange.tried == ["d2"] and exchange.stored_tokens == 300
    other = worker.begins(protocol="responses", body=body)
    worker.recorder.requests[-1][2](ObjectOwner("", 0))
    assert worker.client.refused.code == "foreign_object" and other.ended


def test_links_are_checked_before_anything_is_held():
    worker = Worker()
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    worker.begins(content=[part])
    ((links, done),) = worker.checks
    assert links == ("https://example.com/a.png",) and not worker.held
    done("it is not public")
    assert worker.client.refused.code == "forbidden_link"


def test_an_account_covers_what_goes_beyond_its_hold_before_it_is_a_loss():
    worker = Worker()
    worker.begins(stream=True, max_tokens=None)
    upstream = worker.upstream()
    upstream.answers(events(piece("one"), piece(None, "stop"), used(400, 3), "[DONE]"), kind=b"text/event-stream")  # fmt: skip
    upstream.ends()
    (record, _) = worker.recorder.records[0]
    paid = sum(part[5] for part in record.parts)
    assert record.c.fresh_input == 400
    assert paid + sum(sum(loss.counts) for loss in record.loss) * 1000 == 403 * 1000


def test_what_is_over_leaves_nothing_that_refers_to_itself():
    worker = Worker()
    exchange = worker.begins()
    upstream = worker.upstream()
    upstream.answers(whole())
    upstream.ends()
    durable(worker)
    exchange.head.key = Marker()
    left = weakref.ref(worker.ended.pop().head.key)
    upstream.user = worker.client.exchange = worker.recorder.durable = None
    worker.recorder.began.clear()
    gc.disable()
    try:
        del exchange
        assert left() is None
    finally:
        gc.enable()
