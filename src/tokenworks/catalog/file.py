"""Reading a catalogue file (YAML). A fault refuses the whole file and names the line and the reason."""

from datetime import date, datetime
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tokenworks.catalog.errors import CatalogueFaulty
from tokenworks.catalog.model import Catalogue
from tokenworks.kernel import flaw

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
DEPTH_MAX: Final = 20
NODES_MAX: Final = 200_000
_Path = tuple[str | int, ...]


def read_catalogue(text: str, name: str) -> Catalogue:
    """Parse and validate. `name` is for messages. Raises `CatalogueFaulty` with `name:line: reason`."""
    if len(text.encode()) > FILE_BYTES_MAX:
        raise CatalogueFaulty(f"{name}: larger than {FILE_BYTES_MAX} bytes")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogueFaulty(f"{name}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise CatalogueFaulty(f"{name}:1: {error}") from None
    lines: dict[_Path, int] = {}
    content = _Reader(name, lines).value(node, ())
    try:
        catalogue = Catalogue.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        where = ".".join(str(part) for part in path)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CatalogueFaulty(f"{name}:{_line(lines, path)}: {where or 'file'}: {reason}{more}") from None
    cards = {card.id for card in catalogue.rate_cards}
    for at, offering in enumerate(catalogue.offerings):
        if offering.rate_card not in cards:
            line = _line(lines, ("offerings", at, "rate_card"))
            raise CatalogueFaulty(
                f"{name}:{line}: offering {offering.id} names no rate card of this file: {offering.rate_card}"
            )
    return catalogue


def _line(lines: dict[_Path, int], path: _Path) -> int:
    while path not in lines and path:
        path = path[:-1]
    return lines.get(path, 1)


class _Reader:
    """YAML nodes as plain values, with the line of each path; refuses duplicate keys and aliases."""

    def __init__(self, name: str, lines: dict[_Path, int]) -> None:
        self._name = name
        self._lines = lines
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node | None, path: _Path) -> Any:
        if node is None:
            raise CatalogueFaulty(f"{self._name}:1: the file is empty")
        line = node.start_mark.line + 1
        if len(path) > DEPTH_MAX or len(self._lines) > NODES_MAX:
            raise CatalogueFaulty(f"{self._name}:{line}: nested or repeated too much for a catalogue")
        self._lines[path] = line
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise CatalogueFaulty(f"{self._name}:{line}: {error}") from None
        found = flaw(value.strip()) if isinstance(value, str) else None
        if found is not None:
            raise CatalogueFaulty(f"{self._name}:{line}: a text has {found}: leave it out")
        if type(value) is date:
            return datetime(value.year, value.month, value.day)  # noqa: DTZ001  (refused later, with its reason)
        return value

    def _mapping(self, node: yaml.MappingNode, path: _Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise CatalogueFaulty(f"{self._name}:{key_node.start_mark.line + 1}: a key is a plain word")
            if (bad := flaw(key)) is not None:
                raise CatalogueFaulty(f"{self._name}:{key_node.start_mark.line + 1}: a key has {bad}")
            if key in found:
                raise CatalogueFaulty(f"{self._name}:{key_node.start_mark.line + 1}: {key} is there twice")
            found[key] = self.value(value_node, (*path, key))
        return found
