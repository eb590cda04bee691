"""Settings as people see them: secrets masked."""

import re
from pathlib import Path
from typing import Final

SECRET: Final = frozenset({"database_url", "database_owner_url"})
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s,]+)")
# A part of a path that is this long, and has a digit, looks like a key.
_KEY_CHARS_MIN: Final = 12
_HIDDEN: Final = "****"


def without_secrets(text: str) -> str:
    """The text with the secrets inside its URLs masked: user and password, the values of the query, parts of the path that look like a key."""

    def masked(match: re.Match[str]) -> str:
        rest, hash_, _ = match["rest"].partition("#")
        rest, mark, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        user, at, host = authority.rpartition("@")
        user = _HIDDEN if user else ""
        parts = [
            _HIDDEN if len(part) >= _KEY_CHARS_MIN and any(char.isdigit() for char in part) else part
            for part in path.split("/")
        ]
        values = [
            f"{pair.partition('=')[0]}={_HIDDEN}" if "=" in pair else _HIDDEN for pair in query.split("&")
        ]
        return (
            f"{match['scheme']}://{user}{at}{host}{slash}{'/'.join(parts)}"
            f"{mark}{'&'.join(values) if mark else ''}{hash_}{_HIDDEN if hash_ else ''}"
        )

    return _URL.sub(masked, text)


def shown(name: str, value: object) -> object:
    """The value as people may see it: secrets are masked, inside URLs, too."""
    if name in SECRET and value:
        return "********"
    if isinstance(value, str) and "://" in value:
        return without_secrets(value)
    return str(value) if isinstance(value, Path) else value
