"""Spans of a request: each attempt with its outcome, and nothing of what the client or the model wrote."""

import json

import msgspec
import pytest

from tests.gateway.request.support import WHOLE, Client, Worker, body_of, deployment
from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request_log import RequestLog
from tokenworks.gateway.series import Series
from tokenworks.gateway.tracing import ATTEMPTS_MAX, Tracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
SECRETS = ("open sesame", "hello", "13900000000", "twk_dev", "acc", "member", "192.0.2.9", "client-own-id")


class Kept(Tracer):
    def __init__(self, share_ppm=1_000_000):
        super().__init__(share_ppm, "")
        self.kept = []

    def keep(self, spans):
        self.kept.append(spans)


@pytest.fixture
def worker():
    worker = Worker("d1", deployment("d2", vendor="moonshot", upstream_model="kimi"))
    pools = type("Pools", (), {"of": staticmethod(worker.pool)})()
    worker.running = RunningRequests(worker.shared, pools, RequestLog(0, None, lambda: 0), Series())
    worker.shared.tracer = Kept()
    return worker


def begin(worker, headers=b"", **fields):
    head = parse_head(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer twk_dev_x\r\nx-request-id: client-own-id\r\n" + headers + b"\r\n", 100)  # fmt: skip
    said = {"messages": [{"role": "user", "content": "open sesame 13900000000"}], "user": "13900000000"}
    exchange = worker.running.begin(
        Client(), head, body_of(**said, **fields), "chat", worker.loop.now_s, free=False
    )
    exchange.identified(worker.user)
    return exchange


def ends(worker, name="d1", body=WHOLE | {"usage": USAGE}, status=200):
    upstream = worker.upstream(name)
    upstream.answers(json.dumps(body).encode(), status=status)
    upstream.user.upstream_end(upstream)
    if worker.recorder.records:
        worker.recorder.durable()


def only(worker):
    (found,) = worker.shared.tracer.kept
    texts = [*texts_in(msgspec.to_builtins(found, builtin_types=(bytes,)))]
    assert texts and not [secret for secret in SECRETS for text in texts if secret in text]
    return found


def texts_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_in(part)


def test_a_request_without_a_tracer_has_no_trace_and_its_head_is_the_one_that_is_remembered(worker):
    worker.shared.tracer = None
    exchange = begin(worker, f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode())
    assert exchange.trace is None
    assert f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode() in worker.upstream().head
    ends(worker)
    assert exchange.ended


def test_one_that_is_not_chosen_passes_the_clients_parent_as_it_is(worker):
    worker.shared.tracer = Kept(0)
    begin(worker, f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode())
    assert f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode() in worker.upstream().head
    ends(worker)
    assert worker.shared.tracer.kept == []


def test_a_whole_answer(worker):
    exchange = begin(worker, f"traceparent: 00-{TRACE}-{SPAN}-00\r\n".encode())
    worker.loop.now_s += 0.25
    worker.shared.clock.ms += 250
    ends(worker)
    found = only(worker)
    assert (found.trace_id.hex(), found.parent_id.hex()) == (TRACE, SPAN)
    assert (found.request_id, found.usage_id) == (exchange.request_id, exchange.request_id)
    assert (found.model, found.status, found.cause, found.protocol) == ("m", 200, "", "chat")
    assert found.ended_ms - found.began_ms == 250
    (attempt,) = found.attempts
    assert (attempt.deployment, attempt.provider, attempt.model) == ("d1", "generic", "m")
    assert (attempt.address, attempt.port, attempt.cause) == ("192.0.2.1", 80, "")
    assert (attempt.finishes, attempt.upstream_id, attempt.first_chunk_ms) == (("stop",), "u-1", 250)
    assert attempt.counts == (10, 0, 0, 0, 5, 0, 0, 0)
    line = f"traceparent: 00-{TRACE}-{attempt.span_id.hex()}-01\r\n".encode()
    assert worker.upstream().head.count(b"traceparent") == 1 and line in worker.upstream().head


def test_a_failed_attempt_and_the_one_after_it(worker):
    begin(worker)
    first = worker.upstream("d1" if worker.pool("d1").made else "d2")
    name, other = ("d1", "d2") if first.pool is worker.pool("d1") else ("d2", "d1")
    ends(worker, name, {"error": {"message": "hello"}}, status=500)
    ends(worker, other)
    found = only(worker)
    failed, served = found.attempts
    assert (failed.deployment, failed.cause, failed.counts) == (name, "server 500", None)
    assert (served.deployment, served.cause, served.counts[4]) == (other, "", 5)
    assert failed.span_id != served.span_id and found.parent_id == b"" and found.cause == ""
    assert served.span_id.hex().encode() in worker.upstream(other).head
    assert failed.span_id.hex().encode() in first.head


def test_a_refusal_names_its_code_and_no_model_of_the_clients(worker):
    begin(worker, model="hello-13900000000")
    found = only(worker)
    assert (found.status, found.model, found.attempts, found.usage_id) == (404, "", [], "")
    assert found.cause == "model_not_found"


def test_a_client_that_leaves_before_an_answer(worker):
    exchange = begin(worker)
    exchange.client_gone()
    exchange.attempt.abort()
    exchange.attempt_failed(exchange.attempt, "upstream_error", count=False, cause="")
    found = only(worker)
    assert (found.status, found.cause) == (0, "client_gone")
    assert [attempt.cause for attempt in found.attempts] == ["upstream_error"]


def test_more_attempts_than_have_spans_are_counted(worker):
    exchange = begin(worker)
    trace = exchange.trace
    for number in range(ATTEMPTS_MAX + 3):
        exchange.failures = [*(exchange.failures or ()), ("d1", f"cause {number}")]
        worker.parts.placements.end(exchange.attempt)
        exchange.attempt.over = False
        worker.parts.placements.began(exchange, exchange.attempt, exchange.attempt.view.unscored)
    assert (len(trace.attempts), trace.left_out) == (ATTEMPTS_MAX, 4)
    assert [span.cause for span in trace.attempts[:-1]] == [f"cause {at}" for at in range(ATTEMPTS_MAX - 1)]
