"""One account, many members: caps of members and departments hold together with the pool's balance."""

import asyncio
import json

import pytest

from tests.e2e.test_concurrency import _all
from tests.e2e.test_rehold import chat
from tests.support.server import Server, until


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    with Server(tmp_path_factory.mktemp("pools"), workers=2, stream_hold_tokens=32) as made:
        made.add_deployment("stub", "stub", upstream.url)
        yield made
        assert made.findings() == []


def pool(server, tokens=10_000):
    return server.subscriber(server.sell(f"test-pool-{tokens}", tokens))[0]


def used(server, subscriber, member):
    return server.services.ledger.used_of_caps(subscriber.account_id, server.services.clock.now()).get(
        member.member_id, 0
    )


def total(server, subscriber):
    return sum(
        part[5]
        for r in server.services.ledger.usage(subscriber.account_id, limit=1000)
        for part in r["parts"]
        if part[4] == "balance"
    )


def test_a_members_cap_holds_under_concurrency_and_the_pool_serves_the_others(server):
    subscriber = pool(server)
    child = server.services.members.add(subscriber, "child", cap_tokens=1000, cap_period="day")
    key, owners = server.key(subscriber, member="child"), server.key(subscriber)
    results = asyncio.run(_all(server, key, 40, {"tokens": 60, "prompt": 11, "gap_ms": 1}, 60))
    statuses = [status for status, _ in results]
    assert set(statuses) <= {200, 402}, statuses
    assert statuses.count(402)
    served = statuses.count(200)
    while server.chat(key, {"tokens": 60, "prompt": 11}, max_tokens=60)[0] == 200:
        served += 1
    records = server.usage(subscriber, served)
    spent = sum(part[5] for r in records for part in r["parts"] if part[4] == "balance")
    assert {r["member_id"] for r in records} == {child.member_id}
    assert spent == until(lambda: used(server, subscriber, child)) <= 1_000_000
    assert spent > 700_000, "most of the cap can be used"
    refused = next(data for status, data in results if status == 402)
    assert b"the cap of this key or member leaves" in refused
    assert server.chat(owners, {"tokens": 60})[0] == 200


def test_departments_are_two_levels_deep_and_each_cap_counts(server):
    subscriber = pool(server)
    members = server.services.members
    members.add(subscriber, "research", department=True, cap_tokens=2000, cap_period="month")
    members.add(subscriber, "vision", department=True, parent="research", cap_tokens=1500, cap_period="total")
    ann = members.add(subscriber, "ann", parent="vision", cap_tokens=1000, cap_period="day")
    bob = members.add(subscriber, "bob", parent="vision")
    eve = members.add(subscriber, "eve", parent="research")
    keys = {name: server.key(subscriber, member=name) for name in ("ann", "bob", "eve")}

    def spend(name):
        """Until this member can't any more; returns what it spent."""
        before = server.services.ledger.usage(subscriber.account_id, limit=1000)
        count = 0
        while True:
            status, body, _ = server.chat(keys[name], {"tokens": 89, "prompt": 11}, max_tokens=89)
            if status != 200:
                assert (status, json.loads(body)["error"]["code"]) == (402, "nothing_left"), body
                break
            count += 1
        records = server.usage(subscriber, len(before) + count)
        return sum(part[5] for r in records[:count] for part in r["parts"] if part[4] == "balance") // 1000

    # A hold is about 230 tokens: that much of a cap may be left when nothing fits any more.
    spent = spend("ann")
    assert 700 <= spent <= 1000
    spent += spend("bob")
    assert 1200 <= spent <= 1500
    spent += spend("eve")
    assert 1700 <= spent <= 2000
    tree = {m.name: m for m in members.of(subscriber)}
    until(lambda: used(server, subscriber, tree["research"]) == spent * 1000)
    assert used(server, subscriber, tree["vision"]) <= 1_500_000
    assert total(server, subscriber) == spent * 1000
    by_member = {
        row["member_id"]: row for row in server.services.ledger.usage_by_member(subscriber.account_id)
    }
    assert set(by_member) == {ann.member_id, bob.member_id, eve.member_id}
    assert sum(row["charged"]["token"] for row in by_member.values()) == spent * 1000


def test_a_stream_is_cut_at_the_members_cap(server):
    subscriber = pool(server)
    server.services.members.add(subscriber, "kid", cap_tokens=400, cap_period="day")
    text, reason, error = chat(
        server, server.key(subscriber, member="kid"), {"tokens": 3000, "prompt": 11, "gap_ms": 1}
    )
    assert (reason, error.code) == ("length", "nothing_left")
    (record,) = server.usage(subscriber, 1)
    assert (record["reason"], record["loss"]) == ("nothing_left", [])
    assert len(text) <= 404
    assert {part[4] for part in record["parts"]} == {"balance", "cap"}


def test_a_cap_that_is_raised_or_taken_away_shows_within_seconds(server):
    subscriber = pool(server)
    members = server.services.members
    member = members.add(subscriber, "uncle", cap_tokens=50, cap_period="month")
    key = server.key(subscriber, member="uncle")
    assert server.chat(key, {"tokens": 5})[0] == 402
    members.set_cap(member, 5000)
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="the raised cap")
    members.set_cap(members.find(subscriber, "uncle"), 50)
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 402, what="the lowered cap")
    members.set_cap(members.find(subscriber, "uncle"), None)
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="no cap")


def test_the_commands(server):
    subscriber = pool(server)
    phone = subscriber.phone
    server.cli(
        "member", "add", "--subscriber", phone, "--name", "sales", "--department", "--cap-tokens", "3000"
    )
    server.cli("member", "add", "--subscriber", phone, "--name", "li", "--under", "sales")
    key = json.loads(server.cli("key", "create", "--subscriber", phone, "--member", "li", "--json").stdout)[
        "key"
    ]
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    server.usage(subscriber, 1)
    assert "sales" in server.cli("member", "list", "--subscriber", phone).stdout
    (row,) = json.loads(server.cli("usage", "--subscriber", phone, "--by-member", "--json").stdout)
    assert (row["member"], row["charged"]) == ("li", {"token": 16_000})
    server.cli("member", "cap", "--subscriber", phone, "--member", "sales", "--cap-tokens", "20")
    assert "li" in server.cli("usage", "--subscriber", phone, "--by-member").stdout
    for arguments, text in (
        (("--name", "li"), "there is a member li already"),
        (("--name", "x", "--under", "li"), "li is not a department"),
        (("--name", "x", "--under", "nobody"), "there is no member nobody"),
        (("--name", "x", "--cap-tokens", "0"), "a cap is 1 to"),
    ):
        done = server.cli("member", "add", "--subscriber", phone, *arguments, check=False)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
