"""Reads the usage that an upstream reports, in the spellings of all known vendors, into disjoint classes (docs/METERING.md).

Vendors write numbers as text or as floats, details as null, lists or words, and cache counts under a dozen names; a part may
be included in its whole or reported beside it. Each field is read by itself: an unreadable field costs that field and adds a
flag, but never loses the whole usage.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from tokenworks.catalog import Counts

TOKENS_MAX: Final = 10**12
ID_CHARS_MAX: Final = 200
ITERATIONS_MAX: Final = 1000
# The exceptions of a decoder on bytes that are not JSON, are not UTF-8, or are nested too deeply.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
BOM: Final = b"\xef\xbb\xbf"
NO_COUNTS: Final = Counts()
_any: Final = msgspec.json.Decoder()
_NO_FLAGS: Final[tuple[str, ...]] = ()
_INCONSISTENT: Final = "inconsistent"
_NUMBER: Final = re.compile(r"\s*(\d{1,13})(?:\.(\d{0,20}))?\s*", re.ASCII)
# Values that mean "nothing reported" and are no error: PHP writes an empty object as a list, other servers write false.
_EMPTY: Final[tuple[object, ...]] = ("", [], {}, False)
_Fields = Mapping[str, object]

# OpenAI's names come first, then those of other vendors (docs/METERING.md names the vendors).
_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details", "completion_token_details")
_CACHED_DETAIL: Final = ("cached_tokens", "cache_read_input_tokens", "cache_read_tokens")
_CACHED: Final = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens")
_WRITTEN_DETAIL: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens")
_REASONING_DETAIL: Final = ("reasoning_tokens", "thinking_tokens")
_AUDIO: Final = ("audio_tokens",)
_5M: Final = ("ephemeral_5m_input_tokens",)
_1H: Final = ("ephemeral_1h_input_tokens",)

# Usage with one of these fields is read by `_read_parts`, not by `_read_usual`.
_RARE: Final = frozenset({
    "input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details", "prompt_token_details", "completion_token_details",
    "cache_creation", "cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_miss_tokens", *_CACHED, *_WRITTEN, *_REASONING_DETAIL,
})  # fmt: skip
_RARE_DETAIL: Final = frozenset({"cache_creation", *_CACHED_DETAIL[1:], *_WRITTEN_DETAIL[1:]})


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Reported usage in disjoint classes. `total` is the provider's total, or the sum of the classes if the provider gives
    none. `flags` names the defects of the report: without `inconsistent` the classes add up to the total.
    """

    counts: Counts
    total: int
    flags: tuple[str, ...]
    iterated: bool = False
    """True if the usage is the sum of several samplings (compaction, tools of the vendor), not all of which are shown."""


def openai_usage(raw: bytes | msgspec.Raw, *, input_only: bool = False) -> Usage | None:
    """Read the usage of chat, completions, embeddings (`input_only`) and responses; None if there is none.

    Cached, written and audio tokens are parts of the input; reasoning and audio tokens are parts of the output. The total shows
    whether a vendor reports the parts beside their whole. A part larger than its whole is reduced to the whole and flagged; a
    total that equals none of the possible sums is flagged.
    """
    try:
        return read_openai(_any.decode(raw), input_only=input_only)
    except UNREADABLE:
        return None


def anthropic_usage(raw: bytes | msgspec.Raw, before: Usage | None = None) -> Usage | None:
    """Read the usage of messages, whose input, cache reads and cache writes are disjoint already. A stream reports usage
    twice: a number of the second report replaces that of the first (`before`), unless it is zero.
    """
    try:
        return read_anthropic(_any.decode(raw), before)
    except UNREADABLE:
        return before


def read_openai(usage: object, *, input_only: bool = False) -> Usage | None:
    """As `openai_usage`, for decoded JSON."""
    if not isinstance(usage, dict) or not usage:
        return None
    return _read_usual(usage) or _read_parts(usage, input_only=input_only)


def _read_usual(usage: _Fields) -> Usage | None:
    """Read usage in the form of OpenAI and most engines: whole numbers that add up. None for any other form."""
    prompt, completion, total = (
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        usage.get("total_tokens"),
    )
    if type(prompt) is not int or type(completion) is not int or type(total) is not int:
        return None
    if prompt < 0 or completion < 0 or total > TOKENS_MAX or total != prompt + completion:
        return None
    if len(usage) == 3:
        return Usage(Counts(prompt, 0, 0, 0, completion), total, _NO_FLAGS)
    if not _RARE.isdisjoint(usage):
        return None
    cached = written = audio_in = reasoning = audio_out = 0
    input_details, output_details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if input_details is not None:
        if type(input_details) is not dict or not _RARE_DETAIL.isdisjoint(input_details):
            return None
        cached, audio_in = input_details.get("cached_tokens", 0), input_details.get("audio_tokens", 0)
        written = input_details.get("cache_write_tokens", 0)
    if output_details is not None:
        if type(output_details) is not dict or "thinking_tokens" in output_details:
            return None
        reasoning, audio_out = (
            output_details.get("reasoning_tokens", 0),
            output_details.get("audio_tokens", 0),
        )
    for part in (cached, written, audio_in, reasoning, audio_out):
        if type(part) is not int or part < 0:
            return None
    fresh, output = prompt - cached - written - audio_in, completion - reasoning - audio_out
    if fresh < 0 or output < 0:
        return None
    return Usage(Counts(fresh, cached, written, audio_in, output, reasoning, audio_out), total, _NO_FLAGS)


def _read_parts(usage: _Fields, *, input_only: bool) -> Usage | None:
    """Read usage in any vendor's form, field by field."""
    flags: list[str] = []
    input_details = _details(usage, _INPUT_DETAILS, flags)
    output_details = _details(usage, _OUTPUT_DETAILS, flags)
    prompt, completion = _number(usage, _PROMPT, flags), _number(usage, _COMPLETION, flags)
    total = _number(usage, ("total_tokens",), flags)
    cached = _number(input_details, _CACHED_DETAIL, flags) or _number(usage, _CACHED, flags) or 0
    written = _number(input_details, _WRITTEN_DETAIL, flags) or _number(usage, _WRITTEN, flags) or 0
    reasoning = (
        _number(output_details, _REASONING_DETAIL, flags) or _number(usage, _REASONING_DETAIL, flags) or 0
    )
    # Anthropic's names in an answer of OpenAI's form.
    cached_beside = _number(usage, ("cache_read_input_tokens",), flags) or 0
    written_beside = _number(usage, ("cache_creation_input_tokens",), flags) or 0
    by_age = _cache_writes_by_age(usage, flags) or _cache_writes_by_age(input_details, flags) or (0, 0)
    cached, written = cached or cached_beside, written or written_beside or sum(by_age)
    missed = _number(usage, ("prompt_cache_miss_tokens",), flags)
    if prompt is None and missed is not None:
        prompt = cached + missed
    if prompt is None and completion is None:
        if not total or not input_only:
            return None
        prompt = total
    if prompt is None:
        assert completion is not None
        prompt = 0 if total is None else max(0, total - completion)
    if completion is None:
        completion = 0 if total is None or input_only else max(0, total - prompt)
    if reasoning and (total == prompt + completion + reasoning or (total is None and reasoning > completion)):
        completion += reasoning  # xAI reports reasoning beside the completion
    in_cache = cached + written
    if in_cache and total == prompt + completion + in_cache:
        prompt += in_cache
    elif in_cache > prompt and (cached_beside or written_beside):
        prompt += in_cache  # fields with Anthropic's names are never parts of the input
    left = prompt
    cached, left = _part(cached, left, flags)
    written, left = _part(written, left, flags)
    written_1h, written = _part(by_age[1], written, flags)
    audio_in, fresh = _part(_number(input_details, _AUDIO, flags) or 0, left, flags)
    reasoning, left = _part(reasoning, completion, flags)
    audio_out, output = _part(_number(output_details, _AUDIO, flags) or 0, left, flags)
    counts = Counts(fresh, cached, written, audio_in, output, reasoning, audio_out, written_1h)
    return _usage(counts, total, flags)


def _usage(counts: Counts, total: int | None, flags: list[str]) -> Usage:
    counted = sum(counts)
    if total is None:
        total = counted
    elif total != counted:
        flags.append(_INCONSISTENT)
    return Usage(counts, total, tuple(dict.fromkeys(flags)) if flags else _NO_FLAGS)


def read_anthropic(usage: object, before: Usage | None = None) -> Usage | None:
    """As `anthropic_usage`, for decoded JSON."""
    if not isinstance(usage, dict) or not usage:
        return before
    flags = list(before.flags) if before else []
    old = before.counts if before else NO_COUNTS
    classes = _read_classes(usage, flags)
    if classes is None:
        if before is None and "prompt_tokens" in usage:
            return read_openai(usage)  # OpenAI's names in an answer of Anthropic's form
        return before
    fresh, cached, written, hour, output, thinking = classes
    fresh = fresh or old.fresh_input
    cached = cached or old.cached_input
    if not written:
        written, hour = old.cache_write + old.cache_write_1h, old.cache_write_1h
    elif hour is None:
        # The report at a stream's end has the number of written tokens; only the first report divides them by age.
        hour = min(old.cache_write_1h, written)
    hour, written = _part(hour, written, flags)
    if not output:
        output = old.output + old.reasoning
    thinking, shown = _part(thinking or old.reasoning, output, flags)
    counts = Counts(fresh, cached, written, 0, shown, thinking, 0, hour)
    iterated = _read_iterations(usage.get("iterations"), thinking, flags)
    if sum(iterated) > sum(counts):
        counts = iterated
    unique_flags = tuple(dict.fromkeys(flags)) if flags else _NO_FLAGS
    return Usage(counts, sum(counts), unique_flags, iterated=any(iterated))


def _read_classes(usage: _Fields, flags: list[str]) -> tuple[int, int, int, int | None, int, int] | None:
    """(fresh, cached, written, the part of `written` kept for an hour (None if not reported), output, the part of `output`
    that is thinking).
    """
    fresh = _number(usage, ("input_tokens",), flags)
    output = _number(usage, ("output_tokens",), flags)
    cached = _number(usage, ("cache_read_input_tokens",), flags)
    written = _number(usage, ("cache_creation_input_tokens",), flags)
    by_age = _cache_writes_by_age(usage, flags) or (0, 0)
    if fresh is None and output is None and cached is None and written is None and not any(by_age):
        return None
    output_details = _details(usage, _OUTPUT_DETAILS, flags)
    thinking = _number(output_details, _REASONING_DETAIL, flags) or _number(usage, _REASONING_DETAIL, flags)
    hour = by_age[1] if any(by_age) else None
    return fresh or 0, cached or 0, written or sum(by_age), hour, output or 0, thinking or 0


def _read_iterations(iterations: object, thinking: int, flags: list[str]) -> Counts:
    """Sum the samplings of one request. The top-level fields do not include the tokens of a compaction
    (anthropic SDK, `BetaUsage.iterations`).
    """
    if not isinstance(iterations, list):
        return NO_COUNTS
    total = [0] * 5
    for iteration in iterations[:ITERATIONS_MAX]:
        classes = _read_classes(iteration, flags) if isinstance(iteration, dict) else None
        if classes is not None:
            fresh, cached, written, hour, output, _ = classes
            hour, written = _part(hour or 0, written, flags)
            total = [a + b for a, b in zip(total, (fresh, cached, written, output, hour), strict=True)]
    fresh, cached, written, output, hour = total
    thinking = min(thinking, output)
    return Counts(fresh, cached, written, 0, output - thinking, thinking, 0, hour)


def later_usage(old: Usage | None, new: Usage | None) -> Usage | None:
    """The usage after another report of the same stream. Reports are cumulative: a later report replaces an earlier one.
    A report of zero counts as missing, for the whole usage and for its input and output separately.
    """
    if new is None or not any(new.counts):
        return old
    if old is None:
        return new
    earlier, later = old.counts, new.counts
    lacks_input = not later.input_tokens and earlier.input_tokens
    lacks_output = not later.output_tokens and earlier.output_tokens
    if not lacks_input and not lacks_output:
        return new
    input_counts, output_counts = earlier if lacks_input else later, earlier if lacks_output else later
    counts = Counts(*input_counts[:4], *output_counts[4:7], input_counts.cache_write_1h)
    return Usage(counts, sum(counts), new.flags)


class _Body(msgspec.Struct, gc=False):
    id: object = None
    usage: object = None


class _Choices(msgspec.Struct, gc=False):
    choices: object = None


_body: Final = msgspec.json.Decoder(_Body)
_choices: Final = msgspec.json.Decoder(_Choices)


def body_usage(body: bytes, protocol: str) -> tuple[Usage | None, str | None]:
    """Usage and id of a response that is not streamed. Usage whose counts are all zero is None."""
    body = body.removeprefix(BOM)
    try:
        answer = _body.decode(body)
    except UNREADABLE:
        return None, None
    if protocol == "messages":
        usage = read_anthropic(answer.usage)
    else:
        usage = read_openai(answer.usage, input_only=protocol == "embeddings")
        if usage is None and protocol in {"chat", "completions"}:
            usage = nested_usage(_choices.decode(body).choices)
    return later_usage(None, usage), known_id(answer.id)


def nested_usage(choices: object) -> Usage | None:
    """Usage inside the first choice, where Kimi reports that of a stream."""
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return read_openai(choices[0].get("usage"))
    return None


def _cache_writes_by_age(usage: _Fields, flags: list[str]) -> tuple[int, int] | None:
    """Cache writes (kept five minutes, kept an hour); None if the report does not divide them."""
    by_age = usage.get("cache_creation")
    if not isinstance(by_age, dict) or not by_age:
        return None
    return _number(by_age, _5M, flags) or 0, _number(by_age, _1H, flags) or 0


def _details(usage: _Fields, names: tuple[str, ...], flags: list[str]) -> _Fields:
    """The first of the named objects that has fields; empty if there is none."""
    for name in names:
        value = usage.get(name)
        if value:
            if isinstance(value, dict):
                return value
            flags.append(_INCONSISTENT)
    return {}


def _number(fields: _Fields, names: tuple[str, ...], flags: list[str]) -> int | None:
    """The first positive number among the named fields; 0 if one of them is zero, None if none can be read."""
    found: int | None = None
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        if type(value) is int and 0 <= value <= TOKENS_MAX:
            if value:
                return value
            found = 0
            continue
        tokens = _tokens(value, flags)
        if tokens:
            return tokens
        if tokens == 0:
            found = 0
    return found


def _tokens(value: object, flags: list[str]) -> int | None:
    """Read a number written as text or as a float. A fraction of a token is dropped and flagged."""
    if isinstance(value, float):
        if 0 <= value <= TOKENS_MAX:
            if value != int(value):
                flags.append(_INCONSISTENT)
            return int(value)
    elif isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is not None and int(match[1]) <= TOKENS_MAX:
            if match[2] and int(match[2]):
                flags.append(_INCONSISTENT)
            return int(match[1])
    if not any(value is empty or (value == empty and type(value) is type(empty)) for empty in _EMPTY):
        flags.append(_INCONSISTENT)
    return None


def _part(part: int, whole: int, flags: list[str]) -> tuple[int, int]:
    """(the part, limited to the whole; the rest of the whole)."""
    if part > whole:
        flags.append(_INCONSISTENT)
        part = whole
    return part, whole - part


def is_json(body: bytes) -> bool:
    """True if the body is complete JSON. A truncated body is not, whatever its headers say."""
    try:
        _any.decode(body.removeprefix(BOM))
    except UNREADABLE:
        return False
    return True


def known_id(value: object) -> str | None:
    """The upstream's id if the value is a usable one: a text of 1 to `ID_CHARS_MAX` printable characters. (The database takes no NUL.)"""
    return (
        value if isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX and value.isprintable() else None
    )
