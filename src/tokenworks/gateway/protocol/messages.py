"""The streams of Anthropic's messages: usage at the start and at the end, `message_stop`."""

from typing import Any, Final

import msgspec

from tokenworks.gateway.protocol.event_shapes import (
    MessagesBlock,
    MessagesDelta,
    MessagesEvent,
    MessagesMessage,
)
from tokenworks.gateway.protocol.meter import StreamMeter, decoded
from tokenworks.gateway.protocol.outcome import FILTERED_FINISHES, fault_of_event, fault_said
from tokenworks.gateway.protocol.splice import payload_of
from tokenworks.gateway.protocol.usage import UNREADABLE, later_usage, read_anthropic

_event: Final = msgspec.json.Decoder(MessagesEvent)
_HIDDEN_BLOCKS: Final = frozenset({"redacted_thinking", "compaction"})
_HIDDEN_DELTAS: Final = frozenset({"signature_delta", "compaction_delta"})
_CALL_BLOCKS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


class MessagesMeter(StreamMeter):
    """Anthropic's messages."""

    __slots__ = ()

    def read_whole(self, body: bytes) -> None:
        content = decoded(body)
        self.filtered = _text(content.get("stop_reason")) in FILTERED_FINISHES
        blocks = content.get("content")
        for at, block in enumerate(blocks if isinstance(blocks, list) else ()):
            if isinstance(block, dict):
                if block.get("signature"):
                    self.hidden = True
                self._block(_lenient({"index": at, "content_block": block}))

    def _take(self, event: bytes) -> bytes:
        at = event.find(b"data:")
        payload = event[at + 5 :] if at >= 0 else b""
        try:
            read = _event.decode(payload)
        except UNREADABLE:
            return self._odd(event)
        delta = read.delta
        if read.type == "content_block_delta" and delta is not None and read.error is None:
            text = delta.text or delta.thinking or delta.partial_json or delta.content
            if text:
                self._show((read.index, delta.type), text)
            elif delta.type in _HIDDEN_DELTAS:
                self.hidden = True
            if self.begun and not self.stopped and self.failed is None:
                return event
            return self._pass(event, content=bool(text) or delta.type == "signature_delta")
        return self._other(event, payload, read)

    def _other(self, event: bytes, payload: bytes, read: MessagesEvent) -> bytes:
        """Any event but a piece of a block."""
        kind = read.type
        if read.error or kind == "error":
            fault = fault_of_event(payload_of(event), self.protocol) or fault_said(200, None, "error")
            return self._fail(fault)
        if kind == "message_start" and read.message is not None:
            self._identify(read.message.id)
            self._report(read.message.usage)
            return self._pass(self._named(event, payload, read.message.model), content=False)
        if kind == "content_block_start":
            return self._pass(event, content=self._block(read))
        if kind == "message_delta":
            reason = None if read.delta is None else read.delta.stop_reason
            self.filtered = self.filtered or reason in FILTERED_FINISHES
            self.stopped = self.stopped or bool(reason)
            self._report(read.usage)
            self._settled = self._settled or (self.stopped and read.usage is not None)
            return self._pass(event, content=False)
        if kind == "message_stop":
            self.stopped = True
            return self._end(event)
        return self._pass(event, content=kind not in {"ping", "content_block_stop", ""})

    def _report(self, usage: Any) -> None:
        self._use(later_usage(None, read_anthropic(usage, self.usage)))

    def _block(self, read: MessagesEvent) -> bool:
        """What the beginning of a block shows; whether it is content."""
        block = read.content_block
        if block is None:
            return False
        if block.type in _HIDDEN_BLOCKS:
            self.hidden = True
            return True
        before = self.progress
        for name, text in (("text_delta", block.text), ("thinking_delta", block.thinking)):
            if text:
                self._show((read.index, name), text)
        if block.type in _CALL_BLOCKS:
            self.calls += 1
            if block.name:
                self._show((read.index, "name"), block.name)
            if isinstance(block.input, dict) and block.input:
                self._show((read.index, "input"), msgspec.json.encode(block.input).decode())
            return True
        return self.progress > before or block.type not in {"text", "thinking", ""}

    def _take_lenient(self, event: bytes, payload: bytes, content: dict[str, Any]) -> bytes:
        if content.get("type") == "content_block_delta":
            return self._odd_delta(event, content)
        return self._other(event, payload, _lenient(content))

    def _odd_delta(self, event: bytes, content: dict[str, Any]) -> bytes:
        said = content.get("delta")
        delta = said if isinstance(said, dict) else {}
        shown = False
        for name in ("text", "thinking", "partial_json", "content"):
            text = delta.get(name)
            if isinstance(text, str) and text:
                self._show((_index(content), delta.get("type")), text)
                shown = True
                break
        return self._pass(event, content=shown)


def _index(content: dict[str, Any]) -> int | None:
    index = content.get("index")
    return index if type(index) is int else None


def _lenient(content: dict[str, Any]) -> MessagesEvent:
    """An event of which some fields are of other types than they should be: those that can be read."""
    message, block, delta = content.get("message"), content.get("content_block"), content.get("delta")
    read = MessagesEvent(
        type=_text(content.get("type")) or "", index=_index(content), error=content.get("error")
    )
    read.usage = content.get("usage")
    if isinstance(message, dict):
        read.message = MessagesMessage(
            _text(message.get("id")), _text(message.get("model")), message.get("usage")
        )
    if isinstance(block, dict):
        read.content_block = MessagesBlock(
            _text(block.get("type")) or "", _text(block.get("text")), _text(block.get("thinking")), _text(block.get("name")),
            block.get("input"),
        )  # fmt: skip
    if isinstance(delta, dict):
        read.delta = MessagesDelta(stop_reason=_text(delta.get("stop_reason")))
    return read


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
