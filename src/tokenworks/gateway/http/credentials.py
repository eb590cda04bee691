"""The API keys of a request. SDKs and tools send a key in different headers, sometimes in several at once."""

from typing import Final
from urllib.parse import unquote_to_bytes

from tokenworks.trust import is_key

# Beside `Authorization`: Anthropic's, Azure's, Google's.
_HEADERS: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")
_QUOTES: Final = "\"'"


def keys_of(headers: dict[bytes, bytes], query: bytes) -> tuple[str, ...]:
    """All candidates for a key, those in the form of our keys first. The query's `key` counts only if no header has one."""
    found: list[str] = []
    authorization = headers.get(b"authorization")
    if authorization is not None:
        words = authorization.split()
        # "Bearer Bearer twk_…" is a key that was pasted with its scheme; a single word is a key without a scheme.
        if words and (len(words) > 1 or words[0].lower() != b"bearer"):
            scheme = words[0].lower() if len(words) > 1 else b"bearer"
            if scheme == b"bearer":
                found.append(_text(words[-1]))
    for name in _HEADERS:
        value = headers.get(name)
        if value is not None:
            words = value.split()
            if words:
                found.append(_text(words[-1]))
    if not found and b"key=" in query:
        for pair in query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name == b"key" and value:
                found.append(_text(unquote_to_bytes(value)))
    if len(found) < 2:
        return tuple(found)
    distinct = list(dict.fromkeys(found))
    return tuple(sorted(distinct, key=lambda text: not is_key(text)))


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").strip(_QUOTES)
