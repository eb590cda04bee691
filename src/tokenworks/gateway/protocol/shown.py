"""The visible output of an answer that is not streamed, for the bounds of `plausible.py`. A stream's meter counts it event by event."""

from typing import Final

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.plausible import VisibleOutput
from tokenworks.gateway.protocol.stream import read_whole

# A text with more bytes per token than this is odd (docs/METERING.md).
_BYTES_PER_TOKEN_MAX: Final = 32
# Inside a JSON text the quotes would be escaped, so these bytes are member names or values of the answer itself.
_MEDIA: Final = (b'"audio"', b'"b64_json"', b'"image_generation_call"', b'"output_audio"')


def visible_output(body: bytes, protocol: str, counts: Counts) -> VisibleOutput:
    """The body's length is an upper bound of its text; the body is read only if the report has more output tokens than that."""
    size, output_tokens = len(body), counts.output_tokens
    if output_tokens <= size:
        # The length includes the JSON around the text, so it is limited: no answer is odd for being short.
        return VisibleOutput(min(size, output_tokens * _BYTES_PER_TOKEN_MAX))
    meter = read_whole(protocol, body)
    hidden = meter.hidden or meter.filtered
    return VisibleOutput(meter.shown_bytes, meter.calls, hidden, media=any(sign in body for sign in _MEDIA))
