"""The body for one deployment: as it came where nothing has to change, else with what changes spliced into it.

`docs/FIELDS.md` has the table of all that may change.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tokenworks.factory import Deployment
from tokenworks.factory.facts.profiles import Profile, max_tokens_field
from tokenworks.gateway.protocol.fields.body import Parsed
from tokenworks.gateway.protocol.fields.layout import OPEN_ARRAY, OPEN_OBJECT, RawObject
from tokenworks.gateway.protocol.fields.walk import Path, first_byte, items_decoder, object_decoder, path_text

HEADER_BYTES_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 200
_MORE: Final = b"..."
_encode: Final = msgspec.json.encode
_TRUE: Final = msgspec.Raw(b"true")
_USAGE: Final = frozenset({"chat", "completions"})
_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.[]$:/@*+")
# What says nothing without tools, and is refused by some upstreams then.
_OF_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")
_Trie = dict[str | int, Any]


def render(
    parsed: Parsed, body: bytes, deployment: Deployment, profile: Profile, *, maximum: int | None, usage: bool
) -> tuple[bytes, tuple[str, ...]]:
    """What is sent to a deployment, and the names that it does not get and another may (`Parsed.dropped` are those that none
    gets).

    `maximum`: output tokens, written into the field that the deployment understands in place of every other; None: the
    client's own, if it gave one. `usage`: ask for usage in the stream.
    """
    gone = _unlisted(parsed, deployment, profile)
    set_to: dict[str, msgspec.Raw] = {}
    if deployment.upstream_model != parsed.model:
        set_to["model"] = msgspec.Raw(_encode(deployment.upstream_model))
    out = _set_maximum(parsed, deployment, profile, maximum, set_to)
    dropped = [path_text(path) for path in gone]
    if parsed.protocol in _USAGE and _set_usage(parsed, deployment, profile, usage, set_to):
        out.append("stream_options")
        dropped.append("stream_options")
    if not (parsed.changed or parsed.always or gone or out):
        if not set_to:
            # `body` where it has no byte order mark.
            return (body if len(body) == len(parsed.body) else parsed.body), ()
        names = parsed.said.keys() if parsed.walk is None else parsed.fields.keys()
        if names.isdisjoint(set_to):
            return b"%b,%b" % (_encode(set_to)[:-1], parsed.body[1:]), ()
    cuts = [*parsed.always, *gone, *parsed.taken]
    fields = cut(parsed.fields, _without_tools(parsed.fields, cuts)) if cuts else dict(parsed.fields)
    for name in out:
        fields.pop(name, None)
    fields.update(set_to)
    return _encode(fields), tuple(dropped)


def _unlisted(parsed: Parsed, deployment: Deployment, profile: Profile) -> list[Path]:
    """Paths that this deployment does not get: what is on no list, and what its profile does not list."""
    if parsed.walk is None and (parsed.listed_by is None or profile.profile in parsed.listed_by):
        return []
    if deployment.pass_unknown:
        return []
    walk = parsed.walked()
    gone = walk.unknown + [path for path, profiles in walk.extras if profile.profile not in profiles]
    if len(gone) < 2:
        return gone
    whole = set(gone)
    # What is inside something that goes is not named beside it.
    return [path for path in gone if not any(path[:length] in whole for length in range(1, len(path)))]


def _set_maximum(
    parsed: Parsed,
    deployment: Deployment,
    profile: Profile,
    maximum: int | None,
    set_to: dict[str, msgspec.Raw],
) -> list[str]:
    """Write the maximum; the names under which there must be none."""
    value = parsed.output_tokens if maximum is None else maximum
    if not parsed.output_field or value is None:
        return []
    own = max_tokens_field(profile, parsed.protocol, deployment.max_tokens_field, asked=parsed.output_field)  # type: ignore[arg-type]
    name = own or parsed.output_field
    others = [other for other in parsed.maxima if other != name]
    if parsed.maxima.get(name) != value or parsed.respelled:
        set_to[name] = msgspec.Raw(b"%d" % value)
    return others


def _set_usage(
    parsed: Parsed, deployment: Deployment, profile: Profile, usage: bool, set_to: dict[str, msgspec.Raw]
) -> bool:
    """Ask for usage beside what the client asks for. True where the deployment takes no `stream_options` and there are some."""
    fields = parsed.said if parsed.walk is None else parsed.fields
    if deployment.stream_options is False:
        return "stream_options" in fields
    if not usage or not parsed.stream or profile.stream_usage == "none":
        return False
    continuous = profile.stream_usage == "continuous"
    if parsed.client_usage and not continuous:
        return False
    raw = fields.get("stream_options")
    options = {} if raw is None or first_byte(raw) != OPEN_OBJECT else object_decoder.decode(raw)
    before = dict(options)
    options["include_usage"] = _TRUE
    if continuous:
        options["continuous_usage_stats"] = _TRUE
    if options != before:
        set_to["stream_options"] = msgspec.Raw(_encode(options))
    return False


def _without_tools(fields: RawObject, cuts: list[Path]) -> list[Path]:
    """Where no tool is left, what is said of tools goes too."""
    gone = {path[1] for path in cuts if len(path) == 2 and path[0] == "tools" and isinstance(path[1], int)}
    raw = fields.get("tools")
    if not gone or raw is None or len(gone) < len(items_decoder.decode(raw)):
        return cuts
    return cuts + [(name,) for name in _OF_TOOLS]


def cut(fields: RawObject, paths: Iterable[Path]) -> RawObject:
    """The fields without what is at these paths; the rest stays byte by byte."""
    trie: _Trie = {}
    for path in paths:
        at = trie
        for step in path[:-1]:
            below = at.setdefault(step, {})
            if below is None:
                break
            at = below
        else:
            at[path[-1]] = None
    return _cut_object(dict(fields), trie)


def _cut_object(fields: RawObject, trie: _Trie) -> RawObject:
    for step, below in trie.items():
        assert isinstance(step, str)
        if below is None:
            fields.pop(step, None)
        elif step in fields:
            fields[step] = _cut_value(fields[step], below)
    return fields


def _cut_value(raw: msgspec.Raw, trie: _Trie) -> msgspec.Raw:
    if first_byte(raw) == OPEN_ARRAY:
        items = items_decoder.decode(raw)
        kept = [
            item if below is _WHOLE else _cut_value(item, below)
            for number, item in enumerate(items)
            if (below := trie.get(number, _WHOLE)) is not None
        ]
        return msgspec.Raw(_encode(kept))
    return msgspec.Raw(_encode(_cut_object(object_decoder.decode(raw), trie)))


_WHOLE: Final = object()


def dropped_header(names: Iterable[str]) -> bytes:
    """The value of `x-tokenworks-dropped`: the names, cleaned, at most `HEADER_BYTES_MAX` bytes; `...` where there are more.

    A header is ASCII here: what is not a letter, a digit or a usual sign of a path is written `?`.
    """
    text = b""
    for name in names:
        cleaned = "".join(c if c in _SAFE else "?" for c in name[:NAME_CHARS_MAX]).encode() or b"?"
        more = cleaned if not text else b"," + cleaned
        if len(text) + len(more) + 1 + len(_MORE) > HEADER_BYTES_MAX:
            return text + b"," + _MORE
        text += more
    return text
