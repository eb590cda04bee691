"""Writes single parts of a turn as blocks: texts, images, documents."""

import base64
import binascii
from typing import Final

from tokenworks.gateway.translate.form import CacheLifetime, File, Image, JsonObject, Text, Untranslatable
from tokenworks.gateway.translate.messages.breakpoints import Breakpoints
from tokenworks.gateway.translate.messages.values import Dropped

_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PDF: Final = "application/pdf"
# The beginning of an image in base64, where a client does not say what it is.
_BEGINNINGS: Final = (
    ("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"), ("JVBERi0", _PDF),
)  # fmt: skip
_TEXT_TYPES: Final = frozenset({
    "application/json", "application/xml", "application/yaml", "application/x-yaml", "application/javascript", "application/x-sh",
    "application/sql", "application/toml",
})  # fmt: skip
_SECURE: Final = "https://"


def write_text(text: str) -> JsonObject | None:
    """None for a text without a visible character, which the provider refuses."""
    return {"type": "text", "text": text} if text.strip() else None


def write_image(image: Image, dropped: Dropped) -> JsonObject:
    """Raises `Untranslatable`."""
    if image.detail not in {None, "auto"}:
        dropped.add("image.detail")
    if image.data:
        media_type = image.media_type or _guessed(image.data)
        if media_type == "image/jpg":
            media_type = "image/jpeg"
        if media_type not in _IMAGES:
            raise Untranslatable("image", "an image is neither JPEG, PNG, GIF nor WebP")
        return _block("image", {"type": "base64", "media_type": media_type, "data": image.data})
    if image.url and image.url.lower().startswith(_SECURE):
        return _block("image", {"type": "url", "url": image.url})
    if image.file_id:
        return _block("image", {"type": "file", "file_id": image.file_id})
    raise Untranslatable("image", "an image has neither data nor an https URL")


def write_file(file: File, dropped: Dropped) -> JsonObject | None:
    """None for a document without a visible character. Raises `Untranslatable`."""
    media_type = (file.media_type or "").partition(";")[0].strip().lower()
    if file.data and media_type.startswith("image/"):
        return write_image(Image(data=file.data, media_type=media_type), dropped)
    block = _block("document", _source(file, media_type or _guessed(file.data or "")))
    if file.text is not None and not file.text.strip():
        return None
    if file.name:
        block["title"] = file.name
    return block


def _source(file: File, media_type: str) -> JsonObject:
    if file.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": file.text}
    if file.url and file.url.lower().startswith(_SECURE):
        return {"type": "url", "url": file.url}
    if file.file_id:
        return {"type": "file", "file_id": file.file_id}
    if file.data and media_type == _PDF:
        return {"type": "base64", "media_type": _PDF, "data": file.data}
    if file.data and (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(file.data)}
    raise Untranslatable("file", "a document is neither PDF nor text, and has no https URL")


def _decoded(data: str) -> str:
    try:
        text = base64.b64decode(data).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise Untranslatable("file", "the text of a document can't be read") from None
    if not text.strip():
        raise Untranslatable("file", "a document is empty")
    return text


def _guessed(data: str) -> str:
    return next((kind for beginning, kind in _BEGINNINGS if data.startswith(beginning)), "")


def _block(kind: str, source: JsonObject) -> JsonObject:
    return {"type": kind, "source": source}


def write_result(
    call_id: str, content: tuple[Text | Image | File, ...], is_error: bool, dropped: Dropped
) -> JsonObject:
    """The result of a call. The provider takes marks of the cache at the result alone, not inside of its content."""
    blocks: list[JsonObject] = []
    for part in content:
        if isinstance(part, Image):
            blocks.append(write_image(part, dropped))
        else:
            block = write_file(part, dropped) if isinstance(part, File) else write_text(part.text)
            if block is not None:
                blocks.append(block)
    result: JsonObject = {"type": "tool_result", "tool_use_id": call_id}
    if blocks:
        result["content"] = blocks
    if is_error:
        result["is_error"] = True
    return result


def inner_mark(content: tuple[Text | Image | File, ...]) -> CacheLifetime | None:
    """The first mark of the cache inside the content of a result."""
    return next((part.cache for part in content if part.cache is not None), None)


def write_system(texts: tuple[Text, ...], marks: Breakpoints) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for text in texts:
        block = write_text(text.text)
        if block is not None:
            marks.mark(block, text.cache)
            blocks.append(block)
    return blocks
