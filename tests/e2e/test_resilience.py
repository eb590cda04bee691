"""A bad hour of one deployment, with real processes: what clients see of it where another one can serve, and what they pay."""

import itertools
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.server import Server, StubUpstream, until
from tokenworks.factory import make_deployment

REQUESTS = 40


@pytest.fixture(scope="module")
def pair():
    with StubUpstream() as bad, StubUpstream() as good:
        yield bad, good


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    with Server(
        tmp_path_factory.mktemp("factory"), failover_patience_s=1, health_check_s=1, upstream_first_byte_timeout_s=20,
        upstream_idle_timeout_s=2,
    ) as server:  # fmt: skip
        yield server


MODELS = itertools.count(1)


@pytest.fixture
def factory(serving, pair):
    """With a model of its own for each test: no circuit is open, and nothing is learned, from another one."""
    serving.model = f"stub-{next(MODELS)}"
    # Both at once: a worker that knew the bad one alone would have nowhere else to go.
    with serving.services.transaction():
        for name, upstream in zip(("bad", "good"), pair, strict=True):
            serving.services.deployments.add(
                make_deployment(
                    name=f"{name}-{serving.model}", model=serving.model, upstream_model="stub", base_url=upstream.url, protocols=("chat",),
                    allow_private=True,
                )
            )  # fmt: skip
    _, key = serving.subscriber("ctc-premium")
    until(lambda: serving.model in str(serving.get("/v1/models", key)[1]), what="the model")
    yield serving
    for upstream in pair:
        upstream.behave()
    for name in ("bad", "good"):
        serving.services.deployments.remove(f"{name}-{serving.model}")


def ask(server, key, n, stream, **told):
    return server.chat(key, {"tokens": 5, "prompt": 11} | told, stream=stream, model=getattr(server, "model", "stub"), messages=[{"role": "user", "content": f"number {n}"}])  # fmt: skip


def is_whole(answer, stream):
    status, body, _ = answer
    if status != 200:
        return False
    return b"[DONE]" in body and b'"error"' not in body if stream else json.loads(body)["usage"]["completion_tokens"] == 5  # fmt: skip


def crowd(server, key, stream):
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: ask(server, key, n, stream), range(REQUESTS)))


def sums_agree(server, subscriber, upstreams, count):
    """What each client got is in the ledger once, as the upstream counted it; nothing else was charged."""
    records = server.usage(subscriber, count)
    assert len(records) == count and {r["state"] for r in records} == {"complete"}
    theirs = {}
    for upstream in upstreams:
        theirs |= upstream.count()["complete"]
    for record in records:
        usage = theirs[record["upstream_id"]]
        assert (record["fresh_input"], record["output"]) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        assert sum(part[5] for part in record["parts"]) == 1000 * usage["total_tokens"]
    assert server.findings() == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("trouble", [
    {"status": 500}, {"status": 503}, {"status": 429}, {"status": 429, "more": "retry-after: 3\r\n"}, {"status": 401}, {"fail": "close"},
    {"fail": "garbage"}, {"fail": "long"}, {"fail": "short"}, {"status": 500, "every": 2}, {"cut_after": 0},
], ids=lambda t: "-".join(str(v).split(":")[0] for v in t.values()))  # fmt: skip
def test_before_the_first_byte_nobody_sees_it(factory, pair, trouble, stream):
    bad, good = pair
    if "cut_after" in trouble and not stream:
        pytest.skip("only a stream is cut in its middle")
    subscriber, key = factory.subscriber("ctc-premium")
    bad.behave(**trouble)
    if trouble.get("cut_after") == 0:
        # It sends a beginning without content, and breaks off.
        answers = crowd(factory, key, stream)
        assert [answer[:2] for answer in answers if answer[0] != 200] == []
        assert sum(is_whole(answer, stream) for answer in answers) >= REQUESTS - 20, "and is ejected"
        assert factory.findings() == []
        return
    answers = crowd(factory, key, stream)
    assert [is_whole(answer, stream) for answer in answers] == [True] * REQUESTS
    sums_agree(factory, subscriber, pair, REQUESTS)


def test_one_that_is_killed_is_not_noticed_and_taken_back_when_it_lives(tmp_path):
    with StubUpstream() as good, StubUpstream() as bad, Server(tmp_path, health_check_s=1) as server:
        server.add_deployment("bad", "stub", bad.url)
        server.add_deployment("good", "stub", good.url)
        until(lambda: server.metrics("deployments") == [2.0])
        subscriber, key = server.subscriber("ctc-premium")
        stop = threading.Event()
        answers = []

        def load(n):
            while not stop.is_set():
                answers.append(ask(server, key, n, stream=n % 2 == 0))

        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(load, n) for n in range(6)]
            until(lambda: bad.count()["requests"] >= 20, what="both to serve")
            bad.process.send_signal(signal.SIGKILL)
            bad.process.wait()
            before = len(answers)
            until(lambda: len(answers) > before + 60, what="service without it")
            stop.set()
            for job in jobs:
                job.result()
        assert all(answer[0] == 200 for answer in answers)
        # Only what had begun to flow when it died could not be had elsewhere.
        assert sum(b'"error"' in answer[1] for answer in answers) <= 6
        records = server.usage(subscriber, len(answers) - 6)
        assert sum(r["state"] == "interrupted" for r in records) <= 6
        assert server.findings() == []


def test_one_that_hangs_costs_a_second_once(factory, pair):
    bad, _ = pair
    subscriber, key = factory.subscriber("ctc-premium")
    bad.behave(fail="hang")
    answers = crowd(factory, key, stream=True)
    assert [is_whole(answer, True) for answer in answers] == [True] * REQUESTS
    sums_agree(factory, subscriber, pair, REQUESTS)
    # It rests: the next ones do not even try it.
    before = bad.count()["requests"]
    assert is_whole(ask(factory, key, 1, True), True)
    assert bad.count()["requests"] == before


def test_one_that_slows_down_gets_less(factory, pair):
    bad, good = pair
    _, key = factory.subscriber("ctc-premium")
    until(lambda: all(is_whole(ask(factory, key, n, True), True) for n in range(4)))
    bad.behave(wait_ms=300)

    def served():
        begun = [upstream.count()["requests"] for upstream in pair]
        for n in range(20):
            assert is_whole(ask(factory, key, n, True), True)
        return [upstream.count()["requests"] - was for upstream, was in zip(pair, begun, strict=True)]

    slow, fast = until(
        lambda: (found := served())[0] <= 4 and found, timeout_s=60, what="the slow one to be avoided"
    )
    assert slow + fast >= 20


@pytest.mark.parametrize("told", [{"cut_after": 3}, {"stall_after": 3}], ids=["cut", "stall"])
def test_after_the_first_byte_it_is_said_in_protocol_and_charged_as_produced(factory, pair, told):
    subscriber, key = factory.subscriber("ctc-premium")
    for upstream in pair:
        upstream.behave(**told)
    status, body, _ = ask(factory, key, 1, True, gap_ms=5)
    assert status == 200 and b"tok" in body and b'"error"' in body and b"[DONE]" not in body
    assert b"broke off" in body or b"went silent" in body
    (record,) = factory.usage(subscriber, 1)
    assert (record["state"], record["output"]) == ("interrupted", 3)
    assert record["fresh_input"] >= 1, "its input, bounded from below"
    paid = 1000 * (3 + record["fresh_input"])
    assert sum(part[5] for part in record["parts"]) == paid, "what was shown, and not more"
    assert factory.findings() == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_vendor_that_lies_about_usage_is_not_believed_beyond_what_can_be(factory, pair, stream):
    subscriber, key = factory.subscriber("ctc-premium")
    for upstream in pair:
        upstream.behave(usage={"completion_tokens": 1_000_000, "total_tokens": 1_000_011})
    status, body, _ = factory.chat(
        key, {"tokens": 5, "prompt": 11}, stream=stream, max_tokens=1000, model=factory.model
    )
    assert status == 200
    (record,) = factory.usage(subscriber, 1)
    assert record["output"] == 1_000_000 and record["provider_total"] == 1_000_011, "what it said is kept"
    assert {"implausible", "waived"} <= set(record["flags"])
    charged = sum(part[5] for part in record["parts"]) // 1000
    shown = 20 if stream else len(body)
    assert 11 + 5 <= charged <= 11 + shown + 64, "and nobody pays it"
    assert factory.findings() == []
    flagged = json.loads(factory.cli("ledger", "flagged", "--json").stdout)
    assert any("implausible" in row["flags"] for row in flagged)


def test_all_of_them_bad_is_a_clear_error_and_no_storm(factory, pair):
    subscriber, key = factory.subscriber("ctc-premium")
    for upstream in pair:
        upstream.behave(status=500)
    before = sum(upstream.count()["requests"] for upstream in pair)
    answers = [ask(factory, key, n, stream=False) for n in range(30)]
    assert {answer[0] for answer in answers} <= {502, 503}
    assert json.loads(answers[0][1])["error"]["code"] == "upstream_error"
    assert sum(upstream.count()["requests"] for upstream in pair) - before <= 30 + 30
    assert factory.usage(subscriber) == []
    for upstream in pair:
        upstream.behave()
    until(lambda: ask(factory, key, 1, False)[0] == 200, what="it to come back")


def test_draining_and_coming_back(factory, pair):
    bad, good = pair
    _, key = factory.subscriber("ctc-premium")
    factory.cli("deployment", "drain", f"bad-{factory.model}")
    until(
        lambda: "draining" in factory.cli("route", "explain", "--model", factory.model, "--subscriber", factory_phone(factory)).stdout
    )  # fmt: skip

    def moved():
        before = bad.count()["requests"]
        assert all(ask(factory, key, n, False)[0] == 200 for n in range(6))
        return bad.count()["requests"] == before

    until(moved, what="the draining one to get nothing")
    factory.cli("deployment", "drain", f"good-{factory.model}")
    until(lambda: ask(factory, key, 1, False)[0] == 503, what="nothing to be left")
    factory.cli("deployment", "resume", f"bad-{factory.model}")
    factory.cli("deployment", "resume", f"good-{factory.model}")
    until(lambda: all(ask(factory, key, n, False)[0] == 200 for n in range(6)))
    assert factory.cli("deployment", "drain", "nobody", check=False).returncode == 1


def factory_phone(server):
    made, _ = server.subscriber("ctc-light")
    return made.phone


def test_what_has_no_other_place_leaves_the_retry_budget_to_who_has_one(tmp_path):
    with Server(tmp_path / "host", retries_per_s=0) as server, StubUpstream() as one, StubUpstream() as two:
        one.behave(status=500, every=2)
        two.behave(status=500)
        server.add_deployment("alone", "alone", one.url)
        for name in ("first", "second"):
            server.add_deployment(name, "stub", two.url)
        until(lambda: server.metrics("deployments") == [3.0], what="the deployments")
        _, key = server.subscriber("ctc-premium")
        # A fifth of all requests may be tried again, and none of these can be sent anywhere else.
        statuses = [server.chat(key, {"tokens": 5, "prompt": 9}, model="alone")[0] for _ in range(19)]
        assert statuses == [*[502, 200] * 9, 502]
        assert server.chat(key, {"tokens": 5, "prompt": 9})[0] == 502
        # The twentieth was tried again.
        assert (
            until(lambda: server.metrics("attempts_total") == [21.0], what="the counters")
            and server.findings() == []
        )
