"""Writes the events of a chat stream, as OpenAI does: the role first; a call's name, then its arguments in pieces; the finish reason in a
chunk of its own; usage in a chunk without choices where the client asked for it; `[DONE]`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.translate.chat.answers import ID_PREFIX
from tokenworks.gateway.translate.chat.reasoning import JOINT, details_of
from tokenworks.gateway.translate.chat.stops import written_stop
from tokenworks.gateway.translate.chat.usage import written_usage
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
    Reasoning,
    ReasoningBegin,
    RefusedBegin,
    Signed,
    Stop,
    SummaryDelta,
    TextBegin,
    UsageReport,
)
from tokenworks.gateway.translate.names import JOINT as JOINT_OF_NAMES
from tokenworks.gateway.translate.names import InputUnwrapper, ToolNames

# Characters of one part's reasoning that are kept until its signature comes, since `reasoning_details` have both. A signature of more
# reasoning is left out: the provider then takes the reasoning as not sent back.
SIGNED_CHARS_MAX: Final = 1 << 18
_encode: Final = msgspec.json.encode
_DONE: Final = b"data: [DONE]\n\n"
_SUFFIX: Final = b'},"logprobs":null,"finish_reason":null}]}\n\n'
_CALL_SUFFIX: Final = b"}}]" + _SUFFIX


class _Thought:
    """An open part of reasoning: its text, while it may still be signed, and its summaries."""

    __slots__ = ("chars", "item_id", "number", "pieces", "summaries")

    def __init__(self, item_id: str | None) -> None:
        self.item_id = item_id
        self.pieces: list[str] = []
        self.summaries: list[str] = []
        self.number = -1  # of the last summary
        self.chars = 0

    def add(self, text: str) -> None:
        if self._fits(text):
            self.pieces.append(text)

    def add_summary(self, number: int, text: str) -> bool:
        """True if a further summary begins."""
        begins = number != self.number
        self.number = number
        if self._fits(text):
            if begins or not self.summaries:
                self.summaries.append(text)
            else:
                self.summaries[-1] += text
        return begins

    def _fits(self, text: str) -> bool:
        self.chars += len(text)
        return self.chars <= SIGNED_CHARS_MAX


class ChatEventWriter:
    __slots__ = (
        "_call_indexes",
        "_details",
        "_ends",
        "_finished",
        "_gap",
        "_head",
        "_inputs",
        "_names",
        "_naming",
        "_prefix",
        "_starts",
        "_thought_told",
        "_thoughts",
        "_usage",
    )

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        fields = _encode({
            "id": ID_PREFIX + naming.answer_id,
            "object": "chat.completion.chunk",
            "created": naming.created_s,
            "model": naming.model,
        })  # fmt: skip
        self._head = b"data: " + fields[:-1]
        self._prefix = self._head + b',"choices":[{"index":0,"delta":{'
        # What stands before and after each piece of an open part.
        self._starts: dict[int, bytes] = {}
        self._ends: dict[int, bytes] = {}
        self._call_indexes = 0
        self._inputs: dict[
            int, InputUnwrapper
        ] = {}  # of calls whose arguments are the input of a custom tool
        self._names: ToolNames | None = None
        self._thoughts: dict[int, _Thought] = {}
        self._details = 0  # details of reasoning that were written
        self._thought_told = False
        self._gap = False  # the next piece of reasoning begins a paragraph
        self._usage: Counts | None = None
        self._finished = False

    def write(self, events: Sequence[Event]) -> bytes:
        if len(events) == 1:
            return self._event(events[0])
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._piece(event.part, event.text)
        if isinstance(event, SummaryDelta):
            return self._summary(event)
        if isinstance(event, Begin):
            return self._prefix + b'"role":"assistant","content":""' + _SUFFIX
        if isinstance(event, CallBegin):
            return self._begin_call(event)
        if isinstance(event, PartEnd):
            return self._end_part(event.part)
        if isinstance(event, Finish):
            return self._finish(event.stop, event.stop_sequence)
        if isinstance(event, UsageReport):
            self._usage = event.usage
            return b""
        if isinstance(event, End):
            return self._end()
        if isinstance(event, Signed):
            return self._signature(event)
        self._begin(event)
        return b""

    def _begin(self, event: TextBegin | RefusedBegin | ReasoningBegin) -> None:
        field = b'"content":'
        if isinstance(event, RefusedBegin):
            field = b'"refusal":'
        elif isinstance(event, ReasoningBegin):
            field = b'"reasoning_content":'
            self._thoughts[event.part] = _Thought(event.item_id)
            self._gap = self._thought_told
        self._starts[event.part] = self._prefix + field
        self._ends[event.part] = _SUFFIX

    def _piece(self, part: int, text: str) -> bytes:
        if self._thoughts and part in self._thoughts:
            self._thoughts[part].add(text)
            text = self._paragraph(text)
        elif self._inputs and part in self._inputs:
            text = self._inputs[part].feed(text)
            if not text:
                return b""
        return self._starts[part] + _encode(text) + self._ends[part]

    def _paragraph(self, text: str) -> str:
        self._thought_told = True
        if self._gap:
            self._gap = False
            return JOINT + text
        return text

    def _summary(self, event: SummaryDelta) -> bytes:
        thought = self._thoughts[event.part]
        if thought.add_summary(event.number, event.text) and self._thought_told:
            self._gap = True
        return self._starts[event.part] + _encode(self._paragraph(event.text)) + _SUFFIX

    def _signature(self, event: Signed) -> bytes:
        """The details of a whole part, since a client sends back what it has of them."""
        thought = self._thoughts[event.part]
        if thought.chars > SIGNED_CHARS_MAX:
            return b""
        part = Reasoning(
            "".join(thought.pieces),
            tuple(thought.summaries),
            event.signature,
            event.encrypted,
            thought.item_id,
        )
        details = details_of(part, self._details, repeated=True)
        self._details += len(details)
        return self._prefix + b'"reasoning_details":' + _encode(details) + _SUFFIX

    def _begin_call(self, event: CallBegin) -> bytes:
        name, custom = event.name, event.custom
        namespace = event.namespace
        if not custom and namespace is None and self._naming.request.tools:
            if self._names is None:
                self._names = ToolNames(self._naming.request.tools)
            tool = self._names.original(name)
            if tool is not None:
                name, custom, namespace = tool.name, tool.custom, tool.namespace
                if custom:
                    self._inputs[event.part] = InputUnwrapper()
        if namespace is not None:
            name = f"{namespace}{JOINT_OF_NAMES}{name}"
        index = b'"tool_calls":[{"index":%d,' % self._call_indexes
        self._call_indexes += 1
        kind, field = ("custom", "input") if custom else ("function", "arguments")
        begun: JsonObject = {"id": event.call_id, "type": kind, kind: {"name": name, field: ""}}
        opening = b'"%b":{"%b":' % (kind.encode(), field.encode())
        self._starts[event.part] = self._prefix + index + opening
        self._ends[event.part] = _CALL_SUFFIX
        return self._prefix + index + _encode(begun)[1:] + b"]" + _SUFFIX

    def _end_part(self, part: int) -> bytes:
        out = b""
        unwrapper = self._inputs.pop(part, None)
        if unwrapper is not None:
            rest = unwrapper.finish()
            if rest:
                out = self._starts[part] + _encode(rest) + self._ends[part]
        self._thoughts.pop(part, None)
        self._starts.pop(part, None)
        self._ends.pop(part, None)
        return out

    def _finish(self, stop: Stop, sequence: str | None) -> bytes:
        if self._finished:
            return b""
        self._finished = True
        choice: JsonObject = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": written_stop(stop)}
        if sequence is not None:
            choice["stop_reason"] = sequence
        return self._head + b',"choices":' + _encode([choice]) + b"}\n\n"

    def _end(self) -> bytes:
        out = self._finish(Stop.TOOL if self._call_indexes else Stop.END, None)
        if self._usage is not None and self._naming.request.stream_usage:
            out += self._head + b',"choices":[],"usage":' + _encode(written_usage(self._usage)) + b"}\n\n"
        return out + _DONE
