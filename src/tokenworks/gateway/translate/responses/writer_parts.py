"""The parts of a stream that is written: the events of one output item, from its beginning to its end."""

from typing import Final

import msgspec

from tokenworks.gateway.translate.codec import Naming
from tokenworks.gateway.translate.form import JsonObject, Refused, Text, ToolCall
from tokenworks.gateway.translate.names import InputUnwrapper
from tokenworks.gateway.translate.responses.answers import (
    content_part,
    function_item,
    item_id_of,
    message_item,
)
from tokenworks.gateway.translate.responses.client_tools import call_item
from tokenworks.gateway.translate.responses.reasoning import encrypted_content, reasoning_item

_encode: Final = msgspec.json.encode


class EventSink:
    """Collects the bytes of events, and numbers them from 0."""

    __slots__ = ("_chunks", "_number")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._number = 0

    def put(self, kind: str, fields: bytes) -> None:
        """Write an event. `fields`: its further fields as JSON, without the braces."""
        self.put_head(head_of(kind), fields)

    def put_head(self, head: bytes, fields: bytes) -> None:
        """Write an event whose beginning was made with `head_of`."""
        self._chunks.append(b"%b%d,%b}\n\n" % (head, self._number, fields))
        self._number += 1

    def take(self) -> bytes:
        """The bytes since the last call."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


def head_of(kind: str, fields: bytes = b"") -> bytes:
    """The beginning of an event up to its number. `fields`: further fields as JSON, with a comma behind each."""
    name = kind.encode()
    return b'event: %b\ndata: {"type":"%b",%b"sequence_number":' % (name, name, fields)


class OpenPart:
    """An output item that is being written."""

    __slots__ = ("_at", "_item_id", "_naming", "_number", "_pieces")

    def __init__(self, naming: Naming, number: int, kind: str) -> None:
        self._naming = naming
        self._number = number
        self._item_id = item_id_of(naming, kind, number)
        # The fields that name the item in an event.
        self._at = b'"item_id":%b,"output_index":%d' % (_encode(self._item_id), number)
        self._pieces: list[str] = []

    def begin(self, sink: EventSink) -> None:
        raise NotImplementedError

    def piece(self, text: str, sink: EventSink) -> None:
        raise NotImplementedError

    def summary_piece(self, number: int, text: str, sink: EventSink) -> None:
        """A piece of a summary; only reasoning has any."""

    def sign(self, signature: str | None, encrypted: str | None) -> None:
        """A signature; only reasoning has any."""

    def end(self, sink: EventSink) -> bytes:
        """Write the last events; returns the item as JSON."""
        raise NotImplementedError

    def _added(self, item: JsonObject, sink: EventSink) -> None:
        sink.put("response.output_item.added", b'"output_index":%d,"item":%b' % (self._number, _encode(item)))

    def _done(self, item: JsonObject, sink: EventSink) -> bytes:
        data = _encode(item)
        sink.put("response.output_item.done", b'"output_index":%d,"item":%b' % (self._number, data))
        return data


class SaidPart(OpenPart):
    """A message with one content: a text or a refusal."""

    __slots__ = ("_delta_head", "_refused")

    def __init__(self, naming: Naming, number: int, *, refused: bool) -> None:
        super().__init__(naming, number, "message")
        self._refused = refused
        kind = "response.refusal.delta" if refused else "response.output_text.delta"
        logprobs = b"" if refused else b'"logprobs":[],'
        self._at += b',"content_index":0'
        self._delta_head = head_of(kind, self._at + b"," + logprobs)

    def _part(self, text: str) -> Text | Refused:
        return Refused(text) if self._refused else Text(text)

    def begin(self, sink: EventSink) -> None:
        item = message_item(self._item_id, self._part(""))
        self._added({**item, "status": "in_progress", "content": []}, sink)
        sink.put(
            "response.content_part.added", self._at + b',"part":' + _encode(content_part(self._part("")))
        )

    def piece(self, text: str, sink: EventSink) -> None:
        self._pieces.append(text)
        sink.put_head(self._delta_head, b'"delta":' + _encode(text))

    def end(self, sink: EventSink) -> bytes:
        text = "".join(self._pieces)
        if self._refused:
            sink.put("response.refusal.done", self._at + b',"refusal":' + _encode(text))
        else:
            sink.put("response.output_text.done", self._at + b',"logprobs":[],"text":' + _encode(text))
        part = self._part(text)
        sink.put("response.content_part.done", self._at + b',"part":' + _encode(content_part(part)))
        return self._done(message_item(self._item_id, part), sink)


class ReasoningPart(OpenPart):
    """Reasoning. Its text is shown as a summary, unless a summary came before (`reasoning.py`)."""

    __slots__ = ("_encrypted", "_shown_as_summary", "_signature", "_summaries", "_summary_of", "_texts")

    def __init__(self, naming: Naming, number: int) -> None:
        super().__init__(naming, number, "reasoning")
        # The summaries that are done, and then the pieces of the one that is open.
        self._summaries: list[str] = []
        # The form's number of the summary that is open; -1: it is the text; None: none is open.
        self._summary_of: int | None = None
        self._texts: list[str] = []
        self._shown_as_summary = False
        self._signature: str | None = None
        self._encrypted: str | None = None

    def begin(self, sink: EventSink) -> None:
        item = reasoning_item(self._item_id, [], "", None)
        self._added({**item, "status": "in_progress"}, sink)

    def piece(self, text: str, sink: EventSink) -> None:
        if not self._summaries and self._summary_of is None:
            self._shown_as_summary = True
        if self._shown_as_summary:
            self._summary(-1, text, sink)
            return
        if not self._texts:
            sink.put(
                "response.content_part.added",
                self._at + b',"content_index":0,"part":{"type":"reasoning_text","text":""}',
            )
        self._texts.append(text)
        sink.put("response.reasoning_text.delta", self._at + b',"content_index":0,"delta":' + _encode(text))

    def summary_piece(self, number: int, text: str, sink: EventSink) -> None:
        self._summary(number, text, sink)

    def sign(self, signature: str | None, encrypted: str | None) -> None:
        self._signature, self._encrypted = signature, encrypted

    def _summary(self, number: int, text: str, sink: EventSink) -> None:
        if self._summary_of != number:
            self._end_summary(sink)
            self._summary_of = number
            sink.put(
                "response.reasoning_summary_part.added",
                self._summary_at() + b',"part":{"type":"summary_text","text":""}',
            )
        self._pieces.append(text)
        sink.put("response.reasoning_summary_text.delta", self._summary_at() + b',"delta":' + _encode(text))

    def _summary_at(self) -> bytes:
        return b'%b,"summary_index":%d' % (self._at, len(self._summaries))

    def _end_summary(self, sink: EventSink) -> None:
        if self._summary_of is None:
            return
        text = _encode("".join(self._pieces))
        at = self._summary_at()
        sink.put("response.reasoning_summary_text.done", at + b',"text":' + text)
        sink.put(
            "response.reasoning_summary_part.done", at + b',"part":{"type":"summary_text","text":%b}' % text
        )
        self._summaries.append("".join(self._pieces))
        self._pieces.clear()
        self._summary_of = None

    def end(self, sink: EventSink) -> bytes:
        self._end_summary(sink)
        text = "".join(self._texts)
        if text:
            data = _encode(text)
            at = self._at + b',"content_index":0'
            sink.put("response.reasoning_text.done", at + b',"text":' + data)
            sink.put("response.content_part.done", at + b',"part":{"type":"reasoning_text","text":%b}' % data)
        encrypted = None
        if self._naming.request.reasoning.encrypted:
            encrypted = encrypted_content(
                self._encrypted, self._signature, shown_as_summary=self._shown_as_summary
            )
        return self._done(reasoning_item(self._item_id, self._summaries, text, encrypted), sink)


class CallPart(OpenPart):
    """A call of a function or of a custom tool. `unwrapper`: reads the text of a custom tool out of a function's arguments."""

    __slots__ = ("_call", "_delta_head", "_unwrapper")

    def __init__(self, naming: Naming, number: int, call: ToolCall, unwrapper: InputUnwrapper | None) -> None:
        super().__init__(naming, number, "custom_tool_call" if call.custom else "function_call")
        self._call = call
        self._unwrapper = unwrapper
        kind = "custom_tool_call_input" if call.custom else "function_call_arguments"
        self._delta_head = head_of(f"response.{kind}.delta", self._at + b",")

    def begin(self, sink: EventSink) -> None:
        self._added(function_item(self._call, self._item_id, "in_progress"), sink)

    def piece(self, text: str, sink: EventSink) -> None:
        self._put(text if self._unwrapper is None else self._unwrapper.feed(text), sink)

    def _put(self, text: str, sink: EventSink) -> None:
        if text:
            self._pieces.append(text)
            sink.put_head(self._delta_head, b'"delta":' + _encode(text))

    def end(self, sink: EventSink) -> bytes:
        if self._unwrapper is not None:
            self._put(self._unwrapper.finish(), sink)
        call = msgspec.structs.replace(self._call, arguments="".join(self._pieces))
        text = _encode(call.arguments)
        if call.custom:
            sink.put("response.custom_tool_call_input.done", self._at + b',"input":' + text)
        else:
            name = _encode(call.name)
            sink.put(
                "response.function_call_arguments.done",
                self._at + b',"name":' + name + b',"arguments":' + text,
            )
        return self._done(function_item(call, self._item_id), sink)


class BuiltinPart(OpenPart):
    """A call of a tool that responses defines. The item has the arguments as fields, so it is written when they are whole."""

    __slots__ = ("_builtin", "_call")

    def __init__(self, naming: Naming, number: int, call: ToolCall, builtin: str) -> None:
        super().__init__(naming, number, builtin)
        self._call = call
        self._builtin = builtin

    def begin(self, sink: EventSink) -> None:
        """Nothing is known yet."""

    def piece(self, text: str, sink: EventSink) -> None:
        self._pieces.append(text)

    def end(self, sink: EventSink) -> bytes:
        arguments = "".join(self._pieces)
        item = call_item(self._builtin, self._call.call_id, self._item_id, arguments)
        if item is None:
            # The client refuses arguments that it can't read to the model, as those of a function.
            part = CallPart(self._naming, self._number, self._call, None)
            part.begin(sink)
            if arguments:
                part.piece(arguments, sink)
            return part.end(sink)
        self._added({**item, "status": "in_progress"}, sink)
        return self._done(item, sink)
