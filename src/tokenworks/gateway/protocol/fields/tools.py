"""Tools: those that the client runs pass; those that the vendor runs cost extra, and are dropped or refused as the plan says."""

from collections.abc import Iterable
from typing import Any, Final

from tokenworks.catalog import Service
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, BodyError, invalid
from tokenworks.gateway.protocol.fields.layout import OPEN_OBJECT, RawObject
from tokenworks.gateway.protocol.fields.lists import HOSTED, Lists
from tokenworks.gateway.protocol.fields.walk import Path, Walk, any_decoder, first_byte, items_decoder

# Choices that name no tool.
_FREE: Final = frozenset({"auto", "none"})
_FORCED: Final = frozenset({"any", "required"})
_NAMED: Final = frozenset({"tool", "allowed_tools"})


def check_choice(fields: RawObject, lists: Lists, walk: Walk | None) -> None:
    """Raises `BodyError` where `tool_choice` forces a tool that runs at the vendor; notes what it names of them otherwise."""
    raw = fields.get("tool_choice")
    if raw is None or "tool" not in lists.levels:
        return
    hosted = [] if walk is None else [(path, kind) for path, kind in walk.hosted if path[0] == "tools"]
    try:
        choice = any_decoder.decode(raw)
        if not hosted and not isinstance(choice, dict):
            return
        tools = items_decoder.decode(fields["tools"]) if "tools" in fields else []
    except UNREADABLE:
        raise invalid("tool_choice is of the wrong type", "tool_choice") from None
    none_left = bool(tools) and len(hosted) == len(tools)
    if isinstance(choice, str):
        if choice in _FORCED and none_left:
            raise _forces("every tool here", "tool_choice")
        return
    if not isinstance(choice, dict):
        return
    kind = choice.get("type")
    if not isinstance(kind, str):
        return
    if kind in _FORCED and none_left:
        raise _forces("every tool here", "tool_choice")
    if kind in _FREE or kind in _FORCED:
        return
    if kind == "allowed_tools":
        _check_allowed(choice, lists, walk)
        return
    rule = None if kind in _NAMED else lists.levels["tool"].type_rule(kind)
    if rule is not None and rule.action == HOSTED:
        raise _forces(kind, "tool_choice")
    name = _name(choice) or _name(choice.get(kind))
    named = {
        _name(any_decoder.decode(tools[path[1]]))
        for path, _ in hosted
        if len(path) == 2 and isinstance(path[1], int)
    }
    if name is not None and name in named:
        raise _forces(name, "tool_choice")


def _name(tool: Any) -> str | None:
    name = tool.get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else None


def _check_allowed(choice: dict[str, Any], lists: Lists, walk: Walk | None) -> None:
    """Of `allowed_tools` those that the vendor runs are dropped; where one has to be called and none is left, it is refused."""
    inner = choice.get("allowed_tools")
    allowed, prefix = (
        (inner, ("tool_choice", "allowed_tools")) if isinstance(inner, dict) else (choice, ("tool_choice",))
    )
    tools = allowed.get("tools")
    if not isinstance(tools, list):
        return
    gone = [number for number, tool in enumerate(tools) if _is_hosted(tool, lists)]
    if not gone:
        return
    if len(gone) == len(tools):
        mode = allowed.get("mode")
        if isinstance(mode, str) and mode in _FORCED:
            raise _forces("every allowed tool", "tool_choice")
        if walk is not None:
            walk.always.append(("tool_choice",))
    elif walk is not None:
        path: Path = (*prefix, "tools")
        walk.always.extend((*path, number) for number in gone)


def _is_hosted(tool: Any, lists: Lists) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    rule = lists.levels["tool"].type_rule(kind) if isinstance(kind, str) else None
    return rule is not None and rule.action == HOSTED


def names_hosted(fields: RawObject, lists: Lists) -> bool:
    """Whether a choice of allowed tools has to be looked at: it names tools of the vendor's."""
    raw = fields.get("tool_choice")
    if raw is None or first_byte(raw) != OPEN_OBJECT or b'"allowed_tools"' not in bytes(raw):
        return False
    try:
        choice = any_decoder.decode(raw)
    except UNREADABLE:
        return True
    inner = choice.get("allowed_tools")
    tools = (inner if isinstance(inner, dict) else choice).get("tools")
    return isinstance(tools, list) and any(_is_hosted(tool, lists) for tool in tools)


def _forces(what: str, param: str) -> BodyError:
    return invalid(
        f"{what} runs at the vendor and is not sold here: a choice can't force it", param, "unpriced_field"
    )


def tools_refused(hosted: Iterable[str], service: Service) -> Refusal | None:
    """The plan's word on tools that the vendor runs (`Parsed.hosted`): None where they are dropped, or there are none."""
    names = list(hosted)
    if not names or service.hosted_tools == "drop":
        return None
    return Refusal(
        400,
        "unpriced_field",
        f"tools that run at the vendor are not sold with this plan: {', '.join(names[:5])}",
        param="tools",
    )
