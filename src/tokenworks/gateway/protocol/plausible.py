"""Bounds the tokens that a correct usage report can have. A report beyond its bounds cannot be true.

docs/METERING.md derives each bound. A report within the bounds is charged as it is; an unusual one gets a flag. The maximum sent to
the upstream is not a matter of plausibility: the exchange enforces it.
"""

from typing import Final, NamedTuple

from tokenworks.catalog import Counts

# Tokens that end a choice, mark its parts, or are removed from its text (line ends, a stop sequence).
MARK_TOKENS: Final = 64
# Tokens around one tool call: markers, keys, quotes and indents that a parser removes.
CALL_TOKENS: Final = 128
# Arguments of tool calls are parsed and encoded compactly: their indents and spaces are not visible. Tokens per visible byte.
CALL_REWRITTEN: Final = 2
# Tokens that templates and vendors add to a request: roles, instructions for tools, a system prompt of the vendor.
TEMPLATE_TOKENS: Final = 32_768
# Samplings of one request at the vendor: a loop of the vendor's own tools, compactions (Anthropic pauses a turn after ten).
ROUNDS_MAX: Final = 20
# Fewer or more bytes per token than these are odd in any language, but possible.
_BYTES_MIN: Final = 2
_BYTES_MAX: Final = 32
# Indices of the input and output classes in `Counts`.
_INPUTS: Final = (0, 1, 2, 3, 7)
_OUTPUTS: Final = (4, 5, 6)
NOTHING: Final = Counts()


class RequestShape(NamedTuple):
    """The properties of a request and its deployment that bound the answer."""

    protocol: str
    context_tokens: int
    """The deployment's context, per input and choice."""
    inputs: int = 1
    """The number of texts in a batch (embeddings, prompts of completions)."""
    choices: int = 1
    """The number of generated answers: `n` or `best_of`, for each prompt."""
    text_bytes: int | None = None
    """An upper bound of the bytes of input text; None if the input may have other content (media, files, a stored context)."""
    hides_reasoning: bool = False
    """True if the request or the deployment allows reasoning that is not shown."""


class VisibleOutput(NamedTuple):
    """The visible part of the model's output."""

    text_bytes: int
    """Bytes of all text: answers, reasoning, names and arguments of tool calls."""
    calls: int = 0
    hidden: bool = False
    """True if the answer indicates hidden output: reasoning, a compaction or a content filter."""
    media: bool = False
    """True if the answer has sound or images, whose tokens have no text."""


class ImplausibleUsage(NamedTuple):
    """The reported tokens beyond the bounds, by class, and flags for the usage record (`implausible`, `odd`)."""

    counts: Counts
    flags: tuple[str, ...]


def is_plausible(counts: Counts, text_bytes: int, context_tokens: int, body_bytes: int) -> bool:
    """A quick check of the usage of an answer that is not streamed, to a request of text only. True proves that `bound` would find
    nothing implausible or odd; False proves nothing. `text_bytes`: the bytes of input text at most; `body_bytes`: the answer's length.
    """
    fresh, cached, written, audio, output, reasoning, audio_output, written_long = counts
    input_tokens = fresh + cached + written + audio + written_long
    output_tokens = output + reasoning + audio_output
    return (
        input_tokens <= context_tokens
        and input_tokens <= text_bytes + TEMPLATE_TOKENS
        and output_tokens <= context_tokens
        and output_tokens * _BYTES_MIN <= body_bytes
    )


def bound(counts: Counts, request: RequestShape, shown: VisibleOutput) -> ImplausibleUsage:
    """The part of a usage report beyond its bounds, and the flags of a report that is beyond them or odd."""
    beyond = [0] * len(counts)
    excess = max(0, counts.input_tokens - input_most(request))
    for token_class in _INPUTS:
        beyond[token_class] = min(counts[token_class], excess)
        excess -= beyond[token_class]
    beyond[4] = max(0, counts.output - visible_most(counts, request, shown))
    # All output fits the context, visible or not.
    excess = max(0, counts.output_tokens - beyond[4] - output_most(request))
    for token_class in _OUTPUTS:
        more = min(counts[token_class] - beyond[token_class], excess)
        beyond[token_class] += more
        excess -= more
    if any(beyond):
        return ImplausibleUsage(Counts(*beyond), ("implausible",))
    return ImplausibleUsage(NOTHING, ("odd",) if _is_odd(counts, request, shown) else ())


def input_most(request: RequestShape) -> int:
    """The maximum of input tokens: the context of each input and sampling, and at most one token per byte of text."""
    rounds = ROUNDS_MAX if request.protocol in {"messages", "responses"} else 1
    most = request.context_tokens * max(1, request.inputs) * rounds
    if request.text_bytes is not None:
        most = min(most, (request.text_bytes + TEMPLATE_TOKENS * max(1, request.inputs)) * rounds)
    return most


def output_most(request: RequestShape) -> int:
    """The maximum of output tokens: the context of each choice and sampling. An embedding has no output."""
    if request.protocol == "embeddings":
        return 0
    rounds = ROUNDS_MAX if request.protocol in {"messages", "responses"} else 1
    return request.context_tokens * max(1, request.choices) * rounds


def visible_most(counts: Counts, request: RequestShape, shown: VisibleOutput) -> int:
    """The maximum of tokens of class `output`. If all output is visible, each token has at least one byte."""
    if request.protocol == "embeddings":
        return 0
    if request.hides_reasoning or shown.hidden or shown.media:
        return output_most(request)
    written = CALL_REWRITTEN if shown.calls else 1
    most = shown.text_bytes * written + MARK_TOKENS * max(1, request.choices) + CALL_TOKENS * shown.calls
    return min(most, output_most(request))


def _is_odd(counts: Counts, request: RequestShape, shown: VisibleOutput) -> bool:
    """True if the tokens are much shorter or longer than in any language: possible, but worth a flag."""
    if request.protocol == "embeddings" or shown.media:
        return False
    marks = MARK_TOKENS * max(1, request.choices) + CALL_TOKENS * shown.calls
    if counts.output_tokens * _BYTES_MAX + marks < shown.text_bytes:
        return True
    hidden = request.hides_reasoning or shown.hidden
    return not hidden and counts.output * _BYTES_MIN > shown.text_bytes + marks * _BYTES_MIN
