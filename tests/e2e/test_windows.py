"""A plan of prompts: so many in any 5 hours, with agents that go on with tool results."""

import asyncio

import pytest

from tests.e2e.test_concurrency import _all
from tests.support.server import Server, until
from tokenworks.catalog import Catalogue, seed_catalogue


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    with Server(tmp_path_factory.mktemp("windows"), workers=2) as made:
        made.add_deployment("stub", "stub", upstream.url)
        yield made
        assert made.findings() == []


def coder(server, *quantities):
    """A subscriber with so many prompts in any 5 hours, a week and a month."""
    seed = seed_catalogue()
    like = next(offering for offering in seed.offerings if offering.id == "tianyi-coding-lite")
    card = next(card for card in seed.rate_cards if card.id == like.rate_card)
    buckets = tuple(
        bucket.model_copy(update={"quantity": quantity})
        for bucket, quantity in zip(like.buckets, quantities, strict=True)
    )
    # Whatever the day of the month is, all of it is there.
    name = f"test-{'-'.join(map(str, quantities))}"
    offering = like.model_copy(update={"id": name, "buckets": buckets, "proration": "full"})
    server.services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(offering,)))
    return server.subscriber(offering.id)


def left(server, subscriber):
    return {
        bucket.window_s: bucket.left // 1000
        for bucket in server.buckets(subscriber)
        if bucket.kind in {"balance", "window"}
    }


FOLLOW_UP = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "42"},
]  # fmt: skip


def test_a_window_is_exact_under_concurrency_and_says_when_to_come_again(server):
    subscriber, key = coder(server, 7, 30, 100)
    results = asyncio.run(_all(server, key, 40, {"tokens": 3, "gap_ms": 1}, 50))
    statuses = [status for status, _ in results]
    # 503 where a busy machine could not say in time whose it is; never one too many.
    assert set(statuses) <= {200, 429, 503}, statuses
    served = statuses.count(200)
    while served < 7 and server.chat(key, {"tokens": 3})[0] == 200:
        served += 1
    assert served == 7
    status, body, headers = server.chat(key, {"tokens": 3})
    assert status == 429
    assert b"allowance_used_up" in body
    assert 5 * 3600 - 120 < int(headers["retry-after"]) <= 5 * 3600
    server.usage(subscriber, 7)
    until(lambda: left(server, subscriber) == {18_000: 0, 604_800: 23, None: 93})
    # Five hours later, as far as the window can tell.
    server.connection.execute(
        "UPDATE window_use SET used_at = used_at - interval '5 hours' WHERE account_id = %s",
        (subscriber.account_id,),
    )
    assert until(lambda: server.chat(key, {"tokens": 3})[0] == 200)
    until(lambda: left(server, subscriber) == {18_000: 6, 604_800: 22, None: 92})
    # What the longer windows still count is of its records' instants again, as the auditor wants it.
    server.connection.execute(
        """UPDATE window_use w SET used_at = u.ended_at FROM usage u
           WHERE w.account_id = %s AND u.account_id = w.account_id AND u.usage_id = w.usage_id""",
        (subscriber.account_id,),
    )


def test_a_tool_result_is_no_prompt(server):
    subscriber, key = coder(server, 2, 30, 100)
    assert server.chat(key, {"tokens": 3})[0] == 200
    for _ in range(3):
        assert server.chat(key, {"tokens": 3}, messages=FOLLOW_UP)[0] == 200
    assert server.chat(key, {"tokens": 3})[0] == 200
    # Used up; what was begun goes on.
    assert server.chat(key, {"tokens": 3})[0] == 429
    for _ in range(4):
        assert server.chat(key, {"tokens": 3}, messages=FOLLOW_UP)[0] == 200
    records = server.usage(subscriber, 9)
    assert sorted(record["prompt"] for record in records) == [False] * 7 + [True] * 2
    until(lambda: left(server, subscriber) == {18_000: 0, 604_800: 28, None: 98})


def test_anthropics_tool_results_and_responses_outputs_are_no_prompts(server):
    subscriber, key = coder(server, 1, 30, 100)
    tool = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]}]
    body = {"model": "stub", "max_tokens": 20, "messages": tool}
    assert server.request("POST", "/v1/messages", key, body)[0] == 200
    body = {"model": "stub", "input": [{"type": "function_call_output", "call_id": "c", "output": "42"}]}
    assert server.request("POST", "/v1/responses", key, body)[0] == 200
    asked = {
        "model": "stub",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    assert server.request("POST", "/v1/messages", key, asked)[0] == 200
    assert server.request("POST", "/v1/messages", key, asked)[0] == 429
    assert [record["prompt"] for record in server.usage(subscriber, 3)] == [True, False, False]


def test_a_frozen_accounts_follow_ups_stop(server):
    subscriber, key = coder(server, 1, 30, 100)
    assert server.chat(key, {"tokens": 3})[0] == 200
    assert server.chat(key, {"tokens": 3}, messages=FOLLOW_UP)[0] == 200
    server.services.subscriptions.set_state(subscriber, "suspended")
    until(lambda: server.chat(key, {"tokens": 3}, messages=FOLLOW_UP)[0] == 403)


def test_a_plan_that_only_has_a_window_is_sold(server):
    subscriber, key = server.subscriber("mobile-coding-lite")
    assert server.chat(key, {"tokens": 3})[0] == 200
    assert server.chat(key, {"tokens": 3}, messages=FOLLOW_UP)[0] == 200
    server.usage(subscriber, 2)
    # Calls, not prompts: both count.
    until(lambda: left(server, subscriber) == {18_000: 1198, None: 1200 * 150 - 2})
    shown = server.cli("balance", "--subscriber", subscriber.phone).stdout
    assert "any 5 h" in shown
