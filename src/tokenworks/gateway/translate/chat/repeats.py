"""Tells pieces of text from texts that repeat all earlier text (MiniMax): the translation needs the pieces.

The first texts of a stream decide. A text that does not begin with the text before it proves pieces. A text that does is kept back until
the next one: one more that begins with all of it proves repetition. If the channel ends before, repetition is assumed where the common
beginning has several letters: pieces like "1", "10" and "=", "==" are usual, and pieces like "Two", "Two options." are not.
(`protocol/meter.py` decides by the same comparison, and may correct itself later.)
"""

from typing import Final

# Letters of a text's beginning that prove a repetition without a third text.
_LETTERS_MIN: Final = 3
# Letters of a text that prove a repetition if the same text comes twice.
_SAME_LETTERS_MIN: Final = 8


class Repeats:
    """The texts of one stream. `decided`: true if every text is a piece, so that nothing need be asked any more."""

    __slots__ = ("_before", "_kept", "_repeating", "decided")

    def __init__(self) -> None:
        self.decided = False
        self._repeating = False
        self._before: dict[str, str] = {}  # the last text of each channel
        self._kept: dict[str, str] = {}  # of each channel, the text that is kept back

    def pieces(self, channel: str, text: str) -> str:
        """What is new in a text that is not empty, and in what was kept back before it. May be empty."""
        if self.decided:
            return text
        before = self._before.get(channel)
        if before is None:
            self._before[channel] = text
            return text
        if self._repeating:
            if not text.startswith(before):
                self._decide()
                return text
            self._before[channel] = text
            return text[len(before) :]
        kept = self._kept.get(channel)
        if kept is None:
            return self._second(channel, before, text)
        del self._kept[channel]
        if not text.startswith(kept) or (text == kept and _letters(text) < _SAME_LETTERS_MIN):
            self._decide()
            return kept + text
        self._repeating = True
        self._before[channel] = text
        return text[len(before) :]

    def _second(self, channel: str, before: str, text: str) -> str:
        if not text.startswith(before) or (text == before and _letters(text) < _SAME_LETTERS_MIN):
            self._decide()
            return text
        self._kept[channel] = text
        return ""

    def _decide(self) -> None:
        self.decided, self._repeating = True, False
        self._before = {}

    def end(self, channel: str) -> str:
        """What is still due of a channel that ends, or whose part ends."""
        kept = self._kept.pop(channel, None)
        if kept is None:
            return ""
        before = self._before.get(channel, "")
        if not self.decided and (self._repeating or _letters(before) >= _LETTERS_MIN):
            self._repeating = True
            self._before[channel] = kept
            return kept[len(before) :]
        self._decide()
        return kept


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))
