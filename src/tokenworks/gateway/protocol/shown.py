"""What a whole answer shows of what was made, for the bounds of plausibility. A stream's meter counts it as it goes."""

from typing import Final

from tokenworks.catalog import Counts
from tokenworks.gateway.protocol.plausible import VisibleOutput
from tokenworks.gateway.protocol.stream import read_whole

# A text of more bytes than this a token is odd (docs/METERING.md).
_BYTES_PER_TOKEN_MAX: Final = 32
# Inside a text the quotes would be escaped, so these are members of the answer itself.
_MEDIA: Final = (b'"audio"', b'"b64_json"', b'"image_generation_call"', b'"output_audio"')


def visible_output(body: bytes, protocol: str, counts: Counts) -> VisibleOutput:
    """The body's bytes bound its text; it is read only where more tokens are reported than that."""
    size, made = len(body), counts.output_tokens
    if made <= size:
        # The JSON around a short text is not told from it: no answer is odd for being short.
        return VisibleOutput(min(size, made * _BYTES_PER_TOKEN_MAX))
    meter = read_whole(protocol, body)
    hidden = meter.hidden or meter.filtered
    return VisibleOutput(meter.shown_bytes, meter.calls, hidden, media=any(sign in body for sign in _MEDIA))
