"""Writes the turns of a request as messages of chat, as engines and vendors take them.

A vendor's template or check refuses what OpenAI's own service takes: two messages of one role in a row, a tool message without its call,
a call without its tool message, content in parts where a text would do, arguments that are not a JSON object.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE
from tokenworks.gateway.translate.chat.dropped import Named
from tokenworks.gateway.translate.chat.media import file_text, written_audio, written_file, written_image
from tokenworks.gateway.translate.chat.reasoning import (
    JOINT,
    NO_REASONING,
    joined_text,
    needs_details,
    shown_text,
    written_details,
)
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    Audio,
    File,
    Image,
    Instruction,
    JsonObject,
    Part,
    Reasoning,
    Refused,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.names import ToolNames, wrapped

# What stands in place of a result that the client did not send: every call has to have one.
NO_RESULT: Final = "No result."
ERROR: Final = "Error: "
_any: Final = msgspec.json.Decoder()


def write_messages(request: Request, target: Target, names: ToolNames, named: Named) -> list[JsonObject]:
    """Raises `Untranslatable` for media that chat has no form for, and if nothing is left to be written."""
    writer = _MessagesWriter(request, target, names)
    system = _joined(request.system)
    if system:
        writer.messages.append({"role": "system", "content": system})
    for turn in _joined_turns(request.turns, target, named):
        if isinstance(turn, Instruction):
            writer.instruction(turn)
        elif turn.role == "assistant":
            writer.assistant(turn.parts)
        else:
            writer.user(turn.parts)
    writer.close_calls()
    if not writer.messages:
        raise Untranslatable("messages", "no message has any content")
    return writer.messages


def _joined(texts: Sequence[Text]) -> str:
    return JOINT.join([part.text for part in texts if part.text])


class _Row:
    """Turns of one role in a row."""

    __slots__ = ("parts", "role")

    def __init__(self, turn: Turn) -> None:
        self.role = turn.role
        self.parts: list[Part] = list(turn.parts)


def _joined_turns(
    turns: Sequence[Turn | Instruction], target: Target, named: Named
) -> list[Turn | Instruction]:
    """Turns of one role in a row as one. Instructions between calls and their results follow the results. Where the deployment takes no
    system message in the midst (templates of Qwen and others refuse it, and models answer nothing to one at the end), its text stands in
    the turn of the user.
    """
    rows: list[_Row | Instruction] = []
    last = -1  # the place of the last row; only instructions stand after it
    for told in turns:
        turn = told
        if isinstance(turn, Instruction):
            text = _joined(turn.parts)
            if not text:
                continue
            if not target.system_turns:
                turn = Turn("user", (Text(f"<system>\n{text}\n</system>"),))
        else:
            written = [_is_written(part, target, named) for part in turn.parts]
            if not any(written):
                continue
        if isinstance(turn, Instruction):
            rows.append(turn)
            continue
        before = rows[last] if last >= 0 else None
        at = len(rows)
        if isinstance(before, _Row):
            if before.role == turn.role and last == at - 1:
                before.parts += turn.parts
                continue
            if turn.role == "user" and before.role == "assistant" and _answers(turn, before.parts):
                at = last + 1
        rows.insert(at, _Row(turn))
        last = at
    return [row if isinstance(row, Instruction) else Turn(row.role, tuple(row.parts)) for row in rows]


def _is_written(part: Part, target: Target, named: Named) -> bool:
    """False for an empty text, and for reasoning that the deployment can't read, which is named."""
    if isinstance(part, Text | Refused):
        return part.text != ""
    if not isinstance(part, Reasoning):
        return True
    signed = target.signed_reasoning and needs_details(part)
    written = signed or (target.reasoning_field is not None and shown_text(part) != "")
    if not written:
        named.add("reasoning")
    return written


def _answers(turn: Turn, before: Sequence[Part]) -> bool:
    ids = {part.call_id for part in before if isinstance(part, ToolCall)}
    return any(isinstance(part, ToolResult) and part.call_id in ids for part in turn.parts)


class _MessagesWriter:
    __slots__ = ("_calls", "_names", "_needs_reasoning", "_target", "messages")

    def __init__(self, request: Request, target: Target, names: ToolNames) -> None:
        self._target = target
        options = request.reasoning
        self._needs_reasoning = (
            target.reasoning_switch == "thinking"
            and target.reasoning_field is not None
            and options.enabled is not False
            and options.effort != "none"
        )
        self._names = names
        # The last assistant message's calls that have no result yet: so many of each id.
        self._calls: dict[str, int] = {}
        self.messages: list[JsonObject] = []

    def instruction(self, turn: Instruction) -> None:
        text = _joined(turn.parts)
        if text:
            self.close_calls()
            self.messages.append({"role": "system", "content": text})

    def close_calls(self) -> None:
        for call_id, count in self._calls.items():
            for _ in range(count):
                self.messages.append({"role": "tool", "tool_call_id": call_id, "content": NO_RESULT})
        self._calls = {}

    def assistant(self, parts: Sequence[Part]) -> None:
        self.close_calls()
        said: list[str] = []
        calls: list[JsonObject] = []
        reasoning: list[Reasoning] = []
        for part in parts:
            if isinstance(part, Text | Refused):
                if part.text:
                    said.append(part.text)
            elif isinstance(part, Reasoning):
                reasoning.append(part)
            elif isinstance(part, ToolCall):
                calls.append(self._call(part))
                self._calls[part.call_id] = self._calls.get(part.call_id, 0) + 1
        message: JsonObject = {"role": "assistant"}
        # Null beside calls, as OpenAI writes it; without calls some vendors refuse null.
        message["content"] = JOINT.join(said) if said or not calls else None
        self._reasoning(message, reasoning)
        if calls:
            message["tool_calls"] = calls
            field = self._target.reasoning_field
            if self._needs_reasoning and field is not None and field not in message:
                message[field] = NO_REASONING
        if said or len(message) > 2:
            self.messages.append(message)

    def _reasoning(self, message: JsonObject, reasoning: Sequence[Reasoning]) -> None:
        if not reasoning:
            return
        details = written_details(reasoning) if self._target.signed_reasoning else []
        text = joined_text(reasoning)
        field = self._target.reasoning_field
        if details:
            message["reasoning_details"] = details
        if field is not None and text:
            message[field] = text

    def _call(self, call: ToolCall) -> JsonObject:
        name = self._names.wire(call.name, call.namespace)
        arguments = wrapped(call.arguments) if call.custom else _object_text(call.arguments)
        return {
            "id": call.call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }

    def user(self, parts: Sequence[Part]) -> None:
        """Results first, in tool messages; then one user message with the media of the results, and what else the turn has."""
        content: list[JsonObject] = []
        for part in parts:
            if isinstance(part, ToolResult):
                content += self._result(part)
        self.close_calls()
        for part in parts:
            if not isinstance(part, ToolResult):
                content += _content(part)
        if content:
            self.messages.append({"role": "user", "content": _compact(content)})

    def _result(self, result: ToolResult) -> list[JsonObject]:
        """Write the tool message; returns what the user message gets of the result."""
        texts: list[str] = []
        media: list[JsonObject] = []
        for part in result.content:
            for item in _content(part):
                if item["type"] == "text":
                    texts.append(str(item["text"]))
                else:
                    media.append(item)
        text = JOINT.join(texts)
        if result.is_error:
            text = ERROR + text
        open_calls = self._calls.pop(result.call_id, 0)
        if not open_calls:
            return [_text_item(f"Result of the tool call {result.call_id}:\n{text}"), *media]
        if open_calls > 1:
            self._calls[result.call_id] = open_calls - 1
        if not media:
            self.messages.append({"role": "tool", "tool_call_id": result.call_id, "content": text})
            return []
        text = text or "The result is in the next message of the user."
        self.messages.append({"role": "tool", "tool_call_id": result.call_id, "content": text})
        return [_text_item(f"Result of the tool call {result.call_id}:"), *media]


def _text_item(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _content(part: Part) -> list[JsonObject]:
    """The items of a message's content for one part of a user's turn."""
    if isinstance(part, Text | Refused):
        return [_text_item(part.text)] if part.text else []
    if isinstance(part, Image):
        return [written_image(part)]
    if isinstance(part, File):
        text = file_text(part)
        return [written_file(part) if text is None else _text_item(text)]
    if isinstance(part, Audio):
        return [written_audio(part)]
    return []


def _compact(content: list[JsonObject]) -> str | list[JsonObject]:
    """A text if there are only texts: some vendors take no parts."""
    if all(item["type"] == "text" for item in content):
        return JOINT.join([str(item["text"]) for item in content])
    return content


def _object_text(arguments: str) -> str:
    """Arguments that are a JSON object stay as they are. Others (of a call that was cut off) would fail in the templates of engines,
    so they become the text of an object.
    """
    if not arguments.strip():
        return "{}"
    try:
        value = _any.decode(arguments)
    except UNREADABLE:
        return wrapped(arguments)
    return arguments if isinstance(value, dict) else wrapped(arguments)
