"""Whether bytes say what was read from them: each name once, and nothing else.

A name that is there twice could mean one thing to us and another upstream. Two layouts are known: compact, whose length
leaves no room for a second one, and Python's default, which is compared byte by byte. What has another layout is
written anew from what was read.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec

RawObject = dict[str, msgspec.Raw]
OPEN_OBJECT, OPEN_ARRAY = b"{"[0], b"["[0]
_SPACED: Final = b'": '


_NOTHING: Final = (msgspec.Raw(b"null"), msgspec.Raw(b"[]"), msgspec.Raw(b'""'))


def carries(fields: RawObject) -> bool:
    """Whether an item says what it holds, and does not only name it by its id."""
    return any(name in fields and fields[name] not in _NOTHING for name in ("encrypted_content", "content"))


def members_length(items: Sequence[RawObject]) -> int:
    """The bytes of so many compact objects, without what is between them. No item is empty."""
    values = chain.from_iterable(map(dict.values, items))
    return (
        len(items)
        + 4 * sum(map(len, items))
        + sum(map(len, chain.from_iterable(items)))
        + sum(map(len, values))
    )


def object_length(fields: RawObject) -> int:
    """The bytes of a compact object that is not empty."""
    return 1 + 4 * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values()))


def is_canonical(fields: RawObject, written: bytes | msgspec.Raw) -> bool:
    """Whether an object's bytes are these fields in a known layout."""
    if not fields:
        return len(written) == 2
    length = len(written)
    compact = object_length(fields)
    if length == compact:
        return True
    if length != compact + 2 * len(fields) - 1:
        return False
    return _spaced(fields) == bytes(written)


def is_canonical_list(items: list[RawObject], written: msgspec.Raw) -> bool:
    """Whether an array's bytes are these objects in a known layout, all of them in the same."""
    if not items:
        return len(written) == 2
    if not all(items):
        return False
    if len(written) == 1 + len(items) + members_length(items):
        return True
    text = bytes(written)
    return _SPACED in text[:300] and b"[" + b", ".join(map(_spaced, items)) + b"]" == text


def _spaced(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return (
        b"{" + b", ".join([b'"%b": %b' % (name.encode(), bytes(raw)) for name, raw in fields.items()]) + b"}"
    )
