"""Checks the tools of a request. Tools that the client runs pass; tools that the vendor runs cost extra and are dropped or refused, as
the plan says.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from tokenworks.catalog import Service
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, BodyError, invalid
from tokenworks.gateway.protocol.fields.layout import OPEN_OBJECT, RawObject
from tokenworks.gateway.protocol.fields.lists import HOSTED, Lists
from tokenworks.gateway.protocol.fields.scan import (
    BodyScan,
    FieldPath,
    any_decoder,
    first_byte,
    items_decoder,
)

# Values of `tool_choice` that name no tool, that force a call, and that name tools.
_FREE: Final = frozenset({"auto", "none"})
_FORCED: Final = frozenset({"any", "required"})
_NAMED: Final = frozenset({"tool", "allowed_tools"})


def check_choice(fields: RawObject, lists: Lists, scan: BodyScan | None) -> None:
    """Check `tool_choice`. Raises `BodyError` if it forces a tool that runs at the vendor; such tools that it only allows are noted in
    `scan` and removed.
    """
    raw = fields.get("tool_choice")
    if raw is None or "tool" not in lists.levels:
        return
    hosted = [] if scan is None else [(path, kind) for path, kind in scan.hosted if path[0] == "tools"]
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
        _check_allowed(choice, lists, scan)
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


def _name(tool: object) -> str | None:
    name = tool.get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else None


def _check_allowed(choice: Mapping[str, object], lists: Lists, scan: BodyScan | None) -> None:
    """Remove the vendor's tools from `allowed_tools`. Raises `BodyError` if a call is required and no tool is left."""
    nested = choice.get("allowed_tools")
    allowed: Mapping[str, object] = choice
    prefix: FieldPath = ("tool_choice",)
    if isinstance(nested, dict):
        allowed, prefix = nested, ("tool_choice", "allowed_tools")
    tools = allowed.get("tools")
    if not isinstance(tools, list):
        return
    hosted = [number for number, tool in enumerate(tools) if _is_hosted(tool, lists)]
    if not hosted:
        return
    if len(hosted) == len(tools):
        mode = allowed.get("mode")
        if isinstance(mode, str) and mode in _FORCED:
            raise _forces("every allowed tool", "tool_choice")
        if scan is not None:
            scan.cuts.append(("tool_choice",))
    elif scan is not None:
        path: FieldPath = (*prefix, "tools")
        scan.cuts.extend((*path, number) for number in hosted)


def _is_hosted(tool: object, lists: Lists) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    rule = lists.levels["tool"].type_rule(kind) if isinstance(kind, str) else None
    return rule is not None and rule.action == HOSTED


def names_hosted(fields: RawObject, lists: Lists) -> bool:
    """True if `tool_choice` allows tools that run at the vendor, or if it is unreadable."""
    raw = fields.get("tool_choice")
    if raw is None or first_byte(raw) != OPEN_OBJECT or b'"allowed_tools"' not in bytes(raw):
        return False
    try:
        choice = any_decoder.decode(raw)
    except UNREADABLE:
        return True
    nested = choice.get("allowed_tools")
    tools = (nested if isinstance(nested, dict) else choice).get("tools")
    return isinstance(tools, list) and any(_is_hosted(tool, lists) for tool in tools)


def _forces(tool: str, param: str) -> BodyError:
    return invalid(
        f"{tool} runs at the vendor and is not sold here: a choice can't force it", param, "unpriced_field"
    )


def tools_refused(hosted: Iterable[str], service: Service) -> Refusal | None:
    """The refusal of tools that the vendor runs (`Parsed.hosted`); None if the plan drops them or there are none."""
    names = list(hosted)
    if not names or service.hosted_tools == "drop":
        return None
    return Refusal(
        400,
        "unpriced_field",
        f"tools that run at the vendor are not sold with this plan: {', '.join(names[:5])}",
        param="tools",
    )
