"""How many tokens an honest answer of its kind can have at most. What is beyond is a report that cannot be true.

Each bound is derived in docs/METERING.md. Below it a report is charged as it is, however odd: it is only flagged. The
maximum that the upstream was sent is no matter of plausibility, it is enforced by the exchange.
"""

from typing import Final, NamedTuple

from tokenworks.catalog import Counts

# Tokens that end a choice, mark its parts, or are stripped from its text (line ends, a stop sequence).
MARK_TOKENS: Final = 64
# Tokens around one call: markers, keys, quotes and indents that a parser takes away.
CALL_TOKENS: Final = 128
# A call's arguments are parsed and written anew, compactly: what indents and spaces them does not show.
CALL_REWRITTEN: Final = 2
# What templates and vendors put before a request: roles, instructions for tools, a prompt of the house.
TEMPLATE_TOKENS: Final = 32_768
# Samplings of one request at the vendor: a loop of its own tools, compactions (Anthropic pauses a turn after ten).
ROUNDS_MAX: Final = 20
# Fewer bytes than this a token, or more than this, is odd in any language, but possible.
_BYTES_MIN: Final = 2
_BYTES_MAX: Final = 32
_INPUTS: Final = (0, 1, 2, 3, 7)
_OUTPUTS: Final = (4, 5, 6)
NOTHING: Final = Counts()


class RequestShape(NamedTuple):
    """What was asked for, as far as it bounds the answer."""

    protocol: str
    context_tokens: int
    """The deployment's context, per input and choice."""
    inputs: int = 1
    """Texts of a batch (embeddings, prompts of completions)."""
    choices: int = 1
    """Answers that are made: `n` or `best_of`, for every prompt."""
    text_bytes: int | None = None
    """Upper bound of the bytes that become input text; None where something else may (media, files, a stored context)."""
    hides_reasoning: bool = False
    """Whether reasoning may be made that is not shown: by the request or by the deployment."""


class VisibleOutput(NamedTuple):
    """What the answer shows of what was made."""

    text_bytes: int
    """All text: answers, reasoning, names and arguments of calls."""
    calls: int = 0
    hidden: bool = False
    """Whether it says of reasoning, compaction or a filter that not all is shown."""
    media: bool = False
    """Whether it brings sound or images, whose tokens have no text."""


class ImplausibleUsage(NamedTuple):
    """Tokens that no honest answer can have, by class, and flags for the record (`implausible`, `odd`)."""

    counts: Counts
    flags: tuple[str, ...]


def is_plausible(counts: Counts, asked_bytes: int, context_tokens: int, body_bytes: int) -> bool:
    """Whether a report of an unstreamed answer to a text is within every bound of `bound` and not odd, by a look at four numbers:
    `bound` would find nothing. `asked_bytes`: what becomes input text at most; `body_bytes`: the answer's.
    """
    fresh, cached, written, audio, output, reasoning, audio_output, written_long = counts
    inputs, made = fresh + cached + written + audio + written_long, output + reasoning + audio_output
    return (
        inputs <= context_tokens
        and inputs <= asked_bytes + TEMPLATE_TOKENS
        and made <= context_tokens
        and made * _BYTES_MIN <= body_bytes
    )


def bound(counts: Counts, asked: RequestShape, shown: VisibleOutput) -> ImplausibleUsage:
    """What of a report is beyond its bounds; flags where it is beyond or only odd."""
    beyond = [0] * len(counts)
    most_in, most_out, most_thought = (
        input_most(asked),
        visible_most(counts, asked, shown),
        output_most(asked),
    )
    left = max(0, counts.input_tokens - most_in)
    for at in _INPUTS:
        beyond[at] = min(counts[at], left)
        left -= beyond[at]
    beyond[4] = max(0, counts.output - most_out)
    # All that was made fits the context, whatever is shown of it.
    left = max(0, counts.output_tokens - beyond[4] - most_thought)
    for at in _OUTPUTS:
        more = min(counts[at] - beyond[at], left)
        beyond[at] += more
        left -= more
    if any(beyond):
        return ImplausibleUsage(Counts(*beyond), ("implausible",))
    return ImplausibleUsage(NOTHING, ("odd",) if _is_odd(counts, asked, shown) else ())


def input_most(asked: RequestShape) -> int:
    """Input tokens at most: the context of every input (and sampling), and no more than its text has bytes."""
    rounds = ROUNDS_MAX if asked.protocol in {"messages", "responses"} else 1
    most = asked.context_tokens * max(1, asked.inputs) * rounds
    if asked.text_bytes is not None:
        most = min(most, (asked.text_bytes + TEMPLATE_TOKENS * max(1, asked.inputs)) * rounds)
    return most


def output_most(asked: RequestShape) -> int:
    """Output tokens at most: the context of every choice (and sampling); an embedding has none."""
    if asked.protocol == "embeddings":
        return 0
    rounds = ROUNDS_MAX if asked.protocol in {"messages", "responses"} else 1
    return asked.context_tokens * max(1, asked.choices) * rounds


def visible_most(counts: Counts, asked: RequestShape, shown: VisibleOutput) -> int:
    """Tokens of class `output` at most. Where all that is made shows, a token shows as a byte at least."""
    if asked.protocol == "embeddings":
        return 0
    if asked.hides_reasoning or shown.hidden or shown.media:
        return output_most(asked)
    written = CALL_REWRITTEN if shown.calls else 1
    most = shown.text_bytes * written + MARK_TOKENS * max(1, asked.choices) + CALL_TOKENS * shown.calls
    return min(most, output_most(asked))


def _is_odd(counts: Counts, asked: RequestShape, shown: VisibleOutput) -> bool:
    """Possible, and worth a look: a text whose tokens are much shorter or longer than any language's."""
    if asked.protocol == "embeddings" or shown.media:
        return False
    marks = MARK_TOKENS * max(1, asked.choices) + CALL_TOKENS * shown.calls
    made = counts.output_tokens
    if made * _BYTES_MAX + marks < shown.text_bytes:
        return True
    hidden = asked.hides_reasoning or shown.hidden
    return not hidden and counts.output * _BYTES_MIN > shown.text_bytes + marks * _BYTES_MIN
