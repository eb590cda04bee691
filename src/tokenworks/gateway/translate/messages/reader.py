"""Reads a stream of messages as the events of the intermediate form."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE, Usage, later_usage, read_anthropic
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Event,
    Finish,
    PartEnd,
    ReasoningBegin,
    Signed,
    TextBegin,
    UsageReport,
)
from tokenworks.gateway.translate.messages.answers import ID_PREFIX
from tokenworks.gateway.translate.messages.shapes import (
    StreamBlock,
    StreamDelta,
    StreamEvent,
    StreamMessage,
)
from tokenworks.gateway.translate.messages.stops import read_stop
from tokenworks.gateway.translate.messages.values import fields_of, int_of, text_of

_event: Final = msgspec.json.Decoder(StreamEvent)
_any: Final = msgspec.json.Decoder()
_encode: Final = msgspec.json.encode
# Blocks of a stream follow each other; some gateways open several at a time, for parallel calls. Past this the oldest one ends.
OPEN_BLOCKS_MAX: Final = 128
_TEXT, _REASONING, _CALL, _OTHER = range(4)
_NOTHING: Final[tuple[Event, ...]] = ()


class _Block:
    """A block that has begun and not ended. `empty`: no piece of it was read. `signature`: of a block of thinking, as read so far."""

    __slots__ = ("empty", "kind", "part", "signature")

    def __init__(self, part: int, kind: int) -> None:
        self.part = part  # -1: of a block that is no part
        self.kind = kind
        self.empty = True
        self.signature: str | None = None


class MessagesReader:
    """Blocks of text, thinking and calls of the client's tools are parts; all others, as of tools that run at the vendor, are nothing."""

    __slots__ = ("_begun", "_blocks", "_called", "_ended", "_finished", "_parts", "_usage")

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}  # by the index in the stream
        self._parts = 0
        self._begun = False
        self._called = False
        self._finished = False
        self._ended = False
        self._usage: Usage | None = None

    def read(self, name: str, payload: bytes) -> Sequence[Event]:
        """The events in one event. One that can't be read gives none; a field of an unexpected type counts as absent."""
        try:
            fields = _event.decode(payload)
        except UNREADABLE:
            fields = _lenient(payload)
        kind = fields.type or name
        if kind == "content_block_delta":
            return self._delta(fields)
        if self._ended:
            return _NOTHING
        if kind == "content_block_start":
            return self._start(fields)
        if kind == "content_block_stop":
            block = self._blocks.pop(fields.index, None)
            return _NOTHING if block is None else self._block_end(block)
        if kind == "message_start":
            return self._message_start(fields.message or StreamMessage())
        if kind == "message_delta":
            return self._message_delta(fields)
        if kind == "message_stop":
            return self._end()
        return _NOTHING

    def finish(self) -> Sequence[Event]:
        """The ends of blocks that are open. A stream without `message_stop` has an end only if its reason to stop was read."""
        if self._ended:
            return _NOTHING
        return self._end() if self._finished else self._block_ends()

    def _message_start(self, message: StreamMessage) -> Sequence[Event]:
        if self._begun:
            return _NOTHING
        self._begun = True
        self._report(message.usage)
        usage = None if self._usage is None else self._usage.counts
        return (Begin((message.id or "").removeprefix(ID_PREFIX), message.model or "", 0, usage),)

    def _begin(self) -> list[Event]:
        """The beginning of a stream whose first event is missing."""
        return [] if self._begun else list(self._message_start(StreamMessage()))

    def _start(self, fields: StreamEvent) -> Sequence[Event]:
        block = fields.content_block
        if block is None or self._finished:
            return _NOTHING
        events = self._begin()
        before = self._blocks.pop(fields.index, None)
        if before is None and len(self._blocks) >= OPEN_BLOCKS_MAX:
            before = self._blocks.pop(next(iter(self._blocks)))
        if before is not None:
            events += self._block_end(before)
        kind = block.type
        if kind == "text":
            events += self._open(fields.index, _TEXT, TextBegin(self._parts))
            events += self._piece(fields.index, block.text)
        elif kind == "thinking":
            events += self._open(fields.index, _REASONING, ReasoningBegin(self._parts))
            events += self._piece(fields.index, block.thinking)
            self._blocks[fields.index].signature = block.signature or None
        elif kind == "redacted_thinking" and block.data:
            part = self._parts
            events += self._open(fields.index, _REASONING, ReasoningBegin(part))
            events.append(Signed(part, encrypted=block.data))
        elif kind == "tool_use" and block.name:
            self._called = True
            events += self._open(fields.index, _CALL, CallBegin(self._parts, block.id or "", block.name))
            if isinstance(block.input, dict) and block.input:
                events += self._piece(fields.index, _encode(block.input).decode())
        else:
            self._blocks[fields.index] = _Block(-1, _OTHER)
        return events

    def _open(self, index: int, kind: int, begin: Event) -> tuple[Event, ...]:
        self._blocks[index] = _Block(self._parts, kind)
        self._parts += 1
        assert len(self._blocks) <= OPEN_BLOCKS_MAX
        return (begin,)

    def _piece(self, index: int, text: str | None) -> tuple[Event, ...]:
        block = self._blocks.get(index)
        if not text or block is None:
            return _NOTHING
        block.empty = False
        return (Delta(block.part, text),)

    def _delta(self, fields: StreamEvent) -> Sequence[Event]:
        delta, block = fields.delta, self._blocks.get(fields.index)
        if delta is None:
            return _NOTHING
        if block is None:
            return self._misplaced(fields.index, delta, None)
        kind = block.kind
        text = delta.text if kind == _TEXT else delta.partial_json if kind == _CALL else delta.thinking
        if text and kind != _OTHER:
            block.empty = False
            return (Delta(block.part, text),)
        if delta.signature and kind == _REASONING:
            block.signature = delta.signature
            return _NOTHING
        return self._misplaced(fields.index, delta, block) if kind in {_TEXT, _REASONING} else _NOTHING

    def _misplaced(self, index: int, delta: StreamDelta, block: _Block | None) -> Sequence[Event]:
        """A piece of text in a block of thinking, or the reverse, or in a block that has not begun: it begins a part of its own."""
        if self._finished or self._ended or not (delta.text or delta.thinking):
            return _NOTHING
        events = self._begin()
        if block is None and len(self._blocks) >= OPEN_BLOCKS_MAX:
            block = self._blocks.pop(next(iter(self._blocks)))
        if block is not None:
            events += self._block_end(block)
        if delta.text:
            events += self._open(index, _TEXT, TextBegin(self._parts))
        else:
            events += self._open(index, _REASONING, ReasoningBegin(self._parts))
        events += self._piece(index, delta.text or delta.thinking)
        return events

    def _block_end(self, block: _Block) -> tuple[Event, ...]:
        """The end of a block. A signature is whole only here; a call without a piece has an empty object as its arguments."""
        if block.kind == _OTHER:
            return _NOTHING
        if block.signature is not None:
            return Signed(block.part, signature=block.signature), PartEnd(block.part)
        if block.kind == _CALL and block.empty:
            return Delta(block.part, "{}"), PartEnd(block.part)
        return (PartEnd(block.part),)

    def _block_ends(self) -> list[Event]:
        blocks, self._blocks = self._blocks, {}
        return [event for block in blocks.values() for event in self._block_end(block)]

    def _message_delta(self, fields: StreamEvent) -> Sequence[Event]:
        reason = None if fields.delta is None else fields.delta.stop_reason
        events: list[Event] = []
        if reason and not self._finished:
            self._finished = True
            sequence = None if fields.delta is None else fields.delta.stop_sequence
            events += self._begin()
            events += self._block_ends()
            events.append(Finish(read_stop(reason, self._called), sequence))
        if isinstance(fields.usage, dict):
            self._report(fields.usage)
            if self._usage is not None:
                events += self._begin()
                events.append(UsageReport(self._usage.counts))
        return events

    def _report(self, usage: object) -> None:
        """Reports are cumulative, and read as the meter reads them (`protocol/messages.py`)."""
        self._usage = later_usage(self._usage, read_anthropic(usage, self._usage))

    def _end(self) -> list[Event]:
        events = self._begin()
        events += self._block_ends()
        self._ended = True
        events.append(End())
        return events


def _lenient(payload: bytes) -> StreamEvent:
    """The readable fields of an event in which some have unexpected types."""
    try:
        fields = fields_of(_any.decode(payload))
    except UNREADABLE:
        return StreamEvent()
    event = StreamEvent(text_of(fields.get("type")) or "", int_of(fields.get("index")) or 0)
    event.usage = fields.get("usage")
    for name in ("delta", "content_block", "message"):
        value = fields.get(name)
        if not isinstance(value, dict):
            continue
        texts = {key: item for key, item in value.items() if isinstance(item, str)}
        if name == "delta":
            event.delta = msgspec.convert(texts, StreamDelta)
        elif name == "message":
            event.message = msgspec.convert(texts, StreamMessage)
            event.message.usage = value.get("usage")
        else:
            event.content_block = msgspec.convert(texts, StreamBlock)
            event.content_block.input = value.get("input")
    return event
