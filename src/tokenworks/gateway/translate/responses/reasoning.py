"""Reasoning items of responses.

Clients of responses show summaries: Codex hides `reasoning_text` by default and never sends it back, the AI SDK and OpenAI's .NET library
do not know it (openai/codex `codex-rs/protocol/src/models.rs`, vercel/ai issue 6629, openai/openai-dotnet issue 748; read 2026-11). So the
reasoning itself is written as a summary if it has none. A client that asked for `reasoning.encrypted_content` sends the item back as it
was: a mark in that field says then that the summary is the text, and has the signature. A deployment that speaks responses is not sent
such items (`protocol/fields/scan.py`): its provider would refuse what it did not encrypt.
"""

from typing import Final

from tokenworks.gateway.protocol.fields.layout import TRANSLATED
from tokenworks.gateway.translate.form import JsonObject, Reasoning
from tokenworks.gateway.translate.responses.content import summaries_of
from tokenworks.gateway.translate.responses.values import text_of

MARK: Final = TRANSLATED


def read_reasoning(item: JsonObject) -> Reasoning:
    """The reasoning in an item of a request, whose `encrypted_content` may have our mark."""
    reasoning = read_answered(item)
    encrypted = reasoning.encrypted
    if encrypted is None or not encrypted.startswith(MARK):
        return reasoning
    text = reasoning.text or "".join(reasoning.summary)
    return Reasoning(text=text, signature=encrypted[len(MARK) :] or None, item_id=reasoning.item_id)


def read_answered(item: JsonObject) -> Reasoning:
    """The reasoning in an item of an answer: its content is the text of the reasoning, `encrypted_content` is the provider's own."""
    return Reasoning(
        text="".join(summaries_of(item, "content")),
        summary=summaries_of(item, "summary"),
        encrypted=text_of(item.get("encrypted_content")) or None,
        item_id=text_of(item.get("id")) or None,
    )


def encrypted_content(encrypted: str | None, signature: str | None, *, shown_as_summary: bool) -> str | None:
    """The value of `encrypted_content` for a client that asked for it."""
    if encrypted is not None:
        return encrypted
    return MARK + (signature or "") if shown_as_summary or signature is not None else None


def reasoning_item(item_id: str, summary: list[str], text: str, encrypted: str | None) -> JsonObject:
    """The item of an answer. `text`: reasoning beside a summary."""
    item: JsonObject = {
        "id": item_id, "type": "reasoning", "status": "completed",
        "summary": [{"type": "summary_text", "text": part} for part in summary],
    }  # fmt: skip
    if text:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    if encrypted is not None:
        item["encrypted_content"] = encrypted
    return item
