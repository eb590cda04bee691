"""A stream holds as it goes, and ends in protocol where nothing is left; what the plan declares is what is charged."""

import asyncio
import json
import socket
import struct

import anthropic
import openai
import pytest

from tests.support.server import Server, until

WORDS_BYTES = 4  # what a token of the stub shows


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    with Server(tmp_path_factory.mktemp("rehold"), workers=2, stream_hold_tokens=32) as made:
        made.add_deployment(
            "stub", "stub", upstream.url, "--protocol", "chat", "--protocol", "messages", "--protocol", "completions",
            "--protocol", "responses",
        )  # fmt: skip
        made.add_deployment("small", "small", upstream.url, "--upstream-model", "stub", "--protocol", "chat")
        yield made
        assert made.findings() == []


def customer(server, tokens, **policy):
    name = "test-" + "-".join([str(tokens), *(f"{k}-{v}" for k, v in policy.items())]).lower().replace(
        "_", "-"
    ).replace("https://", "").replace("/", "-").replace(".", "-")
    return server.subscriber(server.sell(name[:60], tokens, **policy))


def chat(server, key, told, max_tokens=4000, model="stub", **more):
    """(content, finish reason, error) of a streamed chat through the real SDK."""
    client = openai.OpenAI(api_key=key, base_url=f"http://{server.public}/v1", max_retries=0)
    text, reason = "", None
    try:
        for chunk in client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=max_tokens, stream=True,
            user=json.dumps(told), **more,
        ):  # fmt: skip
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    except openai.APIError as error:
        return text, reason, error
    return text, reason, None


def left(server, subscriber):
    return server.buckets(subscriber)[0].left // 1000


def test_a_stream_needs_no_more_than_it_goes(server):
    """A maximum far beyond the balance is no reason to refuse: the stream holds what it needs."""
    subscriber, key = customer(server, 1000)
    text, reason, error = chat(server, key, {"tokens": 100, "prompt": 11}, max_tokens=1_000_000)
    assert (len(text) // WORDS_BYTES, reason, error) == (100, "stop", None)
    (record,) = server.usage(subscriber, 1)
    assert (record["state"], record["output"]) == ("complete", 100)
    assert left(server, subscriber) == 1000 - 111


def test_a_stream_is_cut_in_protocol_where_nothing_is_left(server, upstream):
    subscriber, key = customer(server, 400)
    before = upstream.made()
    text, reason, error = chat(server, key, {"tokens": 3000, "prompt": 11, "gap_ms": 1})
    assert reason == "length"
    assert error is not None
    assert error.code == "nothing_left"
    assert "order a plan or a top-up" in str(error)
    (record,) = server.usage(subscriber, 1)
    assert (record["state"], record["reason"]) == ("interrupted", "nothing_left")
    # The bound: what was shown is at most what was held, and one upstream chunk; so nothing is overdrawn, and no loss.
    assert record["loss"] == []
    (made,) = upstream.made(before).values()
    assert len(text) // WORDS_BYTES <= record["output"] == made
    assert len(text) <= 400 + WORDS_BYTES
    assert 1 <= record["fresh_input"] <= 11
    assert left(server, subscriber) == 400 - record["output"] - record["fresh_input"] >= 0


@pytest.mark.parametrize("protocol", ["messages", "completions", "responses"])
def test_the_cut_speaks_every_protocol(server, protocol):
    subscriber, key = customer(server, 400)
    told = json.dumps({"tokens": 3000, "prompt": 11, "gap_ms": 1})
    if protocol == "messages":
        client = anthropic.Anthropic(api_key=key, base_url=f"http://{server.public}", max_retries=0)
        stop = None
        with pytest.raises(anthropic.APIStatusError) as raised:
            for event in client.messages.create(
                model="stub", max_tokens=4000, messages=[{"role": "user", "content": "hi"}], stream=True, metadata={"user_id": told},
            ):  # fmt: skip
                if event.type == "message_delta":
                    stop = event.delta.stop_reason
        assert stop == "max_tokens"
        assert raised.value.body["error"]["code"] == "nothing_left"
    else:
        client = openai.OpenAI(api_key=key, base_url=f"http://{server.public}/v1", max_retries=0)
        seen = []
        with pytest.raises(openai.APIError) as raised:
            if protocol == "completions":
                stream = client.completions.create(
                    model="stub", prompt="hi", max_tokens=4000, stream=True, user=told
                )
                seen.extend(choice.finish_reason for chunk in stream for choice in chunk.choices)
            else:
                stream = client.responses.create(
                    model="stub", input="hi", max_output_tokens=4000, stream=True, metadata={"told": told}
                )
                for event in stream:
                    seen.append(event.type)
                    if event.type == "error":
                        raise openai.APIError(event.message, None, body={"code": event.code})
        assert raised.value.code == "nothing_left"
        if protocol == "responses":
            assert "response.incomplete" in seen
    (record,) = server.usage(subscriber, 1)
    assert (record["state"], record["reason"], record["loss"]) == ("interrupted", "nothing_left", [])


def test_nothing_at_all_is_402(server):
    subscriber, key = server.subscriber(None)
    status, content, headers = server.chat(key)
    assert (status, json.loads(content)["error"]["code"]) == (402, "nothing_left")
    assert headers["x-should-retry"] == "false"


def test_redirect_says_where_to_top_up(server):
    url = "https://top.up/now"
    subscriber, key = customer(server, 300, final_unit="redirect", top_up_url=url)
    _, reason, error = chat(server, key, {"tokens": 3000, "gap_ms": 1})
    assert (reason, error.code, error.body["top_up_url"]) == ("length", "nothing_left", url)
    # Then refusals say it, too.
    until(lambda: left(server, subscriber) < 90 or (chat(server, key, {"tokens": 300}) and None))
    _, _, error = chat(server, key, {"tokens": 300})
    assert (error.status_code, error.body["top_up_url"]) == (402, url)


def test_restrict_refuses_where_not_even_the_cheaper_model_is_covered(server):
    subscriber, key = customer(server, 100, final_unit="restrict", restrict_to="small")
    client = openai.OpenAI(api_key=key, base_url=f"http://{server.public}/v1", max_retries=0)
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "x" * 400}], max_tokens=16
        )
    assert raised.value.status_code == 402
    assert left(server, subscriber) == 100


def test_restricted_requests_are_told(server):
    """Here the plan's model is not in its rate card's classes, so nothing covers it; the other one is."""
    from tokenworks.catalog import Catalogue, ChargingPolicy, seed_catalogue

    card = next(card for card in seed_catalogue().rate_cards if card.id == "one-price")
    like = next(offering for offering in seed_catalogue().offerings if offering.id == "sample-trial")
    rate = card.rates[0]
    costly = rate.model_copy(update={"model_class": "costly", "models": ("stub",), "fresh_input": 9_000_000})
    card = card.model_copy(update={"id": "two-classes", "rates": (costly, rate)})
    offering = like.model_copy(
        update={
            "id": "test-restrict", "rate_card": "two-classes",
            "policy": ChargingPolicy(final_unit="restrict", restrict_to="small"),
        }
    )  # fmt: skip
    server.services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(offering,)))
    subscriber, key = server.subscriber("test-restrict")
    status, body, headers = until(
        lambda: (found := server.chat(key, {"tokens": 5}))[0] == 200 and found, what="the restricted answer"
    )
    assert headers["x-tokenworks-restricted-to"] == "small"
    (record,) = server.usage(subscriber, 1)
    assert (record["model"], record["deployment"]) == ("small", "small")
    status, _, headers = server.chat(key, {"tokens": 5}, model="small")
    assert status == 200
    assert "x-tokenworks-restricted-to" not in headers


def test_what_cannot_be_cut_asks_for_no_more_than_is_held(server, upstream):
    subscriber, key = customer(server, 300)
    status, body, _ = server.request(
        "POST", "/v1/chat/completions", key,
        {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "user": json.dumps({"tokens": 5000, "prompt": 11})},
    )  # fmt: skip
    assert status == 200
    sent = upstream.get("/last")["bodies"][-1]["max_tokens"]
    assert 16 <= sent < 300
    (record,) = server.usage(subscriber, 1)
    assert (record["output"], record["loss"]) == (sent, [])
    assert left(server, subscriber) == 300 - 11 - sent


def test_what_a_provider_reports_beyond_the_hold_is_the_operators(server):
    """It reports more than it was asked for: the subscriber pays what he asked for, the operator the rest."""
    subscriber, key = customer(server, 300)
    told = {"tokens": 10, "usage": {"prompt_tokens": 11, "completion_tokens": 900, "total_tokens": 911}}
    status, _, _ = server.chat(key, told, max_tokens=100)
    assert status == 200
    (record,) = server.usage(subscriber, 1)
    assert record["output"] == 900
    assert {"beyond_maximum", "waived"} <= set(record["flags"])
    assert [(loss["cause"], loss["counts"]) for loss in record["loss"]] == [
        ("beyond_maximum", {"output": 800})
    ]
    assert left(server, subscriber) == 300 - 11 - 100
    assert server.findings() == []


def test_many_streams_on_one_balance_are_cut_and_nothing_is_overdrawn(server, upstream):
    subscriber, key = customer(server, 3000)
    before = upstream.made()

    async def run():
        client = openai.AsyncOpenAI(api_key=key, base_url=f"http://{server.public}/v1", max_retries=0)

        async def one():
            count = 0
            try:
                stream = await client.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": "hi"}], max_tokens=4000, stream=True,
                    user=json.dumps({"tokens": 2000, "prompt": 11, "gap_ms": 2}),
                )  # fmt: skip
                async for chunk in stream:
                    count += sum(bool(choice.delta.content) for choice in chunk.choices)
            except openai.APIStatusError as error:
                assert error.status_code == 402
                return None
            except openai.APIError as error:
                assert error.code == "nothing_left"
            return count

        return await asyncio.gather(*[one() for _ in range(20)])

    counts = asyncio.run(run())
    served = [count for count in counts if count is not None]
    records = server.usage(subscriber, len(served))
    # What the upstream had made before it knew that a stream is cut is charged, and not delivered.
    made = upstream.made(before)
    assert sorted(record["output"] for record in records) == sorted(made.values())
    assert sum(served) <= sum(made.values()) <= sum(served) + 10 * len(served)
    assert all(record["loss"] == [] for record in records)
    # A chat's input comes at the end, which none of them reached: it is bounded from below.
    assert all(1 <= record["fresh_input"] <= 11 for record in records)
    used = sum(made.values()) + sum(record["fresh_input"] for record in records)
    assert left(server, subscriber) == 3000 - used >= 0


# The declared policy: one test each.


def one_record(server, subscriber):
    (record,) = server.usage(subscriber, 1)
    return record


def paid(record):
    return sum(part[5] for part in record["parts"]) // 1000


def start_stream(server, key, told, tokens=200):
    sock = server.open()
    body = json.dumps({"model": "stub", "stream": True, "max_tokens": tokens, "user": json.dumps(told),
                       "messages": [{"role": "user", "content": "hi"}]}).encode()  # fmt: skip
    sock.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return sock


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_client_gone_in_content(server, upstream, charge, pays):
    before = upstream.made()
    subscriber, key = customer(server, 5000, client_gone_in_content=charge)
    # More is left of its maximum than is read to its end for nobody.
    sock = start_stream(server, key, {"tokens": 2000, "gap_ms": 20}, tokens=4000)
    data = b""
    while data.count(b"tok ") < 5:
        data += sock.recv(65536)
    sock.close()
    record = one_record(server, subscriber)
    assert (record["state"], record["reason"]) == ("interrupted", "client_gone")
    (made,) = upstream.made(before).values()
    assert 5 <= record["output"] == made < 2000
    assert 1 <= record["fresh_input"] <= 11
    assert paid(record) == (record["output"] + record["fresh_input"] if pays else 0)
    assert [loss["cause"] for loss in record["loss"]] == ([] if pays else ["client_gone"])
    assert ("waived" in record["flags"]) == (not pays)


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_upstream_timeout(server, charge, pays, tmp_path, upstream):
    with Server(tmp_path, upstream_idle_timeout_s=1) as quick:
        quick.add_deployment("stub", "stub", upstream.url)
        subscriber, key = customer(quick, 5000, upstream_timeout=charge)
        _, _, error = chat(quick, key, {"tokens": 20, "stall_after": 7, "gap_ms": 1})
        assert error is not None
        record = one_record(quick, subscriber)
        assert (record["reason"], record["output"]) == ("upstream_timeout", 7)
        assert 1 <= record["fresh_input"] <= 11
        assert paid(record) == (7 + record["fresh_input"] if pays else 0)


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_upstream_error_after_content(server, charge, pays):
    subscriber, key = customer(server, 5000, upstream_error=charge)
    _, _, error = chat(server, key, {"tokens": 20, "cut_after": 7, "gap_ms": 1})
    assert error is not None
    record = one_record(server, subscriber)
    assert (record["reason"], record["output"]) == ("upstream_error", 7)
    assert 1 <= record["fresh_input"] <= 11
    assert paid(record) == (7 + record["fresh_input"] if pays else 0)


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_empty_answer(server, charge, pays):
    subscriber, key = customer(server, 5000, empty_answer=charge)
    status, _, _ = server.chat(
        key, {"tokens": 0, "usage": {"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 11}}
    )
    assert status == 200
    record = one_record(server, subscriber)
    assert (record["reason"], record["fresh_input"], record["output"]) == ("empty_answer", 11, 0)
    assert paid(record) == (11 if pays else 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_content_filtered(server, charge, pays, stream):
    subscriber, key = customer(server, 5000, content_filtered=charge)
    told = {"tokens": 6, "prompt": 11, "finish": "content_filter"}
    status, body, _ = server.chat(key, told, stream=stream)
    assert status == 200
    assert b"content_filter" in body
    record = one_record(server, subscriber)
    assert record["reason"] == ("completed" if pays else "content_filtered")
    assert paid(record) == (17 if pays else 0)


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_cache_hit(server, charge, pays):
    subscriber, key = customer(server, 5000, cache_hit=charge)
    status, _, _ = server.chat(key, {"tokens": 6, "prompt": 11, "cached": 9})
    assert status == 200
    record = one_record(server, subscriber)
    assert (record["fresh_input"], record["cached_input"], record["output"]) == (2, 9, 6)
    assert paid(record) == (17 if pays else 8)


def test_what_does_not_add_up_is_listed(server):
    subscriber, key = customer(server, 50_000)
    odd = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 99,
        "prompt_tokens_details": {"cached_tokens": 40},
    }
    assert server.chat(key, {"usage": odd})[0] == 200
    assert server.chat(key, {"tokens": 5, "no_usage": True})[0] == 200
    records = server.usage(subscriber, 2)
    assert {flag for record in records for flag in record["flags"]} == {"inconsistent", "no_usage"}
    # Charged by rule: a part is never more than its whole.
    by_flag = {record["flags"][0]: record for record in records}
    assert (by_flag["inconsistent"]["cached_input"], by_flag["inconsistent"]["fresh_input"]) == (11, 0)
    assert by_flag["no_usage"]["counted_by"] == "estimate"
    listed = json.loads(server.cli("ledger", "flagged", "--json").stdout)
    assert {str(record["usage_id"]) for record in records} <= {row["usage_id"] for row in listed}
    assert "inconsistent" in server.cli("ledger", "flagged").stdout


@pytest.mark.parametrize(("charge", "pays"), [("produced", True), ("nothing", False)])
def test_client_gone_before_content(server, upstream, charge, pays):
    """Its input was read all the same: the plan says who bears it, and the record says it either way."""
    subscriber, key = customer(server, 5000, client_gone_before_content=charge)
    told = {"tokens": 20, "wait_ms": 60_000, "of": charge}
    sock = start_stream(server, key, told, tokens=4000)
    until(lambda: any(b.get("user", "") == json.dumps(told) for b in upstream.get("/last")["bodies"]))
    sock.close()
    # Upstream is cancelled at once, long before it would have answered, and what was held is free again.
    until(lambda: sum(server.metrics("requests_open")) == 0, what="the request's end")
    record = one_record(server, subscriber)
    assert (record["state"], record["reason"], record["output"]) == ("interrupted", "client_gone", 0)
    assert 1 <= record["fresh_input"] <= 11
    assert paid(record) == (record["fresh_input"] if pays else 0)
    assert [loss["cause"] for loss in record["loss"]] == ([] if pays else ["client_gone"])
    assert left(server, subscriber) == 5000 - paid(record)


def test_what_ends_soon_is_read_to_its_end_for_a_client_that_left(server):
    """One token before the end is as good as the end: it is charged as complete."""
    subscriber, key = customer(server, 5000)
    sock = start_stream(server, key, {"tokens": 200, "prompt": 11, "gap_ms": 5})
    data = b""
    while data.count(b"tok ") < 5:
        data += sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    record = one_record(server, subscriber)
    assert (record["state"], record["output"], record["fresh_input"]) == ("complete", 200, 11)
    assert (paid(record), record["loss"]) == (211, [])


def test_an_answer_that_is_not_streamed_is_read_to_its_end_for_a_client_that_left(server, upstream):
    asked = upstream.count()["requests"]
    subscriber, key = customer(server, 5000)
    body = json.dumps({"model": "stub", "max_tokens": 100, "user": json.dumps({"tokens": 50, "prompt": 11, "wait_ms": 600}),
                       "messages": [{"role": "user", "content": "hi"}]}).encode()  # fmt: skip
    with server.open() as sock:
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(lambda: upstream.count()["requests"] > asked, what="it to be sent")
    record = one_record(server, subscriber)
    assert (record["state"], record["output"], paid(record), record["loss"]) == ("complete", 50, 61, [])


def test_a_client_that_stops_at_the_finish_reason_pays_all(server):
    """The finish leaves after the record: usage that comes late is waited for, with or without the client."""
    subscriber, key = customer(server, 5000)
    sock = start_stream(server, key, {"tokens": 6, "prompt": 11, "no_done": True, "linger_ms": 500})
    data = b""
    while b'"stop"' not in data:
        data += sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    record = one_record(server, subscriber)
    assert (record["state"], record["output"], record["fresh_input"], paid(record)) == ("complete", 6, 11, 17)


def test_a_retried_attempt_costs_nothing(server, upstream, tmp_path):
    with Server(tmp_path) as two:
        two.add_deployment("bad", "stub", "http://127.0.0.1:9/v1", "--protocol", "chat", wait=False)
        two.add_deployment("good", "stub", upstream.url)
        until(lambda: two.metrics("deployments") == [2], what="both deployments")
        subscriber, key = customer(two, 5000)
        for _ in range(3):
            status, _, _ = two.chat(key, {"tokens": 6, "prompt": 11})
            assert status == 200
        until(lambda: sum(two.metrics("attempts_failed")) > 0, what="an attempt that failed")
        records = two.usage(subscriber, 3)
        assert [paid(record) for record in records] == [17, 17, 17]
