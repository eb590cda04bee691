"""Spans as an OTLP request: `ExportTraceServiceRequest` in protobuf (opentelemetry-proto 1.x, `trace/v1/trace.proto`, read 2026-11), with
the attributes of the semantic conventions for generative AI (open-telemetry/semantic-conventions-genai, `client-inference.md`, status
Development, read 2026-11) and for HTTP. What no convention names is under `tokenworks.`; docs/TRACING.md lists all attributes.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from tokenworks.app.ports import protobuf
from tokenworks.catalog import TOKEN_CLASSES, Counts
from tokenworks.gateway import AttemptSpan, RequestSpans

Attribute = str | int | float | bool | tuple[str, ...]

SCOPE: Final = "tokenworks.gateway"
_NS_PER_MS: Final = 1_000_000
# Span kinds and the status of an error, as trace.proto numbers them.
_SERVER: Final = 2
_CLIENT: Final = 3
_ERROR: Final = 2
# Trace flags of a span: it is sampled, and it is known whether its parent is another process's (bits 8 and 9).
_SAMPLED: Final = 0x01
_PARENT_KNOWN: Final = 0x100
_PARENT_REMOTE: Final = 0x200
_ROUTES: Final = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
_COUNT_ROUTES: Final = {"messages": "/v1/messages/count_tokens", "responses": "/v1/responses/input_tokens"}
# `gen_ai.operation.name`; a protocol that is not here is a conversation.
_OPERATIONS: Final = {"completions": "text_completion", "embeddings": "embeddings"}
_COUNT_TOKENS: Final = "count_tokens"
# `gen_ai.provider.name` where the conventions name a vendor otherwise than the profiles do.
_PROVIDERS: Final = {
    "azure-openai": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "xai": "x_ai",
}
# A span of an attempt whose client left is no failure of anybody.
_NO_ERRORS: Final = frozenset({"", "client_gone"})


def export_request(
    requests: Sequence[RequestSpans], resource: Mapping[str, Attribute], version: str
) -> bytes:
    """The message for the spans of these requests. `resource`: attributes of this host; `version`: of the software."""
    scope = protobuf.text(1, SCOPE) + protobuf.text(2, version)
    spans = [protobuf.data(2, span) for request in requests for span in _spans(request)]
    scope_spans = protobuf.data(1, scope) + b"".join(spans)
    resource_spans = protobuf.data(1, b"".join(_attributes(1, resource))) + protobuf.data(2, scope_spans)
    return protobuf.data(1, resource_spans)


def span_count(request: RequestSpans) -> int:
    return 1 + len(request.attempts)


def _spans(request: RequestSpans) -> list[bytes]:
    operation = _COUNT_TOKENS if request.counts_tokens else _OPERATIONS.get(request.protocol, "chat")
    return [
        _server_span(request, operation),
        *(_client_span(request, attempt, operation) for attempt in request.attempts),
    ]


def _server_span(request: RequestSpans, operation: str) -> bytes:
    routes = _COUNT_ROUTES if request.counts_tokens else _ROUTES
    route = routes.get(request.protocol, "")
    attributes: dict[str, Attribute] = {
        "http.request.method": "POST",
        "http.route": route,
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": request.model,
        "tokenworks.request_id": request.request_id,
        "tokenworks.usage_id": request.usage_id,
        "tokenworks.queued_ms": request.queued_ms,
        "tokenworks.attempts": len(request.attempts) + request.attempts_left_out,
        "error.type": request.cause,
    }
    if request.status:
        attributes["http.response.status_code"] = request.status
    if request.streamed:
        attributes["gen_ai.request.stream"] = True
    if request.replayed:
        attributes["tokenworks.replayed"] = True
    if request.attempts_left_out:
        attributes["tokenworks.attempts_left_out"] = request.attempts_left_out
    # The conventions for HTTP: a 4xx is no error of the server. An interrupted answer is one, whatever its status was.
    failed = request.cause not in _NO_ERRORS and not 400 <= request.status < 500
    return _span(
        request.trace_id,
        request.span_id,
        request.parent_id,
        f"POST {route}",
        _SERVER,
        (request.began_ms, request.ended_ms),
        attributes,
        failed=failed,
    )


def _client_span(request: RequestSpans, attempt: AttemptSpan, operation: str) -> bytes:
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(attempt.provider, attempt.provider),
        "gen_ai.request.model": attempt.model,
        "gen_ai.response.id": attempt.upstream_id or "",
        "gen_ai.response.finish_reasons": attempt.finishes,
        "server.address": attempt.address,
        "server.port": attempt.port,
        "tokenworks.deployment": attempt.deployment,
        "error.type": attempt.cause,
    }
    if request.streamed:
        attributes["gen_ai.request.stream"] = True
        if attempt.first_chunk_ms is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = attempt.first_chunk_ms / 1000
    if attempt.protocol != request.protocol:
        attributes["tokenworks.translated"] = attempt.protocol
    if attempt.counts is not None:
        attributes |= _usage(attempt.counts)
    return _span(
        request.trace_id,
        attempt.span_id,
        request.span_id,
        f"{operation} {attempt.model}",
        _CLIENT,
        (attempt.began_ms, attempt.ended_ms),
        attributes,
        failed=attempt.cause not in _NO_ERRORS,
    )


def _usage(found: tuple[int, ...]) -> dict[str, Attribute]:
    """Usage in the conventions' sums, and class by class as it is charged. A release that counts other classes adds none."""
    if len(found) != len(TOKEN_CLASSES):
        return {}
    counts = Counts(*found)
    usage: dict[str, Attribute] = {
        "gen_ai.usage.input_tokens": counts.input_tokens,
        "gen_ai.usage.output_tokens": counts.output_tokens,
    }
    applicable = {
        "gen_ai.usage.cache_read.input_tokens": counts.cached_input,
        "gen_ai.usage.cache_write.input_tokens": counts.cache_write + counts.cache_write_1h,
        "gen_ai.usage.audio.input_tokens": counts.audio_input,
        "gen_ai.usage.audio.output_tokens": counts.audio_output,
        "gen_ai.usage.reasoning.output_tokens": counts.reasoning,
    }
    usage |= {name: tokens for name, tokens in applicable.items() if tokens}
    usage |= {
        f"tokenworks.usage.{name}": tokens
        for name, tokens in zip(TOKEN_CLASSES, counts, strict=True)
        if tokens
    }
    return usage


def _span(
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    name: str,
    kind: int,
    times_ms: tuple[int, int],
    attributes: Mapping[str, Attribute],
    *,
    failed: bool,
) -> bytes:
    began_ms, ended_ms = times_ms
    flags = _SAMPLED | _PARENT_KNOWN | (_PARENT_REMOTE if parent_id and kind == _SERVER else 0)
    parts = [
        protobuf.data(1, trace_id),
        protobuf.data(2, span_id),
        protobuf.text(5, name),
        protobuf.number(6, kind),
        protobuf.fixed64(7, began_ms * _NS_PER_MS),
        protobuf.fixed64(8, max(began_ms, ended_ms) * _NS_PER_MS),
        *_attributes(9, attributes),
        protobuf.fixed32(16, flags),
    ]
    if parent_id:
        parts.append(protobuf.data(4, parent_id))
    if failed:
        parts.append(protobuf.data(15, protobuf.number(3, _ERROR)))
    return b"".join(parts)


def _attributes(field: int, attributes: Mapping[str, Attribute]) -> list[bytes]:
    """`KeyValue` messages. An empty text or list is left out: it says nothing."""
    return [
        protobuf.data(field, protobuf.text(1, name) + protobuf.data(2, _any_value(value)))
        for name, value in attributes.items()
        if value not in ("", ())
    ]


def _any_value(value: Attribute) -> bytes:
    """An `AnyValue` (`common/v1/common.proto`)."""
    if isinstance(value, bool):
        return protobuf.number(2, value)
    if isinstance(value, int):
        return protobuf.number(3, value)
    if isinstance(value, float):
        return protobuf.double(4, value)
    if isinstance(value, str):
        return protobuf.text(1, value)
    return protobuf.data(5, b"".join([protobuf.data(1, _any_value(one)) for one in value]))
