"""Reading a catalogue file (YAML 1.2). Faults refuse the whole file; all of them are named, each with its line and its reason."""

from importlib.resources import files
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from tokenworks.catalog.catalogue import Catalogue, inconsistencies
from tokenworks.catalog.core_yaml import CoreLoader, scalar
from tokenworks.catalog.errors import CatalogueFaulty
from tokenworks.catalog.model import Inconsistent, Offering, RateCard
from tokenworks.kernel import flaw

SEED_NAME: Final = "seed.yaml"
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
DEPTH_MAX: Final = 20
NODES_MAX: Final = 200_000
# So many faults are named; how many more there are is said.
FAULTS_MAX: Final = 100
_Path = tuple[str | int, ...]
_Faults = list[tuple[int, str]]
"""(line, reason)."""


def read_catalogue(text: str, name: str) -> Catalogue:
    """Parse and validate. `name` is for messages. Raises `CatalogueFaulty` with a line `name:line: reason` for each fault."""
    if len(text.encode()) > FILE_BYTES_MAX:
        raise CatalogueFaulty(f"{name}: larger than {FILE_BYTES_MAX} bytes")
    try:
        node = yaml.compose(text, Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogueFaulty(f"{name}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise CatalogueFaulty(f"{name}:1: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise CatalogueFaulty(f"{name}:1: nested too much for a catalogue") from None
    reader = _Reader(name)
    content = reader.value(node, ())
    faults = reader.faults
    try:
        catalogue = Catalogue.model_validate(content)
    except ValidationError as error:
        faults += _faults_of(error, reader.lines)
        if not any(
            isinstance(one.get("ctx", {}).get("error"), Inconsistent) and not one["loc"]
            for one in error.errors(include_url=False)
        ):
            faults += _beside(content, reader.lines)
    if faults:
        raise CatalogueFaulty(_listed(name, faults))
    return catalogue


def _faults_of(error: ValidationError, lines: dict[_Path, int]) -> _Faults:
    faults = []
    for one in error.errors(include_url=False):
        if one["type"] == "too_short" and one["input"]:
            continue  # there are some, faulty ones: each is named itself
        path = tuple(one["loc"])
        cause = one.get("ctx", {}).get("error")
        found = (
            cause.found
            if isinstance(cause, Inconsistent)
            else [((), one["msg"].removeprefix("Value error, "))]
        )
        for under, reason in found:
            where = ".".join(str(part) for part in (*path, *under))
            faults.append((_line(lines, (*path, *under)), f"{where or 'file'}: {reason}"))
    return faults


def _beside(content: Any, lines: dict[_Path, int]) -> _Faults:
    """What does not fit together among what is well formed in itself: said beside the faults of the others."""
    if not isinstance(content, dict):
        return []
    offerings, cards = (
        _well_formed(content.get(name), model)
        for name, model in (("offerings", Offering), ("rate_cards", RateCard))
    )
    found = inconsistencies(cards, offerings, _ids(content, "rate_cards"), _ids(content, "offerings"))
    return [
        (_line(lines, path), f"{'.'.join(str(part) for part in path)}: {reason}") for path, reason in found
    ]


def _ids(content: dict[str, Any], name: str) -> set[str]:
    items = content.get(name)
    return {
        str(item.get("id")) for item in (items if isinstance(items, list) else ()) if isinstance(item, dict)
    }


def _well_formed(items: Any, model: type[BaseModel]) -> dict[int, Any]:
    found = {}
    for at, item in enumerate(items if isinstance(items, list) else ()):
        try:
            found[at] = model.model_validate(item)
        except ValidationError:
            continue
    return found


def _listed(name: str, faults: _Faults) -> str:
    ordered = sorted(set(faults))
    lines = [f"{name}:{line}: {reason}" for line, reason in ordered[:FAULTS_MAX]]
    if len(ordered) > FAULTS_MAX:
        lines.append(f"{name}: and {len(ordered) - FAULTS_MAX} more")
    return "\n".join(lines)


def _line(lines: dict[_Path, int], path: _Path) -> int:
    while path not in lines and path:
        path = path[:-1]
    return lines.get(path, 1)


class _Reader:
    """YAML nodes as plain values, with the line of each path and the faults of the text itself: keys that are there twice,
    aliases, tags, what does not belong into a text.
    """

    def __init__(self, name: str) -> None:
        self.lines: dict[_Path, int] = {}
        self.faults: _Faults = []
        self._name = name
        self._seen: set[int] = set()

    def value(self, node: yaml.Node | None, path: _Path) -> Any:
        if node is None:
            raise CatalogueFaulty(f"{self._name}:1: the file is empty")
        line = node.start_mark.line + 1
        if len(path) > DEPTH_MAX or len(self.lines) > NODES_MAX:
            raise CatalogueFaulty(f"{self._name}:{line}: nested or repeated too much for a catalogue")
        if id(node) in self._seen:
            raise CatalogueFaulty(f"{self._name}:{line}: an alias: write it out")
        self._seen.add(id(node))
        self.lines[path] = line
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
        try:
            assert isinstance(node, yaml.ScalarNode)
            value = scalar(node)
        except ValueError as error:
            self.faults.append((line, str(error)))
            return None
        found = flaw(value.strip()) if isinstance(value, str) else None
        if found is not None:
            self.faults.append((line, f"a text has {found}: leave it out"))
        return value

    def _mapping(self, node: yaml.MappingNode, path: _Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                self.faults.append((line, "a key is a plain word"))
                continue
            if (bad := flaw(key)) is not None:
                self.faults.append((line, f"a key has {bad}"))
                continue
            if key in found:
                self.faults.append((line, f"{key} is there twice"))
                continue
            found[key] = self.value(value_node, (*path, key))
        return found


def seed_catalogue() -> Catalogue:
    """The catalogue that ships with the product: real tariffs with their sources, samples marked."""
    text = files("tokenworks.catalog").joinpath(SEED_NAME).read_text(encoding="utf-8")
    return read_catalogue(text, SEED_NAME)
