"""The ids of very many items, by one typed decode. It has a Struct, so it is not compiled (compiled.toml), unlike the module that uses it."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE


class _Named(msgspec.Struct, gc=False):
    """An item of which only the id is read."""

    id: object = None


_encode: Final = msgspec.json.encode
_decoder: Final = msgspec.json.Decoder(list[_Named])


def ids_of(items: list[msgspec.Raw]) -> list[str]:
    """The id of each item, "" where it has none; no ids if one of them can't be read."""
    try:
        return [item.id if isinstance(item.id, str) else "" for item in _decoder.decode(_encode(items))]
    except UNREADABLE:
        return []
