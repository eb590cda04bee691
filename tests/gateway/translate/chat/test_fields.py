"""The table of docs/TRANSLATION.md names every field that a chat request may have."""

from importlib.resources import files

import pytest
import yaml

from tokenworks.gateway.protocol.fields.lists import lists_of
from tokenworks.gateway.translate.chat import codec

TABLE = yaml.safe_load((files("tokenworks.gateway.translate.chat") / "fields.yaml").read_text())
KINDS = {"carried", "approximated", "refused", "dropped"}
LEVELS = {
    name: level
    for name, level in lists_of("chat").levels.items()
    if any(rule.base for rule in level.rules.values())
}


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_every_field_of_the_allow_list_is_in_the_table(level):
    names = {name for name, rule in LEVELS[level].rules.items() if rule.base}
    assert names, level
    missing = names - TABLE["reads"].get(level, {}).keys()
    assert not missing


def test_every_entry_is_of_a_kind():
    entries = [entry for fields in TABLE["reads"].values() for entry in fields.values()]
    for entry in [*entries, *TABLE["writes"].values()]:
        kind = entry if isinstance(entry, str) else next(iter(entry))
        assert kind in KINDS
        assert isinstance(entry, str) or (len(entry) == 1 and isinstance(entry[kind], str))


def test_what_the_table_says_of_fields_that_are_dropped_is_so():
    dropped = {
        name for name, entry in TABLE["reads"]["body"].items() if entry == "dropped" or "dropped" in entry
    }
    assert {"logprobs", "logit_bias"} <= dropped
    fields = {name: {"a": 1} for name in dropped}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    assert set(codec.read_request(body)[1]) == dropped


def test_what_the_table_says_of_fields_that_are_carried_is_so():
    function = {"type": "function", "function": {"name": "f"}}
    tools = {"tools": [function]}
    samples = {
        "model": "m2", "messages": [{"role": "user", "content": "Ho"}], "tools": [function], "tool_choice": "none", "parallel_tool_calls": True,
        "max_completion_tokens": 5, "max_tokens": 5, "stream": True, "temperature": 1, "top_p": 1, "top_k": 5, "frequency_penalty": 1,
        "presence_penalty": 1, "seed": 5, "stop": "x", "response_format": {"type": "json_object"}, "verbosity": "low", "reasoning_effort": "low",
        "reasoning": {"enabled": True}, "thinking": {"type": "enabled"}, "enable_thinking": True, "thinking_budget": 5, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "p", "metadata": {"a": "b"}, "service_tier": "auto",
    }  # fmt: skip
    elsewhere = {"stream_options", "store", "modalities", "models", "route", "usage"}
    entries = TABLE["reads"]["body"].items()
    carried = {name for name, entry in entries if entry == "carried" or "carried" in entry}
    assert samples.keys() == carried - elsewhere
    for name, value in samples.items():
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **tools}
        if name == "tools":
            body.pop("tools")
        request, named = codec.read_request({**body, name: value})
        assert named == ()
        assert request != codec.read_request(body)[0], name
