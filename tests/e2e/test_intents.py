"""A client that names what matters to it and no model; edge and hub; requests that may wait for the cheapest."""

import json

import pytest
from openai import OpenAI

from tests.support.server import Server, StubUpstream, until
from tokenworks.catalog import Catalogue, Service, seed_catalogue

EASY = "Translate to German: good morning"
HARD = "Prove by induction that the invariant holds, derive the complexity, and compare two designs step by step."


@pytest.fixture(scope="module")
def upstreams():
    with StubUpstream() as small, StubUpstream() as large, StubUpstream() as edge:
        yield small, large, edge


@pytest.fixture(scope="module")
def services(tmp_path_factory, upstreams):
    small, large, edge = upstreams
    with Server(tmp_path_factory.mktemp("intents"), flex_deadline_s=8, queue_wait_s=20) as server:
        price = ("--price", "fresh_input=1", "--price", "output=1")
        dear = ("--price", "fresh_input=400", "--price", "output=1600")
        server.add_deployment("small-hub", "small", small.url, *price, "--site", "sh-1", "--region", "cn-sh")
        server.add_deployment(
            "small-edge",
            "small",
            edge.url,
            "--committed",
            "--kind",
            "edge",
            "--site",
            "box-7",
            "--region",
            "cn-sh-pudong",
        )
        server.add_deployment("large-hub", "large", large.url, *dear, "--region", "cn-bj", "--kind", "vendor")
        server.cli("model", "set", "small", "--quality", "40", "--no-tools")
        server.cli("model", "set", "large", "--quality", "90", "--modality", "text", "--modality", "image")
        card, offering = two_prices()
        server.services.offerings.load(Catalogue(catalogue="intents", rate_cards=(card,), offerings=offering))
        _, key = server.subscriber("two-prices")
        until(lambda: b'"auto:best"' in server.get("/v1/models", key)[1], what="the intents")
        until(lambda: ask(server, key, "small", EASY)[0] == 200, what="the new prices")
        yield server


def two_prices():
    """A plan whose tokens pay ten to one for the large model, and one that pays for the small one alone."""
    seed = seed_catalogue()
    card = next(card for card in seed.rate_cards if card.id == "one-price")
    rate = card.rates[0]
    dear = {
        name: 10 * value
        for name, value in rate.model_dump().items()
        if name not in {"model_class", "models", "request"}
    }
    card = card.model_copy(
        update={
            "id": "two-prices",
            "rates": (
                rate.model_copy(update={"model_class": "great", "models": ("large",)} | dear),
                rate.model_copy(update={"model_class": "plain"}),
            ),
        }
    )
    like = next(offering for offering in seed.offerings if offering.id == "sample-trial")
    bucket = like.buckets[0].model_copy(update={"quantity": 1_000_000})
    both = like.model_copy(
        update={
            "id": "two-prices",
            "rate_card": "two-prices",
            "buckets": (bucket,),
            "per_subscriber_max": None,
        }
    )
    plain = bucket.model_copy(update={"model_classes": ("plain",)})
    alone = both.model_copy(
        update={"id": "small-alone", "buckets": (plain,), "service": Service(edge_first=False, weight=5)}
    )
    return card, (both, alone)


def ask(server, key, model, text, told=None, **more):
    status, body, headers = server.chat(
        key,
        {"tokens": 3, "prompt": 9} | (told or {}),
        model=model,
        messages=[{"role": "user", "content": text}],
        **more,
    )
    return status, json.loads(body) if body.startswith(b"{") else body, headers


def test_each_request_gets_the_model_that_fits_and_is_told_why(services, upstreams):
    subscriber, key = services.subscriber("two-prices")
    status, _, headers = ask(services, key, "auto", EASY)
    assert (status, headers["x-tokenworks-model"]) == (200, "small")
    assert headers["x-tokenworks-choice"].startswith("auto: seems easy")
    status, _, headers = ask(services, key, "auto", HARD)
    assert (status, headers["x-tokenworks-model"]) == (200, "large")
    assert "seems hard" in headers["x-tokenworks-choice"]
    assert "good morning" not in headers["x-tokenworks-choice"]
    assert ask(services, key, "auto:best", EASY)[2]["x-tokenworks-model"] == "large"
    # A named model is what it is, and says nothing of a choice.
    assert "x-tokenworks-choice" not in ask(services, key, "small", HARD)[2]
    records = services.usage(subscriber, 4)
    assert [(r["asked"], r["model"]) for r in reversed(records)] == [
        ("auto", "small"), ("auto", "large"), ("auto:best", "large"), (None, "small"),
    ]  # fmt: skip
    assert all((r["choice"] is None) == (r["asked"] is None) for r in records)
    charged = [sum(part[5] for part in r["parts"]) for r in reversed(records)]
    assert charged == [12_000, 120_000, 120_000, 12_000], "each at its own model's price"
    assert services.findings() == []
    shown = json.loads(services.cli("usage", "--subscriber", subscriber.phone, "--json").stdout)
    assert any(
        row.get("asked") == "auto" and row["choice"]
        for row in (shown if isinstance(shown, list) else shown["records"])
    )


def test_the_openai_sdk_streams_from_an_intent(services):
    _, key = services.subscriber("two-prices")
    client = OpenAI(base_url=f"http://{services.public}/v1", api_key=key)
    stream = client.chat.completions.create(
        model="auto:cheap",
        messages=[{"role": "user", "content": EASY}],
        stream=True,
        user=json.dumps({"tokens": 4}),
    )
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in stream) == 4
    assert {"auto", "auto:fast", "auto:cheap", "auto:best"} <= {model.id for model in client.models.list()}


def test_only_what_the_key_may_use_and_the_plan_pays_for(services):
    subscriber, _ = services.subscriber("two-prices")
    only_small = services.key(subscriber, models=("small",))
    assert ask(services, only_small, "auto:best", HARD)[2]["x-tokenworks-model"] == "small"
    intent_alone = services.key(subscriber, models=("auto",))
    assert ask(services, intent_alone, "auto", HARD)[0] == 200
    status, body, _ = ask(services, intent_alone, "auto:best", HARD)
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert ask(services, intent_alone, "large", HARD)[0] == 403
    # The plan pays for the small one: it is taken, whatever would be better, and the first time, too.
    poor, key = services.subscriber("small-alone")
    for _ in range(2):
        status, _, headers = ask(services, key, "auto", HARD)
        assert (status, headers["x-tokenworks-model"]) == (200, "small")
    assert ask(services, key, "large", HARD)[0] == 402
    assert {r["model"] for r in services.usage(poor, 2)} == {"small"}


def test_what_a_model_does_not_take(services):
    _, key = services.subscriber("two-prices")
    picture = [
        {"type": "text", "text": EASY},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
    ]
    assert ask(services, key, "auto:cheap", picture)[2]["x-tokenworks-model"] == "large"
    status, body, _ = ask(services, key, "small", picture)
    assert (status, body["error"]["code"]) == (400, "unsupported_input") and "image" in body["error"][
        "message"
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert ask(services, key, "auto:cheap", EASY, tools=[tool])[2]["x-tokenworks-model"] == "large"
    assert ask(services, key, "small", EASY, tools=[tool])[0] == 400
    # A word about pictures is no picture.
    assert ask(services, key, "small", 'what is "image_url": in JSON?')[0] == 200
    embedded = services.request("POST", "/v1/embeddings", key, {"model": "auto", "input": "x"})
    assert embedded[0] == 404


def test_an_operators_own_intent_and_where_the_chosen_model_fails(services, upstreams):
    _, key = services.subscriber("two-prices")
    services.cli(
        "intent",
        "set",
        "auto:office",
        "--objective",
        "cost",
        "--model",
        "large",
        "--model",
        "small",
        "--quality-min",
        "60",
    )
    until(lambda: ask(services, key, "auto:office", EASY)[0] == 200)
    assert ask(services, key, "auto:office", EASY)[2]["x-tokenworks-model"] == "large"
    # Where none of its deployments answers, the next best model does.
    upstreams[1].behave(status=500)
    status, _, headers = ask(services, key, "auto:office", EASY)
    assert (status, headers["x-tokenworks-model"]) == (200, "small")
    upstreams[1].behave()
    shown = services.cli("intent", "list").stdout
    assert "auto:office" in shown and "built in" in shown
    services.cli("intent", "remove", "auto:office")
    until(lambda: ask(services, key, "auto:office", EASY)[0] == 404)
    assert services.cli("intent", "set", "small", check=False).returncode == 1
    assert services.cli("intent", "remove", "auto:office", check=False).returncode == 1
    assert services.findings() == []


def test_edge_first_near_its_box_and_not_elsewhere(services, upstreams):
    edge = upstreams[2]

    def at_the_edge(key, count=4):
        before = edge.count()["requests"]
        assert all(ask(services, key, "small", EASY)[0] == 200 for _ in range(count))
        return edge.count()["requests"] - before

    near, key = services.subscriber("two-prices")
    services.cli("subscriber", "set", "--subscriber", near.phone, "--home-region", "cn-sh-pudong")
    until(lambda: at_the_edge(key) == 4)
    far, far_key = services.subscriber("two-prices")
    services.cli("subscriber", "set", "--subscriber", far.phone, "--home-region", "cn-gd")
    until(lambda: at_the_edge(far_key) == 0)
    said = json.loads(
        services.cli("route", "explain", "--model", "small", "--subscriber", far.phone, "--json").stdout
    )
    why = {c["deployment"]: c["excluded"] for c in said["candidates"]}
    assert why["small-edge"] == "edge: it serves cn-sh-pudong, and the subscriber is at home in cn-gd"
    assert said["chosen"] == "small-hub" and said["by"] == "what workers see"
    said = json.loads(
        services.cli(
            "route", "explain", "--model", "auto", "--prompt", HARD, "--subscriber", near.phone, "--json"
        ).stdout
    )
    assert said["model"] == "large" and said["choices"][0]["reason"].startswith("auto: seems hard")
    assert (
        services.cli(
            "subscriber", "set", "--subscriber", far.phone, "--home-region", "not a region", check=False
        ).returncode
        == 1
    )


def test_flex_waits_for_the_cheapest_and_takes_another_one_in_time(services, upstreams):
    subscriber, key = services.subscriber("two-prices")
    small, _, edge = upstreams
    body = {"service_tier": "flex"}
    before = edge.count()["requests"]
    assert ask(services, key, "small", EASY, **body)[0] == 200
    assert edge.count()["requests"] == before + 1, "committed capacity costs nothing"
    assert "service_tier" not in edge.get("/last")["bodies"][-1], "what is wanted of us is not passed on"
    # Its one place is taken: a request like any other goes elsewhere at once, a deferrable one waits for it.
    services.cli("limit", "set", "--deployment", "small-edge", "--streams", "1")
    until(lambda: (ask(services, key, "small", EASY, stream=True), True)[1])
    from concurrent.futures import ThreadPoolExecutor

    def limited():
        with ThreadPoolExecutor(2) as pool:
            held = pool.submit(ask, services, key, "small", EASY, {"gap_ms": 700}, stream=True, **body)
            until(lambda: edge.running() >= 1)
            flex = ask(services, key, "small", EASY, **body)
            held.result()
        return "x-tokenworks-queued-ms" in flex[2] and flex

    status, _, headers = until(limited, what="the limit to be known")
    assert status == 200 and int(headers["x-tokenworks-queued-ms"]) > 0
    # Before its deadline is over it takes what there is; the client may say an earlier one.
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(
            ask, services, key, "small", EASY, {"gap_ms": 1500, "tokens": 3}, stream=True, **body
        )
        until(lambda: edge.running() >= 1)
        before = small.count()["requests"]
        status, _, headers = services.chat(
            key,
            {"tokens": 3},
            {"x-tokenworks-deadline-s": "1"},
            model="small",
            messages=[{"role": "user", "content": EASY}],
            **body,
        )
        assert status == 200 and small.count()["requests"] == before + 1
        held.result()
    services.cli("limit", "remove", limit_of(services, "small-edge"))
    refused = services.request(
        "POST",
        "/v1/messages",
        key,
        {"model": "small", "service_tier": "flex", "max_tokens": 5, "messages": []},
    )
    assert refused[0] in {400, 404}
    assert services.findings() == []


def limit_of(server, name):
    return next(
        row["limit_id"]
        for row in json.loads(server.cli("limit", "list", "--json").stdout)
        if row["ref"] == name
    )


def test_a_model_that_is_not_filed_is_not_served_where_that_is_required(tmp_path, upstreams):
    with Server(tmp_path, filing_required=True) as server:
        server.add_deployment("d", "small", upstreams[0].url)
        subscriber, key = server.subscriber("ctc-light")
        status, body, _ = ask(server, key, "small", EASY)
        assert (status, body["error"]["code"]) == (403, "model_not_filed")
        server.cli(
            "model",
            "set",
            "small",
            "--filing",
            "filed",
            "--filing-no",
            "Shanghai-2026-001",
            "--quality",
            "40",
        )
        until(lambda: ask(server, key, "small", EASY)[0] == 200)
        assert "Shanghai-2026-001" in server.cli("model", "list").stdout
        server.cli("model", "remove", "small")
        until(lambda: ask(server, key, "small", EASY)[0] == 403)
        assert len(server.usage(subscriber)) >= 1 and server.findings() == []
