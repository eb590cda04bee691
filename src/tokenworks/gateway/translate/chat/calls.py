"""A call of a tool in a stream of chat, while its arguments arrive."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE

# Characters of arguments, of all open calls together, that are kept to see whether they are whole. A longer call stays open until the
# stream's finish.
KEPT_CHARS_MAX: Final = 1 << 18
_any: Final = msgspec.json.Decoder()


class OpenCall:
    """`given_id`: the vendor's id or ""; `part`: its number once it has begun, else -1; `early`: arguments that came before its name; `size`: characters of arguments."""

    __slots__ = ("_pieces", "_whole", "custom", "early", "ended", "given_id", "name", "part", "size")

    def __init__(self, given_id: str | None, *, custom: bool) -> None:
        self.given_id = given_id or ""
        self.name = ""
        self.custom = custom
        self.part = -1
        self.early = ""
        self.ended = False
        self.size = 0
        self._pieces: list[str] = []
        self._whole = True  # no piece was too many

    @property
    def begun(self) -> bool:
        return self.part >= 0

    def is_other(self, call_id: str | None, name: str | None, arguments: str | None) -> bool:
        """True if a piece with these begins another call: some vendors give all calls the same index, some give them no ids, some repeat
        the name with each piece, and some make a new id for each piece.
        """
        if not name or not self.begun:
            return False
        if name != self.name:
            return True
        if call_id and self.given_id:
            return call_id != self.given_id
        return bool(arguments) and self.is_complete()

    def add(self, text: str, *, keep: bool) -> None:
        """Count a piece of arguments. `keep`: there is room to keep it."""
        self.size += len(text)
        self._whole = self._whole and keep
        if self._whole:
            self._pieces.append(text)
        else:
            self._pieces.clear()

    def end(self) -> None:
        self.ended = True
        self._pieces.clear()

    def is_complete(self) -> bool:
        """True if the arguments are a whole JSON object. (`custom` input has no end that could be seen.)"""
        if self.custom or not self._pieces:
            return False
        if not self._pieces[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(_any.decode("".join(self._pieces)), dict)
        except UNREADABLE:
            return False
