"""Reads the content of a message: its text or its blocks, as the parts of a turn."""

from typing import Final

import msgspec

from tokenworks.gateway.translate.form import (
    CacheLifetime,
    File,
    Image,
    JsonObject,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Untranslatable,
)
from tokenworks.gateway.translate.messages.marks import read_data, read_signature
from tokenworks.gateway.translate.messages.values import (
    Dropped,
    fields_of,
    items_of,
    lifetime_of,
    text_of,
)

_encode: Final = msgspec.json.encode
_PREFIX: Final = "messages.content."
_BLOCK_FIELDS: Final[dict[str, frozenset[str]]] = {
    "text": frozenset({"type", "text", "cache_control"}),
    "image": frozenset({"type", "source", "cache_control"}),
    "document": frozenset({"type", "source", "title", "cache_control"}),
    "search_result": frozenset({"type", "content", "source", "title", "cache_control"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "compaction": frozenset({"type", "content"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
}


def read_content(content: object, role: str, dropped: Dropped) -> tuple[Part, ...]:
    """The parts of a message's content. Blocks of tools that ran at a vendor are left out, and named. Raises `Untranslatable`."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    if not isinstance(content, list):
        raise _unreadable("the content of a message is neither a text nor a list")
    parts: list[Part] = []
    for item in content:
        if not isinstance(item, dict):
            raise _unreadable("a block of content is not an object")
        parts += _read_block(item, role, dropped)
    return tuple(parts)


def _read_block(block: JsonObject, role: str, dropped: Dropped) -> list[Part]:
    kind = text_of(block.get("type")) or ""
    known = _BLOCK_FIELDS.get(kind)
    if known is None:
        dropped.add(_PREFIX + (kind or "type"))
        return []
    dropped.others(block, known, _PREFIX)
    if kind in {"tool_use", "tool_result"}:
        if (kind == "tool_use") != (role == "assistant"):
            raise _unreadable(f"a block of type {kind} does not belong in a message of this role")
        return [_read_call(block) if kind == "tool_use" else _read_result(block, dropped)]
    if kind == "thinking":
        thought = Reasoning(
            text_of(block.get("thinking")) or "", signature=read_signature(text_of(block.get("signature")))
        )
        return [thought] if thought.text or thought.signature else []
    if kind == "redacted_thinking":
        encrypted = read_data(text_of(block.get("data")))
        if encrypted is None:
            dropped.add(_PREFIX + kind)
            return []
        return [Reasoning(encrypted=encrypted)]
    return list(_read_plain(block, kind, dropped))


def _read_plain(block: JsonObject, kind: str, dropped: Dropped) -> list[Text | Image | File]:
    """A block of a kind that a tool's result may have, too."""
    cache = lifetime_of(block.get("cache_control"))
    if kind == "text":
        text = text_of(block.get("text"))
        if text is None:
            raise _unreadable("a block of text has no text")
        return [Text(text, cache)] if text else []
    if kind == "image":
        return [read_image(fields_of(block.get("source")), cache)]
    if kind == "document":
        return _read_document(block, cache, dropped)
    if kind == "search_result":
        return _read_search_result(block, cache)
    # A summary of the conversation before it (compaction): without it the model would not know that part.
    summary = text_of(block.get("content"))
    return [Text(summary)] if summary else []


def read_image(source: JsonObject, cache: CacheLifetime | None) -> Image:
    """The image of a `source`. Raises `Untranslatable`."""
    kind = source.get("type")
    url, data, file_id = (text_of(source.get(name)) for name in ("url", "data", "file_id"))
    if kind == "url" and url:
        return Image(url=url, cache=cache)
    if kind == "base64" and data:
        return Image(data=data, media_type=text_of(source.get("media_type")), cache=cache)
    if kind == "file" and file_id:
        return Image(file_id=file_id, cache=cache)
    raise _unreadable("an image has no source that can be read")


def _read_document(
    block: JsonObject, cache: CacheLifetime | None, dropped: Dropped
) -> list[Text | Image | File]:
    source, name = fields_of(block.get("source")), text_of(block.get("title"))
    kind = source.get("type")
    url, data, file_id = (text_of(source.get(key)) for key in ("url", "data", "file_id"))
    media_type = text_of(source.get("media_type"))
    if kind == "base64" and data:
        return [File(data=data, media_type=media_type, name=name, cache=cache)]
    if kind == "text" and data is not None:
        return [File(text=data, media_type=media_type, name=name, cache=cache)]
    if kind == "url" and url:
        return [File(url=url, name=name, cache=cache)]
    if kind == "file" and file_id:
        return [File(file_id=file_id, name=name, cache=cache)]
    if kind == "content":
        return _read_document_content(source.get("content"), name, cache, dropped)
    raise _unreadable("a document has no source that can be read")


def _read_document_content(
    content: object, name: str | None, cache: CacheLifetime | None, dropped: Dropped
) -> list[Text | Image | File]:
    """A document of blocks: its texts are one text, its images follow it."""
    if isinstance(content, str):
        return [File(text=content, media_type="text/plain", name=name, cache=cache)]
    texts: list[str] = []
    images: list[Text | Image | File] = []
    for item in items_of(content):
        block = fields_of(item)
        text = text_of(block.get("text"))
        if block.get("type") == "image":
            images.append(read_image(fields_of(block.get("source")), None))
        elif text is not None:
            texts.append(text)
        else:
            dropped.add(_PREFIX + "source.content")
    whole = File(text="\n\n".join(texts), media_type="text/plain", name=name, cache=cache)
    return [whole, *images]


def _read_search_result(block: JsonObject, cache: CacheLifetime | None) -> list[Text | Image | File]:
    """A result of the client's own search: a text, its title and its source."""
    texts = [text_of(fields_of(item).get("text")) or "" for item in items_of(block.get("content"))]
    head = [text_of(block.get("title")) or "", text_of(block.get("source")) or ""]
    whole = "\n".join(line for line in (*head, *texts) if line)
    return [Text(whole, cache)] if whole else []


def _read_call(block: JsonObject) -> ToolCall:
    call_id, name = text_of(block.get("id")), text_of(block.get("name"))
    if not call_id or not name:
        raise _unreadable("a call of a tool has no id or no name")
    arguments = _encode(fields_of(block.get("input"))).decode()
    return ToolCall(call_id, name, arguments, cache=lifetime_of(block.get("cache_control")))


def _read_result(block: JsonObject, dropped: Dropped) -> ToolResult:
    """Marks of the cache inside the content count for the result: the provider takes them there alone."""
    call_id = text_of(block.get("tool_use_id"))
    if not call_id:
        raise _unreadable("a result of a tool names no call")
    content = block.get("content")
    parts: list[Text | Image | File] = []
    cache = lifetime_of(block.get("cache_control"))
    if isinstance(content, str):
        parts += [Text(content)] if content else []
    elif content is not None and not isinstance(content, list):
        raise _unreadable("the content of a tool's result is neither a text nor a list")
    for item in items_of(content):
        inner = fields_of(item)
        kind = text_of(inner.get("type")) or ""
        if kind not in {"text", "image", "document", "search_result"}:
            dropped.add(_PREFIX + (kind or "type"))
            continue
        dropped.others(inner, _BLOCK_FIELDS[kind], _PREFIX)
        cache = cache or lifetime_of(inner.get("cache_control"))
        parts += _read_plain(dict(inner, cache_control=None), kind, dropped)
    return ToolResult(call_id, tuple(parts), block.get("is_error") is True, cache=cache)


def _unreadable(message: str) -> Untranslatable:
    return Untranslatable("messages", message)
