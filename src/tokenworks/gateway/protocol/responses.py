"""The meter of OpenAI's responses: the last event has the usage.

A stream repeats each text up to four times: in pieces (`…delta`), whole (`…done`), in its item, and in the response. Each text is
counted once: the pieces as they come, and of a whole text only the part that the pieces did not have.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from tokenworks.gateway.protocol.event_shapes import ResponsesEvent, ResponsesResponse
from tokenworks.gateway.protocol.finishes import response_finish
from tokenworks.gateway.protocol.meter import StreamMeter, UsageOptions, decoded
from tokenworks.gateway.protocol.outcome import fault_of_event, read_fault
from tokenworks.gateway.protocol.splice import payload_of
from tokenworks.gateway.protocol.usage import UNREADABLE, read_openai

ITEMS_MAX: Final = 4096
_TERMINAL: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_EARLY: Final = frozenset({
    "response.created", "response.in_progress", "response.queued", "response.output_item.added", "response.content_part.added",
    "response.reasoning_summary_part.added", "keepalive", "ping", "",
})  # fmt: skip
_CALL_ITEMS: Final = frozenset({
    "function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call", "mcp_call",
    "web_search_call", "file_search_call", "code_interpreter_call", "tool_search_call", "image_generation_call",
})  # fmt: skip
_HIDDEN_ITEMS: Final = frozenset({"reasoning", "compaction"})
_ITEM_TEXTS: Final = ("name", "arguments", "input", "code", "refusal")
_Fields = Mapping[str, object]
_event: Final = msgspec.json.Decoder(ResponsesEvent)


class ResponsesMeter(StreamMeter):
    """The meter of OpenAI's responses."""

    __slots__ = ("_item_bytes", "_item_ids", "_text_bytes")

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
        # Each argument by name: in compiled code `super().__init__(**settings)` passes the dict as the first argument.
        super().__init__(
            protocol=protocol, requested_model=requested_model, usage_options=usage_options, event_bytes_max=event_bytes_max, text_max=text_max,
            keep_bytes_max=keep_bytes_max, choices=choices,
        )  # fmt: skip
        # Bytes counted of each item, and of each of its texts by kind. The key of an item is its id, or its index if it has none.
        self._item_bytes: dict[object, int] = {}
        self._text_bytes: dict[object, int] = {}
        self._item_ids: dict[int, str] = {}

    def read_whole(self, body: bytes) -> None:
        response = _lenient_event({"response": decoded(body)}).response or ResponsesResponse()
        self._output(response)

    def _take(self, event: bytes) -> bytes:
        at = event.find(b"data:")
        try:
            fields = _event.decode(event[at + 5 :] if at >= 0 else b"")
        except UNREADABLE:
            return self._take_unusual(event)
        return self._read(event, fields)

    def _read(self, event: bytes, fields: ResponsesEvent) -> bytes:
        kind, text = fields.type, fields.delta
        if text is not None and kind.endswith(".delta") and fields.error is None:
            if text and not kind.endswith("audio.delta"):
                self._piece(kind[:-6], self._item_key(fields), text)
            if self.begun and self.fault is None:
                return event
            return self._pass(event, content=bool(text))
        if kind == "error" or fields.error:
            return self._fail(
                fault_of_event(payload_of(event), self.protocol) or read_fault(200, None, "error")
            )
        if fields.response is not None or kind in _TERMINAL:
            return self._response(event, fields)
        before = self.shown_bytes + self.calls
        if kind.endswith(".done"):
            self._whole_text(fields)
        if isinstance(fields.item, dict):
            self._item(fields, fields.item)
        return self._pass(event, content=kind not in _EARLY or self.shown_bytes + self.calls > before)

    def _item_key(self, fields: ResponsesEvent) -> object:
        """The key of the event's item: its id, or its index if no event has given an id."""
        at: int | None = fields.output_index
        item_id = fields.item_id
        if item_id is None:
            return None if at is None else self._item_ids.get(at, at)
        if at is not None and at not in self._item_ids and len(self._item_ids) < ITEMS_MAX:
            self._item_ids[at] = item_id
            if at in self._item_bytes:
                self._item_bytes[item_id] = self._item_bytes.pop(at)
        return item_id

    def _piece(self, kind: str, item: object, text: str) -> None:
        before = self.shown_bytes
        self._show((kind, item), text)
        self._add_bytes((kind, item), item, self.shown_bytes - before)

    def _add_bytes(self, part: object, item: object, size: int) -> None:
        if len(self._text_bytes) < ITEMS_MAX or part in self._text_bytes:
            self._text_bytes[part] = self._text_bytes.get(part, 0) + size
            self._item_bytes[item] = self._item_bytes.get(item, 0) + size

    def _whole_text(self, fields: ResponsesEvent) -> None:
        """Count the part of a whole text that its pieces did not have."""
        item = self._item_key(fields)
        for text in (fields.text, fields.refusal, fields.arguments, fields.input, fields.code):
            if text:
                kind = fields.type[:-5]
                counted_bytes = self._text_bytes.get((kind, item), 0)
                self._rest((kind, item), item, text, counted_bytes)

    def _rest(self, part: object, item: object, text: str, counted_bytes: int) -> None:
        """Count a text without its first `counted_bytes` bytes, which were counted before (several parts of one kind add up)."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > counted_bytes:
            self._last = None  # a whole text does not show whether pieces repeat the text before them
            before = self.shown_bytes
            self._show((part, "rest"), data[counted_bytes:].decode("utf-8", "replace"))
            self.shown_bytes = before + len(data) - counted_bytes
            self._add_bytes(part, item, len(data) - counted_bytes)

    def _item(self, fields: ResponsesEvent, item: _Fields) -> None:
        """Read an item that begins or is done: its id and kind, and the part of its texts that was not counted yet."""
        item_id = item.get("id")
        if isinstance(item_id, str):
            fields.item_id = item_id
        key = self._item_key(fields)
        value = item.get("type")
        kind = value if isinstance(value, str) else ""
        if kind in _HIDDEN_ITEMS or item.get("encrypted_content"):
            self.hidden = True
        if kind in _CALL_ITEMS and ("call", key) not in self._text_bytes:
            self.calls += 1
            self._add_bytes(("call", key), key, 0)
        text = _item_text(item)
        counted_bytes = self._item_bytes.get(key, 0)
        if text:
            self._rest(("item", key), key, text, counted_bytes)

    def _response(self, event: bytes, fields: ResponsesEvent) -> bytes:
        """Read an event with the whole response: one of the first events, or the terminal event."""
        response = fields.response or ResponsesResponse()
        self._identify(response.id)
        self._use(read_openai(response.usage))
        if (
            response.error
            or response.status in {"failed", "cancelled"}
            or fields.type in {"response.failed", "response.cancelled"}
        ):
            fault = fault_of_event(payload_of(event), self.protocol) or read_fault(200, None, "failed")
            self._fail(fault)
            if fields.type in _TERMINAL:
                self._end(event)
            return b""
        self._output(response)
        event = self._named(event, payload_of(event), response.model)
        if fields.type in _TERMINAL:
            self.stopped = True
            self.finish_reason = response.status
            if response.incomplete_details is not None:
                self.finish_reason = response_finish(response.status, response.incomplete_details)
            return self._end(event)
        return self._pass(event, content=fields.type not in _EARLY)

    def _output(self, response: ResponsesResponse) -> None:
        """Count the part of the response's output that was not counted yet."""
        if isinstance(response.output, list):
            for at, item in enumerate(response.output):
                if isinstance(item, dict):
                    self._item(ResponsesEvent(output_index=at), item)
        details = response.incomplete_details
        if isinstance(details, dict) and details.get("reason") == "content_filter":
            self.filtered = True

    def _take_lenient(self, event: bytes, payload: bytes, content: _Fields) -> bytes:
        return self._read(event, _lenient_event(content))


def _item_text(item: _Fields) -> str:
    """All text of an item that the model produced."""
    texts = _texts(item, _ITEM_TEXTS)
    for name in ("summary", "content"):
        parts = item.get(name)
        if isinstance(parts, str):
            texts.append(parts)
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                texts += _texts(part, ("text", "refusal", "transcript"))
    for name in ("action", "operation"):
        value = item.get(name)
        if isinstance(value, dict):
            texts.append(msgspec.json.encode(value).decode())
    return "".join(texts)


def _texts(fields: _Fields, names: Iterable[str]) -> list[str]:
    """The values of the named fields that are texts."""
    return [value for name in names if isinstance(value := fields.get(name), str)]


def _lenient_event(content: _Fields) -> ResponsesEvent:
    """The readable fields of an event in which some fields have unexpected types."""
    fields = ResponsesEvent(item=content.get("item"), part=content.get("part"), error=content.get("error"))
    for name in ("type", "item_id", "delta", "text", "refusal", "arguments", "input", "code"):
        value = content.get(name)
        if isinstance(value, str):
            setattr(fields, name, value)
    index = content.get("output_index")
    if type(index) is int:
        fields.output_index = index
    response = content.get("response")
    if isinstance(response, dict):
        fields.response = ResponsesResponse(
            usage=response.get("usage"), error=response.get("error"), output=response.get("output"),
            incomplete_details=response.get("incomplete_details"),
        )  # fmt: skip
        for name in ("id", "model", "status"):
            value = response.get(name)
            if isinstance(value, str):
                setattr(fields.response, name, value)
    return fields
