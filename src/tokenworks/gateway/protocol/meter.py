"""One stream of events between upstream and client: what may pass now, what waits, what was made so far.

Every event is decoded once, by a typed decoder that skips what nobody asks about; that costs less than searching it for
a dozen words. What does not fit the types is read leniently into the same types. The protocols are in `chat_meter.py`,
`messages_meter.py` and `responses_meter.py`.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.outcome import fault_said
from tokenworks.gateway.protocol.splice import model_name, payload_of
from tokenworks.gateway.protocol.usage import UNREADABLE, Usage, is_json, known_id, later_usage
from tokenworks.gateway.protocol.vendor_errors import Fault

# Bytes of text that make a token, where no tokenizer counts (the rule; docs/METERING.md).
BYTES_PER_TOKEN: Final = 4
# How far a stream's text may pass its maximum before it is cut: a tenth for the measure, some tokens for short ones.
OVER_TENTHS: Final = 11
OVER_TOKENS: Final = 16
# Channels (a choice's text, a call's arguments, …) whose text is remembered.
CHANNELS_MAX: Final = 1024
CHANNELS_BYTES_MAX: Final = 1 << 20
# Texts that came again as they were, before any grew: so many are pieces.
REPEATED_MAX: Final = 8
DONE: Final = b"[DONE]"
NEVER_BYTES: Final = 1 << 62
_LF_END: Final = b"\n\n"
_ANY_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_END_BYTES: Final = 4
_any: Final = msgspec.json.Decoder()


class UsageOptions(NamedTuple):
    """What the client asked of usage in a stream: its own event at the end (`include_usage`), or one in every chunk
    (`continuous_usage_stats`). What only the gateway asked for is taken out again. It says nothing in messages and
    responses, where usage is a part of the protocol.
    """

    final: bool = False
    each: bool = False


class EventTooLarge(Exception):
    """An event beyond `event_bytes_max`."""


class StreamMeter:
    """One stream. `feed` returns what may pass now; `withheld` is what waits for the record."""

    __slots__ = (
        "_early",
        "_event_bytes_max",
        "_grew",
        "_keep_bytes_max",
        "_kept_bytes",
        "_last",
        "_last_bytes",
        "_model_new",
        "_model_old",
        "_model_seen",
        "_over",
        "_over_tokens",
        "_parts",
        "_parts_bytes",
        "_released",
        "_repeated",
        "_requested_model",
        "_settled",
        "_skipped_bytes",
        "_text_max",
        "_usage_options",
        "_waiting",
        "begun",
        "calls",
        "choices",
        "counted",
        "failed",
        "filtered",
        "hidden",
        "kept",
        "maximum_check_bytes",
        "progress",
        "protocol",
        "shown_bytes",
        "stopped",
        "terminal",
        "upstream_id",
        "usage",
        "withheld",
    )  # fmt: skip

    def __init__(
        self,
        *,
        protocol: str,
        requested_model: str,
        usage_options: UsageOptions,
        event_bytes_max: int,
        text_max: int | None,
        keep_bytes_max: int = 0,
        choices: int = 1,
    ) -> None:
        self.protocol = protocol
        self._usage_options = usage_options
        self._requested_model = requested_model
        self._event_bytes_max = event_bytes_max
        self._text_max = text_max
        # The tokens of text from which on it is over: more than text_max × 1.1 + 16.
        self._over_tokens = None if text_max is None else text_max * OVER_TENTHS // 10 + OVER_TOKENS + 1
        self.maximum_check_bytes = (
            NEVER_BYTES if self._over_tokens is None else self._over_tokens * BYTES_PER_TOKEN
        )
        """With fewer bytes shown it is not over its maximum; from here on `over_maximum` says it."""
        self._keep_bytes_max = keep_bytes_max
        self._kept_bytes = 0
        self._parts: list[bytes] = []  # of an event that has no end yet
        self._parts_bytes = 0
        self._early = b""  # events before the first one with content
        self._waiting = b""  # the finish, until usage came
        self._released = False
        self._settled = False  # usage came with the finish or after it
        self._over = False  # the upstream's count passed the maximum
        self._model_seen: str | None = requested_model or None
        self._model_old = self._model_new = b""
        # The last text of each channel, as long as every text began with the one before it; None once one did not.
        self._last: dict[object, str] | None = {}
        self._last_bytes = self._repeated = 0
        self._grew = False
        self._skipped_bytes = 0
        self.begun = False
        """Whether content passed: another deployment can no longer be tried."""
        self.failed: Fault | None = None
        """What the upstream said of an error, in any event."""
        self.filtered = False
        """Whether the provider's filter ended it."""
        self.stopped = False
        """Whether every choice that began has said why it ended, or the stream came to its end."""
        self.terminal = False
        """Whether the terminal event came."""
        self.withheld = b""
        self.usage: Usage | None = None
        self.progress = 0
        """Texts so far. Each has at least one token, so it is a lower bound of the output."""
        self.shown_bytes = 0
        """Bytes (UTF-8) of all text the model made: answers, reasoning, refusals, names and arguments of calls, each once.
        A token shows as at least one, so it is an upper bound of the visible output.
        """
        self.calls = 0
        """Calls of tools: each has tokens that show as nothing."""
        self.choices = choices
        """Choices that were asked for, or more that began."""
        self.hidden = False
        """Whether there is reasoning that is not shown as it was made: summarised, encrypted, redacted, compacted."""
        self.kept: list[str] = []
        """The texts, for a tokenizer, up to `keep_bytes_max` bytes."""
        self.counted: tuple[int, int] | None = None
        """(bytes, tokens): what a tokenizer counted of the first bytes shown; the rest is measured by its bytes."""
        self.upstream_id: str | None = None

    # What passes.

    def feed(self, data: bytes) -> bytes:
        """What may pass now. Raises `EventTooLarge`."""
        if self.terminal:
            self._after(data)
            return b""
        if self._parts:
            if b"\n" not in data and b"\r" not in data:
                # Nothing ends in it; most of a large event is so.
                self._part(data)
                return b""
            last = self._parts[-1]
            near = (
                last[-_END_BYTES:] + data
                if len(last) >= _END_BYTES
                else b"".join(self._parts)[-_END_BYTES:] + data
            )
            if _ANY_END.search(near) is None:
                self._part(data)
                return b""
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts, self._parts_bytes = [], 0
        elif data.endswith(_LF_END) and data.find(_LF_END) == len(data) - 2:
            return self._take(data)
        return self._split(data)

    def _split(self, data: bytes) -> bytes:
        out: list[bytes] = []
        at, by_line_feeds = 0, b"\r" not in data
        while True:
            if by_line_feeds:
                after = data.find(_LF_END, at) + 2
                if after < 2:
                    break
            else:
                match = _ANY_END.search(data, at)
                if match is None:
                    break
                after = match.end()
            piece = self._take(data[at:after])
            if piece:
                out.append(piece)
            at = after
            if self.terminal:
                self._after(data[at:])
                return b"".join(out)
        if at < len(data):
            self._part(data[at:])
        return b"".join(out)

    def _part(self, data: bytes) -> None:
        self._parts.append(data)
        self._parts_bytes += len(data)
        if self._parts_bytes > self._event_bytes_max:
            raise EventTooLarge

    def _after(self, data: bytes) -> None:
        """What comes after the end passes with it; after a fault nothing does."""
        if self.failed is None:
            self.withheld += data
            if len(self.withheld) > 2 * self._event_bytes_max:
                raise EventTooLarge

    def read_whole(self, body: bytes) -> None:
        """Count what an answer that is not streamed shows; the rest of it is `outcome`'s and `usage`'s."""
        raise NotImplementedError

    def _take(self, event: bytes) -> bytes:
        """Read one whole event; what may pass because of it."""
        raise NotImplementedError

    def _take_lenient(self, event: bytes, payload: bytes, content: dict[str, Any]) -> bytes:
        """The same for an event whose fields do not fit the protocol's types."""
        raise NotImplementedError

    def _odd(self, event: bytes) -> bytes:
        """The end, a comment, an event of several data lines, or what does not fit the types."""
        payload = payload_of(event).strip()
        if not payload:
            return self._pass(event, content=False)
        if payload == DONE:
            return self._end(event)
        try:
            content = _any.decode(payload)
        except UNREADABLE:
            # What can't be read here may still be read by the client: all of it is counted.
            self._show((0, "unreadable"), payload.decode("utf-8", "replace"))
            return self._pass(event, content=True)
        if not isinstance(content, dict):
            return self._fail(fault_said(200, {"error": content}, ""))
        return self._take_lenient(event, payload, content)

    def _pass(self, event: bytes, *, content: bool) -> bytes:
        """An event that is neither a fault nor the end: now, with what waited for it, or later."""
        if self.failed is not None:
            return b""
        if self.stopped and not content and not self._settled and not self._released:
            self._waiting += event
            return b"" if len(self._waiting) <= self._event_bytes_max else self.release()
        if not self.begun:
            if not content and not self.stopped and len(self._early) <= self._event_bytes_max:
                self._early += event
                return b""
            self.begun = True
        if self._early or self._waiting:
            event = self._early + self._waiting + event
            self._early = self._waiting = b""
        return event

    def _fail(self, fault: Fault) -> bytes:
        """The upstream's own error never passes: the gateway says it in its own words."""
        out = self._waiting if self.begun and self.failed is None else b""
        self.failed = self.failed or fault
        self._early = self._waiting = b""
        return out

    def _end(self, event: bytes) -> bytes:
        """The terminal event: it waits for the record, and so does what waited before it."""
        self.terminal = True
        if self.failed is None:
            self.withheld = self._early + self._waiting + event
        self._early = self._waiting = b""
        return b""

    @property
    def waiting(self) -> bool:
        """Whether a finish reason without content is kept back for the usage."""
        return self._waiting != b""

    def release(self) -> bytes:
        """Give out what waits for the usage; usage goes on being read."""
        out, self._waiting, self._released = self._waiting, b"", True
        if out:
            out, self._early = self._early + out, b""
            self.begun = True
        return out

    @property
    def whole(self) -> bool:
        """Whether it ended properly; else it is interrupted."""
        return self.failed is None and (self.stopped or self.terminal)

    def finish(self) -> bytes:
        """The upstream ended: what is left passes after the record, too. A last event without its empty line gets it; one
        that was cut is dropped.
        """
        if self._parts:
            rest = b"".join(self._parts).rstrip(b"\r\n") + _LF_END
            self._parts = []
            payload = (
                payload_of(rest)
                if b"\n" in rest[:-2] or b"\r" in rest or rest[:5] != b"data:"
                else rest[5:-2]
            )
            if not payload or payload.strip() == DONE or is_json(payload):
                out = self._take(rest)
                if not self.terminal and self.failed is None:
                    self.withheld = out
        if not self.terminal and self.failed is None:
            self.withheld = self._early + self._waiting + self.withheld
            self._early = self._waiting = b""
        return self.withheld

    @property
    def part_bytes(self) -> int:
        """Of an event whose end has not come."""
        return self._parts_bytes

    @property
    def buffered_bytes(self) -> int:
        """What is kept of the stream: events without end, the beginning, what waits, what is held, texts."""
        waits = len(self._early) + len(self._waiting) + len(self.withheld)
        return self._parts_bytes + waits + self._kept_bytes

    # What was made.

    def _show(self, channel: object, text: str) -> None:
        """A text that is not empty. Some vendors send all of it again with every event (MiniMax): a stream in which every
        text begins with the one before it is read so, until one does not.
        """
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if self._last is not None:
            text, size = self._grown(self._last, channel, text, size)
            if not size:
                return
        self.progress += 1
        self.shown_bytes += size
        if self._kept_bytes < self._keep_bytes_max:
            self._kept_bytes += size
            self.kept.append(text)

    def _grown(self, last: dict[object, str], channel: object, text: str, size: int) -> tuple[str, int]:
        """What is new in a text (and its bytes), while it is not clear whether texts are pieces or all so far."""
        before = last.get(channel)
        if before is None:
            self._last_bytes += size
            if len(last) < CHANNELS_MAX and self._last_bytes <= CHANNELS_BYTES_MAX:
                last[channel] = text
            return text, size
        known = len(before.encode("utf-8", "surrogatepass"))
        if not text.startswith(before):
            # They are pieces: what was taken for a repetition was none.
            self.shown_bytes += self._skipped_bytes
            self._last = None
            return text, size
        if len(text) > len(before):
            self._grew = True
            self._skipped_bytes += known
            last[channel] = text
            return text[len(before) :], size - known
        if self._grew:
            self._skipped_bytes += size
            return "", 0
        self._repeated += 1  # the same piece again: "ha", "ha"
        if self._repeated == REPEATED_MAX:
            self._last = None
        return text, size

    def _use(self, usage: Usage | None) -> None:
        """A report of usage."""
        usage = later_usage(self.usage, usage)
        if usage is None:
            return
        self.usage = usage
        if self._text_max is not None and usage.counts.output_tokens > self._text_max:
            self._over = True
            self.maximum_check_bytes = 0

    def _identify(self, value: object) -> None:
        self.upstream_id = known_id(value) or self.upstream_id or ""

    def _named(self, event: bytes, payload: bytes, model: str | None) -> bytes:
        """The event with the model's name as it was asked for."""
        if model != self._model_seen:
            self._learn(payload, model)
        return event.replace(self._model_old, self._model_new) if self._model_old else event

    def _learn(self, payload: bytes, model: str | None) -> None:
        """How the upstream writes its model's name: only where it does so otherwise it is read again."""
        if not self._requested_model or not model:
            return
        found = model_name(payload)
        if found is None:
            return
        raw, member = found
        self._model_seen = model
        self._model_old = self._model_new = b""
        if model != self._requested_model:
            self._model_old = member
            self._model_new = member[: -len(raw)] + msgspec.json.encode(self._requested_model)

    def measured(self, size: int, tokens: int) -> None:
        """A tokenizer counted the first `size` bytes shown."""
        self.counted = size, tokens
        self.maximum_check_bytes = 0

    def text_tokens(self) -> int:
        """Tokens of the text so far: by a tokenizer as far as one counted, else by its bytes."""
        if self.counted is None:
            return self.shown_bytes // BYTES_PER_TOKEN
        size, tokens = self.counted
        return tokens + max(0, self.shown_bytes - size) // BYTES_PER_TOKEN

    @property
    def usage_over_maximum(self) -> bool:
        """Whether the upstream's own count passed the maximum."""
        return self._over

    @property
    def over_maximum(self) -> bool:
        """Whether it made more than it was asked for, by the upstream's own count or by its text."""
        return self._over or (self._over_tokens is not None and self.text_tokens() >= self._over_tokens)

    def counts(self) -> Counts:
        """What is known to have been produced so far."""
        if self.usage is None:
            return Counts(output=self.progress)
        known = self.usage.counts
        missing = self.progress - known.output_tokens
        return known if missing <= 0 else known._replace(output=known.output + missing)


def decoded(body: bytes) -> dict[str, Any]:
    """A whole answer's fields, none where it has none."""
    try:
        content = _any.decode(body)
    except UNREADABLE:
        return {}
    return content if isinstance(content, dict) else {}
