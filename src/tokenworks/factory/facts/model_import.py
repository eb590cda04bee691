"""Reads files of models that an operator imports: our own YAML, and the two JSON forms that the ecosystem shares.

`tokenworks`: the form of `vendors/models/*.yaml`. `litellm`: an object of entries by name, each with `litellm_provider` and costs in dollars
per token. `openrouter`: `{"data": [...]}`, as `GET /api/v1/models` answers. A file is read tolerantly: what is right is taken, and every
field, price or entry that is not is named with the reason. Nothing here asks the network.
"""

import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NamedTuple, get_args

import yaml
from pydantic import ValidationError

from tokenworks.factory.errors import ModelsFileFaulty
from tokenworks.factory.facts.foreign_models import litellm_fields, openrouter_fields
from tokenworks.factory.facts.list_prices import CLASSES
from tokenworks.factory.facts.model_facts import FORMAT, FactsIndex, ModelFacts, overlaid
from tokenworks.kernel import flaw_in, shown

FileFormat = Literal["tokenworks", "litellm", "openrouter"]
FILE_FORMATS: Final[tuple[FileFormat, ...]] = get_args(FileFormat)
# Limits of a file. YAML takes a hundred times as long as JSON to read.
ENTRIES_MAX: Final = 10_000
JSON_BYTES_MAX: Final = 32 * 1024 * 1024
YAML_BYTES_MAX: Final = 2 * 1024 * 1024
PROBLEMS_MAX: Final = 10_000
_DIGITS_MAX: Final = 18
_ROUNDS_MAX: Final = 4


class Problem(NamedTuple):
    """What was not taken: where it stands, and why."""

    where: str
    reason: str


class ModelsFile(NamedTuple):
    """What was read. `models`: by id. `problems`: at most `PROBLEMS_MAX` of `problems_total`."""

    format: FileFormat
    entries: int
    models: dict[str, ModelFacts]
    problems: list[Problem]
    problems_total: int


class Problems:
    """Collects problems up to `PROBLEMS_MAX`, and counts all."""

    __slots__ = ("found", "total")

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.total = 0

    def add(self, where: object, reason: str) -> None:
        self.total += 1
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(Problem(shown(str(where))[:120], shown(reason)[:200]))


def read_models_file(
    data: bytes, index: FactsIndex, source: str, date: str, wanted: FileFormat | None = None
) -> ModelsFile:
    """Read a file's models. `index`: the models that are known, by which names of sellers are found. `source` and `date` stand with
    what names none itself. Raises `ModelsFileFaulty` if the file is of no known form, or larger than its limit.
    """
    problems = Problems()
    content = _parsed(data, problems)
    form = wanted or _form_of(content)
    entries = _entries(content, form, problems)
    taken: list[tuple[bool, ModelFacts]] = []
    seen: set[str] = set()
    for name, entry in entries:
        if form in {"tokenworks", "openrouter"}:
            if name in seen:
                problems.add(name, "this id is in the file twice: the first counts")
                continue
            seen.add(name)
        made = _facts(name, entry, form, index, source, date, problems)
        if made is not None:
            taken.append(made)
    models: dict[str, ModelFacts] = {}
    # The maker's own entry comes before those of other sellers of the model, else the first of the file.
    for _, facts in sorted(taken, key=lambda made: not made[0]):
        before = models.get(facts.id)
        models[facts.id] = facts if before is None else overlaid(facts, before)
    return ModelsFile(form, len(entries), models, problems.found, problems.total)


def _facts(
    name: str, entry: Mapping[str, object], form: FileFormat, index: FactsIndex, source: str, date: str, problems: Problems
) -> tuple[bool, ModelFacts] | None:  # fmt: skip
    """(whether the entry is the maker's own, facts), or None."""
    if form == "tokenworks":
        fields = _own_fields(entry, source, date)
        own = True
    else:
        read = litellm_fields if form == "litellm" else openrouter_fields
        foreign = read(name, entry, problems.add)
        if foreign is None:
            return None
        known = index.find(foreign.name, foreign.seller)
        own = known is not None and known.seller == foreign.seller
        fields = foreign.fields | {
            "id": known.id if known is not None else foreign.name,
            "vendor_ids": {foreign.seller: foreign.name},
            "sources": [{"source": source, "date": date}],
        }
        if foreign.price:
            row = {"currency": "USD", "region": "intl", "source": foreign.source or source, "date": date}
            fields["prices"] = [row | ({} if own else {"seller": foreign.seller}) | foreign.price]
    facts = _taken(fields, name, problems)
    return None if facts is None else (own, facts)


def _own_fields(entry: Mapping[str, object], source: str, date: str) -> dict[str, object]:
    """An entry of our own form: prices may be written as numbers, and take the file's source and date where they have none."""
    fields = dict(entry)
    rows = fields.get("prices")
    if isinstance(rows, list):
        fields["prices"] = [
            {"source": source, "date": date} | _as_texts(row) if isinstance(row, dict) else row
            for row in rows
        ]
    fields.setdefault("sources", [{"source": source, "date": date}])
    return fields


def _as_texts(row: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in row.items():
        is_number = name in CLASSES and isinstance(value, int | Decimal) and not isinstance(value, bool)
        found[name] = str(value) if is_number else value
    return found


def _taken(fields: dict[str, object], where: str, problems: Problems) -> ModelFacts | None:
    """The facts of an entry without what is not valid in it, which is named; None if its id is not valid."""
    flaw = flaw_in(fields.get("id"))
    if flaw is not None:
        problems.add(where, f"no name of a model: it has {flaw}")
        return None
    for name in [name for name, value in fields.items() if flaw_in(value) is not None]:
        problems.add(f"{where}: {name}", f"it has {flaw_in(fields.pop(name))}")
    for _ in range(_ROUNDS_MAX):
        try:
            return ModelFacts.model_validate(fields)
        except ValidationError as error:
            drop: set[tuple[str | int, ...]] = set()
            for found in error.errors(include_url=False):
                loc = found["loc"]
                if loc[0] == "id":
                    problems.add(where, f"no name of a model: {found['msg']}")
                    return None
                part = loc[:2] if loc[0] in {"prices", "vendor_ids"} and len(loc) > 1 else loc[:1]
                if part not in drop:
                    value = found["input"]
                    text = "" if isinstance(value, dict | list) else f", not {str(value)[:40]!a}"
                    problems.add(f"{where}: {'.'.join(map(str, loc))}", f"{found['msg']}{text}")
                drop.add(part)
            fields = _without(fields, drop)
    problems.add(where, "it has too much that is not valid")
    return None


def _without(fields: dict[str, object], drop: set[tuple[str | int, ...]]) -> dict[str, object]:
    left: dict[str, object] = {}
    for name, value in fields.items():
        if (name,) in drop:
            continue
        if isinstance(value, list):
            left[name] = [row for at, row in enumerate(value) if (name, at) not in drop]
        elif isinstance(value, dict):
            left[name] = {key: item for key, item in value.items() if (name, key) not in drop}
        else:
            left[name] = value
    return left


# The form.


def _form_of(content: object) -> FileFormat:
    if isinstance(content, dict):
        if content.get("format") == FORMAT or isinstance(content.get("models"), list):
            return "tokenworks"
        if isinstance(content.get("data"), list):
            return "openrouter"
        if any(isinstance(entry, dict) and "litellm_provider" in entry for entry in content.values()):
            return "litellm"
    raise ModelsFileFaulty(
        "the file is of no known form: `models: [...]` (tokenworks), entries with litellm_provider (litellm), or "
        '{"data": [...]} (openrouter); --format names it'
    )


def _entries(content: object, form: FileFormat, problems: Problems) -> list[tuple[str, dict[str, object]]]:
    """(name, entry) of at most `ENTRIES_MAX` entries."""
    if not isinstance(content, dict):
        raise ModelsFileFaulty(f"a file of the form {form} is an object, not {type(content).__name__}")
    found: list[tuple[str, dict[str, object]]] = []
    if form == "litellm":
        pairs = [(name, entry) for name, entry in content.items() if name != "sample_spec"]
    else:
        rows = content.get("models" if form == "tokenworks" else "data")
        if not isinstance(rows, list):
            raise ModelsFileFaulty(f"a file of the form {form} has a list of models")
        shared = {
            name: content[name] for name in ("maker", "seller") if form == "tokenworks" and name in content
        }
        pairs = [
            (_name_of(row, at), shared | row if isinstance(row, dict) else row) for at, row in enumerate(rows)
        ]
    for name, entry in pairs[:ENTRIES_MAX]:
        if isinstance(entry, dict):
            found.append((name, entry))
        else:
            problems.add(name, f"an entry is an object, not {type(entry).__name__}")
    if len(pairs) > ENTRIES_MAX:
        problems.add("entries", f"{len(pairs) - ENTRIES_MAX} beyond the first {ENTRIES_MAX} are not read")
    return found


def _name_of(row: object, at: int) -> str:
    name = row.get("id") if isinstance(row, dict) else None
    return name if isinstance(name, str) else f"entry {at + 1}"


# The text.


def _parsed(data: bytes, problems: Problems) -> object:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelsFileFaulty(f"the file is not UTF-8 at byte {error.start}") from None
    is_json = text.lstrip()[:1] in {"{", "["}
    most = JSON_BYTES_MAX if is_json else YAML_BYTES_MAX
    if len(data) > most:
        raise ModelsFileFaulty(f"the file has more than {most} bytes")
    try:
        return _json(text, problems) if is_json else _yaml(text, problems)
    except RecursionError:
        raise ModelsFileFaulty("the file is nested too deep") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ModelsFileFaulty(
            f"the file can't be read: {shown(' '.join(str(error).split()))[:200]}"
        ) from None


def _json(text: str, problems: Problems) -> object:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        made: dict[str, object] = {}
        for name, value in found:
            if name in made:
                problems.add(name, "this name is in an object twice: the first counts")
            else:
                made[name] = value
        return made

    return json.loads(
        text, object_pairs_hook=pairs, parse_float=_number, parse_int=_integer, parse_constant=str
    )


def _integer(text: str) -> int | str:
    """A longer number stays a text, which no field takes."""
    return int(text) if len(text) <= _DIGITS_MAX else text[: _DIGITS_MAX * 2]


def _number(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:
        return text[: _DIGITS_MAX * 2]


class _Loader(yaml.SafeLoader):
    """Texts, integers, true, false and null, as YAML 1.2 writes them; a fraction or a date is a text. An alias repeats what it names,
    and a few of them, nested, fill any memory: it is refused.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ModelsFileFaulty("the file has an alias (*name): write out what it stands for")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        self.duplicates += [name for name, count in names.items() if count > 1]
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|", [*"~n", ""]),
    ("bool", r"true|false", [*"tf"]),
    ("int", rf"-?(?:0|[1-9][0-9]{{0,{_DIGITS_MAX - 1}}})", [*"-0123456789"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _yaml(text: str, problems: Problems) -> object:
    loader = _Loader(text)
    try:
        content: object = loader.get_single_data()
    finally:
        loader.dispose()
    for name in loader.duplicates:
        problems.add(name, "this name is in a mapping twice: the last counts")
    return content
