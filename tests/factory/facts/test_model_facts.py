"""The shipped catalogue of models, and what lies over it."""

from decimal import Decimal

import pytest

from tokenworks.factory import load_profile, model_facts, profile_names, upstream_id
from tokenworks.factory.facts.list_prices import CLASSES, ListPrice
from tokenworks.factory.facts.model_facts import (
    NOTES_MAX,
    PRICES_MAX,
    FactsIndex,
    ModelFacts,
    all_facts,
    changes,
    list_price_text,
    overlaid,
    shipped_facts,
    shipped_index,
)
from tokenworks.factory.facts.profiles import Source

CHINESE = {"DeepSeek", "Zhipu", "Alibaba", "Moonshot", "MiniMax", "ByteDance", "Tencent", "Baidu", "StepFun", "China Telecom TeleAI", "iFlytek"}  # fmt: skip


def price(amount, **fields):
    return ListPrice(
        **{"currency": "CNY", "region": "cn", "source": "s", "date": "d", "input": amount, **fields}
    )


def test_models_sold_in_2026_are_shipped_with_their_sources():
    shipped = shipped_facts()
    assert len(shipped) >= 60
    assert {facts.maker for facts in shipped.values()} >= CHINESE
    for facts in shipped.values():
        origins = [(one.source, one.date) for one in (*facts.sources, *facts.prices)]
        assert origins and all(source and date for source, date in origins), facts.id
        assert facts.context or facts.output_tokens_max or facts.prices or facts.notes or facts.vendor_ids, (
            facts.id
        )


def test_no_shipped_price_is_a_conversion_or_contradicts_itself():
    for facts in shipped_facts().values():
        keys = [row.key for row in facts.prices]
        assert len(set(keys)) == len(keys), facts.id
        for row in facts.prices:
            # Rows of one region in two currencies were conversions in the source, or were yuan under the wrong name.
            assert (row.currency, row.region) in {("CNY", "cn"), ("USD", "intl")}, facts.id
            assert any(getattr(row, name) is not None for name in CLASSES)
            if row.cached_input is not None and row.input is not None:
                assert Decimal(row.cached_input) <= Decimal(row.input), facts.id
            if row.cache_write_1h is not None and row.cache_write is not None:
                assert Decimal(row.cache_write_1h) >= Decimal(row.cache_write), facts.id
            above = [(tier.above_input_tokens, tier.above_output_tokens or 0) for tier in row.tiers]
            assert above == sorted(set(above)), facts.id


def test_a_price_that_a_vendors_page_says():
    """api-docs.deepseek.com/zh-cn/quick_start/pricing, stored copy of 2026-10-17 or later; docs.bigmodel.cn, about 2026-09."""
    rows = {
        (row.currency, row.schedule and row.schedule[:4]): row
        for row in model_facts("deepseek", "deepseek-flash").prices
    }
    assert (rows["CNY", "peak"].input, rows["CNY", "peak"].cached_input, rows["CNY", "peak"].output) == (
        "2",
        "0.04",
        "8",
    )
    glm = next(row for row in model_facts("zhipu", "glm-5.3").prices if row.currency == "CNY")
    assert (glm.input, glm.cached_input, glm.output) == ("8", "2", "28")


def test_a_model_is_found_by_the_name_that_a_seller_gives_it():
    assert model_facts("deepseek", "deepseek-v4-pro").id == "deepseek-v4-pro"
    assert model_facts("openrouter", "deepseek/deepseek-v4-pro").id == "deepseek-v4-pro"
    assert model_facts("minimax", "minimax-m3").id == "MiniMax-M3"
    assert model_facts("vllm", "glm-5").id == "glm-5"
    assert model_facts("vllm", "zai-org/GLM-5").id == "glm-5"
    assert model_facts("deepseek", "no-such-model") is None and model_facts("deepseek", "") is None
    glm = model_facts("zhipu", "glm-5")
    assert (upstream_id(glm, "siliconflow"), upstream_id(glm, "nobody")) == ("zai-org/GLM-5", "glm-5")


def test_every_profile_of_a_maker_has_models():
    sellers = {facts.seller for facts in shipped_facts().values()}
    for vendor in ("openai", "anthropic", "deepseek", "dashscope", "moonshot", "zhipu"):
        assert vendor in sellers and vendor in profile_names() and load_profile(vendor)


def test_names_in_the_same_letter_case_come_first():
    index = FactsIndex(
        {
            "Foo": ModelFacts(id="Foo", vendor_ids={"a": "Foo"}),
            "foo": ModelFacts(id="foo", vendor_ids={"a": "foo"}),
            "bar": ModelFacts(id="bar", vendor_ids={"b": "Foo"}),
        }
    )
    assert [index.find(*asked).id for asked in (("Foo", "a"), ("foo", "a"), ("Foo", "b"), ("FOO", "a"), ("foo",))] == ["Foo", "foo", "bar", "foo", "foo"]  # fmt: skip


def test_an_overlay_changes_what_it_gives_and_nothing_else():
    under = ModelFacts(
        id="m",
        maker="M",
        tools=True,
        context_tokens=10,
        vendor_ids={"a": "x"},
        prices=(price("1"), price("2", region="hk")),
    )
    over = ModelFacts(id="m", tools=False, vendor_ids={"b": "y"}, prices=(price("3"),))
    both = overlaid(under, over)
    assert (both.maker, both.tools, both.context_tokens) == ("M", False, 10)
    assert both.vendor_ids == {"a": "x", "b": "y"}
    assert [row.input for row in both.prices] == ["3", "2"]
    found = {change.field: (change.before, change.after) for change in changes(under, both)}
    assert found == {
        "tools": (True, False),
        "vendor_ids.b": (None, "y"),
        "prices.CNY.cn": ({"input": "1"}, {"input": "3"}),
    }
    assert changes(both, overlaid(both, over)) == []


def test_another_source_alone_is_no_change():
    under = ModelFacts(id="m", prices=(price("1"),), sources=(Source(source="a", date="1"),))
    over = ModelFacts(
        id="m", prices=(price("1", date="e", source="t"),), sources=(Source(source="b", date="2"),)
    )
    assert changes(under, overlaid(under, over)) == []


def test_overlays_stay_within_the_limits_of_a_model():
    """What grows beyond them could be stored and never read again."""
    facts = ModelFacts(id="m")
    for at in range(NOTES_MAX + PRICES_MAX):
        facts = overlaid(facts, ModelFacts(id="m", prices=(price("1", region=f"r{at}"),), vendor_ids={f"s{at}": "m"}, sources=(Source(source=str(at), date="d"),)))  # fmt: skip
    assert ModelFacts.model_validate(facts.model_dump()) == facts
    assert facts.prices[-1].region == f"r{NOTES_MAX + PRICES_MAX - 1}"


def test_what_is_imported_lies_over_what_is_shipped():
    found = all_facts([ModelFacts(id="glm-5", context_tokens=7), ModelFacts(id="own")])
    assert (found["glm-5"].context_tokens, found["glm-5"].maker) == (7, "Zhipu")
    assert found["own"].maker is None and shipped_facts()["glm-5"].context_tokens == 204800


def test_the_price_in_a_table():
    assert list_price_text(None) == "" and list_price_text(ModelFacts(id="m")) == ""
    assert list_price_text(ModelFacts(id="m", prices=(price("1", seller="groq"),))) == "1 / ? CNY at groq"
    assert list_price_text(shipped_index().find("glm-5.3")) == "8 / 28 CNY"


@pytest.mark.parametrize(
    "bad", [{"id": "a b"}, {"id": "m", "tools": 1}, {"id": "m", "context_tokens": "5"}, {"id": "m", "context_tokens": 0}, {"id": "m", "colour": 1},
            {"id": "m", "input": ["smell"]}, {"id": "m", "released": "soon"}, {"id": "m", "vendor_ids": {"A B": "x"}}],
)  # fmt: skip
def test_facts_are_typed(bad):
    with pytest.raises(ValueError, match="validation error"):
        ModelFacts.model_validate(bad)
