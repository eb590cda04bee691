"""Tells whether an object's bytes contain each decoded name once and nothing else.

The gateway and an upstream could read a repeated name differently. Two layouts are recognised: the compact one, which has the least
possible length, so that the length leaves no room for a repeated name, and that of Python's default encoder, which is compared byte by
byte. An object in any other layout is encoded again from its decoded fields.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import chain
from typing import Final

import msgspec

RawObject = dict[str, msgspec.Raw]
_encode: Final = msgspec.json.encode
WRITTEN_BYTES: Final = 16_384
OPEN_OBJECT, OPEN_ARRAY = b"{"[0], b"["[0]
_SPACED: Final = b'": '
_NOTHING: Final = (msgspec.Raw(b"null"), msgspec.Raw(b"[]"), msgspec.Raw(b'""'))
# How what looks like a provider's signature begins in a translated answer (translate/responses/reasoning.py, translate/messages/marks.py):
# no provider can read it.
TRANSLATED: Final = "tokenworks.text:"
TRANSLATED_DATA: Final = "tokenworks.data:"
_TRANSLATED_BYTES: Final = b'"tokenworks.'
_TRANSLATED_TEXT: Final = msgspec.Raw(b'"%b"' % TRANSLATED.encode())
_SIGNED: Final = ("encrypted_content", "signature", "data")


def carries(fields: RawObject) -> bool:
    """True if an item has content of its own, False if its id only refers to stored content."""
    return any(name in fields and fields[name] not in _NOTHING for name in ("encrypted_content", "content"))


def was_translated(fields: RawObject) -> bool:
    """True if an item or a block is reasoning of a translated answer, which only a translation can send back."""
    for name in _SIGNED:
        content = fields.get(name)
        if content is not None and bytes(memoryview(content)[: len(_TRANSLATED_BYTES)]) == _TRANSLATED_BYTES:
            return True
    return False


def has_translated(blocks: Iterable[RawObject], *, encrypted: bool) -> bool:
    """True if a block of thinking is of a translated answer; `encrypted`: look at redacted thinking. A conversation has hundreds of
    blocks, so the usual ones cost a lookup each.
    """
    if encrypted:
        return any(map(was_translated, [fields for fields in blocks if "data" in fields]))
    return _TRANSLATED_TEXT in [fields["signature"] for fields in blocks if "signature" in fields]


def members_length(items: Sequence[Mapping[str, Sized]], about_bytes: int, *, mixed: bool = False) -> int:
    """The length of compact objects of raw values (`mixed`: of texts and lists), without the separators between them.

    Small objects are encoded to measure them, which costs least; for large ones (`about_bytes`) the lengths of the parts are added.
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
    """True if an object's bytes are these fields in a recognised layout."""
    compact = _encode(fields)
    text = bytes(written)
    if len(text) == len(compact):
        return text == compact
    return len(text) == len(compact) + 2 * len(fields) - 1 and _spaced(fields) == text


def is_canonical_list(items: list[RawObject], written: msgspec.Raw) -> bool:
    """True if an array's bytes are these objects, all in the same recognised layout."""
    text = bytes(written)
    if _encode(items) == text:
        return True
    return _SPACED in text[:300] and b"[" + b", ".join(map(_spaced, items)) + b"]" == text


def _spaced(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return (
        b"{" + b", ".join([b'"%b": %b' % (name.encode(), bytes(raw)) for name, raw in fields.items()]) + b"}"
    )
