"""The names of tools where a protocol has only flat names of a few characters, and the way back to the client's own.

A custom tool (free text in place of JSON) becomes a function with one string parameter, `input`, in a protocol without custom tools. The
writer of the request gives the upstream the flat names; the writer of the answer, which knows the request, gives the client its own.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final

from tokenworks.gateway.translate.form import JsonObject, Tool, ToolCall

# The least that a protocol allows: chat has 64 characters, messages 128 (both: letters, digits, `_` and `-`).
NAME_CHARS_MAX: Final = 64
JOINT: Final = "__"
INPUT: Final = "input"
_HASH_CHARS: Final = 8
_FLAT: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_CHARS_MAX}}}")
_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")
_Key = tuple[str | None, str]


class ToolNames:
    """The flat names of a request's tools.

    A flat name that is allowed stays as it is. A namespace is joined with `__`. A name that has other characters, is too long or is
    taken ends with a hash of the whole name. The names depend on the tools alone, so a later request of the conversation has the same.
    """

    __slots__ = ("_flat", "_tools")

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._flat: dict[_Key, str] = {}
        self._tools: dict[str, Tool] = {}
        later: list[Tool] = []
        for tool in tools:
            if tool.namespace is None and _FLAT.fullmatch(tool.name):
                if tool.name not in self._tools:
                    self._add(tool, tool.name)
            else:
                later.append(tool)
        for tool in later:
            if (tool.namespace, tool.name) not in self._flat:
                self._add(tool, self._free(_flat_name(tool.namespace, tool.name), tool))

    def _add(self, tool: Tool, name: str) -> None:
        assert name not in self._tools and _FLAT.fullmatch(name)
        self._flat[(tool.namespace, tool.name)] = name
        self._tools[name] = tool

    def _free(self, name: str, tool: Tool) -> str:
        number = 0
        while name in self._tools:
            number += 1
            name = _hashed(tool.namespace, tool.name, number)
        return name

    def wire(self, name: str, namespace: str | None = None) -> str:
        """The flat name. A call in the history may name a tool that the request has no more."""
        return self._flat.get((namespace, name)) or _flat_name(namespace, name)

    def original(self, wire: str) -> Tool | None:
        """The client's tool of this flat name; None if there is none."""
        return self._tools.get(wire)

    def restored(self, call: ToolCall) -> ToolCall:
        """The call as the client knows its tool: the name, the namespace, and the free text of a custom tool."""
        tool = self._tools.get(call.name)
        if tool is None or call.custom or call.namespace is not None:
            return call
        if not tool.custom and tool.namespace is None and tool.name == call.name:
            return call
        arguments = unwrapped(call.arguments) if tool.custom else call.arguments
        return ToolCall(
            call.call_id, tool.name, arguments, tool.custom, tool.namespace, call.item_id, call.cache
        )


def _flat_name(namespace: str | None, name: str) -> str:
    joined = name if namespace is None else f"{namespace}{JOINT}{name}"
    return joined if _FLAT.fullmatch(joined) else _hashed(namespace, name, 0)


def _hashed(namespace: str | None, name: str, number: int) -> str:
    joined = name if namespace is None else f"{namespace}{JOINT}{name}"
    whole = json.dumps([namespace, name, number]).encode()
    digest = hashlib.sha256(whole).hexdigest()[:_HASH_CHARS]
    return f"{_OTHER.sub('_', joined)[: NAME_CHARS_MAX - _HASH_CHARS - 1]}_{digest}"


# Custom tools.


def custom_parameters() -> JsonObject:
    """The JSON Schema of the function that stands for a custom tool."""
    return {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}


def custom_description(tool: Tool) -> str:
    """The description of the function that stands for a custom tool. It has the grammar, which the upstream can't enforce."""
    told = [tool.description] if tool.description else []
    if tool.grammar is not None:
        syntax, definition = tool.grammar
        told.append(f"`{INPUT}` is free text that this {syntax} grammar accepts:\n{definition}")
    return "\n\n".join(told)


def wrapped(text: str) -> str:
    """The arguments of a call of the function that stands for a custom tool, as JSON."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def unwrapped(arguments: str) -> str:
    """The free text of such arguments. Arguments of another shape are the free text themselves."""
    unwrapper = InputUnwrapper()
    return unwrapper.feed(arguments) + unwrapper.finish()


_BEFORE, _INSIDE, _AFTER, _RAW = range(4)
_OPENING: Final = re.compile(r'\s{0,50}\{\s{0,50}"input"\s{0,50}:\s{0,50}"')
_OPENING_CHARS: Final = f'{{"{INPUT}":"'
_OPENING_CHARS_MAX: Final = 256
# What stands in a JSON text up to its closing quote. A control character may stand there as it is: models write them.
_INNER: Final = re.compile(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_ESCAPE_CHARS: Final = 6
_HIGH: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LONE: Final = re.compile(f"[{chr(0xD800)}-{chr(0xDFFF)}]")


class InputUnwrapper:
    """Reads the text of `input` out of the pieces of a JSON object, wherever they are cut.

    An object that does not begin with `input` passes as it is. What follows the text's end is left out. It keeps at most
    `_OPENING_CHARS_MAX` characters.
    """

    __slots__ = ("_pending", "_state")

    def __init__(self) -> None:
        self._state = _BEFORE
        self._pending = ""

    def feed(self, piece: str) -> str:
        """The further text."""
        if self._state == _RAW:
            return piece
        if self._state == _AFTER:
            return ""
        text = self._pending + piece
        if self._state == _BEFORE:
            match = _OPENING.match(text)
            if match is None:
                begun = _OPENING_CHARS.startswith("".join(text.split()))
                if begun and len(text) <= _OPENING_CHARS_MAX:
                    self._pending = text
                    return ""
                self._state, self._pending = _RAW, ""
                return text
            self._state = _INSIDE
            text = text[match.end() :]
        return self._inside(text)

    def _inside(self, text: str) -> str:
        out: list[str] = []
        at = 0
        while True:
            match = _INNER.match(text, at)
            assert match is not None
            end = match.end()
            left = len(text) - end
            if left and text[end] == '"':
                self._state, self._pending = _AFTER, ""
                return "".join(out) + _unescaped(text[at:end])
            if left < _ESCAPE_CHARS and (left < 2 or text[end + 1] == "u"):
                break
            # An escape that JSON does not have: its backslash is a character.
            out.append(_unescaped(text[at:end]) + "\\")
            at = end + 1
        if _ends_high(text[at:end]):
            end -= _ESCAPE_CHARS
        self._pending = text[end:]
        assert len(self._pending) < 2 * _ESCAPE_CHARS
        return "".join(out) + _unescaped(text[at:end])

    def finish(self) -> str:
        """What is left after the last piece: an object that was cut in its beginning passes as it is."""
        left = self._pending if self._state == _BEFORE else ""
        self._state, self._pending = _AFTER, ""
        return left


def _ends_high(inner: str) -> bool:
    """True if the text ends with the escape of a high surrogate, whose other half may follow in the next piece."""
    if not _HIGH.fullmatch(inner, max(0, len(inner) - _ESCAPE_CHARS)):
        return False
    before = inner[:-_ESCAPE_CHARS]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _unescaped(inner: str) -> str:
    if "\\" not in inner:
        return inner
    text: str = json.loads(f'"{inner}"', strict=False)
    return _LONE.sub("�", text)
