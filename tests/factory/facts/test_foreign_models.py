"""Entries in the forms of LiteLLM and OpenRouter. Names of fields are theirs; names and figures here are made up."""

from decimal import Decimal

from tokenworks.factory.facts.foreign_models import litellm_fields, openrouter_fields


def read(reader, name, entry):
    told = []
    return reader(name, entry, lambda where, reason: told.append(f"{where}: {reason}")), told


def test_an_entry_of_litellms_form():
    model, told = read(
        litellm_fields, "zai/glm-x",
        {
            "litellm_provider": "zai", "mode": "chat", "max_tokens": 9, "max_input_tokens": 200000, "max_output_tokens": 8000,
            "input_cost_per_token": Decimal("6e-7"), "output_cost_per_token": Decimal("2.2e-06"), "cache_read_input_token_cost": Decimal("1.1e-7"),
            "input_cost_per_token_above_128k_tokens": Decimal("1e-6"), "output_cost_per_token_above_128k_tokens": None, "supports_function_calling": True,
            "supports_vision": True, "supports_pdf_input": True, "supports_reasoning": False, "source": "https://example.com/p", "rpm": 5,
        },
    )  # fmt: skip
    assert told == []
    assert (model.name, model.seller, model.source) == ("glm-x", "zhipu", "https://example.com/p")
    assert model.fields == {
        "mode": "chat", "input_tokens_max": 200000, "output_tokens_max": 8000, "tools": True, "reasoning": False, "input": ["text", "image", "pdf"],
    }  # fmt: skip
    assert model.price == {
        "input": "0.6", "output": "2.2", "cached_input": "0.11", "tiers": [{"above_input_tokens": 128000, "input": "1"}],
    }  # fmt: skip


def test_sellers_of_litellms_form():
    for name, provider, expected in (
        ("azure/eu/gpt-x", "azure", ("eu/gpt-x", "azure-openai")),
        ("gpt-x", "openai", ("gpt-x", "openai")),
        ("vertex_ai/claude-x", "vertex_ai-anthropic_models", ("vertex_ai/claude-x", "vertex-ai")),
        ("anthropic.claude-x", "bedrock_converse", ("anthropic.claude-x", "amazon-bedrock")),
        ("tencent/hy-x", "tencent", ("hy-x", "hunyuan")),
    ):
        model, _ = read(litellm_fields, name, {"litellm_provider": provider})
        assert (model.name, model.seller) == expected


def test_what_is_not_taken_of_litellms_form_is_named():
    for entry, reason in (
        ({}, "litellm_provider"), ({"litellm_provider": 5}, "litellm_provider"), ({"litellm_provider": "a b"}, "litellm_provider"),
        ({"litellm_provider": "openai", "mode": "image_generation"}, "image_generation"), ({"litellm_provider": "openai", "mode": ["chat"]}, "mode"),
    ):  # fmt: skip
        model, told = read(litellm_fields, "m", entry)
        assert model is None and reason in told[0]
    model, told = read(
        litellm_fields, "m",
        {"litellm_provider": "openai", "input_cost_per_token": -1, "output_cost_per_token": "free", "cache_read_input_token_cost": True,
         "output_cost_per_reasoning_token": Decimal("0.00000029999999999999999"), "supported_modalities": ["text", "smell", "text"], "supported_output_modalities": 3},
    )  # fmt: skip
    assert model.price == {} and model.fields == {"input": ["text"], "output": []}
    assert len(told) == 6 and "negative" in told[2] and "12 decimals" in told[5]


def test_an_entry_of_openrouters_form():
    model, told = read(
        openrouter_fields, "lab/model-x",
        {
            "id": "lab/model-x", "name": "Lab: Model X", "created": 1767225600, "description": "Two\nlines.", "context_length": 131072,
            "architecture": {"modality": "text+image->text", "input_modalities": ["text", "image"], "output_modalities": ["text"], "tokenizer": "Other"},
            "pricing": {"prompt": "0.0000003", "completion": "0.0000011", "request": "0", "image": "0", "input_cache_read": "0.00000003"},
            "top_provider": {"context_length": 131072, "max_completion_tokens": 16384, "is_moderated": False},
            "supported_parameters": ["tools", "temperature", "structured_outputs"],
        },
    )  # fmt: skip
    assert told == []
    assert (model.name, model.seller) == ("lab/model-x", "openrouter")
    assert model.fields == {
        "name": "Lab: Model X", "context_tokens": 131072, "description": "Two lines.", "released": "2026-01-01", "input": ["text", "image"],
        "output": ["text"], "output_tokens_max": 16384, "tools": True, "reasoning": False, "structured_output": True,
    }  # fmt: skip
    assert model.price == {"input": "0.3", "output": "1.1", "cached_input": "0.03"}


def test_shapes_that_are_not_openrouters_are_left_out():
    model, told = read(
        openrouter_fields, "m",
        {"pricing": "free", "architecture": [], "top_provider": 1, "created": True, "supported_parameters": {}, "description": 5},
    )  # fmt: skip
    assert (model.fields, model.price, told) == ({}, {}, [])
    model, told = read(openrouter_fields, "router", {"pricing": {"prompt": "-1", "completion": "-1"}})
    assert model.price == {} and all("negative" in words for words in told)
