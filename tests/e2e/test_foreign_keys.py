"""Keys of another gateway on a running server: an imported one works and is metered, guesses are limited by address."""

import hashlib
import json

import pytest

from tests.support.server import Server, until

KEY = "sk-" + "k" * 22


@pytest.fixture(scope="module")
def moved(tmp_path_factory, upstream):
    """(server, subscriber) with one imported key, after a refusal of the same key before the import."""
    folder = tmp_path_factory.mktemp("moved")
    with Server(folder / "server") as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, _ = server.subscriber("ctc-light")
        assert server.chat(KEY)[0] == 401 and server.metrics("foreign_keys_unknown") == [0]
        (folder / "config.yaml").write_text("model_list: []")
        token = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "tables.json").write_text(
            json.dumps(
                {"LiteLLM_VerificationToken": [{"token": token, "key_alias": "app", "models": ["stub"]}]}
            )
        )
        server.cli(
            "import", "litellm", str(folder / "config.yaml"), "--database", str(folder / "tables.json"), "--subscriber",
            str(subscriber.subscriber_id), "--yes",
        )  # fmt: skip
        yield server, subscriber


def test_an_imported_key_is_served_and_its_use_is_metered(moved):
    server, subscriber = moved
    until(lambda: server.chat(KEY)[0] == 200, what="the imported key to be served")
    used = server.usage(subscriber, 1)
    assert used[0]["model"] == "stub"
    key = json.loads(
        server.cli("key", "list", "--subscriber", str(subscriber.subscriber_id), "--json").stdout
    )
    assert "app" in [k["name"] for k in key] and KEY not in json.dumps(key)


def test_unknown_foreign_keys_are_limited_by_address_and_known_keys_are_not(moved):
    server, subscriber = moved
    until(lambda: server.chat(KEY)[0] == 200, what="the imported key to be served")
    statuses = [server.chat(f"sk-{number:022d}")[0] for number in range(30)]
    assert set(statuses) == {401, 429} and 20 <= statuses.count(401) < 30
    assert statuses[-1] == 429
    assert server.chat(KEY)[0] == 200
    assert server.chat("sk-short")[0] == 401
    until(lambda: server.metrics("foreign_keys_limited")[0] >= 1, what="the metric")
    _, own = server.subscriber("ctc-light")
    assert server.chat(own)[0] == 200
    assert server.findings() == []
