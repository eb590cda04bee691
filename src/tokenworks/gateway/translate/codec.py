"""The interface of a protocol's codec: it reads the protocol's own spelling into the intermediate form and writes it from that form.

A reader is tolerant: a field that it can't read costs that field, and what it does not carry is named. A writer is strict: what it
writes is valid in its protocol. Neither has I/O, a clock or a source of random numbers: ids and times come in by `Naming`.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from tokenworks.gateway.translate.form import Answer, Event, JsonObject, Request

# How a deployment that speaks chat is told to think: by `reasoning_effort` (OpenAI and most others), `thinking: {type}` (Zhipu, DeepSeek,
# Volcengine), `enable_thinking` and `thinking_budget` (DashScope, SiliconFlow), `chat_template_kwargs` (vLLM, SGLang, llama.cpp),
# `reasoning: {effort, max_tokens}` (OpenRouter), or not at all.
ReasoningSwitch = Literal["effort", "thinking", "enable_thinking", "template", "reasoning", "none"]


class Target(msgspec.Struct, frozen=True):
    """What a writer of requests has to know of the deployment.

    `reasoning_field`: the field of an assistant message of chat in which earlier reasoning is sent back (`reasoning_content`,
    `reasoning`); None: it is left out, and named as dropped. `default_max_tokens`: the maximum for a protocol that demands one (messages)
    if the client gave none. `signed_reasoning`: the deployment made the signatures in the conversation, so they are sent back.

    Of a deployment that speaks messages: `adaptive_thinking`: its model takes no budget of thinking and always decides by itself (Claude
    Opus 4.7 and later). `structured_output`: it enforces a JSON Schema. `system_turns`: it takes system messages in the midst.
    """

    default_max_tokens: int = 4096
    reasoning_switch: ReasoningSwitch = "effort"
    reasoning_field: str | None = "reasoning_content"
    signed_reasoning: bool = False
    adaptive_thinking: bool = False
    structured_output: bool = False
    system_turns: bool = False


class Naming(msgspec.Struct, frozen=True):
    """What a writer of answers names: the answer's id without its protocol's prefix, the model as the client requested it, and the time
    in epoch seconds. `request`: what the client asked for, which an answer of responses repeats.
    """

    answer_id: str
    model: str
    created_s: int
    request: Request


class EventReader(Protocol):
    def read(self, name: str, payload: bytes) -> Sequence[Event]:
        """The events in one event of the stream. `name`: of its `event:` line, or ""; `payload`: its data. A payload that can't be
        read gives none.
        """
        ...

    def finish(self) -> Sequence[Event]:
        """The events that are still due after the last byte: ends of parts, `Finish` if a reason was read, `End`."""
        ...


class EventWriter(Protocol):
    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes of the stream for these events; empty if nothing can be said yet."""
        ...


class Codec(Protocol):
    def read_request(self, fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
        """(the request, the names of fields that are not carried). Raises `Untranslatable`."""
        ...

    def write_request(self, request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
        """(the body, the names of what this protocol can't express, as the form calls them). Raises `Untranslatable`."""
        ...

    def read_answer(self, fields: JsonObject) -> Answer: ...

    def write_answer(self, answer: Answer, naming: Naming) -> JsonObject: ...

    def event_reader(self) -> EventReader: ...

    def event_writer(self, naming: Naming) -> EventWriter: ...
