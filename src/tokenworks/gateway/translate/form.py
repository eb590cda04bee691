"""The intermediate form of translation: a request, an answer and a stream's events, in no protocol's spelling. Typed, pure, without I/O.

Each protocol has a codec (`chat`, `messages`, `responses`) that reads its own spelling into this form and writes it from this form, so a
request goes from one protocol to any other in two steps, and so does its answer. docs/TRANSLATION.md has every field of every protocol:
carried, approximated or refused. A module with Struct types is not compiled (docs/decisions/0059).
"""

from enum import StrEnum
from typing import Literal

import msgspec

from tokenworks.catalog import Counts

JsonObject = dict[str, object]
Role = Literal["user", "assistant"]
ImageDetail = Literal["auto", "low", "high", "original"]
CacheLifetime = Literal["5m", "1h"]


# The parts of a turn.


class Text(msgspec.Struct, frozen=True, gc=False):
    """`cache`: the prompt up to here is written into the provider's cache (Anthropic's `cache_control`); other protocols cache unasked."""

    text: str
    cache: CacheLifetime | None = None


class Image(msgspec.Struct, frozen=True, gc=False):
    """An image, by exactly one of `url`, `data` (base64, with `media_type`) and `file_id`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    file_id: str | None = None
    detail: ImageDetail | None = None
    cache: CacheLifetime | None = None


class File(msgspec.Struct, frozen=True, gc=False):
    """A document, by exactly one of `url`, `data` (base64), `text` (plain text) and `file_id`."""

    url: str | None = None
    data: str | None = None
    text: str | None = None
    file_id: str | None = None
    media_type: str | None = None
    name: str | None = None
    cache: CacheLifetime | None = None


class Audio(msgspec.Struct, frozen=True, gc=False):
    """A sound in base64. `format`: `wav`, `mp3` …"""

    data: str
    format: str


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """What a model thought, in the order in which it did. `text` is the reasoning itself; `summary` has the summaries in its place.

    `signature` (Anthropic) and `encrypted` (OpenAI's `encrypted_content`, Anthropic's `redacted_thinking`) mean something only to the
    provider that made them. `item_id` is the provider's name of a reasoning item.
    """

    text: str = ""
    summary: tuple[str, ...] = ()
    signature: str | None = None
    encrypted: str | None = None
    item_id: str | None = None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A model's words of why it does not answer."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A model's call of a client's tool. `arguments`: JSON text as the model wrote it, or free text for a `custom` tool.

    `namespace`: the group of tools (Codex) in which the name stands.
    """

    call_id: str
    name: str
    arguments: str
    custom: bool = False
    namespace: str | None = None
    item_id: str | None = None
    cache: CacheLifetime | None = None


class ToolResult(msgspec.Struct, frozen=True, gc=False):
    """What the client's tool returned to a call."""

    call_id: str
    content: "tuple[Text | Image | File, ...]"
    is_error: bool = False
    custom: bool = False
    cache: CacheLifetime | None = None


Part = Text | Image | File | Audio | Reasoning | Refused | ToolCall | ToolResult
AnswerPart = Text | Reasoning | Refused | ToolCall


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One side's part of the conversation. Two turns of one role may follow each other; a codec whose protocol forbids it joins them."""

    role: Role
    parts: tuple[Part, ...]


class Instruction(msgspec.Struct, frozen=True, gc=False):
    """A system or developer message in the midst of a conversation. Those before the first turn are in `Request.system`."""

    parts: tuple[Text, ...]


# Tools and the shape of the answer.


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A tool that the client runs. `parameters`: a JSON Schema, or None if the client gave none. `grammar`: of a custom tool, its
    (syntax, definition). `namespace`: the group in which the name stands. `builtin`: the type of a tool that its protocol defines and
    the client runs (`local_shell`, `shell`, `apply_patch`); for another protocol it is a function with this name and these parameters.
    """

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    custom: bool = False
    grammar: tuple[str, str] | None = None
    namespace: str | None = None
    cache: CacheLifetime | None = None
    builtin: str | None = None


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """`mode`: the model decides (`auto`), calls none (`none`), has to call one (`required`), or has to call `name` (`tool`). `allowed`:
    the names among which it may choose, or None for all.
    """

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None
    namespace: str | None = None
    custom: bool = False
    allowed: tuple[str, ...] | None = None


class OutputFormat(msgspec.Struct, frozen=True, gc=False):
    """JSON of any shape, or JSON by a schema."""

    kind: Literal["json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ReasoningOptions(msgspec.Struct, frozen=True, gc=False):
    """How much the model is to think. `enabled` None: the client did not say. `budget_tokens`: the most reasoning tokens.

    `summary`: the wish for summaries (`auto`, `concise`, `detailed`), or None. `adaptive`: the model decides by itself (Anthropic).
    `encrypted`: the client wants the encrypted reasoning in the answer, to send it back (`include: ["reasoning.encrypted_content"]`).
    """

    enabled: bool | None = None
    effort: Effort | None = None
    budget_tokens: int | None = None
    summary: str | None = None
    adaptive: bool = False
    encrypted: bool = False


class Request(msgspec.Struct, frozen=True):
    """A whole request. A field that is None was not given. Output tokens include reasoning in every protocol."""

    model: str
    turns: tuple[Turn | Instruction, ...]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    format: OutputFormat | None = None
    verbosity: str | None = None
    reasoning: ReasoningOptions = ReasoningOptions()
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: JsonObject | None = None
    service_tier: str | None = None
    stream: bool = False
    # Of a stream: the client wants usage at its end. Messages and responses have it always.
    stream_usage: bool = False


# The answer.


class Stop(StrEnum):
    """Why a model stopped. `PAUSE`: a long turn was paused, and the client sends it back to go on. `CONTEXT`: the context is full."""

    END = "end"
    LENGTH = "length"
    CONTEXT = "context"
    TOOL = "tool"
    SEQUENCE = "sequence"
    FILTER = "filter"
    REFUSAL = "refusal"
    PAUSE = "pause"


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. `usage` None: the provider reported none. `created_s`: epoch seconds; 0: not told."""

    answer_id: str
    model: str
    parts: tuple[AnswerPart, ...]
    stop: Stop | None
    stop_sequence: str | None = None
    usage: Counts | None = None
    created_s: int = 0
    service_tier: str | None = None


# The events of a stream. Parts are numbered from 0 in the order in which they begin; one part may still be open when the next begins
# (chat sends pieces of several tool calls in turn).


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The first event. `usage`: of the input, where the protocol tells it at the beginning (messages)."""

    answer_id: str
    model: str
    created_s: int = 0
    usage: Counts | None = None


class TextBegin(msgspec.Struct, frozen=True, gc=False):
    part: int


class RefusedBegin(msgspec.Struct, frozen=True, gc=False):
    part: int


class ReasoningBegin(msgspec.Struct, frozen=True, gc=False):
    part: int
    item_id: str | None = None


class CallBegin(msgspec.Struct, frozen=True, gc=False):
    part: int
    call_id: str
    name: str
    custom: bool = False
    namespace: str | None = None
    item_id: str | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a part's text: of the text, refusal or reasoning, or of a call's arguments, as its beginning says. Never empty."""

    part: int
    text: str


class SummaryDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of summary number `number` of a reasoning part."""

    part: int
    number: int
    text: str


class Signed(msgspec.Struct, frozen=True, gc=False):
    """The signature or the encrypted content of a reasoning part, whole."""

    part: int
    signature: str | None = None
    encrypted: str | None = None


class PartEnd(msgspec.Struct, frozen=True, gc=False):
    part: int


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The model stopped. All parts have ended before it. Usage may follow (chat), so it is an event of its own."""

    stop: Stop
    stop_sequence: str | None = None


class UsageReport(msgspec.Struct, frozen=True, gc=False):
    """The usage of the whole answer. A later report replaces an earlier one."""

    usage: Counts


class End(msgspec.Struct, frozen=True, gc=False):
    """The stream ended as its protocol says."""


Event = (
    Begin
    | TextBegin
    | RefusedBegin
    | ReasoningBegin
    | CallBegin
    | Delta
    | SummaryDelta
    | Signed
    | PartEnd
    | Finish
    | UsageReport
    | End
)


class Untranslatable(Exception):
    """A request that the other protocol can't express. `param`: the field, as the client named it. Nothing was sent."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message
