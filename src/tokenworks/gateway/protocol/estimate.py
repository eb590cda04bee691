"""What a request's input can cost, from its bytes: an upper bound before it is sent, a lower one where nobody counted.

A tokenizer that falls back to bytes makes at most one token of a byte of text, and text in JSON is never shorter than what it
says, so the body's bytes bound its tokens from above. From below: no tokenizer of the kinds in use joins words. The derivation
is in docs/BOUNDS.md.
"""

import re
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.protocol.media_items import items_cost

# What a chat template writes around the messages beyond what their JSON takes: its own system text, a date, the answer's begin.
TEMPLATE_TOKENS: Final = 128
# A provider's system text for tools, and what one of Anthropic's own tools costs by its name alone ("Tool use", pricing).
TOOLS_TOKENS: Final = 640
NAMED_TOOL_TOKENS: Final = 1280
# Their names end in a date: bash_20250124.
_DATED: Final = b"_20"
# More text than this is not read to bound it from below, and no field that is longer: what was read bounds the rest, too.
LEAST_CHARS_MAX: Final = 256 * 1024
LEAST_FIELD_BYTES_MAX: Final = 8 * 1024 * 1024
# What no token of the tokenizers in use joins: a word of letters, a number, a run of another script.
_PIECES: Final = re.compile(
    r"[A-Za-z\u00c0-\u036f\u1e00-\u1eff]+(?:'[A-Za-z]+)?|[0-9]+|[^\x00-\u036f\u1e00-\u1eff\u2000-\u206f\s]+"
)
# The longest tokens of ordinary text: of letters, and of a script that writes without spaces.
_WORD_CHARS: Final = 24
_OTHER_CHARS: Final = 5
# A piece of so few characters is a pattern or a padding, of which tokenizers have long tokens.
_PATTERN_CHARS: Final = 8
# What repeats at a distance is found by compressing it; ordinary text shrinks by less than this.
_SHRINKS: Final = 2
_COMPRESSED_FROM_CHARS: Final = 256
SHOWN_BYTES_PER_TOKEN: Final = 8
_RUN: Final = re.compile(r"(.)\1{2,}", re.DOTALL)
_LATIN_LAST: Final = "\u1eff"
_DEPTH_MAX: Final = 12
# Fields that no model reads: they name, route, sample or describe the request. Quotes, colon and comma stand around each.
_UNREAD: Final = frozenset({
    "model", "user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "store", "stream", "stream_options",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "temperature", "top_p", "top_k", "presence_penalty",
    "frequency_penalty", "logprobs", "top_logprobs", "stop", "stop_sequences", "parallel_tool_calls", "truncation",
})  # fmt: skip
_AROUND_FIELD: Final = 4
# Names of messages' parts whose texts are read by a model in every protocol.
_TEXTS: Final = frozenset({"text", "content", "output", "instructions", "system", "input", "prompt"})
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(Protocol):
    """A parsed request, as far as its input's cost goes."""

    @property
    def fields(self) -> dict[str, msgspec.Raw]: ...
    @property
    def tools(self) -> msgspec.Raw | None: ...
    @property
    def text_bytes(self) -> int: ...
    @property
    def content(self) -> Any | None: ...


class InputRules(NamedTuple):
    """How a deployment's input is bounded. `bytes_per_token_milli` is declared for its tokenizer; 1000 (one)
    holds for every one that falls back to bytes. `inserts_tokens`: what its provider adds to each prompt.
    """

    media: MediaRules = MediaRules()
    bytes_per_token_milli: int = 1000
    inserts_tokens: int = 0


class InputBound(NamedTuple):
    """The most that an input can cost in tokens. `unbounded_items` were taken at their declared maximum. `beside_text`: the part
    of `tokens` that is not the request's own text (a template, tools, media, what is stored).
    """

    tokens: int
    unbounded_items: int
    beside_text: int


NO_RULES: Final = InputRules()


def bound_input(
    asked: Asked, protocol: str, rules: InputRules = NO_RULES, stored_tokens: int = 0
) -> InputBound:
    """An upper bound of a request's input. `stored_tokens` is what the stored response that it goes on from is known to have
    held, input and output.
    """
    per_milli = rules.bytes_per_token_milli
    text = asked.text_bytes if per_milli == 1000 else -(-asked.text_bytes * 1000 // per_milli)
    beside = TEMPLATE_TOKENS + rules.inserts_tokens + stored_tokens
    tools = asked.tools
    if tools is not None:
        beside += TOOLS_TOKENS
        if protocol == "messages":
            beside += NAMED_TOOL_TOKENS * bytes(tools).count(_DATED)
    unbounded = 0
    content = asked.content
    if content is not None:
        cost, unbounded = items_cost(content, rules.media)
        beside += cost
    return InputBound(text + beside, unbounded, beside)


def model_readable_bytes(asked: Asked) -> int:
    """The bytes of a request that a model may read: without the fields that are for its server alone. For an estimate; a bound
    takes all of them.
    """
    unread = sum(
        len(name) + len(raw) + _AROUND_FIELD for name, raw in asked.fields.items() if name in _UNREAD
    )
    return max(0, asked.text_bytes - unread)


def estimated_text_tokens(text_bytes: int) -> int:
    """About what a text costs, for a hold where the bound does not fit what is left and nobody can count: a byte and a half a
    token is less than ordinary text of any script has, but digits, base64 and text made for it pass it.
    """
    return text_bytes * 2 // 3


def least_text(text: str) -> int:
    """A lower bound of a text's tokens: at least one for each piece (`_PIECES`), and more for a long one. At most
    `LEAST_CHARS_MAX` characters are read.
    """
    pieces = _PIECES.findall(text[:LEAST_CHARS_MAX])
    return len(pieces) + sum(_more(piece) for piece in pieces if len(piece) > _WORD_CHARS)


def _more(piece: str) -> int:
    """How many tokens more than one a long piece is at least."""
    varied = _RUN.sub(r"\1", piece)
    size, different = len(varied), len(set(varied))
    if different <= _PATTERN_CHARS:
        return 0
    if size > _COMPRESSED_FROM_CHARS:
        data = varied.encode("utf-8", "replace")
        size = min(size, size * _SHRINKS * len(zlib.compress(data, 1)) // len(data))
    return max(0, size // (_OTHER_CHARS if piece[0] > _LATIN_LAST else _WORD_CHARS) - 1)


def least_output(shown_bytes: int, progress: int) -> int:
    """Of a text that was sent and not kept: so many bytes in so many events, of which each made one token or more of it.
    Whole texts have fewer bytes a token than `SHOWN_BYTES_PER_TOKEN` in every language; single words may have more.
    """
    return max(progress, shown_bytes // SHOWN_BYTES_PER_TOKEN)


def least_input(asked: Asked, protocol: str) -> int:
    """A lower bound of an input that nobody counted: the texts of its messages, at least 1."""
    left, tokens = LEAST_CHARS_MAX, 0
    for name in ("instructions", "system", "messages", "input", "prompt"):
        raw = asked.fields.get(name)
        if raw is None or len(raw) > LEAST_FIELD_BYTES_MAX:
            continue
        try:
            content = msgspec.json.decode(raw)
        except _UNREADABLE:
            continue
        for text in _texts(content):
            tokens += least_text(text[:left])
            left -= min(left, len(text))
        if protocol in {"completions", "embeddings"} and isinstance(content, list):
            tokens += _counted(content)
    return max(1, tokens)


def _texts(content: Any) -> Iterator[str]:
    """The texts of messages; what a tool was called with and where media lie are not read."""
    waiting: list[tuple[Any, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            yield value
        elif depth < _DEPTH_MAX:
            if isinstance(value, list):
                waiting.extend((item, depth + 1) for item in value)
            elif isinstance(value, dict):
                waiting.extend((value[name], depth + 1) for name in _TEXTS.intersection(value))


def _counted(content: list[Any]) -> int:
    """Tokens that are given as numbers, in one list or in several."""
    return sum(
        len(item) if isinstance(item, list) and item and isinstance(item[0], int) else isinstance(item, int)
        for item in content
    )
