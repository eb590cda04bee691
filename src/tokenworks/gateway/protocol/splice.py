"""Changes to an answer's bytes at their place: nothing is encoded anew where the bytes can stay as they came."""

import re
from typing import Any, Final

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


class _Named(msgspec.Struct, gc=False):
    model: msgspec.Raw = _NOTHING


class _Inside(msgspec.Struct, gc=False):
    response: _Named | None = None
    message: _Named | None = None


_usage: Final = msgspec.json.Decoder(_Usage)
_named: Final = msgspec.json.Decoder(_Named)
_inside: Final = msgspec.json.Decoder(_Inside)


def payload_of(event: bytes) -> bytes:
    """The data lines of an event, joined (WHATWG HTML, 9.2.6)."""
    lines = _LINES.split(event.removeprefix(BOM))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def without_usage(event: bytes, payload: bytes) -> bytes:
    """An event of a stream without its `usage` at the top; `payload` is its data, which is an object with one."""
    at = event.find(_FLAT_USAGE)
    if at >= 0 and event.find(_USAGE_KEY) == at + 1 and event.find(_USAGE_KEY, at + 2) < 0:
        # As engines write it in every chunk: numbers alone.
        end = event.find(b"}", at) + 1
        value = event[at + len(_FLAT_USAGE) : end]
        if b"{" not in value and b':"' not in value and b'": "' not in value:
            return event[:at] + event[end:]
    try:
        raw = bytes(_usage.decode(payload).usage)
    except UNREADABLE:
        return _anew(event, payload, "usage", None)
    at = event.rfind(_USAGE_KEY)
    only = event.count(_USAGE_KEY) == 1
    while at >= 0:
        gap = _AFTER_KEY.match(event, at + len(_USAGE_KEY))
        if gap is not None and event.startswith(raw, gap.end()):
            cut = _cut(event, at, gap.end() + len(raw))
            # A vendor may report the same usage at two depths (Groq): what is left tells which one it was.
            if only or _usage_left(cut) == b"":
                return cut
        at = event.rfind(_USAGE_KEY, 0, at)
    return _anew(event, payload, "usage", None)


def _cut(event: bytes, begin: int, end: int) -> bytes:
    """Without a member of an object and one of the commas beside it."""
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


def _anew(event: bytes, payload: bytes, name: str, value: Any) -> bytes:
    """The event with its data written anew: where a field is there twice, or its name is written with escapes."""
    try:
        content = _any.decode(payload)
    except UNREADABLE:
        return event
    if not isinstance(content, dict):
        return event
    places = [
        content,
        *(content[inner] for inner in ("response", "message") if isinstance(content.get(inner), dict)),
    ]
    for place in places:
        if value is None:
            place.pop(name, None)
        elif isinstance(place.get(name), str):
            place[name] = value
    return _with_payload(event, msgspec.json.encode(content))


def _with_payload(event: bytes, payload: bytes) -> bytes:
    """The lines of an event that are no data as they came, then the data."""
    end = b"\r\n" if b"\r\n" in event else b"\n"
    lines = [line for line in _LINES.split(event) if line and not line.startswith(b"data:")]
    return end.join([*lines, b"data: " + payload]) + end * 2


def model_name(payload: bytes) -> tuple[bytes, bytes] | None:
    """(the model's name as it is written, `"model":` with it as it stands in the bytes); None where there is none."""
    try:
        raw = bytes(_named.decode(payload).model)
        if not raw.startswith(b'"'):
            inside = _inside.decode(payload)
            named = inside.response or inside.message
            raw = b"" if named is None else bytes(named.model)
    except UNREADABLE:
        return None
    if not raw.startswith(b'"') or raw == b'""':
        return None
    match = re.search(rb'"model"[ \t\r\n]*:[ \t\r\n]*' + re.escape(raw), payload)
    return None if match is None else (raw, match.group())


def body_with_model(body: bytes, requested_model: str) -> bytes:
    """A whole answer with the model's name as it was asked for."""
    found = model_name(body.removeprefix(BOM))
    if found is None:
        return body
    raw, member = found
    asked = msgspec.json.encode(requested_model)
    return body if raw == asked else body.replace(member, member[: -len(raw)] + asked)
