"""What a model's name means: aliases, wildcards, the plan's default."""

import json

import pytest

from tokenworks.catalog import Service
from tokenworks.factory import Deployment
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.request.models import ModelList, with_model
from tokenworks.gateway.snapshot import Snapshot, allows


def deployment(model, *protocols):
    return Deployment(
        name=model, model=model, upstream_model=model, base_url="http://192.0.2.1/v1", protocols=protocols or ("chat",), allow_private=True
    )  # fmt: skip


@pytest.fixture
def snapshot():
    return Snapshot(
        1,
        [deployment("big"), deployment("small"), deployment("talks", "messages")],
        {"claude-*": "big", "claude-haiku-*": "small", "mine": "small", "claude-mine": "talks"},
        {},
        {},
    )


def key(models=None):
    entry = KeyEntry("k", b"k")
    entry.models = None if models is None else frozenset(models)
    return entry


def test_the_longest_wildcard_wins_and_what_is_named_wins_over_it(snapshot):
    asked = ["claude-opus-9", "claude-haiku-9", "claude-mine", "mine", "big", "claude", "other"]
    assert [snapshot.resolve(name) for name in asked] == [
        "big",
        "small",
        "talks",
        "small",
        "big",
        "claude",
        "other",
    ]


def test_a_default_is_for_names_that_are_not_served(snapshot):
    assert snapshot.model_for("unknown", "chat", None, "small") == "small"
    assert snapshot.model_for("unknown", "chat", None, "mine") == "small"
    assert snapshot.model_for("unknown", "chat", None, None) == "unknown"
    assert snapshot.model_for("big", "chat", None, "small") == "big"
    assert snapshot.model_for("claude-x", "chat", None, "small") == "big"
    # Over another protocol, or beyond the key, it is not taken.
    assert snapshot.model_for("unknown", "embeddings", None, "small") == "unknown"
    # Over a protocol into which requests are translated, it is.
    assert snapshot.model_for("unknown", "messages", None, "small") == "small"
    assert snapshot.model_for("unknown", "chat", frozenset({"big"}), "small") == "unknown"
    assert snapshot.model_for("unknown", "chat", frozenset({"small"}), "small") == "small"
    assert snapshot.model_for("unknown", "chat", frozenset({"mine"}), "mine") == "small"


def test_a_keys_models_may_be_wildcards():
    assert allows(None, "x")
    assert allows(frozenset({"x"}), "y", "x")
    assert allows(frozenset({"claude-*"}), "claude-9")
    assert not allows(frozenset({"claude-*"}), "gpt", "claud")


def test_the_list_has_what_may_be_sent(snapshot):
    models = ModelList()

    def listed(user):
        return [entry["id"] for entry in json.loads(models.body(snapshot, user))["data"]]

    assert {"claude-*", "claude-haiku-*", "mine", "big", "small", "talks"} <= set(listed(key()))
    assert listed(key(["claude-*"])) == ["claude-*", "claude-haiku-*", "claude-mine"]
    assert listed(key(["small"])) == ["claude-haiku-*", "mine", "small"]
    assert json.loads(models.model_body(snapshot, key(), "claude-opus-9"))["id"] == "claude-opus-9"
    assert models.model_body(snapshot, key(["small"]), "claude-opus-9") is None
    assert models.model_body(snapshot, key(["small"]), "claude-haiku-9") is not None
    assert models.model_body(snapshot, key(), "unknown") is None


def test_a_paths_model_is_the_bodys():
    assert json.loads(with_model(b'{"messages": [], "n": 1.50}', "m")) == {
        "messages": [],
        "n": 1.5,
        "model": "m",
    }
    assert with_model(b'{"model":"x","n":1.50}', "m") == b'{"model":"m","n":1.50}'
    assert with_model(b"[1]", "m") == b"[1]"
    assert with_model(b"\xff", "m") == b"\xff"


def test_a_plan_has_a_default_model():
    assert Service(default_model="org/model:7b").default_model == "org/model:7b"
    with pytest.raises(ValueError):
        Service(default_model="a b")
