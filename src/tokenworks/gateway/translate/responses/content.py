"""The parts of content of responses: of messages and of what tools returned."""

from collections.abc import Sequence
from typing import Final

from tokenworks.gateway.translate.form import (
    Audio,
    CacheLifetime,
    File,
    Image,
    ImageDetail,
    JsonObject,
    Part,
    Refused,
    Text,
)
from tokenworks.gateway.translate.responses.values import (
    Dropped,
    json_text,
    list_of,
    object_of,
    split_data_url,
    text_of,
)

_TEXTS: Final = frozenset({"input_text", "output_text", "text"})
_DETAILS: Final[dict[object, ImageDetail]] = {"low": "low", "high": "high", "original": "original"}
_PDF: Final = "application/pdf"
_FILE_NAME: Final = "file.pdf"
# A file of plain text is written as text below a line with its name.
_FILE_HEAD: Final = "File: "


def read_content(content: object, dropped: Dropped) -> list[Part]:
    """The parts of `content`: a text, or a list of parts. A part that can't be read is named."""
    if isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):
        if content is not None:
            dropped.add("input.content")
        return []
    parts: list[Part] = []
    for value in content:
        part = _read_part(object_of(value) or {}, dropped)
        if part is not None:
            parts.append(part)
    return parts


def _read_part(fields: JsonObject, dropped: Dropped) -> Part | None:
    kind = text_of(fields.get("type"))
    part: Part | None = None
    if kind in _TEXTS:
        text = text_of(fields.get("text"))
        if text == "":
            return None
        part = None if text is None else Text(text, _cache_of(fields))
    elif kind == "refusal":
        words = text_of(fields.get("refusal"))
        part = Refused(words) if words else None
    elif kind in {"input_image", "computer_screenshot"}:
        part = _read_image(fields)
    elif kind == "input_file":
        part = _read_file(fields)
    elif kind == "input_audio":
        audio = object_of(fields.get("input_audio")) or {}
        data, sound = text_of(audio.get("data")), text_of(audio.get("format"))
        part = Audio(data, sound) if data and sound else None
    if part is None:
        dropped.add(
            f"input.content.{kind}" if kind and len(kind) <= 40 and kind.isidentifier() else "input.content"
        )
    return part


def _cache_of(fields: JsonObject) -> CacheLifetime | None:
    """The lifetime of the cache whose end the client marks here. The least lifetime of responses, 30 minutes, lies between Anthropic's
    two; the cheaper one is taken.
    """
    return None if object_of(fields.get("prompt_cache_breakpoint")) is None else "5m"


def _read_image(fields: JsonObject) -> Image | None:
    detail = _DETAILS.get(text_of(fields.get("detail")))
    cache = _cache_of(fields)
    url, file_id = text_of(fields.get("image_url")), text_of(fields.get("file_id"))
    if url:
        inline = split_data_url(url)
        if inline is not None:
            return Image(data=inline[1], media_type=inline[0], detail=detail, cache=cache)
        return None if url[:5].lower() == "data:" else Image(url=url, detail=detail, cache=cache)
    return Image(file_id=file_id, detail=detail, cache=cache) if file_id else None


def _read_file(fields: JsonObject) -> File | None:
    name = text_of(fields.get("filename")) or None
    cache = _cache_of(fields)
    data, url, file_id = (text_of(fields.get(key)) for key in ("file_data", "file_url", "file_id"))
    if data:
        inline = split_data_url(data)
        if inline is None:
            # Base64 without the head of a `data:` URL, which some clients send.
            return (
                None
                if data[:5].lower() == "data:"
                else File(data=data, media_type=_PDF, name=name, cache=cache)
            )
        return File(data=inline[1], media_type=inline[0] or _PDF, name=name, cache=cache)
    if url:
        return File(url=url, name=name, cache=cache)
    return File(file_id=file_id, name=name, cache=cache) if file_id else None


def write_content(parts: Sequence[Part], dropped: Dropped) -> list[JsonObject]:
    """The parts of a user's message or of what a tool returned. Empty texts are left out: providers refuse them."""
    out: list[JsonObject] = []
    for part in parts:
        if isinstance(part, Text):
            _note_cache(part.cache, dropped)
            if part.text:
                out.append({"type": "input_text", "text": part.text})
        elif isinstance(part, Image):
            _note_cache(part.cache, dropped)
            out.append(_write_image(part))
        elif isinstance(part, File):
            _note_cache(part.cache, dropped)
            out.append(_write_file(part))
        elif isinstance(part, Audio):
            sound: JsonObject = {"data": part.data, "format": part.format}
            out.append({"type": "input_audio", "input_audio": sound})
        elif isinstance(part, Refused):
            out.append({"type": "input_text", "text": part.text})
    return out


def write_said(parts: Sequence[Text | Refused], dropped: Dropped) -> str | list[JsonObject]:
    """What the assistant said. One text is written as a string, which every engine accepts: a list of `output_text` is not accepted by
    those that demand the id of the message with it.
    """
    out: list[JsonObject] = []
    for part in parts:
        if isinstance(part, Refused):
            out.append({"type": "refusal", "refusal": part.text})
            continue
        _note_cache(part.cache, dropped)
        if part.text:
            out.append({"type": "output_text", "text": part.text, "annotations": []})
    if len(out) == 1 and isinstance(text := out[0].get("text"), str):
        return text
    return out


def as_text(content: list[JsonObject]) -> str | list[JsonObject]:
    """One text as a string, anything else as the list."""
    if len(content) == 1 and isinstance(text := content[0].get("text"), str):
        return text
    return content


def _note_cache(cache: str | None, dropped: Dropped) -> None:
    if cache is not None:
        dropped.add("cache")


def _write_image(image: Image) -> JsonObject:
    # The types of openai 3.54.0 demand `detail`; engines that check requests by them refuse an image without it.
    fields: JsonObject = {"type": "input_image", "detail": image.detail or "auto"}
    if image.file_id is not None:
        fields["file_id"] = image.file_id
    elif image.data is not None:
        fields["image_url"] = f"data:{image.media_type or 'image/png'};base64,{image.data}"
    else:
        fields["image_url"] = image.url
    return fields


def _write_file(file: File) -> JsonObject:
    if file.text is not None:
        head = f"{_FILE_HEAD}{file.name}\n\n" if file.name else ""
        return {"type": "input_text", "text": head + file.text}
    fields: JsonObject = {"type": "input_file"}
    if file.file_id is not None:
        fields["file_id"] = file.file_id
    elif file.url is not None:
        fields["file_url"] = file.url
    else:
        fields["file_data"] = f"data:{file.media_type or _PDF};base64,{file.data}"
        # The provider demands a name beside data.
        fields["filename"] = file.name or _FILE_NAME
    return fields


def texts_of(content: object, dropped: Dropped) -> tuple[Text, ...]:
    """The texts of a system or developer message. Anything else in it is named."""
    texts: list[Text] = []
    for part in read_content(content, dropped):
        if isinstance(part, Text):
            texts.append(part)
        else:
            dropped.add("input.content")
    return tuple(texts)


def summaries_of(item: JsonObject, name: str) -> tuple[str, ...]:
    """The texts in a reasoning item's `summary` or `content`."""
    texts = [text_of((object_of(value) or {}).get("text")) for value in list_of(item.get(name))]
    return tuple(text for text in texts if text)


def read_result(kind: str, item: JsonObject, dropped: Dropped) -> tuple[Text | Image | File, ...]:
    """What a tool returned, in an item of this kind."""
    output = item.get("tools" if kind == "tool_search_output" else "output")
    if kind == "tool_search_output":
        names = [text_of((object_of(tool) or {}).get("name")) for tool in list_of(output)]
        return (Text("Found: " + ", ".join(name for name in names if name)),)
    if kind == "shell_call_output":
        return (Text(json_text(output)),)
    content: list[Text | Image | File] = []
    for part in read_content(output, dropped):
        if isinstance(part, Text | Image | File):
            content.append(part)
        else:
            dropped.add("input.output")
    return tuple(content)
