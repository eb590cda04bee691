"""The door to metering a stream: one meter a protocol, with one interface (`meter.py`)."""

from typing import Final

from tokenworks.gateway.protocol.chat import ChatMeter
from tokenworks.gateway.protocol.messages import MessagesMeter
from tokenworks.gateway.protocol.meter import EventTooLarge, StreamMeter, UsageOptions
from tokenworks.gateway.protocol.responses import ResponsesMeter
from tokenworks.gateway.protocol.usage import BOM

__all__ = ["EventTooLarge", "StreamMeter", "UsageOptions", "make_meter", "read_whole"]

_METERS: Final[dict[str, type[StreamMeter]]] = {"messages": MessagesMeter, "responses": ResponsesMeter}


def make_meter(
    protocol: str,
    *,
    requested_model: str,
    usage_options: UsageOptions,
    event_bytes_max: int,
    text_max: int | None,
    keep_bytes_max: int = 0,
    choices: int = 1,
) -> StreamMeter:
    """`requested_model`: the name that the client asked for, which every event says instead of the upstream's (empty: events
    keep theirs). `text_max`: output tokens that the upstream was asked for at most, or None. `keep_bytes_max`: how much of
    the text is kept for a tokenizer.
    """
    return _METERS.get(protocol, ChatMeter)(
        protocol=protocol,
        requested_model=requested_model,
        usage_options=usage_options,
        event_bytes_max=event_bytes_max,
        text_max=text_max,
        keep_bytes_max=keep_bytes_max,
        choices=choices,
    )


def read_whole(protocol: str, body: bytes, *, keep_bytes_max: int = 0) -> StreamMeter:
    """What an answer that is not streamed shows: `shown_bytes`, `calls`, `choices`, `hidden`, `filtered`, `kept`."""
    meter = make_meter(
        protocol,
        requested_model="",
        usage_options=UsageOptions(),
        event_bytes_max=len(body),
        text_max=None,
        keep_bytes_max=keep_bytes_max,
    )
    if protocol != "embeddings":
        meter.read_whole(body.removeprefix(BOM))
    return meter
