"""Finds the images, sounds, videos and files of a request, and bounds their cost by a profile's rules.

An item is recognised by its own fields, not by its position: it may stand in a message, in a tool's result, or in place of a file.
The arguments of tool calls are opaque and are not searched.
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from tokenworks.factory import MediaRules, image_size

ITEMS_MAX: Final = 10_000
DEPTH_MAX: Final = 12
# The length of a data URL's head, which stands before its data.
HEAD_CHARS_MAX: Final = 256
Kind = Literal["image", "audio", "video", "file"]
# The length of a WAV file's head in base64.
_WAV_HEAD_CHARS: Final = 48
# Fields of a part that have its data or address, and the kind of item.
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
# Tuples for `isinstance`, since evaluating `dict | list` would make a new union each time.
_NESTED: Final = (dict, list)
_VALUE: Final = (str, dict)
_OPAQUE: Final = frozenset({"arguments", "tool_calls", "metadata", "parameters", "input_schema"})


class Item(NamedTuple):
    """One item. `data`: the text that contains its base64, which begins at `begin`, or None if an upstream has to fetch the item.
    `low`: an image in low detail. `frames`: the number of frames of a video that is given as images.
    """

    kind: Kind
    data: str | None
    mime: str
    begin: int = 0
    low: bool = False
    frames: int | None = None


class Cost(NamedTuple):
    """The maximum in tokens. `unbounded_items`: the number of items that were counted at their declared maximum."""

    tokens: int
    unbounded_items: int


def find_items(content: object) -> Iterator[Item]:
    """The items of decoded messages or input, at most `ITEMS_MAX`."""
    found = 0
    unread: list[tuple[object, int]] = [(content, 0)]
    while unread:
        value, depth = unread.pop()
        if isinstance(value, list):
            if depth < DEPTH_MAX:
                unread.extend((element, depth + 1) for element in value if isinstance(element, _NESTED))
            continue
        if not isinstance(value, dict):
            continue
        item = _item(value)
        if item is not None:
            found += 1
            if found > ITEMS_MAX:
                return
            yield item
        elif depth < DEPTH_MAX:
            opaque = _OPAQUE | {"input"} if value.get("type") == "tool_use" else _OPAQUE
            unread.extend(
                (inner, depth + 1)
                for name, inner in value.items()
                if name not in opaque and isinstance(inner, _NESTED)
            )


def _item(part: Mapping[str, object]) -> Item | None:
    kind = part.get("type")
    source = part.get("source")
    if isinstance(source, dict) and isinstance(kind, str) and kind in _WITH_SOURCE:
        return _of_source(_WITH_SOURCE[kind], source)
    for name, field_kind in _FIELDS:
        value = part.get(name)
        if value is not None and (
            isinstance(value, _VALUE) or (field_kind == "video" and isinstance(value, list))
        ):
            return _of_value(_KINDS.get(str(kind), field_kind), value, part)
    return None


def _of_source(kind: Kind, source: Mapping[str, object]) -> Item | None:
    """The item of Anthropic's `source` of an image or a document; None for a source of text or of further blocks."""
    if source.get("type") in ("text", "content"):
        return None
    data = source.get("data")
    mime = str(source.get("media_type") or "")
    return Item(kind, data if isinstance(data, str) else None, mime)


def _of_value(kind: Kind, value: object, part: Mapping[str, object]) -> Item:
    """The item whose data or address is `value`, a field of `part`."""
    if isinstance(value, list):
        return Item(kind, None, "", frames=max(1, len(value)))
    detail = part.get("detail")
    mime = ""
    if isinstance(value, dict):
        detail = value.get("detail", detail)
        audio_format = value.get("format")
        mime = f"{kind}/{audio_format}" if isinstance(audio_format, str) else ""
        value = next((value[name] for name in ("url", "data", "file_data") if name in value), None)
    if not isinstance(value, str):
        return Item(kind, None, mime, low=detail == "low")
    begin, url_mime = _inline(value)
    # A sound is plain base64 with its format in a field beside it.
    inline = bool(begin) or (bool(mime) and "://" not in value[:16])
    return Item(kind, value if inline else None, url_mime or mime, begin, low=detail == "low")


def _inline(url: str) -> tuple[int, str]:
    """(index at which the base64 of a data URL begins, MIME type) (RFC 2397); the index is 0 for any other URL."""
    if url[:5].lower() != "data:":
        return 0, ""
    comma = url.find(",", 0, HEAD_CHARS_MAX)
    mime, _, parameters = url[5 : max(5, comma)].partition(";")
    return (comma + 1, mime) if parameters.lower().endswith("base64") else (0, mime)


def items_cost(content: object, rules: MediaRules) -> Cost:
    """The maximal cost of all items in a request's decoded messages or input."""
    tokens = unbounded = 0
    for item in find_items(content):
        cost, known = _cost(item, rules)
        tokens += cost
        unbounded += not known
    return Cost(tokens, unbounded)


def _cost(item: Item, rules: MediaRules) -> tuple[int, bool]:
    """(tokens at most, whether the item's own data determines them)."""
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
    """Bytes per second of a WAV file (RIFF, `fmt ` first, PCM), from its head in base64; None if the head is of another form or its
    numbers are inconsistent.
    """
    try:
        head = base64.b64decode(data, validate=True)
        if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
            return None
        code, channels, rate, bytes_per_s, block = struct.unpack("<HHIIH", head[20:34])
    except (binascii.Error, struct.error):
        return None
    plain = code == 1 and channels and rate and bytes_per_s == rate * block and rate <= 384_000
    return bytes_per_s if plain else None
