"""The refusals of the data plane, with the HTTP status and the words that each protocol uses for them."""

import json
from typing import Final, NamedTuple

from tokenworks.gateway.protocol.codes import CODES


class Refusal(NamedTuple):
    """The reason for which a request is refused. `code` is stable and documented; `message` tells the client what to do."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    param: str | None = None
    top_up_url: str | None = None
    # (unit, least amount needed, amount left) of a request that the balance does not cover.
    shortage: tuple[str, int, int] | None = None
    # The message in Chinese, if it has more detail than the code's own sentence.
    zh: str = ""
    # Further header lines of the response.
    lines: bytes = b""


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


def in_language(refusal: Refusal, accept_language: bytes | None) -> Refusal:
    """The refusal in Chinese, if the client prefers Chinese and there is a sentence: refusals about the account or its key have one."""
    if accept_language is None or not accept_language.strip().lower().startswith(b"zh"):
        return refusal
    code = CODES.get(refusal.code)
    text = refusal.zh or (code.zh if code is not None else "")
    return refusal._replace(message=text) if text else refusal


def error_body(refusal: Refusal, protocol: str, request_id: str) -> bytes:
    """The refusal in the client's protocol: Anthropic's for messages, OpenAI's for the others."""
    message = refusal.message
    error: dict[str, object]
    if protocol == "messages":
        kind = _ANTHROPIC_TYPES.get(refusal.status, "api_error")
        error = {"type": kind, "message": message, "code": refusal.code, **_details(refusal)}
        return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()
    kind = _OPENAI_TYPES.get(
        refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
    )
    error = {
        "message": message,
        "type": kind,
        "param": refusal.param,
        "code": refusal.code,
        **_details(refusal),
    }
    return json.dumps({"error": error}).encode()


def _details(refusal: Refusal) -> dict[str, object]:
    """Fields that help the client to solve a refusal: the link to top up, and the amounts of a shortage."""
    details: dict[str, object] = {} if refusal.top_up_url is None else {"top_up_url": refusal.top_up_url}
    if refusal.shortage is not None:
        unit, needed, left = refusal.shortage
        details |= {"unit": unit, "needed": needed, "left": left}
    return details


def error_response(
    refusal: Refusal, protocol: str, request_id: str, *, close: bool, head: bool = False, lines: bytes = b""
) -> bytes:
    """A whole response. `lines`: further header lines; `head`: without the body (the answer to HEAD)."""
    body = error_body(refusal, protocol, request_id)
    head_lines = [
        f"HTTP/1.1 {refusal.status} {REASONS.get(refusal.status, 'Error')}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        f"request-id: {request_id}",
    ]
    if refusal.retry_after_s is not None:
        head_lines.append(f"retry-after: {refusal.retry_after_s}")
    if refusal.status == 401:
        head_lines.append('www-authenticate: Bearer realm="tokenworks"')
    if refusal.status == 402:
        # SDKs retry statuses that they do not know; a retry cannot succeed before a payment.
        head_lines.append("x-should-retry: false")
    options = ["close"] if close else []
    if refusal.status == 426:
        # RFC 9110, 15.5.22: the protocols that the server accepts.
        head_lines.append("upgrade: HTTP/1.1")
        options.append("upgrade")
    if options:
        head_lines.append("connection: " + ", ".join(options))
    response_head = "\r\n".join(head_lines).encode() + b"\r\n" + refusal.lines + lines + b"\r\n"
    return response_head if head else response_head + body


def error_event(refusal: Refusal, protocol: str, request_id: str) -> bytes:
    """The refusal as an event of a stream that has begun."""
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
    """The last events of a stream that the gateway cuts: a finish reason as for a length limit, then the refusal. `refusal` is None if
    the stream reached the client's own maximum.
    """
    answer_id = upstream_id or request_id
    error = b"" if refusal is None else error_event(refusal, protocol, request_id)

    def data(content: object, event: str | None = None) -> bytes:
        event_line = b"" if event is None else f"event: {event}\n".encode()
        return event_line + b"data: " + json.dumps(content).encode() + b"\n\n"

    if protocol == "messages":
        last = data(
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
             "usage": {"output_tokens": output_tokens}},
            "message_delta",
        )  # fmt: skip
        return last + (error or data({"type": "message_stop"}, "message_stop"))
    if protocol == "responses":
        response = {
            "id": answer_id, "object": "response", "status": "incomplete", "model": model, "output": [],
            "incomplete_details": {"reason": "max_output_tokens"},
        }  # fmt: skip
        last = data({"type": "response.incomplete", "response": response}, "response.incomplete")
        return last + error
    choice: dict[str, object] = {"index": 0, "finish_reason": "length", "delta": {}}
    if protocol == "completions":
        choice = {"index": 0, "finish_reason": "length", "text": ""}
    kind = "text_completion" if protocol == "completions" else "chat.completion.chunk"
    last = data({"id": answer_id, "object": kind, "created": 0, "model": model, "choices": [choice]})
    return last + error + b"data: [DONE]\n\n"
