"""Tells answers from faults. A status of 200 is no proof of success: upstreams send errors in many forms, in bodies and streams.

A body is an answer if it has the fields that its protocol requires of an answer. Every other body is a fault, with the code and
message that it contains (docs/METERING.md lists the forms).
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tokenworks.gateway.protocol.usage import (
    BOM,
    UNREADABLE,
    Usage,
    body_usage,
    known_id,
    later_usage,
    read_anthropic,
    read_openai,
)
from tokenworks.gateway.protocol.vendor_errors import (
    CODE_CHARS_MAX,
    Fault,
    clean_text,
    kind_of,
    wait_in_message,
    wait_s,
)

__all__ = [
    "FAULTY_FINISHES",
    "FILTERED",
    "FILTERED_FINISHES",
    "Answer",
    "Fault",
    "fault_of_body",
    "fault_of_event",
    "read_body",
    "read_fault",
]

_any: Final = msgspec.json.Decoder()
# Finish reasons of an engine that failed during the answer (OpenRouter, Mistral, LMDeploy; Zhipu; DeepSeek).
FAULTY_FINISHES: Final = frozenset({"error", "network_error", "insufficient_system_resource"})
# The finish reason of an aborted request (SGLang, LMDeploy): with content it is an answer, without content a fault.
_ABORTED: Final = "abort"
_PLAIN_FINISHES: Final = ("stop", "length", "tool_calls", "function_call", "content_filter")
# Finish reasons of an answer that the provider's content filter ended (OpenAI; Zhipu; Anthropic).
FILTERED_FINISHES: Final = frozenset({"content_filter", "sensitive", "refusal"})
# The same in the bytes of a whole answer. Inside a JSON text the quotes would be escaped.
FILTERED: Final = re.compile(
    rb'"(?:finish_reason|stop_reason|reason)"\s{0,4}:\s{0,4}"(?:content_filter|sensitive|refusal)"'
)
_FAILED: Final = frozenset({"failed", "error", "cancelled"})
_GOOD_CODES: Final = frozenset({"", "0", "200", "ok", "success", "none", "null"})
_MESSAGES: Final = (
    "message",
    "msg",
    "detail",
    "error_msg",
    "errmsg",
    "status_msg",
    "error_message",
    "reason",
)
_CODES: Final = ("code", "type", "error_type", "error_code", "errcode", "status_code", "status")
_WAITS: Final = ("retry_after", "retry_after_seconds", "retryAfter", "retryDelay", "retry_delay")
_DEPTH_MAX: Final = 4


_Json = object
"""A decoded value of any JSON type. (`_Body` has a field `object`, which hides the built-in name in its annotations.)"""


class _Choice(msgspec.Struct, gc=False):
    finish_reason: _Json = None
    error: _Json = None


class _Body(msgspec.Struct, gc=False):
    id: _Json = None
    model: _Json = None
    usage: _Json = None
    error: _Json = None
    errors: _Json = None
    object: _Json = None
    type: _Json = None
    base_resp: _Json = None
    code: _Json = None
    success: _Json = None
    status: _Json = None
    choices: list[_Choice] | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    content: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")


_body: Final = msgspec.json.Decoder(_Body)


class Answer(NamedTuple):
    """The reading of a whole answer: its fault or None, its usage (None if it reports none), the upstream's id, and the value of
    its top-level `model`, if that was read.
    """

    fault: Fault | None
    usage: Usage | None
    upstream_id: str | None
    model: object = None


def read_body(status: int, body: bytes, protocol: str) -> Answer:
    """`fault_of_body` and `body_usage` with a single decode; a fault's usage is read, too."""
    body = body.removeprefix(BOM)
    try:
        answer = _body.decode(body)
    except UNREADABLE:
        return Answer(fault_of_body(status, body, protocol), *body_usage(body, protocol))
    plain = status < 400 and _is_plain_answer(answer, protocol)
    fault = None if plain else fault_of_body(status, body, protocol)
    if protocol == "messages":
        usage = read_anthropic(answer.usage)
    else:
        usage = read_openai(answer.usage, input_only=protocol == "embeddings")
        if usage is None:
            return Answer(fault, *body_usage(body, protocol))
    return Answer(fault, later_usage(None, usage), known_id(answer.id), answer.model)


def _is_plain_answer(answer: _Body, protocol: str) -> bool:
    """True if the top-level fields alone prove that the body is an answer; False means that it needs a full reading."""
    if (
        answer.error
        or answer.errors
        or answer.base_resp is not None
        or answer.code is not None
        or answer.success is False
        or answer.object == "error"
        or answer.type == "error"
    ):
        return False
    if protocol in {"chat", "completions"}:
        if not answer.choices:
            return False
        for choice in answer.choices:
            finish = choice.finish_reason
            if choice.error or not (finish is None or finish in _PLAIN_FINISHES):
                return False
        return True
    if protocol == "responses":
        return answer.status in ("completed", "incomplete") and _is_list(answer.output)
    return _is_list(answer.data if protocol == "embeddings" else answer.content)


def _is_list(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["


def fault_of_body(status: int, body: bytes, protocol: str) -> Fault | None:
    """The fault in a whole body, or None if the body is an answer."""
    body = body.removeprefix(BOM)
    try:
        if status < 400 and _is_plain_answer(_body.decode(body), protocol):
            return None
    except UNREADABLE:
        pass  # fields of unexpected types are read leniently below
    try:
        content = _any.decode(body)
    except UNREADABLE:
        return read_fault(status, None, "")
    if status < 400:
        found = _fault_in(content, protocol)
        if found is not None or _is_answer(content, protocol):
            return found
    return read_fault(status, content if isinstance(content, dict) else {"error": content}, "")


def fault_of_event(payload: bytes, protocol: str) -> Fault | None:
    """The fault in one event of a stream (its data lines, joined); None if it contains none or is unreadable."""
    try:
        content = _any.decode(payload)
    except UNREADABLE:
        return None
    return _fault_in(content, protocol)


def _fault_in(content: object, protocol: str) -> Fault | None:
    """The fault that decoded JSON reports by its own fields; None if it reports none."""
    if not isinstance(content, dict):
        return None
    if _reports_error(content):
        return read_fault(200, content, "")
    if protocol == "responses":
        nested = content.get("response")
        response = nested if isinstance(nested, dict) else content
        if (
            response.get("error")
            or _text(response.get("status")) in _FAILED
            or content.get("type") == "response.failed"
        ):
            return read_fault(200, response, "")
    if protocol in {"chat", "completions"}:
        return _fault_in_choices(content.get("choices"))
    return None


def _reports_error(content: Mapping[str, object]) -> bool:
    base = content.get("base_resp")
    if isinstance(base, dict) and not _is_good(base.get("status_code")):
        return True
    if content.get("error") or content.get("object") == "error" or content.get("type") == "error":
        return True
    if isinstance(content.get("errors"), list) and content["errors"]:
        return True
    # Errors of web frameworks: {"code": 500, "msg": …}, {"success": false}. An answer may have such fields beside its parts.
    if any(
        content.get(part) for part in ("choices", "output", "data", "content", "delta", "response", "usage")
    ):
        return False
    named = not _is_good(content.get("code")) and any(content.get(name) for name in _MESSAGES)
    return named or content.get("success") is False


def _is_good(code: object) -> bool:
    return code is None or str(code).lower() in _GOOD_CODES


def _fault_in_choices(choices: object) -> Fault | None:
    """The first choice's fault if every choice of the answer failed."""
    if not isinstance(choices, list) or not choices:
        return None
    faults = [_fault_in_choice(choice) for choice in choices]
    return faults[0] if all(faults) else None


def _fault_in_choice(choice: object) -> Fault | None:
    if not isinstance(choice, dict):
        return None
    finish = _text(choice.get("finish_reason"))
    if choice.get("error") or finish in FAULTY_FINISHES:
        return read_fault(200, choice, finish)
    if finish == _ABORTED and "delta" not in choice and not _has_content(choice):
        return read_fault(200, choice, _ABORTED)
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _has_content(choice: Mapping[str, object]) -> bool:
    nested = choice.get("message")
    message = nested if isinstance(nested, dict) else choice
    return any(
        message.get(name) for name in ("content", "text", "tool_calls", "reasoning_content", "reasoning")
    )


def _is_answer(content: object, protocol: str) -> bool:
    """True if the decoded body has the fields that its protocol requires of an answer."""
    if not isinstance(content, dict):
        return False
    if protocol in {"chat", "completions"}:
        choices = content.get("choices")
        return isinstance(choices, list) and any(isinstance(choice, dict) for choice in choices)
    if protocol == "embeddings":
        return isinstance(content.get("data"), list) or isinstance(content.get("embeddings"), list)
    if protocol == "messages":
        # The answer of `count_tokens` has the count and no content.
        return isinstance(content.get("content"), list) or "input_tokens" in content
    return isinstance(content.get("output"), list) or _text(content.get("status")) in {
        "completed", "incomplete", "queued", "in_progress",
    }  # fmt: skip


def read_fault(status: int, content: Mapping[str, object] | None, finish: str) -> Fault:
    """The fault that an error's body or event reports. If `status` is a success, the error's code gives the status, else 502."""
    code, message, after_s, code_status = "", "", None, None
    if content is not None:
        fields = _ErrorFields()
        fields.read(content, 0)
        code, message, after_s, code_status = (
            " ".join(fields.codes),
            fields.message,
            fields.after_s,
            fields.status,
        )
    status = status if status >= 400 else code_status or 0
    kind = kind_of(status, code or finish, message)
    first_code = code.split(" ")[0] or finish
    if after_s is None and kind in {"rate", "overloaded"}:
        after_s = wait_in_message(message)
    if kind == "context":
        kind, first_code = "client", "context_length_exceeded"
    if kind in {"client", "moderation"} and not 400 <= status < 500:
        status = 400
    return Fault(kind, status or 502, clean_text(first_code, CODE_CHARS_MAX), clean_text(message), after_s)


class _ErrorFields:
    """The codes, the message, the wait and the status of an error, collected from every field in which vendors put them."""

    __slots__ = ("after_s", "codes", "message", "status")

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.message = ""
        self.after_s: float | None = None
        self.status: int | None = None

    def read(self, content: object, depth: int) -> None:
        """Collect the fields of an error. The innermost error is the most specific, so it is read first."""
        if depth > _DEPTH_MAX:
            return
        if isinstance(content, str):
            self.message = self.message or content
            return
        if isinstance(content, list):
            for item in content[:1]:
                self.read(item, depth + 1)
            return
        if not isinstance(content, dict):
            return
        for name in ("error", "base_resp", "errors", "innererror", "details", "metadata", "response"):
            if name in content:
                self.read(content[name], depth + 1)
        for name in _CODES:
            self._code(content.get(name))
        for name in _MESSAGES:
            value = content.get(name)
            if isinstance(value, str):
                self.message = self.message or value
            elif value:
                self.read(value, depth + 1)
        for name in _WAITS:
            value = content.get(name)
            if self.after_s is None and isinstance(value, int | float | str) and not isinstance(value, bool):
                self.after_s = wait_s(str(value), 0.0)

    def _code(self, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return
        if isinstance(value, str) and value in {"error", "message", "response.failed"}:
            return
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if text and len(self.codes) < 8:
            self.codes.append("_".join(text[:CODE_CHARS_MAX].split()))
        if self.status is None and text.isascii() and text.isdigit() and 400 <= int(text[:9]) <= 599:
            self.status = int(text)
