"""An operator follows requests in an OpenTelemetry collector; nothing that was said is in it."""

import json

import pytest

from tests.support.collector import Collector
from tests.support.server import Server, StubUpstream, until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAID = "open sesame"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    with (
        Collector() as collector,
        StubUpstream() as upstream,
        Server(
            tmp_path_factory.mktemp("tracing"), otlp_endpoint=collector.url, otlp_sample_ppm=1_000_000
        ) as server,
    ):
        server.add_deployment("good", "stub", upstream.url, "--protocol", "chat")
        yield server, upstream, collector


def trace_of(collector, request_id):
    """The spans of a request, the server's first."""

    def read():
        spans = collector.spans()
        roots = [one for one in spans if one.attributes.get("tokenworks.request_id") == request_id]
        return roots and [roots[0], *(one for one in spans if one.parent_id == roots[0].span_id)]

    return until(read, what="the spans")


def test_a_stream_is_a_span_of_the_clients_trace_and_of_the_upstreams(places):
    server, upstream, collector = places
    subscriber, key = server.subscriber()
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}
    said = [{"role": "user", "content": SAID}]
    status, body, headers = server.chat(
        key, {"tokens": 4, "prompt": 9}, headers=parent, stream=True, messages=said
    )
    assert status == 200
    root, attempt = trace_of(collector, headers["x-request-id"])
    assert (root.trace_id.hex(), root.parent_id.hex(), root.kind) == (TRACE, SPAN, "server")
    assert root.began_ns <= attempt.began_ns <= attempt.ended_ns <= root.ended_ns
    (record,) = server.usage(subscriber, 1)
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 4
    assert attempt.attributes["gen_ai.usage.input_tokens"] == 9
    assert attempt.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert attempt.attributes["tokenworks.deployment"] == "good"
    assert 0 <= attempt.attributes["gen_ai.response.time_to_first_chunk"] < 60
    assert root.attributes["tokenworks.usage_id"] == str(record["usage_id"]).replace("-", "")
    sent = {name.lower(): value for name, value in upstream.get("/last")["heads"][-1].items()}
    assert (
        sent["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01" and sent["tracestate"] == "vendor=1"
    )
    exported = b"".join(content for *_, content in collector.got)
    for secret in (SAID, key, subscriber.phone, "vendor=1", str(subscriber.account_id)):
        assert secret.encode() not in exported


def test_a_translated_answer_a_refusal_and_a_failure(places):
    server, upstream, collector = places
    _, key = server.subscriber()
    asked = {"model": "stub", "max_tokens": 50, "messages": [{"role": "user", "content": SAID}]}
    translated = server.request("POST", "/v1/messages", key, asked)
    refused = server.request("POST", "/v1/messages", key, asked | {"model": f"no {SAID}"})
    upstream.behave(status=500)
    try:
        failed = server.chat(key)
    finally:
        upstream.behave()
    assert (translated[0], refused[0], failed[0]) == (200, 404, 502)
    root, attempt = trace_of(collector, translated[2]["x-request-id"])
    assert (root.name, attempt.attributes["tokenworks.translated"]) == ("POST /v1/messages", "chat")
    assert root.parent_id == b"" and root.attributes["http.response.status_code"] == 200
    (root,) = trace_of(collector, refused[2]["x-request-id"])
    assert root.attributes["http.response.status_code"] == 404
    assert "gen_ai.request.model" not in root.attributes and not root.failed
    root, attempt = trace_of(collector, failed[2]["x-request-id"])
    assert root.attributes["http.response.status_code"] == 502 and root.failed and attempt.failed
    assert (
        attempt.attributes["error.type"] == "server 500"
        and "gen_ai.usage.input_tokens" not in attempt.attributes
    )
    assert SAID.encode() not in b"".join(content for *_, content in collector.got)


def test_what_was_sent_is_counted_and_a_collector_that_is_busy_stops_nothing(places):
    server, _, collector = places
    _, key = server.subscriber()
    collector.answers += [(503, {}, b"")]
    status, body, headers = server.chat(key)
    assert status == 200 and json.loads(body)["usage"]
    trace_of(collector, headers["x-request-id"])
    until(lambda: server.metrics("spans_exported")[0] >= 2, what="the collector to take them")
    until(lambda: server.metrics("traces_sent")[0] >= 1, what="the worker's counter")
    assert server.metrics("traces_dropped") == [0.0] and server.metrics("spans_dropped") == [0.0]
    assert server.findings() == []
