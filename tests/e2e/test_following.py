"""One request, followed: by every id that names it, to its record, its route, its postings and its log line."""

import http.client
import json
import os
import re
import signal
import socket

import pytest

from tests.support.exposition import check, value_of
from tests.support.server import Server, until
from tokenworks.kernel import uuid7

OWN_ID = "trace-7f3a.of:the/client=1"


@pytest.fixture(scope="module")
def followed(tmp_path_factory, upstream):
    """A server that writes a line of every request, with one deployment, and a second model whose first deployment is down."""
    with Server(tmp_path_factory.mktemp("followed"), log_requests_ppm=1_000_000) as server:
        server.add_deployment("stub", "stub", upstream.url)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            down = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
            server.add_deployment("a-down", "twice", down, "--protocol", "chat", wait=False)
            server.add_deployment("b-up", "twice", upstream.url, "--upstream-model", "stub")
            yield server


def lines(server, **ids):
    """Lines of the log of requests that say so."""
    found = []
    for path in sorted((server.data_dir / "log").glob("*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if ids.items() <= line.items()]


def show(server, id_, *more):
    return json.loads(server.cli("usage", "show", id_, "--json", *more).stdout)


def test_a_request_is_followed_by_each_of_its_ids(followed):
    subscriber, key = followed.subscriber()
    status, content, headers = followed.chat(key, {"tokens": 5, "prompt": 11}, {"x-request-id": OWN_ID})
    assert status == 200
    ours = headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", ours)
    assert headers["request-id"] == ours
    assert headers["x-client-request-id"] == OWN_ID
    (record,) = followed.usage(subscriber, 1)
    assert (record["client_request_id"], record["choice"], record["tried"]) == (OWN_ID, None, [])
    until(lambda: lines(followed, request_id=ours), what="the line of the request")
    upstream_id = json.loads(content)["id"]
    shown = show(followed, ours)
    assert shown["account_id"] == str(subscriber.account_id)
    for id_ in (
        OWN_ID,
        upstream_id,
        str(record["usage_id"]),
        f"{record['usage_id']}.{subscriber.subscriber_id}",
    ):
        assert show(followed, id_)["records"] == shown["records"], id_

    (one,) = shown["records"]
    assert (one["request_id"], one["client_request_id"], one["deployment"]) == (ours, OWN_ID, "stub")
    (draw,) = shown["draws"]
    assert draw["amount"] == 1000 * (5 + 11)
    assert draw["grant"]["state"] == "open"
    assert draw["charge"]["price_nano"] > 0
    assert draw["rate"]["weights"]["output"] == 1000
    (entry,) = shown["entries"]
    assert sum(posting["amount"] for posting in entry["postings"]) == 0
    assert entry["link"]["intact"]
    (line,) = shown["log"]
    assert line["tokens"] == {"fresh_input": 11, "output": 5}
    assert (line["client_request_id"], line["key_id"], line["outcome"]) == (
        OWN_ID,
        record["key_id"].hex,
        "complete",
    )
    assert followed.findings() == []

    text = followed.cli("usage", "show", ours).stdout
    for said in (
        ours,
        OWN_ID,
        upstream_id,
        "customer_liability",
        "as it was chained",
        str(draw["grant"]["grant_id"]),
    ):
        assert said in text
    token = followed.services.identity.add_staff("Kim", "auditor")
    status, body, _ = followed.get(f"/api/operations/requests/{ours}", token)
    assert status == 200
    told = json.loads(body)
    assert told["draws"][0]["amount"] == draw["amount"]
    assert told["log"] == shown["log"]
    assert followed.get(f"/api/operations/requests/{ours}")[0] == 401
    assert followed.get(f"/api/operations/requests/{uuid7().hex}", token)[0] == 404


def test_without_the_log_an_account_finds_what_its_client_named(followed, tmp_path):
    """As on another host of the fleet."""
    subscriber, key = followed.subscriber()
    content = followed.chat(key, None, {"x-client-request-id": "elsewhere-1"})[1]
    (record,) = followed.usage(subscriber, 1)
    follow = followed.services.following.__class__(
        followed.connection, followed.services.clock, followed.services.offerings.rate_cards, None
    ).follow
    for id_ in ("elsewhere-1", json.loads(content)["id"]):
        assert follow(id_, subscriber.account_id)["records"][0]["usage_id"] == record["usage_id"]
    # An id of ours finds its account by itself.
    assert follow(record["request_id"])["account_id"] == subscriber.account_id
    other, _ = followed.subscriber()
    assert "no record since" in str(refused(follow, "elsewhere-1", other.account_id))


def refused(call, *args):
    with pytest.raises(Exception) as caught:  # its words are looked at
        call(*args)
    return caught.value


def test_an_unknown_id_is_told_what_was_looked_for_and_where(followed):
    unknown = uuid7().hex
    done = followed.cli("usage", "show", unknown, check=False)
    assert done.returncode == 1
    assert f"nothing is known of {unknown}" in done.stderr
    assert "log of requests of this host" in done.stderr
    assert "no account has a settled record" in done.stderr
    done = followed.cli("usage", "show", "no-such-id", check=False)
    assert "say the subscriber" in done.stderr
    subscriber, _ = followed.subscriber(None)
    done = followed.cli(
        "usage", "show", "no-such-id", "--subscriber", str(subscriber.subscriber_id), check=False
    )
    assert f"account {subscriber.account_id} has no record since" in done.stderr


@pytest.mark.parametrize(
    "sent",
    ["", "a b", 'a"b', "a\\b", "a" * 129, "13800000001", "+8613800000001", "twk_dev_0123456789abcdef", "mail@example.com", "-x", "é"],
)  # fmt: skip
def test_what_is_no_id_is_ignored(followed, sent):
    subscriber, key = followed.subscriber()
    body = json.dumps(
        {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    ).encode()
    with followed.open() as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key.encode() + b"\r\nx-request-id: " + sent.encode()
            + b"\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"x-client-request-id" not in answer
    assert followed.usage(subscriber, 1)[0]["client_request_id"] is None


def test_a_refusal_names_the_clients_id_and_has_a_line(followed):
    _, key = followed.subscriber()
    status, _, headers = followed.chat(key, None, {"x-request-id": "refused-1"}, model="nobody-has-this")
    assert status == 404
    assert headers["x-client-request-id"] == "refused-1"

    def refused_again():
        # Where another test had thousands refused, this one may be among those that are left out.
        found = lines(followed, client_request_id="refused-1")
        if not found:
            followed.chat(key, None, {"x-request-id": "refused-1"}, model="nobody-has-this")
        return found

    line, *_ = until(refused_again, what="its line")
    assert (line["outcome"], line["status"], line["cause"]) == ("refused", 404, "model_not_found")
    # What a client wrote is not a model of ours.
    assert "model" not in line
    assert line in show(followed, "refused-1")["log"]


def test_attempts_before_the_record_are_in_it(followed):
    subscriber, key = followed.subscriber()

    def tried():
        followed.chat(key, None, {"x-request-id": "retried"}, model="twice")
        found = followed.usage(subscriber)
        return next((one for one in found if one["tried"]), None)

    record = until(tried, what="a request that was tried at the deployment that is down")
    assert record["tried"] == [{"deployment": "a-down", "cause": "no_connection"}]
    assert (record["deployment"], record["attempt_no"], record["client_request_id"]) == ("b-up", 2, "retried")
    # Its first attempt left no record: the request's id is no record's.
    assert show(followed, record["request_id"])["records"][0]["tried"] == record["tried"]
    until(lambda: lines(followed, request_id=record["request_id"]), what="its line")
    shown = show(followed, record["request_id"])
    assert shown["log"][0]["tried"] == [["a-down", "no_connection"]]
    assert "a-down: no_connection" in followed.cli("usage", "show", record["request_id"]).stdout
    assert followed.findings() == []


def test_a_failing_upstream_and_hostile_clients_fill_no_disk(followed):
    """Thousands of requests that fail, and thousands that are refused, are some lines and a count of the others."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        followed.add_deployment("dead", "dead", down, "--protocol", "chat", wait=False)
        _, key = followed.subscriber()
        until(lambda: followed.chat(key, model="dead")[0] != 404, what="the deployment to be known")
        before = _log_bytes(followed)
        body = json.dumps({"model": "dead", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})
        bad = key[:-1] + ("a" if key[-1] != "a" else "b")
        for sent_key, model, times in (
            (key, "dead", REQUESTS),
            (bad, "dead", REQUESTS),
            (key, "nobody", REQUESTS),
        ):
            _ask_again_and_again(followed, sent_key, body.replace('"dead"', f'"{model}"'), times)
        until(
            lambda: followed.metrics("request_lines_left_out")[0] > 2 * REQUESTS,
            what="lines that were left out",
        )
        # Until its summary is there.
        suppressed = until(lambda: lines(followed, event="requests_suppressed"), 60, "what was left out")
        grown = {name: size - before.get(name, 0) for name, size in _log_bytes(followed).items()}
    # Three times 2000 requests: before, 400 bytes for each that found no place.
    assert sum(grown.values()) < 40 * 3 * REQUESTS, grown
    assert grown["serve.log"] < 16_384, grown
    assert all(line["suppressed"] > 0 for line in suppressed)


REQUESTS = 2000


def _log_bytes(server):
    found = {path.name: path.stat().st_size for path in (server.data_dir / "log").glob("*")}
    return found | {"serve.log": (server.data_dir / "serve.log").stat().st_size}


def _ask_again_and_again(server, key, body, times):
    """On one connection at a time, answers read to their ends."""
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()
    sock, done = None, 0
    while done < times:
        if sock is None:
            sock = server.open()
            answers = sock.makefile("rb")
        sock.sendall(request)
        head, length, close = answers.readline(), 0, False
        assert head.startswith(b"HTTP/1.1 "), head
        while (line := answers.readline()) not in {b"\r\n", b""}:
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
            close = close or (name.lower() == b"connection" and b"close" in value)
        answers.read(length)
        done += 1
        if close:
            sock.close()
            sock = None
    if sock is not None:
        sock.close()


def exposition(server):
    host, port = server.admin.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    check(text)
    return text


def test_sums_by_model_and_deployment_outlive_their_worker(followed, upstream):
    # Of its own, so that no other test's requests are on their way into the sums.
    followed.add_deployment("summed", "summed", upstream.url, "--upstream-model", "stub")
    _, key = followed.subscriber()

    def ask():
        return followed.chat(key, {"tokens": 7, "prompt": 9}, model="summed")[0] == 200

    def count(name, **labels):
        return value_of(
            exposition(followed), f"tokenworks_model_{name}", model="summed", deployment="summed", **labels
        )

    assert count("requests_total") == 0, "it is there before its first request"
    assert all(ask() for _ in range(3))
    until(lambda: count("requests_total", outcome="complete") == 3, what="the sums")
    text = exposition(followed)
    for name in ("model_first_byte_seconds_count", "model_request_seconds_count", "model_attempts_total"):
        assert value_of(text, f"tokenworks_{name}", model="summed", deployment="summed") == 3, name
    assert value_of(text, "tokenworks_model_tokens_total", model="summed", **{"class": "output"}) == 21
    assert value_of(text, "tokenworks_model_tokens_total", model="summed", **{"class": "fresh_input"}) == 27
    for name in ("commit", "settle"):
        until(
            lambda: value_of(exposition(followed), f"tokenworks_recorder_{name}_seconds_count"),
            what=name,
        )
    assert value_of(text, "tokenworks_memory_bytes_max") == followed.settings.memory_bytes_max
    (worker,) = [pid for name, pid in followed.processes() if name == "worker"]
    os.kill(worker, signal.SIGKILL)

    def another():
        # Only ever more, also while there is no worker.
        assert count("requests_total", outcome="complete") >= 3
        return [pid for name, pid in followed.processes() if name == "worker"] not in ([], [worker])

    until(another, what="another worker")
    until(ask, what="service")
    until(lambda: _grows(count("requests_total", outcome="complete"), 3), what="its request")
    until(
        lambda: ask() and value_of(exposition(followed), "tokenworks_gateway_added_seconds_count"),
        what="a sample",
    )


def _grows(now, least):
    assert now >= least
    return now > least


def test_a_client_writes_no_label(followed):
    _, key = followed.subscriber()
    assert followed.chat(key, model="made-up")[0] == 404
    until(
        lambda: value_of(
            exposition(followed), "tokenworks_model_requests_total", model="none", outcome="refused"
        ),
        what="a refusal of no model",
    )
    assert "made-up" not in exposition(followed)
