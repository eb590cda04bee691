"""Whether an answer is one. A status of 200 is no success: errors come in a dozen shapes, in bodies and in streams.

An answer is what has the parts that its protocol gives an answer; anything else is a fault, named where it says what it
is (docs/METERING.md lists the shapes).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

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
    wait_s,
    wait_said,
)

__all__ = [
    "FAULTY_FINISHES",
    "FILTERED",
    "FILTERED_FINISHES",
    "Answer",
    "Fault",
    "fault_of_body",
    "fault_of_event",
    "fault_said",
    "read_body",
]

_any: Final = msgspec.json.Decoder()
# Finish reasons by which an engine says that it broke off (OpenRouter, Mistral, LMDeploy; Zhipu; DeepSeek).
FAULTY_FINISHES: Final = frozenset({"error", "network_error", "insufficient_system_resource"})
# An engine was told to stop: what it made until then is an answer, and nothing is none (SGLang, LMDeploy).
_ABORTED: Final = "abort"
_PLAIN_FINISHES: Final = ("stop", "length", "tool_calls", "function_call", "content_filter")
# Finish reasons by which the provider's filter ended an answer (OpenAI; Zhipu; Anthropic).
FILTERED_FINISHES: Final = frozenset({"content_filter", "sensitive", "refusal"})
# The same in the bytes of a whole answer. Inside a text the quotes would be escaped.
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


class _Choice(msgspec.Struct, gc=False):
    finish_reason: Any = None
    error: Any = None


class _Body(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None
    errors: Any = None
    object: Any = None
    type: Any = None
    base_resp: Any = None
    code: Any = None
    success: Any = None
    status: Any = None
    choices: list[_Choice] | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    content: msgspec.Raw = msgspec.Raw(b"")
    output: msgspec.Raw = msgspec.Raw(b"")


_body: Final = msgspec.json.Decoder(_Body)


class Answer(NamedTuple):
    """What a whole answer is: a fault, or usage (None where it says none) and the upstream's id of it; its model's name where that
    stands at the top and was read.
    """

    fault: Fault | None
    usage: Usage | None
    upstream_id: str | None
    model: Any = None


def read_body(status: int, body: bytes, protocol: str) -> Answer:
    """`fault_of_body` and `body_usage` in one look; usage is read of a fault, too."""
    body = body.removeprefix(BOM)
    try:
        read = _body.decode(body)
    except UNREADABLE:
        return Answer(fault_of_body(status, body, protocol), *body_usage(body, protocol))
    plain = status < 400 and _is_plain_answer(read, protocol)
    fault = None if plain else fault_of_body(status, body, protocol)
    if protocol == "messages":
        usage = read_anthropic(read.usage)
    else:
        usage = read_openai(read.usage, input_only=protocol == "embeddings")
        if usage is None:
            return Answer(fault, *body_usage(body, protocol))
    return Answer(fault, later_usage(None, usage), known_id(read.id), read.model)


def _is_plain_answer(read: _Body, protocol: str) -> bool:
    """Whether it is an answer by a look at its fields, without reading what is in them; False where it may be one."""
    if (
        read.error
        or read.errors
        or read.base_resp is not None
        or read.code is not None
        or read.success is False
        or read.object == "error"
        or read.type == "error"
    ):
        return False
    if protocol in {"chat", "completions"}:
        if not read.choices:
            return False
        for choice in read.choices:
            finish = choice.finish_reason
            if choice.error or not (finish is None or finish in _PLAIN_FINISHES):
                return False
        return True
    if protocol == "responses":
        return read.status in ("completed", "incomplete") and _is_list(read.output)
    return _is_list(read.data if protocol == "embeddings" else read.content)


def _is_list(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["


def fault_of_body(status: int, body: bytes, protocol: str) -> Fault | None:
    """The fault in a whole answer, None where it is an answer."""
    body = body.removeprefix(BOM)
    try:
        if status < 400 and _is_plain_answer(_body.decode(body), protocol):
            return None
    except UNREADABLE:
        pass  # what is not as usual is read leniently
    try:
        content = _any.decode(body)
    except UNREADABLE:
        return fault_said(status, None, "")
    if status < 400:
        found = _fault_in(content, protocol)
        if found is not None or _is_answer(content, protocol):
            return found
    return fault_said(status, content if isinstance(content, dict) else {"error": content}, "")


def fault_of_event(payload: bytes, protocol: str) -> Fault | None:
    """The fault in one event of a stream (the data lines, joined), None where it is none or cannot be read."""
    try:
        content = _any.decode(payload)
    except UNREADABLE:
        return None
    return _fault_in(content, protocol)


def _fault_in(content: Any, protocol: str) -> Fault | None:
    """What says of itself that it is an error."""
    if not isinstance(content, dict):
        return None
    if _says_error(content):
        return fault_said(200, content, "")
    response = content.get("response")
    if protocol == "responses":
        said = response if isinstance(response, dict) else content
        if (
            said.get("error")
            or _text(said.get("status")) in _FAILED
            or content.get("type") == "response.failed"
        ):
            return fault_said(200, said, "")
    if protocol in {"chat", "completions"}:
        return _fault_in_choices(content.get("choices"))
    return None


def _says_error(content: Mapping[str, Any]) -> bool:
    base = content.get("base_resp")
    if isinstance(base, dict) and not _is_good(base.get("status_code")):
        return True
    if content.get("error") or content.get("object") == "error" or content.get("type") == "error":
        return True
    if isinstance(content.get("errors"), list) and content["errors"]:
        return True
    # Frameworks' own: {"code": 500, "msg": …}, {"success": false}. An answer has its parts beside such fields.
    if any(
        content.get(part) for part in ("choices", "output", "data", "content", "delta", "response", "usage")
    ):
        return False
    named = not _is_good(content.get("code")) and any(content.get(name) for name in _MESSAGES)
    return named or content.get("success") is False


def _is_good(code: Any) -> bool:
    return code is None or str(code).lower() in _GOOD_CODES


def _fault_in_choices(choices: Any) -> Fault | None:
    """Where every choice of an answer broke off."""
    if not isinstance(choices, list) or not choices:
        return None
    faults = [_fault_in_choice(choice) for choice in choices]
    return faults[0] if all(faults) else None


def _fault_in_choice(choice: Any) -> Fault | None:
    if not isinstance(choice, dict):
        return None
    finish = _text(choice.get("finish_reason"))
    if choice.get("error") or finish in FAULTY_FINISHES:
        return fault_said(200, choice, finish)
    if finish == _ABORTED and "delta" not in choice and not _shows(choice):
        return fault_said(200, choice, _ABORTED)
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _shows(choice: Mapping[str, Any]) -> bool:
    message = choice.get("message")
    made = message if isinstance(message, dict) else choice
    return any(made.get(name) for name in ("content", "text", "tool_calls", "reasoning_content", "reasoning"))


def _is_answer(content: Any, protocol: str) -> bool:
    """Whether it has the parts of an answer in its protocol."""
    if not isinstance(content, dict):
        return False
    if protocol in {"chat", "completions"}:
        choices = content.get("choices")
        return isinstance(choices, list) and any(isinstance(choice, dict) for choice in choices)
    if protocol == "embeddings":
        return isinstance(content.get("data"), list) or isinstance(content.get("embeddings"), list)
    if protocol == "messages":
        # A count of tokens has its count alone.
        return isinstance(content.get("content"), list) or "input_tokens" in content
    return isinstance(content.get("output"), list) or _text(content.get("status")) in {
        "completed", "incomplete", "queued", "in_progress",
    }  # fmt: skip


def fault_said(status: int, content: Mapping[str, Any] | None, finish: str) -> Fault:
    """The fault that an error's body or event names. A status of success: as its code says, else 502."""
    code, message, after_s, number = "", "", None, None
    if content is not None:
        codes: list[str] = []
        said = _Said(codes)
        said.read(content, 0)
        code, message, after_s, number = " ".join(codes), said.message, said.after_s, said.status
    status = status if status >= 400 else number or 0
    kind = kind_of(status, code or finish, message)
    named = code.split(" ")[0] or finish
    if after_s is None and kind in {"rate", "overloaded"}:
        after_s = wait_said(message)
    if kind == "context":
        kind, named = "client", "context_length_exceeded"
    if kind in {"client", "moderation"} and not 400 <= status < 500:
        status = 400
    return Fault(kind, status or 502, clean_text(named, CODE_CHARS_MAX), clean_text(message), after_s)


class _Said:
    """The codes, the message and the wait of an error, wherever its vendor puts them."""

    __slots__ = ("after_s", "codes", "message", "status")

    def __init__(self, codes: list[str]) -> None:
        self.codes = codes
        self.message = ""
        self.after_s: float | None = None
        self.status: int | None = None

    def read(self, content: Any, depth: int) -> None:
        """The innermost error names it best, so it is read first."""
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

    def _code(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return
        if isinstance(value, str) and value in {"error", "message", "response.failed"}:
            return
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if text and len(self.codes) < 8:
            self.codes.append("_".join(text[:CODE_CHARS_MAX].split()))
        if self.status is None and text.isascii() and text.isdigit() and 400 <= int(text[:9]) <= 599:
            self.status = int(text)
