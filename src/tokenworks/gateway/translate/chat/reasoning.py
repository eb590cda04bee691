"""Reasoning in messages of chat: `reasoning_content` (DeepSeek and most others), `reasoning` (vLLM, Groq), and `reasoning_details`
(OpenRouter), which have signatures and encrypted reasoning.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.gateway.translate.chat.values import list_of, object_of, text_of, text_or_none, whole_of
from tokenworks.gateway.translate.form import JsonObject, Reasoning

DETAILS_MAX: Final = 1000
# Stands for reasoning where a vendor demands some before a call. Kimi and DeepSeek refuse a call in thinking mode without it, and Kimi also
# an empty one; a client that talked to another model before has none.
NO_REASONING: Final = " "
JOINT: Final = "\n\n"
# The `format` of details of a stream whose text was told before, piece by piece.
REPEATED: Final = "tokenworks-repeated-v1"


def read_reasoning(message: JsonObject) -> tuple[Reasoning, ...]:
    """The reasoning of a message. The text stands once in the result if it is in several fields; a signature without its text gets the
    text of `reasoning_content`.
    """
    text = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
    if text == NO_REASONING:
        text = ""
    details = _read_details(message.get("reasoning_details"))
    if not details:
        return (Reasoning(text),) if text else ()
    if text and not any(part.text or part.summary for part in details):
        first = details[0]
        details[0] = Reasoning(text, (), first.signature, first.encrypted, first.item_id)
    return tuple(details)


def _read_details(value: object) -> list[Reasoning]:
    parts: list[Reasoning] = []
    texts: list[str] = []  # of the last part, whose own text is joined when it is complete
    last_index: int | None = None
    for item in list_of(value)[:DETAILS_MAX]:
        detail = object_of(item)
        part = read_detail(detail)
        if part is None:
            continue
        index = whole_of(detail.get("index"))
        same = index is not None and index == last_index
        if parts and (same or _continues(parts[-1], part)):
            before = parts[-1]
            texts.append(part.text)
            parts[-1] = Reasoning(
                before.text or part.text,
                before.summary + part.summary,
                before.signature or part.signature,
                before.encrypted or part.encrypted,
                before.item_id or part.item_id,
            )
        else:
            _join(parts, texts)
            parts.append(part)
            texts = [part.text]
        last_index = index
    _join(parts, texts)
    return parts


def _join(parts: list[Reasoning], texts: list[str]) -> None:
    """Give the last part its whole text. To join it piece by piece would copy it once for each."""
    if len(texts) > 1:
        parts[-1] = msgspec.structs.replace(parts[-1], text="".join(texts))


def _continues(before: Reasoning, part: Reasoning) -> bool:
    """True if a detail belongs to the one before it: encrypted reasoning to its text or summaries, and a summary to other summaries."""
    if part.text or before.signature is not None or before.encrypted is not None:
        return False
    if before.item_id != part.item_id:
        return False
    return part.encrypted is not None or (bool(before.summary) and not before.text)


def read_detail(detail: JsonObject) -> Reasoning | None:
    """One of `reasoning_details`; None if nothing in it can be read."""
    summary = text_of(detail.get("summary"))
    part = Reasoning(
        text_of(detail.get("text")),
        (summary,) if summary else (),
        text_or_none(detail.get("signature")),
        text_or_none(detail.get("data")),
        text_or_none(detail.get("id")),
    )
    return part if part.text or part.summary or part.signature or part.encrypted else None


def shown_text(part: Reasoning) -> str:
    """What a client shows of the reasoning: its text, else its summaries."""
    return part.text or JOINT.join(part.summary)


def joined_text(parts: Sequence[Reasoning]) -> str:
    return JOINT.join([shown for shown in map(shown_text, parts) if shown])


def needs_details(part: Reasoning) -> bool:
    return (
        part.signature is not None
        or part.encrypted is not None
        or part.item_id is not None
        or bool(part.summary)
    )


def written_details(parts: Sequence[Reasoning]) -> list[JsonObject]:
    """`reasoning_details` for all parts if one of them has more than its text; else none."""
    if not any(map(needs_details, parts)):
        return []
    details: list[JsonObject] = []
    for part in parts:
        details += details_of(part, len(details))
    return details


def details_of(part: Reasoning, index: int, *, repeated: bool = False) -> list[JsonObject]:
    """The details of one part. `index`: of the first one; the SDKs of clients take it for a position in the list. `repeated`: of a
    stream, whose earlier chunks had the same text as `reasoning_content`.
    """
    details: list[JsonObject] = [
        {"type": "reasoning.summary", "summary": summary} for summary in part.summary
    ]
    if part.text or part.signature is not None:
        detail: JsonObject = {"type": "reasoning.text", "text": part.text}
        if part.signature is not None:
            detail["signature"] = part.signature
        details.append(detail)
    if part.encrypted is not None:
        details.append({"type": "reasoning.encrypted", "data": part.encrypted})
    for number, detail in enumerate(details):
        detail["index"] = index + number
        if part.item_id is not None:
            detail["id"] = part.item_id
        if repeated:
            detail["format"] = REPEATED
    return details
