"""Why a model stopped, in the words of chat: the four of OpenAI, and those of other vendors and engines."""

from typing import Final

from tokenworks.gateway.translate.form import Stop

# Words beside "stop", which also stands for every word that is not here.
_READ: Final[dict[str, Stop]] = {
    "length": Stop.LENGTH,
    "max_tokens": Stop.LENGTH,
    "tool_calls": Stop.TOOL,
    "function_call": Stop.TOOL,
    "tool_use": Stop.TOOL,
    "content_filter": Stop.FILTER,
    "sensitive": Stop.FILTER,  # Zhipu
    "refusal": Stop.REFUSAL,
    "stop_sequence": Stop.SEQUENCE,
    "model_context_window_exceeded": Stop.CONTEXT,
    "model_length": Stop.CONTEXT,  # Mistral
    # An engine that failed or was stopped in the midst of the answer: what there is, is cut. (The meter reports a fault where no
    # content came.)
    "abort": Stop.LENGTH,
    "error": Stop.LENGTH,
    "network_error": Stop.LENGTH,
    "insufficient_system_resource": Stop.LENGTH,
}
_WRITTEN: Final[dict[Stop, str]] = {
    Stop.END: "stop",
    Stop.SEQUENCE: "stop",
    Stop.PAUSE: "stop",
    Stop.LENGTH: "length",
    Stop.CONTEXT: "length",
    Stop.TOOL: "tool_calls",
    Stop.FILTER: "content_filter",
    Stop.REFUSAL: "content_filter",
}


def read_stop(reason: str, *, called: bool, sequence: str | None = None) -> Stop:
    """`called`: the answer has tool calls. Some engines write "stop" then, and agents run no tool unless they are told to; a stop for
    tools without a call would let them wait for one. `sequence`: the stop sequence that the engine names.
    """
    stop = _READ.get(reason, Stop.END)
    if stop in {Stop.END, Stop.SEQUENCE, Stop.TOOL}:
        if called:
            return Stop.TOOL
        if sequence is not None:
            return Stop.SEQUENCE
        if stop is Stop.TOOL:
            return Stop.END
    return stop


def written_stop(stop: Stop) -> str:
    return _WRITTEN[stop]
