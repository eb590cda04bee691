"""Stored responses as JSON, without I/O: what is kept of a response and its conversation, the request that continues one, and the lists
that a client reads. Values are passed on as they came; only what is changed is decoded.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.errors import UNREADABLE
from tokenworks.gateway.protocol.fields.layout import RawObject, carries
from tokenworks.gateway.protocol.fields.scan import any_decoder, items_decoder, object_decoder
from tokenworks.gateway.protocol.item_ids import ids_of

PREVIOUS: Final = "previous_response_id"
# What the routes of stored responses take: what has another id could not be read or deleted.
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
ITEMS_LIMIT: Final = 20
ITEMS_LIMIT_MAX: Final = 100
PLACE_DIGITS_MAX: Final = 9
_encode: Final = msgspec.json.encode
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TRUE: Final = msgspec.Raw(b"true")
_FALSE: Final = msgspec.Raw(b"false")
_NULL: Final = msgspec.Raw(b"null")
_NOTHING: Final = msgspec.Raw(b"[]")
_REASONING: Final = msgspec.Raw(b'"reasoning"')
_COMPACTION: Final = msgspec.Raw(b'"compaction"')
_INCOMPLETE: Final = msgspec.Raw(b'"incomplete"')
_AT_MAXIMUM: Final = msgspec.Raw(b'{"reason":"max_output_tokens"}')


class StoredResponse(NamedTuple):
    """`fields`: of the response, as its client reads it. `items`: the whole input of its request, with what that continued."""

    fields: RawObject
    items: list[msgspec.Raw]


class ItemsPage(NamedTuple):
    """A part of a list of input items: at most `limit` after the item `after`, the latest first unless `ascending`."""

    limit: int
    after: str
    ascending: bool


def input_items(value: msgspec.Raw) -> list[msgspec.Raw]:
    """The items of a request's `input`. A text is the message of a user. Raises `ValueError` (of msgspec) for any other value."""
    if bytes(memoryview(value)[:1]) == b'"':
        return [msgspec.Raw(b'{"role":"user","content":%b}' % bytes(value))]
    return items_decoder.decode(value)


def stored_body(fields: RawObject, items: list[msgspec.Raw], *, store: bool) -> bytes:
    """The body that is sent in place of the client's: its input is `items`, it continues nothing, and nobody else stores its response.
    `store`: the client said whether it is stored.
    """
    sent = {name: value for name, value in fields.items() if name != PREVIOUS}
    sent["input"] = msgspec.Raw(_encode(items))
    if store:
        sent["store"] = _FALSE
    return _encode(sent)


def encode_stored(response: RawObject, items: list[msgspec.Raw], previous_id: str | None) -> bytes:
    """What is kept of a response, whose fields say that it is stored, and what it continued."""
    fields = response | {"store": _TRUE, PREVIOUS: msgspec.Raw(_encode(previous_id))}
    return _encode({"response": fields, "input": items})


def decode_stored(text: bytes) -> StoredResponse:
    parts = object_decoder.decode(text)
    return StoredResponse(object_decoder.decode(parts["response"]), items_decoder.decode(parts["input"]))


def conversation(stored: StoredResponse) -> list[msgspec.Raw]:
    """The items that a request continues: the input and the output of the stored response.

    Items of the output lose their ids, which name nothing at a provider that did not store them, and reasoning that has an id alone is
    left out: such a provider refuses both. A compaction stands for all items before it.
    """
    items = list(stored.items)
    for item in items_decoder.decode(stored.fields["output"]):
        fields = whole_response(bytes(item))
        if fields is None:
            continue
        if fields.get("type") == _REASONING and not carries(fields):
            continue
        if fields.get("type") == _COMPACTION:
            items.clear()
        fields.pop("id", None)
        items.append(msgspec.Raw(_encode(fields)))
    return items


def response_id(fields: RawObject) -> str | None:
    """The id of a response that can be stored; None if these fields are of none."""
    try:
        found = any_decoder.decode(fields.get("id", b"null"))
        items_decoder.decode(fields.get("output", b"null"))
    except (*UNREADABLE, msgspec.ValidationError):
        return None
    return found if isinstance(found, str) and is_readable_id(found) else None


def is_readable_id(name: str) -> bool:
    """True if the routes of stored answers take this id."""
    return _ID.fullmatch(name) is not None


def whole_response(body: bytes) -> RawObject | None:
    """The fields of a JSON object, such as an answer that is not streamed; None if it is none."""
    try:
        return object_decoder.decode(body)
    except (*UNREADABLE, msgspec.ValidationError):
        return None


def ended_response(events: bytes) -> RawObject | None:
    """The response in the last events of a whole stream; None if they have none."""
    found = None
    for event in events_in(events):
        if text_in(event, "type") in _ENDS and "response" in event:
            found = whole_response(bytes(event["response"]))
    return found


def lacks_output(ended: RawObject) -> bool:
    """True if the last event of a stream has no output, though other events may have had some. Some engines end a stream this way; a
    conversation would go on without the answer.
    """
    output = ended.get("output", _NULL)
    return output in (_NULL, _NOTHING)


def with_shown_output(ended: RawObject, events: bytes) -> RawObject:
    """A response whose last event has no output, with the output of the other events of its stream."""
    shown = cut_response(events, at_maximum=False)
    return ended if shown is None else ended | {"output": shown["output"]}


def cut_response(events: bytes, *, at_maximum: bool) -> RawObject | None:
    """The response of a stream that was cut, from the events that its client got: its status is incomplete, its output has the items
    that are whole and the text of a message that is not. A call that is not whole is left out, since nobody can answer it. None if the
    stream had not begun. `at_maximum`: it was cut at a limit of tokens.
    """
    base: RawObject | None = None
    whole: dict[str, msgspec.Raw] = {}
    begun: dict[str, RawObject] = {}
    texts: dict[str, list[str]] = {}
    for event in events_in(events):
        kind, place = text_in(event, "type"), bytes(event.get("output_index", b"")).decode("ascii", "replace")
        if "response" in event and base is None:
            base = whole_response(bytes(event["response"]))
        elif kind == "response.output_item.done" and "item" in event:
            whole[place] = event["item"]
        elif kind == "response.output_item.added" and "item" in event:
            begun[place] = whole_response(bytes(event["item"])) or {}
        elif kind == "response.output_text.delta":
            texts.setdefault(place, []).append(text_in(event, "delta"))
    if base is None:
        return None
    for place, pieces in texts.items():
        if place not in whole and place in begun:
            content = [{"type": "output_text", "text": "".join(pieces), "annotations": []}]
            message = begun[place] | {"status": _INCOMPLETE, "content": msgspec.Raw(_encode(content))}
            whole[place] = msgspec.Raw(_encode(message))
    output = [whole[place] for place in sorted(whole, key=lambda place: (len(place), place))]
    return base | {
        "status": _INCOMPLETE,
        "incomplete_details": _AT_MAXIMUM if at_maximum else _NULL,
        "output": msgspec.Raw(_encode(output)),
    }


def response_body(stored: StoredResponse) -> bytes:
    """What a client reads of a stored response."""
    return _encode(stored.fields)


def deleted_body(name: str) -> bytes:
    return _encode({"id": name, "object": "response", "deleted": True})


def read_items_page(query: bytes, order: str = "desc") -> ItemsPage | Refusal:
    """The part of a list that a query string names. `order`: if it names none."""
    given = dict(parse_qsl(query.decode("ascii", "replace")))
    limit, order = given.get("limit", str(ITEMS_LIMIT)), given.get("order", order)
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= ITEMS_LIMIT_MAX):
        return Refusal(400, "invalid_body", f"limit is a number from 1 to {ITEMS_LIMIT_MAX}", param="limit")
    if order not in {"asc", "desc"}:
        return Refusal(400, "invalid_body", "order is asc or desc", param="order")
    return ItemsPage(int(limit), given.get("after", ""), order == "asc")


def items_body(stored: StoredResponse, page: ItemsPage) -> bytes | None:
    """A part of the input items of a stored response; None if it has no item `page.after`. An item without an id has one of its place.

    Only the items of this part are read: a conversation may have very many.
    """
    items, head = stored.items, response_id(stored.fields) or ""
    places = object_places(items)
    first = 0
    if page.after:
        first = _number_of(page.after, [items[place] for place in places], places, head)
        if not first:
            return None
    shown, has_more = shown_places(places, first, page)
    listed = [_listed(whole_response(bytes(items[place])) or {}, f"item_{place}_{head}") for place in shown]
    return list_body(listed, has_more=has_more)


def object_places(items: list[msgspec.Raw]) -> list[int]:
    """The places of the objects in a list; other values are not shown."""
    return [place for place, item in enumerate(items) if bytes(memoryview(item)[:1]) == b"{"]


def shown_places(places: list[int], first: int, page: ItemsPage) -> tuple[list[int], bool]:
    """The part of a list that is shown, and whether more follows; `places` is turned round for a descending order. `first`: the number,
    from 1, of the item after which the part begins; 0: the part begins the list.
    """
    if not page.ascending:
        first = len(places) - first + 1 if first else 0
        places.reverse()
    return places[first : first + page.limit], first + page.limit < len(places)


def list_body(listed: list[RawObject], *, has_more: bool) -> bytes:
    """A part of a list of objects with ids."""
    names = [text_in(fields, "id") for fields in listed]
    return _encode(
        {
            "object": "list",
            "data": listed,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
            "has_more": has_more,
        }
    )


def _number_of(name: str, items: list[msgspec.Raw], places: list[int], head: str) -> int:
    """The number of the item with this id, from 1; 0 if no item has it."""
    number = name.removeprefix("item_").removesuffix(f"_{head}")
    place = int(number) if number.isascii() and number.isdigit() and len(number) <= PLACE_DIGITS_MAX else -1
    if name != f"item_{place}_{head}":
        place = -1
    for at, own in enumerate(ids_of(items)):
        if own == name or (places[at] == place and not own):
            return at + 1
    return 0


def _listed(fields: RawObject, own_id: str) -> RawObject:
    """An item as the list has it: with an id and a type, and the content of a message as parts."""
    listed = dict(fields)
    if not text_in(fields, "id"):
        listed["id"] = msgspec.Raw(_encode(own_id))
    if "type" not in fields and "role" in fields:
        listed["type"] = msgspec.Raw(b'"message"')
    content = fields.get("content")
    if content is not None and "role" in fields and bytes(memoryview(content)[:1]) == b'"':
        kind = b"output_text" if text_in(fields, "role") == "assistant" else b"input_text"
        listed["content"] = msgspec.Raw(b'[{"type":"%b","text":%b}]' % (kind, bytes(content)))
    return listed


def events_in(data: bytes) -> Iterable[RawObject]:
    """The objects in the data lines of a stream. Lines that are none are skipped."""
    for line in data.splitlines():
        if line.startswith(b"data:"):
            fields = whole_response(line[5:])
            if fields is not None:
                yield fields


def text_in(fields: RawObject, name: str) -> str:
    """A field's text; "" if it has none."""
    try:
        value = any_decoder.decode(fields.get(name, b"null"))
    except UNREADABLE:
        return ""
    return value if isinstance(value, str) else ""
