"""The fast reading of a body: one typed decode, and a proof that the body needs no change.

A body can be proven if it is compact, if each of its fields is listed at its level, and if it has nothing that an upstream would fetch,
look up or run. The proof checks all objects of a level together, so that a message costs its share of three set operations. A body that
cannot be proven is scanned (`scan.py`).
"""

from collections.abc import Iterable, Sequence
from itertools import chain, compress
from struct import Struct
from typing import Final

import msgspec

from tokenworks.gateway.protocol.fields.errors import UNREADABLE
from tokenworks.gateway.protocol.fields.layout import (
    OPEN_ARRAY,
    OPEN_OBJECT,
    RawObject,
    carries,
    has_translated,
    members_length,
    was_translated,
)
from tokenworks.gateway.protocol.fields.lists import (
    CARRIED,
    CLIENT,
    DROP,
    NESTED,
    OPAQUE,
    OWN,
    PASS,
    PLAIN,
    REFUSE,
    TAGS,
    THOUGHT,
    Level,
    Lists,
    Rule,
)

MixedObject = dict[str, str | list[RawObject]]
DEPTH_MAX: Final = 8
# The first message's content, searched in the body's first bytes, shows the form of the other messages' contents.
_CONTENT: Final = b'"content":'
CONTENT_WITHIN_BYTES: Final = 4_096
SMALL_BYTES: Final = 16_384
_OPENS: Final = frozenset({OPEN_OBJECT, OPEN_ARRAY})
_first: Final = Struct("B").unpack_from
_object: Final = msgspec.json.Decoder(RawObject)
_objects: Final = msgspec.json.Decoder(list[RawObject])
_ENCRYPTED: Final = b'"redacted_thinking"'
_any: Final = msgspec.json.Decoder()
# The field of each protocol that contains most of a body.
BULK: Final = {"chat": "messages", "messages": "messages", "responses": "input"}


class NotProven(Exception):
    """The body may need a change: it has to be scanned."""


class Proof:
    """The proof of one body. `listed_by`: the profiles that list all of its fields; None if the protocol's own list does. `tagged`: it
    has a field that becomes a tag of the usage record.
    """

    __slots__ = ("listed_by", "lists", "tagged")

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.listed_by: frozenset[str] | None = None
        self.tagged = False

    def narrow(self, rule: Rule) -> None:
        if not rule.base:
            self.listed_by = rule.profiles if self.listed_by is None else self.listed_by & rule.profiles

    def values(self, raws: Iterable[msgspec.Raw], level: Level, depth: int = 0) -> None:
        """Prove values that the protocol types as `level`: objects, lists of objects, or scalars. Raises `NotProven`."""
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
            raise NotProven from None
        written = sum(map(len, opened))
        if written != between + members_length(items, written):
            raise NotProven
        self.objects(items, level, depth)

    def objects(self, items: list[RawObject], level: Level, depth: int = 0) -> None:
        """Prove compact objects of one level. Raises `NotProven`."""
        if depth > DEPTH_MAX:
            raise NotProven
        for name in set(chain.from_iterable(items)) - level.plain:
            if name == "type" and level.typed:
                continue
            self.name(name, level, (fields[name] for fields in items if name in fields), depth)
        if level.typed:
            self._types(items, level)

    def mixed(self, items: list[MixedObject], level: Level) -> None:
        """Prove objects whose values are texts and lists of objects, like the messages of agents. Raises `NotProven`."""
        unproven_lists = sum(type(value) is list for value in chain.from_iterable(map(dict.values, items)))
        for name in set(chain.from_iterable(items)) - level.plain:
            self.name(name, level, ())
            rule = level.rules[name]
            if rule.kind != NESTED:
                continue
            nested = [fields[name] for fields in items if type(fields.get(name)) is list]
            objects: list[RawObject] = list(chain.from_iterable(nested))  # type: ignore[arg-type]
            unproven_lists -= len(nested)
            self.objects(objects, self.lists.levels[rule.level], 1)
        if unproven_lists:
            raise NotProven  # a list in a field that the protocol does not type

    def name(self, name: str, level: Level, raws: Iterable[msgspec.Raw], depth: int = 0) -> None:
        """Prove all values of one name at one level. Raises `NotProven`."""
        rule = level.rules.get(name)
        if rule is None or rule.action in {DROP, REFUSE, OWN}:
            raise NotProven
        if rule.kind == NESTED:
            self.values(raws, self.lists.levels[rule.level], depth + 1)
        elif rule.kind == TAGS:
            self.tagged = True
        elif rule.kind not in {PLAIN, OPAQUE}:
            raise NotProven
        self.narrow(rule)

    def _types(self, items: list[RawObject], level: Level) -> None:
        kinds = [bytes(fields["type"]) for fields in items if "type" in fields]
        if len(kinds) != len(items) and (
            level.untyped not in {None, PASS, CLIENT} or not _all_have_roles(items, level)
        ):
            raise NotProven
        for kind in set(kinds) - level.known:
            rule = level.type_rule(_any.decode(kind)) if kind[:1] == b'"' else None
            if rule is None or rule.action not in {PASS, CLIENT, CARRIED, THOUGHT}:
                raise NotProven
            if rule.action == CARRIED:
                written = msgspec.Raw(kind)
                for fields in items:
                    if fields.get("type") == written and (not carries(fields) or was_translated(fields)):
                        raise NotProven
            elif rule.action == THOUGHT and has_translated(items, encrypted=kind == _ENCRYPTED):
                raise NotProven
            if not rule.base:
                self.listed_by = rule.profiles if self.listed_by is None else self.listed_by & rule.profiles


def _all_have_roles(items: list[RawObject], level: Level) -> bool:
    """False if an item of a response has neither a type nor a role. With a role it is a message; without, it refers to another item."""
    return level.name != "item" or all("role" in fields for fields in items if "type" not in fields)


class Reader:
    """The typed decoder of a protocol's body: it has a field for each listed name, refuses others, and decodes the bulk as objects."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.bulk = BULK.get(lists.protocol)
        names = [name for name in lists.body.rules if name != self.bulk]
        fields: list[tuple[str, object, object]] = [(f"f{i}", msgspec.Raw, None) for i in range(len(names))]
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

    def read(self, body: bytes) -> tuple[RawObject, list[RawObject], list[MixedObject]]:
        """(the fields without the bulk, the bulk's objects, or instead its objects with lists of parts). Raises `NotProven`.

        A small body is decoded twice, which costs less than the typed decoder with its many fields.
        """
        try:
            if self.bulk is None or len(body) < SMALL_BYTES:
                outer = _object.decode(body)
                items = [] if self.bulk is None else _objects.decode(outer.pop(self.bulk, b"[]"))
                return outer, items, []
            if self._has_parts(body):
                try:
                    *values, mixed = msgspec.structs.astuple(self.mixed_decoder.decode(body))
                    return self._fields(values), [], mixed or []
                except msgspec.ValidationError:
                    pass  # some values are neither texts nor lists of objects
            *values, objects = msgspec.structs.astuple(self.decoder.decode(body))
            return self._fields(values), objects or [], []
        except UNREADABLE:
            raise NotProven from None

    def _has_parts(self, body: bytes) -> bool:
        """True if the messages have lists of parts, judged by the first message."""
        if self.lists.protocol == "messages":
            return True
        after = body.find(_CONTENT, 0, CONTENT_WITHIN_BYTES) + len(_CONTENT)
        return self.lists.protocol == "chat" and body[after : after + 2] == b"[{"

    def _fields(self, values: Sequence[msgspec.Raw | None]) -> RawObject:
        """The listed fields that the body has, from the values of all listed fields."""
        return dict(zip(compress(self.names, values), filter(None, values), strict=True))
