"""The slow way through a body: object by object, every name at every level that the protocol types.

What is listed stays as it is, byte by byte. What is to go is noted by its path, and taken out when it is known where the
body is sent: what one deployment drops another takes. What an upstream would fetch or look up is collected.
"""

from typing import Any, Final

import msgspec
from psycopg.rows import TupleRow

from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid, unpriced
from tokenworks.gateway.protocol.fields.layout import (
    OPEN_ARRAY,
    OPEN_OBJECT,
    RawObject,
    carries,
    is_canonical,
    is_canonical_list,
)
from tokenworks.gateway.protocol.fields.lists import (
    CARRIED,
    DATA,
    DROP,
    HOSTED,
    LINK,
    NESTED,
    OBJECT_ID,
    REFERENCE,
    REFUSE,
    VALUES,
    Level,
    Lists,
    Rule,
)
from tokenworks.gateway.protocol.links import link_refusal

Path = tuple[str | int, ...]
# Typed objects inside each other; the deepest that clients send (a tool's result inside a message) has seven.
DEPTH_MAX: Final = 16
# So many things are taken out of one body.
CUTS_MAX: Final = 1_000
LINKS_MAX: Final = 1_000
ID_CHARS_MAX: Final = 200
object_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
objects_decoder: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
items_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
any_decoder: Final = msgspec.json.Decoder()
_encode: Final = msgspec.json.encode
_NULL: Final = msgspec.Raw(b"null")
_TEXT: Final = msgspec.Raw(b'"text"')


def first_byte(raw: msgspec.Raw) -> int:
    return memoryview(raw)[0]


def path_text(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Walk:
    """What one body holds. Lists of paths: `always` goes wherever it is sent, `unknown` unless the deployment lets unknown
    names pass, `extras` where the deployment's profile is none of those named, `hosted` (with the tool's type) as the plan
    says.
    """

    __slots__ = (
        "always",
        "bare",
        "extras",
        "hosted",
        "item_ids",
        "links",
        "lists",
        "media_bytes",
        "objects",
        "unknown",
        "with_media",
    )

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.always: list[Path] = []
        self.unknown: list[Path] = []
        self.extras: list[tuple[Path, frozenset[str]]] = []
        self.hosted: list[tuple[Path, str]] = []
        # Items that only their ids name, and the ids of all.
        self.bare: set[Path] = set()
        self.item_ids: list[Path] = []
        self.objects: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.media_bytes = 0
        self.with_media = False

    def body(self, fields: RawObject) -> bool:
        """Look at all of it. True if `fields` had to be written anew somewhere below. Raises `BodyError`."""
        changed, _ = self._names(fields, self.lists.body, ())
        if self.bare:
            # Beside an item that is gone its neighbours are told to be what they were: they are taken for what they say.
            self.always += [path for path in self.item_ids if path[:-1] not in self.bare]
        return changed

    def _count(self) -> None:
        if len(self.always) + len(self.unknown) + len(self.extras) + len(self.hosted) > CUTS_MAX:
            raise invalid(f"more than {CUTS_MAX} things in the body are on no list")

    def _names(self, fields: RawObject, level: Level, path: Path) -> tuple[bool, str | None]:
        """All names of one object. Whether something was written anew, and the type of a hosted tool where it is one."""
        if len(path) > 2 * DEPTH_MAX:
            raise invalid(f"the body is nested deeper than {DEPTH_MAX} typed objects")
        changed, hosted, plain, rules = False, None, level.plain, level.rules
        for name in list(fields):
            if name in plain:
                continue
            raw, here = fields[name], (*path, name)
            rule = rules.get(name)
            if rule is None:
                (self.always if self.lists.collides(level, name) else self.unknown).append(here)
                self._count()
                continue
            if not rule.base:
                self.extras.append((here, rule.profiles))
                self._count()
            if rule.action == DROP:
                self.always.append(here)
                self._count()
            elif rule.action == REFUSE:
                if raw != _NULL:
                    raise unpriced(path_text(here), rule.why)
            elif rule.kind == NESTED:
                found, of_tool = self._below(raw, self.lists.levels[rule.level], here)
                hosted = hosted or of_tool
                if found is not raw:
                    fields[name] = found
                    changed = True
            elif rule.kind:
                self._look(rule, raw, fields, here)
        if level.typed:
            hosted = self._type(fields, level, path) or hosted
        return changed, hosted

    def _type(self, fields: RawObject, level: Level, path: Path) -> str | None:
        """Its type against the list. The type of a hosted tool; otherwise None."""
        raw = fields.get("type")
        kind = None if raw is None else _text(raw, (*path, "type"))
        rule = level.type_rule(kind)
        if rule is None:
            # The object goes with its type: without it nothing is known of it.
            self.unknown.append(path)
        elif rule.action == HOSTED:
            return kind
        elif rule.action == DROP:
            self.always.append(path)
        elif rule.action == CARRIED and not carries(fields):
            self.always.append(path)
            self.bare.add(path)
        elif not rule.base:
            self.extras.append((path, rule.profiles))
        if level.name == "item" and "id" in fields:
            self.item_ids.append((*path, "id"))
        if (rule is not None and rule.action == REFERENCE) or (
            kind is None and level.name == "item" and "role" not in fields
        ):
            self._object_id(fields.get("id"), (*path, "id"))
        self._count()
        return None

    def _below(self, raw: msgspec.Raw, level: Level, path: Path) -> tuple[msgspec.Raw, str | None]:
        """A value that the protocol types: an object, a list of them, or a scalar in place of one."""
        opens = first_byte(raw)
        if opens == OPEN_OBJECT:
            return self._object(raw, level, path)
        if opens == OPEN_ARRAY:
            return self._array(raw, level, path), None
        return raw, None

    def _object(self, raw: msgspec.Raw, level: Level, path: Path) -> tuple[msgspec.Raw, str | None]:
        try:
            fields = object_decoder.decode(raw)
        except UNREADABLE as error:
            raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None
        canonical = is_canonical(fields, raw)
        changed, hosted = self._names(fields, level, path)
        if changed or not canonical:
            return msgspec.Raw(_encode(fields)), hosted
        return raw, hosted

    def _array(self, raw: msgspec.Raw, level: Level, path: Path) -> msgspec.Raw:
        try:
            items = objects_decoder.decode(raw)
        except UNREADABLE:
            return self._mixed(raw, level, path)
        canonical = is_canonical_list(items, raw)
        changed = False
        for number, fields in enumerate(items):
            here = (*path, number)
            anew, hosted = self._names(fields, level, here)
            changed = changed or anew
            if hosted is not None:
                self.hosted.append((here, hosted))
                self._count()
        return msgspec.Raw(_encode(items)) if changed or not canonical else raw

    def _mixed(self, raw: msgspec.Raw, level: Level, path: Path) -> msgspec.Raw:
        """A list that holds other things than objects (texts, numbers, lists)."""
        try:
            items = items_decoder.decode(raw)
        except UNREADABLE as error:
            raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None
        changed = False
        for number, item in enumerate(items):
            opens = first_byte(item)
            if opens == OPEN_OBJECT:
                anew, hosted = self._object(item, level, (*path, number))
                if hosted is not None:
                    self.hosted.append(((*path, number), hosted))
                if anew is not item:
                    items[number], changed = anew, True
            elif opens == OPEN_ARRAY:
                # No protocol has a list of lists where it types objects.
                self.always.append((*path, number))
            self._count()
        return msgspec.Raw(_encode(items)) if changed else raw

    def _look(self, rule: Rule, raw: msgspec.Raw, fields: RawObject, path: Path) -> None:
        if rule.kind == VALUES:
            self._values(rule, raw, path)
        elif rule.kind == OBJECT_ID:
            self._object_id(raw, path)
        elif rule.kind == LINK:
            self._link(raw, path)
        elif rule.kind == DATA and raw != _NULL:
            self.with_media = True
            if fields.get("type") != _TEXT:
                self.media_bytes += len(raw)

    def _values(self, rule: Rule, raw: msgspec.Raw, path: Path) -> None:
        value = _decode(raw, path)
        if value is None or _among(value, rule.allowed):
            return
        if isinstance(value, list) and value and all(_among(one, rule.allowed) for one in value):
            return
        if rule.otherwise == REFUSE:
            raise unpriced(path_text(path), rule.why)
        self.always.append(path)
        self._count()

    def _object_id(self, raw: msgspec.Raw | None, path: Path) -> None:
        value = None if raw is None else _decode(raw, path)
        if value is None:
            return
        if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS_MAX:
            raise invalid(f"{path_text(path)} is not an id", path_text(path))
        self.objects.append((path_text(path), value))
        self.with_media = self.with_media or path[-1] == "file_id"
        if len(self.objects) > LINKS_MAX:
            raise invalid(f"more than {LINKS_MAX} objects are named")

    def _link(self, raw: msgspec.Raw, path: Path) -> None:
        value = _decode(raw, path)
        if value is None:
            return
        self.with_media = True
        for url in value if isinstance(value, list) else (value,):
            if not isinstance(url, str):
                raise invalid(f"{path_text(path)} is not a URL", path_text(path))
            if url[:5].lower() == "data:":
                self.media_bytes += len(url)
                continue
            reason = link_refusal(url)
            if reason is not None:
                raise invalid(f"{path_text(path)}: {reason}", path_text(path), "forbidden_link")
            self.links.append(url)
            if len(self.links) > LINKS_MAX:
                raise invalid(f"more than {LINKS_MAX} media are linked")


def _decode(raw: msgspec.Raw, path: Path) -> Any:
    try:
        return any_decoder.decode(raw)
    except UNREADABLE as error:
        raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None


def _text(raw: msgspec.Raw, path: Path) -> str | None:
    value = _decode(raw, path)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{path_text(path)} is of the wrong type", path_text(path))
    return value


def _among(value: Any, allowed: TupleRow) -> bool:
    return any(value == one and type(value) is type(one) for one in allowed)
