"""More than a model's deployments take at once: requests wait, in fair order, and are told when it is too much."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.server import Server, StubUpstream, until


@pytest.fixture(scope="module")
def queueing(tmp_path_factory):
    """Two workers in front of one deployment that takes two at once."""
    with StubUpstream() as upstream, Server(
        tmp_path_factory.mktemp("queueing"), workers=2, queue_wait_s=2, queue_max=12, input_bytes_per_token=1
    ) as server:  # fmt: skip
        server.add_deployment("only", "stub", upstream.url)
        server.cli("limit", "set", "--deployment", "only", "--streams", "2")
        until(lambda: server.metrics("deployments") == [1.0, 1.0])
        _, key = server.subscriber("ctc-premium")
        until(lambda: server.chat(key, {"tokens": 2, "prompt": 3})[0] == 200)
        yield server, upstream


def test_those_who_wait_are_served_and_never_more_than_two_at_once(queueing):
    server, upstream = queueing
    subscriber, key = server.subscriber("ctc-premium")
    most, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            most[0] = max(most[0], upstream.running())

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(
                lambda _: server.chat(key, {"tokens": 6, "prompt": 3, "gap_ms": 20}, stream=True), range(10)
            )
        )
    stop.set()
    watching.join()
    assert [answer[0] for answer in answers] == [200] * 10
    assert most[0] <= 2
    waited = [int(answer[2].get("x-tokenworks-queued-ms", 0)) for answer in answers]
    assert sum(ms > 50 for ms in waited) >= 4, waited
    assert len(server.usage(subscriber, 10)) == 10 and server.findings() == []


def test_too_long_and_too_many_are_said_and_cost_nothing(queueing):
    server, upstream = queueing
    slow, slow_key = server.subscriber("ctc-premium")
    subscriber, key = server.subscriber("ctc-premium")
    with ThreadPoolExecutor(20) as pool:
        held = [
            pool.submit(server.chat, slow_key, {"tokens": 2, "prompt": 3, "gap_ms": 2500}, stream=True)
            for _ in range(2)
        ]
        until(lambda: upstream.running() >= 2)
        answers = list(pool.map(lambda _: server.chat(key, {"tokens": 2, "prompt": 3}), range(18)))
        assert [job.result()[0] for job in held] == [200, 200]
    refused = [answer for answer in answers if answer[0] != 200]
    assert {answer[0] for answer in refused} == {503}
    said = [json.loads(answer[1])["error"] for answer in refused]
    assert {error["code"] for error in said} == {"overloaded"}
    assert any("was let go" in error["message"] for error in said), "more than may wait"
    assert any("none came free" in error["message"] for error in said)
    assert all(int(answer[2]["retry-after"]) >= 1 for answer in refused)
    served = sum(answer[0] == 200 for answer in answers)
    assert len(server.usage(subscriber, served) if served else []) == served
    assert server.findings() == []
    # And what is free again is served again.
    until(lambda: server.chat(key, {"tokens": 2, "prompt": 3})[0] == 200)


def test_a_flood_does_not_keep_others_out(queueing):
    server, _ = queueing
    flooder, flood_key = server.subscriber("ctc-premium")
    subscriber, key = server.subscriber("ctc-premium")
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            server.chat(flood_key, {"tokens": 4, "prompt": 3, "gap_ms": 5}, stream=True)

    with ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(flood) for _ in range(10)]
        until(lambda: len(server.works.ledger.usage(flooder.account_id)) > 20)
        began = len(server.works.ledger.usage(flooder.account_id, None, 1000))
        answers = [server.chat(key, {"tokens": 4, "prompt": 3, "gap_ms": 5}, stream=True) for _ in range(20)]
        meanwhile = len(server.works.ledger.usage(flooder.account_id, None, 1000)) - began
        stop.set()
        for job in jobs:
            job.result()
    assert [answer[0] for answer in answers] == [200] * 20
    # Ten wait against one: first come, first served would give him a twelfth of the turns.
    assert meanwhile <= 5 * 20, meanwhile


def test_who_leaves_while_waiting_leaves_nothing(queueing):
    server, upstream = queueing
    _, slow_key = server.subscriber("ctc-premium")
    subscriber, key = server.subscriber("ctc-premium")
    with ThreadPoolExecutor(4) as pool:
        held = [
            pool.submit(server.chat, slow_key, {"tokens": 2, "prompt": 3, "gap_ms": 3000}, stream=True)
            for _ in range(2)
        ]
        until(lambda: upstream.running() >= 2)
        for _ in range(5):
            with pytest.raises(OSError):
                server.request(
                    "POST", "/v1/chat/completions", key, {"model": "stub", "messages": []}, timeout_s=0.2
                )
        assert [job.result()[0] for job in held] == [200, 200]
    until(lambda: sum(server.metrics("requests_open")) == 0)
    assert server.chat(key, {"tokens": 2, "prompt": 3})[0] == 200
    assert len(server.usage(subscriber, 1)) == 1 and server.findings() == []
