"""The streams of OpenAI's responses: the last event carries the usage.

A text comes in pieces (`…delta`), whole (`…done`), with its item and with the response: up to four times. It is counted once:
the pieces as they come, and of what is whole only what the pieces had not.
"""

from typing import Any, Final

import msgspec

from tokenworks.gateway.protocol.event_shapes import ResponsesEvent, ResponsesResponse
from tokenworks.gateway.protocol.meter import StreamMeter, UsageOptions, decoded
from tokenworks.gateway.protocol.outcome import fault_of_event, fault_said
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


_event: Final = msgspec.json.Decoder(ResponsesEvent)


class ResponsesMeter(StreamMeter):
    """OpenAI's responses."""

    __slots__ = ("_items", "_names", "_texts")

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
        # By name: compiled, `super().__init__(**settings)` gives the dict as the first argument.
        super().__init__(
            protocol=protocol, requested_model=requested_model, usage_options=usage_options, event_bytes_max=event_bytes_max, text_max=text_max,
            keep_bytes_max=keep_bytes_max, choices=choices,
        )  # fmt: skip
        # Bytes shown of each item, and of each of its texts by kind; an item is known by its id, else by its place.
        self._items: dict[object, int] = {}
        self._texts: dict[object, int] = {}
        self._names: dict[int, str] = {}

    def read_whole(self, body: bytes) -> None:
        read = _lenient({"response": decoded(body)}).response or ResponsesResponse()
        self._output(read)

    def _take(self, event: bytes) -> bytes:
        at = event.find(b"data:")
        try:
            read = _event.decode(event[at + 5 :] if at >= 0 else b"")
        except UNREADABLE:
            return self._odd(event)
        return self._read(event, read)

    def _read(self, event: bytes, read: ResponsesEvent) -> bytes:
        kind, text = read.type, read.delta
        if text is not None and kind.endswith(".delta") and read.error is None:
            if text and not kind.endswith("audio.delta"):
                self._piece(kind[:-6], self._item_key(read), text)
            if self.begun and self.failed is None:
                return event
            return self._pass(event, content=bool(text))
        if kind == "error" or read.error:
            return self._fail(
                fault_of_event(payload_of(event), self.protocol) or fault_said(200, None, "error")
            )
        if read.response is not None or kind in _TERMINAL:
            return self._response(event, read)
        before = self.shown_bytes + self.calls
        if kind.endswith(".done"):
            self._done(read)
        if isinstance(read.item, dict):
            self._item(read, read.item)
        return self._pass(event, content=kind not in _EARLY or self.shown_bytes + self.calls > before)

    def _item_key(self, read: ResponsesEvent) -> object:
        """An item by its id, or by its place where an event says no id."""
        at: int | None = read.output_index
        name = read.item_id
        if name is None:
            return None if at is None else self._names.get(at, at)
        if at is not None and at not in self._names and len(self._names) < ITEMS_MAX:
            self._names[at] = name
            if at in self._items:
                self._items[name] = self._items.pop(at)
        return name

    def _piece(self, kind: str, item: object, text: str) -> None:
        before = self.shown_bytes
        self._show((kind, item), text)
        self._note((kind, item), item, self.shown_bytes - before)

    def _note(self, part: object, item: object, size: int) -> None:
        if len(self._texts) < ITEMS_MAX or part in self._texts:
            self._texts[part] = self._texts.get(part, 0) + size
            self._items[item] = self._items.get(item, 0) + size

    def _done(self, read: ResponsesEvent) -> None:
        """A text as a whole: what its pieces did not show of it."""
        item = self._item_key(read)
        for text in (read.text, read.refusal, read.arguments, read.input, read.code):
            if text:
                kind = read.type[:-5]
                known = self._texts.get((kind, item), 0)
                self._rest((kind, item), item, text, known)

    def _rest(self, part: object, item: object, text: str, known: int) -> None:
        """Show what is new of a text of which so many bytes were shown already (several parts of one kind add up)."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > known:
            self._last = None  # it is no piece: nothing is concluded from it
            before = self.shown_bytes
            self._show((part, "rest"), data[known:].decode("utf-8", "replace"))
            self.shown_bytes = before + len(data) - known
            self._note(part, item, len(data) - known)

    def _item(self, read: ResponsesEvent, item: dict[str, Any]) -> None:
        """An item that began or is done: its name, its kind, and of its texts what was not shown yet."""
        if isinstance(item.get("id"), str):
            read.item_id = item["id"]
        key = self._item_key(read)
        said = item.get("type")
        kind = said if isinstance(said, str) else ""
        if kind in _HIDDEN_ITEMS or item.get("encrypted_content"):
            self.hidden = True
        if kind in _CALL_ITEMS and ("call", key) not in self._texts:
            self.calls += 1
            self._note(("call", key), key, 0)
        text = _item_text(item)
        known = self._items.get(key, 0)
        if text:
            self._rest(("item", key), key, text, known)

    def _response(self, event: bytes, read: ResponsesEvent) -> bytes:
        """The response as a whole: at the beginning, and as the terminal event."""
        response = read.response or ResponsesResponse()
        self._identify(response.id)
        self._use(read_openai(response.usage))
        if (
            response.error
            or response.status in {"failed", "cancelled"}
            or read.type in {"response.failed", "response.cancelled"}
        ):
            fault = fault_of_event(payload_of(event), self.protocol) or fault_said(200, None, "failed")
            self._fail(fault)
            if read.type in _TERMINAL:
                self._end(event)
            return b""
        self._output(response)
        event = self._named(event, payload_of(event), response.model)
        if read.type in _TERMINAL:
            self.stopped = True
            return self._end(event)
        return self._pass(event, content=read.type not in _EARLY)

    def _output(self, response: ResponsesResponse) -> None:
        """What the response as a whole shows that was not shown yet."""
        if isinstance(response.output, list):
            for at, item in enumerate(response.output):
                if isinstance(item, dict):
                    self._item(ResponsesEvent(output_index=at), item)
        details = response.incomplete_details
        if isinstance(details, dict) and details.get("reason") == "content_filter":
            self.filtered = True

    def _take_lenient(self, event: bytes, payload: bytes, content: dict[str, Any]) -> bytes:
        return self._read(event, _lenient(content))


def _item_text(item: dict[str, Any]) -> str:
    """All text of an item that the model made."""
    texts = [item[name] for name in _ITEM_TEXTS if isinstance(item.get(name), str)]
    for name in ("summary", "content"):
        parts = item.get(name)
        if isinstance(parts, str):
            texts.append(parts)
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                texts += [
                    part[key] for key in ("text", "refusal", "transcript") if isinstance(part.get(key), str)
                ]
    for name in ("action", "operation"):
        if isinstance(item.get(name), dict):
            texts.append(msgspec.json.encode(item[name]).decode())
    return "".join(texts)


def _lenient(content: dict[str, Any]) -> ResponsesEvent:
    """An event of which some fields are of other types than they should be: those that can be read."""
    read = ResponsesEvent(item=content.get("item"), part=content.get("part"), error=content.get("error"))
    for name in ("type", "item_id", "delta", "text", "refusal", "arguments", "input", "code"):
        if isinstance(content.get(name), str):
            setattr(read, name, content[name])
    if type(content.get("output_index")) is int:
        read.output_index = content["output_index"]
    response = content.get("response")
    if isinstance(response, dict):
        read.response = ResponsesResponse(
            usage=response.get("usage"), error=response.get("error"), output=response.get("output"),
            incomplete_details=response.get("incomplete_details"),
        )  # fmt: skip
        for name in ("id", "model", "status"):
            if isinstance(response.get(name), str):
                setattr(read.response, name, response[name])
    return read
