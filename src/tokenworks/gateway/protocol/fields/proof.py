"""The fast way through a body: one typed decode, and the proof that nothing in it has to change.

It takes only what is compact, listed at every level, and brings nothing that an upstream would fetch, look up or run.
It looks at all objects of a level at once, so that a message costs no more than its share of three set operations. What it can't
prove is walked.
"""

from collections.abc import Iterable
from itertools import chain, compress
from struct import Struct
from typing import Any, Final

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE
from tokenworks.gateway.protocol.fields.layout import (
    OPEN_ARRAY,
    OPEN_OBJECT,
    RawObject,
    carries,
    members_length,
)
from tokenworks.gateway.protocol.fields.lists import (
    CARRIED,
    CLIENT,
    DROP,
    NESTED,
    OPAQUE,
    PASS,
    PLAIN,
    REFUSE,
    Level,
    Lists,
    Rule,
)

MixedObject = dict[str, str | list[RawObject]]
DEPTH_MAX: Final = 8
# Where the first message's content is looked for, which says what the others' will be.
_CONTENT: Final = b'"content":'
CONTENT_WITHIN_BYTES: Final = 4_096
SMALL_BYTES: Final = 16_384
_OPENS: Final = frozenset({OPEN_OBJECT, OPEN_ARRAY})
_first: Final = Struct("B").unpack_from
_object: Final = msgspec.json.Decoder(RawObject)
_objects: Final = msgspec.json.Decoder(list[RawObject])
_any: Final = msgspec.json.Decoder()
# The value of each protocol that most of a body is.
BULK: Final = {"chat": "messages", "messages": "messages", "responses": "input"}


class Unproved(Exception):
    """Walk it."""


class Proof:
    """`listed_by`: the profiles that list everything in the body; None where the protocol's own list does."""

    __slots__ = ("listed_by", "lists")

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.listed_by: frozenset[str] | None = None

    def narrow(self, rule: Rule) -> None:
        if not rule.base:
            self.listed_by = rule.profiles if self.listed_by is None else self.listed_by & rule.profiles

    def values(self, raws: Iterable[msgspec.Raw], level: Level, depth: int = 0) -> None:
        """Objects, lists of objects and scalars where the protocol types `level`. Raises `Unproved`."""
        opened = [raw for raw in raws if _first(raw)[0] in _OPENS]
        if not opened:
            return
        items: list[RawObject] = []
        between = 0
        try:
            for raw in opened:
                if _first(raw)[0] == OPEN_OBJECT:
                    items.append(_object.decode(raw))
                else:
                    more = _objects.decode(raw)
                    between += 1 + len(more) if more else 2
                    items += more
        except UNREADABLE:
            raise Unproved from None
        written = sum(map(len, opened))
        if written != between + members_length(items, written):
            raise Unproved
        self.objects(items, level, depth)

    def objects(self, items: list[RawObject], level: Level, depth: int = 0) -> None:
        """Compact objects of one level. Raises `Unproved`."""
        if depth > DEPTH_MAX:
            raise Unproved
        for name in set(chain.from_iterable(items)) - level.plain:
            if name == "type" and level.typed:
                continue
            self.name(name, level, (fields[name] for fields in items if name in fields), depth)
        if level.typed:
            self._types(items, level)

    def mixed(self, items: list[MixedObject], level: Level) -> None:
        """Objects whose values are texts and lists of objects, as messages of agents are. Raises `Unproved`."""
        unseen = sum(type(value) is list for value in chain.from_iterable(map(dict.values, items)))
        for name in set(chain.from_iterable(items)) - level.plain:
            self.name(name, level, ())
            rule = level.rules[name]
            if rule.kind != NESTED:
                continue
            below = [fields[name] for fields in items if type(fields.get(name)) is list]
            objects: list[RawObject] = list(chain.from_iterable(below))  # type: ignore[arg-type]
            unseen -= len(below)
            self.objects(objects, self.lists.levels[rule.level], 1)
        if unseen:
            raise Unproved  # a list where the protocol types none

    def name(self, name: str, level: Level, raws: Iterable[msgspec.Raw], depth: int = 0) -> None:
        """All values of one name at one level. Raises `Unproved`."""
        rule = level.rules.get(name)
        if rule is None or rule.action in {DROP, REFUSE}:
            raise Unproved
        if rule.kind == NESTED:
            self.values(raws, self.lists.levels[rule.level], depth + 1)
        elif rule.kind not in {PLAIN, OPAQUE}:
            raise Unproved
        self.narrow(rule)

    def _types(self, items: list[RawObject], level: Level) -> None:
        kinds = [bytes(fields["type"]) for fields in items if "type" in fields]
        if len(kinds) != len(items) and (
            level.untyped not in {None, PASS, CLIENT} or not _all_have_roles(items, level)
        ):
            raise Unproved
        for kind in set(kinds) - level.known:
            rule = level.type_rule(_any.decode(kind)) if kind[:1] == b'"' else None
            if rule is None or rule.action not in {PASS, CLIENT, CARRIED}:
                raise Unproved
            if rule.action == CARRIED and not all(
                map(carries, (f for f in items if f.get("type") == msgspec.Raw(kind)))
            ):
                raise Unproved
            if not rule.base:
                self.listed_by = rule.profiles if self.listed_by is None else self.listed_by & rule.profiles


def _all_have_roles(items: list[RawObject], level: Level) -> bool:
    """An item of a response without a type is a message where it has a role, and the name of another item otherwise."""
    return level.name != "item" or all("role" in fields for fields in items if "type" not in fields)


class Reader:
    """The typed decoder of a protocol's body: every listed name, unknown ones refused, the bulk as objects."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.bulk = BULK.get(lists.protocol)
        names = [name for name in lists.body.rules if name != self.bulk]
        fields: list[tuple[str, Any, Any]] = [(f"f{i}", msgspec.Raw, None) for i in range(len(names))]
        rename = {f"f{i}": name for i, name in enumerate(names)}
        if self.bulk is not None:
            fields.append(("bulk", list[RawObject], None))
            rename["bulk"] = self.bulk
        made = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, gc=False, rename=rename)
        self.names = names
        self.decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(made)
        if fields[-1][0] == "bulk":
            fields[-1] = ("bulk", list[MixedObject], None)
        made = msgspec.defstruct("Mixed", fields, forbid_unknown_fields=True, gc=False, rename=rename)
        self.mixed_decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(made)

    def read(self, body: bytes) -> tuple[RawObject, list[Any], bool]:
        """All fields but the bulk, and the bulk's objects; whether their values are texts and lists, or bytes. Raises `Unproved`.

        A small body is read twice: that takes less than the typed decoder's many fields.
        """
        try:
            if self.bulk is None or len(body) < SMALL_BYTES:
                said = _object.decode(body)
                return said, [] if self.bulk is None else _objects.decode(said.pop(self.bulk, b"[]")), False
            if self._has_parts(body):
                try:
                    return *self._split(self.mixed_decoder.decode(body)), True
                except msgspec.ValidationError:
                    pass  # other values are among them
            return *self._split(self.decoder.decode(body)), False
        except UNREADABLE:
            raise Unproved from None

    def _has_parts(self, body: bytes) -> bool:
        """Whether messages have lists of parts, as far as the first one says."""
        if self.lists.protocol == "messages":
            return True
        after = body.find(_CONTENT, 0, CONTENT_WITHIN_BYTES) + len(_CONTENT)
        return self.lists.protocol == "chat" and body[after : after + 2] == b"[{"

    def _split(self, struct: msgspec.Struct) -> tuple[RawObject, list[Any]]:
        *read, items = msgspec.structs.astuple(struct)
        return dict(zip(compress(self.names, read), filter(None, read), strict=True)), items or []
