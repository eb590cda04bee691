"""Reads the messages of a chat request into turns."""

from collections.abc import Sequence

import msgspec

from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.chat.media import read_audio, read_file, read_image
from tokenworks.gateway.translate.chat.reasoning import read_reasoning
from tokenworks.gateway.translate.chat.values import list_of, object_of, text_of, text_or_none
from tokenworks.gateway.translate.form import (
    CacheLifetime,
    File,
    Image,
    Instruction,
    JsonObject,
    Part,
    Reasoning,
    Refused,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Untranslatable,
)

_SYSTEM = frozenset({"system", "developer"})
_TEXT_TYPES = frozenset({"text", "input_text", "output_text", ""})
# What a message may have beside its content, and what the reading of its role does not use.
_READ_FIELDS = frozenset({
    "role", "content", "refusal", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "reasoning_details",
})  # fmt: skip


class _OpenCalls:
    """The calls of an assistant message that have no result yet. A message may have thousands, so that they are found by their ids and
    names, and not one by one.
    """

    __slots__ = ("_by_id", "_by_name", "_left")

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self._left = dict(enumerate(calls))
        # The numbers of calls by their id and by their name, the first one last.
        self._by_id: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for number in reversed(self._left):
            self._by_id.setdefault(calls[number].call_id, []).append(number)
            self._by_name.setdefault(calls[number].name, []).append(number)

    def take(self, call_id: str, name: str) -> ToolCall | None:
        """The first call of this id. Without an id: the first one of this name, else the first one."""
        numbers = self._by_id.get(call_id) if call_id else self._by_name.get(name)
        while numbers:
            call = self._left.pop(numbers.pop(), None)
            if call is not None:
                return call
        if call_id or not self._left:
            return None
        return self._left.pop(next(iter(self._left)))


class MessagesReader:
    """`system` and `turns` after `read`; `named` gets the names of what is not carried."""

    __slots__ = ("_calls", "_named", "_results", "system", "turns")

    def __init__(self, named: Named) -> None:
        self._named = named
        self.system: list[Text] = []
        self.turns: list[Turn | Instruction] = []
        self._calls = _OpenCalls(())  # of the last assistant message
        # The results after an assistant message, until the message of another role.
        self._results: list[Part] = []

    def read(self, messages: object) -> None:
        """Raises `Untranslatable` if there are no messages, or one has no known role."""
        if not isinstance(messages, list) or not messages:
            raise Untranslatable("messages", "messages is not a list of messages")
        for number, message in enumerate(messages):
            self._message(object_of(message), number)
        self._end_results(())

    def _message(self, message: JsonObject, number: int) -> None:
        path = f"messages[{number}]"
        role = text_of(message.get("role"))
        for name, value in message.items():
            if name not in _READ_FIELDS and value is not None:
                self._named.add(f"messages[].{name}")
        if role in {"tool", "function"}:
            self._results.append(self._result(message, path, number))
        elif role == "user":
            self._end_results(self._parts(message.get("content"), path))
        elif role == "assistant":
            self._end_results(())
            self._assistant(message, path, number)
        elif role in _SYSTEM:
            self._end_results(())
            self._system(self._texts(message.get("content"), path))
        else:
            raise Untranslatable(f"{path}.role", f"{path}.role is none of user, assistant, system and tool")

    def _end_results(self, parts: tuple[Part, ...]) -> None:
        """End a row of results. The parts of a user message that follows it stand in the same turn."""
        parts = (*self._results, *parts)
        self._results = []
        if parts:
            self.turns.append(Turn("user", parts))

    def _system(self, texts: tuple[Text, ...]) -> None:
        if not texts:
            return
        if self.turns:
            self.turns.append(Instruction(texts))
        else:
            self.system.extend(texts)

    def _assistant(self, message: JsonObject, path: str, number: int) -> None:
        reasoning: list[Part] = list(read_reasoning(message))
        said: list[Part] = []
        for part in self._parts(message.get("content"), path):
            (reasoning if isinstance(part, Reasoning) else said).append(part)
        refusal = text_of(message.get("refusal"))
        if refusal:
            said.append(Refused(refusal))
        calls = self._tool_calls(message, number)
        self._calls = _OpenCalls(calls)
        parts = (*reasoning, *said, *calls)
        if parts:
            self.turns.append(Turn("assistant", parts))

    def _tool_calls(self, message: JsonObject, number: int) -> list[ToolCall]:
        calls: list[ToolCall] = []
        for at, value in enumerate(list_of(message.get("tool_calls"))):
            call = read_call(object_of(value), f"call_{number}_{at}")
            if call is None:
                self._named.add("messages[].tool_calls[]")
            else:
                calls.append(call)
        old = read_function(message.get("function_call"), f"call_{number}")
        if old is not None and not calls:
            calls.append(old)
        return calls

    def _result(self, message: JsonObject, path: str, number: int) -> ToolResult:
        """The result of a call. One without an id belongs to the first call of its name without a result, else to the first one."""
        call_id = text_of(message.get("tool_call_id"))
        call = self._calls.take(call_id, text_of(message.get("name")))
        custom = call is not None and call.custom
        if call is not None:
            call_id = call.call_id
        content: list[Text | Image | File] = []
        for part in self._parts(message.get("content"), path):
            if isinstance(part, Text | Image | File):
                content.append(part)
            else:
                self._named.add("messages[].content[]")
        return ToolResult(call_id or f"call_{number}", tuple(content), False, custom)

    def _texts(self, content: object, path: str) -> tuple[Text, ...]:
        texts: list[Text] = []
        for part in self._parts(content, path):
            if isinstance(part, Text):
                texts.append(part)
            else:
                self._named.add("messages[].content[]")
        return tuple(texts)

    def _parts(self, content: object, path: str) -> tuple[Part, ...]:
        if isinstance(content, str):
            return (Text(content),) if content else ()
        if isinstance(content, dict):
            content = [content]
        parts: list[Part] = []
        for number, item in enumerate(list_of(content)):
            if isinstance(item, str):
                if item:
                    parts.append(Text(item))
                continue
            fields = object_of(item)
            read = self._part(fields)
            if read is not None:
                parts.append(read)
            elif text_of(fields.get("type")) not in _TEXT_TYPES or not isinstance(fields.get("text"), str):
                self._named.add(f"{path}.content[{number}]")
        return tuple(parts)

    def _part(self, fields: JsonObject) -> Part | None:
        kind = text_of(fields.get("type"))
        cache = _cache(fields.get("cache_control"))
        if fields.get("prompt_cache_breakpoint") is not None:
            self._named.add("messages[].content[].prompt_cache_breakpoint")
        if kind in _TEXT_TYPES:
            text = text_of(fields.get("text"))
            return Text(text, cache) if text else None
        if kind == "image_url":
            return read_image(fields.get("image_url"), cache)
        if kind == "input_audio":
            return read_audio(fields.get("input_audio"))
        if kind == "file":
            return read_file(fields.get("file"), cache)
        if kind == "refusal":
            text = text_of(fields.get("refusal"))
            return Refused(text) if text else None
        if kind == "thinking":
            text = thinking_text(fields.get("thinking")) or text_of(fields.get("text"))
            return Reasoning(text) if text else None
        return None


def _cache(value: object) -> CacheLifetime | None:
    fields = object_of(value)
    if text_of(fields.get("type")) != "ephemeral":
        return None
    return "1h" if text_of(fields.get("ttl")) == "1h" else "5m"


def thinking_text(value: object) -> str:
    """The text of Mistral's `thinking`: a text, or a list of text parts."""
    if isinstance(value, str):
        return value
    return "".join([text_of(object_of(part).get("text")) for part in list_of(value)])


def read_call(fields: JsonObject, default_id: str) -> ToolCall | None:
    """One of `tool_calls`; None if it names no tool. `default_id`: the id of a call that has none."""
    call_id = text_of(fields.get("id")) or default_id
    custom = object_of(fields.get("custom"))
    if custom:
        name = text_of(custom.get("name"))
        return ToolCall(call_id, name, text_of(custom.get("input")), custom=True) if name else None
    return read_function(fields.get("function"), call_id)


def read_function(value: object, call_id: str) -> ToolCall | None:
    fields = object_of(value)
    name = text_or_none(fields.get("name"))
    return None if name is None else ToolCall(call_id, name, read_arguments(fields.get("arguments")))


def read_arguments(value: object) -> str:
    """Arguments as JSON text. Ollama writes the decoded object, and a call without arguments may have none."""
    if isinstance(value, str):
        return value or "{}"
    return "{}" if value is None else msgspec.json.encode(value).decode()
