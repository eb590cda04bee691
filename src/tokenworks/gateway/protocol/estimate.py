"""Bounds of a request's input tokens from its bytes: an upper bound before the request is sent, and a lower bound for an input that
was not counted.

A tokenizer that falls back to bytes makes at most one token per byte of text, and text encoded as JSON is never shorter than the
text itself, so the body's length is an upper bound of its tokens. The lower bound rests on the fact that no tokenizer in use joins
words. docs/BOUNDS.md has the derivation.
"""

import re
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import msgspec

from tokenworks.factory import MediaRules
from tokenworks.gateway.protocol.media_items import items_cost

# Tokens that a chat template adds to the messages beyond the length of their JSON: a system text, a date, the start of the answer.
TEMPLATE_TOKENS: Final = 128
# The tokens of a provider's system text for tools, and of one of Anthropic's own tools, which is named only ("Tool use", pricing).
TOOLS_TOKENS: Final = 640
NAMED_TOOL_TOKENS: Final = 1280
# The names of Anthropic's own tools end in a date: bash_20250124.
_DATED: Final = b"_20"
# The lower bound reads at most so many characters, and no field of more bytes. A bound of a part is a bound of the whole.
LEAST_CHARS_MAX: Final = 256 * 1024
LEAST_FIELD_BYTES_MAX: Final = 8 * 1024 * 1024
# Pieces that no token of the tokenizers in use spans: a word of letters, a number, a run of another script.
_PIECES: Final = re.compile(
    r"[A-Za-z\u00c0-\u036f\u1e00-\u1eff]+(?:'[A-Za-z]+)?|[0-9]+|[^\x00-\u036f\u1e00-\u1eff\u2000-\u206f\s]+"
)
# Characters of the longest tokens of ordinary text: in letters, and in a script that is written without spaces.
_WORD_CHARS: Final = 24
_OTHER_CHARS: Final = 5
# A piece with so few different characters is a pattern or padding, for which tokenizers have long tokens.
_PATTERN_CHARS: Final = 8
# Compression finds text that repeats at a distance; ordinary text shrinks by less than this factor.
_SHRINKS: Final = 2
_COMPRESSED_FROM_CHARS: Final = 256
SHOWN_BYTES_PER_TOKEN: Final = 8
_RUN: Final = re.compile(r"(.)\1{2,}", re.DOTALL)
_LATIN_LAST: Final = "\u1eff"
_DEPTH_MAX: Final = 12
# Fields that no model reads: they name, route or describe the request, or set its sampling. Each field has two quotes, a colon and
# a comma around its name and value.
_UNREAD: Final = frozenset({
    "model", "user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "store", "stream", "stream_options",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "temperature", "top_p", "top_k", "presence_penalty",
    "frequency_penalty", "logprobs", "top_logprobs", "stop", "stop_sequences", "parallel_tool_calls", "truncation",
})  # fmt: skip
_AROUND_FIELD: Final = 4
# Fields of messages whose texts a model reads, in any protocol.
_TEXTS: Final = frozenset({"text", "content", "output", "instructions", "system", "input", "prompt"})
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RequestInput(Protocol):
    """The parts of a parsed request that determine the cost of its input."""

    @property
    def fields(self) -> dict[str, msgspec.Raw]: ...
    @property
    def tools(self) -> msgspec.Raw | None: ...
    @property
    def text_bytes(self) -> int: ...
    @property
    def content(self) -> object: ...


class InputRules(NamedTuple):
    """How the input of a deployment is bounded. `bytes_per_token_milli` is declared for its tokenizer; 1000 (one byte) holds for
    each tokenizer that falls back to bytes. `inserts_tokens`: tokens that its provider adds to each prompt.
    """

    media: MediaRules = MediaRules()
    bytes_per_token_milli: int = 1000
    inserts_tokens: int = 0


class InputBound(NamedTuple):
    """The maximum of an input in tokens. `unbounded_items`: the number of media items that were counted at their declared maximum.
    `beside_text`: the part of `tokens` that is not the request's own text (a template, tools, media, a stored response).
    """

    tokens: int
    unbounded_items: int
    beside_text: int


NO_RULES: Final = InputRules()


def bound_input(
    request: RequestInput, protocol: str, rules: InputRules = NO_RULES, stored_tokens: int = 0
) -> InputBound:
    """An upper bound of a request's input. `stored_tokens`: the input and output tokens of the stored response that the request
    continues.
    """
    per_milli = rules.bytes_per_token_milli
    text = request.text_bytes if per_milli == 1000 else -(-request.text_bytes * 1000 // per_milli)
    beside = TEMPLATE_TOKENS + rules.inserts_tokens + stored_tokens
    tools = request.tools
    if tools is not None:
        beside += TOOLS_TOKENS
        if protocol == "messages":
            beside += NAMED_TOOL_TOKENS * bytes(tools).count(_DATED)
    unbounded = 0
    content = request.content
    if content is not None:
        cost, unbounded = items_cost(content, rules.media)
        beside += cost
    return InputBound(text + beside, unbounded, beside)


def model_readable_bytes(request: RequestInput) -> int:
    """The bytes of a request that a model may read: all but the fields that only its server reads. This is for an estimate; a
    bound includes all bytes.
    """
    unread = sum(
        len(name) + len(raw) + _AROUND_FIELD for name, raw in request.fields.items() if name in _UNREAD
    )
    return max(0, request.text_bytes - unread)


def estimated_text_tokens(text_bytes: int) -> int:
    """An estimate of a text's tokens, for a hold if the bound exceeds the balance and no tokenizer counts the text. It assumes 1.5
    bytes per token: ordinary text of any script has more, but digits, base64 and adversarial text can have fewer.
    """
    return text_bytes * 2 // 3


def least_text(text: str) -> int:
    """A lower bound of a text's tokens: at least one for each piece (`_PIECES`), and more for a long piece. At most
    `LEAST_CHARS_MAX` characters are read.
    """
    pieces = _PIECES.findall(text[:LEAST_CHARS_MAX])
    return len(pieces) + sum(_least_extra(piece) for piece in pieces if len(piece) > _WORD_CHARS)


def _least_extra(piece: str) -> int:
    """The least number of tokens beyond the first one in a long piece."""
    varied = _RUN.sub(r"\1", piece)
    size, different = len(varied), len(set(varied))
    if different <= _PATTERN_CHARS:
        return 0
    if size > _COMPRESSED_FROM_CHARS:
        data = varied.encode("utf-8", "replace")
        size = min(size, size * _SHRINKS * len(zlib.compress(data, 1)) // len(data))
    return max(0, size // (_OTHER_CHARS if piece[0] > _LATIN_LAST else _WORD_CHARS) - 1)


def least_output(shown_bytes: int, progress: int) -> int:
    """A lower bound of an output whose text was not kept: `shown_bytes` bytes in `progress` events, each with one token or more. A
    whole text has fewer bytes per token than `SHOWN_BYTES_PER_TOKEN` in every language; single words may have more.
    """
    return max(progress, shown_bytes // SHOWN_BYTES_PER_TOKEN)


def least_input(request: RequestInput, protocol: str) -> int:
    """A lower bound, at least 1, of an input that was not counted, from the texts of its messages."""
    left, tokens = LEAST_CHARS_MAX, 0
    for name in ("instructions", "system", "messages", "input", "prompt"):
        raw = request.fields.get(name)
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
            tokens += _token_numbers(content)
    return max(1, tokens)


def _texts(content: object) -> Iterator[str]:
    """The texts of messages, without the arguments of tool calls and the addresses of media."""
    unread: list[tuple[object, int]] = [(content, 0)]
    while unread:
        value, depth = unread.pop()
        if isinstance(value, str):
            yield value
        elif depth < _DEPTH_MAX:
            if isinstance(value, list):
                unread.extend((item, depth + 1) for item in value)
            elif isinstance(value, dict):
                unread.extend((value[name], depth + 1) for name in _TEXTS.intersection(value))


def _token_numbers(content: list[object]) -> int:
    """The number of tokens that the request gives as numbers, in one list or in several."""
    return sum(
        len(item) if isinstance(item, list) and item and isinstance(item[0], int) else isinstance(item, int)
        for item in content
    )
