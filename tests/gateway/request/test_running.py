"""The requests in flight: counted, ticked in order, and none of them at another one's expense."""

import pytest

from tests.gateway.request.support import Client, Worker, body_of
from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request_log import RequestLog
from tokenworks.gateway.series import Series

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def worker():
    worker = Worker("d1", "d2")
    pools = type("Pools", (), {"of": staticmethod(worker.pool)})()
    worker.running = RunningRequests(worker.shared, pools, RequestLog(0, None, lambda: 0), Series())
    return worker


def begin(worker, **fields):
    conn = Client()
    head = parse_head(HEAD, 100)
    return worker.running.begin(conn, head, body_of(**fields), "chat", worker.loop.now_s, free=False)


def test_a_request_counts_from_its_begin_to_its_end(worker):
    exchange = begin(worker)
    assert worker.shared.stats.c["requests_open"] == 1 and exchange.conn.exchange is exchange
    exchange.identified(worker.user)
    assert worker.user.in_flight == 1
    exchange.client_gone()
    exchange.attempt.abort()
    exchange.attempt_failed(exchange.attempt, "upstream_error", count=False, cause="")
    assert (worker.shared.stats.c["requests_open"], worker.user.in_flight) == (0, 0)
    assert not worker.running.open and not worker.held


def test_one_that_is_refused_before_its_key_is_known_is_nobodys(worker):
    exchange = begin(worker)
    exchange.identified(None)
    assert worker.shared.stats.c["requests_open"] == 0 and worker.user.in_flight == 0
    assert not exchange.is_known and exchange.refusal.code == "database_away"


def test_a_defect_in_one_costs_its_own_client_the_connection(worker):
    broken, sound = begin(worker), begin(worker)
    for exchange in (broken, sound):
        exchange.identified(worker.user)
    del broken.tried  # a defect
    worker.loop.now_s += 601
    worker.running.tick(worker.loop.now_s)
    assert broken.conn.aborted and sound.ended and sound.refusal.status == 504


def test_what_was_put_off_looks_again_in_the_order_in_which_it_came(worker):
    exchanges = [begin(worker, service_tier="flex") for _ in range(2)]
    for name in ("d1", "d2"):
        worker.view(name).cool_down(worker.loop.now_s, 50.0)
    for at, exchange in enumerate(exchanges):
        exchange.began_s += 0.001 * (2 - at)
        exchange.identified(worker.user)
        assert exchange.deferred
    worker.loop.now_s += 51
    worker.running.tick(worker.loop.now_s)
    sent = [pool.made for pool in worker.pools.values()]
    assert sum(map(len, sent)) == 2
    assert list(worker.recorder.began) == [exchange.request_id for exchange in exchanges[::-1]]


def test_a_worker_that_ends_cuts_all(worker):
    for _ in range(2):
        begin(worker).identified(worker.user)
    assert worker.running.cut() == 2 and not worker.running.open
    assert worker.running.cut() == 0
