"""The meter of one stream of events from an upstream to a client: which bytes pass now, which are withheld, what was produced.

A typed decoder reads each event once and skips unused fields; that costs less than searching the event for a dozen words. An
event that does not fit the types is read leniently into the same types. Each protocol has a subclass: `chat.py`, `messages.py`,
`responses.py`.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.finishes import FINISHES_MAX, known_finish
from tokenworks.gateway.protocol.outcome import read_fault
from tokenworks.gateway.protocol.splice import model_name, payload_of
from tokenworks.gateway.protocol.usage import UNREADABLE, Usage, is_json, known_id, later_usage
from tokenworks.gateway.protocol.vendor_errors import Fault

# Bytes of text counted as one token if no tokenizer counts them (docs/METERING.md).
BYTES_PER_TOKEN: Final = 4
# How far a stream's text may exceed its maximum before the stream is cut: a tenth, since bytes measure tokens roughly, and some
# tokens for short texts.
OVER_TENTHS: Final = 11
OVER_TOKENS: Final = 16
# Limits on the channels (a choice's text, a call's arguments, …) whose last text is remembered.
CHANNELS_MAX: Final = 1024
CHANNELS_BYTES_MAX: Final = 1 << 20
# After so many repeated texts, before any text has grown, the texts are taken for pieces.
REPEATED_MAX: Final = 8
DONE: Final = b"[DONE]"
NEVER_BYTES: Final = 1 << 62
_LF_END: Final = b"\n\n"
_ANY_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_END_BYTES: Final = 4
_any: Final = msgspec.json.Decoder()


class UsageOptions(NamedTuple):
    """The usage that the client requested in a stream: in an event at the end (`final`, from `include_usage`) or in every chunk
    (`each`, from `continuous_usage_stats`). With `cost` every event after the stream's stop is withheld, so that its usage can get the
    cost once the record is on disk. The meter removes usage that only the gateway requested. The options have no meaning in
    messages and responses, where usage is a part of the protocol.
    """

    final: bool = False
    each: bool = False
    cost: bool = False


class EventTooLarge(Exception):
    """An event beyond `event_bytes_max`."""


class StreamMeter:
    """One stream. `feed` returns the bytes that may pass now; `withheld` has the bytes that pass after the usage record is
    on disk.
    """

    __slots__ = (
        "_before_content",
        "_event_bytes_max",
        "_grew",
        "_keep_bytes_max",
        "_kept_bytes",
        "_last",
        "_last_bytes",
        "_model_new",
        "_model_old",
        "_model_seen",
        "_more_finishes",
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
        "_withheld_finish",
        "begun",
        "calls",
        "choices",
        "counted",
        "fault",
        "filtered",
        "finish_reason",
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
        # The least number of text tokens that exceeds the maximum: more than text_max × 1.1 + 16.
        self._over_tokens = None if text_max is None else text_max * OVER_TENTHS // 10 + OVER_TOKENS + 1
        self.maximum_check_bytes = (
            NEVER_BYTES if self._over_tokens is None else self._over_tokens * BYTES_PER_TOKEN
        )
        """With fewer shown bytes the stream cannot exceed its maximum, so `over_maximum` need not be read."""
        self._keep_bytes_max = keep_bytes_max
        self._kept_bytes = 0
        self._parts: list[bytes] = []  # of an event whose end has not arrived
        self._parts_bytes = 0
        self._before_content = b""  # events before the first event with content
        self._withheld_finish = b""  # events with a finish reason, until the usage arrives
        self._released = False
        self._settled = False  # usage arrived with the finish reason or after it
        self._over = False  # the upstream's own count exceeds the maximum
        self._model_seen: str | None = requested_model or None
        self._model_old = self._model_new = b""
        # The last text of each channel, as long as each text begins with the text before it; None once one did not.
        self._last: dict[object, str] | None = {}
        self._last_bytes = self._repeated = 0
        self._grew = False
        self._skipped_bytes = 0
        self.begun = False
        """True once content has passed to the client: no other deployment can be tried."""
        self.fault: Fault | None = None
        """The error that the upstream reported in an event."""
        self.filtered = False
        """True if the provider's content filter ended the answer."""
        self.finish_reason: str | None = None  # the first, as the provider reports it
        self._more_finishes: tuple[str, ...] = ()
        self.stopped = False
        """True once every choice that began has a finish reason, or the protocol's end has come."""
        self.terminal = False
        """True once the terminal event has arrived."""
        self.withheld = b""
        self.usage: Usage | None = None
        self.progress = 0
        """The number of texts so far. Each text has at least one token, so this is a lower bound of the output."""
        self.shown_bytes = 0
        """Bytes (UTF-8) of all text that the model produced: answers, reasoning, refusals, names and arguments of tool calls, each
        counted once. A visible token has at least one byte, so this is an upper bound of the visible output.
        """
        self.calls = 0
        """The number of tool calls: each call has tokens that are not visible as text."""
        self.choices = choices
        """The number of choices that the client requested, or that began, if they are more."""
        self.hidden = False
        """True if some reasoning is not shown as the model produced it: summarised, encrypted, redacted or compacted."""
        self.kept: list[str] = []
        """The texts, for a tokenizer, up to `keep_bytes_max` bytes."""
        self.counted: tuple[int, int] | None = None
        """(bytes, tokens): a tokenizer's count of the first bytes shown. The tokens of later text are estimated from its bytes."""
        self.upstream_id: str | None = None

    # Which bytes pass.

    def feed(self, data: bytes) -> bytes:
        """Read bytes of the upstream; returns the bytes that may pass now. Raises `EventTooLarge`."""
        if self.terminal:
            self._after(data)
            return b""
        if self._parts:
            if b"\n" not in data and b"\r" not in data:
                # No event ends here: most pieces of a large event are like this.
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
        """Withhold the bytes after the terminal event, which pass together with it; after a fault drop them."""
        if self.fault is None:
            self.withheld += data
            if len(self.withheld) > 2 * self._event_bytes_max:
                raise EventTooLarge

    def read_whole(self, body: bytes) -> None:
        """Count the text of an answer that is not streamed. (`outcome` reads its faults, `usage` its usage.)"""
        raise NotImplementedError

    def _take(self, event: bytes) -> bytes:
        """Read one whole event; returns the bytes that may pass now."""
        raise NotImplementedError

    def _take_lenient(self, event: bytes, payload: bytes, content: Mapping[str, object]) -> bytes:
        """As `_take`, for an event whose fields do not fit the protocol's types; `content` is its decoded data."""
        raise NotImplementedError

    def _take_unusual(self, event: bytes) -> bytes:
        """Read a terminal event, a comment, an event of several data lines, or one that does not fit the types."""
        payload = payload_of(event).strip()
        if not payload:
            return self._pass(event, content=False)
        if payload == DONE:
            return self._end(event)
        try:
            content = _any.decode(payload)
        except UNREADABLE:
            # The client may be able to read what the gateway cannot: all of it counts as text.
            self._show((0, "unreadable"), payload.decode("utf-8", "replace"))
            return self._pass(event, content=True)
        if not isinstance(content, dict):
            return self._fail(read_fault(200, {"error": content}, ""))
        return self._take_lenient(event, payload, content)

    def _pass(self, event: bytes, *, content: bool) -> bytes:
        """Pass an event that is neither a fault nor the end, together with the events withheld before it; or withhold it, too."""
        if self.fault is not None:
            return b""
        if (
            self.stopped
            and not content
            and not self._released
            and (not self._settled or self._usage_options.cost)
        ):
            self._withheld_finish += event
            return b"" if len(self._withheld_finish) <= self._event_bytes_max else self.release()
        if not self.begun:
            if not content and not self.stopped and len(self._before_content) <= self._event_bytes_max:
                self._before_content += event
                return b""
            self.begun = True
        if self._before_content or self._withheld_finish:
            event = self._before_content + self._withheld_finish + event
            self._before_content = self._withheld_finish = b""
        return event

    def _fail(self, fault: Fault) -> bytes:
        """Record a fault. The upstream's error event never passes: the gateway reports the error in its own words."""
        out = self._withheld_finish if self.begun and self.fault is None else b""
        self.fault = self.fault or fault
        self._before_content = self._withheld_finish = b""
        return out

    def _end(self, event: bytes) -> bytes:
        """Withhold the terminal event, and the events withheld before it, until the usage record is on disk."""
        self.terminal = True
        if self.fault is None:
            self.withheld = self._before_content + self._withheld_finish + event
        self._before_content = self._withheld_finish = b""
        return b""

    @property
    def finish_withheld(self) -> bool:
        """True while an event with a finish reason and no content is withheld until the usage arrives."""
        return self._withheld_finish != b""

    def release(self) -> bytes:
        """Return the events withheld until the usage arrives. The meter still reads usage after that."""
        out, self._withheld_finish, self._released = self._withheld_finish, b"", True
        if out:
            out, self._before_content = self._before_content + out, b""
            self.begun = True
        return out

    @property
    def complete(self) -> bool:
        """True if the stream ended without a fault, by finish reasons or its terminal event; else it is interrupted."""
        return self.fault is None and (self.stopped or self.terminal)

    def finish(self) -> bytes:
        """End the stream after its last byte; returns the bytes that pass after the usage record is on disk. A last event without
        its empty line gets one; a truncated event is dropped.
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
                if not self.terminal and self.fault is None:
                    self.withheld = out
        if not self.terminal and self.fault is None:
            self.withheld = self._before_content + self._withheld_finish + self.withheld
            self._before_content = self._withheld_finish = b""
        return self.withheld

    @property
    def part_bytes(self) -> int:
        """Bytes of an event whose end has not arrived."""
        return self._parts_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes that the meter keeps: an unfinished event, withheld events, and texts."""
        events = len(self._before_content) + len(self._withheld_finish) + len(self.withheld)
        return self._parts_bytes + events + self._kept_bytes

    # What the model produced.

    def _show(self, channel: object, text: str) -> None:
        """Count a text that is not empty. Some vendors repeat all earlier text in each event (MiniMax): a stream is read that way
        as long as each text of a channel begins with the text before it.
        """
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if self._last is not None:
            text, size = self._new_part(self._last, channel, text, size)
            if not size:
                return
        self.progress += 1
        self.shown_bytes += size
        if self._kept_bytes < self._keep_bytes_max:
            self._kept_bytes += size
            self.kept.append(text)

    def _new_part(self, last: dict[object, str], channel: object, text: str, size: int) -> tuple[str, int]:
        """(the new part of a text, its bytes), while it is unknown whether texts are pieces or repeat all earlier text."""
        before = last.get(channel)
        if before is None:
            self._last_bytes += size
            if len(last) < CHANNELS_MAX and self._last_bytes <= CHANNELS_BYTES_MAX:
                last[channel] = text
            return text, size
        known = len(before.encode("utf-8", "surrogatepass"))
        if not text.startswith(before):
            # The texts are pieces, so the skipped bytes were no repetition: they count.
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
        """Add a report of usage."""
        usage = later_usage(self.usage, usage)
        if usage is None:
            return
        self.usage = usage
        if self._text_max is not None and usage.counts.output_tokens > self._text_max:
            self._over = True
            self.maximum_check_bytes = 0

    def _finish_another(self, finish: str) -> None:
        """Another choice than the first has ended."""
        if len(self._more_finishes) < FINISHES_MAX:
            self._more_finishes += (finish,)

    @property
    def finishes(self) -> tuple[str, ...]:
        """The finish reasons of the choices that have one, in the order of their arrival, up to a limit."""
        return tuple(
            [known_finish(finish) for finish in (self.finish_reason, *self._more_finishes) if finish]
        )

    def _identify(self, value: object) -> None:
        self.upstream_id = known_id(value) or self.upstream_id or ""

    def _named(self, event: bytes, payload: bytes, model: str | None) -> bytes:
        """The event with the model's name replaced by the name that the client requested."""
        if model != self._model_seen:
            self._learn(payload, model)
        return event.replace(self._model_old, self._model_new) if self._model_old else event

    def _learn(self, payload: bytes, model: str | None) -> None:
        """Learn how the upstream writes its model's name. The payload is searched again only if the name changes."""
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
        """Take over a tokenizer's count: the first `size` bytes shown have `tokens` tokens."""
        self.counted = size, tokens
        self.maximum_check_bytes = 0

    def text_tokens(self) -> int:
        """Tokens of the text so far: a tokenizer's count as far as it goes, and for later text an estimate from its bytes."""
        if self.counted is None:
            return self.shown_bytes // BYTES_PER_TOKEN
        size, tokens = self.counted
        return tokens + max(0, self.shown_bytes - size) // BYTES_PER_TOKEN

    @property
    def usage_over_maximum(self) -> bool:
        """True if the upstream's own count exceeds the maximum."""
        return self._over

    @property
    def over_maximum(self) -> bool:
        """True if the output exceeds the maximum, by the upstream's own count or by the text."""
        return self._over or (self._over_tokens is not None and self.text_tokens() >= self._over_tokens)

    def counts(self) -> Counts:
        """The tokens that are known to have been produced so far."""
        if self.usage is None:
            return Counts(output=self.progress)
        known = self.usage.counts
        missing = self.progress - known.output_tokens
        return known if missing <= 0 else known._replace(output=known.output + missing)


def decoded(body: bytes) -> dict[str, object]:
    """The fields of a whole answer; empty if the body is not a JSON object."""
    try:
        content = _any.decode(body)
    except UNREADABLE:
        return {}
    return content if isinstance(content, dict) else {}
