"""Makes the meter of a stream: each protocol has its own class, all with the interface of `StreamMeter` (`meter.py`)."""

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
    """`requested_model`: the model's name that the client requested, which replaces the upstream's name in each event (empty: the
    upstream's name stays). `text_max`: the maximum of output tokens sent to the upstream, or None. `keep_bytes_max`: bytes of text
    kept for a tokenizer. `choices`: the number of choices that the client requested.
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
    """The meter of an answer that is not streamed, with `shown_bytes`, `calls`, `choices`, `hidden`, `filtered` and `kept`."""
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
