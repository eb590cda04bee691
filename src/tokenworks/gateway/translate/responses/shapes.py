"""The fields that the reader of streams takes of an event of responses. A field typed `object` may have any JSON value.

The module is not compiled, since a compiled Struct loses its class keywords.
"""

import msgspec


class ResponsesEvent(msgspec.Struct, gc=False):
    type: str = ""
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    item: object = None
    part: object = None
    response: object = None
