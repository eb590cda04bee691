"""The images, sounds, videos and files of a request, and what they can cost by a profile's rules.

Items are found by what they are made of and not by where they stand: in messages, in a tool's result, in a file's place. What a
tool was called with is its own business, and is not looked into.
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from tokenworks.factory import MediaRules, image_size

ITEMS_MAX: Final = 10_000
DEPTH_MAX: Final = 12
# Of a data URL, before its data.
HEAD_CHARS_MAX: Final = 256
Kind = Literal["image", "audio", "video", "file"]
# Of a WAV file, in base64: its head ends with where the sound begins.
_WAV_HEAD_CHARS: Final = 48
# Where a part's data or address stands, by what it is.
_FIELDS: Final[tuple[tuple[str, Kind], ...]] = (
    ("image_url", "image"),
    ("image", "image"),
    ("input_audio", "audio"),
    ("audio_url", "audio"),
    ("audio", "audio"),
    ("video_url", "video"),
    ("video", "video"),
    ("file", "file"),
    ("file_data", "file"),
    ("file_url", "file"),
    ("file_id", "file"),
)
_WITH_SOURCE: Final[dict[str, Kind]] = {
    "image": "image",
    "document": "file",
    "video": "video",
    "audio": "audio",
}
_KINDS: Final[dict[str, Kind]] = {
    "input_image": "image",
    "computer_screenshot": "image",
    "container_upload": "file",
}
# A union would be made anew with each look.
_NESTED: Final = (dict, list)
_GIVEN: Final = (str, dict)
_OPAQUE: Final = frozenset({"arguments", "tool_calls", "metadata", "parameters", "input_schema"})


class Item(NamedTuple):
    """One item: a text in which its base64 begins at `begin`, with its MIME type; None where an upstream has to fetch it. Of a
    video its frames' number.
    """

    kind: Kind
    data: str | None
    mime: str
    begin: int = 0
    low: bool = False
    frames: int | None = None


class Cost(NamedTuple):
    """The most in tokens, and of how many items the declared maximum was taken."""

    tokens: int
    unbounded_items: int


def find_items(content: Any) -> Iterator[Item]:
    """Of decoded messages or input, at most `ITEMS_MAX`."""
    found = 0
    waiting: list[tuple[Any, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, list):
            if depth < DEPTH_MAX:
                waiting.extend((item, depth + 1) for item in value if isinstance(item, _NESTED))
            continue
        item = _item(value)
        if item is not None:
            found += 1
            if found > ITEMS_MAX:
                return
            yield item
        elif depth < DEPTH_MAX:
            opaque = _OPAQUE | {"input"} if value.get("type") == "tool_use" else _OPAQUE
            waiting.extend(
                (inner, depth + 1)
                for name, inner in value.items()
                if name not in opaque and isinstance(inner, _NESTED)
            )


def _item(part: Mapping[str, Any]) -> Item | None:
    kind = part.get("type")
    source = part.get("source")
    if isinstance(source, dict) and isinstance(kind, str) and kind in _WITH_SOURCE:
        return _of_source(_WITH_SOURCE[kind], source)
    for name, what in _FIELDS:
        value = part.get(name)
        if value is not None and (isinstance(value, _GIVEN) or (what == "video" and isinstance(value, list))):
            return _of_value(_KINDS.get(str(kind), what), value, part)
    return None


def _of_source(kind: Kind, source: Mapping[str, Any]) -> Item | None:
    """Anthropic's source of an image or a document; one of text, or of further blocks, is no item itself."""
    if source.get("type") in ("text", "content"):
        return None
    data = source.get("data")
    mime = str(source.get("media_type") or "")
    return Item(kind, data if isinstance(data, str) else None, mime)


def _of_value(kind: Kind, value: Any, part: Mapping[str, Any]) -> Item:
    if isinstance(value, list):
        return Item(kind, None, "", frames=max(1, len(value)))
    detail = part.get("detail")
    mime = ""
    if isinstance(value, dict):
        detail = value.get("detail", detail)
        sound = value.get("format")
        mime = f"{kind}/{sound}" if isinstance(sound, str) else ""
        value = next((value[name] for name in ("url", "data", "file_data") if name in value), None)
    begin, said = _inline(value) if isinstance(value, str) else (0, "")
    inline = bool(begin) or (bool(mime) and isinstance(value, str) and "://" not in value[:16])
    # A sound is given as plain base64 with its format beside.
    return Item(kind, value if inline else None, said or mime, begin, low=detail == "low")


def _inline(url: str) -> tuple[int, str]:
    """Where the base64 of a data URL begins (RFC 2397), and its MIME type; 0 of any other URL."""
    if url[:5].lower() != "data:":
        return 0, ""
    comma = url.find(",", 0, HEAD_CHARS_MAX)
    mime, _, parameters = url[5 : max(5, comma)].partition(";")
    return (comma + 1, mime) if parameters.lower().endswith("base64") else (0, mime)


def items_cost(content: Any, rules: MediaRules) -> Cost:
    """What all items of a request's messages or input cost at most."""
    tokens = unbounded = 0
    for item in find_items(content):
        cost, known = _cost(item, rules)
        tokens += cost
        unbounded += not known
    return Cost(tokens, unbounded)


def _cost(item: Item, rules: MediaRules) -> tuple[int, bool]:
    if item.kind == "image":
        size = None if item.data is None else image_size(item.data, item.mime, item.begin)
        return rules.image_tokens(size, low=item.low), size is not None
    if item.kind == "video":
        return rules.video_tokens(item.frames), False
    length_bytes = None if item.data is None else (len(item.data) - item.begin) * 3 // 4
    if item.kind == "file":
        return rules.file_tokens(length_bytes), False
    bytes_per_s = (
        None if item.data is None else _wav_bytes_per_s(item.data[item.begin : item.begin + _WAV_HEAD_CHARS])
    )
    known = bytes_per_s is not None or item.mime.endswith(("mp3", "mpeg"))
    return rules.audio_tokens(length_bytes if known else None, bytes_per_s), known


def _wav_bytes_per_s(data: str) -> int | None:
    """As a WAV file's head says it (RIFF, `fmt ` first, PCM); None where it is not one, or its figures don't fit together."""
    try:
        head = base64.b64decode(data, validate=True)
        if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
            return None
        code, channels, rate, bytes_per_s, block = struct.unpack("<HHIIH", head[20:34])
    except (binascii.Error, struct.error):
        return None
    plain = code == 1 and channels and rate and bytes_per_s == rate * block and rate <= 384_000
    return bytes_per_s if plain else None
