"""The allow-lists as the walk needs them: the protocol's own, with those of every vendor profile laid over it.

A level is an object that the protocol types (the body, a message, a part of one, a tool …). Every name at a level has
one rule; what has none is unlisted. The YAML files are the source; nothing is decided here.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
import yaml
from psycopg.rows import TupleRow

from tokenworks.factory.facts.profiles import LOADER, load_profile, profile_names

FORMAT: Final = "tokenworks-fields/1"
NEVER_FORMAT: Final = "tokenworks-never/1"
PROTOCOLS: Final = ("chat", "completions", "embeddings", "messages", "responses")
PASS, PRICE, TRANSLATE, DROP, REFUSE = "pass", "price", "translate", "drop", "refuse"
PLAIN, OPAQUE, NESTED, VALUES, OBJECT_ID, LINK, DATA = "", "opaque", "nested", "values", "id", "link", "data"
_KEYS: Final = frozenset(
    {
        "pass",
        "price",
        "translate",
        "drop",
        "refuse",
        "opaque",
        "levels",
        "values",
        "links",
        "ids",
        "data",
        "types",
    }
)
CLIENT, HOSTED, REFERENCE, CARRIED = "client", "hosted", "reference", "carried"


class Rule(msgspec.Struct, gc=False):
    """What happens to one name at one level.

    `kind` says how its value is looked at; `profiles` which profiles list it where the protocol itself does not.
    """

    action: str
    kind: str = PLAIN
    level: str = ""
    allowed: TupleRow = ()
    otherwise: str = REFUSE
    why: str = ""
    base: bool = True
    profiles: frozenset[str] = frozenset()


class TypeRule(msgspec.Struct, gc=False):
    """What happens to an object of one `type`: pass, drop, `client` (a tool that the client runs), `hosted` (the vendor's),
    `reference` (its id names another object), `carried` (so does its id where it carries nothing else: then it is dropped).
    """

    action: str
    base: bool = True
    profiles: frozenset[str] = frozenset()


class Level:
    """One typed object. `plain`: names that pass whatever their value is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules: dict[str, Rule] = {}
        self.types: dict[str, TypeRule] = {}
        self.prefixes: dict[str, TypeRule] = {}
        self.untyped: str | None = None  # what an object without a type is
        self.plain: frozenset[str] = frozenset()
        self.known: frozenset[bytes] = (
            frozenset()
        )  # types, as they stand in JSON, that pass and belong to the protocol
        self.folded: frozenset[str] = frozenset()

    @property
    def typed(self) -> bool:
        return bool(self.types or self.prefixes)

    def type_rule(self, kind: str | None) -> TypeRule | None:
        """None where no list names the type."""
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
    """All levels of a protocol."""

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
        """Whether an unlisted name could be taken upstream for a listed or a priced one: then it passes nowhere."""
        folded = fold(name)
        return folded in level.folded or (level.name == "body" and folded in self.never)


def fold(name: str) -> str:
    """A name without case, width, accents' composition and separators: as careless readers of JSON compare names."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in plain if c.isalnum())


def _read(path: str) -> dict[str, Any]:
    text = (files("tokenworks.gateway.protocol.fields") / path).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.load(text, Loader=LOADER)  # noqa: S506  (a safe loader)
    return content


@cache
def never_names() -> dict[str, str]:
    """Names that pass nowhere, and why."""
    content = _read("never.yaml")
    assert content["format"] == NEVER_FORMAT
    return {name: why for why, names in content["names"].items() for name in names}


@cache
def _maxima() -> frozenset[str]:
    return frozenset(fold(name) for name in _read("never.yaml")["names"]["another maximum"])


def is_maximum(name: str) -> bool:
    """Whether a name that was dropped is another one for the maximum of the output, in whatever letters."""
    return fold(name) in _maxima()


@cache
def lists_of(protocol: str) -> Lists:
    """The protocol's lists with every profile's. Raises where the data is faulty: a test reads all of it."""
    content = _read(f"{protocol}.yaml")
    assert content["format"] == FORMAT and content["protocol"] == protocol
    lists = Lists(protocol, tuple(content["maxima"]), tuple(content.get("query", ())))
    for name, said in content["levels"].items():
        _lay(lists, name, said, None)
    for profile in profile_names():
        for member in (profile, *load_profile(profile).include):
            for name, said in load_profile(member).fields.get(protocol, {}).items():  # type: ignore[call-overload]
                _lay(lists, name, said, profile)
    for level in lists.levels.values():
        level.finish()
        for rule in level.rules.values():
            assert not rule.level or rule.level in lists.levels, (protocol, level.name, rule.level)
    lists.never = frozenset(fold(name) for name in never_names())
    return lists


def _lay(lists: Lists, name: str, said: Mapping[str, Any], profile: str | None) -> None:
    """Add what one file says of a level. `profile`: None for the protocol's own list."""
    assert not set(said) - _KEYS, (name, set(said) - _KEYS)
    level = lists.levels.setdefault(name, Level(name))

    def add(field: str, rule: Rule) -> None:
        known = level.rules.get(field)
        if known is None:
            rule.base = profile is None
            rule.profiles = frozenset() if profile is None else frozenset({profile})
            level.rules[field] = rule
        elif profile is not None and not known.base:
            known.profiles |= {profile}

    for action in (PASS, PRICE, TRANSLATE, DROP, REFUSE):
        for field, why in _named(said.get(action, ())):
            add(field, Rule(action, why=why))
    for field, why in _named(said.get("opaque", ())):
        if field in level.rules and profile is None:
            del level.rules[field]  # said twice: the reason counts
        add(field, Rule(PASS, OPAQUE, why=why))
    for field, below in said.get("levels", {}).items():
        add(field, Rule(PASS, NESTED, level=below))
    for kind, key in ((OBJECT_ID, "ids"), (LINK, "links"), (DATA, "data")):
        for field, why in _named(said.get(key, ())):
            add(field, Rule(PRICE, kind, why=why))
    for field, values in said.get("values", {}).items():
        add(
            field,
            Rule(PASS, VALUES, allowed=tuple(values["pass"]), otherwise=values["else"], why=values["why"]),
        )
    _lay_types(level, said.get("types", {}), profile)


def _lay_types(level: Level, types: Mapping[str, Any], profile: str | None) -> None:
    for action, kinds in types.items():
        if action == "none":
            level.untyped = kinds
            continue
        for kind in kinds:
            where, key = (level.prefixes, kind[:-1]) if kind.endswith("*") else (level.types, kind)
            known = where.get(key)
            if known is None:
                of = frozenset() if profile is None else frozenset({profile})
                where[key] = TypeRule(action, profile is None, of)
            elif profile is not None and not known.base:
                known.profiles |= {profile}


def _named(said: Mapping[str, str] | Iterable[str]) -> Iterable[tuple[str, str]]:
    return said.items() if isinstance(said, Mapping) else ((name, "") for name in said)


def allowed_query(protocol: str, query: bytes) -> bytes:
    """Of a query string the parts that go upstream: those that the protocol's list names, once each."""
    if not query:
        return b""
    allowed = {part.encode() for part in lists_of(protocol).query}
    return b"&".join(dict.fromkeys(part for part in query.split(b"&") if part in allowed))
