"""What a deployment at a vendor is by default, and where each value is from."""

import pytest

from tokenworks.factory import (
    CredentialMissing,
    DeploymentInvalid,
    credential_default,
    load_profile,
    make_deployment,
    profile_names,
    vendor_defaults,
    vendor_profile,
)
from tokenworks.factory.facts.model_facts import shipped_facts


def values(vendor, model="m", **asked):
    return {
        field: default.value
        for field, default in vendor_defaults(vendor_profile(vendor), model, **asked).items()
    }


def test_a_vendor_and_a_model_are_enough():
    found = vendor_defaults(vendor_profile("zhipu"), "glm-5.2", region="intl")
    made = make_deployment(**{field: default.value for field, default in found.items()})
    assert (made.name, made.base_url, made.region, made.kind, made.vendor, made.profile) == (
        "zhipu-glm-5.2", "https://api.z.ai/api/paas/v4", "intl", "vendor", "zhipu", "zhipu",
    )  # fmt: skip
    assert made.protocols == ("chat", "responses", "messages")
    assert found["base_url"].origin == "profile zhipu, region intl"


@pytest.mark.parametrize(("vendor", "asked", "url"), [
    ("moonshot", {}, "https://api.moonshot.cn/v1"), ("moonshot", {"region": "cn"}, "https://api.moonshot.cn/v1"),
    ("moonshot", {"region": "cn-sh"}, "https://api.moonshot.cn/v1"), ("moonshot", {"region": "intl"}, "https://api.moonshot.ai/v1"),
    ("deepseek", {"region": "cn"}, "https://api.deepseek.com"), ("dashscope", {"region": "cn-finance"}, "https://dashscope-finance.aliyuncs.com/compatible-mode/v1"),
    ("dashscope", {"region": "cn-beijing"}, "https://dashscope.aliyuncs.com/compatible-mode/v1"),
    ("volcengine", {"plan": "coding"}, "https://ark.cn-beijing.volces.com/api/coding/v3"),
    ("ollama", {}, "http://localhost:11434"), ("deepseek", {"base_url": "https://other.example"}, "https://other.example"),
])  # fmt: skip
def test_the_region_and_the_plan_choose_the_base_url(vendor, asked, url):
    found = values(vendor, **asked)
    assert found["base_url"] == url
    if "region" in asked:
        assert found["region"] == asked["region"]


@pytest.mark.parametrize(("vendor", "asked", "said"), [
    ("moonshot", {"region": "us"}, "no base URL in us: it has cn, intl"), ("moonshot", {"plan": "x"}, "no plan x: it has none"),
    ("zhipu", {"plan": "x"}, "it has coding"), ("azure-openai", {}, r"serves at https://\{resource\}.openai.azure.com/openai/v1"),
    ("vllm", {}, "give it with --base-url"), ("xingchen", {"region": "cn"}, "give it with --base-url"),
])  # fmt: skip
def test_what_is_not_there_is_said_with_what_is(vendor, asked, said):
    with pytest.raises(DeploymentInvalid, match=said):
        values(vendor, **asked)


def test_another_name_of_a_vendor_is_said():
    with pytest.raises(DeploymentInvalid, match="is it moonshot\\? "):
        vendor_profile("kimi")
    with pytest.raises(DeploymentInvalid, match="there is no vendor nobody: `tokenworks vendor list`"):
        vendor_profile("nobody")


def test_what_is_not_known_is_left_to_the_operator():
    found = values("vllm", "qwen", base_url="http://10.0.0.1:8000")
    # An engine is nobody's service: its protocols are probed, and data at it is the operator's.
    assert found.keys() == {"name", "model", "upstream_model", "profile", "base_url"}
    assert "protocols" not in values("deepseek", base_url="https://other.example")
    assert "hides_reasoning" not in values("openai", "unheard-of")


def test_models_have_the_names_and_protocols_of_their_kind():
    assert values("fireworks", "glm")["upstream_model"] == "accounts/fireworks/models/glm"
    assert values("fireworks", "accounts/me/models/x")["upstream_model"] == "accounts/me/models/x"
    assert values("zhipu", "embedding-3")["protocols"] == ("embeddings",)
    assert values("openrouter", "z-ai/glm:free")["name"] == "openrouter-z-ai-glm-free"
    assert len(values("openrouter", "x" * 200)["name"]) == 63


def test_every_vendor_gives_a_deployment_that_can_be_declared():
    filled = {"{host}": "h.example", "{resource}": "r", "{workspace}": "w", "{model}": "m"}
    for name in profile_names():
        profile = load_profile(name)
        for base in profile.base_urls:
            url = base.url
            for word, value in filled.items():
                url = url.replace(word, value)
            found = {
                field: default.value for field, default in vendor_defaults(profile, "m", base_url=url).items()
            }
            made = make_deployment(**({"protocols": ("chat",), "allow_private": True} | found))
            assert made.profile == name and made.context_tokens >= made.max_output_tokens


def test_the_catalogue_of_models_has_the_vendors_name_of_a_model():
    for name in profile_names():
        for facts in shipped_facts().values():
            if (
                name in facts.vendor_ids
                and load_profile(name).base_urls
                and not load_profile(name).base_urls[0].is_template
            ):
                found = vendor_defaults(load_profile(name), facts.id)
                assert found["upstream_model"] == (facts.vendor_ids[name], "catalogue of models")
    assert "hides_reasoning" in values("openai", "gpt-5") and "hides_reasoning" not in values(
        "deepseek", "deepseek-chat"
    )


def test_where_a_credential_is_looked_for(tmp_path):
    deepseek = load_profile("deepseek")
    with pytest.raises(CredentialMissing) as caught:
        credential_default(deepseek, tmp_path, {})
    assert "TOKENWORKS_UPSTREAM_DEEPSEEK" in str(caught.value) and str(tmp_path / "deepseek") in str(
        caught.value
    )
    (tmp_path / "deepseek").write_text("sk-1")
    assert credential_default(deepseek, tmp_path, {}).value == "file:deepseek"
    assert (
        credential_default(deepseek, tmp_path, {"TOKENWORKS_UPSTREAM_DEEPSEEK": "x"}).value
        == "env:TOKENWORKS_UPSTREAM_DEEPSEEK"
    )
    azure = credential_default(
        load_profile("azure-openai"), tmp_path, {"TOKENWORKS_UPSTREAM_AZURE_OPENAI": "x"}
    )
    assert azure.value == "env:TOKENWORKS_UPSTREAM_AZURE_OPENAI"
    assert credential_default(load_profile("vllm"), tmp_path, {}) is None


def test_a_vendors_credential_is_sent_to_no_other_address(tmp_path):
    (tmp_path / "deepseek").write_text("sk-1")
    (tmp_path / "azure-openai").write_text("sk-2")
    deepseek, azure = load_profile("deepseek"), load_profile("azure-openai")
    assert credential_default(deepseek, tmp_path, {}, "https://api.deepseek.com/").value == "file:deepseek"
    assert credential_default(deepseek, tmp_path, {}, "http://127.0.0.1:8080/v1") is None
    assert credential_default(deepseek, tmp_path, {}, "https://api.deepseek.com.evil.example") is None
    assert credential_default(azure, tmp_path, {}, "https://acme.openai.azure.com/openai/v1") is not None
    assert (
        credential_default(azure, tmp_path, {}, "https://evil.example/x.openai.azure.com/openai/v1") is None
    )
