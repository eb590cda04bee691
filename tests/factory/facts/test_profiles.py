from importlib.resources import files
from urllib.parse import urlsplit

import pytest
import yaml

from tokenworks.factory import (
    DeploymentInvalid,
    load_profile,
    make_deployment,
    max_tokens_field,
    profile_names,
    profile_of,
)
from tokenworks.gateway.protocol.fields import PROTOCOLS, lists_of

VENDORS = ("openai", "anthropic", "deepseek", "dashscope", "moonshot", "zhipu")
ENGINES = ("vllm", "sglang", "llama.cpp")
GOOD = {
    "name": "a",
    "model": "m",
    "upstream_model": "m",
    "base_url": "https://x.example/v1",
    "protocols": ("chat",),
}


def test_ten_profiles_are_shipped_each_with_its_sources():
    assert set(profile_names()) == {"generic", *VENDORS, *ENGINES}
    for name in profile_names():
        profile = load_profile(name)
        assert profile.profile == name
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
    for name in VENDORS:
        for url in load_profile(name).base_urls:
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
