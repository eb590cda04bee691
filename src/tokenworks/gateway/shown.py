"""What a whole answer shows of what was made, for the bounds of plausibility. A stream's meter counts it as it goes."""

from typing import Final

from tokenworks.catalog import Counts
from tokenworks.gateway.plausible import Shown

# A text of more bytes than this a token is odd (docs/METERING.md).
_BYTES_PER_TOKEN_MAX: Final = 32
# Inside a text the quotes would be escaped, so these are members of the answer itself.
_CALLS: Final = (b'"arguments"', b'"tool_use"', b'"input":{')
_HIDDEN: Final = (
    b'"encrypted_content"', b'"redacted_thinking"', b'"thinking"', b'"reasoning"', b'"summary"', b'"compaction"', b'"iterations"', b'"signature"',
)  # fmt: skip
_MEDIA: Final = (b'"audio"', b'"b64_json"', b'"image_generation_call"', b'"output_audio"')


def shown_of_body(body: bytes, counts: Counts) -> Shown:
    """The body's bytes bound its text. Signs of what shows as no text are looked for only where that bound is passed."""
    size, made = len(body), counts.output_tokens
    if made <= size:
        # The JSON around a short text is not told from it: no answer is odd for being short.
        return Shown(min(size, made * _BYTES_PER_TOKEN_MAX))
    return Shown(
        size,
        calls=max(body.count(sign) for sign in _CALLS),
        hidden=any(sign in body for sign in _HIDDEN),
        media=any(sign in body for sign in _MEDIA),
    )
