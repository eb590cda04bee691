import json
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import ValidationError

from tokenworks.catalog import Counts
from tokenworks.factory import (
    DeploymentInvalid,
    Profile,
    load_profile,
    make_deployment,
    max_tokens_field,
    profile_names,
    profile_of,
)
from tokenworks.gateway.protocol.fields import PROTOCOLS, lists_of
from tokenworks.gateway.protocol.outcome import fault_of_body
from tokenworks.gateway.protocol.usage import anthropic_usage, openai_usage
from tokenworks.gateway.protocol.vendor_errors import by_codes
from tokenworks.gateway.request.credentials import is_refused

ENGINES = ("vllm", "sglang", "llama.cpp", "lmdeploy")
ALL = """anthropic azure-openai baichuan dashscope deepseek fireworks gemini generic groq hunyuan lingyiwanwu llama.cpp lmdeploy longcat mindie
minimax mistral moonshot ollama openai openrouter qianfan sglang siliconflow spark stepfun tgi tianyi together vllm volcengine xai xingchen
zhipu""".split()
NAMED = [name for name in ALL if name != "generic"]
CLASSES = Counts._fields
GOOD = {
    "name": "a",
    "model": "m",
    "upstream_model": "m",
    "base_url": "https://x.example/v1",
    "protocols": ("chat",),
}


def test_the_profiles_that_are_shipped_have_each_its_sources():
    assert list(profile_names()) == ALL
    for name in profile_names():
        profile = load_profile(name)
        assert profile.profile == name and profile.title
        assert bool(profile.base_urls) == (name != "generic")
        assert all(source.source and source.date for source in profile.sources)
        assert name == "generic" or name.partition(".")[0] in " ".join(profile.names)


def test_the_loader_that_is_taken_loads_what_the_plain_one_loads():
    for name in profile_names():
        text = (files("tokenworks.factory") / "vendors" / f"{name}.yaml").read_text()
        assert (
            load_profile(name).model_dump(exclude_unset=True, mode="json").keys()
            == yaml.safe_load(text).keys()
        )


def test_a_level_that_a_profile_adds_to_is_one_that_something_has():
    for name in profile_names():
        for protocol, levels in load_profile(name).fields.items():
            reached = {"body"} | {
                rule.level for level in lists_of(protocol).levels.values() for rule in level.rules.values()
            }
            assert levels.keys() <= reached, (name, protocol)


def test_what_works_with_an_engine_works_with_the_generic_profile():
    for protocol in PROTOCOLS:
        for level in lists_of(protocol).levels.values():
            for name, rule in level.rules.items():
                if rule.profiles & set(ENGINES):
                    assert "generic" in rule.profiles, (protocol, level.name, name)


def test_a_profile_that_a_newer_release_wrote_is_taken_for_the_generic_one():
    assert profile_of("no-such-vendor") is load_profile("generic")
    with pytest.raises(DeploymentInvalid, match="no profile no-such-vendor: there are anthropic"):
        make_deployment(**(GOOD | {"profile": "no-such-vendor"}))


def test_where_the_maximum_goes():
    openai, generic = load_profile("openai"), load_profile("generic")
    assert max_tokens_field(openai, "chat") == "max_completion_tokens"
    assert max_tokens_field(openai, "chat", "max_tokens") == "max_tokens"
    assert max_tokens_field(openai, "completions", "max_completion_tokens") == "max_tokens"
    assert max_tokens_field(generic, "chat", asked="max_completion_tokens") == "max_completion_tokens"


def test_no_beta_that_is_priced_apart_passes():
    betas = load_profile("anthropic").betas
    for word in (
        "fast-mode",
        "context-1m",
        "mcp",
        "code-execution",
        "skills",
        "files-api",
        "fallback",
        "compact",
        "advisor",
        "user-profiles",
        "message-threads",
        "memory",
    ):
        assert not [beta for beta in betas if word in beta]
    assert not any(load_profile(name).betas for name in profile_names() if name != "anthropic")


def test_urls_as_vendors_print_them():
    for name in NAMED:
        for url in [base.url for base in load_profile(name).base_urls if not base.is_template]:
            made = make_deployment(**(GOOD | {"base_url": url}))
            path, base = made.path("/v1/chat/completions"), urlsplit(url).path
            assert path.count("/v") <= 1 or "/v1/v" not in path
            assert path.startswith(base) and path.endswith("/chat/completions")
    for base, path in (
        ("https://x/v1beta/openai", "/v1beta/openai/chat/completions"), ("https://x/api/paas/v4", "/api/paas/v4/chat/completions"), ("https://x/api/v3", "/api/v3/chat/completions"),
        ("https://x/compatible-mode/v1", "/compatible-mode/v1/chat/completions"), ("https://x/openai/v1/", "/openai/v1/chat/completions"), ("https://x/api/coding/paas/v4", "/api/coding/paas/v4/chat/completions"),
        ("https://x/beta", "/beta/chat/completions"), ("https://x/inference/v1", "/inference/v1/chat/completions"), ("https://x/openai", "/openai/v1/chat/completions"),
        ("https://x/v1/chat/completions", "/v1/chat/completions"), ("https://x/api/v3/chat/completions/", "/api/v3/chat/completions"),
    ):  # fmt: skip
        assert make_deployment(**(GOOD | {"base_url": base})).path("/v1/chat/completions") == path
    claude = make_deployment(**(GOOD | {"base_url": "https://api.anthropic.com/v1/messages"}))
    assert claude.path("/v1/messages") == "/v1/messages"
    assert (
        make_deployment(**(GOOD | {"base_url": "https://x/apps/anthropic"})).path("/v1/messages")
        == "/apps/anthropic/v1/messages"
    )


def examples(kind):
    for name in ALL:
        found = getattr(load_profile(name), kind).examples
        yield from (
            pytest.param(name, example, id=f"{name}-{number}") for number, example in enumerate(found)
        )


@pytest.mark.parametrize(("name", "example"), list(examples("usage")))
def test_usage_as_a_vendor_reports_it_is_read_class_by_class(name, example):
    raw = json.dumps(example.usage).encode()
    usage = anthropic_usage(raw) if example.protocol == "messages" else openai_usage(raw)
    assert usage.counts._asdict() == {named: example.counts.get(named, 0) for named in CLASSES}
    assert not usage.flags and usage.total == sum(usage.counts)


@pytest.mark.parametrize("name", NAMED)
def test_the_fields_that_a_profile_names_are_read_as_their_class(name):
    """A number in each named field, alone, is found in its class."""
    usage = load_profile(name).usage
    protocol = "messages" if usage.where == "start_and_delta" else "chat"
    for named, paths in (("cached_input", usage.cached), ("cache_write", usage.cache_write), ("reasoning", usage.reasoning)):  # fmt: skip
        for path in paths:
            if "ephemeral" in path or path.startswith(("input_tokens_details", "output_tokens_details")):
                continue  # shown by the examples
            report = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
            if protocol == "messages":
                report = {"input_tokens": 1000, "output_tokens": 500}
            where, field = report, path
            while "." in field:
                outer, _, field = field.partition(".")
                where = where.setdefault(outer, {})
            where[field] = 100
            raw = json.dumps(report).encode()
            read = anthropic_usage(raw) if protocol == "messages" else openai_usage(raw)
            assert getattr(read.counts, named) == 100, (path, read)


@pytest.mark.parametrize(("name", "example"), list(examples("errors")))
def test_an_error_as_a_vendor_sends_it_is_of_its_kind(name, example):
    fault = fault_of_body(example.status, json.dumps(example.body).encode(), "chat")
    fault = by_codes(fault, load_profile(name).error_codes)
    if example.kind == "context":
        assert (fault.kind, fault.code, fault.status // 100) == ("client", "context_length_exceeded", 4)
    elif example.kind == "credential":
        assert is_refused(fault), fault
    else:
        assert (fault.kind, is_refused(fault)) == (example.kind, False)


def test_a_code_that_two_vendors_use_for_different_things_is_no_code_of_the_generic_profile():
    zhipu, minimax, generic = (load_profile(name).error_codes for name in ("zhipu", "minimax", "generic"))
    assert (zhipu["1002"], minimax["1002"]) == ("credential", "rate") and "1002" not in generic
    assert generic["1113"] == "quota" and generic["1008"] == "quota"
    assert load_profile("openai").error_codes == {}


def test_a_fact_that_is_named_twice_or_in_no_known_way_is_refused():
    told = load_profile("deepseek").model_dump()
    for wrong in (
        {"base_urls": [told["base_urls"][0]] * 2}, {"auth": {"X-Key": "{key}"}}, {"auth": {"x-key": "a\r\nb: c"}}, {"unheard_of": 1}, {"sources": []},
        {"errors": {"codes": {"1": "unheard"}}}, {"base_urls": [{"url": "https://x", "protocols": []}]},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            Profile.model_validate(told | wrong)
