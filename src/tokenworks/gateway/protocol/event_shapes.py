"""What is read of the events of streams, by protocol. Not compiled: a compiled Struct loses its class keywords."""

from typing import Any

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
    reasoning_details: Any = None
    audio: Any = None


class ChatChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: ChatDelta | None = None
    message: ChatDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: Any = None


class ChatChunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[ChatChoice] | None = None
    usage: Any = None
    error: Any = None
    base_resp: Any = None
    x_groq: Any = None


class MessagesBlock(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: Any = None
    content: Any = None


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
    usage: Any = None
    stop_reason: str | None = None


class MessagesEvent(msgspec.Struct, gc=False):
    type: str = ""
    index: int | None = None
    delta: MessagesDelta | None = None
    content_block: MessagesBlock | None = None
    message: MessagesMessage | None = None
    usage: Any = None
    error: Any = None


class ResponsesResponse(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    usage: Any = None
    error: Any = None
    output: Any = None
    incomplete_details: Any = None


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
    item: Any = None
    part: Any = None
    response: ResponsesResponse | None = None
    error: Any = None
