"""Metering a stream without reading it: whole events pass as they came, and only those that matter are decoded.

A chunk that ends between events and has neither usage nor an end in it is forwarded after two substring searches. What
must not pass yet is held back: a partial event, and everything from the terminal event on.
"""

import re
from typing import Any, Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.dialects import UNREADABLE, Usage, anthropic_usage, object_id, openai_usage

_DONE: Final = b"[DONE]"
_BACKSLASH: Final = 0x5C
# What begins a text that the model made. Inside a text quotes are escaped, so this is never part of one.
_MARKS: Final[dict[str, tuple[bytes, ...]]] = {
    "chat": (b'content":"', b'"reasoning":"', b'"refusal":"', b'"arguments":"'),
    "completions": (b'"text":"',),
    "messages": (b'"text":"', b'"thinking":"', b'"partial_json":"'),
    "responses": (b'"delta":"',),
}
# The provider's filter ended the answer: chat and completions, messages, responses.
FILTERED: Final = re.compile(rb'"(?:finish_reason|stop_reason|reason)": ?"(?:content_filter|refusal)"')


class _ChatChunk(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    choices: list[Any] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Inner(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    type: str = ""
    message: _Inner | None = None
    response: _Inner | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_chat_chunk = msgspec.json.Decoder(_ChatChunk)
_event = msgspec.json.Decoder(_Event)


class EventTooLarge(Exception):
    """An event beyond `event_bytes_max`."""


class StreamMeter:
    """One stream. `feed` returns what may pass now; `held` is what waits for the record."""

    __slots__ = (
        "_drop_usage",
        "_event_bytes_max",
        "_marks",
        "_protocol",
        "_rest",
        "failed",
        "filtered",
        "held",
        "progress",
        "shown_bytes",
        "terminal",
        "upstream_id",
        "usage",
    )

    def __init__(self, *, protocol: str, drop_usage: bool, event_bytes_max: int) -> None:
        self._protocol = protocol
        self._drop_usage = drop_usage
        self._event_bytes_max = event_bytes_max
        self._rest = b""
        self.held = b""
        self.terminal = False
        self.failed = False
        self.usage: Usage | None = None
        self.progress = 0
        """Events with content so far. Each has at least one token, so it is a lower bound of the output."""
        self.shown_bytes = 0
        """Bytes of content so far. A token shows as at least one, so it is an upper bound of the visible output."""
        self.filtered = False
        """Whether the provider's filter ended it."""
        self._marks: tuple[bytes, ...] = ()
        self.upstream_id: str | None = None

    def feed(self, data: bytes) -> bytes:
        if self.terminal:
            self.held += data
            if len(self.held) > self._event_bytes_max:
                raise EventTooLarge
            return b""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif data.endswith(b"\n\n") and not self._matters(data):
            self._count(data)
            return data
        return self._slow(data)

    def _matters(self, data: bytes) -> bool:
        raise NotImplementedError

    def _count(self, data: bytes) -> None:
        for mark in self._marks or self._find_marks(data):
            at = data.find(mark)
            while at >= 0:
                begin = at + len(mark)
                end = data.find(b'"', begin)
                while end > begin and data[end - 1] == _BACKSLASH:
                    # An escaped quote; after an escaped backslash this goes too far, and the bound is only looser.
                    end = data.find(b'"', end + 1)
                if end < 0:
                    end = len(data)
                if end > begin:
                    self.progress += 1
                    self.shown_bytes += end - begin
                at = data.find(mark, end)
        if (b'filter"' in data or b'"refusal"' in data) and FILTERED.search(data):
            self.filtered = True

    def _find_marks(self, data: bytes) -> tuple[bytes, ...]:
        """An upstream writes all its events alike: with a space after the colon, or without."""
        compact = _MARKS[self._protocol]
        spaced = tuple(mark.replace(b'":"', b'": "') for mark in compact)
        key = b'"choices":' if self._protocol in {"chat", "completions"} else b'"type":'
        if key not in data:
            return compact + spaced
        self._marks = spaced if key + b" " in data else compact
        return self._marks

    def _event(self, event: bytes, payload: bytes) -> bool:
        """Look at one event. False: it does not pass (the usage event that only we asked for)."""
        raise NotImplementedError

    def _slow(self, data: bytes) -> bytes:
        out: list[bytes] = []
        at = 0
        while True:
            end, after = _event_end(data, at)
            if end < 0:
                break
            event = data[at:after]
            if self._matters(event):
                passes = self._event(event, _payload(data[at:end]))
                if self.terminal:
                    self.held = data[at:]
                    return b"".join(out)
                if not passes:
                    at = after
                    continue
            self._count(event)
            out.append(event)
            at = after
        self._rest = data[at:]
        if len(self._rest) > self._event_bytes_max:
            raise EventTooLarge
        return b"".join(out)

    def finish(self) -> bytes:
        """The upstream ended: what is left passes after the record, too."""
        if self._rest:
            if self._matters(self._rest):
                self._event(self._rest, _payload(self._rest))
            self.held, self._rest = self._rest + self.held, b""
        return self.held

    def counts(self) -> Counts:
        """What is known to have been produced so far."""
        return Counts(output=self.progress)


def _event_end(data: bytes, at: int) -> tuple[int, int]:
    """(end of the event, start of the next) or (-1, -1). Events end with an empty line: LF LF or CR LF CR LF."""
    lf = data.find(b"\n\n", at)
    crlf = data.find(b"\r\n\r\n", at)
    if crlf >= 0 and (lf < 0 or crlf < lf):
        return crlf, crlf + 4
    return (lf, lf + 2) if lf >= 0 else (-1, -1)


def _payload(event: bytes) -> bytes:
    """The data lines of an event, joined (WHATWG HTML, 9.2.6)."""
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.replace(b"\r\n", b"\n").split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines)


class ChatMeter(StreamMeter):
    """Chat completions and completions: `data: {…}` events, a usage event without choices, `[DONE]`."""

    __slots__ = ()

    def _matters(self, data: bytes) -> bool:
        if b'"usage"' in data and data.count(b'"usage"') != data.count(b'"usage":null') + data.count(
            b'"usage": null'
        ):
            return True
        return _DONE in data or b'"error"' in data or self.upstream_id is None

    def _event(self, event: bytes, payload: bytes) -> bool:
        if payload.strip() == _DONE:
            self.terminal = True
            return True
        try:
            chunk = _chat_chunk.decode(payload)
        except UNREADABLE:
            return True
        if self.upstream_id is None:
            self.upstream_id = object_id(chunk.id) or ""
        if bytes(chunk.error) != b"null":
            self.failed = True
        usage = openai_usage(chunk.usage)
        if usage is not None:
            self.usage = usage
            return bool(chunk.choices) or not self._drop_usage
        return True


class MessagesMeter(StreamMeter):
    """Anthropic's messages: usage at the start and at the end, `message_stop`."""

    __slots__ = ()

    def _matters(self, data: bytes) -> bool:
        return b'"usage"' in data or b"message_stop" in data or b"event: error" in data

    def _event(self, event: bytes, payload: bytes) -> bool:
        try:
            read = _event.decode(payload)
        except UNREADABLE:
            return True
        if read.type == "message_start" and read.message is not None:
            self.upstream_id = object_id(read.message.id)
            self.usage = anthropic_usage(read.message.usage, self.usage)
        elif read.type == "message_delta":
            self.usage = anthropic_usage(read.usage, self.usage)
        elif read.type == "message_stop":
            self.terminal = True
        elif read.type == "error":
            self.failed = True
        return True

    def counts(self) -> Counts:
        if self.usage is None:
            return Counts(output=self.progress)
        return self.usage.counts._replace(output=max(self.progress, 0))


class ResponsesMeter(StreamMeter):
    """OpenAI's responses: the last event carries the usage."""

    __slots__ = ()

    def _matters(self, data: bytes) -> bool:
        return (
            b"response.completed" in data
            or b"response.incomplete" in data
            or b"response.failed" in data
            or b"event: error" in data
            or self.upstream_id is None
        )

    def _event(self, event: bytes, payload: bytes) -> bool:
        try:
            read = _event.decode(payload)
        except UNREADABLE:
            return True
        if read.response is not None:
            self.upstream_id = object_id(read.response.id) or self.upstream_id or ""
        elif self.upstream_id is None and read.type:
            self.upstream_id = ""
        if read.type in {"response.completed", "response.incomplete", "response.failed"}:
            self.terminal = True
            self.failed = read.type == "response.failed"
            if read.response is not None:
                self.usage = openai_usage(read.response.usage)
        elif read.type == "error":
            self.failed = True
        return True


def make_meter(protocol: str, *, drop_usage: bool, event_bytes_max: int) -> StreamMeter:
    kind = {"messages": MessagesMeter, "responses": ResponsesMeter}.get(protocol, ChatMeter)
    return kind(protocol=protocol, drop_usage=drop_usage, event_bytes_max=event_bytes_max)
