"""Properties of a prompt that placement and the choice of a model use."""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.fields.body import Parsed
from tokenworks.gateway.protocol.fields.errors import UNREADABLE

_any: Final = msgspec.json.Decoder()
_string: Final = msgspec.json.Decoder(str | None)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    role: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")


_item: Final = msgspec.json.Decoder(_Item)


def is_prompt(parsed: Parsed, protocol: str) -> bool:
    """True if the last item is from the user, False if it is a tool's result with which an agent continues."""
    name = "input" if protocol == "responses" else "messages"
    raw = parsed.fields.get(name)
    if raw is None or not bytes(raw).startswith(b"["):
        return True  # a text, or a protocol without items
    try:
        items = _items.decode(raw)
        if not items:
            return True
        last = _item.decode(items[-1])
        if protocol == "responses":
            return last.type in {None, "message"} and last.role in {None, "user"}
        if last.role != "user":
            return False
        if protocol == "messages" and bytes(last.content).startswith(b"["):
            blocks = _items.decode(last.content)
            return not blocks or _item.decode(blocks[-1]).type != "tool_result"
    except UNREADABLE:
        return True
    return True


class _Effort(msgspec.Struct):
    effort: str | None = None


_effort: Final = msgspec.json.Decoder(_Effort)


def requested_effort(parsed: Parsed) -> str | None:
    """The reasoning effort that the client requests, in its own words; None if it requests none."""
    raw = parsed.fields.get("reasoning_effort")
    try:
        if raw is not None:
            effort: str | None = _string.decode(raw)
            return effort
        nested = parsed.fields.get("reasoning")
        return None if nested is None else _effort.decode(nested).effort
    except UNREADABLE:
        return None


def count_tools(parsed: Parsed) -> int:
    raw = parsed.fields.get("tools")
    if raw is None:
        return 0
    try:
        return len(_items.decode(raw))
    except UNREADABLE:
        return 0


def last_user_text(parsed: Parsed, protocol: str) -> str:
    """The text of the user's last message; empty if there is none, or it is unreadable."""
    raw = parsed.fields.get({"responses": "input", "completions": "prompt"}.get(protocol, "messages"))
    if raw is None:
        return ""
    try:
        if protocol == "completions" or not bytes(raw).startswith(b"["):
            value = _any.decode(raw)
            return value if isinstance(value, str) else " ".join(v for v in value if isinstance(v, str))
        for item in reversed(_items.decode(raw)):
            last = _item.decode(item)
            if last.role in {None, "user"}:
                content = _any.decode(last.content)
                if isinstance(content, str):
                    return content
                if isinstance(content, list):
                    texts = (part.get("text") for part in content if isinstance(part, dict))
                    return " ".join(text for text in texts if isinstance(text, str))
    except (*UNREADABLE, TypeError):
        return ""
    return ""
