"""The catalogue of models of an installation: imports over the shipped facts, figures for deployments, facts of served models."""

import pytest

from tokenworks.factory import DeploymentInvalid, ModelNotFound, make_deployment, make_model, read_models_file
from tokenworks.factory import known_models as module
from tokenworks.factory.facts.model_facts import ModelFacts, shipped_facts

GOOD = {
    "name": "a",
    "model": "glm-5.3",
    "upstream_model": "glm-5.3",
    "base_url": "https://x.example/v1",
    "protocols": ("chat",),
}


def deployment(**fields):
    return make_deployment(**(GOOD | fields))


def load(services, text, date="2026-11-28"):
    known = services.known_models
    return known.plan(read_models_file(text.encode(), known.index(), "a file", date).models)


FILE = """
models:
- {id: glm-5, context_tokens: 9000, prices: [{currency: CNY, region: cn, input: 7, output: 9}]}
- {id: own-model, tools: true, vendor_ids: {example: Own}}
"""


def test_an_import_is_planned_applied_and_repeated_without_effect(services):
    known = services.known_models
    plan = load(services, FILE)
    assert set(plan.added) == {"own-model"} and plan.same == 0
    found = {change.field: (change.before, change.after) for change in plan.changed["glm-5"]}
    assert found["context_tokens"] == (204800, 9000)
    before, after = found["prices.CNY.cn"]
    assert (before["input"], before["output"], after) == ("4", "18", {"input": "7", "output": "9"})
    assert known.imported() == {}
    known.apply(plan)
    assert set(known.imported()) == {"glm-5", "own-model"}
    glm = known.find("glm-5")
    assert (glm.context_tokens, glm.output_tokens_max, glm.maker) == (9000, 131072, "Zhipu")
    assert known.find("own", "example").id == "own-model" and known.find("nothing") is None
    # The same file on another day.
    again = load(services, FILE, "2026-12-24")
    assert (again.added, again.changed, again.same, again.writes) == ({}, {}, 2, {})
    # A later import that says less leaves what an earlier one said.
    known.apply(load(services, "models: [{id: glm-5, tools: false}]"))
    assert (known.find("glm-5").tools, known.find("glm-5").context_tokens) == (False, 9000)
    known.remove("glm-5")
    assert known.find("glm-5") == shipped_facts()["glm-5"]
    with pytest.raises(ModelNotFound):
        known.remove("glm-5")


def test_an_import_touches_nothing_that_charges_places_or_declares(services):
    services.deployments.set_model(make_model(name="glm-5", modalities=("text", "image")))
    services.deployments.add(deployment(model="glm-5", upstream_model="glm-5"))
    cards, declared, deployed = (
        services.offerings.rate_cards(),
        services.deployments.models(),
        services.deployments.all(),
    )
    services.known_models.apply(load(services, FILE))
    assert services.offerings.rate_cards() == cards
    assert (services.deployments.models(), services.deployments.all()) == (declared, deployed)


def test_hosts_are_told_of_an_import_once(services):
    count = "SELECT count(*) FROM change WHERE kind = 'snapshot'"
    (before,) = services.connection.execute(count).fetchone()
    services.known_models.apply(load(services, FILE))
    services.known_models.apply(load(services, FILE))
    (after,) = services.connection.execute(count).fetchone()
    assert after == before + 1


def test_imports_have_a_limit(services, monkeypatch):
    monkeypatch.setattr(module, "IMPORTED_MAX", 1)
    with pytest.raises(DeploymentInvalid, match="at most 1"):
        services.known_models.apply(load(services, FILE))
    assert services.known_models.imported() == {}


def test_what_a_newer_release_stored_is_read_as_far_as_it_is_known(services):
    rows = {
        "new": '{"id": "new", "tools": true, "smells": "of roses", "prices": [{"currency": "CNY", "region": "cn", "input": "1", "source": "s", "date": "d", "mood": 1}]}',
        "odd": '{"id": "odd", "tools": "perhaps"}',
        "list": "[]",
    }
    for name, content in rows.items():
        services.connection.execute(
            "INSERT INTO model_facts (name, content) VALUES (%s, %s)", (name, content)
        )
    found = services.known_models.imported()
    assert set(found) == {"new"} and found["new"].tools is True and found["new"].prices[0].input == "1"


def test_a_deployment_takes_what_is_not_given(services):
    known = services.known_models
    figures = known.figures_for(deployment(vendor="zhipu", region="cn"), set(), [], "")
    assert figures.fields["context_tokens"] == 1_000_000 and figures.fields["max_output_tokens"] == 128_000
    price = figures.fields["price"]
    assert (price["fresh_input_nano"], price["cached_input_nano"], price["output_nano"]) == (
        8000,
        2000,
        28000,
    )
    assert "docs.bigmodel.cn" in " ".join(figures.taken)
    # glm-5.3's modalities are not published: nothing is declared.
    assert figures.card is None
    given = known.figures_for(
        deployment(vendor="zhipu"), {"price", "context_tokens", "max_output_tokens"}, [], ""
    )
    assert given.fields == {} and given.taken == []
    made = make_deployment(**(deployment(vendor="zhipu").model_dump() | figures.fields))
    assert made.price.output_nano == 28000


def test_a_price_is_taken_of_a_seller_of_the_model_alone(services):
    known = services.known_models
    for vendor, profile, expected in (
        (None, "generic", None),
        (None, "vllm", None),
        (None, "zhipu", 8000),
        ("nobody", "zhipu", None),
    ):
        figures = known.figures_for(deployment(vendor=vendor, profile=profile), set(), [], "7")
        assert (
            figures.fields["price"]["fresh_input_nano"] if "price" in figures.fields else None
        ) == expected
        assert figures.fields["context_tokens"] == 1_000_000


def test_dollars_are_used_at_the_operators_rate_alone(services):
    made = deployment(model="claude", upstream_model="claude-sonnet-4-5", vendor="anthropic")
    without = services.known_models.figures_for(made, set(), [], "")
    assert "price" not in without.fields and "usd_yuan" in " ".join(without.taken)
    with_rate = services.known_models.figures_for(made, set(), [], "7.1")
    assert with_rate.fields["price"]["output_nano"] == 15 * 7100


def test_the_model_is_declared_where_it_is_not(services):
    made = deployment(model="mine", upstream_model="glm-4.6v", vendor="zhipu")
    figures = services.known_models.figures_for(made, set(), [], "")
    assert (figures.card.name, figures.card.modalities, figures.card.tools, figures.card.filing) == (
        "mine",
        ("text", "image", "video"),
        True,
        "none",
    )
    assert services.known_models.figures_for(made, set(), ["mine"], "").card is None
    # A filing is a permission by law: no file that is imported declares one.
    services.known_models.apply(load(services, "models: [{id: glm-4.6v, filing: filed, filing_no: '1'}]"))
    filed = services.known_models.figures_for(made, set(), [], "").card
    assert (filed.filing, filed.filing_no) == ("none", None) and services.known_models.find(
        "glm-4.6v"
    ).filing == "filed"


def test_facts_of_served_models(services):
    services.known_models.apply(
        load(services, "models: [{id: glm-5, context_tokens: 9000}, {id: own, name: Own}]")
    )
    served = services.known_models.served(
        [
            deployment(name="a", model="glm-5", upstream_model="zai-org/GLM-5", vendor="siliconflow"),
            deployment(name="b", model="house-brand", upstream_model="deepseek-v4-pro", vendor="deepseek"),
            deployment(name="c", model="own", upstream_model="x"),
            deployment(name="d", model="unknown", upstream_model="x"),
        ]
    )
    assert set(served) == {"glm-5", "house-brand", "own"}
    assert (served["glm-5"].context_tokens, served["glm-5"].name, served["own"].name) == (
        9000,
        "GLM-5",
        "Own",
    )
    # Sold under a name of the operator's own: figures, and nothing that tells whose model it is.
    brand = served["house-brand"]
    assert (brand.context_tokens, brand.reasoning) == (1_000_000, True)
    assert [getattr(brand, name) for name in module._TELLING] == [None] * len(module._TELLING)
    wire = module.facts_to_wire(brand)
    assert "eepseek" not in wire.replace('"id":"deepseek-v4-pro"', "") and "prices" not in wire


def test_models_are_listed_with_what_is_declared_and_deployed(services):
    services.deployments.set_model(make_model(name="mine", quality=50))
    services.deployments.add(deployment(name="a", model="glm-5"))
    services.known_models.apply(load(services, FILE))
    listed = services.known_models.listed()
    assert [model.name for model in listed[:2]] == ["glm-5", "mine"] and len(listed) == len(
        shipped_facts()
    ) + 2
    glm, mine = listed[:2]
    assert (glm.deployments, glm.card, glm.facts.context_tokens, glm.imported) == (("a",), None, 9000, True)
    assert (mine.deployments, mine.card.quality, mine.facts, mine.imported) == ((), 50, None, False)
    assert services.known_models.listed(here=True) == listed[:2]
    assert services.known_models.known("zai-org/GLM-5").name == "glm-5"
    assert services.known_models.known("kimi-k3").facts.maker == "Moonshot"
    with pytest.raises(ModelNotFound):
        services.known_models.known("nothing")


def test_every_shipped_model_can_be_stored_and_sent():
    for facts in shipped_facts().values():
        assert ModelFacts.model_validate_json(facts.model_dump_json(exclude_defaults=True)) == facts
        sent = ModelFacts.model_validate_json(module.facts_to_wire(facts))
        assert sent.context == facts.context and sent.prices == ()
