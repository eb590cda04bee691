"""Fields of a body that are for this gateway: the models to fall back to, the wish to see the cost, the tags of the usage record."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tokenworks.gateway.protocol.fields import numbers
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid
from tokenworks.gateway.protocol.fields.layout import RawObject
from tokenworks.gateway.protocol.fields.scan import any_decoder

FALLBACK_MODELS_MAX: Final = 8
"""The most models that a request, a key or a plan names to fall back to."""
TAGS_MAX: Final = 16
TAG_NAME_CHARS_MAX: Final = 64
TAG_VALUE_CHARS_MAX: Final = 256
TAGS_BYTES_MAX: Final = 2_048
"""The most bytes (UTF-8) of names and values of one record's tags together."""
TAGGED_BYTES_MAX: Final = 65_536
"""The most bytes of a field whose texts become tags: a larger value would block the loop while it is read."""
LEFT_OUT_NAMED_MAX: Final = 64
"""The most tags that are left out and named; `tag:...` stands for further ones."""
USER_TAG: Final = "user"
"""The tag that has the field `user`, or `metadata.user_id` in messages."""
# A tag of this name would look like the client's own id of a request to a search for that id (`routing_note.client_id_mark`).
_RESERVED: Final = "client_request_id"
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_FURTHER: Final = "tag:..."
_TAGGED: Final = ("user", "metadata")
_names: Final = msgspec.json.Decoder(list[str] | None)


class _UsageWish(msgspec.Struct):
    include: bool | None = None


_usage_wish: Final = msgspec.json.Decoder(_UsageWish | None)


class Tags(NamedTuple):
    """`values`: by name. `left_out`: names of tags beyond the limits, as `tag:name`."""

    values: dict[str, str]
    left_out: tuple[str, ...]


def fallback_models(fields: RawObject, name_chars_max: int) -> tuple[str, ...] | None:
    """The names in `models`, each once; None if the field is absent or null. An empty list means no fallback. Raises `BodyError`."""
    names = numbers.typed(fields, "models", _names)
    if names is None:
        return None
    if len(names) > FALLBACK_MODELS_MAX or not all(0 < len(name) <= name_chars_max for name in names):
        raise invalid(f"models is a list of at most {FALLBACK_MODELS_MAX} names of models", "models")
    return tuple(dict.fromkeys(names))


def wants_cost(fields: RawObject) -> bool:
    """True for `usage: {"include": true}`. A value of another form is no wish."""
    try:
        wish = _usage_wish.decode(fields.get("usage", b"null"))
    except (*UNREADABLE, msgspec.ValidationError):
        return False
    return wish is not None and wish.include is True


def tags_of(fields: RawObject, from_head: Mapping[str, str]) -> Tags:
    """The tags of a request: those of the head (`x-tokenworks-tag-<name>`), the field `user`, then the texts in `metadata`. The first
    tag of a name counts. A tag that is no plain text, or is beyond the limits, is left out, and so is a field of more than
    `TAGGED_BYTES_MAX`.
    """
    values: dict[str, str] = {}
    left_out = [f"tag:{name}" for name in _TAGGED if len(fields.get(name, b"")) > TAGGED_BYTES_MAX]
    size = 0
    for name, value in (*from_head.items(), *_in_body(fields)):
        if name in values or not value:
            continue
        more = len(name.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace"))
        if not is_tag(name, value) or len(values) >= TAGS_MAX or size + more > TAGS_BYTES_MAX:
            if len(left_out) < LEFT_OUT_NAMED_MAX:
                left_out.append(f"tag:{name}")
            elif len(left_out) == LEFT_OUT_NAMED_MAX:
                left_out.append(_FURTHER)
            continue
        values[name] = value
        size += more
    return Tags(values, tuple(left_out))


def is_tag(name: str, value: str) -> bool:
    """True if a record takes a tag of this name and value: a name of letters, digits and `_.:-`, a printable value."""
    return (
        _TAG_NAME.fullmatch(name) is not None
        and name != _RESERVED
        and 0 < len(value) <= TAG_VALUE_CHARS_MAX
        and value.isprintable()
    )


def _in_body(fields: RawObject) -> list[tuple[str, str]]:
    found = list[tuple[str, str]]()
    user = _decoded(fields, "user")
    if isinstance(user, str):
        found.append((USER_TAG, user))
    metadata = _decoded(fields, "metadata")
    if isinstance(metadata, dict):
        for name, value in metadata.items():
            if isinstance(name, str) and isinstance(value, str):
                found.append((USER_TAG if name == "user_id" and "user" not in fields else name, value))
    return found


def _decoded(fields: RawObject, name: str) -> object:
    raw = fields.get(name)
    if raw is None or len(raw) > TAGGED_BYTES_MAX:
        return None
    try:
        return any_decoder.decode(raw)
    except UNREADABLE:
        return None
