"""Entries of models in the forms of LiteLLM's `model_prices_and_context_window.json` and of OpenRouter's `GET /api/v1/models`.

Both name prices in dollars per token. Only names and figures are read; a field that is not listed here is not read.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple, get_args

from tokenworks.factory.facts.list_prices import SELLER_PATTERN, amount_per_million
from tokenworks.factory.facts.model_facts import DESCRIPTION_CHARS_MAX, FactsModality

Tell = Callable[[object, str], None]
"""Called with what was not taken, and the reason."""


class ForeignModel(NamedTuple):
    """An entry as fields of `ModelFacts`. `name`: the seller's name of the model; `price`: fields of a `ListPrice` without its origin."""

    name: str
    seller: str
    fields: dict[str, object]
    price: dict[str, object]
    source: str | None = None


_MODALITIES: Final = frozenset(get_args(FactsModality))
# LiteLLM's names of providers -> ours, where they differ in more than `_`.
_LITELLM_SELLERS: Final = {
    "azure": "azure-openai",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "meta_llama": "llama",
    "tencent": "hunyuan",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "xiaomi_mimo": "xiaomi",
    "zai": "zhipu",
}
_LITELLM_MODES: Final = {
    "chat": "chat",
    "completion": "chat",
    "responses": "chat",
    "embedding": "embedding",
    "rerank": "rerank",
    "realtime": "realtime",
}
_LITELLM_FLAGS: Final = {
    "supports_function_calling": "tools",
    "supports_reasoning": "reasoning",
    "supports_response_schema": "structured_output",
}
_LITELLM_INPUTS: Final = {
    "supports_vision": "image",
    "supports_audio_input": "audio",
    "supports_video_input": "video",
    "supports_pdf_input": "pdf",
}
_LITELLM_RATES: Final = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
}
_LITELLM_TIER: Final = re.compile(
    r"(input_cost_per_token|output_cost_per_token|cache_read_input_token_cost|cache_creation_input_token_cost)_above_([0-9]{1,5})k_tokens"
)
_OPENROUTER_RATES: Final = {
    "prompt": "input",
    "input_cache_read": "cached_input",
    "input_cache_write": "cache_write",
    "completion": "output",
    "internal_reasoning": "reasoning",
    "audio": "audio_input",
}


def litellm_fields(name: str, entry: Mapping[str, object], tell: Tell) -> ForeignModel | None:
    """An entry of LiteLLM's form; None if it is no model of text, or names no provider."""
    provider, mode = entry.get("litellm_provider"), entry.get("mode")
    seller = _litellm_seller(provider) if isinstance(provider, str) else None
    if seller is None:
        tell(name, "litellm_provider is not the name of a seller")
        return None
    if mode is not None and (not isinstance(mode, str) or mode not in _LITELLM_MODES):
        tell(name, f"mode {str(mode)[:40]}: not a model of text")
        return None
    first, slash, rest = name.partition("/")
    own_name = rest if slash and first in {provider, seller} else name
    fields: dict[str, object] = {} if mode is None else {"mode": _LITELLM_MODES[str(mode)]}
    for theirs, ours in {"max_input_tokens": "input_tokens_max", "max_output_tokens": "output_tokens_max", **_LITELLM_FLAGS}.items():  # fmt: skip
        if entry.get(theirs) is not None:
            fields[ours] = entry[theirs]
    inputs = [ours for theirs, ours in _LITELLM_INPUTS.items() if entry.get(theirs) is True]
    if "supported_modalities" in entry:
        fields["input"] = _modalities(entry["supported_modalities"], name, tell)
    elif inputs:
        fields["input"] = ["text", *inputs]
    if "supported_output_modalities" in entry:
        fields["output"] = _modalities(entry["supported_output_modalities"], name, tell)
    source = entry.get("source")
    return ForeignModel(own_name, seller, fields, _litellm_price(name, entry, tell), source if isinstance(source, str) and source else None)  # fmt: skip


def _litellm_seller(provider: str) -> str | None:
    seller = _LITELLM_SELLERS.get(provider) or provider.lower().replace("_", "-")
    if seller.startswith("vertex-ai"):
        seller = "vertex-ai"
    elif seller.startswith("bedrock"):
        seller = "amazon-bedrock"
    return seller if re.fullmatch(SELLER_PATTERN, seller) else None


def _litellm_price(name: str, entry: Mapping[str, object], tell: Tell) -> dict[str, object]:
    price: dict[str, object] = {}
    tiers: dict[int, dict[str, object]] = {}
    for field, value in entry.items():
        if value is None:
            continue
        if field in _LITELLM_RATES:
            into, rate = price, _LITELLM_RATES[field]
        else:
            tier = _LITELLM_TIER.fullmatch(field)
            if tier is None:
                continue
            above = int(tier[2]) * 1000
            into, rate = tiers.setdefault(above, {"above_input_tokens": above}), _LITELLM_RATES[tier[1]]
        _set_rate(into, rate, value, f"{name}: {field}", tell)
    found = [tier for _, tier in sorted(tiers.items()) if len(tier) > 1]
    return price | ({"tiers": found} if found and price else {})


def openrouter_fields(name: str, entry: Mapping[str, object], tell: Tell) -> ForeignModel | None:
    """An entry of OpenRouter's form."""
    fields: dict[str, object] = {}
    for theirs, ours in {"name": "name", "context_length": "context_tokens"}.items():
        if entry.get(theirs) is not None:
            fields[ours] = entry[theirs]
    description = entry.get("description")
    if isinstance(description, str) and description.strip():
        fields["description"] = " ".join(description.split())[:DESCRIPTION_CHARS_MAX]
    created = entry.get("created")
    if isinstance(created, int) and not isinstance(created, bool) and 0 < created < 2**32:
        fields["released"] = datetime.fromtimestamp(created, UTC).date().isoformat()
    shape = entry.get("architecture")
    if isinstance(shape, dict):
        for theirs, ours in {"input_modalities": "input", "output_modalities": "output"}.items():
            if theirs in shape:
                fields[ours] = _modalities(shape[theirs], name, tell)
    top = entry.get("top_provider")
    if isinstance(top, dict) and top.get("max_completion_tokens") is not None:
        fields["output_tokens_max"] = top["max_completion_tokens"]
    parameters = entry.get("supported_parameters")
    if isinstance(parameters, list) and parameters:
        for theirs, ours in {"tools": "tools", "reasoning": "reasoning", "structured_outputs": "structured_output"}.items():  # fmt: skip
            fields[ours] = theirs in parameters
    price: dict[str, object] = {}
    pricing = entry.get("pricing")
    if isinstance(pricing, dict):
        for field, rate in _OPENROUTER_RATES.items():
            if pricing.get(field) is not None:
                _set_rate(price, rate, pricing[field], f"{name}: pricing.{field}", tell)
    return ForeignModel(name, "openrouter", fields, price)


def _set_rate(into: dict[str, object], rate: str, value: object, where: str, tell: Tell) -> None:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal) or len(str(value)) > 100:
            raise ValueError("a price is a number")
        into[rate] = amount_per_million(Decimal(value))
    except (ValueError, InvalidOperation) as error:
        reason = str(error) if isinstance(error, ValueError) else "a price is a number"
        tell(where, f"{reason}: {str(value)[:40]}")


def _modalities(value: object, name: str, tell: Tell) -> list[str]:
    """The modalities that we know, each once."""
    if not isinstance(value, list):
        tell(f"{name}: modalities", "not a list")
        return []
    found = dict.fromkeys(item for item in value if isinstance(item, str) and item in _MODALITIES)
    if len(found) < len(value):
        tell(f"{name}: modalities", "some are not known or are there twice")
    return list(found)
