"""The full reading of a body: object by object, each name at each level that the protocol types.

Listed fields keep their bytes. The scan notes the paths of fields to remove; they are removed when the deployment is known, since
deployments accept different fields. The scan also collects the URLs and ids that an upstream would fetch or look up.
"""

from typing import Final

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid, unpriced
from tokenworks.gateway.protocol.fields.layout import (
    OPEN_ARRAY,
    OPEN_OBJECT,
    RawObject,
    carries,
    is_canonical,
    is_canonical_list,
    was_translated,
)
from tokenworks.gateway.protocol.fields.lists import (
    CARRIED,
    DATA,
    DROP,
    HOSTED,
    LINK,
    NESTED,
    OBJECT_ID,
    OWN,
    REFERENCE,
    REFUSE,
    SUMMARY,
    TAGS,
    THOUGHT,
    VALUES,
    Level,
    Lists,
    Rule,
)
from tokenworks.gateway.protocol.links import link_refusal

FieldPath = tuple[str | int, ...]
# Levels of nested typed objects; the deepest body that clients send (a tool's result inside a message) has seven.
DEPTH_MAX: Final = 16
# Fields and objects that are removed from one body at most.
CUTS_MAX: Final = 1_000
LINKS_MAX: Final = 1_000
# Elements of a list that has others than objects: each costs time, though nothing of them is read.
ELEMENTS_MAX: Final = 100_000
STORE: Final = ("store",)
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


def path_text(path: FieldPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class BodyScan:
    """The findings in one body. Paths to remove: `cuts` for each deployment, `unknown` unless the deployment passes unknown names,
    `extras` unless the deployment's profile is one of those named beside the path, `hosted` (with the tool's type) as the plan says,
    `own` always and unnamed: they are for the gateway. `tagged`: a field becomes a tag of the usage record. `translated` (reasoning of
    translated answers) for each deployment that is sent the client's own body. `summaries`: an item is a compaction, or asks
    for one. `stores`: a chat completion is to be stored here.
    """

    __slots__ = (
        "cuts",
        "extras",
        "has_media",
        "hosted",
        "id_only_items",
        "item_ids",
        "links",
        "lists",
        "media_bytes",
        "objects",
        "own",
        "stores",
        "summaries",
        "tagged",
        "translated",
        "unknown",
    )

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.cuts: list[FieldPath] = []
        self.unknown: list[FieldPath] = []
        self.own: list[FieldPath] = []
        self.stores = False
        self.summaries = False
        self.tagged = False
        self.extras: list[tuple[FieldPath, frozenset[str]]] = []
        self.hosted: list[tuple[FieldPath, str]] = []
        # Items that have an id and no content, and the ids of all items.
        self.id_only_items: set[FieldPath] = set()
        self.item_ids: list[FieldPath] = []
        self.translated: list[FieldPath] = []
        self.objects: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.media_bytes = 0
        self.has_media = False

    def body(self, fields: RawObject) -> bool:
        """Scan the body's fields. True if a value below had to be encoded again. Raises `BodyError`."""
        changed, _ = self._names(fields, self.lists.body, ())
        if self.id_only_items:
            # An id refers to the upstream's stored items. Without one of them the others must not refer to it: their own content counts.
            self.cuts += [path for path in self.item_ids if path[:-1] not in self.id_only_items]
        return changed

    def _check_cuts(self) -> None:
        if len(self.cuts) + len(self.unknown) + len(self.extras) + len(self.hosted) > CUTS_MAX:
            raise invalid(f"more than {CUTS_MAX} things in the body are on no list")

    def _names(self, fields: RawObject, level: Level, path: FieldPath) -> tuple[bool, str | None]:
        """Scan all names of one object. Returns (whether a value was encoded again, the type of the object if it is a hosted tool)."""
        if len(path) > 2 * DEPTH_MAX:
            raise invalid(f"the body is nested deeper than {DEPTH_MAX} typed objects")
        changed, hosted, plain, rules = False, None, level.plain, level.rules
        for name in list(fields):
            if name in plain:
                continue
            raw, field_path = fields[name], (*path, name)
            rule = rules.get(name)
            if rule is None:
                (self.cuts if self.lists.collides(level, name) else self.unknown).append(field_path)
                self._check_cuts()
                continue
            if not rule.base:
                self.extras.append((field_path, rule.profiles))
                self._check_cuts()
            if rule.action == DROP:
                self.cuts.append(field_path)
                self._check_cuts()
            elif rule.action == REFUSE:
                if raw != _NULL:
                    raise unpriced(path_text(field_path), rule.why)
            elif rule.action == OWN:
                self.own.append(field_path)
            elif rule.kind == TAGS:
                self.tagged = True
            elif rule.kind == NESTED:
                value, hosted_type = self._nested(raw, self.lists.levels[rule.level], field_path)
                hosted = hosted or hosted_type
                if value is not raw:
                    fields[name] = value
                    changed = True
            elif rule.kind:
                self._value(rule, raw, fields, field_path)
        if level.typed:
            hosted = self._type(fields, level, path) or hosted
        return changed, hosted

    def _type(self, fields: RawObject, level: Level, path: FieldPath) -> str | None:
        """Check an object's type against the list. Returns the type if it is a hosted tool, else None."""
        raw = fields.get("type")
        kind = None if raw is None else _text(raw, (*path, "type"))
        rule = level.type_rule(kind)
        if rule is None:
            # An object of an unknown type is removed as a whole: its fields have no rules.
            self.unknown.append(path)
        elif rule.action == HOSTED:
            return kind
        elif rule.action == DROP:
            self.cuts.append(path)
        elif rule.action == SUMMARY:
            self.summaries = True
        elif rule.action == CARRIED and not carries(fields):
            self.cuts.append(path)
            self.id_only_items.add(path)
        elif rule.action in {CARRIED, THOUGHT} and was_translated(fields):
            self.translated.append(path)
        elif not rule.base:
            self.extras.append((path, rule.profiles))
        if level.name == "item" and "id" in fields:
            self.item_ids.append((*path, "id"))
        if (rule is not None and rule.action == REFERENCE) or (
            kind is None and level.name == "item" and "role" not in fields
        ):
            self._object_id(fields.get("id"), (*path, "id"))
        self._check_cuts()
        return None

    def _nested(self, raw: msgspec.Raw, level: Level, path: FieldPath) -> tuple[msgspec.Raw, str | None]:
        """Scan a value that the protocol types: an object, a list of objects, or a scalar in place of one."""
        opens = first_byte(raw)
        if opens == OPEN_OBJECT:
            return self._object(raw, level, path)
        if opens == OPEN_ARRAY:
            return self._array(raw, level, path), None
        return raw, None

    def _object(self, raw: msgspec.Raw, level: Level, path: FieldPath) -> tuple[msgspec.Raw, str | None]:
        try:
            fields = object_decoder.decode(raw)
        except UNREADABLE as error:
            raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None
        canonical = is_canonical(fields, raw)
        changed, hosted = self._names(fields, level, path)
        if changed or not canonical:
            return msgspec.Raw(_encode(fields)), hosted
        return raw, hosted

    def _array(self, raw: msgspec.Raw, level: Level, path: FieldPath) -> msgspec.Raw:
        try:
            items = objects_decoder.decode(raw)
        except UNREADABLE:
            return self._mixed(raw, level, path)
        canonical = is_canonical_list(items, raw)
        changed = False
        for number, fields in enumerate(items):
            item_path = (*path, number)
            rewritten, hosted = self._names(fields, level, item_path)
            changed = changed or rewritten
            if hosted is not None:
                self.hosted.append((item_path, hosted))
                self._check_cuts()
        return msgspec.Raw(_encode(items)) if changed or not canonical else raw

    def _mixed(self, raw: msgspec.Raw, level: Level, path: FieldPath) -> msgspec.Raw:
        """Scan a list with elements that are not objects (texts, numbers, lists)."""
        try:
            items = items_decoder.decode(raw)
        except UNREADABLE as error:
            raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None
        if len(items) > ELEMENTS_MAX:
            raise invalid(f"{path_text(path)} has at most {ELEMENTS_MAX} elements", path_text(path))
        changed = False
        for number, item in enumerate(items):
            opens = first_byte(item)
            if opens == OPEN_OBJECT:
                value, hosted = self._object(item, level, (*path, number))
                if hosted is not None:
                    self.hosted.append(((*path, number), hosted))
                if value is not item:
                    items[number], changed = value, True
            elif opens == OPEN_ARRAY:
                # No protocol has a list inside a list of typed objects.
                self.cuts.append((*path, number))
            else:
                continue
            self._check_cuts()
        return msgspec.Raw(_encode(items)) if changed else raw

    def _value(self, rule: Rule, raw: msgspec.Raw, fields: RawObject, path: FieldPath) -> None:
        """Check a field's value as its rule says. `fields`: the object that has the field."""
        if rule.kind == VALUES:
            self._allowed_value(rule, raw, path)
        elif rule.kind == OBJECT_ID:
            self._object_id(raw, path)
        elif rule.kind == LINK:
            self._link(raw, path)
        elif rule.kind == DATA and raw != _NULL:
            self.has_media = True
            if fields.get("type") != _TEXT:
                self.media_bytes += len(raw)

    def _allowed_value(self, rule: Rule, raw: msgspec.Raw, path: FieldPath) -> None:
        value = _decode(raw, path)
        if value is True and path == STORE:
            self.stores = True
        if value is None or _is_allowed(value, rule.allowed):
            return
        if isinstance(value, list) and value and all(_is_allowed(element, rule.allowed) for element in value):
            return
        if rule.otherwise == REFUSE:
            raise unpriced(path_text(path), rule.why)
        self.cuts.append(path)
        self._check_cuts()

    def _object_id(self, raw: msgspec.Raw | None, path: FieldPath) -> None:
        value = None if raw is None else _decode(raw, path)
        if value is None:
            return
        if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS_MAX:
            raise invalid(f"{path_text(path)} is not an id", path_text(path))
        self.objects.append((path_text(path), value))
        self.has_media = self.has_media or path[-1] == "file_id"
        if len(self.objects) > LINKS_MAX:
            raise invalid(f"more than {LINKS_MAX} objects are named")

    def _link(self, raw: msgspec.Raw, path: FieldPath) -> None:
        value = _decode(raw, path)
        if value is None:
            return
        self.has_media = True
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


def _decode(raw: msgspec.Raw, path: FieldPath) -> object:
    try:
        return any_decoder.decode(raw)
    except UNREADABLE as error:
        raise invalid(f"{path_text(path)}: {error}", path_text(path)) from None


def _text(raw: msgspec.Raw, path: FieldPath) -> str | None:
    value = _decode(raw, path)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{path_text(path)} is of the wrong type", path_text(path))
    return value


def _is_allowed(value: object, allowed: tuple[object, ...]) -> bool:
    return any(value == candidate and type(value) is type(candidate) for candidate in allowed)
