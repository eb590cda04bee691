"""The items of a stream that is read: which part of the form each has opened, and how much of its texts was passed on."""

from typing import Final

from tokenworks.gateway.translate.form import (
    CallBegin,
    Delta,
    Event,
    JsonObject,
    PartEnd,
    ReasoningBegin,
    RefusedBegin,
    Signed,
    SummaryDelta,
    TextBegin,
)
from tokenworks.gateway.translate.responses.answers import call_of
from tokenworks.gateway.translate.responses.values import list_of, object_of, text_of

# Parts beyond this number, and places in one reasoning item beyond it, are not read.
PARTS_MAX: Final = 4096


class PartNumbers:
    """Numbers the parts of an answer in the order in which they begin."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        """The next number, or -1 if it would be one too many."""
        if self._next >= PARTS_MAX:
            return -1
        self._next += 1
        return self._next - 1


class Item:
    """An item of an answer. This one is of the provider's own tools, and has no parts. `kind`: `message`, `reasoning`, `call`, `other`."""

    __slots__ = ("_numbers", "done", "item_id", "kind")

    def __init__(self, numbers: PartNumbers, kind: str) -> None:
        self.kind = kind
        self._numbers = numbers
        self.done = False
        self.item_id: str | None = None

    def open_text(self, at: int | None) -> int:
        """The number of the text that is open at this place of the content, or -1."""
        return -1

    def count(self, at: int | None, chars: int) -> None:
        """Count characters of a text that were passed on."""

    def piece(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        """Pass a piece on. `about`: the kind of the event; `at`: the place in the content or the summary."""

    def whole(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        """Pass on what the pieces of a whole text did not have."""

    def part_done(self, at: int | None, out: list[Event]) -> None:
        """A part of the content is done."""

    def take(self, fields: JsonObject, out: list[Event], *, done: bool) -> None:
        """Read the item as it stands at its beginning or end."""
        self.done = self.done or done

    def close(self, out: list[Event]) -> None:
        """End the parts that are open."""


class MessageItem(Item):
    """A message. Each of its contents is a part, which begins with its first piece: an empty one is none."""

    __slots__ = ("_chars", "_open", "_places")

    def __init__(self, numbers: PartNumbers) -> None:
        super().__init__(numbers, "message")
        # By place: the part's number, and the characters that were passed on.
        self._places: dict[int | None, int] = {}
        self._chars: dict[int | None, int] = {}
        self._open: set[int | None] = set()

    def open_text(self, at: int | None) -> int:
        return self._places[at] if at in self._open else -1

    def count(self, at: int | None, chars: int) -> None:
        self._chars[at] += chars

    def piece(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        if at not in self._places:
            number = self._numbers.take()
            if number < 0 or self.done:
                return
            self._places[at] = number
            self._chars[at] = 0
            self._open.add(at)
            out.append(RefusedBegin(number) if about == "refusal" else TextBegin(number))
        if at in self._open:
            self._chars[at] += len(text)
            out.append(Delta(self._places[at], text))

    def whole(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        rest = text[self._chars.get(at, 0) :]
        if rest:
            self.piece(about, at, rest, out)

    def part_done(self, at: int | None, out: list[Event]) -> None:
        if at in self._open:
            self._open.remove(at)
            out.append(PartEnd(self._places[at]))

    def take(self, fields: JsonObject, out: list[Event], *, done: bool) -> None:
        for at, value in enumerate(list_of(fields.get("content"))):
            content = object_of(value) or {}
            words, text = text_of(content.get("refusal")), text_of(content.get("text"))
            # Where the stream gave no places, there is one content.
            place = None if at == 0 and None in self._places else at
            if words or text:
                self.whole("refusal" if words else "output_text", place, words or text or "", out)
        if done:
            self.close(out)
            self.done = True

    def close(self, out: list[Event]) -> None:
        out.extend(PartEnd(self._places[at]) for at in self._places if at in self._open)
        self._open.clear()


class ReasoningItem(Item):
    """Reasoning: one part, which begins with its first piece or its encrypted content. Summaries are numbered in their order."""

    __slots__ = ("_chars", "_last", "_number", "_summaries")

    def __init__(self, numbers: PartNumbers) -> None:
        super().__init__(numbers, "reasoning")
        self._number = -1
        # By (kind, place): the characters that were passed on.
        self._chars: dict[tuple[str, int | None], int] = {}
        self._summaries = 0
        self._last: int | None = None

    def _begin(self, out: list[Event]) -> bool:
        if self._number < 0 and not self.done:
            self._number = self._numbers.take()
            if self._number >= 0:
                out.append(ReasoningBegin(self._number, self.item_id))
        return self._number >= 0 and not self.done

    def piece(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        place = at or 0
        key = (about, place)
        if (key not in self._chars and len(self._chars) >= PARTS_MAX) or not self._begin(out):
            return
        self._chars[key] = self._chars.get(key, 0) + len(text)
        if about == "reasoning_text":
            out.append(Delta(self._number, text))
            return
        if self._summaries == 0 or place != self._last:
            self._summaries += 1
            self._last = place
        out.append(SummaryDelta(self._number, self._summaries - 1, text))

    def whole(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        kind = "reasoning_summary_text" if about == "reasoning_summary_part" else about
        rest = text[self._chars.get((kind, at or 0), 0) :]
        if rest:
            self.piece(kind, at, rest, out)

    def take(self, fields: JsonObject, out: list[Event], *, done: bool) -> None:
        for kind, name in (("reasoning_summary_text", "summary"), ("reasoning_text", "content")):
            for at, value in enumerate(list_of(fields.get(name))):
                text = text_of((object_of(value) or {}).get("text"))
                if text:
                    self.whole(kind, at, text, out)
        if done:
            encrypted = text_of(fields.get("encrypted_content"))
            if encrypted and self._begin(out):
                out.append(Signed(self._number, encrypted=encrypted))
            self.close(out)

    def close(self, out: list[Event]) -> None:
        if self._number >= 0 and not self.done:
            out.append(PartEnd(self._number))
        self.done = True


class CallItem(Item):
    """A call of a client's tool: one part, which begins when its name is known."""

    __slots__ = ("_chars", "number")

    def __init__(self, numbers: PartNumbers) -> None:
        super().__init__(numbers, "call")
        self.number = -1
        self._chars = 0

    def piece(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        # Pieces before the name wait for the whole arguments, which come at the item's end.
        if self.number >= 0 and not self.done:
            self._chars += len(text)
            out.append(Delta(self.number, text))

    def whole(self, about: str, at: int | None, text: str, out: list[Event]) -> None:
        rest = text[self._chars :]
        if rest:
            self.piece(about, at, rest, out)

    def take(self, fields: JsonObject, out: list[Event], *, done: bool) -> None:
        call = call_of(fields, "")
        if self.number < 0 and not self.done and call is not None:
            self.number = self._numbers.take()
            if self.number >= 0:
                out.append(
                    CallBegin(self.number, call.call_id, call.name, call.custom, call.namespace, call.item_id)
                )
        arguments = text_of(fields.get("input" if fields.get("type") == "custom_tool_call" else "arguments"))
        if arguments:
            self.whole("", None, arguments, out)
        if done:
            self.close(out)

    def close(self, out: list[Event]) -> None:
        if self.number >= 0 and not self.done:
            out.append(PartEnd(self.number))
        self.done = True
