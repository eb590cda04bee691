"""Why a model stopped, in the words of messages."""

from typing import Final

from tokenworks.gateway.translate.form import Stop

_READ: Final[dict[str, Stop]] = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "stop_sequence": Stop.SEQUENCE,
    "tool_use": Stop.TOOL,
    "pause_turn": Stop.PAUSE,
    "refusal": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.CONTEXT,
}
_WRITTEN: Final[dict[Stop, str]] = {stop: reason for reason, stop in _READ.items()} | {Stop.FILTER: "refusal"}


def read_stop(reason: str, called: bool) -> Stop:
    """`called`: the answer has calls. A reason that is not known is an end."""
    return _READ.get(reason) or (Stop.TOOL if called else Stop.END)


def written_stop(stop: Stop | None, called: bool) -> str:
    """Clients run tools if the reason is `tool_use`, and some providers stop with another reason after a call, or with this one without
    a call.
    """
    if called and stop in {None, Stop.END}:
        return "tool_use"
    if stop is None or (stop is Stop.TOOL and not called):
        return "end_turn"
    return _WRITTEN[stop]
