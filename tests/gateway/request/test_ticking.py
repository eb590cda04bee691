"""What time does to a request."""

import pytest

from tests.gateway.request.support import Worker, deployment, events, piece, whole
from tokenworks.gateway.request.ticking import (
    PING_EVERY_S,
    cut,
    is_due,
    is_stopping,
    stop_waited,
    tick,
    time_out,
)


@pytest.mark.parametrize("early", [False, True])
def test_a_silent_stream_says_that_it_lives_once_its_head_may_leave(early):
    worker = Worker(deployment("d1", early_head=early))
    exchange = worker.begins(stream=True)
    due_s = int(exchange.written_s) + PING_EVERY_S
    assert not is_due(exchange, due_s - 1) and is_due(exchange, due_s)
    tick(exchange, due_s)
    assert (b": ping" in worker.client.written) == early
    upstream = worker.upstream()
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    later_s = int(exchange.written_s) + PING_EVERY_S
    tick(exchange, later_s)
    assert b": ping" in worker.client.written and exchange.written_s == later_s
    exchange.pause()
    tick(exchange, later_s + PING_EVERY_S)
    assert exchange.written_s == later_s  # a client that takes nothing is told nothing


def test_the_progress_of_a_stream_is_reported_within_a_second():
    worker = Worker()
    exchange = worker.begins(stream=True)
    upstream = worker.upstream()
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    assert is_due(exchange, 0)
    tick(exchange, 0)
    ((usage_id, counts, *_),) = worker.recorder.progressed
    assert usage_id == exchange.usage_id and counts.output == 1 and not is_due(exchange, 0)


def test_a_stream_that_stopped_gets_its_end_and_then_is_recorded_without_its_usage():
    worker = Worker()
    exchange = worker.begins(stream=True)
    upstream = worker.upstream()
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    upstream.user.upstream_data(upstream, events(piece(None, "stop")))
    assert is_stopping(exchange) and b'"stop"' not in worker.client.written
    stop_waited(exchange, 100)
    stop_waited(exchange, 101)
    assert b'"stop"' in worker.client.written
    stop_waited(exchange, 110)
    assert upstream.aborted and not is_stopping(exchange)
    assert worker.recorder.records[0][0].counted_by == "estimate"


def test_the_whole_time_limit_ends_it_without_another_try():
    worker = Worker("d1", "d2")
    exchange = worker.begins()
    time_out(exchange)
    assert worker.client.refused.status == 504 and not worker.held
    assert sum(len(pool.made) for pool in worker.pools.values()) == 1
    assert worker.ended == [exchange]


def test_a_worker_that_ends_charges_what_was_shown_and_refuses_the_rest():
    worker = Worker()
    stream, waiting = worker.begins(stream=True), None
    client, upstream = worker.client, worker.upstream()
    upstream.answers(events(piece("one")), kind=b"text/event-stream")
    waiting = worker.begins()
    cut(stream)
    cut(waiting)
    ((record, _),) = worker.recorder.records
    assert (record.reason, record.usage_id) == ("shutdown", stream.request_id)
    assert worker.client.refused.status == 503 and worker.ended == [waiting]
    worker.recorder.durable()
    assert worker.ended == [waiting, stream] and b"error" in client.written


def test_a_record_that_is_on_its_way_ends_the_request_as_usual():
    worker = Worker()
    exchange = worker.begins()
    upstream = worker.upstream()
    upstream.answers(whole())
    upstream.ends()
    cut(exchange)
    assert not worker.ended and worker.client.refused is None
    worker.recorder.durable()
    assert worker.ended == [exchange] and b"hello" in worker.client.written


def test_a_drain_is_given_up_at_its_time():
    worker = Worker()
    exchange = worker.begins()
    exchange.client_gone()
    until_s = int(exchange.attempt.drain_until_s)
    assert is_due(exchange, 0)
    tick(exchange, until_s - 1)
    assert not worker.upstream().aborted
    tick(exchange, until_s)
    assert worker.upstream().aborted and worker.recorder.records[0][0].reason == "client_gone"
