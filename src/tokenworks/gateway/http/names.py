"""The headers of an answer that the gateway uses, found once for each set of names that an upstream sends."""

from collections.abc import Mapping
from typing import Final, NamedTuple

# Headers that describe the answer and not the upstream. The content type is handled apart.
PASSING: Final = frozenset({b"cache-control", b"content-language", b"x-accel-buffering", b"x-should-retry"})
MEMO_MAX: Final = 1000
MEDIA_TYPES: Final[dict[bytes, bytes]] = {}
"""A bounded memo of `media_type`. The caller looks here first, which costs less than a call."""
MEDIA_TYPES_MAX: Final = 10_000


class HeaderNames(NamedTuple):
    """Header names as the upstream wrote them. `passing`: (name, begin of the line for the client) of each header that may pass."""

    content_type: bytes | None
    content_encoding: bytes | None
    passing: tuple[tuple[bytes, bytes], ...]


_MEMO: Final[dict[tuple[bytes, ...], HeaderNames]] = {}


def media_type(value: bytes) -> bytes:
    """The media type of a `Content-Type`, without parameters, in small letters."""
    found = value.partition(b";")[0].strip().lower()
    if len(MEDIA_TYPES) < MEDIA_TYPES_MAX:
        MEDIA_TYPES[value] = found
    return found


def header_names(headers: Mapping[bytes, bytes]) -> HeaderNames:
    sent = tuple(headers)
    return _MEMO.get(sent) or _read(sent)


def _read(sent: tuple[bytes, ...]) -> HeaderNames:
    content_type = content_encoding = None
    passing: list[tuple[bytes, bytes]] = []
    for name_as_sent in sent:
        name = name_as_sent.lower()
        if name == b"content-type":
            content_type = name_as_sent
        elif name == b"content-encoding":
            content_encoding = name_as_sent
        elif name in PASSING:
            passing.append((name_as_sent, name + b": "))
    found = HeaderNames(content_type, content_encoding, tuple(passing))
    if len(_MEMO) >= MEMO_MAX:
        _MEMO.clear()
    _MEMO[sent] = found
    return found
