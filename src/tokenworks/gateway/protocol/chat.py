"""The meter of chat completions and completions: `data: {…}` events, usage in each vendor's place, `[DONE]` at the end."""

from collections.abc import Mapping
from typing import Final

import msgspec

from tokenworks.gateway.protocol.event_shapes import ChatCall, ChatChoice, ChatChunk, ChatDelta, ChatFunction
from tokenworks.gateway.protocol.meter import StreamMeter, UsageOptions, decoded
from tokenworks.gateway.protocol.outcome import FILTERED_FINISHES, fault_of_event
from tokenworks.gateway.protocol.splice import payload_of, without_usage
from tokenworks.gateway.protocol.usage import UNREADABLE, Usage, later_usage, read_openai
from tokenworks.gateway.protocol.vendor_errors import Fault

_ABORTED: Final = "abort"
CHOICES_MAX: Final = 1024


_Fields = Mapping[str, object]
_chunk: Final = msgspec.json.Decoder(ChatChunk)
# Channels of the first choice.
_FIRST_CONTENT: Final = (0, "content")
_FIRST_REASONING: Final = (0, "reasoning")


class ChatMeter(StreamMeter):
    """The meter of chat completions and completions."""

    __slots__ = ("_ended", "_named_calls")

    def __init__(
        self,
        *,
        protocol: str,
        requested_model: str,
        usage_options: UsageOptions,
        event_bytes_max: int,
        text_max: int | None,
        keep_bytes_max: int = 0,
        choices: int = 1,
    ) -> None:
        # Each argument by name: in compiled code `super().__init__(**settings)` passes the dict as the first argument.
        super().__init__(
            protocol=protocol, requested_model=requested_model, usage_options=usage_options, event_bytes_max=event_bytes_max, text_max=text_max,
            keep_bytes_max=keep_bytes_max, choices=choices,
        )  # fmt: skip
        self._ended: set[int] = set()  # choices with a finish reason
        # (id, name) of each tool call, by its choice and index: some engines repeat the name with every piece of its arguments.
        self._named_calls: dict[tuple[int, int | None], tuple[str | None, str]] = {}

    def read_whole(self, body: bytes) -> None:
        try:
            chunk = _chunk.decode(body)
        except UNREADABLE:
            chunk = lenient_chunk(decoded(body))
        for choice in chunk.choices or ():
            self._choice(choice)

    def _take(self, event: bytes) -> bytes:
        payload = event[5:] if event.startswith(b"data:") else payload_of(event)
        try:
            chunk = _chunk.decode(payload)
        except UNREADABLE:
            return self._take_unusual(event)
        choices = chunk.choices
        if (
            choices is None
            or len(choices) != 1
            or chunk.usage is not None
            or chunk.error is not None
            or chunk.base_resp is not None
            or not self.begun
            or self.stopped
        ):
            return self._chunk(event, payload, chunk)
        choice = choices[0]
        delta = choice.delta
        if choice.finish_reason is not None or choice.index or choice.usage is not None:
            return self._chunk(event, payload, chunk)
        # The usual chunk: a piece of the first choice's text, and nothing else.
        if delta is None:
            text = choice.text
            if text is None:
                return self._chunk(event, payload, chunk)
        elif (
            delta.tool_calls is not None
            or delta.reasoning_details is not None
            or delta.refusal is not None
            or delta.function_call is not None
            or delta.audio is not None
        ):
            if not self._count_arguments_piece(delta):
                return self._chunk(event, payload, chunk)
            text = None
        else:
            text = delta.reasoning_content or delta.reasoning
            if text:
                self._show(_FIRST_REASONING, text)
            text = delta.content
        if text:
            self._show(_FIRST_CONTENT, text)
        if self.fault is not None:
            return b""
        if chunk.model != self._model_seen:
            self._learn(payload, chunk.model)
        return event.replace(self._model_old, self._model_new) if self._model_old else event

    def _count_arguments_piece(self, delta: ChatDelta) -> bool:
        """Count a delta that has a piece of one tool call's arguments and nothing else. False, and nothing counted, for any other
        delta.
        """
        calls = delta.tool_calls
        if (
            not calls
            or len(calls) != 1
            or delta.content
            or delta.reasoning_content
            or delta.reasoning
            or delta.refusal
        ):
            return False
        call = calls[0]
        function = call.function
        if (
            function is None
            or function.name
            or call.id
            or not function.arguments
            or delta.reasoning_details
            or delta.function_call
        ):
            return False
        self._show((0, "arguments", call.index, self.calls), function.arguments)
        return True

    def _chunk(self, event: bytes, payload: bytes, chunk: ChatChunk) -> bytes:
        """Read any chunk; returns the bytes that may pass."""
        choices = chunk.choices or []
        if chunk.id is not None and not self.upstream_id:
            self._identify(chunk.id)
        before = self.shown_bytes + self.calls
        finished = False
        for choice in choices:
            finished = self._choice(choice) or finished
        content = self.shown_bytes + self.calls > before
        self._report(chunk, finished=finished)
        fault = self._fault(payload, chunk, choices)
        if fault is not None:
            return self._fail(fault)
        if len(self._ended) >= self.choices:
            self.stopped = True
        if chunk.usage is not None and self._is_unrequested_usage(choices, finished=finished):
            if not choices:
                # A separate usage event that only the gateway requested: the client does not get it.
                return self._pass(b"", content=False) if self.stopped else b""
            event = without_usage(event, payload)
        return self._pass(self._named(event, payload, chunk.model), content=content)

    def _choice(self, choice: ChatChoice) -> bool:
        """Count the text of one choice. True if the choice ends with this chunk."""
        index = choice.index
        if index >= self.choices:
            self.choices = min(index, CHOICES_MAX) + 1
        if choice.text:
            self._show((index, "content"), choice.text)
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(index, delta)
        finish = choice.finish_reason
        if not finish:
            return False
        if finish in FILTERED_FINISHES:
            self.filtered = True
        if 0 <= index < CHOICES_MAX:
            if self.finish_reason is None:
                self.finish_reason = finish
            elif index not in self._ended:
                self._finish_another(finish)
            self._ended.add(index)
        return True

    def _delta(self, index: int, delta: ChatDelta) -> None:
        if delta.content:
            self._show((index, "content"), delta.content)
        # Some vendors write the same reasoning in two fields (OpenRouter, Azure): it counts once.
        reasoning = delta.reasoning_content or delta.reasoning
        if delta.reasoning_details:
            detailed = self._reasoning_of(delta.reasoning_details)
            reasoning = reasoning or detailed
        if reasoning:
            self._show((index, "reasoning"), reasoning)
        if delta.refusal:
            self._show((index, "refusal"), delta.refusal)
        if isinstance(delta.audio, dict):
            transcript = delta.audio.get("transcript")
            if isinstance(transcript, str) and transcript:
                self._show((index, "audio"), transcript)
        for call in delta.tool_calls or ():
            self._call(index, call.index, call.id, call.function or call.custom)
        if delta.function_call is not None:
            self._call(index, None, None, delta.function_call)

    def _reasoning_of(self, details: object) -> str:
        """The text of reasoning details. Encrypted or summarised details set `hidden`."""
        texts = []
        for detail in details if isinstance(details, list) else ():
            if not isinstance(detail, dict):
                continue
            text = detail.get("text")
            if isinstance(text, str):
                texts.append(text)
            if _text(detail.get("type")) in {"reasoning.encrypted", "reasoning.summary"}:
                self.hidden = True
                summary = detail.get("summary")
                texts.append(summary if isinstance(summary, str) else "")
        return "".join(texts)

    def _call(self, index: int, at: int | None, call_id: str | None, function: ChatFunction | None) -> None:
        """Count a piece of tool call number `at` of choice `index`: the name once, when the call begins, and each piece of
        arguments.
        """
        key = (index, at)
        known = self._named_calls.get(key)
        name = None if function is None else function.name
        if name and (known is None or known[1] != name or (call_id and known[0] and call_id != known[0])):
            self.calls += 1
            if len(self._named_calls) < CHOICES_MAX or known is not None:
                self._named_calls[key] = (call_id, name)
            self._show((index, "name", at, self.calls), name)
        elif known is None and call_id:
            self.calls += 1
            if len(self._named_calls) < CHOICES_MAX:
                self._named_calls[key] = (call_id, "")
        if function is not None:
            arguments = function.arguments or function.input
            if arguments:
                self._show((index, "arguments", at, self.calls), arguments)

    def _report(self, chunk: ChatChunk, *, finished: bool) -> None:
        """Read the chunk's usage: at the top level, in the first choice (Kimi), or in Groq's own field."""
        found: Usage | None = None
        choices = chunk.choices
        if isinstance(chunk.x_groq, dict):
            found = read_openai(chunk.x_groq.get("usage"))
        if choices and choices[0].usage is not None:
            found = later_usage(found, read_openai(choices[0].usage))
        if chunk.usage is not None:
            found = later_usage(found, read_openai(chunk.usage))
        if found is None:
            return
        self._use(found)
        if self.usage is not None and (finished or self.stopped or not choices):
            self._settled = True

    def _fault(self, payload: bytes, chunk: ChatChunk, choices: list[ChatChoice]) -> Fault | None:
        if chunk.error or chunk.base_resp is not None or (not choices and chunk.usage is None):
            return fault_of_event(payload, self.protocol)
        for choice in choices:
            if choice.finish_reason == _ABORTED and not self.progress:
                return Fault("server", 502, _ABORTED, "")
            if choice.finish_reason and choice.finish_reason not in {"stop", "length", "tool_calls"}:
                return fault_of_event(payload, self.protocol)
        return None

    def _is_unrequested_usage(self, choices: list[ChatChoice], *, finished: bool) -> bool:
        """True if the client did not request usage in an event like this one."""
        if self._usage_options.each:
            return False
        return not (self._usage_options.final and (finished or not choices or self.stopped))

    def _take_lenient(self, event: bytes, payload: bytes, content: _Fields) -> bytes:
        return self._chunk(event, payload, lenient_chunk(content))


def lenient_chunk(content: _Fields) -> ChatChunk:
    """The readable fields of a chunk in which some fields have unexpected types."""
    choices = content.get("choices")
    return ChatChunk(
        id=_text(content.get("id")),
        model=_text(content.get("model")),
        choices=[_lenient_choice(choice, at) for at, choice in enumerate(choices) if isinstance(choice, dict)]
        if isinstance(choices, list)
        else None,
        usage=content.get("usage"),
        error=content.get("error"),
        base_resp=content.get("base_resp"),
        x_groq=content.get("x_groq"),
    )


def _lenient_choice(choice: _Fields, at: int) -> ChatChoice:
    index = choice.get("index")
    delta, message = choice.get("delta"), choice.get("message")
    return ChatChoice(
        index=index if type(index) is int and index >= 0 else at,
        delta=_lenient_delta(delta) if isinstance(delta, dict) else None,
        message=_lenient_delta(message) if isinstance(message, dict) else None,
        text=_text(choice.get("text")),
        finish_reason=_text(choice.get("finish_reason")),
        usage=choice.get("usage"),
    )


def _lenient_delta(delta: _Fields) -> ChatDelta:
    content = delta.get("content")
    reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
    if isinstance(content, list):
        # Mistral sends a list of parts: text, and thinking with parts of its own.
        parts = [part for part in content if isinstance(part, dict)]
        reasoning = reasoning or "".join(_parts_text(part.get("thinking")) for part in parts)
        content = "".join(_text(part.get("text")) or "" for part in parts)
    calls = delta.get("tool_calls")
    return ChatDelta(
        content=_text(content),
        reasoning_content=reasoning,
        refusal=_text(delta.get("refusal")),
        tool_calls=[_lenient_call(call) for call in calls if isinstance(call, dict)]
        if isinstance(calls, list)
        else None,
        function_call=_lenient_function(delta.get("function_call")),
        reasoning_details=delta.get("reasoning_details"),
        audio=delta.get("audio"),
    )


def _parts_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    return "".join(_text(part.get("text")) or "" for part in value if isinstance(part, dict))


def _lenient_call(call: _Fields) -> ChatCall:
    index, call_id = call.get("index"), call.get("id")
    return ChatCall(
        index=index if type(index) is int else None,
        id=call_id if isinstance(call_id, str) else None,
        function=_lenient_function(call.get("function")),
        custom=_lenient_function(call.get("custom")),
    )


def _lenient_function(function: object) -> ChatFunction | None:
    if not isinstance(function, dict):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, dict | list):
        arguments = msgspec.json.encode(arguments).decode()  # Ollama's native API sends decoded arguments
    return ChatFunction(
        name=_text(function.get("name")), arguments=_text(arguments), input=_text(function.get("input"))
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
