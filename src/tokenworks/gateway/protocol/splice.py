"""Changes an answer's bytes in place. The rest of the bytes stays as the upstream sent it wherever that is possible."""

import re
from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import BOM, UNREADABLE

_any: Final = msgspec.json.Decoder()
_NOTHING: Final = msgspec.Raw(b"")
_USAGE_KEY: Final = b'"usage"'
_FLAT_USAGE: Final = b',"usage":{'
_AFTER_KEY: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_COMMA_BEFORE: Final = re.compile(rb",[ \t\r\n]*$")
_COMMA_AFTER: Final = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_LINES: Final = re.compile(rb"\r\n|\n|\r")


class _Usage(msgspec.Struct, gc=False):
    usage: msgspec.Raw = _NOTHING


class _Model(msgspec.Struct, gc=False):
    model: msgspec.Raw = _NOTHING


class _NestedModel(msgspec.Struct, gc=False):
    response: _Model | None = None
    message: _Model | None = None


_usage: Final = msgspec.json.Decoder(_Usage)
_model: Final = msgspec.json.Decoder(_Model)
_nested_model: Final = msgspec.json.Decoder(_NestedModel)


def payload_of(event: bytes) -> bytes:
    """The data lines of an event, joined by line feeds (WHATWG HTML, 9.2.6)."""
    lines = _LINES.split(event.removeprefix(BOM))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def without_usage(event: bytes, payload: bytes) -> bytes:
    """The event without its top-level `usage`; `payload` is the event's data, an object that has one."""
    at = event.find(_FLAT_USAGE)
    if at >= 0 and event.find(_USAGE_KEY) == at + 1 and event.find(_USAGE_KEY, at + 2) < 0:
        # The form in which engines write it in every chunk: an object of numbers only.
        end = event.find(b"}", at) + 1
        value = event[at + len(_FLAT_USAGE) : end]
        if b"{" not in value and b':"' not in value and b'": "' not in value:
            return event[:at] + event[end:]
    try:
        raw = bytes(_usage.decode(payload).usage)
    except UNREADABLE:
        return _reencoded_without_usage(event, payload)
    at = event.rfind(_USAGE_KEY)
    only = event.count(_USAGE_KEY) == 1
    while at >= 0:
        gap = _AFTER_KEY.match(event, at + len(_USAGE_KEY))
        if gap is not None and event.startswith(raw, gap.end()):
            cut = _cut(event, at, gap.end() + len(raw))
            # A vendor may report the same usage at two depths (Groq). The cut was right if no top-level usage is left.
            if only or _usage_left(cut) == b"":
                return cut
        at = event.rfind(_USAGE_KEY, 0, at)
    return _reencoded_without_usage(event, payload)


def _cut(event: bytes, begin: int, end: int) -> bytes:
    """The event without one member of an object and one comma beside it."""
    before = _COMMA_BEFORE.search(event, max(0, begin - 16), begin)
    if before is not None:
        return event[: before.start()] + event[end:]
    after = _COMMA_AFTER.match(event, end)
    return event[:begin] + event[end if after is None else after.end() :]


def _usage_left(event: bytes) -> bytes | None:
    try:
        return bytes(_usage.decode(payload_of(event)).usage)
    except UNREADABLE:
        return None


def _reencoded_without_usage(event: bytes, payload: bytes) -> bytes:
    """The event without `usage`, its data encoded again: for an event with the field twice, or with escapes in its name."""
    try:
        content = _any.decode(payload)
    except UNREADABLE:
        return event
    if not isinstance(content, dict):
        return event
    for fields in (content, content.get("response"), content.get("message")):
        if isinstance(fields, dict):
            fields.pop("usage", None)
    return with_payload(event, msgspec.json.encode(content))


def with_payload(event: bytes, payload: bytes) -> bytes:
    """The event with another payload: its lines without data, unchanged, then the payload."""
    end = b"\r\n" if b"\r\n" in event else b"\n"
    lines = [line for line in _LINES.split(event) if line and not line.startswith(b"data:")]
    return end.join([*lines, b"data: " + payload]) + end * 2


def model_name(payload: bytes) -> tuple[bytes, bytes] | None:
    """(the model's name, the member `"model": …`), both as written in the payload; None if it names no model."""
    try:
        raw = bytes(_model.decode(payload).model)
        if not raw.startswith(b'"'):
            nested = _nested_model.decode(payload)
            holder = nested.response or nested.message
            raw = b"" if holder is None else bytes(holder.model)
    except UNREADABLE:
        return None
    if not raw.startswith(b'"') or raw == b'""':
        return None
    match = re.search(rb'"model"[ \t\r\n]*:[ \t\r\n]*' + re.escape(raw), payload)
    return None if match is None else (raw, match.group())


def body_with_model(body: bytes, requested_model: str) -> bytes:
    """A whole answer with the model's name replaced by the name that the client requested."""
    found = model_name(body.removeprefix(BOM))
    if found is None:
        return body
    raw, member = found
    requested = msgspec.json.encode(requested_model)
    return body if raw == requested else body.replace(member, member[: -len(raw)] + requested)
