"""A recorder that hangs, or is gone for long: nobody waits for it without an end, and what it says counts when it is back."""

import contextlib
import json
import os
import signal

import pytest

from tests.support.server import Server, StubUpstream, until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with (
        StubUpstream() as upstream,
        # The supervisor would end one that hangs before anybody is refused.
        Server(
            tmp_path_factory.mktemp("away"), workers=1, recorder_wait_s=1, recorder_silence_s=600
        ) as server,
    ):
        server.add_deployment("stub", "stub", upstream.url)
        yield server
        assert server.findings() == []


def recorder_of(server):
    (pid,) = [pid for name, pid in server.processes() if name == "recorder"]
    return pid


@contextlib.contextmanager
def hanging(server):
    pid = recorder_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def refusals(server, key, count=4, **body):
    """What requests are refused with: (status, code); on connections of their own."""
    found = [server.chat(key, {"tokens": 3, "prompt": 5}, **body) for _ in range(count)]
    return {(status, json.loads(content)["error"]["code"]) for status, content, _ in found}


def test_a_key_and_a_balance_that_nobody_answers_for_are_refused(server):
    _, stranger_key = server.subscriber()
    with hanging(server):
        assert refusals(server, stranger_key) == {(503, "database_away")}
        # What it says of itself was true some time ago.
        until(lambda: server.metrics("recorder_database_ok") == [0.0], what="a report that is too old")
        assert server.metrics("recorder_age_seconds")[0] > 5 and not server.metrics("recorder_open_grants")
        assert not server.ready()
        # A balancer in front reads the public port.
        status, said, _ = server.get("/readyz")
        assert status == 503 and b"the recorder does not answer" in said
    until(lambda: server.get("/readyz")[0] == 200, what="the public port to be ready")
    until(lambda: server.chat(stranger_key)[0] == 200, what="service")
    until(lambda: server.metrics("recorder_database_ok") == [1.0], what="a new report")


def test_an_admission_that_comes_late_holds_no_place(server):
    subscriber, key = server.subscriber()
    server.services.ledger.set_limit(
        "subscriber", str(subscriber.account_id), subscriber.account_id, requests_per_min=None, tokens_per_min=None, streams_max=2
    )  # fmt: skip
    # The worker knows the key, its limit and has something to spend.
    assert server.chat(key, {"tokens": 3, "prompt": 5})[0] == 200
    with hanging(server):
        assert refusals(server, key) == {(503, "recorder_away")}
    # Each of the four was admitted when nobody waited for it any more.
    until(lambda: server.chat(key)[0] == 200, what="service")
    assert [server.chat(key)[0] for _ in range(4)] == [200] * 4
    until(lambda: server.metrics("requests_open") == [0.0], what="all requests to end")
    assert len(server.usage(subscriber, 6)) == 6, "what was refused left no record"


def test_a_recorder_that_is_away_for_long_is_not_waited_for_again(server):
    subscriber, key = server.subscriber()
    # Nobody starts another one.
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        os.kill(recorder_of(server), signal.SIGKILL)
        assert refusals(server, key) == {(503, "database_away")}
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    until(lambda: server.chat(key)[0] == 200, what="the next recorder")
    assert len(server.usage(subscriber, 1)) == 1
