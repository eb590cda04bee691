"""Where each protocol of a vendor is, and what carries its credential."""

from urllib.parse import urlsplit

import pytest

from tokenworks.factory import (
    DeploymentView,
    auth_headers,
    load_profile,
    make_deployment,
    paths_of,
    profile_names,
)


def deployment(profile, base_url, **more):
    told = {"name": "a", "model": "m", "upstream_model": "m", "protocols": ("chat",), "allow_private": True}
    return make_deployment(**(told | {"profile": profile, "base_url": base_url} | more))


@pytest.mark.parametrize(("profile", "base_url", "paths"), [
    ("deepseek", "https://api.deepseek.com", {"chat": "/chat/completions", "responses": "/responses", "messages": "/anthropic/v1/messages", "count_tokens": "/anthropic/v1/messages/count_tokens", "models": "/models"}),
    # A base URL of another path than the profile's is taken as it is.
    ("deepseek", "https://api.deepseek.com/v1", {"chat": "/v1/chat/completions", "messages": "/v1/messages"}),
    ("deepseek", "https://proxy.example", {"chat": "/v1/chat/completions", "messages": "/v1/messages"}),
    ("generic", "https://api.deepseek.com", {"chat": "/v1/chat/completions", "messages": "/v1/messages"}),
    ("zhipu", "https://api.z.ai/api/paas/v4", {"chat": "/api/paas/v4/chat/completions", "responses": "/api/v1/responses", "messages": "/api/anthropic/v1/messages"}),
    # The plan's URL does not lend its paths, and the other region has another host.
    ("zhipu", "https://api.z.ai/api/coding/paas/v4", {"chat": "/api/coding/paas/v4/chat/completions", "messages": "/api/coding/paas/v4/messages"}),
    ("zhipu", "https://open.bigmodel.cn/api/paas/v4", {"messages": "/api/anthropic/v1/messages", "embeddings": "/api/paas/v4/embeddings"}),
    ("dashscope", "https://dashscope.aliyuncs.com/compatible-mode/v1/", {"chat": "/compatible-mode/v1/chat/completions", "responses": "/compatible-mode/v1/responses", "messages": "/apps/anthropic/v1/messages"}),
    ("dashscope", "https://dashscope.aliyuncs.com/apps/anthropic", {"messages": "/apps/anthropic/v1/messages", "chat": "/compatible-mode/v1/chat/completions"}),
    ("azure-openai", "https://acme.openai.azure.com/openai/v1", {"chat": "/openai/v1/chat/completions", "responses": "/openai/v1/responses"}),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", {"chat": "/v1beta/openai/chat/completions"}),
    ("anthropic", "https://api.anthropic.com", {"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens", "models": "/v1/models"}),
    ("openrouter", "https://openrouter.ai/api/v1", {"chat": "/api/v1/chat/completions", "messages": "/api/v1/messages"}),
    ("fireworks", "https://api.fireworks.ai/inference/v1", {"messages": "/inference/v1/messages"}),
    ("longcat", "https://api.longcat.chat/openai", {"chat": "/openai/v1/chat/completions", "messages": "/anthropic/v1/messages"}),
    ("xingchen", "https://x.example/aipaas/lm/v1/telechat/completions35", {"chat": "/aipaas/lm/v1/telechat/completions35"}),
    ("vllm", "http://10.0.0.1:8000", {"chat": "/v1/chat/completions", "messages": "/v1/messages"}),
    ("stepfun", "https://api.stepfun.com/v1", {"messages": "/v1/messages", "responses": "/v1/responses"}),
])  # fmt: skip
def test_each_protocol_has_the_path_that_the_vendor_prints(profile, base_url, paths):
    found = paths_of(deployment(profile, base_url), load_profile(profile))
    assert {endpoint: found[endpoint] for endpoint in paths} == paths


def test_every_base_url_is_a_deployments_and_has_plain_paths():
    for name in profile_names():
        profile = load_profile(name)
        for base in profile.base_urls:
            url = (
                base.url.replace("{host}", "h.example")
                .replace("{resource}", "r")
                .replace("{workspace}", "w")
                .replace("{model}", "m")
            )
            made = deployment(name, url)
            paths = paths_of(made, profile)
            for path in paths.values():
                assert path.startswith("/") and "//" not in path and "{" not in path and "/v1/v1" not in path
            assert all(
                paths[protocol].startswith(urlsplit(made.base_url).path) for protocol in base.protocols
            )
            assert made.host in profile.hosts or base.is_template or profile.kind == "engine", (
                name,
                made.host,
            )


@pytest.mark.parametrize(("profile", "base_url", "endpoint", "lines"), [
    ("generic", "https://x.example", "chat", b"authorization: Bearer s-1\r\n"),
    ("generic", "https://x.example", "messages", b"x-api-key: s-1\r\nauthorization: Bearer s-1\r\n"),
    ("deepseek", "https://api.deepseek.com", "models", b"authorization: Bearer s-1\r\n"),
    ("anthropic", "https://api.anthropic.com", "count_tokens", b"x-api-key: s-1\r\n"),
    ("azure-openai", "https://acme.openai.azure.com/openai/v1", "chat", b"api-key: s-1\r\n"),
    ("hunyuan", "https://api.hunyuan.cloud.tencent.com/v1", "chat", b"authorization: Bearer s-1\r\n"),
    ("hunyuan", "https://api.hunyuan.cloud.tencent.com/v1", "messages", b"x-api-key: s-1\r\n"),
    ("ollama", "http://10.0.0.1:11434", "chat", b""),
])  # fmt: skip
def test_a_credential_is_sent_as_the_vendor_reads_it(profile, base_url, endpoint, lines):
    assert DeploymentView(deployment(profile, base_url)).auth_lines(endpoint, "s-1") == lines


def test_a_credential_of_three_parts():
    auth = load_profile("xingchen").auth
    assert auth_headers(auth, "app 77 k-1") == {"x-app-id": "app", "order-num": "77", "authorization": "k-1"}
    assert auth_headers(auth, "app") == {"x-app-id": "app", "order-num": "", "authorization": ""}
    # What a credential holds is never a template itself.
    assert auth_headers({"a": "Bearer {key}"}, "{1}{key}") == {"a": "Bearer {1}{key}"}
