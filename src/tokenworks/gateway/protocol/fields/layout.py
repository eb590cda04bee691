"""Whether bytes say what was read from them: each name once, and nothing else.

A name that is there twice could mean one thing to us and another upstream. Two layouts are known: compact, which is as short
as can be, so that its length leaves no room for a second one, and Python's default, which is compared byte by byte. What has another layout is
written anew from what was read.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

RawObject = dict[str, msgspec.Raw]
_encode: Final = msgspec.json.encode
WRITTEN_BYTES: Final = 16_384
OPEN_OBJECT, OPEN_ARRAY = b"{"[0], b"["[0]
_SPACED: Final = b'": '


_NOTHING: Final = (msgspec.Raw(b"null"), msgspec.Raw(b"[]"), msgspec.Raw(b'""'))


def carries(fields: RawObject) -> bool:
    """Whether an item says what it holds, and does not only name it by its id."""
    return any(name in fields and fields[name] not in _NOTHING for name in ("encrypted_content", "content"))


def members_length(items: Sequence[Mapping[str, Any]], about_bytes: int, *, mixed: bool = False) -> int:
    """The bytes of so many compact objects of raw values (`mixed`: of texts and lists), without what is between them.

    Small ones are written for it, which is the least work; of large ones (`about_bytes`) the parts' lengths are added up.
    """
    if not items:
        return 0
    if about_bytes < WRITTEN_BYTES:
        return len(_encode(items)) - 1 - len(items)
    values = chain.from_iterable([fields.values() for fields in items])
    names = sum(map(len, chain.from_iterable(items)))
    empty = 0 if all(items) else sum(not fields for fields in items)
    length = len(items) + empty + 4 * sum(map(len, items)) + names
    return length + (sum(map(len, map(_encode, values))) if mixed else sum(map(len, values)))


def is_canonical(fields: RawObject, written: bytes | msgspec.Raw) -> bool:
    """Whether an object's bytes are these fields in a known layout."""
    compact = _encode(fields)
    text = bytes(written)
    if len(text) == len(compact):
        return text == compact
    return len(text) == len(compact) + 2 * len(fields) - 1 and _spaced(fields) == text


def is_canonical_list(items: list[RawObject], written: msgspec.Raw) -> bool:
    """Whether an array's bytes are these objects in a known layout, all of them in the same."""
    text = bytes(written)
    if _encode(items) == text:
        return True
    return _SPACED in text[:300] and b"[" + b", ".join(map(_spaced, items)) + b"]" == text


def _spaced(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return (
        b"{" + b", ".join([b'"%b": %b' % (name.encode(), bytes(raw)) for name, raw in fields.items()]) + b"}"
    )
