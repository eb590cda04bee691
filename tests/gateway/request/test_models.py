"""`GET /v1/models`: three APIs' fields at once, the account's own prices, pages, and what is kept of a snapshot."""

import json
import random
from datetime import datetime

import httpx
import pytest

from tokenworks.catalog import RateCard
from tokenworks.catalog.model import Rate
from tokenworks.charging import SoldRate
from tokenworks.factory import Deployment, ModelCard, ModelFacts
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request import models as module
from tokenworks.gateway.request.models import CREATED, ModelList, Page, entry_of, page_of, read_page
from tokenworks.gateway.snapshot import Snapshot, snapshot_from_wire, snapshot_to_wire

FACTS = {
    "big": ModelFacts(
        id="big", name="Big One", description="Large.", maker="Alibaba", released="2026-04-24", input=("text", "image", "pdf"), output=("text",),
        tools=True, reasoning=True, structured_output=True, efforts=("low", "high"), thinking_can_be_switched=True,
    ),
    "old": ModelFacts(id="old", released="2025-04", status="deprecated", tools=False, reasoning=False),
    "vectors": ModelFacts(id="vectors", mode="embedding"),
}  # fmt: skip
TOKENS = SoldRate("r-tokens", "token", ("*",))
PREMIUM = SoldRate("r-tokens", "credit", ("premium",))


def rate(name, models, **weights):
    classes = (
        "fresh_input",
        "cached_input",
        "cache_write",
        "audio_input",
        "output",
        "reasoning",
        "audio_output",
    )
    return Rate(model_class=name, models=models, **(dict.fromkeys(classes, 1000) | weights))


CARD = RateCard(
    id="card", effective_from="2026-01-01T00:00:00+08:00", source="a test",
    rates=(rate("premium", ("big",), fresh_input=2000, cached_input=250, output=8001, request=1), rate("standard", ("old", "vectors"))),
)  # fmt: skip


def deployment(model, *protocols, **fields):
    return Deployment(
        **{
            "name": model, "model": model, "upstream_model": f"secret/{model}", "base_url": "http://192.0.2.1/v1", "protocols": protocols or ("chat",),
            "allow_private": True, "vendor": "secretvendor", "context_tokens": 1000, "max_output_tokens": 100, **fields,
        }
    )  # fmt: skip


def make(cards=(), facts=FACTS, **fields):
    deployments = [
        deployment("big", "chat", "messages", context_tokens=2000),
        deployment("old"),
        deployment("vectors", "embeddings"),
        deployment("free"),
    ]
    return Snapshot(
        1,
        deployments,
        {"claude-*": "big", "mine": "old"},
        {"r-tokens": CARD},
        {},
        models=cards,
        facts=facts,
        **fields,
    )


def key(models=None, rates=(TOKENS,)):
    entry = KeyEntry("k", b"k")
    entry.models = None if models is None else frozenset(models)
    entry.rates = rates
    return entry


def listed(body):
    return [entry["id"] for entry in json.loads(body)["data"]]


def test_an_entry_has_the_fields_of_three_apis():
    entry = entry_of("big", make(), (TOKENS,))
    assert (entry["object"], entry["owned_by"], entry["created"]) == (
        "model",
        "tokenworks",
        int(datetime.fromisoformat("2026-04-24T00:00:00+00:00").timestamp()),
    )
    assert (entry["type"], entry["display_name"], entry["created_at"], entry["lifecycle"]) == (
        "model",
        "Big One",
        "2026-04-24T00:00:00Z",
        "active",
    )
    assert (
        entry["max_input_tokens"],
        entry["max_tokens"],
        entry["context_window"],
        entry["max_output_tokens"],
    ) == (2000, 100, 2000, 100)
    assert (entry["name"], entry["description"], entry["context_length"]) == ("Big One", "Large.", 2000)
    assert entry["architecture"] == {
        "modality": "text+image+file->text", "input_modalities": ["text", "image", "file"], "output_modalities": ["text"], "tokenizer": "Qwen", "instruct_type": None,
    }  # fmt: skip
    assert entry["top_provider"] == {
        "context_length": 2000,
        "max_completion_tokens": 100,
        "is_moderated": False,
    }
    assert {
        "temperature",
        "max_tokens",
        "tools",
        "reasoning_effort",
        "response_format",
        "structured_outputs",
    } <= set(entry["supported_parameters"])
    can = entry["capabilities"]
    assert (
        can["image_input"]["supported"]
        and can["pdf_input"]["supported"]
        and can["structured_outputs"]["supported"]
    )
    assert (
        can["thinking"]["types"]["disabled"]["supported"]
        and can["effort"]["high"]["supported"]
        and not can["effort"]["max"]["supported"]
    )
    assert entry["protocols"] == ["chat", "messages", "responses"], "requests are translated"


def test_the_price_is_the_accounts_own_in_units_of_its_plan():
    snapshot = make()
    assert entry_of("big", snapshot, (TOKENS,))["pricing"] == {
        "prompt": "2", "completion": "8.001", "request": "0.001", "input_cache_read": "0.25", "input_cache_write": "1", "internal_reasoning": "1", "audio": "1",
        "unit": "token",
    }  # fmt: skip
    assert entry_of("claude-*", snapshot, (TOKENS,))["pricing"]["prompt"] == "2"
    assert entry_of("mine", snapshot, (TOKENS,))["pricing"]["prompt"] == "1"
    # The first product counts whose rate card and buckets cover the model.
    assert entry_of("big", snapshot, (PREMIUM, TOKENS))["pricing"]["unit"] == "credit"
    assert entry_of("old", snapshot, (PREMIUM, TOKENS))["pricing"]["unit"] == "token"
    for name, rates in (
        ("old", (PREMIUM,)),
        ("free", (TOKENS,)),
        ("big", ()),
        ("big", (SoldRate("r-gone", "token", ("*",)),)),
    ):
        assert entry_of(name, snapshot, rates)["pricing"] is None


@pytest.mark.parametrize(
    ("weight", "unit", "text"),
    [
        (0, "token", "0"),
        (1, "token", "0.001"),
        (1000, "credit", "1"),
        (123_450, "call", "123.45"),
        (1, "CNY", "0.000000001"),
        (10**12, "token", "1000000000"),
    ],
)
def test_a_weight_is_an_exact_decimal(weight, unit, text):
    assert module._units(weight, unit) == text


def test_an_intent_has_one_price_or_none():
    same = (ModelCard(name="old", quality=5), ModelCard(name="vectors", quality=5))
    assert entry_of("auto", make(same), (TOKENS,))["pricing"]["prompt"] == "1"
    assert entry_of("auto", make((*same, ModelCard(name="big", quality=5))), (TOKENS,))["pricing"] is None
    assert entry_of("auto", make(same), (TOKENS,))["display_name"] == "auto"


def test_what_is_declared_counts_before_what_is_published():
    entry = entry_of(
        "big", make((ModelCard(name="big", modalities=("text", "audio"), tools=False),)), (TOKENS,)
    )
    assert entry["architecture"]["input_modalities"] == ["text", "audio"]
    assert "tools" not in entry["supported_parameters"] and "tool_choice" not in entry["supported_parameters"]
    assert not entry["capabilities"]["pdf_input"]["supported"]


def test_what_is_not_known_is_not_claimed():
    entry = entry_of("free", make(), (TOKENS,))
    assert (entry["display_name"], entry["description"], entry["created"]) == ("free", "", CREATED)
    assert (
        entry["architecture"]["input_modalities"] == ["text"]
        and not entry["capabilities"]["thinking"]["supported"]
    )
    old = entry_of("old", make(), (TOKENS,))
    assert (old["lifecycle"], old["created_at"]) == ("deprecated", "2025-04-01T00:00:00Z")
    assert not {"tools", "reasoning_effort"} & set(old["supported_parameters"])
    vectors = entry_of("vectors", make(), (TOKENS,))
    assert (
        vectors["architecture"]["output_modalities"] == ["embeddings"]
        and vectors["supported_parameters"] == []
    )
    impossible = make(facts={"big": ModelFacts(id="big", released="2026-13-45")})
    assert entry_of("big", impossible, ())["created"] == CREATED


def test_nothing_says_where_a_model_is_served():
    body = ModelList().body(make(), key())
    assert b"secret" not in body and b"192.0.2.1" not in body


def test_pages_by_a_walk_in_either_direction():
    chance = random.Random(5)
    for _ in range(200):
        names = sorted({f"m{chance.randint(0, 30):02}" for _ in range(chance.randint(0, 20))})
        limit = chance.randint(1, 7)
        walked, after = [], None
        while True:
            page, more = page_of(names, Page(limit, after, None))
            walked += page
            if not more:
                break
            after = page[-1]
        assert walked == names
        walked, before = [], "z"
        while True:
            page, more = page_of(names, Page(limit, None, before))
            walked = page + walked
            if not more:
                break
            before = page[0]
        assert walked == names
    # An id that is gone still has a place.
    assert page_of(["a", "c"], Page(5, "b", None)) == (["c"], False)
    assert page_of(["a", "c"], Page(None, None, "b")) == (["a"], False)


@pytest.mark.parametrize(
    "query",
    [
        b"limit=0",
        b"limit=1001",
        b"limit=-1",
        b"limit=x",
        b"limit=",
        b"limit=%D9%A3",
        b"limit=1e3",
        b"after_id=a&before_id=b",
        b"&".join(b"a=1" for _ in range(101)),
    ],
)
def test_a_page_that_cannot_be_is_refused(query):
    found = read_page(query)
    assert isinstance(found, Refusal) and (found.status, found.code) == (400, "bad_request")


def test_a_query_without_a_page_is_the_whole_list():
    assert read_page(b"") is None and read_page(b"beta=true&x=%ff") is None
    page = read_page(b"limit=2&after_id=org%2Fa")
    assert (page.limit, page.after, page.before) == (2, "org/a", None)


def test_a_page_of_the_list():
    models, snapshot, user = ModelList(), make(), key()
    whole = listed(models.body(snapshot, user))
    first = json.loads(models.body(snapshot, user, Page(2, None, None)))
    assert (
        [entry["id"] for entry in first["data"]],
        first["has_more"],
        first["first_id"],
        first["last_id"],
    ) == (whole[:2], True, whole[0], whole[1])
    last = json.loads(models.body(snapshot, user, Page(1000, whole[1], None)))
    assert ([entry["id"] for entry in last["data"]], last["has_more"]) == (whole[2:], False)
    none = json.loads(models.body(snapshot, user, Page(2, "zzz", None)))
    assert (none["data"], none["has_more"], none["first_id"], none["last_id"]) == ([], False, None, None)


def test_a_page_has_only_what_the_key_may_use():
    models, snapshot = ModelList(), make()
    assert listed(models.body(snapshot, key(["old"]), Page(10, None, None))) == ["mine", "old"]
    assert models.model_body(snapshot, key(["old"]), "big") is None


def test_bodies_are_kept_by_snapshot_models_and_rates():
    models, snapshot = ModelList(), make()
    body = models.body(snapshot, key())
    assert models.body(snapshot, key()) is body
    assert (
        models.body(snapshot, key(["big"])) != body and models.body(snapshot, key(rates=(PREMIUM,))) != body
    )
    assert models.model_body(snapshot, key(), "big") is models.model_body(snapshot, key(), "big")
    other = make(facts={})
    assert (
        models.body(other, key()) != body
        and json.loads(models.model_body(other, key(), "big"))["name"] == "big"
    )
    # Another snapshot leaves nothing of the former.
    assert len(models._bodies) == 1


def test_what_is_kept_has_a_limit_in_bytes():
    snapshot, user = make(), key()
    size = len(ModelList().model_body(snapshot, user, "big"))
    models = ModelList(kept_bytes_max=2 * size)
    for at in range(20):
        models.body(snapshot, key([f"m{at}", "big"]))
        models.model_body(snapshot, key(rates=(SoldRate(f"r{at}", "token", ("*",)),)), "old")
    kept = [*models._bodies.values(), *models._entries.values()]
    assert kept and sum(map(len, kept)) <= 2 * size
    assert models.model_body(snapshot, user, "big") == ModelList().model_body(snapshot, user, "big")


def test_names_that_a_client_makes_up_are_not_kept():
    models, snapshot = ModelList(), make()
    for at in range(50):
        assert json.loads(models.model_body(snapshot, key(), f"claude-{at}"))["id"] == f"claude-{at}"
    assert models._entries == {}
    models.model_body(snapshot, key(), "claude-*")
    assert len(models._entries) == 1


def test_facts_reach_a_worker_over_the_wire():
    wire = snapshot_to_wire(2, [deployment("big")], {}, {}, {}, facts=FACTS)
    assert snapshot_from_wire(wire, {}, None).facts == FACTS


def test_the_sdks_parse_it_strictly():
    import anthropic
    import httpx2
    import openai

    models, snapshot, user = ModelList(), make((ModelCard(name="big", quality=5),)), key()

    def answer(request):
        name = request.url.path.partition("/v1/models")[2].strip("/")
        page = read_page(request.url.query)
        body = models.model_body(snapshot, user, name) if name else models.body(snapshot, user, page)
        return body

    def client_of(http):
        """An HTTP client of a package that the SDK takes; the two packages have the same names."""
        kind = {"content-type": "application/json"}
        return http.Client(
            transport=http.MockTransport(
                lambda request: http.Response(200, content=answer(request), headers=kind)
            )
        )

    whole = listed(models.body(snapshot, user))
    chat = openai.OpenAI(
        base_url="http://x/v1", api_key="k", http_client=client_of(httpx), _strict_response_validation=True
    )
    assert [model.id for model in chat.models.list()] == whole
    assert chat.models.retrieve("big").created == entry_of("big", snapshot, ())["created"]
    messages = anthropic.Anthropic(
        base_url="http://x", api_key="k", http_client=client_of(httpx2), _strict_response_validation=True
    )
    for client in (messages.models, messages.beta.models):
        assert [model.id for model in client.list(limit=2)] == whole
        big = client.retrieve("big")
        assert (big.display_name, big.max_input_tokens, big.max_tokens, big.type) == (
            "Big One",
            2000,
            100,
            "model",
        )
        assert (
            big.capabilities.image_input.supported is False
            and big.capabilities.thinking.types.enabled.supported
        )
