"""The static files. Their addresses carry a hash of the content, so that a browser keeps a file for a year and never shows an old one."""

import functools
import hashlib
import re
from importlib.resources import files
from typing import Final, NamedTuple

from fastapi import APIRouter, Response

from tokenworks.kernel import NotFound

router = APIRouter(include_in_schema=False)
# Path below `static` of each file that is served, and its media type. No other file is.
_FILES: Final[dict[str, tuple[str, str]]] = {
    "tokenworks.css": ("tokenworks.css", "text/css"),
    "uplot.css": ("vendor/uplot.css", "text/css"),
    "console.js": ("console.js", "text/javascript"),
    "htmx.js": ("vendor/htmx.js", "text/javascript"),
    "htmx-sse.js": ("vendor/htmx-sse.js", "text/javascript"),
    "uplot.js": ("vendor/uplot.js", "text/javascript"),
    "passkeys.js": ("passkeys.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
KEPT_S: Final = 365 * 86_400
# For the name without a hash, which bookmarks and older pages use.
PLAIN_KEPT_S: Final = 300
_HASHED: Final = re.compile(r"([a-z-]+)\.([0-9a-f]{16})(\.[a-z]+)")


class Asset(NamedTuple):
    content: bytes
    media_type: str
    # The first 16 digits of its SHA-256.
    digest: str


@functools.cache
def asset(name: str) -> Asset:
    """A static file. Raises `KeyError` for a name that is not served."""
    path, media_type = _FILES[name]
    content = files("tokenworks.pages").joinpath(f"static/{path}").read_bytes()
    return Asset(content, media_type, hashlib.sha256(content).hexdigest()[:16])


def address(name: str) -> str:
    """The address of a static file, with its hash: `/static/htmx.0123456789abcdef.js`."""
    stem, _, suffix = name.rpartition(".")
    return f"/static/{stem}.{asset(name).digest}.{suffix}"


@router.get("/static/{name}")
def static(name: str) -> Response:
    match = _HASHED.fullmatch(name)
    plain = name if match is None else f"{match[1]}{match[3]}"
    if plain not in _FILES:
        raise NotFound("there is no such file")
    found = asset(plain)
    # A page of another release, on another host behind the same address, may name a hash that this host does not have: it gets the
    # file of now, for minutes.
    kept = match is not None and match[2] == found.digest
    age = f"public, max-age={KEPT_S}, immutable" if kept else f"max-age={PLAIN_KEPT_S}"
    headers = {"Cache-Control": age, "X-Content-Type-Options": "nosniff"}
    return Response(found.content, media_type=found.media_type, headers=headers)
