"""What a provider does not count is counted on this host, by a process that may die, hang or stop without harm to a request."""

import http.client
import json
import os
import signal
import threading

import pytest

from tests.support.server import Server, until
from tests.support.word_tokenizer import HANGS, write_words

COUNT_PATH = "/v1/messages/count_tokens"


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    folder = tmp_path_factory.mktemp("tokenizing")
    with Server(folder, workers=2, worker_silence_s=1, tokenize_timeout_s=1) as made:
        for name, template in (("words", None), ("hangs", HANGS)):
            write_words(folder / "tokenizers" / name, template)
            made.add_deployment(name, name, upstream.url, "--upstream-model", "stub", "--tokenizer", name)
        made.add_deployment("stub", "stub", upstream.url)
        yield made
        assert made.findings() == []


def limit(server, subscriber, **most):
    names = {"requests_per_min": None, "tokens_per_min": None, "streams_max": None} | most
    return server.services.ledger.set_limit(
        "subscriber", str(subscriber.account_id), subscriber.account_id, **names
    )


def tokenizers(server):
    return [pid for name, pid in server.processes() if name == "tokenizer"]


def counted_by(server, key, model="words"):
    """Of one request whose provider reports nothing."""
    status, _, headers = server.chat(key, {"tokens": 3, "no_usage": True}, model=model)
    assert status == 200
    row = until(
        lambda: server.connection.execute(
            "SELECT counted_by FROM usage WHERE request_id = %s", (headers["x-request-id"],)
        ).fetchone(),
        what="the record",
    )
    return row[0]


def counts_again(server, key):
    until(lambda: counted_by(server, key) == "tokenizer", what="the tokenizer process to count")


@pytest.mark.fault
def test_one_that_is_stopped_is_replaced_and_no_request_waits_for_it(server):
    _, key = server.subscriber()
    counts_again(server, key)
    before = tokenizers(server)
    os.kill(before[0], signal.SIGSTOP)
    assert counted_by(server, key) == "estimate"
    until(lambda: tokenizers(server) not in ([], before), what="another tokenizer process")
    counts_again(server, key)


@pytest.mark.fault
def test_one_that_hangs_in_a_template_is_replaced(server):
    _, key = server.subscriber()
    counts_again(server, key)
    before = tokenizers(server)
    assert counted_by(server, key, "hangs") == "estimate"
    until(lambda: tokenizers(server) not in ([], before), what="another tokenizer process")
    counts_again(server, key)
    until(lambda: sum(server.metrics("tokenizer_timeouts")) >= 1, what="the counters")


@pytest.mark.fault
def test_kill_9_of_it_under_load_costs_no_request(server):
    subscriber, key = server.subscriber()
    counts_again(server, key)
    before = len(server.usage(subscriber))
    statuses = []

    def load():
        for _ in range(25):
            try:
                statuses.append(server.chat(key, {"tokens": 3, "no_usage": True}, model="words")[0])
            except (OSError, http.client.HTTPException) as error:
                statuses.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        victim = until(lambda: tokenizers(server), what="a tokenizer process")[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: tokenizers(server) not in ([], [victim]), what="another one")
    for thread in threads:
        thread.join()
    assert statuses == [200] * 100, server.log_text()[-2000:]
    server.usage(subscriber, before + 100)
    until(lambda: sum(server.metrics("tokenizer_waiting")) == 0, what="the counters")


# count_tokens


def count(server, key, model="words", **body):
    body = {"model": model, "messages": [{"role": "user", "content": "one two three"}]} | body
    status, content, headers = server.request("POST", COUNT_PATH, key, body)
    return status, json.loads(content), headers


def test_our_own_tokenizer_answers_and_no_upstream_is_asked(server, upstream):
    subscriber, key = server.subscriber()
    counts_again(server, key)
    spent = len(server.usage(subscriber, 1))
    asked = upstream.count()
    status, body, headers = count(server, key, system="go")
    assert (status, body) == (200, {"input_tokens": 4})
    assert headers["content-type"] == "application/json" and headers["x-request-id"]
    image = {"type": "image", "source": {"type": "url", "url": "https://img.example.com/a.png"}}
    status, body, _ = count(server, key, messages=[{"role": "user", "content": [image]}])
    assert (status, body) == (200, {"input_tokens": 1 + 16_400}), "as the hold counts it"
    assert upstream.count() == asked
    server.chat(key, model="words")
    assert len(server.usage(subscriber, spent + 1)) == spent + 1, "a count is no usage"


def test_without_a_tokenizer_or_where_it_hangs_it_is_relayed(server):
    _, key = server.subscriber()
    assert count(server, key, "stub")[:2] == (200, {"input_tokens": 7})
    before = tokenizers(server)
    assert count(server, key, "hangs")[:2] == (200, {"input_tokens": 7})
    until(lambda: tokenizers(server) not in ([], before), what="another tokenizer process")


@pytest.mark.parametrize("model", ["words", "stub"])
def test_a_count_needs_a_plan_with_something_left(server, model):
    _, key = server.subscriber(None)
    status, body, _ = count(server, key, model)
    assert status == 402, body


def test_the_last_token_of_a_plan_is_enough_and_a_count_does_not_spend_it(server):
    subscriber, key = server.subscriber(server.sell("test-one-token", 1))
    assert [count(server, key)[0] for _ in range(5)] == [200] * 5
    assert server.chat(key)[0] == 402
    assert [bucket.left for bucket in server.buckets(subscriber)] == [1000]


@pytest.mark.parametrize("model", ["words", "stub"])
def test_a_count_is_a_request_under_the_limits(server, model):
    subscriber, key = server.subscriber()
    limit(server, subscriber, requests_per_min=3)
    statuses = [count(server, key, model)[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert server.chat(key, {"tokens": 1}, model=model)[0] == 429


def test_a_client_that_leaves_while_it_is_counted_holds_nothing(server):
    _, key = server.subscriber()
    body = json.dumps({"model": "hangs", "messages": [{"role": "user", "content": "one"}]}).encode()
    head = f"POST {COUNT_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    sock = server.open()
    sock.sendall(head.encode() + body)
    until(lambda: sum(server.metrics("requests_open")) == 1, what="the request")
    sock.close()
    until(lambda: sum(server.metrics("requests_open")) == 0, what="the request's end")
