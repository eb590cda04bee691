"""Placement in a running server: prompts go where their beginning is, data stays where it may be, failures included."""

import json

import pytest

from tests.support.server import Server, StubUpstream, until


@pytest.fixture(scope="module")
def three():
    with StubUpstream() as one, StubUpstream() as two, StubUpstream() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def placed(tmp_path_factory, three):
    """One model in Shanghai, Beijing and Singapore."""
    with Server(tmp_path_factory.mktemp("placed"), decision_log_every=1) as server:
        for name, region, upstream in zip("abc", ("cn-sh", "cn-bj", "sg"), three, strict=True):
            server.cli(
                "deployment", "add", "--name", name, "--model", "stub", "--base-url", upstream.url, "--protocol", "chat",
                "--allow-private", "--region", region, "--vendor", "works",
            )  # fmt: skip
        until(lambda: server.metrics("deployments") == [3.0])
        yield server


def conversation(server, key, name, turns):
    """Turns of a chat with a long beginning; each waits for the one before."""
    said = f"{name}: " + "a long story, told again. " * 600
    for turn in range(turns):
        messages = [{"role": "user", "content": said}]
        assert server.chat(key, {"tokens": 3, "prompt": 11}, messages=messages, max_tokens=20)[0] == 200
        said += f" and then {turn}"


def decisions(server):
    rows = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    return [row for row in rows if row.get("event") == "placement.decision"]


def deployments_of(server, subscriber):
    until(lambda: server.services.ledger.usage(subscriber.account_id), what="usage")
    return [row["deployment"] for row in server.services.ledger.usage(subscriber.account_id, None, 1000)]


def test_turns_of_a_chat_go_where_their_beginning_is(placed):
    for name in ("one", "two", "three"):
        subscriber, key = placed.subscriber("ctc-premium")
        conversation(placed, key, name, 5)
        found = until(lambda s=subscriber: (rows := deployments_of(placed, s))[4:] and rows)
        assert len(set(found)) == 1, "one place has read the beginning"
    usage = placed.services.ledger.usage(subscriber.account_id, None, 1000)
    kept = {row["request_id"]: row for row in decisions(placed)}
    assert {row["request_id"] for row in usage} <= set(kept)
    # Each says what was foreseen everywhere; a later turn is where most of it is cached; no word of what was said.
    last = kept[usage[0]["request_id"]]
    assert {c["deployment"] for c in last["candidates"]} == {"a", "b", "c"}
    cached = {c["deployment"]: c.get("cached_blocks", 0) for c in last["candidates"]}
    assert cached[last["chosen"]] == max(cached.values()) >= 5
    assert "story" not in placed.log_text()


def test_data_stays_where_it_may_be_fail_over_included(placed, three):
    subscriber, key = placed.subscriber("ctc-premium")
    who = str(subscriber.subscriber_id)
    placed.cli("subscriber", "set", "--subscriber", who, "--region", "cn")
    before = three[2].count()["requests"]
    until(lambda: placed.services.subscriptions.find(who).regions == ("cn",))
    for n in range(12):
        # Two of the three fail it: the third one, abroad, would answer.
        told = {"tokens": 2, "prompt": 11} | ({"status": 500} if n % 2 else {})
        assert placed.chat(key, told, max_tokens=20)[0] == (502 if n % 2 else 200)
    assert three[2].count()["requests"] == before
    explained = json.loads(
        placed.cli("route", "explain", "--model", "stub", "--subscriber", who, "--json").stdout
    )
    said = {c["deployment"]: c["excluded"] for c in explained["candidates"]}
    # The two that failed half of their requests may rest; the third one may never have them.
    assert all(said[name] is None or said[name].startswith("health:") for name in "ab")
    assert said["c"].startswith("residency:")
    assert explained["by"] == "what workers see" and explained["chosen"] in {"a", "b"}
    # Nowhere at all: refused, in protocol, and nothing is charged.
    placed.cli("subscriber", "set", "--subscriber", who, "--region", "eu")
    refused = until(
        lambda: (r := placed.chat(key, {"tokens": 2, "prompt": 11}, max_tokens=20))[0] == 403 and r
    )
    assert "residency" in str(refused) and "may go to eu only" in str(refused)
    placed.cli("subscriber", "set", "--subscriber", who, "--anywhere")
    until(lambda: placed.chat(key, {"tokens": 2, "prompt": 11}, max_tokens=20)[0] == 200)
    nowhere = [row for row in decisions(placed) if row["chosen"] is None]
    assert any(all("residency" in c["excluded"] for c in row["candidates"]) for row in nowhere)
    assert any(sorted(row["tried"]) == ["a", "b"] for row in nowhere), (
        "and that fail-over had nowhere else to go"
    )
    records = placed.services.ledger.usage(subscriber.account_id, None, 1000)
    assert {row["deployment"] for row in records if row["state"] == "complete"} <= {"a", "b", "c"}
