"""The allow-lists of a body's fields: the protocol's own list merged with the lists of all vendor profiles.

A level is an object that the protocol types (the body, a message, a part of a message, a tool …). Each listed name at a level has one
rule; other names are unlisted. The YAML files are the source of all rules.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

import msgspec
import yaml

from tokenworks.factory.facts.profiles import LOADER, load_profile, profile_names

FORMAT: Final = "tokenworks-fields/1"
NEVER_FORMAT: Final = "tokenworks-never/1"
PROTOCOLS: Final = ("chat", "completions", "embeddings", "messages", "responses")
PASS, PRICE, TRANSLATE, DROP, REFUSE, OWN = "pass", "price", "translate", "drop", "refuse", "gateway"
PLAIN, OPAQUE, NESTED, VALUES, OBJECT_ID, LINK, DATA, TAGS = (
    "",
    "opaque",
    "nested",
    "values",
    "id",
    "link",
    "data",
    "tags",
)
CLIENT, HOSTED, REFERENCE, CARRIED, THOUGHT, SUMMARY = (
    "client",
    "hosted",
    "reference",
    "carried",
    "thought",
    "summary",
)


# Names, or names with the reason of their rule.
_Names = list[str] | dict[str, str]


class _AllowedValues(
    msgspec.Struct, forbid_unknown_fields=True, rename={"allowed": "pass", "otherwise": "else"}
):
    """The values with which a field passes, and the action for any other value."""

    allowed: list[object]
    otherwise: str
    why: str


class _LevelEntries(msgspec.Struct, forbid_unknown_fields=True, rename={"pass_": "pass"}):
    """The entries of one level in a file: names by their action or by the kind of their value, and types by their action."""

    pass_: _Names = []
    price: _Names = []
    translate: _Names = []
    drop: _Names = []
    refuse: _Names = []
    opaque: _Names = []
    levels: dict[str, str] = {}
    values: dict[str, _AllowedValues] = {}
    links: _Names = []
    ids: _Names = []
    data: _Names = []
    tags: _Names = []
    gateway: _Names = []
    # `none` has the action for an object without a type.
    types: dict[str, str | list[str]] = {}


class _ListsFile(msgspec.Struct):
    format: str
    protocol: str
    maxima: tuple[str, ...]
    levels: dict[str, _LevelEntries]
    query: tuple[str, ...] = ()


class _NeverFile(msgspec.Struct):
    """The names that never pass, by the reason."""

    format: str
    names: dict[str, list[str]]


class Rule(msgspec.Struct, gc=False):
    """The rule of one name at one level.

    `kind`: how its value is checked. `base`: the protocol's own list has the name; if it does not, `profiles` are the vendor profiles
    that list it.
    """

    action: str
    kind: str = PLAIN
    level: str = ""
    allowed: tuple[object, ...] = ()
    otherwise: str = REFUSE
    why: str = ""
    base: bool = True
    profiles: frozenset[str] = frozenset()


class TypeRule(msgspec.Struct, gc=False):
    """The rule of objects with one `type`: pass, drop, `client` (a tool that the client runs), `hosted` (a tool that the vendor runs),
    `reference` (its id refers to another object), `carried` (it passes with content; with an id only it is dropped), `thought` (it passes, unless a translated answer had it), `summary` (it stands for a
    conversation, or asks for that).
    """

    action: str
    base: bool = True
    profiles: frozenset[str] = frozenset()


class Level:
    """The rules of one typed object. `plain`: names that pass with any value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules: dict[str, Rule] = {}
        self.types: dict[str, TypeRule] = {}
        self.prefixes: dict[str, TypeRule] = {}
        self.untyped: str | None = None  # the rule's action for an object without a type
        self.plain: frozenset[str] = frozenset()
        # The types that pass by the protocol's own list, as JSON.
        self.known: frozenset[bytes] = frozenset()
        self.folded: frozenset[str] = frozenset()

    @property
    def typed(self) -> bool:
        return bool(self.types or self.prefixes)

    def type_rule(self, kind: str | None) -> TypeRule | None:
        """The rule of a type (None: the object has no type); None if no list has the type."""
        if kind is None:
            return TypeRule(PASS if self.untyped is None else self.untyped)
        rule = self.types.get(kind)
        if rule is None:
            for prefix, candidate in self.prefixes.items():
                if kind.startswith(prefix):
                    return candidate
        return rule

    def finish(self) -> None:
        if self.typed and "type" not in self.rules:
            self.rules["type"] = Rule(PASS)
        self.plain = frozenset(
            name
            for name, rule in self.rules.items()
            if rule.base and rule.kind in {PLAIN, OPAQUE} and rule.action in {PASS, PRICE, TRANSLATE}
            and not (name == "type" and self.typed)
        )  # fmt: skip
        self.known = frozenset(
            b'"%b"' % kind.encode()
            for kind, rule in self.types.items()
            if rule.base and rule.action in {PASS, CLIENT}
        )
        self.folded = frozenset(fold(name) for name in self.rules)


class Lists:
    """The rules of a protocol, by level."""

    def __init__(self, protocol: str, maxima: tuple[str, ...], query: tuple[str, ...]) -> None:
        self.protocol = protocol
        self.maxima = maxima
        self.query = query
        self.levels: dict[str, Level] = {}
        self.never: frozenset[str] = frozenset()

    @property
    def body(self) -> Level:
        return self.levels["body"]

    def collides(self, level: Level, name: str) -> bool:
        """True if an upstream could take an unlisted name for a listed or priced one: such a name never passes."""
        folded = fold(name)
        return folded in level.folded or (level.name == "body" and folded in self.never)


def fold(name: str) -> str:
    """A name without differences of case, width, composition of accents, and separators, as tolerant JSON readers compare names."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in plain if c.isalnum())


_T = TypeVar("_T", bound=msgspec.Struct)


def _read(path: str, struct: type[_T]) -> _T:
    text = (files("tokenworks.gateway.protocol.fields") / path).read_text(encoding="utf-8")
    return msgspec.convert(yaml.load(text, Loader=LOADER), struct)  # noqa: S506  (a safe loader)


@cache
def never_names() -> dict[str, str]:
    """The names that never pass, with the reason."""
    content = _read("never.yaml", _NeverFile)
    assert content.format == NEVER_FORMAT
    return {name: why for why, names in content.names.items() for name in names}


@cache
def _maxima() -> frozenset[str]:
    return frozenset(fold(name) for name in _read("never.yaml", _NeverFile).names["another maximum"])


def is_maximum(name: str) -> bool:
    """True if a dropped name is another name for the output maximum, in any spelling that `fold` equates."""
    return fold(name) in _maxima()


@cache
def lists_of(protocol: str) -> Lists:
    """The protocol's lists merged with those of each profile. Raises if the data is faulty; a test reads all of it."""
    content = _read(f"{protocol}.yaml", _ListsFile)
    assert content.format == FORMAT and content.protocol == protocol
    lists = Lists(protocol, content.maxima, content.query)
    for name, entries in content.levels.items():
        _add_level(lists, name, entries, None)
    for profile in profile_names():
        for member in (profile, *load_profile(profile).include):
            for name, fields in load_profile(member).fields.get(protocol, {}).items():  # type: ignore[call-overload]
                _add_level(lists, name, msgspec.convert(fields, _LevelEntries), profile)
    for level in lists.levels.values():
        level.finish()
        for rule in level.rules.values():
            assert not rule.level or rule.level in lists.levels, (protocol, level.name, rule.level)
    lists.never = frozenset(fold(name) for name in never_names())
    return lists


def _add_level(lists: Lists, name: str, entries: _LevelEntries, profile: str | None) -> None:
    """Add one file's entries of a level. `profile`: None for the protocol's own list."""
    level = lists.levels.setdefault(name, Level(name))

    def add(field: str, rule: Rule) -> None:
        known = level.rules.get(field)
        if known is None:
            rule.base = profile is None
            rule.profiles = frozenset() if profile is None else frozenset({profile})
            level.rules[field] = rule
        elif profile is not None and not known.base:
            known.profiles |= {profile}

    for action, names in (
        (PASS, entries.pass_), (PRICE, entries.price), (TRANSLATE, entries.translate), (DROP, entries.drop),
        (REFUSE, entries.refuse), (OWN, entries.gateway),
    ):  # fmt: skip
        for field, why in _with_reasons(names):
            add(field, Rule(action, why=why))
    for field, why in _with_reasons(entries.opaque):
        if field in level.rules and profile is None:
            del level.rules[field]  # listed twice: the entry with the reason counts
        add(field, Rule(PASS, OPAQUE, why=why))
    for field, why in _with_reasons(entries.tags):
        add(field, Rule(PASS, TAGS, why=why))
    for field, nested_level in entries.levels.items():
        add(field, Rule(PASS, NESTED, level=nested_level))
    for kind, names in ((OBJECT_ID, entries.ids), (LINK, entries.links), (DATA, entries.data)):
        for field, why in _with_reasons(names):
            add(field, Rule(PRICE, kind, why=why))
    for field, values in entries.values.items():
        rule = Rule(PASS, VALUES, allowed=tuple(values.allowed), otherwise=values.otherwise, why=values.why)
        add(field, rule)
    _add_types(level, entries.types, profile)


def _add_types(level: Level, types: Mapping[str, str | list[str]], profile: str | None) -> None:
    for action, kinds in types.items():
        if isinstance(kinds, str):
            assert action == "none", (level.name, action)
            level.untyped = kinds
            continue
        for kind in kinds:
            rules, key = (level.prefixes, kind[:-1]) if kind.endswith("*") else (level.types, kind)
            known = rules.get(key)
            if known is None:
                profiles = frozenset() if profile is None else frozenset({profile})
                rules[key] = TypeRule(action, profile is None, profiles)
            elif profile is not None and not known.base:
                known.profiles |= {profile}


def _with_reasons(names: _Names) -> Iterable[tuple[str, str]]:
    """(name, reason) of each entry; the reason is empty if the file gives none."""
    return names.items() if isinstance(names, dict) else ((name, "") for name in names)


def allowed_query(protocol: str, query: bytes) -> bytes:
    """The parts of a query string that are sent upstream: those that the protocol's list has, each once."""
    if not query:
        return b""
    allowed = {part.encode() for part in lists_of(protocol).query}
    return b"&".join(dict.fromkeys(part for part in query.split(b"&") if part in allowed))
