"""A host whose civil time is wrong: beyond the bound it takes nothing new, within it what it dates is right."""

import contextlib
import http.client
import json
from datetime import timedelta

import pytest

from tests.support.server import Server, StubUpstream, until


@pytest.fixture
def host(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, clock_check_s=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        yield server


def admin(server, path):
    host, port = server.admin.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    said = answer.status, answer.read().decode()
    connection.close()
    return said


def restart(server, shift_s, ready=None):
    server.stop()
    server.env["TOKENWORKS_CLOCK_SHIFT_S"] = str(shift_s)
    if ready is not None:
        server.ready = ready
    server.start()


@pytest.mark.parametrize("shift_s", [3600, -90])
def test_a_host_that_is_off_takes_no_new_requests_and_says_why(host, shift_s):
    subscriber, key = host.subscriber("ctc-premium")

    def admin_says():
        with contextlib.suppress(OSError, http.client.HTTPException):
            return "clock is off" in admin(host, "/readyz")[1]

    restart(host, shift_s, ready=admin_says)
    status, text = admin(host, "/readyz")
    assert status == 503 and f"the host's clock is off by {abs(shift_s)}." in text

    def worker_says():
        status, body, _ = host.get("/readyz")
        return status == 503 and b"clock is off" in body

    until(worker_says, what="the worker to know")
    for path, body in (
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/messages", {"messages": [], "max_tokens": 5}),
    ):
        status, body, headers = host.request("POST", path, key, {"model": "stub"} | body)
        assert status == 503 and json.loads(body)["error"]["code"] == "clock_skew", body
        assert headers["retry-after"] == "5"
    assert host.usage(subscriber) == []
    assert abs(host.metrics("recorder_clock_offset_seconds")[0] - shift_s) < 1
    assert host.metrics("recorder_clock_off") == [1.0]
    assert "recorder.clock_skew" in host.log_text()
    # Set right, it serves again.
    del host.ready
    restart(host, 0)
    until(lambda: host.chat(key)[0] == 200, what="service")
    assert host.metrics("recorder_clock_off") == [0.0]


def test_within_the_bound_what_a_host_dates_is_by_the_databases_clock(host):
    subscriber, _ = host.subscriber("ctc-premium")
    host.env["TOKENWORKS_CLOCK_SKEW_MAX_S"] = "3600"
    restart(host, 1800)
    made = json.loads(
        host.cli(
            "key", "create", "--subscriber", str(subscriber.subscriber_id), "--expires-in-days", "1", "--json"
        ).stdout
    )

    def now():
        return host.connection.execute("SELECT clock_timestamp()").fetchone()[0]

    before = now()
    assert host.chat(made["key"])[0] == 200
    after = now()
    (record,) = host.usage(subscriber, 1)
    slack = timedelta(milliseconds=5)
    assert before - slack <= record["started_at"] <= record["ended_at"] <= after + slack
    info = host.services.keys.of_account(subscriber.account_id, {})[-1]
    assert abs(info.expires_at - after - timedelta(days=1)) < timedelta(minutes=5)
    # A key's end is judged by it, too: half an hour early by the host's own clock is not yet.
    host.connection.execute("UPDATE api_key SET expires_at = clock_timestamp() + interval '10 minutes'")
    restart(host, 1800)
    assert host.chat(made["key"])[0] == 200
    restart(host, -1800)
    host.connection.execute("UPDATE api_key SET expires_at = clock_timestamp() - interval '10 minutes'")
    assert host.chat(made["key"])[0] == 401
