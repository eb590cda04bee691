"""The list of models of a running server: own prices, imports without a restart, pages, and no trace of vendors."""

import json

import pytest

from tests.support.server import until

OWN = "models: [{id: stub-of-zhipu, name: Stub One, released: '2026-03-04', reasoning: true, input: [text, image]}]"


@pytest.fixture(scope="module")
def sold(server, upstream, tmp_path_factory):
    """(server, key) with a model under its own name, and one under a name of the operator's own."""
    server.add_deployment(
        "brand",
        "house-brand",
        upstream.url,
        "--upstream-model",
        "deepseek-v4-pro",
        "--vendor",
        "deepseek",
        "--protocol",
        "chat",
    )
    server.add_deployment(
        "stub-z", "stub-of-zhipu", upstream.url, "--protocol", "chat", "--protocol", "messages"
    )
    path = tmp_path_factory.mktemp("models") / "own.yaml"
    path.write_text(OWN)
    server.cli("model", "import", str(path), "--yes")
    _, key = server.subscriber("ctc-light")
    until(lambda: b"Stub One" in server.get("/v1/models", key)[1], what="the import to be known")
    yield server, key
    for name in ("brand", "stub-z"):
        server.cli("deployment", "remove", name)


def entry(server, key, name):
    status, body, _ = server.get(f"/v1/models/{name}", key)
    assert status == 200
    return json.loads(body)


def test_an_import_reaches_clients_without_a_restart(sold):
    model = entry(*sold, "stub-of-zhipu")
    assert (model["display_name"], model["name"], model["created_at"]) == (
        "Stub One",
        "Stub One",
        "2026-03-04T00:00:00Z",
    )
    assert (
        model["capabilities"]["thinking"]["supported"]
        and model["architecture"]["modality"] == "text+image->text"
    )


def test_the_price_is_that_of_the_subscribers_plan(sold):
    model = entry(*sold, "stub-of-zhipu")
    assert (model["pricing"]["prompt"], model["pricing"]["completion"], model["pricing"]["unit"]) == (
        "1",
        "1",
        "token",
    )
    _, without_plan = sold[0].subscriber(None)
    assert entry(sold[0], without_plan, "stub-of-zhipu")["pricing"] is None


def test_a_model_under_the_operators_own_name_tells_no_maker(sold):
    server, key = sold
    model = entry(server, key, "house-brand")
    assert (model["context_length"], model["max_tokens"], model["display_name"]) == (
        1_000_000,
        384_000,
        "house-brand",
    )
    assert model["capabilities"]["thinking"]["supported"] and model["architecture"]["tokenizer"] == "Other"
    assert b"eepseek" not in server.get("/v1/models", key)[1]


def test_pages_over_http(sold):
    server, key = sold
    whole = [model["id"] for model in json.loads(server.get("/v1/models", key)[1])["data"]]
    walked, after = [], ""
    while True:
        page = json.loads(server.get(f"/v1/models?limit=2{after}", key)[1])
        walked += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after_id={page['last_id']}"
    assert walked == whole and len(whole) > 2
    status, body, _ = server.get("/v1/models?limit=0", key, {"anthropic-version": "2023-06-01"})
    said = json.loads(body)
    assert (status, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
