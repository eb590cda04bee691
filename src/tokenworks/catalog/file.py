"""Reading a catalogue file (YAML 1.2). A fault refuses the whole file; the error names all faults, each with its line and reason."""

from importlib.resources import files
from typing import Final, TypeVar

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
# The error names this many faults at most, and the number of the others.
FAULTS_MAX: Final = 100
_ModelT = TypeVar("_ModelT", bound=BaseModel)
_Path = tuple[str | int, ...]
_Faults = list[tuple[int, str]]
"""(line, reason)."""


def read_catalogue(text: str, name: str) -> Catalogue:
    """Parse and validate a catalogue file. `name`: the file's name in messages. Raises `CatalogueFaulty` with a line
    `name:line: reason` for each fault.
    """
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
            isinstance(fault.get("ctx", {}).get("error"), Inconsistent) and not fault["loc"]
            for fault in error.errors(include_url=False)
        ):
            faults += _inconsistencies_of(content, reader.lines)
    if faults:
        raise CatalogueFaulty(_listed(name, faults))
    return catalogue


def _faults_of(error: ValidationError, lines: dict[_Path, int]) -> _Faults:
    faults = []
    for fault in error.errors(include_url=False):
        if fault["type"] == "too_short" and fault["input"]:
            continue  # the list has only faulty entries, each of which has its own fault
        path = tuple(fault["loc"])
        cause = fault.get("ctx", {}).get("error")
        found = (
            cause.found
            if isinstance(cause, Inconsistent)
            else [((), fault["msg"].removeprefix("Value error, "))]
        )
        for below, reason in found:
            where = ".".join(str(part) for part in (*path, *below))
            faults.append((_line(lines, (*path, *below)), f"{where or 'file'}: {reason}"))
    return faults


def _inconsistencies_of(content: object, lines: dict[_Path, int]) -> _Faults:
    """The inconsistencies between the valid entries of a file that has faulty entries, too."""
    if not isinstance(content, dict):
        return []
    offerings = _valid(content.get("offerings"), Offering)
    cards = _valid(content.get("rate_cards"), RateCard)
    found = inconsistencies(cards, offerings, _ids(content.get("rate_cards")), _ids(content.get("offerings")))
    return [
        (_line(lines, path), f"{'.'.join(str(part) for part in path)}: {reason}") for path, reason in found
    ]


def _ids(items: object) -> set[str]:
    """The ids of all entries of a list, faulty ones included."""
    return {
        str(item.get("id")) for item in (items if isinstance(items, list) else ()) if isinstance(item, dict)
    }


def _valid(items: object, model: type[_ModelT]) -> dict[int, _ModelT]:
    """The valid entries of a list, by index."""
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
    """Converts YAML nodes into plain values. It keeps the line of each path, and the faults of the text itself: repeated keys,
    tags, control characters in texts. An alias is refused at once.
    """

    def __init__(self, name: str) -> None:
        self.lines: dict[_Path, int] = {}
        self.faults: _Faults = []
        self._name = name
        self._seen: set[int] = set()

    def value(self, node: yaml.Node | None, path: _Path) -> object:
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

    def _mapping(self, node: yaml.MappingNode, path: _Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                self.faults.append((line, "a key is a plain word"))
                continue
            if (key_flaw := flaw(key)) is not None:
                self.faults.append((line, f"a key has {key_flaw}"))
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
