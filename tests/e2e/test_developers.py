"""What developers expect of a gateway: models to fall back to, tags, what is left, what a request cost, limits in headers."""

import json
from decimal import Decimal
from urllib.parse import quote

import anthropic
import openai
import pytest

from tests.support.server import Server, StubUpstream, until

PAGE = "https://app.example"
TOLD = {"tokens": 3, "prompt": 9}


@pytest.fixture(scope="module")
def upstreams():
    with StubUpstream() as first, StubUpstream() as second:
        yield first, second


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstreams):
    first, second = upstreams
    with Server(tmp_path_factory.mktemp("developers"), cors_origins=PAGE) as server:
        protocols = ("--protocol", "chat", "--protocol", "messages", "--protocol", "responses")
        server.add_deployment("first", "stub", first.url, *protocols, wait=False)
        server.add_deployment("second", "spare", second.url, *protocols)
        yield server


def records(server, subscriber, count):
    return list(reversed(server.usage(subscriber, count)))


def drawn_mtok(record):
    return sum(part[5] for part in record["parts"] if part[4] == "balance")


def test_a_request_falls_back_and_the_record_and_the_answer_say_so(server, upstreams):
    subscriber, key = server.subscriber()
    upstreams[0].behave(status=500)
    try:
        status, body, headers = server.chat(key, TOLD, models=["spare"])
        assert (status, json.loads(body)["model"], headers["x-tokenworks-model"]) == (200, "spare", "spare")
        status, body, headers = server.request(
            "POST", "/v1/messages", key,
            {"models": ["stub", "spare"], "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "stream": True},
        )  # fmt: skip
        assert status == 200 and b'"model":"spare"' in body.replace(b": ", b":")
    finally:
        upstreams[0].behave()
    one, two = records(server, subscriber, 2)
    assert [(r["model"], r["asked"], r["state"]) for r in (one, two)] == [("spare", "stub", "complete")] * 2
    assert one["choice"].startswith("fallback after ") and one["tried"][0]["deployment"] == "first"
    assert drawn_mtok(one) == 12_000 and server.findings() == []


def test_a_name_that_the_database_takes_not_is_charged_all_the_same(server):
    subscriber, key = server.subscriber()
    body = {
        "model": "no\0ne",
        "models": ["stub"],
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert server.request("POST", "/v1/chat/completions", key, body)[0] == 200
    (record,) = records(server, subscriber, 1)
    assert record["asked"] == "no?ne" and drawn_mtok(record) > 0 and server.findings() == []


def test_a_key_names_its_models_by_command_and_api(server, upstreams):
    subscriber, _ = server.subscriber()
    made = json.loads(
        server.cli("key", "create", "--subscriber", subscriber.phone, "--fallback", "spare", "--json").stdout
    )
    upstreams[0].behave(status=500)
    try:
        assert server.chat(made["key"], TOLD)[2]["x-tokenworks-model"] == "spare"
        assert server.chat(made["key"], TOLD, models=[])[0] == 502
        server.cli("key", "fallback", made["key_id"], "--none")
        until(lambda: server.chat(made["key"], TOLD)[0] == 502, what="the key to fall back no more")
    finally:
        upstreams[0].behave()
    shown = json.loads(server.cli("key", "list", "--subscriber", subscriber.phone, "--json").stdout)
    assert next(one for one in shown if one["key_id"] == made["key_id"])["fallbacks"] == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_an_answer_names_what_the_record_draws(server, path):
    subscriber, key = server.subscriber()
    body = {"model": "stub", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    if path == "/v1/responses":
        body = {"model": "stub", "max_output_tokens": 50, "input": "hi"}
    status, whole, headers = server.request("POST", path, key, body, {"x-tokenworks-cost": "1"})
    assert status == 200
    _, stream, _ = server.request("POST", path, key, body | {"stream": True, "usage": {"include": True}})
    first, second = (Decimal(drawn_mtok(record)) / 1000 for record in records(server, subscriber, 2))
    assert json.loads(whole)["usage"]["cost"] == first > 0
    assert headers["x-tokenworks-cost"] == f"{first:f} token"
    found = [
        json.loads(line[6:])
        for line in stream.split(b"\n")
        if line.startswith(b"data: {") and b'"cost"' in line
    ]
    (last,) = found
    assert (last.get("response") or last)["usage"]["cost"] == second


def test_the_sdks_read_cost_and_model_whole_and_streamed(server, upstreams):
    subscriber, key = server.subscriber()
    client = openai.OpenAI(base_url=f"http://{server.public}/v1", api_key=key)
    asked = {"model": "gone", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    more = {"models": ["away", "stub"], "usage": {"include": True}}
    whole = client.chat.completions.create(**asked, extra_body=more)
    assert (whole.model, whole.usage.cost) == ("stub", whole.usage.total_tokens)
    chunks = list(client.chat.completions.create(**asked, extra_body=more, stream=True))
    assert {chunk.model for chunk in chunks} == {"stub"} and chunks[-1].usage.cost == chunks[
        -1
    ].usage.total_tokens
    assert [bool(chunk.usage) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    claude = anthropic.Anthropic(base_url=f"http://{server.public}", api_key=key)
    with claude.messages.stream(
        model="stub", max_tokens=50, messages=[{"role": "user", "content": "hi"}],
        extra_headers={"x-tokenworks-cost": "1"}, metadata={"user_id": "u-7"},
    ) as stream:  # fmt: skip
        events = list(stream)
        final = stream.get_final_message()
    (last,) = [event for event in events if event.type == "message_delta"]
    assert last.usage.cost == final.usage.input_tokens + final.usage.output_tokens
    found = records(server, subscriber, 3)
    assert [Decimal(drawn_mtok(record)) / 1000 for record in found] == [
        whole.usage.cost,
        chunks[-1].usage.cost,
        last.usage.cost,
    ]
    assert found[2]["tags"] == {"user": "u-7"}


def test_tags_in_headers_beyond_the_limit_of_a_record_are_all_named(server):
    _, key = server.subscriber()
    tagged = {f"x-tokenworks-tag-t{n:02}": "x" for n in range(40)}
    status, _, head = server.chat(key, TOLD, headers=tagged)
    named = set(head["x-tokenworks-dropped"].split(","))
    assert status == 200 and named >= {f"tag:t{n}" for n in range(16, 40)} and "tag:t15" not in named


def test_tags_are_summed_exactly_by_command_and_by_key(server):
    subscriber, key = server.subscriber()
    for team, job, count in (("a", "x", 2), ("b", "x", 1), ("a", "y", 1)):
        for _ in range(count):
            tagged = {"x-tokenworks-tag-team": team}
            assert server.chat(key, TOLD, headers=tagged, metadata={"job": job})[0] == 200
    assert server.chat(key, TOLD)[0] == 200
    found = records(server, subscriber, 5)
    assert (
        found[0]["tags"]["team"] == "a" and found[0]["tags"]["job"] == "x" and "team" not in found[4]["tags"]
    )
    command = ("usage", "--subscriber", subscriber.phone, "--json")
    by_team = json.loads(server.cli(*command, "--by", "tag:team").stdout)
    assert [(row["group"]["tag:team"], row["records"], row["drawn"]) for row in by_team] == [
        ("", 1, {"token": 12_000}), ("a", 3, {"token": 36_000}), ("b", 1, {"token": 12_000}),
    ]  # fmt: skip
    (of_a,) = json.loads(server.cli(*command, "--tag", "team=a", "--tag", "job=x").stdout)
    assert (of_a["records"], of_a["tokens"]) == (2, {"fresh_input": 18, "output": 6})
    assert "team=a" not in server.cli("usage", "--subscriber", subscriber.phone, "--by", "model").stdout
    status, body, _ = server.get("/v1/usage?by=tag:team,model&limit=2", key)
    page = json.loads(body)
    assert status == 200 and [row["tag:team"] for row in page["data"]] == ["", "a"] and page["next"]
    status, body, _ = server.get(f"/v1/usage?by=tag:team,model&limit=2&after={quote(page['next'])}", key)
    page = json.loads(body)
    assert [(row["tag:team"], row["requests"]) for row in page["data"]] == [("b", 1)] and page["next"] is None
    assert server.findings() == []


def test_a_key_reads_itself_and_nobody_else(server):
    subscriber, _ = server.subscriber()
    key = server.key(subscriber, models=("stub",), cap_tokens=5_000)
    other = server.key(subscriber)
    assert server.chat(key, TOLD)[0] == 200 and server.chat(other, TOLD)[0] == 200
    records(server, subscriber, 2)
    status, body, headers = server.get("/v1/key", headers={"x-api-key": key})
    shown = json.loads(body)
    assert status == 200 and headers["cache-control"] == "no-store" and key not in body.decode()
    assert (shown["models"], shown["data"]["limit"], shown["data"]["usage_daily"]) == (["stub"], 5_000, 12)
    until(
        lambda: json.loads(server.get("/api/v1/key", key)[1])["data"]["limit_remaining"] == 5_000 - 12,
        what="the cap",
    )
    assert (
        len(shown["caps"]) == 1
        and shown["balances"][0]["unit"] == "token"
        and shown["balances"][0]["left"] > 0
    )
    assert [(row["model"], row["requests"]) for row in shown["month"]] == [("stub", 2)]  # its member's
    own = json.loads(server.get("/v1/usage?by=key&this_key=true", key)[1])
    assert [row["requests"] for row in own["data"]] == [1]
    stranger, strange = server.subscriber()
    assert json.loads(server.get("/v1/usage", strange)[1])["data"] == []
    for path in ("/v1/key", "/v1/usage"):
        assert server.get(path)[0] == 401 and server.get(path, "twk_test_nonsense")[0] == 401
        assert server.request("POST", path, key, {})[0] == 405
    assert server.get("/v1/usage?by=account", key)[0] == 400
    for wrong in ('["\\ud800","a"]', '["a\\u0000","a"]', "[" * 3900):
        assert server.get(f"/v1/usage?after={quote(wrong)}", key)[0] == 400
    assert server.get("/v1/usage?since=2020-01-01T00:00:00Z", key)[0] == 400
    server.cli("key", "revoke", shown["id"])
    until(lambda: server.get("/v1/key", key)[0] == 401, what="the revoked key to be refused")


def test_limits_are_in_the_headers_of_answers_and_refusals_and_pages_may_read_them(server):
    subscriber, key = server.subscriber()
    server.cli(
        "limit",
        "set",
        "--subscriber",
        subscriber.phone,
        "--requests-per-min",
        "2",
        "--tokens-per-min",
        "1000000",
    )
    until(lambda: "x-ratelimit-limit-requests" in server.chat(key, TOLD)[2], what="the limit")
    status, _, headers = 0, b"", {}
    for _ in range(3):
        status, _, headers = server.chat(key, TOLD, headers={"origin": PAGE})
        if status == 429:
            break
    assert status == 429 and headers["x-ratelimit-remaining-requests"] == "0" and headers["retry-after"]
    assert headers["x-ratelimit-limit-requests"] == "2" and headers["x-ratelimit-reset-requests"].endswith(
        "s"
    )
    exposed = headers["access-control-expose-headers"]
    for name in (
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-requests-reset",
        "x-tokenworks-cost",
        "x-tokenworks-model",
    ):
        assert name in exposed
    status, _, headers = server.request(
        "POST",
        "/v1/messages",
        key,
        {"model": "stub", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    )
    assert status == 429 and headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")


def test_a_page_may_ask_about_its_key_too(server):
    _, key = server.subscriber()
    status, _, headers = server.get("/v1/key", key, {"origin": PAGE})
    assert status == 200 and headers["access-control-allow-origin"] == PAGE
    asked = {
        "origin": PAGE,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    status, _, headers = server.request("OPTIONS", "/v1/usage", None, None, asked)
    assert status == 204 and headers["access-control-allow-headers"] == "authorization"


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_logs_what_its_holder_wants_logged_and_nothing_before_and_after(server, stream):
    subscriber, key = server.subscriber()
    access, content = server.services.access, server.services.content_log
    (info,) = access.keys(subscriber)
    said = [{"role": "user", "content": "open sesame"}]
    body = {"model": "stub", "max_tokens": 50, "messages": said, "stream": stream}
    assert server.request("POST", "/v1/messages", key, body)[0] == 200 and not info.content_log
    access.set_content_log(subscriber, info.key_id, on=True)

    def entries():
        assert server.request("POST", "/v1/messages", key, body)[0] == 200
        return content.entries(subscriber.account_id, info.key_id)

    found = until(entries, what="an entry")[-1]
    answers = [content.read(subscriber.account_id, info.key_id, found.request_id) for _ in range(2)]
    assert json.loads(answers[0].request) == body and answers[0] == answers[1]
    assert b"content" in answers[0].answer and (b"event: message_start" in answers[0].answer) is stream
    assert found.outcome == "complete" and found.answer_bytes == len(answers[0].answer)
    access.set_content_log(subscriber, info.key_id, on=False)
    before = {entry.request_id for entry in content.entries(subscriber.account_id, info.key_id)}
    until(lambda: server.request("POST", "/v1/messages", key, body)[0] == 200, what="an answer")
    until(lambda: not server.services.keys.logs_content(info.key_id), what="the log to be off")
    after = {entry.request_id for entry in content.entries(subscriber.account_id, info.key_id)}
    assert len(after - before) <= 1, "at most what was on its way"
    assert content.delete(subscriber.account_id, info.key_id) == len(after) and server.findings() == []
