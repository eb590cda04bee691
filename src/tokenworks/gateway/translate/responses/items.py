"""Reads the items of a request of responses into turns."""

from typing import Final

from tokenworks.gateway.translate.form import (
    Instruction,
    JsonObject,
    Part,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Untranslatable,
)
from tokenworks.gateway.translate.responses.client_tools import CALL_ITEMS, RESULT_ITEMS, arguments_of
from tokenworks.gateway.translate.responses.content import read_content, read_result, texts_of
from tokenworks.gateway.translate.responses.reasoning import read_reasoning
from tokenworks.gateway.translate.responses.values import Dropped, json_text, list_of, object_of, text_of

# A result that is an error has this status, which responses allow and do not define, and begins with this text, which the model reads.
FAILED: Final = "incomplete"
ERROR_HEAD: Final = "Error: "
_INSTRUCTING: Final = frozenset({"system", "developer"})
_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
# Items of the provider's own tools, and what only it can read. Their names are in docs/TRANSLATION.md.
_PROVIDERS_OWN: Final = frozenset({
    "compaction", "computer_call", "computer_call_output", "web_search_call", "file_search_call", "code_interpreter_call",
    "image_generation_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call", "program", "program_output",
})  # fmt: skip


class ItemReader:
    """The turns of a conversation, read item by item.

    A user's message is a turn of its own; so are the tool outputs in a row, and the assistant's items in a row: reasoning, messages and
    calls. `more_tools`, `text`, `effort`: what items of the input add to the request's own fields.
    """

    __slots__ = ("_dropped", "_outputs", "_parts", "_role", "effort", "more_tools", "system", "text", "turns")

    def __init__(self, dropped: Dropped) -> None:
        self._dropped = dropped
        self._parts: list[Part] = []
        self._role: Role = "user"
        self._outputs = False
        self.system: list[Text] = []
        self.turns: list[Turn | Instruction] = []
        self.more_tools: list[object] = []
        self.text: JsonObject | None = None
        self.effort: str | None = None

    def read(self, value: object) -> None:
        """Read the value of `input`. Raises `Untranslatable`."""
        if isinstance(value, str):
            self.turns.append(Turn("user", (Text(value),)))
            return
        if not isinstance(value, list):
            raise Untranslatable("input", "input has to be a text or a list of items")
        for item in value:
            self._item(object_of(item) or {})
        self._close()

    def instruct(self, items: list[object]) -> None:
        for item in items:
            self.system.extend(texts_of((object_of(item) or {}).get("content"), self._dropped))

    def _item(self, item: JsonObject) -> None:
        kind = text_of(item.get("type"))
        if kind == "message" or (kind is None and "role" in item):
            self._message(item)
        elif kind == "reasoning":
            self._say(read_reasoning(item))
        elif kind in {"function_call", "custom_tool_call"} or kind in CALL_ITEMS:
            self._call(kind or "", item)
        elif kind in _OUTPUTS or kind in RESULT_ITEMS:
            self._output(kind or "", item)
        elif kind == "configuration_update":
            self.text = object_of(item.get("text")) or self.text
            self.effort = text_of((object_of(item.get("reasoning")) or {}).get("effort")) or self.effort
        elif kind == "additional_tools":
            self.more_tools.extend(list_of(item.get("tools")))
        elif kind == "compaction_trigger":
            raise Untranslatable(
                "input", "this model can't compact a conversation: only the provider that made it can"
            )
        elif kind == "item_reference" or (kind is None and "id" in item):
            raise Untranslatable(
                "input", "an item can't be referred to with this model: send the item itself"
            )
        else:
            self._dropped.add(f"input.{kind}" if kind in _PROVIDERS_OWN else "input")

    def _message(self, item: JsonObject) -> None:
        role = text_of(item.get("role"))
        if item.get("phase") is not None:
            self._dropped.add("input.phase")
        if role in _INSTRUCTING:
            texts = texts_of(item.get("content"), self._dropped)
            self._close()
            if not self.turns:
                self.system.extend(texts)
            elif texts:
                self.turns.append(Instruction(texts))
        elif role == "assistant":
            for part in read_content(item.get("content"), self._dropped):
                self._say(part)
        elif role == "user":
            self._close()
            self._role = "user"
            self._parts.extend(read_content(item.get("content"), self._dropped))
            self._close()
        else:
            self._dropped.add("input.role")

    def _say(self, part: Part) -> None:
        if self._role != "assistant":
            self._close()
            self._role = "assistant"
        self._parts.append(part)

    def _call(self, kind: str, item: JsonObject) -> None:
        call_id = text_of(item.get("call_id")) or text_of(item.get("id"))
        builtin = CALL_ITEMS.get(kind)
        name = text_of(item.get("name")) if builtin is None else builtin
        if not call_id or not name:
            self._dropped.add("input.name" if call_id else "input.call_id")
            return
        custom = kind == "custom_tool_call"
        if builtin is not None:
            arguments = arguments_of(builtin, item)
        else:
            arguments = _arguments(item.get("input" if custom else "arguments"))
        namespace, item_id = text_of(item.get("namespace")), text_of(item.get("id"))
        self._say(ToolCall(call_id, name, arguments, custom, namespace, item_id))

    def _output(self, kind: str, item: JsonObject) -> None:
        call_id = text_of(item.get("call_id")) or text_of(item.get("id"))
        if not call_id:
            self._dropped.add("input.call_id")
            return
        if kind == "tool_search_output":
            # The tools that the search found are given from now on; the model is told their names.
            self.more_tools.extend(list_of(item.get("tools")))
        failed = text_of(item.get("status")) in {FAILED, "failed"}
        content = read_result(kind, item, self._dropped)
        if failed and content and isinstance(content[0], Text) and content[0].text.startswith(ERROR_HEAD):
            rest = content[0].text[len(ERROR_HEAD) :]
            content = (*((Text(rest, content[0].cache),) if rest else ()), *content[1:])
        if self._role != "user" or not self._outputs:
            self._close()
            self._role, self._outputs = "user", True
        self._parts.append(ToolResult(call_id, content, failed, kind == "custom_tool_call_output"))

    def _close(self) -> None:
        """End the turn that is being read. A turn without parts is none."""
        if self._parts:
            self.turns.append(Turn(self._role, tuple(self._parts)))
        self._parts = []
        self._outputs = False
        self._role = "user"


def _arguments(value: object) -> str:
    """JSON text, or the JSON of an object, which some clients send in its place."""
    if isinstance(value, str):
        return value
    return "" if value is None else json_text(value)
