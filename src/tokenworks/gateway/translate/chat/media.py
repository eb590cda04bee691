"""Media in messages of chat: images, sounds and files, as data: URLs and as links."""

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from tokenworks.gateway.translate.chat.values import object_of, text_of, text_or_none
from tokenworks.gateway.translate.form import (
    Audio,
    CacheLifetime,
    File,
    Image,
    ImageDetail,
    JsonObject,
    Untranslatable,
)

_DETAILS: Final[dict[str, ImageDetail]] = {
    "auto": "auto",
    "low": "low",
    "high": "high",
    "original": "original",
}
# RFC 2397; what stands before the first comma.
_DATA_HEAD: Final = re.compile(r"data:([^;,]{0,200})(?:;[^,]{0,200})?", re.IGNORECASE)
_HEAD_CHARS_MAX: Final = 500
_TEXT_TYPES: Final = frozenset({
    "application/json", "application/xml", "application/yaml", "application/x-yaml", "application/javascript",
})  # fmt: skip
# The first characters of an image in base64.
_IMAGE_STARTS: Final = (
    ("iVBOR", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lG", "image/gif"),
    ("UklGR", "image/webp"),
)
_FILE_NAME: Final = "document"


def read_image(value: object, cache: CacheLifetime | None) -> Image | None:
    """`image_url`: `{url, detail}`, or the URL itself."""
    fields = object_of(value)
    url = text_of(fields.get("url")) or text_of(value)
    if not url:
        return None
    detail = _DETAILS.get(text_of(fields.get("detail")))
    data = _read_data(url)
    if data is None:
        return Image(url=url, detail=detail, cache=cache)
    media_type, encoded = data
    return Image(data=encoded, media_type=media_type or _image_type(encoded), detail=detail, cache=cache)


def _image_type(encoded: str) -> str:
    for start, media_type in _IMAGE_STARTS:
        if encoded.startswith(start):
            return media_type
    return "image/png"


def read_audio(value: object) -> Audio | None:
    fields = object_of(value)
    encoded = text_of(fields.get("data"))
    if not encoded:
        return None
    data = _read_data(encoded)
    if data is not None:
        encoded = data[1]
    return Audio(encoded, text_of(fields.get("format")) or "wav")


def read_file(value: object, cache: CacheLifetime | None) -> File | None:
    fields = object_of(value)
    name = text_or_none(fields.get("filename"))
    content = text_of(fields.get("file_data"))
    if not content:
        file_id = text_of(fields.get("file_id"))
        return File(file_id=file_id, name=name, cache=cache) if file_id else None
    if content[:8].lower().startswith(("https://", "http://")):
        return File(url=content, name=name, cache=cache)
    media_type, encoded = _read_data(content) or (None, content)
    return File(data=encoded, media_type=media_type or "application/pdf", name=name, cache=cache)


def _read_data(url: str) -> tuple[str | None, str] | None:
    """(the media type or None, the data in base64) of a data: URL; None if it is none."""
    if url[:5].lower() != "data:":
        return None
    comma = url.find(",", 0, _HEAD_CHARS_MAX)
    head = _DATA_HEAD.fullmatch(url, 0, comma) if comma > 0 else None
    if head is None:
        return None
    data = url[comma + 1 :]
    if not url[:comma].lower().endswith(";base64"):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return head[1].lower() or None, data


def written_image(image: Image) -> JsonObject:
    """Raises `Untranslatable` for an image by its id: chat has none."""
    if image.url is not None:
        url = image.url
    elif image.data is not None:
        url = f"data:{image.media_type or _image_type(image.data)};base64,{image.data}"
    else:
        raise Untranslatable(
            "file_id", "the model's deployment takes images as URLs and inline, not by file_id"
        )
    fields: JsonObject = {"url": url}
    if image.detail is not None:
        fields["detail"] = "high" if image.detail == "original" else image.detail
    return {"type": "image_url", "image_url": fields}


def written_audio(audio: Audio) -> JsonObject:
    return {"type": "input_audio", "input_audio": {"data": audio.data, "format": audio.format}}


def file_text(file: File) -> str | None:
    """The text of a document that is one; None if it has none. Chat has no documents of text, so the text stands in the message."""
    text = file.text
    if text is None and file.data is not None and _is_text(file.media_type):
        try:
            text = base64.b64decode(file.data, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
    if text is None:
        return None
    if file.name is None:
        return f"<document>\n{text}\n</document>"
    return f'<document name="{file.name}">\n{text}\n</document>'


def _is_text(media_type: str | None) -> bool:
    return media_type is not None and (media_type.startswith("text/") or media_type in _TEXT_TYPES)


def written_file(file: File) -> JsonObject:
    """Raises `Untranslatable` for a document by its URL: chat has none."""
    fields: JsonObject = {}
    if file.file_id is not None:
        fields["file_id"] = file.file_id
        if file.name is not None:
            fields["filename"] = file.name
    elif file.data is not None:
        media_type = file.media_type or "application/pdf"
        fields["filename"] = file.name or f"{_FILE_NAME}.{media_type.rsplit('/', 1)[-1]}"
        fields["file_data"] = f"data:{media_type};base64,{file.data}"
    else:
        raise Untranslatable("file_url", "the model's deployment takes documents inline, not by their URLs")
    return {"type": "file", "file": fields}
