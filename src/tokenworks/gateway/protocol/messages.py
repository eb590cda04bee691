"""The meter of Anthropic's messages: usage in the first event and near the end, `message_stop` as the terminal event."""

from collections.abc import Mapping
from typing import Final

import msgspec

from tokenworks.gateway.protocol.event_shapes import (
    MessagesBlock,
    MessagesDelta,
    MessagesEvent,
    MessagesMessage,
)
from tokenworks.gateway.protocol.meter import StreamMeter, decoded
from tokenworks.gateway.protocol.outcome import FILTERED_FINISHES, fault_of_event, read_fault
from tokenworks.gateway.protocol.splice import payload_of
from tokenworks.gateway.protocol.usage import UNREADABLE, later_usage, read_anthropic

_Fields = Mapping[str, object]
_event: Final = msgspec.json.Decoder(MessagesEvent)
_HIDDEN_BLOCKS: Final = frozenset({"redacted_thinking", "compaction"})
_HIDDEN_DELTAS: Final = frozenset({"signature_delta", "compaction_delta"})
_CALL_BLOCKS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


class MessagesMeter(StreamMeter):
    """The meter of Anthropic's messages."""

    __slots__ = ()

    def read_whole(self, body: bytes) -> None:
        content = decoded(body)
        self.filtered = _text(content.get("stop_reason")) in FILTERED_FINISHES
        blocks = content.get("content")
        for at, block in enumerate(blocks if isinstance(blocks, list) else ()):
            if isinstance(block, dict):
                if block.get("signature"):
                    self.hidden = True
                self._block(_lenient_event({"index": at, "content_block": block}))

    def _take(self, event: bytes) -> bytes:
        at = event.find(b"data:")
        payload = event[at + 5 :] if at >= 0 else b""
        try:
            fields = _event.decode(payload)
        except UNREADABLE:
            return self._take_unusual(event)
        delta = fields.delta
        if fields.type == "content_block_delta" and delta is not None and fields.error is None:
            text = delta.text or delta.thinking or delta.partial_json or delta.content
            if text:
                self._show((fields.index, delta.type), text)
            elif delta.type in _HIDDEN_DELTAS:
                self.hidden = True
            if self.begun and not self.stopped and self.fault is None:
                return event
            return self._pass(event, content=bool(text) or delta.type == "signature_delta")
        return self._other(event, payload, fields)

    def _other(self, event: bytes, payload: bytes, fields: MessagesEvent) -> bytes:
        """Read any event that is not a piece of a block; returns the bytes that may pass."""
        kind = fields.type
        if fields.error or kind == "error":
            fault = fault_of_event(payload_of(event), self.protocol) or read_fault(200, None, "error")
            return self._fail(fault)
        if kind == "message_start" and fields.message is not None:
            self._identify(fields.message.id)
            self._report(fields.message.usage)
            return self._pass(self._named(event, payload, fields.message.model), content=False)
        if kind == "content_block_start":
            return self._pass(event, content=self._block(fields))
        if kind == "message_delta":
            reason = None if fields.delta is None else fields.delta.stop_reason
            self.filtered = self.filtered or reason in FILTERED_FINISHES
            self.finish_reason = reason or self.finish_reason
            self.stopped = self.stopped or bool(reason)
            self._report(fields.usage)
            self._settled = self._settled or (self.stopped and fields.usage is not None)
            return self._pass(event, content=False)
        if kind == "message_stop":
            self.stopped = True
            return self._end(event)
        return self._pass(event, content=kind not in {"ping", "content_block_stop", ""})

    def _report(self, usage: object) -> None:
        self._use(later_usage(None, read_anthropic(usage, self.usage)))

    def _block(self, fields: MessagesEvent) -> bool:
        """Count the text in the start of a block. True if the start is content."""
        block = fields.content_block
        if block is None:
            return False
        if block.type in _HIDDEN_BLOCKS:
            self.hidden = True
            return True
        before = self.progress
        for name, text in (("text_delta", block.text), ("thinking_delta", block.thinking)):
            if text:
                self._show((fields.index, name), text)
        if block.type in _CALL_BLOCKS:
            self.calls += 1
            if block.name:
                self._show((fields.index, "name"), block.name)
            if isinstance(block.input, dict) and block.input:
                self._show((fields.index, "input"), msgspec.json.encode(block.input).decode())
            return True
        return self.progress > before or block.type not in {"text", "thinking", ""}

    def _take_lenient(self, event: bytes, payload: bytes, content: _Fields) -> bytes:
        if content.get("type") == "content_block_delta":
            return self._lenient_delta(event, content)
        return self._other(event, payload, _lenient_event(content))

    def _lenient_delta(self, event: bytes, content: _Fields) -> bytes:
        value = content.get("delta")
        delta = value if isinstance(value, dict) else {}
        shown = False
        for name in ("text", "thinking", "partial_json", "content"):
            text = delta.get(name)
            if isinstance(text, str) and text:
                self._show((_index(content), delta.get("type")), text)
                shown = True
                break
        return self._pass(event, content=shown)


def _index(content: _Fields) -> int | None:
    index = content.get("index")
    return index if type(index) is int else None


def _lenient_event(content: _Fields) -> MessagesEvent:
    """The readable fields of an event in which some fields have unexpected types."""
    message, block, delta = content.get("message"), content.get("content_block"), content.get("delta")
    fields = MessagesEvent(
        type=_text(content.get("type")) or "", index=_index(content), error=content.get("error")
    )
    fields.usage = content.get("usage")
    if isinstance(message, dict):
        fields.message = MessagesMessage(
            _text(message.get("id")), _text(message.get("model")), message.get("usage")
        )
    if isinstance(block, dict):
        fields.content_block = MessagesBlock(
            _text(block.get("type")) or "", _text(block.get("text")), _text(block.get("thinking")), _text(block.get("name")),
            block.get("input"),
        )  # fmt: skip
    if isinstance(delta, dict):
        fields.delta = MessagesDelta(stop_reason=_text(delta.get("stop_reason")))
    return fields


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
