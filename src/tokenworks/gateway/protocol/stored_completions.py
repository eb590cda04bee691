"""Stored chat completions as JSON, without I/O: what is kept of one, a stream put together, and what a client reads. Values are passed on as
they came; only what is changed is decoded.

Shapes: developers.openai.com, API reference, "Chat completions": get, delete, get messages (2026-11).
"""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE
from tokenworks.gateway.protocol.fields.layout import RawObject
from tokenworks.gateway.protocol.fields.scan import any_decoder, items_decoder, object_decoder
from tokenworks.gateway.protocol.stored import (
    PLACE_DIGITS_MAX,
    ItemsPage,
    StoredResponse,
    events_in,
    is_readable_id,
    list_body,
    object_places,
    shown_places,
    text_in,
    whole_response,
)

_encode: Final = msgspec.json.encode
_NULL: Final = msgspec.Raw(b"null")
_EMPTY: Final = msgspec.Raw(b"{}")
_OBJECT: Final = msgspec.Raw(b'"chat.completion"')
# Of a delta: texts that are put together, in this order.
_TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")


def messages_of(value: msgspec.Raw) -> list[msgspec.Raw]:
    """The messages of a request. Raises `ValueError` (of msgspec) for any other value."""
    return items_decoder.decode(value)


def completion_id(fields: RawObject) -> str | None:
    """The id of a completion that can be stored; None if these fields are of none."""
    name = text_in(fields, "id")
    try:
        items_decoder.decode(fields.get("choices", b"null"))
    except (*UNREADABLE, msgspec.ValidationError):
        return None
    return name if is_readable_id(name) else None


def encode_completion(completion: RawObject, messages: list[msgspec.Raw], metadata: msgspec.Raw) -> bytes:
    """What is kept of a completion, in the form of a stored response, so that one reader reads both."""
    return _encode({"response": completion | {"metadata": metadata}, "input": messages})


def deleted_body(name: str) -> bytes:
    return _encode({"object": "chat.completion.deleted", "id": name, "deleted": True})


def messages_body(stored: StoredResponse, page: ItemsPage) -> bytes | None:
    """A part of the messages of the request; None if it has no message `page.after`. Each has an id of its place. Only the messages of
    this part are read.
    """
    name = text_in(stored.fields, "id")
    places = object_places(stored.items)
    first = 0
    if page.after:
        number = page.after.removeprefix(f"{name}-")
        at = int(number) if number.isascii() and number.isdigit() and len(number) <= PLACE_DIGITS_MAX else -1
        if page.after != f"{name}-{at}" or at not in places:
            return None
        first = places.index(at) + 1
    shown, has_more = shown_places(places, first, page)
    listed = [
        (whole_response(bytes(stored.items[place])) or {}) | {"id": msgspec.Raw(_encode(f"{name}-{place}"))}
        for place in shown
    ]
    return list_body(listed, has_more=has_more)


def streamed_completion(events: bytes) -> RawObject | None:
    """The completion of a whole stream, as its client put it together; None if the stream has no choice."""
    base: RawObject = {}
    usage = _NULL
    choices: dict[int, _Choice] = {}
    for chunk in events_in(events):
        if not base and "choices" in chunk:
            base = {
                name: value for name, value in chunk.items() if name not in {"choices", "usage", "object"}
            }
        if "usage" in chunk and chunk["usage"] != _NULL:
            usage = chunk["usage"]
        for part in _objects(chunk.get("choices")):
            number = _whole(part.get("index"))
            choices.setdefault(number, _Choice()).add(part)
    if not base or not choices:
        return None
    made = [choices[number].whole(number) for number in sorted(choices)]
    return base | {"object": _OBJECT, "choices": msgspec.Raw(_encode(made)), "usage": usage}


class _Choice:
    """One choice of a stream: its texts, its calls of tools, and how it ended."""

    __slots__ = ("_calls", "_finish", "_role", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, str]] = {}
        self._finish = _NULL
        self._role = "assistant"

    def add(self, part: RawObject) -> None:
        finish = part.get("finish_reason", _NULL)
        if finish != _NULL:
            self._finish = finish
        delta = whole_response(bytes(part.get("delta", _EMPTY)))
        if delta is None:
            return
        self._role = text_in(delta, "role") or self._role
        for name in _TEXTS:
            text = text_in(delta, name)
            if text:
                self._texts.setdefault(name, []).append(text)
        for call in _objects(delta.get("tool_calls")):
            known = self._calls.setdefault(
                _whole(call.get("index")), {"id": "", "type": "", "name": "", "arguments": ""}
            )
            function = whole_response(bytes(call.get("function", _EMPTY))) or {}
            known["id"] = text_in(call, "id") or known["id"]
            known["type"] = text_in(call, "type") or known["type"]
            known["name"] += text_in(function, "name")
            known["arguments"] += text_in(function, "arguments")

    def whole(self, number: int) -> dict[str, object]:
        message: dict[str, object] = {"role": self._role, "content": None}
        for name, pieces in self._texts.items():
            message[name] = "".join(pieces)
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": call["type"] or "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for _, call in sorted(self._calls.items())
            ]
        return {"index": number, "message": message, "logprobs": None, "finish_reason": self._finish}


def _objects(value: msgspec.Raw | None) -> list[RawObject]:
    """The objects of a list; none of any other value."""
    if value is None:
        return []
    try:
        return [object_decoder.decode(item) for item in items_decoder.decode(value)]
    except (*UNREADABLE, msgspec.ValidationError):
        return []


def _whole(value: msgspec.Raw | None) -> int:
    """A number of a choice or a call; 0 if it has none."""
    try:
        found = None if value is None else any_decoder.decode(value)
    except UNREADABLE:  # of a number without an end, such as 1e999
        return 0
    return found if isinstance(found, int) else 0
