"""How a request came to its deployment, as one text of its usage record (the column `choice`). Pure.

The text is why an intent gave this model (`…, costs about 12 token`) where nothing else is known, as every release has written
it. Where a client named the request by an id of its own, or other attempts were made before, it is a JSON object that has these,
too: a text of an earlier release never begins with a brace.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

# Attempts of a request that are kept beside its record.
TRIED_MAX: Final = 10


class RoutingNote(NamedTuple):
    """`tried`: [(deployment, why it gave nothing), …] of the attempts before this record's."""

    choice: str | None = None
    tried: tuple[tuple[str, str], ...] = ()
    client_request_id: str | None = None


_json: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def note_text(
    choice: str | None, tried: Sequence[tuple[str, str]] | None, client_request_id: str | None
) -> str | None:
    """What the column has; None where nothing is to be said."""
    if not tried and client_request_id is None:
        return choice
    said: dict[str, object] = {} if choice is None else {"choice": choice}
    if tried:
        said["tried"] = list(tried[:TRIED_MAX])
    if client_request_id is not None:
        said["client_request_id"] = client_request_id
    return _json(said).decode()


def read_note(text: str | None) -> RoutingNote:
    """What a record's text says, whichever release wrote it."""
    if text is None or not text.startswith("{"):
        return RoutingNote(text)
    try:
        said = _decode(text)
        tried = tuple((str(name), str(why)) for name, why in said.get("tried", ()))
    except (msgspec.DecodeError, TypeError, ValueError):
        return RoutingNote(text)
    client_request_id = said.get("client_request_id")
    return RoutingNote(
        said.get("choice"), tried, None if client_request_id is None else str(client_request_id)
    )


def client_id_mark(client_request_id: str) -> str:
    """What the text of a record has in it whose client named it so; an id has nothing that JSON escapes."""
    return f'"client_request_id":"{client_request_id}"'
