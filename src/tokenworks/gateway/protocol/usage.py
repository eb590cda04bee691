"""What an upstream says it counted, as the world writes it, in disjoint classes (docs/METERING.md).

Numbers come as text and as floats, details as null, lists or words, caches under a dozen names, parts inside their whole
or beside it. Every field is read by itself: one that cannot be read costs that field and a flag, never the whole usage.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenworks.catalog import Counts

TOKENS_MAX: Final = 10**12
ID_CHARS_MAX: Final = 200
ITERATIONS_MAX: Final = 1000
# What a decoder raises on bytes that are not JSON, not UTF-8, or nested without end.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
BOM: Final = b"\xef\xbb\xbf"
NO_COUNTS: Final = Counts()
_any: Final = msgspec.json.Decoder()
_NO_FLAGS: Final[tuple[str, ...]] = ()
_INCONSISTENT: Final = "inconsistent"
_NUMBER: Final = re.compile(r"\s*(\d{1,13})(?:\.(\d{0,20}))?\s*", re.ASCII)
# Where a field says nothing, and is no error: PHP writes an empty object as a list, others false for none.
_EMPTY: Final[tuple[object, ...]] = ("", [], {}, False)
_Said = Mapping[str, Any]

# OpenAI's names first, then those of other vendors (docs/METERING.md names whose they are).
_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_GIVEN: Final = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_MADE: Final = ("completion_tokens_details", "output_tokens_details", "completion_token_details")
_CACHED_DETAIL: Final = ("cached_tokens", "cache_read_input_tokens", "cache_read_tokens")
_CACHED: Final = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens")
_WRITTEN_DETAIL: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens")
_REASONING_DETAIL: Final = ("reasoning_tokens", "thinking_tokens")
_AUDIO: Final = ("audio_tokens",)
_5M: Final = ("ephemeral_5m_input_tokens",)
_1H: Final = ("ephemeral_1h_input_tokens",)

# Fields that need the long way.
_RARE: Final = frozenset({
    "input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details", "prompt_token_details", "completion_token_details",
    "cache_creation", "cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_miss_tokens", *_CACHED, *_WRITTEN, *_REASONING_DETAIL,
})  # fmt: skip
_RARE_DETAIL: Final = frozenset({"cache_creation", *_CACHED_DETAIL[1:], *_WRITTEN_DETAIL[1:]})


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a provider reported, in disjoint classes. `total` is the provider's own, or the sum of the classes where it
    gives none. `flags` says what did not add up: where it has no `inconsistent`, the classes add up to the total.
    """

    counts: Counts
    total: int
    flags: tuple[str, ...]
    iterated: bool = False
    """Whether it is the sum of several samplings (compaction, tools of the vendor), of which not all is shown."""


def openai_usage(raw: bytes | msgspec.Raw, *, input_only: bool = False) -> Usage | None:
    """Usage of chat, completions, embeddings (`input_only`) and responses; None where there is none.

    Cached, written and audio tokens are parts of the input, reasoning and audio of the output; a vendor that reports
    them beside their whole is known by its total. A part beyond its whole is cut to it and flagged; a total that is none
    of the sums it could be is flagged.
    """
    try:
        return read_openai(_any.decode(raw), input_only=input_only)
    except UNREADABLE:
        return None


def anthropic_usage(raw: bytes | msgspec.Raw, before: Usage | None = None) -> Usage | None:
    """Usage of messages: input, cache reads and cache writes are disjoint already. A stream reports twice; what the
    end says replaces what the beginning said, but for a zero.
    """
    try:
        return read_anthropic(_any.decode(raw), before)
    except UNREADABLE:
        return before


def read_openai(said: object, *, input_only: bool = False) -> Usage | None:
    """As `openai_usage`, of what is decoded already."""
    if not isinstance(said, dict) or not said:
        return None
    return _read_usual(said) or _read_parts(said, input_only=input_only)


def _read_usual(said: _Said) -> Usage | None:
    """As OpenAI and most engines write it, in whole numbers that add up; None for all else, which takes the long way."""
    prompt, completion, total = (
        said.get("prompt_tokens"),
        said.get("completion_tokens"),
        said.get("total_tokens"),
    )
    if type(prompt) is not int or type(completion) is not int or type(total) is not int:
        return None
    if prompt < 0 or completion < 0 or total > TOKENS_MAX or total != prompt + completion:
        return None
    if len(said) == 3:
        return Usage(Counts(prompt, 0, 0, 0, completion), total, _NO_FLAGS)
    if not _RARE.isdisjoint(said):
        return None
    cached = written = audio_in = reasoning = audio_out = 0
    given, made = said.get("prompt_tokens_details"), said.get("completion_tokens_details")
    if given is not None:
        if type(given) is not dict or not _RARE_DETAIL.isdisjoint(given):
            return None
        cached, audio_in = given.get("cached_tokens", 0), given.get("audio_tokens", 0)
        written = given.get("cache_write_tokens", 0)
    if made is not None:
        if type(made) is not dict or "thinking_tokens" in made:
            return None
        reasoning, audio_out = made.get("reasoning_tokens", 0), made.get("audio_tokens", 0)
    for part in (cached, written, audio_in, reasoning, audio_out):
        if type(part) is not int or part < 0:
            return None
    fresh, output = prompt - cached - written - audio_in, completion - reasoning - audio_out
    if fresh < 0 or output < 0:
        return None
    return Usage(Counts(fresh, cached, written, audio_in, output, reasoning, audio_out), total, _NO_FLAGS)


def _read_parts(said: _Said, *, input_only: bool) -> Usage | None:
    flags: list[str] = []
    given, made = _details(said, _GIVEN, flags), _details(said, _MADE, flags)
    prompt, completion = _number(said, _PROMPT, flags), _number(said, _COMPLETION, flags)
    total = _number(said, ("total_tokens",), flags)
    cached = _number(given, _CACHED_DETAIL, flags) or _number(said, _CACHED, flags) or 0
    written = _number(given, _WRITTEN_DETAIL, flags) or _number(said, _WRITTEN, flags) or 0
    reasoning = _number(made, _REASONING_DETAIL, flags) or _number(said, _REASONING_DETAIL, flags) or 0
    # Anthropic's names in an answer of OpenAI's form.
    cached_beside = _number(said, ("cache_read_input_tokens",), flags) or 0
    written_beside = _number(said, ("cache_creation_input_tokens",), flags) or 0
    by_age = _by_age(said, flags) or _by_age(given, flags) or (0, 0)
    cached, written = cached or cached_beside, written or written_beside or sum(by_age)
    missed = _number(said, ("prompt_cache_miss_tokens",), flags)
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
    inside = cached + written
    if inside and total == prompt + completion + inside:
        prompt += inside
    elif inside > prompt and (cached_beside or written_beside):
        prompt += inside  # so named they are never parts of the input
    left = prompt
    cached, left = _part(cached, left, flags)
    written, left = _part(written, left, flags)
    written_1h, written = _part(by_age[1], written, flags)
    audio_in, fresh = _part(_number(given, _AUDIO, flags) or 0, left, flags)
    reasoning, left = _part(reasoning, completion, flags)
    audio_out, output = _part(_number(made, _AUDIO, flags) or 0, left, flags)
    counts = Counts(fresh, cached, written, audio_in, output, reasoning, audio_out, written_1h)
    return _usage(counts, total, flags)


def _usage(counts: Counts, total: int | None, flags: list[str]) -> Usage:
    made = sum(counts)
    if total is None:
        total = made
    elif total != made:
        flags.append(_INCONSISTENT)
    return Usage(counts, total, tuple(dict.fromkeys(flags)) if flags else _NO_FLAGS)


def read_anthropic(said: object, before: Usage | None = None) -> Usage | None:
    """As `anthropic_usage`, of what is decoded already."""
    if not isinstance(said, dict) or not said:
        return before
    flags = list(before.flags) if before else []
    old = before.counts if before else NO_COUNTS
    read = _read_classes(said, flags)
    if read is None:
        if before is None and "prompt_tokens" in said:
            return read_openai(said)  # OpenAI's names in an answer of Anthropic's form
        return before
    fresh, cached, written, hour, output, thinking = read
    fresh = fresh or old.fresh_input
    cached = cached or old.cached_input
    if not written:
        written, hour = old.cache_write + old.cache_write_1h, old.cache_write_1h
    elif hour is None:
        # The end of a stream says how much was written; only its beginning said for how long.
        hour = min(old.cache_write_1h, written)
    hour, written = _part(hour, written, flags)
    if not output:
        output = old.output + old.reasoning
    thinking, shown = _part(thinking or old.reasoning, output, flags)
    counts = Counts(fresh, cached, written, 0, shown, thinking, 0, hour)
    iterated = _read_iterations(said.get("iterations"), thinking, flags)
    if sum(iterated) > sum(counts):
        counts = iterated
    said_flags = tuple(dict.fromkeys(flags)) if flags else _NO_FLAGS
    return Usage(counts, sum(counts), said_flags, iterated=any(iterated))


def _read_classes(said: _Said, flags: list[str]) -> tuple[int, int, int, int | None, int, int] | None:
    """(fresh, cached, written, of that for an hour or None where it does not say, output, of that thinking)."""
    fresh = _number(said, ("input_tokens",), flags)
    output = _number(said, ("output_tokens",), flags)
    cached = _number(said, ("cache_read_input_tokens",), flags)
    written = _number(said, ("cache_creation_input_tokens",), flags)
    by_age = _by_age(said, flags) or (0, 0)
    if fresh is None and output is None and cached is None and written is None and not any(by_age):
        return None
    made = _details(said, _MADE, flags)
    thinking = _number(made, _REASONING_DETAIL, flags) or _number(said, _REASONING_DETAIL, flags)
    hour = by_age[1] if any(by_age) else None
    return fresh or 0, cached or 0, written or sum(by_age), hour, output or 0, thinking or 0


def _read_iterations(said: object, thinking: int, flags: list[str]) -> Counts:
    """The sum over the samplings of one request. A compaction's tokens are in none of the fields at the top
    (anthropic SDK, `BetaUsage.iterations`).
    """
    if not isinstance(said, list):
        return NO_COUNTS
    total = [0] * 5
    for iteration in said[:ITERATIONS_MAX]:
        read = _read_classes(iteration, flags) if isinstance(iteration, dict) else None
        if read is not None:
            fresh, cached, written, hour, output, _ = read
            hour, written = _part(hour or 0, written, flags)
            total = [a + b for a, b in zip(total, (fresh, cached, written, output, hour), strict=True)]
    fresh, cached, written, output, hour = total
    thinking = min(thinking, output)
    return Counts(fresh, cached, written, 0, output - thinking, thinking, 0, hour)


def later_usage(old: Usage | None, new: Usage | None) -> Usage | None:
    """What holds after a later report of the same stream. Reports are cumulative: the later one replaces the earlier,
    but a zero is no report, neither of all nor of the input or the output alone.
    """
    if new is None or not any(new.counts):
        return old
    if old is None:
        return new
    a, b = old.counts, new.counts
    lost_in, lost_out = not b.input_tokens and a.input_tokens, not b.output_tokens and a.output_tokens
    if not lost_in and not lost_out:
        return new
    given, made = a if lost_in else b, a if lost_out else b
    counts = Counts(*given[:4], *made[4:7], given.cache_write_1h)
    return Usage(counts, sum(counts), new.flags)


class _Body(msgspec.Struct, gc=False):
    id: object = None
    usage: object = None


class _Choices(msgspec.Struct, gc=False):
    choices: object = None


_body: Final = msgspec.json.Decoder(_Body)
_choices: Final = msgspec.json.Decoder(_Choices)


def body_usage(body: bytes, protocol: str) -> tuple[Usage | None, str | None]:
    """Usage and id of a response that is not streamed. A usage of zeros is none."""
    body = body.removeprefix(BOM)
    try:
        read = _body.decode(body)
    except UNREADABLE:
        return None, None
    if protocol == "messages":
        usage = read_anthropic(read.usage)
    else:
        usage = read_openai(read.usage, input_only=protocol == "embeddings")
        if usage is None and protocol in {"chat", "completions"}:
            usage = nested_usage(_choices.decode(body).choices)
    return later_usage(None, usage), known_id(read.id)


def nested_usage(choices: object) -> Usage | None:
    """Kimi reports a stream's usage inside its first choice."""
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return read_openai(choices[0].get("usage"))
    return None


def _by_age(said: _Said, flags: list[str]) -> tuple[int, int] | None:
    """Cache writes (for five minutes, for an hour), where they are told apart."""
    by_age = said.get("cache_creation")
    if not isinstance(by_age, dict) or not by_age:
        return None
    return _number(by_age, _5M, flags) or 0, _number(by_age, _1H, flags) or 0


def _details(said: _Said, names: tuple[str, ...], flags: list[str]) -> _Said:
    for name in names:
        value = said.get(name)
        if value:
            if isinstance(value, dict):
                return value
            flags.append(_INCONSISTENT)
    return {}


def _number(said: _Said, names: tuple[str, ...], flags: list[str]) -> int | None:
    """The first of the fields that holds tokens; 0 where one says zero, None where none can be read."""
    found: int | None = None
    for name in names:
        value = said.get(name)
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
    """A number as text or as a float. A part of a token is dropped, and flagged."""
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
    """(the part, the rest of its whole)."""
    if part > whole:
        flags.append(_INCONSISTENT)
        part = whole
    return part, whole - part


def is_json(body: bytes) -> bool:
    """Whether a body is whole: one that was cut, by whatever a header said, is not."""
    try:
        _any.decode(body.removeprefix(BOM))
    except UNREADABLE:
        return False
    return True


def known_id(value: object) -> str | None:
    """An upstream's id, where it is one that can be kept."""
    return value if isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX else None
