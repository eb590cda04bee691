"""Writes a stream of messages from the events of the intermediate form.

Blocks of messages follow each other and never interleave, and their indices have no gaps. So a block of text or thinking ends when another
part goes on, and a later piece of its part is a further block. A call can't be divided: what comes of other parts while it is open is kept
until it ends, within `BUFFERED_BYTES_MAX`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.meter import EventTooLarge
from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Event,
    Finish,
    JsonObject,
    PartEnd,
    ReasoningBegin,
    RefusedBegin,
    Signed,
    Stop,
    SummaryDelta,
    TextBegin,
    ToolCall,
    UsageReport,
)
from tokenworks.gateway.translate.messages.answers import ID_PREFIX, call_id_of
from tokenworks.gateway.translate.messages.marks import written_data, written_signature
from tokenworks.gateway.translate.messages.stops import written_stop
from tokenworks.gateway.translate.messages.usage import written_usage
from tokenworks.gateway.translate.names import INPUT, ToolNames

# What is kept of parts that wait for a call's end: the arguments of other calls that are streamed at the same time.
BUFFERED_BYTES_MAX: Final = 8 * 1024 * 1024
_EVENT_BYTES: Final = 100  # of an event in memory, beside its text
_encode: Final = msgspec.json.encode
_TEXT, _REASONING, _CALL = range(3)
_PIECES: Final = (
    (b"text_delta", b"text"),
    (b"thinking_delta", b"thinking"),
    (b"input_json_delta", b"partial_json"),
)
_PIECE_END: Final = b"}}\n\n"
_PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_CUSTOM_START: Final = f'{{"{INPUT}":"'
_CUSTOM_END: Final = '"}'


class _Part:
    """A part that has begun. `summary`: the number of the summary of its last piece, -1: none yet."""

    __slots__ = ("call", "kind", "spoken", "summary")

    def __init__(self, kind: int, call: ToolCall | None = None) -> None:
        self.kind = kind
        self.call = call
        self.summary = -1
        self.spoken = False  # a piece of the reasoning itself was written


class MessagesWriter:
    """`message_delta` has the reason to stop and the whole usage; it is written when both are known, at the latest at the end."""

    __slots__ = (
        "_begun", "_buffered_bytes", "_called", "_index", "_names", "_naming", "_open", "_parts", "_prefix", "_sequence", "_stop",
        "_told", "_unsigned", "_usage", "_waiting",
    )  # fmt: skip

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._names = ToolNames(naming.request.tools)
        self._begun = False
        self._index = -1
        self._open = -1  # the part whose block is open
        self._unsigned = False  # the open block is of thinking, and no signature was written
        self._prefix = b""  # of a piece of the open block
        self._parts: dict[int, _Part] = {}  # that have begun and not ended
        self._waiting: dict[int, list[Event]] = {}  # by part, in order
        self._buffered_bytes = 0
        self._called = False
        self._stop: Stop | None = None
        self._sequence: str | None = None
        self._usage: Counts | None = None
        self._told: Counts | None = None  # the usage of the last `message_delta`

    def write(self, events: Sequence[Event]) -> bytes:
        """Raises `EventTooLarge` if too much would have to wait for the end of a call."""
        if len(events) == 1:
            event = events[0]
            if isinstance(event, Delta) and event.part == self._open:
                part = self._parts[event.part]
                if part.call is None and part.summary < 0:
                    part.spoken = True
                    return self._prefix + _encode(event.text) + _PIECE_END
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        if isinstance(
            event, (Delta, SummaryDelta, Signed, PartEnd, TextBegin, RefusedBegin, ReasoningBegin, CallBegin)
        ):
            return self._of_part(event.part, event)
        if isinstance(event, Begin):
            return self._message_start(event.usage)
        if isinstance(event, UsageReport):
            self._usage = event.usage
            return b"" if self._stop is None else self._message_delta()
        if isinstance(event, Finish):
            self._stop, self._sequence = event.stop, event.stop_sequence
            return b""
        assert isinstance(event, End)
        return self._end()

    def _message_start(self, usage: Counts | None) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        naming = self._naming
        message: JsonObject = {
            "id": ID_PREFIX + naming.answer_id,
            "type": "message",
            "role": "assistant",
            "model": naming.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": written_usage(usage),
        }
        return _written("message_start", {"message": message}) + _PING

    def _of_part(self, number: int, event: Event) -> bytes:
        begun = b"" if self._begun else self._message_start(None)
        open_part = self._parts.get(self._open)
        if open_part is not None and open_part.kind == _CALL and number != self._open:
            self._wait(number, event)
            return begun
        return begun + self._now(number, event)

    def _wait(self, number: int, event: Event) -> None:
        size = _EVENT_BYTES
        if isinstance(event, (Delta, SummaryDelta)):
            size += 4 * len(event.text)
        elif isinstance(event, Signed):
            size += len(event.signature or "") + len(event.encrypted or "")
        if self._buffered_bytes + size > BUFFERED_BYTES_MAX:
            raise EventTooLarge
        self._buffered_bytes += size
        self._waiting.setdefault(number, []).append(event)

    def _now(self, number: int, event: Event) -> bytes:
        """Write an event of a part that need not wait."""
        if isinstance(event, (Delta, SummaryDelta)):
            part = self._parts.get(number)
            return b"" if part is None else self._piece(number, part, event)
        if isinstance(event, PartEnd):
            return self._part_end(number)
        if isinstance(event, Signed):
            return self._signed(number, event)
        if isinstance(event, CallBegin):
            return self._call_begin(number, event)
        self._parts[number] = _Part(_REASONING if isinstance(event, ReasoningBegin) else _TEXT)
        return b""

    def _call_begin(self, number: int, event: CallBegin) -> bytes:
        call = self._names.restored(ToolCall(event.call_id, event.name, "", event.custom, event.namespace))
        self._called = True
        self._parts[number] = _Part(_CALL, call if event.custom else None)
        block: JsonObject = {
            "type": "tool_use",
            "id": call_id_of(event.call_id, self._naming, number),
            "name": call.name,
            "input": {},
        }
        out = self._block_start(number, _CALL, block)
        return out + self._raw_piece(_encode(_CUSTOM_START)) if event.custom else out

    def _block_start(self, number: int, kind: int, block: JsonObject) -> bytes:
        out = self._block_end()
        self._open = number
        self._index += 1
        name, field = _PIECES[kind]
        self._prefix = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, name, field)
        )
        return out + _written("content_block_start", {"index": self._index, "content_block": block})

    def _block_end(self) -> bytes:
        """End the open block, if there is one."""
        if self._open < 0:
            return b""
        self._open = -1
        signature = self._signature(None) if self._unsigned else b""
        return (
            signature
            + b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index
        )

    def _raw_piece(self, text: bytes) -> bytes:
        return self._prefix + text + _PIECE_END

    def _opened(self, number: int, part: _Part) -> bytes:
        """Begin a block of text or thinking, unless the part's block is open."""
        if number == self._open:
            return b""
        if part.kind == _TEXT:
            return self._block_start(number, _TEXT, {"type": "text", "text": ""})
        assert part.kind == _REASONING
        out = self._block_start(number, _REASONING, {"type": "thinking", "thinking": "", "signature": ""})
        self._unsigned = True
        return out

    def _signature(self, signature: str | None) -> bytes:
        """The signature of the open block."""
        self._unsigned = False
        delta = {"type": "signature_delta", "signature": written_signature(signature)}
        return _written("content_block_delta", {"index": self._index, "delta": delta})

    def _piece(self, number: int, part: _Part, event: Delta | SummaryDelta) -> bytes:
        text = event.text
        if isinstance(event, SummaryDelta):
            if part.spoken or part.kind != _REASONING:
                return b""  # the reasoning itself is there
            if event.number != part.summary:
                text = text if part.summary < 0 else "\n\n" + text
                part.summary = event.number
        elif part.summary >= 0:
            return b""  # its summaries are there
        else:
            part.spoken = True
        if part.kind == _CALL:
            if number != self._open:
                return b""
            # Free text of a custom tool is a text inside of JSON: the same without its quotes.
            quoted = _encode(text) if part.call is None else _encode(_encode(text)[1:-1].decode())
            return self._raw_piece(quoted)
        return self._opened(number, part) + self._raw_piece(_encode(text))

    def _signed(self, number: int, event: Signed) -> bytes:
        part = self._parts.get(number)
        if part is None or part.kind != _REASONING:
            return b""
        out = b""
        if event.signature:
            out = self._opened(number, part) + self._signature(event.signature)
        if event.encrypted:
            out += self._block_start(
                number, _REASONING, {"type": "redacted_thinking", "data": written_data(event.encrypted)}
            )
            out += self._block_end()
        return out

    def _part_end(self, number: int) -> bytes:
        part = self._parts.pop(number, None)
        if part is None or number != self._open:
            return b""
        out = self._raw_piece(_encode(_CUSTOM_END)) if part.call is not None else b""
        return out + self._block_end() + self._waited()

    def _waited(self) -> bytes:
        """What waited for the end of a call: part by part, until a call is open again or nothing is left."""
        out: list[bytes] = []
        while self._waiting and self._open < 0:
            number = next(iter(self._waiting))
            events = self._waiting.pop(number)
            for event in events:
                if isinstance(event, (Delta, SummaryDelta)):
                    self._buffered_bytes -= 4 * len(event.text)
                elif isinstance(event, Signed):
                    self._buffered_bytes -= len(event.signature or "") + len(event.encrypted or "")
                self._buffered_bytes -= _EVENT_BYTES
                if isinstance(event, PartEnd):
                    part = self._parts.pop(number, None)
                    if part is not None and number == self._open:
                        if part.call is not None:
                            out.append(self._raw_piece(_encode(_CUSTOM_END)))
                        out.append(self._block_end())
                else:
                    out.append(self._now(number, event))
            open_part = self._parts.get(self._open)
            if open_part is not None and open_part.kind != _CALL and self._waiting:
                out.append(self._block_end())
        assert 0 <= self._buffered_bytes <= BUFFERED_BYTES_MAX
        return b"".join(out)

    def _message_delta(self) -> bytes:
        """The reason to stop and the usage, once for each usage."""
        usage = self._usage or Counts()
        if self._told == usage:
            return b""
        self._told = usage
        reason = written_stop(self._stop, self._called)
        delta: JsonObject = {
            "stop_reason": reason,
            "stop_sequence": self._sequence if reason == "stop_sequence" else None,
        }
        return _written("message_delta", {"delta": delta, "usage": written_usage(usage)})

    def _end(self) -> bytes:
        out = b"" if self._begun else self._message_start(None)
        while self._open >= 0:
            assert self._open in self._parts
            out += self._part_end(self._open)
        assert not self._waiting
        return out + self._message_delta() + _STOP


def _written(kind: str, fields: JsonObject) -> bytes:
    """An event. Its first field is its type, as in native streams: clients that read only the beginning find it there."""
    whole: JsonObject = {"type": kind}
    whole.update(fields)
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(whole))
