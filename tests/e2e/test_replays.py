"""The same answer again: by an Idempotency-Key, and from the response cache of an account."""

import concurrent.futures
import contextlib
import json
import os
import signal

import anthropic
import openai
import pytest

from tests.support.server import Server, until
from tokenworks.app.database.embedded import APP_ROLE
from tokenworks.catalog import Catalogue, Service, seed_catalogue
from tokenworks.kernel import uuid7

CACHE = {"x-tokenworks-cache": "on"}


def sell_with_cache(server, percent, tokens=1_000_000):
    """Put a plan whose cache charges so many percent into the catalogue."""
    return sell_with(server, f"cached-{percent}", Service(cache_percent=percent), tokens)


def sell_with(server, head, service, tokens=1_000_000):
    """Put a plan with this service into the catalogue. `head`: of its name."""
    name = f"{head}-{uuid7().hex[-6:]}"
    card = next(card for card in seed_catalogue().rate_cards if card.id == "one-price")
    like = next(offering for offering in seed_catalogue().offerings if offering.id == "sample-trial")
    bucket = like.buckets[0].model_copy(update={"quantity": tokens})
    offering = like.model_copy(
        update={
            "id": name,
            "buckets": (bucket,),
            "service": service,
            "per_subscriber_max": None,
        }
    )
    server.services.offerings.load(Catalogue(catalogue="test", rate_cards=(card,), offerings=(offering,)))
    return name


@pytest.fixture(scope="module")
def replaying(tmp_path_factory, upstream):
    """A server with two workers, small limits of stored answers, and one deployment."""
    limits = {
        "replay_answer_bytes_max": 20_000,
        "replay_account_bytes_max": 30_000,
        "replay_account_answers_max": 12,
    }
    with Server(
        tmp_path_factory.mktemp("replays"), workers=2, log_requests_ppm=1_000_000, **limits
    ) as server:
        server.add_deployment("stub", "stub", upstream.url)
        yield server


def text(words):
    return [{"role": "user", "content": words}]


def named(key):
    return {"idempotency-key": key}


def drawn(record):
    return sum(part[5] for part in record["parts"] if part[4] == "balance")


def test_a_repeat_gets_the_same_answer_and_is_charged_once(replaying, upstream):
    subscriber, key = replaying.subscriber()
    before = upstream.count()["requests"]
    status, first, head = replaying.chat(key, {"tokens": 7}, named("order 1"))
    assert (status, "x-tokenworks-replayed" in head) == (200, False)
    status, again, repeated = replaying.chat(key, {"tokens": 7}, named("order 1"))
    assert (status, again) == (200, first)
    assert repeated["x-tokenworks-replayed"] == head["x-request-id"] != repeated["x-request-id"]
    assert upstream.count()["requests"] == before + 1
    replay, original = replaying.usage(subscriber, 2)
    assert (replay["state"], replay["reason"], replay["replay_of"], replay["replay_percent"]) == (
        "replayed", "idempotency_key", original["usage_id"], 0
    )  # fmt: skip
    assert (replay["parts"], replay["deployment"], replay["upstream_id"]) == ([], "", None)
    assert drawn(original) > 0
    # The same key with another body, at another route, and in another account.
    status, content, _ = replaying.chat(key, {"tokens": 8}, named("order 1"))
    assert (status, json.loads(content)["error"]["code"]) == (422, "idempotency_key_reused")
    status, content, _ = replaying.request(
        "POST", "/v1/completions", key, {"model": "stub", "prompt": "hi", "max_tokens": 5}, named("order 1")
    )
    assert status == 422
    _, other = replaying.subscriber()
    status, theirs, head = replaying.chat(other, {"tokens": 7}, named("order 1"))
    assert (status, "x-tokenworks-replayed" in head, theirs != first) == (200, False, True)
    assert not replaying.findings()


def test_a_repeat_is_answered_after_its_model_is_gone(replaying, upstream):
    subscriber, key = replaying.subscriber()
    _, other = replaying.subscriber()
    replaying.add_deployment("leaving", "leaving", upstream.url)
    status, first, head = replaying.chat(key, {"tokens": 4}, named("gone"), model="leaving")
    fell = replaying.chat(key, {"tokens": 4}, named("fell"), model="never", models=["leaving"])
    assert (status, fell[0], fell[2]["x-tokenworks-model"]) == (200, 200, "leaving")
    replaying.cli("deployment", "remove", "leaving")
    until(
        lambda: {replaying.chat(other, {"tokens": 1}, model="leaving")[0] for _ in range(4)} == {404},
        what="the model to be gone",
    )
    status, again, repeated = replaying.chat(key, {"tokens": 4}, named("gone"), model="leaving")
    assert (status, again, repeated["x-tokenworks-replayed"]) == (200, first, head["x-request-id"])
    refell = replaying.chat(key, {"tokens": 4}, named("fell"), model="never", models=["leaving"])
    assert refell[:2] == fell[:2]
    for name in ("x-tokenworks-model", "x-tokenworks-choice"):
        assert refell[2][name] == fell[2][name]
    # A key that is new is refused as without one, and is free after that.
    for _ in range(2):
        status, content, _ = replaying.chat(key, {"tokens": 4}, named("first"), model="leaving")
        assert (status, json.loads(content)["error"]["code"]) == (404, "model_not_found")
    records = replaying.usage(subscriber, 4)
    assert sorted(drawn(record) > 0 for record in records) == [False, False, True, True]
    assert not replaying.findings()


def test_two_at_once_are_served_once(replaying, upstream):
    subscriber, key = replaying.subscriber()
    before = upstream.count()["requests"]
    told = {"tokens": 3, "gap_ms": 30}

    def send(_):
        # As the SDKs do with a 409 and its Retry-After.
        return until(
            lambda: (got := replaying.chat(key, told, named("both")))[0] != 409 and got, what="an answer"
        )

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert {status for status, _, _ in answers} == {200}
    assert len({content for _, content, _ in answers}) == 1
    assert upstream.count()["requests"] == before + 1
    records = replaying.usage(subscriber, 6)
    assert sorted(record["state"] for record in records) == ["complete", *["replayed"] * 5]
    assert sum(drawn(record) > 0 for record in records) == 1
    assert not replaying.findings()


def test_what_was_refused_or_failed_frees_its_key(replaying):
    subscriber, key = replaying.subscriber()
    status, _, _ = replaying.chat(key, {"status": 500}, named("again"))
    assert status >= 500
    until(lambda: replaying.chat(key, {"tokens": 2}, named("again"))[0] == 200, what="the key to be free")
    assert [record["state"] for record in replaying.usage(subscriber, 1)] == ["complete"]
    poor, poor_key = replaying.subscriber(replaying.sell("replay-poor", 20))
    assert replaying.chat(poor_key, {"tokens": 2}, named("k"), max_tokens=5000)[0] == 402
    assert replaying.usage(poor) == []


@pytest.mark.parametrize("wrong", ["", "é", "x" * 256])
def test_a_key_is_printable_ascii(replaying, wrong):
    _, key = replaying.subscriber()
    headers = {"idempotency-key": wrong.encode("latin-1")}
    status, content, _ = replaying.chat(key, {"tokens": 1}, headers)
    assert (status, json.loads(content)["error"]["code"]) == (400, "invalid_idempotency_key")


def test_an_sdks_own_key_and_a_stream_have_no_repeat(replaying):
    subscriber, key = replaying.subscriber()
    for _ in range(2):
        own = named("stainless-python-retry-6f9619ff")
        assert "x-tokenworks-replayed" not in replaying.chat(key, {"tokens": 1}, own)[2]
        status, content, head = replaying.chat(key, {"tokens": 1}, named("s"), stream=True)
        assert (status, "x-tokenworks-replayed" in head) == (200, False)
        assert content.endswith(b"data: [DONE]\n\n")
    assert {record["state"] for record in replaying.usage(subscriber, 4)} == {"complete"}


def test_a_key_whose_answer_was_too_large_is_spent(replaying, upstream):
    subscriber, key = replaying.subscriber()
    assert replaying.chat(key, {"tokens": 3, "pad": 30_000}, named("large"))[0] == 200
    before = upstream.count()["requests"]
    status, content, head = replaying.chat(key, {"tokens": 3, "pad": 30_000}, named("large"))
    assert (status, json.loads(content)["error"]["code"]) == (409, "idempotency_key_spent")
    assert upstream.count()["requests"] == before
    assert len(replaying.usage(subscriber, 1)) == 1


def test_keys_beyond_the_limit_are_refused_and_serve_again_when_older_ones_are_over(replaying):
    subscriber, key = replaying.subscriber()
    for number in range(12):
        assert replaying.chat(key, {"tokens": 1}, named(f"n{number}"))[0] == 200
    status, content, head = replaying.chat(key, {"tokens": 1}, named("n12"))
    assert (status, json.loads(content)["error"]["code"]) == (429, "too_many_idempotency_keys")
    assert int(head["retry-after"]) > 0
    with replaying.owner() as owner:
        owner.execute(
            "UPDATE replay_answer SET expires_at = now() WHERE account_id = %s", (subscriber.account_id,)
        )
    # An expired key is a new one.
    assert "x-tokenworks-replayed" not in replaying.chat(key, {"tokens": 1}, named("n12"))[2]
    assert "x-tokenworks-replayed" not in replaying.chat(key, {"tokens": 1}, named("n1"))[2]
    assert "x-tokenworks-replayed" in replaying.chat(key, {"tokens": 1}, named("n1"))[2]


@contextlib.contextmanager
def away(server):
    """The database refuses every statement on stored answers."""
    with server.owner() as owner:
        owner.execute(f"REVOKE ALL ON replay_answer FROM {APP_ROLE}")
    try:
        yield
    finally:
        with server.owner() as owner:
            owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON replay_answer TO {APP_ROLE}")


def test_without_the_database_a_key_is_refused_and_the_cache_misses(replaying, upstream):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    words = text("away")
    assert replaying.chat(key, {"tokens": 2}, CACHE, messages=words)[2]["x-tokenworks-cache"] == "stored"
    before = upstream.count()["requests"]
    with away(replaying):
        status, content, _ = replaying.chat(key, {"tokens": 2}, named("away"))
        assert (status, json.loads(content)["error"]["code"]) == (503, "database_away")
        assert upstream.count()["requests"] == before
        status, _, head = replaying.chat(key, {"tokens": 2}, CACHE, messages=words)
        assert (status, "x-tokenworks-cache" in head) == (200, False)
    assert replaying.chat(key, {"tokens": 2}, CACHE, messages=words)[2]["x-tokenworks-cache"] == "hit"
    # It goes away while the first request is served: that one is answered and charged, and no other is.
    told = {"tokens": 2, "wait_ms": 300}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(replaying.chat, key, told, named("meanwhile"))
        until(lambda: upstream.count()["requests"] == before + 2, what="the first request")
        with away(replaying):
            assert first.result()[0] == 200
    status, content, _ = replaying.chat(key, told, named("meanwhile"))
    assert (status, json.loads(content)["error"]["code"]) == (409, "idempotency_key_spent")
    assert sorted(record["state"] for record in replaying.usage(subscriber, 4)) == ["complete"] * 3 + [
        "replayed"
    ]
    assert not replaying.findings()


@pytest.mark.fault
def test_a_killed_worker_gives_no_free_answer_and_charges_none_twice(replaying, upstream):
    subscriber, key = replaying.subscriber()
    before = upstream.count()["requests"]
    upstream.behave(wait_ms=60_000)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(replaying.chat, key, {"tokens": 2}, named("killed"))
            until(lambda: upstream.count()["requests"] == before + 1, what="the first request")
            status, content, head = replaying.chat(key, {"tokens": 2}, named("killed"))
            assert (status, json.loads(content)["error"]["code"]) == (409, "idempotency_in_flight")
            assert int(head["retry-after"]) > 0
            for name, pid in replaying.processes():
                if name == "worker":
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(OSError):
                first.result()
    finally:
        upstream.behave()
    until(replaying.ready, what="the workers")

    def again():
        try:
            return (got := replaying.chat(key, {"tokens": 2}, named("killed")))[0] == 200 and got
        except OSError:
            return None

    _, content, head = until(again, what="the key to be free")
    assert "x-tokenworks-replayed" not in head
    status, repeated, head = replaying.chat(key, {"tokens": 2}, named("killed"))
    assert (status, repeated, "x-tokenworks-replayed" in head) == (200, content, True)
    records = replaying.usage(subscriber, 2)
    assert sorted(r["state"] for r in records if r["state"] != "interrupted") == ["complete", "replayed"]
    assert sum(drawn(record) > 0 for record in records) == 1
    assert not replaying.findings()


@pytest.mark.parametrize(("percent", "stream"), [(0, False), (33, False), (33, True)])
def test_an_equal_request_is_answered_from_the_cache_for_the_plans_share(
    replaying, upstream, percent, stream
):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, percent))
    words = text(f"how far is it? {percent} {stream}")
    more = {"stream_options": {"include_usage": True}} if stream else {}
    status, first, head = replaying.chat(
        key, {"tokens": 10, "prompt": 7}, CACHE, messages=words, stream=stream, **more
    )
    assert (status, head["x-tokenworks-cache"]) == (200, "miss" if stream else "stored")
    before = upstream.count()["requests"]
    # Another user and other metadata do not matter, nor does the order of the fields.
    status, again, hit = replaying.chat(
        key, {"tokens": 99}, CACHE, stream=stream, messages=words, metadata={"a": "b"}, **more
    )
    assert (status, again, hit["x-tokenworks-cache"], hit["x-tokenworks-replayed"]) == (
        200, first, "hit", head["x-request-id"]
    )  # fmt: skip
    assert int(hit["age"]) >= 0
    assert hit["content-type"].startswith("text/event-stream" if stream else "application/json")
    assert upstream.count()["requests"] == before
    replay, original = replaying.usage(subscriber, 2)
    assert (replay["state"], replay["reason"], replay["replay_percent"]) == (
        "replayed",
        "response_cache",
        percent,
    )
    for name in ("fresh_input", "output"):
        assert replay[name] == original[name] * percent // 100
    assert drawn(replay) == 1000 * (10 * percent // 100 + 7 * percent // 100)
    # Another body, a refresh, an answer that is too old, no wish: none of them is a hit.
    for headers, body in (
        (CACHE, {"messages": words, "temperature": 0.5}),
        ({"x-tokenworks-cache": "refresh"}, {"messages": words}),
        ({"x-tokenworks-cache": "off"}, {"messages": words}),
        ({}, {"messages": words}),
    ):
        got = replaying.chat(key, {"tokens": 1}, headers, stream=stream, **body, **more)
        assert (got[0], got[2].get("x-tokenworks-cache") == "hit") == (200, False), headers
    # Another account asks for itself.
    _, other = replaying.subscriber(sell_with_cache(replaying, percent))
    assert (
        replaying.chat(other, {"tokens": 1}, CACHE, messages=words, stream=stream, **more)[2][
            "x-tokenworks-cache"
        ]
        != "hit"
    )
    assert not replaying.findings()


def test_a_key_wishes_the_cache_by_itself_until_it_does_not(replaying, upstream):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    (row,) = json.loads(
        replaying.cli("key", "list", "--subscriber", str(subscriber.subscriber_id), "--json").stdout
    )
    words = text("by itself")

    def hits():
        return replaying.chat(key, {"tokens": 2}, messages=words)[2].get("x-tokenworks-cache") == "hit"

    assert not hits() and not row["response_cache"]
    replaying.cli("key", "cache", row["key_id"], "on")
    until(hits, what="the key's wish")
    assert not replaying.chat(key, {"tokens": 2}, {"x-tokenworks-cache": "off"}, messages=words)[2].get("age")
    replaying.cli("key", "cache", row["key_id"], "off")
    until(lambda: not hits(), what="the end of the key's wish")
    assert not replaying.findings()


def told_by(protocol, server, key, words):
    """What the SDK of a protocol makes of a stream that may be answered from the cache."""
    if protocol == "messages":
        client = anthropic.Anthropic(base_url=f"http://{server.public}", api_key=key, max_retries=0)
        with client.messages.stream(
            model="stub", max_tokens=20, messages=[{"role": "user", "content": words}], extra_headers=CACHE
        ) as stream:
            return stream.response.headers["x-tokenworks-cache"], stream.get_final_message().model_dump()
    client = openai.OpenAI(base_url=f"http://{server.public}/v1", api_key=key, max_retries=0)
    if protocol == "responses":
        with client.responses.create(model="stub", input=words, stream=True, extra_headers=CACHE) as stream:
            return stream.response.headers["x-tokenworks-cache"], [event.model_dump() for event in stream]
    # Its reasoning and the details of its usage, too: what peers lose of a stream that they replay
    # (https://github.com/BerriAI/litellm/issues/32068, pull/42244; streams of responses: issues/24579; read 2026-11).
    told = json.dumps({"tokens": 6, "reasoning": 3, "cached": 4})
    with client.chat.completions.create(
        model="stub", messages=[{"role": "user", "content": words}], max_tokens=20, stream=True, user=told,
        stream_options={"include_usage": True}, extra_headers=CACHE,
    ) as stream:  # fmt: skip
        chunks = [chunk.model_dump() for chunk in stream]
        assert chunks[-1]["usage"] is not None
        return stream.response.headers["x-tokenworks-cache"], chunks


@pytest.mark.parametrize("protocol", ["chat", "messages", "responses"])
def test_an_sdk_makes_of_a_replayed_stream_what_it_made_of_the_first(replaying, upstream, protocol):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    (first, made), (again, remade) = (
        told_by(protocol, replaying, key, f"an sdk of {protocol}") for _ in range(2)
    )
    assert (first, again) == ("miss", "hit")
    assert remade == made
    replay, original = replaying.usage(subscriber, 2)
    assert replay["protocol"] == original["protocol"] == protocol
    for name in ("fresh_input", "cached_input", "output", "reasoning"):
        assert replay[name] == original[name] // 2
    assert not replaying.findings()


def test_what_is_not_whole_is_not_stored(replaying, upstream):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    for number, (told, body) in enumerate(
        (
            ({"tokens": 5, "finish": "content_filter"}, {}),
            ({"tokens": 5, "cut_after": 2}, {"stream": True}),
            ({"tokens": 5}, {"n": 2}),
            ({"tokens": 5, "pad": 30_000}, {}),
            ({"tokens": 0}, {}),
        )
    ):
        words = text(f"not whole {number}")
        for _ in range(2):
            head = replaying.chat(key, told, CACHE, messages=words, **body)[2]
            assert head.get("x-tokenworks-cache", "miss") == "miss", told
    # A plan without a cache has none.
    _, plain = replaying.subscriber()
    for _ in range(2):
        assert "x-tokenworks-cache" not in replaying.chat(plain, {"tokens": 1}, CACHE)[2]
    assert not replaying.findings()


def test_the_oldest_answers_make_room_and_the_sums_stay_within_their_limits(replaying):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    for number in range(20):
        assert (
            replaying.chat(key, {"tokens": 2, "pad": 4000}, CACHE, messages=text(f"room {number}"))[0] == 200
        )
        rows, size = replaying.connection.execute(
            "SELECT count(*), sum(answer_bytes) FROM replay_answer WHERE account_id = %s",
            (subscriber.account_id,),
        ).fetchone()
        assert rows <= 12
        assert size <= 30_000
    last = replaying.chat(key, {"tokens": 2}, CACHE, messages=text("room 19"))[2]
    first = replaying.chat(key, {"tokens": 2}, CACHE, messages=text("room 0"))[2]
    assert (last["x-tokenworks-cache"], first["x-tokenworks-cache"] == "hit") == ("hit", False)


def test_a_hit_is_held_and_refused_like_any_request(replaying):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 100, tokens=200))
    words = text("all of it")
    ask = {"messages": words, "max_tokens": 150}
    assert (
        replaying.chat(key, {"tokens": 100, "prompt": 3}, CACHE, **ask)[2]["x-tokenworks-cache"] == "stored"
    )
    status, content, _ = replaying.chat(key, {"tokens": 100}, CACHE, **ask)
    assert (status, json.loads(content)["error"]["code"]) == (402, "nothing_left")
    assert len(replaying.usage(subscriber, 1)) == 1
    (bucket,) = [b for b in replaying.buckets(subscriber) if b.kind == "balance"]
    assert bucket.remaining >= 0


def test_an_erased_account_and_member_leave_no_answer(replaying):
    subscriber, key = replaying.subscriber(sell_with_cache(replaying, 50))
    assert (
        replaying.chat(key, {"tokens": 2}, CACHE, messages=text("of me"))[2]["x-tokenworks-cache"] == "stored"
    )
    assert replaying.chat(key, {"tokens": 2}, named("of me"))[0] == 200
    (sealed,) = {
        b"stub" in bytes(row[0])
        for row in replaying.connection.execute(
            "SELECT answer_sealed FROM replay_answer WHERE account_id = %s", (subscriber.account_id,)
        )
    }
    assert not sealed
    replaying.usage(subscriber, 2)
    replaying.services.privacy.erase(subscriber, even_if_owed=True)
    rows = replaying.connection.execute(
        "SELECT count(*) FROM replay_answer WHERE account_id = %s", (subscriber.account_id,)
    ).fetchone()
    assert rows == (0,)


def test_metrics_count_hits_and_misses(replaying):
    names = ("cache_hits", "cache_misses", "idempotency_repeats", "answers_stored", "answers_replayed_bytes")
    before = {name: sum(replaying.metrics(name)) for name in names}
    _, key = replaying.subscriber(sell_with_cache(replaying, 50))
    for headers in (CACHE, CACHE, named("m"), named("m")):
        assert replaying.chat(key, {"tokens": 2}, headers, messages=text("metrics"))[0] == 200
    for name in names:
        until(lambda name=name: sum(replaying.metrics(name)) > before[name], what=name)
