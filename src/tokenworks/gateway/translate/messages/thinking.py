"""Writes how much the model is to think, within the provider's rules.

A budget is at least 1024 tokens and less than `max_tokens`. Thinking excludes a choice that forces a call, a last turn of the assistant,
and a turn of calls that does not begin with its own thinking while their results are the last turn: the provider refuses such a request,
and its own advice is to disable thinking for it. With a budget it also excludes `temperature`, `top_k` and a `top_p` below 0.95. Source:
the pages on thinking of Anthropic's documentation and the request types of anthropic 2.12.0, 2026-11.
"""

from typing import Final

from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import Effort, JsonObject, Request
from tokenworks.gateway.translate.messages.values import Dropped, fields_of, items_of

BUDGET_TOKENS_MIN: Final = 1024
TOP_P_MIN: Final = 0.95
# The share of the maximum in tenths that an effort may use for thinking, as OpenRouter divides it (its page on reasoning tokens, 2026).
_SHARES: Final[dict[Effort, int]] = {"minimal": 1, "low": 2, "medium": 5, "high": 8, "xhigh": 9, "max": 9}
_EFFORTS: Final[dict[Effort, str]] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})


def write_thinking(body: JsonObject, request: Request, target: Target, dropped: Dropped) -> bool:
    """Add `thinking` and the effort to a body that has its messages, its maximum and its choice of tools. True if it will think."""
    wish = request.reasoning
    effort = wish.effort
    if wish.enabled is False or effort == "none":
        if not target.adaptive_thinking:
            body["thinking"] = {"type": "disabled"}
        return False
    if wish.enabled is None and effort is None:
        return False
    adaptive = target.adaptive_thinking or wish.adaptive
    forced = fields_of(body.get("tool_choice")).get("type") in {"any", "tool"}
    if forced or (not adaptive and not _may_think(items_of(body["messages"]))):
        dropped.add("reasoning")
        return False
    thinking: JsonObject = {"type": "adaptive"}
    if adaptive:
        if effort is not None:
            body["output_config"] = {"effort": _EFFORTS[effort]}
    else:
        maximum = body["max_tokens"]
        assert isinstance(maximum, int)
        if maximum <= BUDGET_TOKENS_MIN:
            dropped.add("reasoning")
            return False
        asked = wish.budget_tokens
        if asked is None:
            asked = maximum * _SHARES[effort or "medium"] // 10
        budget = min(max(asked, BUDGET_TOKENS_MIN), maximum - 1)
        assert BUDGET_TOKENS_MIN <= budget < maximum
        thinking = {"type": "enabled", "budget_tokens": budget}
    if wish.summary is not None:
        thinking["display"] = "summarized"
    body["thinking"] = thinking
    return True


def _may_think(messages: list[object]) -> bool:
    """False if the conversation goes on in the midst of a turn that did not begin with thinking."""
    last = fields_of(messages[-1])
    if last.get("role") == "assistant":
        return False
    results = any(fields_of(block).get("type") == "tool_result" for block in items_of(last.get("content")))
    if not results or len(messages) < 2:
        return True
    before = items_of(fields_of(messages[-2]).get("content"))
    return bool(before) and fields_of(before[0]).get("type") in _THINKING


def write_sampling(body: JsonObject, request: Request, thinks: bool, dropped: Dropped) -> None:
    """Add temperature, top_p and top_k. Temperatures above 1 become 1, the provider's most. Newer models refuse temperature and top_p
    together; the temperature stays then.
    """
    temperature, top_p, top_k = request.temperature, request.top_p, request.top_k
    if thinks and temperature is not None and temperature != 1:
        dropped.add("temperature")
        temperature = None
    if thinks and top_k is not None:
        dropped.add("top_k")
        top_k = None
    if top_p is not None and (temperature is not None or (thinks and top_p < TOP_P_MIN)):
        if top_p != 1:
            dropped.add("top_p")
        top_p = None
    if temperature is not None:
        body["temperature"] = min(max(temperature, 0.0), 1.0)
    if top_p is not None:
        body["top_p"] = min(max(top_p, 0.0), 1.0)
    if top_k is not None:
        body["top_k"] = top_k
