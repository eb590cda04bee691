"""The settings of a process: defaults, then the file, then variables, then options. Unknown names are errors."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tokenworks.app.settings.model import Settings
from tokenworks.kernel import Invalid

PREFIX: Final = "TOKENWORKS_"
# Variables of the same prefix that are not settings.
_NOT_SETTINGS: Final = ("TOKENWORKS_UPSTREAM_", "TOKENWORKS_COMPILE")
FILE_NAME: Final = "tokenworks.toml"


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings, and the origin of each: `default`, `file`, `variable` or `option`."""

    settings: Settings
    origins: dict[str, str]


def load_settings(options: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Effective:
    """Defaults, then the file in the data directory, then variables, then options. Raises `Invalid` with the reason.

    The file is `tokenworks.toml` in the data directory, or what `TOKENWORKS_CONFIG` names.
    """
    values: dict[str, object] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    variables = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environ.items()
        if name.startswith(PREFIX)
        # A variable with the prefix of credentials is a credential, unless a setting has its name.
        and (not name.startswith(_NOT_SETTINGS) or name.removeprefix(PREFIX).lower() in Settings.model_fields)
    }
    named_file = variables.pop("config", None)
    data_dir = Path(str(options.get("data_dir") or variables.get("data_dir") or "data"))
    path = Path(named_file) if named_file else data_dir / FILE_NAME
    layers: list[tuple[str, Mapping[str, object]]] = []
    if path.exists():
        layers.append((f"file {path}", _read_file(path)))
    elif named_file:
        raise Invalid(f"TOKENWORKS_CONFIG names {path}, which is not there")
    layers += [
        ("variable", variables),
        ("option", {name: value for name, value in options.items() if value is not None}),
    ]
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in Settings.model_fields:
                shown = f"{PREFIX}{name.upper()}" if origin == "variable" else name
                raise Invalid(f"{shown} ({origin}) is not a setting; `tokenworks config show` lists them")
            values[name] = value
            origins[name] = origin
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise Invalid(
            f"{name} ({origins.get(name, 'option')}): {first['msg'].removeprefix('Value error, ')}"
        ) from None
    if settings.clock_shift_s and settings.environment != "dev":
        raise Invalid('clock_shift_s makes a host\'s time wrong: it is for tests, where environment = "dev"')
    if settings.database_owner_url and not settings.database_url:
        raise Invalid("database_owner_url goes with database_url: the same database, as the role that serves")
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise Invalid("tls_certificate and tls_key go together")
    return Effective(settings.model_copy(update={"data_dir": settings.data_dir.absolute()}), origins)


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path}: {error}") from None
