"""The routing note of a usage record: one text that says how its request came to its deployment (the column `choice`). Pure.

The text is the reason why an intent chose the model (`…, costs about 12 token`), as every release has written it. If the client gave
the request an id or tags of its own, or other attempts were made before, the text is a JSON object that has these as well. A reason never
begins with a brace.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

# The most earlier attempts that a note has.
TRIED_MAX: Final = 10


class RoutingNote(NamedTuple):
    """`choice`: why an intent chose the model. `tried`: (deployment, why it failed) of each attempt before this record's. `tags`: the
    client's own words on the request, by name.
    """

    choice: str | None = None
    tried: tuple[tuple[str, str], ...] = ()
    client_request_id: str | None = None
    tags: Mapping[str, str] = MappingProxyType({})


_json: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, object]).decode


def note_text(
    choice: str | None,
    tried: Sequence[tuple[str, str]] | None,
    client_request_id: str | None,
    tags: Mapping[str, str] | None = None,
) -> str | None:
    """The text of the column; None if there is nothing to note."""
    if not tried and client_request_id is None and not tags:
        return choice
    note: dict[str, object] = {} if choice is None else {"choice": choice}
    if tried:
        note["tried"] = list(tried[:TRIED_MAX])
    if client_request_id is not None:
        note["client_request_id"] = client_request_id
    if tags:
        note["tags"] = tags
    return _json(note).decode()


def read_note(text: str | None) -> RoutingNote:
    """Read the text of the column, whichever release wrote it. A text that is no such object is the reason."""
    if text is None or not text.startswith("{"):
        return RoutingNote(text)
    try:
        note = _decode(text)
        tried = msgspec.convert(note.get("tried", ()), tuple[tuple[str, str], ...])
        choice = msgspec.convert(note.get("choice"), str | None)
        tags = msgspec.convert(note.get("tags", {}), dict[str, str])
    except msgspec.MsgspecError:
        return RoutingNote(text)
    client_request_id = note.get("client_request_id")
    return RoutingNote(choice, tried, None if client_request_id is None else str(client_request_id), tags)


def client_id_mark(client_request_id: str) -> str:
    """The part of a note's text that names a client's own id, to search for. Such an id has no character that JSON escapes."""
    return f'"client_request_id":"{client_request_id}"'
