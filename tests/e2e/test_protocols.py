"""Every protocol, streamed and not: what the client gets, and what the ledger says."""

import json

import pytest

TOLD = {"tokens": 6, "prompt": 21, "cached": 8}
REQUESTS = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, "user": json.dumps(TOLD | {"reasoning": 2})}),
    "completions": ("/v1/completions", {"prompt": "hi", "max_tokens": 50, "user": json.dumps(TOLD)}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, "metadata": {"user_id": json.dumps(TOLD | {"written": 3})}}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": 50, "metadata": {"told": json.dumps(TOLD | {"reasoning": 2})}}),
}  # fmt: skip
EXPECTED = {
    "chat": {"fresh_input": 13, "cached_input": 8, "output": 4, "reasoning": 2},
    "completions": {"fresh_input": 13, "cached_input": 8, "output": 6},
    "messages": {"fresh_input": 21, "cached_input": 8, "cache_write": 3, "output": 6},
    "responses": {"fresh_input": 13, "cached_input": 8, "output": 4, "reasoning": 2},
}
CLASSES = ("fresh_input", "cached_input", "cache_write", "audio_input", "output", "reasoning", "audio_output")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", list(REQUESTS))
def test_a_request_is_metered_class_by_class(server, protocol, stream):
    subscriber, key = server.subscriber()
    path, body = REQUESTS[protocol]
    status, content, headers = server.request("POST", path, key, {"model": "stub", "stream": stream} | body)
    assert status == 200, content
    record = server.usage(subscriber, 1)[0]
    counts = {name: record[name] for name in CLASSES if record[name]}
    assert counts == EXPECTED[protocol]
    assert record["request_id"] == headers["x-request-id"]
    assert record["provider_total"] == sum(counts.values())
    assert (record["state"], record["counted_by"], record["protocol"]) == ("complete", "provider", protocol)
    assert record["parts"][0][5] == 1000 * sum(counts.values())
    if stream:
        ends = {
            "chat": b"[DONE]",
            "completions": b"[DONE]",
            "messages": b"message_stop",
            "responses": b"response.completed",
        }
        assert ends[protocol] in content
        # We asked for usage, the client did not: it does not see it.
        assert protocol not in {"chat"} or b'"choices": []' not in content


def test_a_client_that_asks_for_usage_gets_it(server):
    _, key = server.subscriber()
    _, content, _ = server.chat(key, TOLD, stream=True, stream_options={"include_usage": True})
    assert b'"total_tokens": 27' in content


def test_embeddings(server):
    subscriber, key = server.subscriber()
    status, content, _ = server.request("POST", "/v1/embeddings", key, {"model": "stub", "input": "hi"})
    assert status == 200
    assert json.loads(content)["data"][0]["embedding"] == [0.0, 1.0]
    record = server.usage(subscriber, 1)[0]
    assert (record["fresh_input"], record["output"]) == (11, 0)


def test_counting_tokens_costs_nothing(server):
    subscriber, key = server.subscriber()
    status, content, _ = server.request(
        "POST", "/v1/messages/count_tokens", key, {"model": "stub", "messages": []}
    )
    assert (status, json.loads(content)) == (200, {"input_tokens": 7})
    server.chat(key)
    assert len(server.usage(subscriber, 1)) == 1


def test_models_carry_the_fields_of_both_sdks(server):
    _, key = server.subscriber()
    status, content, _ = server.get("/v1/models", key)
    entry = next(e for e in json.loads(content)["data"] if e["id"] == "stub")
    assert status == 200
    assert entry["object"] == entry["type"] == "model"
    assert {"created", "created_at", "display_name", "owned_by"} <= set(entry)
    assert json.loads(server.get("/v1/models/stub", key)[1])["id"] == "stub"
    assert server.get("/v1/models/none", key)[0] == 404
    assert server.get("/v1/models")[0] == 401


def test_no_maximum_means_the_deployments_and_it_is_sent(server, upstream):
    _, key = server.subscriber()
    body = {"model": "stub", "messages": [{"role": "user", "content": "no maximum"}]}
    assert server.request("POST", "/v1/chat/completions", key, body)[0] == 200
    sent = next(
        b
        for b in reversed(upstream.get("/last")["bodies"])
        if b.get("messages") and b["messages"][0]["content"] == "no maximum"
    )
    assert sent["max_tokens"] == 4096


def test_an_alias_and_another_upstream_name(server, upstream):
    server.add_deployment("renamed", "fine-model", upstream.url, "--upstream-model", "vendor/fine")
    server.cli("alias", "add", "--alias", "claude-fine", "--model", "fine-model")
    subscriber, key = server.subscriber()
    from tests.support.server import until

    until(lambda: b"claude-fine" in server.get("/v1/models", key)[1], what="the alias")
    assert server.chat(key, model="claude-fine")[0] == 200
    assert server.usage(subscriber, 1)[0]["model"] == "fine-model"
    assert any(b.get("model") == "vendor/fine" for b in upstream.get("/last")["bodies"])


REFUSED = [
    ("no key", {"key": None}, 401, "invalid_api_key"),
    ("a typo", {"key": "twk_dev_000000000000000000000000000000000000"}, 401, "invalid_api_key"),
    ("no such model", {"model": "gpt-none"}, 404, "model_not_found"),
    (
        "a server tool that is forced",
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        400,
        "unpriced_field",
    ),
    ("a priced tier", {"service_tier": "priority"}, 400, "unpriced_field"),
    ("n out of bounds", {"n": 1000}, 400, "invalid_body"),
    ("a maximum that is none", {"max_completion_tokens": -5}, 400, "invalid_body"),
    (
        "a private picture",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}
            ]
        },
        400,
        "forbidden_link",
    ),
    ("a wrong type", {"stream": "yes"}, 400, "invalid_body"),
]


@pytest.mark.parametrize(("name", "change", "status", "code"), REFUSED, ids=[r[0] for r in REFUSED])
def test_a_refusal_is_in_protocol_and_costs_nothing(server, name, change, status, code):
    subscriber, key = server.subscriber()
    before = server.buckets(subscriber)[0].left
    key = change.pop("key", key) if "key" in change else key
    got, content, headers = server.chat(key, **change)
    assert got == status, content
    assert json.loads(content)["error"]["code"] == code
    assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]
    assert server.buckets(subscriber)[0].left == before
    assert server.usage(subscriber) == []


def test_anthropic_errors_have_anthropics_shape(server):
    status, content, headers = server.request(
        "POST", "/v1/messages", "nonsense", {"model": "stub", "messages": []}
    )
    error = json.loads(content)
    assert status == 401
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
    assert headers["x-request-id"]


def test_a_key_may_be_limited_to_models(server):
    subscriber, key = server.subscriber(models=("other",))
    status, content, _ = server.chat(key)
    assert (status, json.loads(content)["error"]["code"]) == (403, "model_not_allowed")
    assert server.usage(subscriber) == []


def test_a_foreign_response_id_is_refused_and_ones_own_works(server):
    mine, key = server.subscriber()
    _, other_key = server.subscriber()
    body = {"model": "stub", "input": "hi", "max_output_tokens": 5}
    _, content, _ = server.request("POST", "/v1/responses", key, body)
    response_id = json.loads(content)["id"]
    status, content, _ = server.request(
        "POST", "/v1/responses", other_key, body | {"previous_response_id": response_id}
    )
    assert (status, json.loads(content)["error"]["code"]) == (400, "foreign_object")
    assert (
        server.request("POST", "/v1/responses", key, body | {"previous_response_id": response_id})[0] == 200
    )


def test_the_providers_own_error_passes_and_costs_nothing(server):
    subscriber, key = server.subscriber()
    status, content, headers = server.chat(key, {"status": 422})
    assert status == 422
    assert json.loads(content)["error"]["message"] == "told to"
    assert headers["x-request-id"]
    assert server.chat(key)[0] == 200
    assert len(server.usage(subscriber, 1)) == 1


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"status": 500}, 502),
        ({"status": 503}, 502),
        ({"status": 401}, 502),
        ({"fail": "close"}, 502),
        ({"fail": "garbage"}, 502),
        ({"status": 429}, 429),
    ],
)
def test_a_failed_attempt_costs_nothing(server, told, status):
    subscriber, key = server.subscriber()
    got, content, headers = server.chat(key, told)
    assert got == status, content
    assert status != 429 or int(headers["retry-after"]) >= 1
    assert server.chat(key)[0] == 200
    assert [r["state"] for r in server.usage(subscriber, 1)] == ["complete"]


def test_a_provider_that_reports_nothing_is_counted_and_marked(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"tokens": 9, "no_usage": 1}, stream=True)[0] == 200
    record = server.usage(subscriber, 1)[0]
    assert (record["counted_by"], record["flags"], record["output"]) == ("estimate", ["no_usage"], 9)


def test_figures_that_do_not_add_up_are_flagged(server):
    subscriber, key = server.subscriber()
    assert server.chat(key, {"cached": 500, "usage": {"total_tokens": 3}})[0] == 200
    record = server.usage(subscriber, 1)[0]
    assert "inconsistent" in record["flags"]
    assert (record["cached_input"], record["fresh_input"]) == (11, 0)


def test_what_is_reported_beyond_the_hold_is_drawn_from_what_is_free_then_lost(server):
    subscriber, key = server.subscriber("sample-trial")
    # 10 000 tokens left; the provider says it took 30 000 in.
    assert server.chat(key, {"prompt": 30_000, "tokens": 10})[0] == 200
    record = server.usage(subscriber, 1)[0]
    charged = sum(part[5] for part in record["parts"])
    lost = sum(loss["requests"] + sum(loss["counts"].values()) for loss in record["loss"])
    assert charged <= 10_000_000
    assert charged // 1000 + lost == 30_010
    assert server.findings() == []


def test_a_cap_holds(server):
    subscriber, key = server.subscriber(cap_tokens=250)
    assert server.chat(key, {"tokens": 10}, max_tokens=20)[0] == 200
    # Not all of it is covered: what is left of the cap is all that may be made.
    status, content, _ = server.chat(key, {"tokens": 250}, max_tokens=250)
    assert status == 200
    assert 16 <= json.loads(content)["usage"]["completion_tokens"] < 200
    status, content, _ = server.chat(key, {"tokens": 250}, max_tokens=250)
    assert (status, json.loads(content)["error"]["code"]) == (402, "nothing_left")
    records = server.usage(subscriber, 2)
    assert sum(part[5] for r in records for part in r["parts"] if part[4] == "cap") <= 250_000
    assert server.findings() == []


def test_a_revoked_key_stops_within_a_second(server):
    import time

    subscriber, key = server.subscriber()
    assert server.chat(key)[0] == 200
    key_id = server.services.keys.of_account(subscriber.account_id, {})[0].key_id
    server.services.keys.revoke(key_id)
    revoked = time.monotonic()
    from tests.support.server import until

    until(lambda: server.chat(key)[0] == 401, timeout_s=5, what="the revocation")
    assert time.monotonic() - revoked < 5


def test_sums_equal_the_upstreams_own_count(server, upstream):
    subscriber, key = server.subscriber()
    before = set(upstream.count()["complete"])
    for at in range(30):
        stream = at % 2 == 0
        assert server.chat(key, {"tokens": at, "prompt": 10 + at, "cached": at % 5}, stream=stream)[0] == 200
    theirs = {id_: usage for id_, usage in upstream.count()["complete"].items() if id_ not in before}
    records = server.usage(subscriber, 30)
    assert sorted(r["upstream_id"] for r in records) == sorted(theirs)
    for record in records:
        usage = theirs[record["upstream_id"]]
        assert record["fresh_input"] + record["cached_input"] == usage["prompt_tokens"]
        assert record["cached_input"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert record["output"] == usage["completion_tokens"]
    assert server.findings() == []
