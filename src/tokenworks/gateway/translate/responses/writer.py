"""Writes a stream of responses: the events that OpenAI's SDK and Codex accept, in their order.

Each part of the form is an output item of its own, with the part's number as `output_index`. Parts may be open at once. The protocol
repeats each text in its `done` events and in the last event, so a writer keeps the answer: the pieces of the parts that are open, and the
items that are done as JSON, together about as many bytes as the answer has; it writes each text five times.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.catalog import Counts
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
from tokenworks.gateway.translate.names import InputUnwrapper, ToolNames
from tokenworks.gateway.translate.responses.answers import builtin_of, ending, response_base, usage_object
from tokenworks.gateway.translate.responses.writer_parts import (
    BuiltinPart,
    CallPart,
    EventSink,
    OpenPart,
    ReasoningPart,
    SaidPart,
)

_encode: Final = msgspec.json.encode


class ResponsesWriter:
    """Implements `codec.EventWriter`."""

    __slots__ = (
        "_base",
        "_ended",
        "_items",
        "_names",
        "_naming",
        "_open",
        "_refused",
        "_sink",
        "_stop",
        "_usage",
    )

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._names = ToolNames(naming.request.tools)
        self._sink = EventSink()
        self._open: dict[int, OpenPart] = {}
        # The items that are done, by number, as JSON.
        self._items: dict[int, bytes] = {}
        # The response at its beginning; None before it.
        self._base: JsonObject | None = None
        self._refused = False
        self._ended = False
        self._stop: Stop | None = None
        self._usage: Counts | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        sink = self._sink
        for event in events:
            if isinstance(event, Delta):
                part = self._open.get(event.part)
                if part is not None:
                    part.piece(event.text, sink)
            else:
                self._rare(event)
        return sink.take()

    def _rare(self, event: Event) -> None:
        if self._ended:
            return
        self._begin()
        if isinstance(event, SummaryDelta):
            part = self._open.get(event.part)
            if part is not None:
                part.summary_piece(event.number, event.text, self._sink)
        elif isinstance(event, Signed):
            part = self._open.get(event.part)
            if part is not None:
                part.sign(event.signature, event.encrypted)
        elif isinstance(event, PartEnd):
            self._end_part(event.part)
        elif isinstance(event, Finish):
            self._stop = event.stop
        elif isinstance(event, UsageReport):
            self._usage = event.usage
        elif isinstance(event, End):
            self._end()
        elif not isinstance(event, Begin):
            self._begin_part(event)

    def _begin(self) -> None:
        if self._base is not None:
            return
        self._base = response_base(self._naming)
        response = _encode(self._base)
        for kind in ("response.created", "response.in_progress"):
            self._sink.put(kind, b'"response":' + response)

    def _begin_part(self, event: Event) -> None:
        number, naming = -1, self._naming
        part: OpenPart | None = None
        if isinstance(event, TextBegin):
            number, part = event.part, SaidPart(naming, event.part, refused=False)
        elif isinstance(event, RefusedBegin):
            number, part = event.part, SaidPart(naming, event.part, refused=True)
            self._refused = True
        elif isinstance(event, ReasoningBegin):
            number, part = event.part, ReasoningPart(naming, event.part)
        elif isinstance(event, CallBegin):
            number, part = event.part, self._call_part(event)
        if part is not None and number not in self._open and number not in self._items:
            self._open[number] = part
            part.begin(self._sink)

    def _call_part(self, event: CallBegin) -> OpenPart:
        named = ToolCall(event.call_id, event.name, "", event.custom, event.namespace)
        call = self._names.restored(named)
        builtin = builtin_of(call, self._names)
        if builtin is not None:
            return BuiltinPart(self._naming, event.part, call, builtin)
        # A custom tool that the deployment took for a function: its text is in the arguments.
        unwrapper = InputUnwrapper() if call.custom and not event.custom else None
        return CallPart(self._naming, event.part, call, unwrapper)

    def _end_part(self, number: int) -> None:
        part = self._open.pop(number, None)
        if part is not None:
            self._items[number] = part.end(self._sink)

    def _end(self) -> None:
        for number in list(self._open):
            self._end_part(number)
        assert self._base is not None
        end = ending(self._stop, refused=self._refused)
        response: JsonObject = {**self._base, **end, "usage": None}
        if self._usage is not None:
            response["usage"] = usage_object(self._usage)
        output = [msgspec.Raw(self._items[number]) for number in sorted(self._items)]
        response["output"] = output
        self._sink.put(f"response.{end['status']}", b'"response":' + _encode(response))
        self._items.clear()
        self._ended = True
