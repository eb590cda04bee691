"""Refusals on the data plane: facts, with the status and words each protocol has for them. HTTP is decided here."""

import json
from typing import Final, NamedTuple


class Refusal(NamedTuple):
    """Why a request is refused. `code` is stable and documented; `message` says what to do."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    param: str | None = None
    top_up_url: str | None = None
    # (unit, needed at least, left) of a request that is not covered.
    shortage: tuple[str, int, int] | None = None


# OpenAI's and Anthropic's names for a kind of error, by status.
_OPENAI_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
# Every code that this room refuses with, for the reference (a test compares them).
CODES: Final = {
    "bad_request": "400: not HTTP/1.1 as we take it, or not JSON",
    "ambiguous_path": "400: a path with dot segments, encoded separators outside a model's id, or // that leads to no route",
    "invalid_body": "400: the body lacks what the protocol needs, or has it in a wrong type",
    "unpriced_field": "400: a field that would move price or upstream state and is not priced here",
    "context_length_exceeded": "400: what the request brings and asks for is more than the model's context; the message is its server's, cleaned",
    "consent_missing": "403: the account has withdrawn its consent to the terms, or has not given it",
    "content_policy_violation": "400 or 403: a content policy of the model's server refuses what the request brings; the message is its own, cleaned",
    "refused_by_model": "400, 413 or 422: the model's server refuses the request for what is in it; the message is its own, cleaned",
    "forbidden_link": "400: a URL of media that no upstream may fetch: not a public address, or not http, https or data",
    "foreign_object": "400: an upstream object that this account did not receive",
    "invalid_api_key": "401: no key, a typo, unknown, revoked or expired",
    "nothing_left": "402: what the account (or the key's cap) has left does not cover the request",
    "account_suspended": "403: the subscriber is suspended; the message says by what",
    "model_not_allowed": "403: this key may not use the model",
    "model_not_found": "404: no deployment serves this model in this protocol",
    "not_found": "404: no such route",
    "method_not_allowed": "405: the route does not take this method",
    "request_timeout": "408: the request did not arrive in time",
    "body_too_large": "413: the body is larger than body_bytes_max",
    "unsupported_encoding": "415: a body in another content coding than gzip, deflate, br or zstd, or in more than two",
    "expectation_failed": "417: an Expect header other than 100-continue",
    "upgrade_required": "426: an offer of WebSocket; the same request over HTTP is served",
    "origin_not_allowed": "403: a page of this origin may not use the key",
    "too_many_requests": "429: over the admission limit, or over an address's share of memory_bytes_max; Retry-After says when",
    "rate_limited": "429: over a protective limit of the key, member, subscriber or deployments; Retry-After says when there is room",
    "allowance_used_up": "429: what the plan allows in any 5 hours or week is used up; Retry-After says when the next comes back",
    "headers_too_large": "431: more than header_bytes_max or header_count_max",
    "upstream_error": "502: every deployment that was tried failed",
    "unsupported_input": "400: the request brings what the model does not take: images, sound, tools",
    "model_not_filed": "403: the model is not declared as filed, and filing_required is set",
    "overloaded": "503: all deployments of the model are at their limits, and none came free in time, or too many wait; Retry-After says when",
    "residency": "403: the account's data may not go where the model is served",
    "no_deployment": "503: no deployment can take the request now",
    "memory_full": "503: the worker has all the bytes in flight that memory_bytes_max allows; try again",
    "journal_full": "503: the disk of the host's journal is nearly full, or too much of it waits for the database; nothing new is begun",
    "recorder_away": "503: the host's recorder does not answer",
    "database_away": "503: the database does not answer, and nothing is left that was granted",
    "shutting_down": "503: this worker ends, and its time to drain is over; another one takes the request at once",
    "clock_skew": "503: the host's clock is off by more than clock_skew_max_s; nothing new is begun",
    "granted_elsewhere": "503: another worker or host holds what would cover the request; try again at once",
    "upstream_timeout": "504: the deployment did not answer in time",
    "http_version": "505: another version than HTTP/1.0 or 1.1",
}


def error_body(refusal: Refusal, protocol: str, request_id: str) -> bytes:
    """The refusal in the client's own protocol: Anthropic's for messages, OpenAI's for the rest."""
    message = refusal.message
    if protocol == "messages":
        kind = _ANTHROPIC_TYPES.get(refusal.status, "api_error")
        said = {"type": kind, "message": message, "code": refusal.code, **_where(refusal)}
        return json.dumps({"type": "error", "error": said, "request_id": request_id}).encode()
    kind = _OPENAI_TYPES.get(
        refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    error = {
        "message": message,
        "type": kind,
        "param": refusal.param,
        "code": refusal.code,
        **_where(refusal),
    }
    return json.dumps({"error": error}).encode()


def _where(refusal: Refusal) -> dict[str, object]:
    found: dict[str, object] = {} if refusal.top_up_url is None else {"top_up_url": refusal.top_up_url}
    if refusal.shortage is not None:
        unit, needed, left = refusal.shortage
        found |= {"unit": unit, "needed": needed, "left": left}
    return found


def error_response(
    refusal: Refusal, protocol: str, request_id: str, *, close: bool, head: bool = False, lines: bytes = b""
) -> bytes:
    """A whole response, with these header lines more."""
    body = error_body(refusal, protocol, request_id)
    said = [
        f"HTTP/1.1 {refusal.status} {REASONS.get(refusal.status, 'Error')}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        f"request-id: {request_id}",
    ]
    if refusal.retry_after_s is not None:
        said.append(f"retry-after: {refusal.retry_after_s}")
    if refusal.status == 401:
        said.append('www-authenticate: Bearer realm="tokenworks"')
    if refusal.status == 402:
        # SDKs retry what they don't know; nothing changes until somebody pays.
        said.append("x-should-retry: false")
    options = ["close"] if close else []
    if refusal.status == 426:
        # RFC 9110, 15.5.22: what is spoken instead.
        said.append("upgrade: HTTP/1.1")
        options.append("upgrade")
    if options:
        said.append("connection: " + ", ".join(options))
    text = "\r\n".join(said).encode() + b"\r\n" + lines + b"\r\n"
    return text if head else text + body


def error_event(refusal: Refusal, protocol: str, request_id: str) -> bytes:
    """The refusal inside a stream that has begun."""
    body = error_body(refusal, protocol, request_id)
    if protocol == "messages":
        return b"event: error\ndata: " + body + b"\n\n"
    if protocol == "responses":
        error = {"type": "error", "code": refusal.code, "message": refusal.message, "param": None}
        return b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
    return b"data: " + body + b"\n\n"


def cut_events(
    refusal: Refusal | None,
    protocol: str,
    request_id: str,
    model: str,
    upstream_id: str | None,
    output_tokens: int,
) -> bytes:
    """The end of a stream that the gateway ends: a finish reason as for a length limit, then why, where that is no maximum
    of the client's own (`refusal` None).
    """
    answer_id = upstream_id or request_id
    why = b"" if refusal is None else error_event(refusal, protocol, request_id)

    def data(content: object, event: str | None = None) -> bytes:
        named = b"" if event is None else f"event: {event}\n".encode()
        return named + b"data: " + json.dumps(content).encode() + b"\n\n"

    if protocol == "messages":
        last = data(
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
             "usage": {"output_tokens": output_tokens}},
            "message_delta",
        )  # fmt: skip
        return last + (why or data({"type": "message_stop"}, "message_stop"))
    if protocol == "responses":
        response = {
            "id": answer_id, "object": "response", "status": "incomplete", "model": model, "output": [],
            "incomplete_details": {"reason": "max_output_tokens"},
        }  # fmt: skip
        last = data({"type": "response.incomplete", "response": response}, "response.incomplete")
        return last + why
    choice: dict[str, object] = {"index": 0, "finish_reason": "length", "delta": {}}
    if protocol == "completions":
        choice = {"index": 0, "finish_reason": "length", "text": ""}
    kind = "text_completion" if protocol == "completions" else "chat.completion.chunk"
    last = data({"id": answer_id, "object": kind, "created": 0, "model": model, "choices": [choice]})
    return last + why + b"data: [DONE]\n\n"
