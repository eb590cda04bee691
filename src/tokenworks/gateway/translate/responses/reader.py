"""Reads the events of a stream of responses.

A stream repeats each text up to four times: in pieces, whole, in its item, and in the response. A piece is passed on as it comes, and of a
whole text only what the pieces did not have (as the meter counts them, `protocol/responses.py`). Items of the provider's own tools are read
as nothing. A stream that fails has no end: the gateway tells the client itself.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE, read_openai
from tokenworks.gateway.translate.form import Begin, Delta, End, Event, Finish, JsonObject, UsageReport
from tokenworks.gateway.translate.responses.answers import answer_id_of, created_of, stop_of
from tokenworks.gateway.translate.responses.reader_items import (
    CallItem,
    Item,
    MessageItem,
    PartNumbers,
    ReasoningItem,
)
from tokenworks.gateway.translate.responses.shapes import ResponsesEvent
from tokenworks.gateway.translate.responses.values import list_of, object_of, text_of, whole_of

# Items beyond this number are not read.
ITEMS_MAX: Final = 4096
_NOTHING: Final[tuple[Event, ...]] = ()
_TEXT_PIECE: Final = "response.output_text.delta"
# What an event is about, by its type without `response.` and `.delta` or `.done`: the kind of its item.
_KINDS: Final = {
    "output_text": "message", "refusal": "message", "content_part": "message",
    "reasoning_summary_text": "reasoning", "reasoning_text": "reasoning", "reasoning_summary_part": "reasoning",
    "function_call_arguments": "call", "custom_tool_call_input": "call",
}  # fmt: skip
_ITEM_KINDS: Final[dict[str | None, str]] = {
    "message": "message", "reasoning": "reasoning", "function_call": "call", "custom_tool_call": "call",
}  # fmt: skip
# The kind of the item, and what the event is about, by the type of a part of content.
_CONTENTS: Final[dict[str | None, tuple[str, str]]] = {
    "output_text": ("message", "output_text"),
    "refusal": ("message", "refusal"),
    "reasoning_text": ("reasoning", "reasoning_text"),
}
_BEGINNINGS: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete"})
_FAILURES: Final = frozenset({"error", "response.failed", "response.cancelled"})
_HEAD: Final = "response."
_event: Final = msgspec.json.Decoder(ResponsesEvent)
_any: Final = msgspec.json.Decoder()


class ResponsesReader:
    """Implements `codec.EventReader`."""

    __slots__ = ("_begun", "_by_id", "_called", "_ended", "_items", "_numbers")

    def __init__(self) -> None:
        self._begun = False
        self._ended = False
        self._called = False
        # By `output_index`, or by id where an event has no index.
        self._items: dict[object, Item] = {}
        self._by_id: dict[str, Item] = {}
        self._numbers = PartNumbers()

    def read(self, name: str, payload: bytes) -> Sequence[Event]:
        try:
            event = _event.decode(payload)
        except UNREADABLE:
            event = _lenient(payload)
        if self._ended:
            return _NOTHING
        kind = event.type or name
        if kind == _TEXT_PIECE:
            # The usual piece: of a text that is open.
            item = self._items.get(event.output_index)
            delta = event.delta
            if item is not None and delta:
                number = item.open_text(event.content_index)
                if number >= 0:
                    item.count(event.content_index, len(delta))
                    return (Delta(number, delta),)
        return self._unusual(kind, event)

    def finish(self) -> Sequence[Event]:
        """Without the event that ends a response there is no end: what is open is closed."""
        out: list[Event] = []
        if not self._ended:
            self._close(out)
        return out

    def _unusual(self, kind: str, event: ResponsesEvent) -> Sequence[Event]:
        out: list[Event] = []
        if kind in _BEGINNINGS or kind in _ENDINGS:
            response = object_of(event.response) or {}
            self._begin(response, out)
            if kind in _ENDINGS:
                self._end(kind, response, out)
        elif kind in _FAILURES:
            self._close(out)
            self._ended = True
        elif kind in {"response.output_item.added", "response.output_item.done"}:
            fields = object_of(event.item)
            if fields is not None:
                self._begin({}, out)
                self._item(event.output_index, fields, out, done=kind.endswith(".done"))
        elif kind.startswith(_HEAD):
            about, _, action = kind[len(_HEAD) :].rpartition(".")
            of = _KINDS.get(about)
            if of is not None and action in {"delta", "done"}:
                self._begin({}, out)
                self._piece(of, about, event, out, done=action == "done")
        return out

    def _begin(self, response: JsonObject, out: list[Event]) -> None:
        if self._begun:
            return
        self._begun = True
        model = text_of(response.get("model")) or ""
        out.append(Begin(answer_id_of(response.get("id")), model, created_of(response.get("created_at"))))

    def _find(self, index: int | None, item_id: str | None, kind: str) -> Item | None:
        """The item of this kind, made if it is new. None if it is one too many.

        The index counts, since ids change within a stream of some gateways; the id counts where an index is used again, or is missing.
        """
        first = None if index is None else self._items.get(index)
        if first is not None and first.kind == kind and (not first.done or item_id in {None, first.item_id}):
            return first
        item = None if item_id is None or (first is None and index is not None) else self._by_id.get(item_id)
        if item is not None and item.kind == kind:
            return item
        key: object = index if first is None and index is not None else (index, item_id, kind)
        item = self._items.get(key)
        if item is not None or len(self._items) >= ITEMS_MAX:
            return item
        if kind == "message":
            item = MessageItem(self._numbers)
        elif kind == "reasoning":
            item = ReasoningItem(self._numbers)
        elif kind == "call":
            item = CallItem(self._numbers)
        else:
            item = Item(self._numbers, kind)
        self._items[key] = item
        self._know(item, item_id)
        return item

    def _know(self, item: Item, item_id: str | None) -> None:
        if item_id is not None and len(self._by_id) < ITEMS_MAX:
            item.item_id = item.item_id or item_id
            self._by_id.setdefault(item_id, item)

    def _piece(self, of: str, about: str, event: ResponsesEvent, out: list[Event], *, done: bool) -> None:
        """Read an event about a part of an item's content."""
        part = object_of(event.part) or {}
        if about == "content_part":
            of, about = _CONTENTS.get(text_of(part.get("type")), (of, about))
        item = self._find(event.output_index, event.item_id, of)
        if item is None:
            return
        at = event.summary_index if about.startswith("reasoning_summary") else event.content_index
        if not done:
            if event.delta:
                item.piece(about, at, event.delta, out)
            return
        whole = event.text or event.refusal or event.arguments or event.input
        whole = whole or text_of(part.get("text")) or text_of(part.get("refusal"))
        if whole:
            item.whole(about, at, whole, out)
        if part:
            item.part_done(at, out)

    def _item(self, index: int | None, fields: JsonObject, out: list[Event], *, done: bool) -> None:
        """Read an item that begins or is done."""
        kind = _ITEM_KINDS.get(text_of(fields.get("type")), "other")
        item_id = text_of(fields.get("id"))
        item = self._find(index, item_id, kind)
        if item is None:
            return
        self._know(item, item_id)
        item.take(fields, out, done=done)
        self._called = self._called or (isinstance(item, CallItem) and item.number >= 0)

    def _end(self, kind: str, response: JsonObject, out: list[Event]) -> None:
        seen = {item.kind for item in self._items.values()}
        for index, value in enumerate(list_of(response.get("output"))):
            fields = object_of(value) or {}
            known = self._items.get(index)
            # An item that the stream did not have, where it had others of its kind, is one of those under another id or index.
            new = _ITEM_KINDS.get(text_of(fields.get("type")), "other") not in seen
            if new if known is None else not known.done:
                self._item(index, fields, out, done=True)
        self._close(out)
        status = text_of(response.get("status"))
        if status not in {"completed", "incomplete"}:
            response = {**response, "status": kind[len(_HEAD) :]}
        stop = stop_of(response, called=self._called)
        assert stop is not None
        out.append(Finish(stop))
        usage = read_openai(response.get("usage"))
        if usage is not None:
            out.append(UsageReport(usage.counts))
        out.append(End())
        self._ended = True

    def _close(self, out: list[Event]) -> None:
        for item in self._items.values():
            item.close(out)


def _lenient(payload: bytes) -> ResponsesEvent:
    """The readable fields of an event in which some have unexpected types; an empty event if it is no JSON object."""
    try:
        fields = object_of(_any.decode(payload)) or {}
    except UNREADABLE:
        fields = object_of(_repaired(payload)) or {}
    return ResponsesEvent(
        type=text_of(fields.get("type")) or "",
        item_id=text_of(fields.get("item_id")),
        output_index=whole_of(fields.get("output_index")),
        content_index=whole_of(fields.get("content_index")),
        summary_index=whole_of(fields.get("summary_index")),
        delta=text_of(fields.get("delta")),
        text=text_of(fields.get("text")),
        refusal=text_of(fields.get("refusal")),
        arguments=text_of(fields.get("arguments")),
        input=text_of(fields.get("input")),
        item=fields.get("item"),
        part=fields.get("part"),
        response=fields.get("response"),
    )


def _repaired(payload: bytes) -> object:
    """JSON with halves of surrogate pairs, which the strict decoder refuses: each half is the replacement character. None if it is
    no JSON. A vendor that cuts its pieces anywhere sends such halves.
    """
    try:
        text = json.dumps(json.loads(payload), ensure_ascii=False)
        return _any.decode(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, *UNREADABLE):
        return None
