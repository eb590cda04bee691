"""Fleets for the simulation, from the command line: a number of engines or a YAML file."""

from pathlib import Path
from typing import Final

import yaml
from pydantic import TypeAdapter, ValidationError

from tokenworks.factory.errors import TraceFaulty
from tokenworks.factory.simulation.engine import EngineSpec
from tokenworks.kernel import is_digits

FLEET_BYTES_MAX: Final = 1_000_000


def read_fleet(text: str) -> list[EngineSpec]:
    """A number (`16`) of standard engines, or the engines of a YAML file. Raises `TraceFaulty`."""
    if is_digits(text, 6):
        content: object = [{"count": int(text)}]
    else:
        path = Path(text)
        if not path.is_file() or path.stat().st_size > FLEET_BYTES_MAX:
            raise TraceFaulty(
                f"a fleet is a number of engines, or a YAML file of at most {FLEET_BYTES_MAX} bytes, not {text}"
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TraceFaulty(f"{text}: {str(error).splitlines()[0]}") from None
    try:
        found = TypeAdapter(list[EngineSpec]).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TraceFaulty(f"{text}: {where}: {first['msg']}") from None
    if not found:
        raise TraceFaulty(f"{text}: a fleet has an engine")
    return found
