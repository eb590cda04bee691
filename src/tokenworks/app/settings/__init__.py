"""Settings: a TOML file and `TOKENWORKS_*` variables make one frozen, validated object. Unknown names are errors."""

from tokenworks.app.settings.load import FILE_NAME, PREFIX, Effective, load_settings
from tokenworks.app.settings.model import Settings
from tokenworks.app.settings.shown import SECRET, shown, without_secrets
from tokenworks.app.settings.topic import parse_address

__all__ = [
    "FILE_NAME",
    "PREFIX",
    "SECRET",
    "Effective",
    "Settings",
    "load_settings",
    "parse_address",
    "shown",
    "without_secrets",
]
