"""Renders the body for one deployment: the client's bytes if nothing has to change, else the body with the changes.

`docs/FIELDS.md` lists all changes.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from tokenworks.factory import Deployment
from tokenworks.factory.facts.profiles import Profile, max_tokens_field
from tokenworks.gateway.protocol.fields.body import Parsed
from tokenworks.gateway.protocol.fields.layout import OPEN_ARRAY, OPEN_OBJECT, RawObject
from tokenworks.gateway.protocol.fields.scan import (
    FieldPath,
    first_byte,
    items_decoder,
    object_decoder,
    path_text,
)

HEADER_BYTES_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 200
_MORE: Final = b"..."
_encode: Final = msgspec.json.encode
_TRUE: Final = msgspec.Raw(b"true")
_USAGE: Final = frozenset({"chat", "completions"})
_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.[]$:/@*+")
# Fields without a meaning if there are no tools; some upstreams refuse them then.
_OF_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")


def render(
    parsed: Parsed, body: bytes, deployment: Deployment, profile: Profile, *, maximum: int | None, usage: bool
) -> tuple[bytes, tuple[str, ...]]:
    """(the body for a deployment, the names that this deployment does not get). `Parsed.dropped` has the names that no deployment gets.

    `maximum`: the maximum of output tokens, written into the field that the deployment understands, in place of any other; None: the
    client's own maximum, if there is one. `usage`: request usage in the stream.
    """
    unlisted = _unlisted(parsed, deployment, profile)
    changes: dict[str, msgspec.Raw] = {}
    if deployment.upstream_model != parsed.model:
        changes["model"] = msgspec.Raw(_encode(deployment.upstream_model))
    removed_names = _set_maximum(parsed, deployment, profile, maximum, changes)
    dropped = [path_text(path) for path in unlisted]
    if parsed.protocol in _USAGE and _set_usage(parsed, deployment, profile, usage, changes):
        removed_names.append("stream_options")
        dropped.append("stream_options")
    if profile.refused:
        refused = _refused(parsed, profile)
        removed_names += refused
        dropped += [name for name in refused if name not in dropped]
    if not (parsed.changed or parsed.cuts or unlisted or removed_names):
        if not changes:
            # `body` itself, unless it has a byte order mark.
            return (body if len(body) == len(parsed.body) else parsed.body), ()
        names = parsed.outer_fields.keys() if parsed.scan is None else parsed.fields.keys()
        if names.isdisjoint(changes):
            return b"%b,%b" % (_encode(changes)[:-1], parsed.body[1:]), ()
    cuts = [*parsed.cuts, *unlisted, *parsed.unnamed_cuts]
    fields = cut(parsed.fields, _without_tools(parsed.fields, cuts)) if cuts else dict(parsed.fields)
    for name in removed_names:
        fields.pop(name, None)
    fields.update(changes)
    return _encode(fields), tuple(dropped)


def passing_body(parsed: Parsed) -> tuple[bytes, tuple[str, ...]]:
    """(the body without the fields that no list has or that no deployment gets, the names of the former), for a translation.

    Fields that only some profiles list stay: a codec reads what it knows of them, and what it writes goes by the deployment's lists.
    """
    unknown = [] if parsed.scan is None else parsed.scan.unknown
    cuts = [*parsed.cuts, *unknown, *parsed.unnamed_cuts]
    if not cuts:
        return parsed.body, ()
    fields = cut(parsed.fields, _without_tools(parsed.fields, cuts))
    return _encode(fields), tuple(path_text(path) for path in unknown)


def _unlisted(parsed: Parsed, deployment: Deployment, profile: Profile) -> list[FieldPath]:
    """Paths that this deployment does not get: fields on no list, and fields that its profile does not list."""
    if parsed.scan is None and (parsed.listed_by is None or profile.profile in parsed.listed_by):
        return []
    translated = [] if parsed.scan is None else parsed.scan.translated
    if deployment.pass_unknown:
        return translated
    scan = parsed.scanned()
    unlisted = scan.unknown + [path for path, profiles in scan.extras if profile.profile not in profiles]
    unlisted += translated
    if len(unlisted) < 2:
        return unlisted
    whole = set(unlisted)
    # A path inside another removed path is not named.
    return [path for path in unlisted if not any(path[:length] in whole for length in range(1, len(path)))]


def _set_maximum(
    parsed: Parsed,
    deployment: Deployment,
    profile: Profile,
    maximum: int | None,
    changes: dict[str, msgspec.Raw],
) -> list[str]:
    """Write the maximum into `changes`; returns the maximum's other names, which are removed."""
    value = parsed.output_tokens if maximum is None else maximum
    if not parsed.output_field or value is None:
        return []
    own = max_tokens_field(profile, parsed.protocol, deployment.max_tokens_field, asked=parsed.output_field)  # type: ignore[arg-type]
    name = own or parsed.output_field
    others = [other for other in parsed.maxima if other != name]
    if parsed.maxima.get(name) != value or parsed.respelled:
        changes[name] = msgspec.Raw(b"%d" % value)
    return others


def _set_usage(
    parsed: Parsed, deployment: Deployment, profile: Profile, usage: bool, changes: dict[str, msgspec.Raw]
) -> bool:
    """Add the request for usage to the client's `stream_options`. True if they must be removed: the deployment does not accept them."""
    fields = parsed.outer_fields if parsed.scan is None else parsed.fields
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
        changes["stream_options"] = msgspec.Raw(_encode(options))
    return False


def _refused(parsed: Parsed, profile: Profile) -> list[str]:
    """The fields of the body that the vendor refuses."""
    fields = parsed.outer_fields if parsed.scan is None else parsed.fields
    return [name for name in profile.refused.get(parsed.protocol, ()) if name in fields]  # type: ignore[call-overload]


def _without_tools(fields: RawObject, cuts: list[FieldPath]) -> list[FieldPath]:
    """The cuts, and further cuts of the fields about tools if no tool is left."""
    cut_tools = {
        path[1] for path in cuts if len(path) == 2 and path[0] == "tools" and isinstance(path[1], int)
    }
    raw = fields.get("tools")
    if not cut_tools or raw is None or len(cut_tools) < len(items_decoder.decode(raw)):
        return cuts
    return cuts + [(name,) for name in _OF_TOOLS]


class _Cuts:
    """The paths to cut below one value: `whole` has the steps that are removed, `nested` the steps with cuts further below."""

    __slots__ = ("nested", "whole")

    def __init__(self) -> None:
        self.whole: set[str | int] = set()
        self.nested: dict[str | int, _Cuts] = {}


def cut(fields: RawObject, paths: Iterable[FieldPath]) -> RawObject:
    """The fields without the values at these paths. All other values keep their bytes."""
    root = _Cuts()
    for path in paths:
        cuts = root
        for step in path[:-1]:
            nested = cuts.nested.get(step)
            if nested is None:
                nested = cuts.nested[step] = _Cuts()
            cuts = nested
        cuts.whole.add(path[-1])
    return _cut_object(dict(fields), root)


def _cut_object(fields: RawObject, cuts: _Cuts) -> RawObject:
    for name in cuts.whole:
        assert isinstance(name, str)
        fields.pop(name, None)
    for name, nested in cuts.nested.items():
        assert isinstance(name, str)
        if name in fields:
            fields[name] = _cut_value(fields[name], nested)
    return fields


def _cut_value(raw: msgspec.Raw, cuts: _Cuts) -> msgspec.Raw:
    if first_byte(raw) != OPEN_ARRAY:
        return msgspec.Raw(_encode(_cut_object(object_decoder.decode(raw), cuts)))
    kept: list[msgspec.Raw] = []
    for number, item in enumerate(items_decoder.decode(raw)):
        if number not in cuts.whole:
            nested = cuts.nested.get(number)
            kept.append(item if nested is None else _cut_value(item, nested))
    return msgspec.Raw(_encode(kept))


def dropped_header(names: Iterable[str]) -> bytes:
    """The value of `x-tokenworks-dropped`: the cleaned names, at most `HEADER_BYTES_MAX` bytes; `...` stands for further names.

    The header is ASCII: each character that is not a letter, a digit or a common sign in paths becomes `?`.
    """
    text = b""
    for name in names:
        cleaned = "".join(c if c in _SAFE else "?" for c in name[:NAME_CHARS_MAX]).encode() or b"?"
        more = cleaned if not text else b"," + cleaned
        if len(text) + len(more) + 1 + len(_MORE) > HEADER_BYTES_MAX:
            return text + b"," + _MORE
        text += more
    return text
