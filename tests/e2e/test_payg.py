"""Pay-as-you-go through the gateway: steps are bought as they are needed, in mid-stream too, and never beyond the cap."""

import asyncio

import pytest

from tests.e2e.test_concurrency import _stream
from tests.e2e.test_rehold import WORDS_BYTES, chat
from tests.support.server import Server, until
from tokenworks.catalog import TOKEN_CLASSES, Catalogue, seed_catalogue

YUAN = 1_000_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    with Server(tmp_path_factory.mktemp("payg"), workers=2, stream_hold_tokens=32) as made:
        made.add_deployment("stub", "stub", upstream.url)
        card = next(card for card in seed_catalogue().rate_cards if card.id == "one-price")
        like = next(o for o in seed_catalogue().offerings if o.id == "shanghai-mobile-payg")
        step = like.buckets[0].model_copy(update={"quantity": 1000})
        small = like.model_copy(update={"id": "small-steps", "buckets": (step,)})
        made.services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(small,)))
        yield made
        assert made.findings() == []


def payer(server, cap, **control):
    subscriber, key = server.subscriber("small-steps")
    return server.services.payg.control(subscriber, cap_nano=cap * YUAN, **control), key


def steps(server, subscriber):
    return [c for c in server.services.charges.of_subscriber(subscriber.subscriber_id) if c.kind == "step"]


def test_a_stream_buys_steps_as_it_goes(server):
    subscriber, key = payer(server, 50)
    text, reason, error = chat(server, key, {"tokens": 3000, "prompt": 11})
    assert (len(text) // WORDS_BYTES, reason, error) == (3000, "stop", None)
    server.usage(subscriber, 1)
    # 3011 tokens are 4 steps. A hold bounds what is coming from above, so at a step's end one more may be bought early.
    assert len(steps(server, subscriber)) in {4, 5}
    assert server.services.payg.spent(subscriber) == len(steps(server, subscriber)) * YUAN


def test_a_stream_is_cut_at_the_cap_and_the_next_request_is_told(server, upstream):
    subscriber, key = payer(server, 2)
    before = upstream.made()
    text, reason, error = chat(server, key, {"tokens": 6000, "prompt": 11, "gap_ms": 1})
    assert reason == "length" and error.code == "nothing_left"
    (record,) = server.usage(subscriber, 1)
    assert record["loss"] == []
    (made,) = upstream.made(before).values()
    assert len(text) // WORDS_BYTES <= record["output"] == made <= 2000
    assert len(steps(server, subscriber)) == 2
    until(lambda: server.chat(key, {"tokens": 2000, "prompt": 2000})[0] == 402, what="the refusal")
    assert len(steps(server, subscriber)) == 2


def test_what_the_cap_does_not_allow_as_a_whole_buys_nothing(server):
    subscriber, key = payer(server, 3)
    status, _, _ = server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=5000)
    assert status == 402
    assert steps(server, subscriber) == []
    assert server.chat(key, {"tokens": 5, "prompt": 11}, max_tokens=2500)[0] == 200
    assert len(steps(server, subscriber)) == 3


def test_a_lock_holds_and_its_end_is_noticed(server):
    subscriber, key = payer(server, 5, locked=True)
    assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 402
    assert steps(server, subscriber) == []
    server.services.payg.control(subscriber, locked=False)
    until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="the lock's end")


def test_it_goes_on_from_a_plan_with_consent_alone(server):
    subscriber, key = server.subscriber(server.sell("test-plan-500", 500))
    server.services.orders.place(subscriber, "small-steps")
    server.services.payg.control(subscriber, cap_nano=10 * YUAN)
    # A trial is no plan that one would have to consent to leave.
    assert server.chat(key, {"tokens": 400, "prompt": 11}, max_tokens=400)[0] == 200
    assert chat(server, key, {"tokens": 900, "prompt": 11})[1] == "stop"
    # What is held bounds the input by its bytes: a step may be bought before it is needed.
    assert 1 <= len(steps(server, subscriber)) <= 4
    other, key = server.subscriber("ctc-light")
    server.services.orders.place(other, "small-steps")
    server.services.orders.suspend(server.services.orders.products(other)[0].product_id)
    # A plan that is suspended is a plan: going on beside it needs consent, too.
    refused, body, _ = server.chat(key, {"tokens": 5, "prompt": 11})
    assert refused == 402 and b"needs consent (spill-over)" in body
    server.services.payg.control(other, spill_over=True)
    assert until(lambda: server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200, what="the step")


def test_a_crowd_never_spends_beyond_the_cap(server):
    subscriber, key = payer(server, 5)

    async def crowd():
        told = {"tokens": 90, "prompt": 10, "gap_ms": 1}
        return await asyncio.gather(*[_stream(server, key, told, 100) for _ in range(200)])

    statuses = [status for status, _ in asyncio.run(crowd())]
    assert set(statuses) <= {200, 402, 429, 503}, set(statuses)
    served = statuses.count(200)
    records = server.usage(subscriber, served)
    paid = sum(part[5] for record in records for part in record["parts"] if part[4] == "balance")
    # A request holds about 340 tokens and uses 100: of 5,000 at least a dozen run at once. A stream whose hold can't grow any
    # more ends before its 90 tokens, so that more than 50 may be served; all that they count is paid or lost with a cause.
    assert served >= 12
    counted = sum(sum(record[name] for name in TOKEN_CLASSES) for record in records)
    lost = sum(sum(one["counts"].values()) for record in records for one in record["loss"])
    assert paid == 1000 * (counted - lost) <= 5_000_000
    assert len(steps(server, subscriber)) == 5
    assert server.services.payg.spent(subscriber) == 5 * YUAN


def test_a_count_of_tokens_is_answered_and_buys_nothing(server):
    subscriber, key = payer(server, 2)
    body = {"model": "stub", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(3):
        assert server.request("POST", "/v1/messages/count_tokens", key, body)[0] == 200
    assert steps(server, subscriber) == []
    server.services.payg.control(subscriber, locked=True)
    until(
        lambda: server.request("POST", "/v1/messages/count_tokens", key, body)[0] == 402, what="the refusal"
    )
