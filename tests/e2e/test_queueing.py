"""More than a model's deployments take at once: requests wait, in fair order, and are told when it is too much."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.e2e.test_hosts import two_hosts  # noqa: F401
from tests.support.server import Server, StubUpstream, until

QUEUE_MAX = 12


@contextmanager
def two_at_once(data_dir, **settings):
    """(server, upstream): two workers in front of one deployment that takes two at once."""
    with StubUpstream() as upstream, Server(
        data_dir, workers=2, queue_max=QUEUE_MAX, **settings
    ) as server:  # fmt: skip
        server.add_deployment("only", "stub", upstream.url, wait=False)
        server.cli("limit", "set", "--deployment", "only", "--streams", "2")
        # Both workers know of the limit from their beginning.
        server.stop()
        server.start()
        yield server, upstream


@pytest.fixture(scope="module")
def queueing(tmp_path_factory):
    """Who waits here waits until there is room."""
    with two_at_once(tmp_path_factory.mktemp("queueing"), queue_wait_s=60) as both:
        yield both


def refused(server):
    return sum(sum(server.metrics(f"recorder_requests_{how}")) for how in ("shed", "queue_timed_out"))


@contextmanager
def both_slots_held(server, upstream):
    """By somebody else, until the block is over."""
    _, key = server.subscriber("ctc-premium")
    with ThreadPoolExecutor(2) as pool:
        held = [
            pool.submit(server.chat, key, {"tokens": 2, "prompt": 3, "hold_after": 1}, stream=True)
            for _ in range(2)
        ]
        until(lambda: upstream.running() == 2, what="both slots to be held")
        try:
            yield
        finally:
            upstream.release()
        assert [job.result()[0] for job in held] == [200, 200]


def queued(server):
    return sum(server.metrics("recorder_requests_queued"))


def test_those_who_wait_are_served_and_never_more_than_two_at_once(queueing):
    server, upstream = queueing
    subscriber, key = server.subscriber("ctc-premium")
    with upstream.watched() as most, ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(
                lambda _: server.chat(key, {"tokens": 6, "prompt": 3, "gap_ms": 20}, stream=True), range(10)
            )
        )
    assert [answer[0] for answer in answers] == [200] * 10
    assert most[0] <= 2
    waited = [int(answer[2].get("x-tokenworks-queued-ms", 0)) for answer in answers]
    assert sum(ms > 50 for ms in waited) >= 4, waited
    assert len(server.usage(subscriber, 10)) == 10 and server.findings() == []


def test_too_long_and_too_many_are_said_and_cost_nothing(tmp_path):
    with two_at_once(tmp_path, queue_wait_s=2) as (server, upstream):
        subscriber, key = server.subscriber("ctc-premium")
        with both_slots_held(server, upstream), ThreadPoolExecutor(18) as pool:
            answers = list(pool.map(lambda _: server.chat(key, {"tokens": 2, "prompt": 3}), range(18)))
        assert [answer[0] for answer in answers] == [503] * 18
        said = [json.loads(answer[1])["error"] for answer in answers]
        assert {error["code"] for error in said} == {"overloaded"}
        assert sum("was let go" in error["message"] for error in said) >= 18 - QUEUE_MAX, "more than may wait"
        assert any("none came free in 2 s" in error["message"] for error in said)
        assert all(int(answer[2]["retry-after"]) >= 1 for answer in answers)
        until(lambda: refused(server) == 18, what="the metrics to tell of them")
        # And what is free again is served again.
        assert server.chat(key, {"tokens": 2, "prompt": 3})[0] == 200
        assert len(server.usage(subscriber, 1)) == 1 and server.findings() == []


def test_a_flood_does_not_keep_others_out(queueing):
    server, upstream = queueing
    flooder, flood_key = server.subscriber("ctc-premium")
    subscriber, key = server.subscriber("ctc-premium")
    flooding, other = 5, 7  # prompts, by which the upstream tells them apart
    # What a subscriber's requests take is known from his last ones.
    for who, text, prompt in ((flooder, flood_key, flooding), (subscriber, key, other)):
        assert server.chat(text, {"tokens": 4, "prompt": prompt})[0] == 200
        server.usage(who, 1)
    before = set(upstream.count()["started"])
    with ThreadPoolExecutor(10) as pool:
        with both_slots_held(server, upstream):
            jobs = [pool.submit(server.chat, flood_key, {"tokens": 4, "prompt": flooding}) for _ in range(8)]
            until(lambda: queued(server) == 8, what="the flood to wait")
            jobs += [pool.submit(server.chat, key, {"tokens": 4, "prompt": other}) for _ in range(2)]
            until(lambda: queued(server) == 10, what="two others to wait behind it")
        assert [job.result()[0] for job in jobs] == [200] * 10
    started = {id_: state for id_, state in upstream.count()["started"].items() if id_ not in before}
    order = [
        prompt
        for _, (_, prompt) in sorted(started.items(), key=lambda item: int(item[0].split("-")[1]))
        if prompt != 3
    ]
    # First come, first served would give the other two the last two turns; sharing equally, they end with the fourth.
    # Requests that are let go reach the upstream by two workers, of which one may have to wait for a CPU: a few may come before.
    assert len(order) == 10 and order[:7].count(other) == 2, order


def test_who_leaves_while_waiting_leaves_nothing(queueing):
    server, upstream = queueing
    subscriber, key = server.subscriber("ctc-premium")
    before = upstream.count()["requests"]
    with both_slots_held(server, upstream):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                server.request(
                    "POST", "/v1/chat/completions", key, {"model": "stub", "messages": []}, timeout_s=0.2
                )
        until(lambda: queued(server) == 0, what="those who left to be gone")
        # One who is seen to wait, and then not any more, long before his time is over.
        with server.open() as sock:
            body = b'{"model": "stub", "messages": []}'
            sock.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            until(lambda: queued(server) == 1, what="him to wait")
        until(lambda: queued(server) == 0, what="him to be gone")
    until(lambda: sum(server.metrics("requests_open")) == 0)
    assert server.chat(key, {"tokens": 2, "prompt": 3})[0] == 200
    assert upstream.count()["requests"] == before + 3
    assert len(server.usage(subscriber, 1)) == 1 and server.findings() == []


def test_two_hosts_share_what_a_deployment_takes(two_hosts):  # noqa: F811
    """Each with a queue of its own: never more than the deployment takes, and nobody is left waiting at either."""
    with StubUpstream() as upstream:
        a, b = two_hosts
        a.add_deployment("shared", "shared", upstream.url, "--upstream-model", "stub", wait=False)
        a.cli("limit", "set", "--deployment", "shared", "--streams", "4")
        subscriber, key = a.subscriber("ctc-premium")
        for host in two_hosts:  # from its beginning it knows of the limit and of the other
            host.stop()
            host.start()
        until(lambda: a.metrics("recorder_hosts") == b.metrics("recorder_hosts") == [2.0])
        told = {"tokens": 6, "prompt": 3, "gap_ms": 20}
        with upstream.watched() as most, ThreadPoolExecutor(24) as pool:
            answers = list(
                pool.map(lambda at: two_hosts[at % 2].chat(key, told, model="shared", stream=True), range(24))
            )
        assert [answer[0] for answer in answers] == [200] * 24
        assert 1 <= most[0] <= 4
        assert any(int(answer[2].get("x-tokenworks-queued-ms", 0)) > 0 for answer in answers)
        assert len(a.usage(subscriber, 24)) == 24
