"""What an entry of `GET /v1/models` says of a model's abilities, in the fields of Anthropic and OpenRouter.

A declaration (`tokenworks model set`) counts before the catalogue of models; what neither says is not claimed.
"""

from typing import Final

from tokenworks.factory import Deployment, ModelCard, ModelFacts
from tokenworks.gateway.protocol.fields.lists import PASS, PRICE, TRANSLATE, lists_of

# OpenRouter's names of modalities, in its order.
_MODALITIES: Final[tuple[str, ...]] = ("text", "image", "file", "audio", "video")
# OpenRouter's names of parameters (openrouter.ai/docs, parameters, 2026-10) that are names of the chat protocol's fields as well.
_PARAMETERS: Final = (
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "min_p", "parallel_tool_calls", "presence_penalty",
    "reasoning", "reasoning_effort", "include_reasoning", "repetition_penalty", "response_format", "seed", "stop", "temperature", "tool_choice",
    "tools", "top_a", "top_k", "top_logprobs", "top_p", "verbosity",
)  # fmt: skip
_TOOL_PARAMETERS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_REASONING_PARAMETERS: Final = frozenset({"reasoning", "reasoning_effort", "include_reasoning"})
_TAKEN: Final = frozenset({PASS, PRICE, TRANSLATE})
# OpenRouter's names of makers' tokenizers.
_TOKENIZERS: Final = {
    "Alibaba": "Qwen",
    "Anthropic": "Claude",
    "Cohere": "Cohere",
    "DeepSeek": "DeepSeek",
    "Google": "Gemini",
    "Mistral": "Mistral",
    "OpenAI": "GPT",
    "xAI": "Grok",
}
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


def tokenizer(facts: ModelFacts | None) -> str:
    return "Other" if facts is None or facts.maker is None else _TOKENIZERS.get(facts.maker, "Other")


def context_parts(deployments: list[Deployment]) -> dict[str, object]:
    """The largest context and output of any deployment, under each API's name."""
    context = max([d.context_tokens for d in deployments], default=0)
    output = max([d.max_output_tokens for d in deployments], default=0)
    return {
        "context_window": context,
        "max_output_tokens": output,
        "max_input_tokens": context,
        "max_tokens": output,
        "context_length": context,
        "top_provider": {"context_length": context, "max_completion_tokens": output, "is_moderated": False},
    }


def modalities(cards: list[ModelCard], facts: list[ModelFacts]) -> tuple[list[str], list[str]]:
    """(input, output) modalities in OpenRouter's names: of the declarations if there are any, else of the catalogue."""
    taken: set[str] = {"text"}
    made: set[str] = set()
    for card in cards:
        taken.update(card.modalities)
    for known in facts:
        if not cards:
            taken.update(known.input)
        made.update(known.output)
        if known.mode == "embedding":
            made.add("embeddings")
    if "pdf" in taken:
        taken.add("file")
    outputs = [name for name in (*_MODALITIES, "embeddings") if name in made]
    return [name for name in _MODALITIES if name in taken], outputs or ["text"]


def calls_tools(cards: list[ModelCard], facts: list[ModelFacts]) -> bool:
    """True unless every declaration, or else every known fact, says that the model calls none."""
    if cards:
        return any(card.tools for card in cards)
    return not facts or any(known.tools is not False for known in facts)


def capabilities(cards: list[ModelCard], facts: list[ModelFacts], input_of: list[str]) -> dict[str, object]:
    """Anthropic's `capabilities`, with all of its names."""
    efforts: set[str] = set()
    thinks = switched = structured = False
    pdf = any("file" in card.modalities for card in cards)
    for known in facts:
        efforts.update(known.efforts)
        thinks = thinks or known.reasoning is True
        switched = switched or known.thinking_can_be_switched is True
        structured = structured or known.structured_output is True
        pdf = pdf or (not cards and ("pdf" in known.input or "file" in known.input))
    return {
        "batch": _supported(False),
        "citations": _supported(False),
        "code_execution": _supported(False),
        "context_management": {"supported": False},
        "effort": {"supported": bool(efforts), **{name: _supported(name in efforts) for name in _EFFORTS}},
        "image_input": _supported("image" in input_of),
        "pdf_input": _supported(pdf),
        "server_tools": {
            "supported": False,
            "code_execution": _supported(False),
            "web_search": _supported(False),
        },
        "structured_outputs": _supported(structured),
        "thinking": {
            "supported": thinks,
            "types": {
                "adaptive": _supported(thinks),
                "between_tools": _supported(False),
                "disabled": _supported(switched or not thinks),
                "enabled": _supported(thinks),
            },
        },
        "tools": _supported(calls_tools(cards, facts)),
    }


def _supported(value: bool) -> dict[str, bool]:
    return {"supported": value}


def parameters(deployments: list[Deployment], cards: list[ModelCard], facts: list[ModelFacts]) -> list[str]:
    """OpenRouter's `supported_parameters`: what the chat protocol's allow-list lets pass to some of the deployments."""
    profiles = {d.profile for d in deployments if "chat" in d.protocols}
    if not profiles:
        return []
    rules = lists_of("chat").body.rules
    tools = calls_tools(cards, facts)
    thinks = not facts or any(known.reasoning is not False for known in facts)
    found = []
    for name in _PARAMETERS:
        if (name in _TOOL_PARAMETERS and not tools) or (name in _REASONING_PARAMETERS and not thinks):
            continue
        rule = rules.get(name)
        if (
            rule is not None
            and rule.action in _TAKEN
            and (rule.base or not profiles.isdisjoint(rule.profiles))
        ):
            found.append(name)
    if any(known.structured_output is True for known in facts):
        found.append("structured_outputs")
    return sorted(found)
