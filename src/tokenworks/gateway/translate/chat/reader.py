"""Reads the events of a chat stream, in the shapes of all known vendors and engines.

Only choice 0 is carried. What arrives after a finish reason still counts: the finish is told with the usage, with `[DONE]`, or at the end of
the stream, whichever comes first.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.gateway.protocol.chat import lenient_chunk
from tokenworks.gateway.protocol.event_shapes import ChatCall, ChatChoice, ChatChunk, ChatDelta
from tokenworks.gateway.protocol.meter import DONE
from tokenworks.gateway.protocol.usage import UNREADABLE, Usage, later_usage, read_openai
from tokenworks.gateway.translate.chat.answers import bare_id, call_id_of, stop_sequence_of
from tokenworks.gateway.translate.chat.calls import KEPT_CHARS_MAX, OpenCall
from tokenworks.gateway.translate.chat.reasoning import DETAILS_MAX, REPEATED, read_detail
from tokenworks.gateway.translate.chat.repeats import Repeats
from tokenworks.gateway.translate.chat.stops import read_stop
from tokenworks.gateway.translate.chat.values import list_of, object_of, whole_of
from tokenworks.gateway.translate.form import (
    Begin,
    CallBegin,
    Delta,
    End,
    Event,
    Finish,
    PartEnd,
    ReasoningBegin,
    RefusedBegin,
    Signed,
    Stop,
    TextBegin,
    UsageReport,
)

CALLS_MAX: Final = 1024
_NONE: Final[tuple[Event, ...]] = ()
_TEXT: Final = "text"
_REASONING: Final = "reasoning"
_REFUSAL: Final = "refusal"
_USUAL: Final = frozenset({_TEXT, _REASONING})
_chunk: Final = msgspec.json.Decoder(ChatChunk)
_any: Final = msgspec.json.Decoder()


class ChatEventReader:
    __slots__ = (
        "_answer_id",
        "_begun",
        "_calls",
        "_calls_made",
        "_ended",
        "_finished",
        "_has_signature",
        "_kept_chars",
        "_kind",
        "_open_calls",
        "_out",
        "_part",
        "_parts",
        "_plain_part",
        "_reason",
        "_repeats",
        "_sequence",
        "_told_usage",
        "_usage",
    )

    def __init__(self) -> None:
        self._out: list[Event] = []
        self._answer_id = ""
        self._begun = self._finished = self._ended = False
        self._parts = 0  # parts that have begun
        self._kind = ""  # of the open part that is no call; "" if none is open
        self._part = 0  # its number
        # The number of the open part if a usual chunk is a piece of it as it is, else -1.
        self._plain_part = -1
        self._has_signature = False  # the open reasoning part has its signature
        self._repeats = Repeats()
        self._calls: dict[object, OpenCall] = {}  # by index or id, as the vendor numbers them
        self._calls_made = 0  # a vendor may give all of them one index
        self._open_calls: list[OpenCall] = []  # in their order
        self._kept_chars = 0  # of their arguments
        self._reason: str | None = None
        self._sequence: str | None = None
        self._usage: Usage | None = None
        self._told_usage: Usage | None = None

    def read(self, name: str, payload: bytes) -> Sequence[Event]:
        try:
            chunk = _chunk.decode(payload)
        except UNREADABLE:
            return self._unusual(payload)
        choices = chunk.choices
        if self._plain_part >= 0 and choices is not None and len(choices) == 1 and chunk.usage is None:
            # The usual chunk: a piece of the open text or reasoning, and nothing else.
            choice = choices[0]
            delta = choice.delta
            if (
                delta is not None
                and not choice.index
                and choice.finish_reason is None
                and choice.usage is None
                and not delta.tool_calls
                and not delta.refusal
                and delta.reasoning_details is None
                and delta.function_call is None
            ):
                text, thought = delta.content, delta.reasoning_content or delta.reasoning
                if text:
                    if not thought and self._kind == _TEXT:
                        return (Delta(self._plain_part, text),)
                elif thought and self._kind == _REASONING:
                    return (Delta(self._plain_part, thought),)
        return self._read(chunk, payload)

    def _unusual(self, payload: bytes) -> Sequence[Event]:
        """`[DONE]`, or a chunk whose fields do not fit the types."""
        if payload.strip() == DONE:
            if not self._ended:
                self._begin(None, b"")
                self._end()
            return self._taken()
        try:
            content = _any.decode(payload)
        except UNREADABLE:
            return _NONE
        if not isinstance(content, dict):
            return _NONE
        return self._read(lenient_chunk(content), payload)

    def _taken(self) -> Sequence[Event]:
        out = self._out
        if not out:
            return _NONE
        self._out = []
        return out

    def _read(self, chunk: ChatChunk, payload: bytes) -> Sequence[Event]:
        if self._ended:
            return _NONE
        choices = chunk.choices or ()
        self._report(chunk)
        for choice in choices:
            if choice.index:
                continue
            self._begin(chunk, payload)
            delta = choice.delta or choice.message
            if delta is not None and not self._finished:
                self._delta(delta)
            if choice.finish_reason:
                self._stop(choice, payload)
        if self._reason is not None and self._usage is not None:
            self._begin(chunk, payload)
            self._finish()
        self._plain_part = self._part if self._is_plain() else -1
        return self._taken()

    def _is_plain(self) -> bool:
        if self._kind not in _USUAL or self._has_signature or self._open_calls:
            return False
        return self._repeats.decided and self._reason is None

    def _begin(self, chunk: ChatChunk | None, payload: bytes) -> None:
        if self._begun:
            return
        self._begun = True
        if chunk is None:
            self._out.append(Begin("", ""))
            return
        self._answer_id = chunk.id or ""
        try:
            created_s = whole_of(object_of(_any.decode(payload)).get("created"))
        except UNREADABLE:
            created_s = None
        self._out.append(Begin(bare_id(self._answer_id), chunk.model or "", max(0, created_s or 0)))

    # Parts.

    def _delta(self, delta: ChatDelta) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._say(_REASONING, reasoning)
        if delta.reasoning_details is not None:
            self._details(delta.reasoning_details, told=bool(reasoning))
        if delta.content:
            self._say(_TEXT, delta.content)
        if delta.refusal:
            self._say(_REFUSAL, delta.refusal)
        for call in delta.tool_calls or ():
            self._call(call)
        if delta.function_call is not None:
            self._call(ChatCall(function=delta.function_call))

    def _say(self, kind: str, text: str) -> None:
        if not self._repeats.decided:
            text = self._repeats.pieces(kind, text)
        if text:
            self._out.append(Delta(self._opened(kind), text))

    def _opened(self, kind: str) -> int:
        """The number of the open part of this kind, which begins here if there is none."""
        if self._kind == kind and not (kind == _REASONING and self._has_signature):
            return self._part
        self._close()
        self._end_complete_calls()
        self._kind, self._part = kind, self._parts
        self._parts += 1
        if kind == _TEXT:
            self._out.append(TextBegin(self._part))
        elif kind == _REASONING:
            self._out.append(ReasoningBegin(self._part))
        else:
            self._out.append(RefusedBegin(self._part))
        return self._part

    def _close(self) -> None:
        """End the open part that is no call."""
        if not self._kind:
            return
        rest = self._repeats.end(self._kind)
        if rest:
            self._out.append(Delta(self._part, rest))
        self._out.append(PartEnd(self._part))
        self._kind, self._has_signature = "", False

    def _details(self, value: object, *, told: bool) -> None:
        """OpenRouter's details. `told`: their text stands in another field of the same chunk."""
        for item in list_of(value)[:DETAILS_MAX]:
            fields = object_of(item)
            detail = read_detail(fields)
            if detail is None:
                continue
            text = detail.text or "".join(detail.summary)
            if text and not told and fields.get("format") != REPEATED:
                self._say(_REASONING, text)
            if detail.signature is None and detail.encrypted is None:
                continue
            if self._kind != _REASONING and detail.encrypted is None:
                continue  # a signature without the text that it signs
            part = self._opened(_REASONING)
            self._out.append(Signed(part, detail.signature, detail.encrypted))
            self._has_signature = True

    # Calls of tools.

    def _call(self, call: ChatCall) -> None:
        custom = call.function is None and call.custom is not None
        function = call.custom if custom else call.function
        key: object = call.index if call.index is not None else call.id or None
        known = self._calls.get(key)
        if known is None and key is None and self._open_calls:
            known = self._open_calls[-1]
        name = arguments = None
        if function is not None:
            name, arguments = function.name, function.input if custom else function.arguments
        if known is None or known.is_other(call.id, name, arguments):
            if self._calls_made >= CALLS_MAX:
                return
            self._calls_made += 1
            known = self._calls[key] = OpenCall(call.id, custom=custom)
        elif call.id and not known.begun:
            known.given_id = call.id
        if name and not known.begun:
            self._begin_call(known, name)
        if arguments:
            self._arguments(known, arguments)

    def _begin_call(self, call: OpenCall, name: str) -> None:
        self._close()
        self._end_complete_calls()
        call.part, call.name = self._parts, name
        self._parts += 1
        self._open_calls.append(call)
        call_id = call.given_id or call_id_of(self._answer_id, call.part)
        self._out.append(CallBegin(call.part, call_id, name, call.custom))
        early = call.early
        if early:
            call.early = ""
            self._kept_chars -= len(early)
            self._arguments(call, early)

    def _arguments(self, call: OpenCall, text: str) -> None:
        if call.ended:
            return
        kept_chars = self._kept_chars + len(text)
        keep = kept_chars <= KEPT_CHARS_MAX
        if keep:
            self._kept_chars = kept_chars
        if call.begun:
            call.add(text, keep=keep)
            self._out.append(Delta(call.part, text))
        elif keep:
            call.early += text

    def _end_complete_calls(self) -> None:
        """End the calls whose arguments are a whole JSON object: nothing more can belong to them."""
        for call in [call for call in self._open_calls if call.is_complete()]:
            self._end_call(call)

    def _end_call(self, call: OpenCall) -> None:
        if not call.custom and not call.size:
            self._out.append(Delta(call.part, "{}"))
        self._out.append(PartEnd(call.part))
        self._kept_chars = max(0, self._kept_chars - call.size)
        call.end()
        self._open_calls.remove(call)

    # The end.

    def _stop(self, choice: ChatChoice, payload: bytes) -> None:
        self._reason = choice.finish_reason
        try:
            choices = list_of(object_of(_any.decode(payload)).get("choices"))
        except UNREADABLE:
            return
        for value in choices:
            self._sequence = stop_sequence_of(object_of(value)) or self._sequence

    def _report(self, chunk: ChatChunk) -> None:
        """Keep the latest usage: at the top level, in a choice (Kimi), or in Groq's own field."""
        if chunk.usage is not None:
            self._usage = later_usage(self._usage, read_openai(chunk.usage))
        if chunk.x_groq is not None:
            self._usage = later_usage(self._usage, read_openai(object_of(chunk.x_groq).get("usage")))
        for choice in chunk.choices or ():
            if choice.usage is not None:
                self._usage = later_usage(self._usage, read_openai(choice.usage))

    def _end_parts(self) -> None:
        self._close()
        for call in list(self._open_calls):
            self._end_call(call)

    def _finish(self) -> None:
        """Tell why the model stopped, and its usage."""
        if not self._finished:
            self._end_parts()
            self._finished = True
            stop = read_stop(self._reason or "", called=self._called(), sequence=self._sequence)
            self._out.append(Finish(stop, self._sequence if stop is Stop.SEQUENCE else None))
        if self._usage is not None and self._usage != self._told_usage:
            self._told_usage = self._usage
            self._out.append(UsageReport(self._usage.counts))

    def _called(self) -> bool:
        return any(call.begun for call in self._calls.values())

    def _end(self) -> None:
        self._finish()
        self._ended = True
        self._plain_part = -1
        self._out.append(End())

    def finish(self) -> Sequence[Event]:
        """The events that are still due. A stream with neither a finish reason nor `[DONE]` did not end: only its parts do."""
        if self._ended:
            return _NONE
        if self._reason is not None:
            self._begin(None, b"")
            self._end()
        else:
            self._end_parts()
        self._plain_part = -1
        return self._taken()
