"""The fields that the meters read of a stream's events, by protocol.

A field typed `object` may have any JSON value; the meter narrows it. The module is not compiled, since a compiled Struct loses its
class keywords.
"""

import msgspec


class ChatFunction(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class ChatCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: ChatFunction | None = None
    custom: ChatFunction | None = None


class ChatDelta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ChatCall] | None = None
    function_call: ChatFunction | None = None
    reasoning_details: object = None
    audio: object = None


class ChatChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: ChatDelta | None = None
    message: ChatDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: object = None


class ChatChunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[ChatChoice] | None = None
    usage: object = None
    error: object = None
    base_resp: object = None
    x_groq: object = None


class MessagesBlock(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: object = None
    content: object = None


class MessagesDelta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    content: str | None = None
    stop_reason: str | None = None


class MessagesMessage(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: object = None
    stop_reason: str | None = None


class MessagesEvent(msgspec.Struct, gc=False):
    type: str = ""
    index: int | None = None
    delta: MessagesDelta | None = None
    content_block: MessagesBlock | None = None
    message: MessagesMessage | None = None
    usage: object = None
    error: object = None


class ResponsesResponse(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    usage: object = None
    error: object = None
    output: object = None
    incomplete_details: object = None


class ResponsesEvent(msgspec.Struct, gc=False):
    type: str = ""
    item_id: str | None = None
    output_index: int | None = None
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    code: str | None = None
    item: object = None
    part: object = None
    response: ResponsesResponse | None = None
    error: object = None
