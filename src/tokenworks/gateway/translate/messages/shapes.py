"""The fields that are read of a stream's events. The module is not compiled, since a compiled Struct loses its class keywords."""

import msgspec


class StreamBlock(msgspec.Struct, gc=False):
    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: object = None


class StreamDelta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class StreamMessage(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: object = None


class StreamEvent(msgspec.Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: StreamDelta | None = None
    content_block: StreamBlock | None = None
    message: StreamMessage | None = None
    usage: object = None
