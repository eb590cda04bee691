"""A request's spans as a collector reads them."""

import pytest

from tests.support.collector import decode
from tokenworks.app.ports.otlp import export_request, span_count
from tokenworks.gateway import AttemptSpan, RequestSpans

TRACE, ROOT, CLIENT = b"t" * 16, b"r" * 8, b"p" * 8
AT_MS = 1_790_000_000_000


def attempt(**more):
    told = {
        "span_id": b"a" * 8, "began_ms": AT_MS + 3, "deployment": "d1", "provider": "moonshot", "model": "kimi", "protocol": "chat",
        "address": "api.example", "port": 443, "ended_ms": AT_MS + 900,
    }  # fmt: skip
    return AttemptSpan(**(told | more))


def request(*attempts, **more):
    told = {
        "trace_id": TRACE, "span_id": ROOT, "parent_id": CLIENT, "request_id": "q", "protocol": "chat", "began_ms": AT_MS,
        "ended_ms": AT_MS + 1000, "model": "m", "status": 200, "cause": "", "usage_id": "q", "attempts": list(attempts),
    }  # fmt: skip
    return RequestSpans(**(told | more))


def read(*requests):
    return decode(export_request(requests, {"service.name": "tokenworks"}, "1"))


def test_a_request_and_its_attempts_are_a_tree_with_the_conventions_attributes():
    failed = attempt(span_id=b"f" * 8, cause="server 500", deployment="d0", ended_ms=AT_MS + 4)
    served = attempt(
        finishes=("stop", "length"), upstream_id="u", counts=(5, 10, 20, 1, 7, 4, 2, 30), first_chunk_ms=125, protocol="messages"
    )  # fmt: skip
    resource, (root, first, second) = read(request(failed, served, streamed=True, queued_ms=2))
    assert resource == {"service.name": "tokenworks"}
    assert {span.trace_id for span in (root, first, second)} == {TRACE}
    assert (root.parent_id, first.parent_id, second.parent_id) == (CLIENT, ROOT, ROOT)
    assert (root.span_id, first.span_id, second.span_id) == (ROOT, b"f" * 8, b"a" * 8)
    assert (root.kind, first.kind, second.kind) == ("server", "client", "client")
    assert (root.name, first.name) == ("POST /v1/chat/completions", "chat kimi")
    assert (root.began_ns, root.ended_ns) == (AT_MS * 10**6, (AT_MS + 1000) * 10**6)
    assert (root.failed, first.failed, second.failed) == (False, True, False)
    assert (root.flags, first.flags) == (0x301, 0x101)
    assert root.attributes == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.stream": True,
        "tokenworks.request_id": "q", "tokenworks.usage_id": "q", "tokenworks.queued_ms": 2, "tokenworks.attempts": 2,
    }  # fmt: skip
    assert first.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "moonshot_ai", "gen_ai.request.model": "kimi",
        "gen_ai.request.stream": True, "server.address": "api.example", "server.port": 443, "tokenworks.deployment": "d0",
        "error.type": "server 500",
    }  # fmt: skip
    usage = {name: value for name, value in second.attributes.items() if ".usage." in name}
    assert usage == {
        "gen_ai.usage.input_tokens": 66, "gen_ai.usage.output_tokens": 13, "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.usage.cache_write.input_tokens": 50, "gen_ai.usage.audio.input_tokens": 1,
        "gen_ai.usage.audio.output_tokens": 2, "gen_ai.usage.reasoning.output_tokens": 4,
        "tokenworks.usage.fresh_input": 5, "tokenworks.usage.cached_input": 10, "tokenworks.usage.cache_write": 20,
        "tokenworks.usage.audio_input": 1, "tokenworks.usage.output": 7, "tokenworks.usage.reasoning": 4,
        "tokenworks.usage.audio_output": 2, "tokenworks.usage.cache_write_1h": 30,
    }  # fmt: skip
    assert second.attributes["gen_ai.response.finish_reasons"] == ["stop", "length"]
    assert second.attributes["gen_ai.response.time_to_first_chunk"] == 0.125
    assert second.attributes["tokenworks.translated"] == "messages"
    assert span_count(request(failed, served)) == 3


@pytest.mark.parametrize(
    ("more", "failed"),
    [
        ({"status": 404, "cause": "model_not_found"}, False),
        ({"status": 502, "cause": "upstream_error"}, True),
        ({"status": 200, "cause": "upstream_error"}, True),
        ({"status": 0, "cause": "client_gone"}, False),
        ({"status": 200, "cause": ""}, False),
    ],
)
def test_an_error_of_the_client_is_none_of_the_servers(more, failed):
    _, (root,) = read(request(**more))
    assert root.failed is failed and root.attributes.get("error.type", "") == more["cause"]
    assert root.attributes.get("http.response.status_code", 0) == more["status"]


def test_operations_and_routes():
    for protocol, counts, name, operation in (
        ("completions", False, "POST /v1/completions", "text_completion"),
        ("embeddings", False, "POST /v1/embeddings", "embeddings"),
        ("responses", False, "POST /v1/responses", "chat"),
        ("messages", True, "POST /v1/messages/count_tokens", "count_tokens"),
    ):
        _, (root,) = read(request(protocol=protocol, counts_tokens=counts))
        assert (root.name, root.attributes["gen_ai.operation.name"]) == (name, operation)


def test_a_trace_of_ones_own_has_no_parent_and_times_never_run_backwards():
    _, (root, one) = read(
        request(attempt(ended_ms=0, counts=(1, 2)), parent_id=b"", replayed=True, attempts_left_out=3)
    )
    assert root.parent_id == b"" and root.flags == 0x101
    assert one.ended_ns == one.began_ns, "a span does not end before it begins"
    assert not [name for name in one.attributes if ".usage." in name], "classes of another release"
    assert root.attributes["tokenworks.replayed"] is True
    assert (root.attributes["tokenworks.attempts"], root.attributes["tokenworks.attempts_left_out"]) == (4, 3)
