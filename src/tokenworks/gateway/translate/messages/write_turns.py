"""Writes a conversation as the provider of messages demands it, whatever the client's protocol allowed.

Roles alternate, and the first message is the user's. Each call has one result, in the message that follows it and before anything else
there. Ids of calls have certain characters and are unique. No text is blank, and the last message of the assistant ends with no blank.
"""

import hashlib
import json
import re
from typing import Final

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import (
    Audio,
    CacheLifetime,
    File,
    Image,
    Instruction,
    JsonObject,
    Part,
    Reasoning,
    Refused,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.messages.answers import input_of, reasoning_text
from tokenworks.gateway.translate.messages.breakpoints import Breakpoints
from tokenworks.gateway.translate.messages.values import Dropped
from tokenworks.gateway.translate.messages.write_blocks import (
    inner_mark,
    write_file,
    write_image,
    write_result,
    write_text,
)
from tokenworks.gateway.translate.names import ToolNames

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The user's turn before a conversation that begins with the assistant, or of a request that has none: the provider demands one.
FILLER: Final = "."
NO_RESULT: Final = "(The call has no result.)"
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})


class _Message:
    """A message in the making. `results`: results of the calls right before it. `marks`: blocks with their marks of the cache."""

    __slots__ = ("blocks", "marked", "results", "role")

    def __init__(self, role: str) -> None:
        self.role = role
        self.results: list[JsonObject] = []
        self.blocks: list[JsonObject] = []
        self.marked: list[tuple[JsonObject, CacheLifetime | None]] = []

    def add(self, block: JsonObject | None, cache: CacheLifetime | None = None) -> None:
        if block is not None:
            self.blocks.append(block)
            self.marked.append((block, cache))


class Conversation:
    """Turns in, messages out."""

    __slots__ = ("_dropped", "_due", "_ids", "_messages", "_names", "_numbers", "_target", "_used")

    def __init__(self, names: ToolNames, target: Target, dropped: Dropped) -> None:
        self._names = names
        self._target = target
        self._dropped = dropped
        self._messages: list[_Message] = []
        self._ids: dict[str, str] = {}  # the written id of the last call with this id
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}  # by id: the next number for an id that is used or not allowed
        self._due: dict[
            str, None
        ] = {}  # written ids of calls in the last message of the assistant that have no result yet

    def add(self, turn: Turn | Instruction) -> None:
        """Raises `Untranslatable`."""
        if isinstance(turn, Instruction):
            self._instruct(turn)
            return
        for part in turn.parts:
            if turn.role == "assistant":
                self._assistant(part)
            else:
                self._user(part)

    def _message(self, role: Role) -> _Message:
        """The message that takes the next part of this role."""
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role == "system" and role == "user":
            last = self._fold(self._messages.pop())
        if last is not None and last.role == role:
            return last
        if role == "assistant":
            self._close_calls()
        message = _Message(role)
        self._messages.append(message)
        return message

    def _fold(self, system: _Message) -> _Message:
        """Put a system message into the user's message before it: the provider takes one only at the end of the user's turn."""
        user = self._messages[-1]
        assert user.role == "user"
        for block, cache in system.marked:
            user.add(_told(str(block["text"])), cache)
        return user

    def _close_calls(self) -> None:
        """Give the calls that have no result one that says so."""
        if not self._due:
            return
        if self._messages[-1].role != "user":
            self._messages.append(_Message("user"))
        for call_id in self._due:
            result: JsonObject = {
                "type": "tool_result",
                "tool_use_id": call_id,
                "content": NO_RESULT,
                "is_error": True,
            }
            self._messages[-1].results.append(result)
        self._due.clear()

    def _instruct(self, turn: Instruction) -> None:
        last = self._messages[-1] if self._messages else None
        if self._target.system_turns and not self._due and last is not None and last.role != "assistant":
            if last.role == "user":
                last = _Message("system")
            for text in turn.parts:
                last.add(write_text(text.text), text.cache)
            if last.blocks and self._messages[-1] is not last:
                self._messages.append(last)
            return
        for text in turn.parts:
            if text.text.strip():
                self._message("user").add(_told(text.text), text.cache)

    def _assistant(self, part: Part) -> None:
        if isinstance(part, Text):
            if part.text.strip():
                self._message("assistant").add(write_text(part.text), part.cache)
        elif isinstance(part, Refused):
            if part.text.strip():
                self._message("assistant").add(write_text(part.text))
        elif isinstance(part, Reasoning):
            self._thought(part)
        elif isinstance(part, ToolCall):
            self._call(part)
        else:
            self._dropped.add("turns.assistant")

    def _thought(self, part: Reasoning) -> None:
        """Only reasoning that this deployment has signed or encrypted; it would refuse any other."""
        if not self._target.signed_reasoning or not (part.signature or part.encrypted):
            self._dropped.add("turns.reasoning")
            return
        message = self._message("assistant")
        if part.signature:
            message.add({"type": "thinking", "thinking": reasoning_text(part), "signature": part.signature})
        if part.encrypted:
            message.add({"type": "redacted_thinking", "data": part.encrypted})

    def _call(self, part: ToolCall) -> None:
        message = self._message("assistant")
        call_id = part.call_id
        # From where the last call with this id ended: to count anew for each of thousands would block the loop for minutes.
        number = self._numbers.get(part.call_id, 0)
        while not _ID.fullmatch(call_id) or call_id in self._used:
            whole = json.dumps([part.call_id, number]).encode()
            call_id = f"toolu_{hashlib.sha256(whole).hexdigest()[:24]}"
            number += 1
        self._numbers[part.call_id] = number
        self._used.add(call_id)
        self._ids[part.call_id] = call_id
        self._due[call_id] = None
        block: JsonObject = {
            "type": "tool_use",
            "id": call_id,
            "name": self._names.wire(part.name, part.namespace),
            "input": input_of(part.arguments, part.custom),
        }
        message.add(block, part.cache)

    def _user(self, part: Part) -> None:
        if isinstance(part, ToolResult):
            self._result(part)
        elif isinstance(part, Text):
            if part.text.strip():
                self._message("user").add(write_text(part.text), part.cache)
        elif isinstance(part, Image):
            self._message("user").add(write_image(part, self._dropped), part.cache)
        elif isinstance(part, File):
            block = write_file(part, self._dropped)
            if block is not None:
                self._message("user").add(block, part.cache)
        elif isinstance(part, Audio):
            raise Untranslatable("audio", "the deployment takes no sound")
        else:
            self._dropped.add("turns.user")

    def _result(self, part: ToolResult) -> None:
        """A result without its call, or a second one of a call, is a text: the provider refuses it as a result."""
        message = self._message("user")
        call_id = self._ids.get(part.call_id)
        cache = part.cache or inner_mark(part.content)
        if call_id in self._due and call_id is not None:
            del self._due[call_id]
            result = write_result(call_id, part.content, part.is_error, self._dropped)
            message.results.append(result)
            message.marked.append((result, cache))
            return
        message.add(write_text(f"The result of the call {part.call_id} of a tool:"))
        for inner in part.content:
            self._user(inner)

    def written(self, marks: Breakpoints) -> list[JsonObject]:
        """The messages. At least one, and the first is the user's."""
        self._close_calls()
        messages = self._messages
        if not messages or messages[0].role == "assistant":
            first = _Message("user")
            first.add(write_text(FILLER))
            messages.insert(0, first)
        if messages[-1].role == "assistant":
            _finish_prefill(messages[-1])
            if not messages[-1].blocks:
                messages.pop()
        out: list[JsonObject] = []
        for message in messages:
            for block, cache in message.marked:
                if cache is not None:
                    marks.mark(block, cache)
            content = [*message.results, *message.blocks]
            assert content
            out.append({"role": message.role, "content": content})
        return out


def _told(instruction: str) -> JsonObject:
    """An instruction as a text of the user."""
    return {"type": "text", "text": f"<system>\n{instruction}\n</system>"}


def _finish_prefill(message: _Message) -> None:
    """The provider goes on from the assistant's last turn; it refuses one that ends with a blank or with thinking."""
    while message.blocks:
        last = message.blocks[-1]
        if last["type"] == "text":
            text = str(last["text"]).rstrip()
            if text:
                last["text"] = text
                return
        elif last["type"] not in _THOUGHTS:
            return
        message.blocks.pop()
