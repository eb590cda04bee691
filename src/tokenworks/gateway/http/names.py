"""Which of an answer's headers matter, found once for each set of names that an upstream sends."""

from collections.abc import Mapping
from typing import Final, NamedTuple

# An upstream's headers that are about the answer and not about the upstream. Its content type is told apart.
PASSING: Final = frozenset({b"cache-control", b"content-language", b"x-accel-buffering", b"x-should-retry"})
MEMO_MAX: Final = 1000


class Names(NamedTuple):
    """Names as they were sent: of the content type and of the content coding, and of what may pass to a client with the
    begin of its line there.
    """

    kind: bytes | None
    coding: bytes | None
    passing: tuple[tuple[bytes, bytes], ...]


_MEMO: Final[dict[tuple[bytes, ...], Names]] = {}


def names_of(headers: Mapping[bytes, bytes]) -> Names:
    sent = tuple(headers)
    return _MEMO.get(sent) or _read(sent)


def _read(sent: tuple[bytes, ...]) -> Names:
    kind = coding = None
    passing: list[tuple[bytes, bytes]] = []
    for name_as_sent in sent:
        name = name_as_sent.lower()
        if name == b"content-type":
            kind = name_as_sent
        elif name == b"content-encoding":
            coding = name_as_sent
        elif name in PASSING:
            passing.append((name_as_sent, name + b": "))
    found = Names(kind, coding, tuple(passing))
    if len(_MEMO) >= MEMO_MAX:
        _MEMO.clear()
    _MEMO[sent] = found
    return found
