"""What each protocol's usage says was produced. What its requests may say is in `fields/`."""

from typing import Final

import msgspec

from tokenworks.catalog import Counts
from tokenworks.gateway.fields import (
    UNREADABLE,
    BodyError,
    Parsed,
    asked_effort,
    asked_text,
    count_tools,
    is_prompt,
    parse_body,
    render,
)

__all__ = [
    "ID_CHARS_MAX",
    "TOKENS_MAX",
    "UNREADABLE",
    "BodyError",
    "Parsed",
    "Usage",
    "anthropic_usage",
    "asked_effort",
    "asked_text",
    "body_usage",
    "count_tools",
    "is_json",
    "is_prompt",
    "object_id",
    "openai_usage",
    "parse_body",
    "render",
]

TOKENS_MAX: Final = 10**12
ID_CHARS_MAX: Final = 200
_any: Final = msgspec.json.Decoder()

# Usage


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a provider reported, in disjoint classes. `flags` says what did not add up."""

    counts: Counts
    total: int
    flags: tuple[str, ...]


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None


class _OpenAI(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    # DeepSeek names its cache hits here.
    prompt_cache_hit_tokens: int | None = None


class _Anthropic(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


_openai = msgspec.json.Decoder(_OpenAI)
_NO_FLAGS: Final[tuple[str, ...]] = ()
_anthropic = msgspec.json.Decoder(_Anthropic)
_NO_DETAILS: Final = _Details()


def openai_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """Usage of chat, completions, embeddings and responses; None where there is none.

    Cached, written and audio tokens are parts of the input, reasoning and audio of the output. A part beyond its whole
    is cut to it and flagged; a total that is none of the sums it could be is flagged.
    """
    try:
        usage = _openai.decode(raw)
    except UNREADABLE:
        return None
    return _openai_counts(usage)


def _openai_counts(usage: _OpenAI) -> Usage | None:
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if (
        prompt is not None
        and completion is not None
        and usage.prompt_tokens_details is None
        and usage.completion_tokens_details is None
        and usage.prompt_cache_hit_tokens is None
        and total == prompt + completion <= TOKENS_MAX
        and prompt >= 0
        and completion >= 0
    ):
        return Usage(Counts(prompt, 0, 0, 0, completion, 0, 0), total, _NO_FLAGS)
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    given = usage.prompt_tokens_details or usage.input_tokens_details or _NO_DETAILS
    made = usage.completion_tokens_details or usage.output_tokens_details or _NO_DETAILS
    cached = given.cached_tokens if given.cached_tokens is not None else usage.prompt_cache_hit_tokens or 0
    written = (
        given.cache_write_tokens if given.cache_write_tokens is not None else given.cache_creation_tokens or 0
    )
    audio_in, audio_out, reasoning = (
        given.audio_tokens or 0,
        made.audio_tokens or 0,
        made.reasoning_tokens or 0,
    )
    if prompt is not None and completion is not None and total == prompt + completion <= TOKENS_MAX:
        fresh = prompt - cached - written - audio_in
        output = completion - reasoning - audio_out
        if (
            fresh >= 0 and output >= 0 and cached >= 0 and written >= 0 and audio_in >= 0
            and audio_out >= 0 and reasoning >= 0
        ):  # fmt: skip
            return Usage(
                Counts(fresh, cached, written, audio_in, output, reasoning, audio_out), total, _NO_FLAGS
            )
    elif prompt is None and completion is None:
        return None
    # Something does not add up, or was not said.
    flags: list[str] = []
    prompt, completion = _whole(prompt, flags), _whole(completion, flags)
    cached, written = _whole(cached, flags), _whole(written, flags)
    audio_in, audio_out = _whole(audio_in, flags), _whole(audio_out, flags)
    reasoning = _whole(reasoning, flags)
    if total is not None and reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # some vendors report reasoning beside the completion
    left = prompt
    cached, left = _part(cached, left, flags)
    written, left = _part(written, left, flags)
    audio_in, fresh = _part(audio_in, left, flags)
    reasoning, left = _part(reasoning, completion, flags)
    audio_out, output = _part(audio_out, left, flags)
    counts = Counts(fresh, cached, written, audio_in, output, reasoning, audio_out)
    if total is None:
        total = sum(counts)
    elif total != prompt + completion:
        flags.append("inconsistent")
    return Usage(counts, total, tuple(dict.fromkeys(flags)))


def anthropic_usage(raw: bytes | msgspec.Raw, before: Usage | None = None) -> Usage | None:
    """Usage of messages: input, cache reads and cache writes are disjoint already. A stream reports twice; what the
    end says replaces what the beginning said.
    """
    try:
        usage = _anthropic.decode(raw)
    except UNREADABLE:
        return before
    flags = list(before.flags) if before else []
    old = before.counts if before else Counts()
    if usage.input_tokens is None and usage.output_tokens is None and before is None:
        return None
    counts = Counts(
        fresh_input=old.fresh_input if usage.input_tokens is None else _whole(usage.input_tokens, flags),
        cached_input=old.cached_input
        if usage.cache_read_input_tokens is None
        else _whole(usage.cache_read_input_tokens, flags),
        cache_write=old.cache_write
        if usage.cache_creation_input_tokens is None
        else _whole(usage.cache_creation_input_tokens, flags),
        output=old.output if usage.output_tokens is None else _whole(usage.output_tokens, flags),
    )
    return Usage(counts, sum(counts), tuple(dict.fromkeys(flags)))


def _whole(value: int | None, flags: list[str]) -> int:
    if value is None:
        return 0
    if 0 <= value <= TOKENS_MAX:
        return value
    flags.append("inconsistent")
    return 0


def _part(part: int, whole: int, flags: list[str]) -> tuple[int, int]:
    if part > whole:
        flags.append("inconsistent")
        part = whole
    return part, whole - part


class _Body(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _UsualBody(msgspec.Struct, gc=False):
    id: str | None = None
    usage: _OpenAI | None = None


_body = msgspec.json.Decoder(_Body)
_usual_body = msgspec.json.Decoder(_UsualBody)


def body_usage(body: bytes, protocol: str) -> tuple[Usage | None, str | None]:
    """Usage and id of a response that is not streamed."""
    if protocol != "messages":
        try:
            usual = _usual_body.decode(body)
        except UNREADABLE:
            pass  # what is not as usual is read field by field
        else:
            usage = None if usual.usage is None else _openai_counts(usual.usage)
            return usage, usual.id if usual.id and len(usual.id) <= ID_CHARS_MAX else None
    try:
        read = _body.decode(body)
    except UNREADABLE:
        return None, None
    usage = anthropic_usage(read.usage) if protocol == "messages" else openai_usage(read.usage)
    return usage, object_id(read.id)


def is_json(body: bytes) -> bool:
    """Whether a body is whole: one that was cut, by whatever a header said, is not."""
    try:
        _any.decode(body)
    except UNREADABLE:
        return False
    return True


def object_id(raw: msgspec.Raw) -> str | None:
    try:
        value = _any.decode(raw)
    except UNREADABLE:
        return None
    return value if isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX else None
