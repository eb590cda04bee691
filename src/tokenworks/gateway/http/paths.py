"""The route of a path. Clients build paths from a base URL with or without `/v1`, a slash or a vendor's prefix.

Known prefixes before an endpoint are removed. If anything else is left the path is unknown, and the refusal names the right one.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

# Longer endpoints first: `/chat/completions` also ends in `/completions`.
ENDPOINTS: Final = (
    "/messages/count_tokens",
    "/responses/input_tokens",
    "/responses/compact",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/messages",
    "/models",
)
# The ends of vendors' base URLs, which their clients keep when they are configured for this gateway.
_PREFIXES: Final = (
    "/v1beta/openai",
    "/compatible-mode",
    "/inference",
    "/openai",
    "/anthropic",
    "/api/v1",
    "/v1",
)
# Routes for the key itself, with the paths of OpenRouter's clients.
_OF_KEYS: Final = {
    "/v1/key": "/v1/key",
    "/api/v1/key": "/v1/key",
    "/api/v1/auth/key": "/v1/key",
    "/v1/usage": "/v1/usage",
    "/api/v1/usage": "/v1/usage",
}
KEY_PATHS: Final = frozenset(_OF_KEYS.values())
_SLASHES: Final = re.compile("/{2,}")
_MODEL: Final = re.compile(r"(.*?)/models/(.+)", re.DOTALL)
_RESPONSE: Final = re.compile(r"(.*?)(/responses/[A-Za-z0-9_.:-]{1,200}(?:/input_items|/cancel)?)")
_COMPLETION: Final = re.compile(r"(.*?)(/chat/completions/[A-Za-z0-9_.:-]{1,200}(?:/messages)?)")
STORED_HEAD: Final = "/v1/responses/"
STORED_CHAT_HEAD: Final = "/v1/chat/completions/"
_AZURE: Final = re.compile(
    r"(?:/v1)*(?:/openai)?(?:/v1)?/deployments/([^/]+)(/chat/completions|/completions|/embeddings|/responses|/messages)"
)
_SEPARATORS: Final = re.compile("%2f", re.IGNORECASE)
MODEL_ID_CHARS_MAX: Final = 600


class RequestTarget(NamedTuple):
    """`path`: of the route. `model`: named by the path (as Azure's do). `similar_route`: the route that an unknown path resembles."""

    path: str
    model: str | None = None
    similar_route: str | None = None


def target_of(path: str) -> RequestTarget | None:
    """The route of a path; None if it is no route of the data plane and resembles none."""
    path = _SLASHES.sub("/", path)
    if len(path) > 1:
        path = path.rstrip("/") or "/"
    if path in _OF_KEYS:
        return RequestTarget(_OF_KEYS[path])
    azure = _AZURE.fullmatch(path)
    if azure is not None:
        return RequestTarget("/v1" + azure[2], unquoted(azure[1]))
    found = _endpoint(path)
    if found is not None:
        base = path[: -len(found)]
        if _is_base(base):
            return RequestTarget("/v1" + found)
    completion = _COMPLETION.fullmatch(path)
    if completion is not None and _is_base(completion[1]):
        return RequestTarget("/v1" + completion[2])
    if found is not None:
        if not base.startswith(("/api/", "/tmf-api/")):
            return RequestTarget(path, None, "/v1" + found)
        return None
    response = _RESPONSE.fullmatch(path)
    if response is not None and _is_base(response[1]):
        return RequestTarget("/v1" + response[2])
    model = _MODEL.fullmatch(path)
    if model is not None and _is_base(model[1]):
        name = unquoted(model[2])
        return None if name is None else RequestTarget("/v1/models/" + name)
    return None


def unquoted(text: str) -> str | None:
    """A model's id from a percent-encoded path segment; None if it is no printable text."""
    if len(text) > MODEL_ID_CHARS_MAX:
        return None
    try:
        name = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    return name if name.isprintable() and "//" not in name else None


def without_separators(path: bytes) -> bytes:
    """The path without the encoded slashes of a model's id, which may have them; any other path is returned unchanged."""
    text = path.decode("ascii")
    at = text.find("/models/")
    if at < 0:
        at = text.find("/deployments/")
    return path if at < 0 else (text[:at] + _SEPARATORS.sub("_", text[at:])).encode()


def _endpoint(path: str) -> str | None:
    for endpoint in ENDPOINTS:
        if path.endswith(endpoint):
            return endpoint
    return None


def _is_base(base: str) -> bool:
    """True if a base URL's path consists of versions, vendors' prefixes and whole endpoints."""
    while base:
        for end in (*_PREFIXES, *ENDPOINTS):
            if base.endswith(end):
                base = base[: -len(end)]
                break
        else:
            return False
    return True


def speaks_messages(path: str) -> bool:
    """True if a path is of Anthropic's protocol, in which its refusals are written then."""
    if "/chat/completions/" in path:
        return False  # the messages of a stored chat completion
    return path.endswith(("/messages", "/messages/count_tokens")) or path.startswith("/anthropic")
