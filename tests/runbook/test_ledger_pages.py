"""Pages about what is charged and what is not: records, grants, keys, losses, history."""

import json
import re
import socket

import pytest

from tests.e2e.test_worker_end import TOKENS_SHOWN, Stream
from tests.runbook.book import scenario
from tests.support.server import until

REFUSE = """CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'refused for a test' USING ERRCODE = 'check_violation'; END $$"""


@scenario("Following one request")
def test_a_request_is_followed_from_what_a_customer_names(host, shell, upstream):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        host.add_deployment("b-up", "twice", upstream.url, "--upstream-model", "stub")
        host.add_deployment("a-down", "twice", down, "--protocol", "chat", wait=False)
        until(
            lambda: host.metrics("deployments") == [len(host.services.deployments.all())], what="both of them"
        )
        subscriber, key = host.subscriber()
        own = "ticket-4711"
        told = {"tokens": 5, "prompt": 11}
        status, _, headers = host.chat(key, told, {"x-client-request-id": own}, model="twice")
        assert status == 200 and headers["x-client-request-id"] == own
    host.usage(subscriber, 1)
    with shell.page("Following one request") as page:
        said = page.run("usage show", REQUEST=headers["x-request-id"])
        assert own in said and "b-up" in said and "a-down: no_connection" in said
        assert "as it was chained" in said and "customer_liability" in said
        said = page.run("--since 30d", REQUEST=own, SUBSCRIBER=subscriber.subscriber_id)
        assert headers["x-request-id"] in said
    for name in ("a-down", "b-up"):
        host.cli("deployment", "remove", name)


@scenario("Quarantine")
def test_records_that_the_database_refuses_are_released_or_dropped(host, shell):
    subscriber, key = host.subscriber()
    with host.owner() as owner:
        owner.execute(REFUSE)
        owner.execute(
            "CREATE TRIGGER refuse_it BEFORE INSERT ON usage FOR EACH ROW WHEN (NEW.output = 13) EXECUTE FUNCTION refuse_it()"
        )
        try:
            for tokens in (5, 13, 13):
                assert host.chat(key, {"tokens": tokens, "prompt": 11})[0] == 200
            held = until(
                lambda: len(host.services.ledger.quarantined()) == 2 and host.services.ledger.quarantined(),
                what="quarantine",
            )
        finally:
            owner.execute("DROP TRIGGER refuse_it ON usage")
            owner.execute("DROP FUNCTION refuse_it")
    assert [record["output"] for record in host.usage(subscriber, 1)] == [5], (
        "the record beside them is settled"
    )
    assert {grant["in_doubt"] for grant in host.services.ledger.grants(subscriber.account_id)} == {
        "quarantine"
    }
    released, dropped = (row["quarantine_id"] for row in held)
    with shell.page("Quarantine") as page:
        listed = page.run("quarantine list")
        assert str(released) in listed and str(dropped) in listed and "refused for a test" in listed
        page.run("quarantine release", RECORD=released)
        page.run("quarantine drop", RECORD=dropped)
    assert sorted(record["output"] for record in host.usage(subscriber, 2)) == [5, 13]
    assert host.services.ledger.quarantined() == []
    assert host.findings() == []


@scenario("Failed jobs")
def test_a_failed_job_is_released_and_tried_again(host, shell):
    subscriber, _ = host.subscriber()
    host.services.failed_jobs.note("bill", subscriber.subscriber_id, ValueError("a fault"))
    with shell.page("Failed jobs") as page:
        listed = page.run("job list")
        assert str(subscriber.subscriber_id) in listed and "ValueError: a fault" in listed
        assert "is tried again" in page.run("job release", JOB="bill", REF=subscriber.subscriber_id)
    assert host.services.failed_jobs.all() == []


@pytest.fixture
def losing(host):
    """A subscriber with an answer that cost more than it had: (subscriber, key)."""
    subscriber, key = host.subscriber("sample-trial")
    assert host.chat(key, {"prompt": 30_000, "tokens": 10})[0] == 200
    (record,) = host.usage(subscriber, 1)
    assert record["loss"][0]["cause"] == "beyond_hold"
    return subscriber, key


@scenario("Losses")
def test_losses_are_looked_at_and_an_account_is_frozen(host, shell, losing):
    subscriber, key = losing
    with shell.page("Losses") as page:
        said = page.run("ledger losses", SUBSCRIBER=subscriber.subscriber_id)
        assert said.count("beyond_hold") == 2, "of all, and of this one"
        page.run("ledger flagged")
        assert "Frozen" in page.run("account freeze", SUBSCRIBER=subscriber.subscriber_id)
    until(lambda: host.chat(key)[0] == 403, what="the account to be frozen")


@scenario("Clients that leave")
def test_a_deployment_says_more_as_it_goes(host, shell, losing, upstream):
    host.cli(
        "deployment",
        "add",
        "--name",
        "engine",
        "--model",
        "engine",
        "--base-url",
        upstream.url,
        "--allow-private",
        "--protocol",
        "chat",
    )
    with shell.page("Clients that leave") as page:
        said = page.run("ledger losses", SUBSCRIBER=losing[0].subscriber_id, OFFERING="ctc-light")
        assert "beyond_hold" in said and "cancel" in said
        page.run("deployment set", DEPLOYMENT="engine")
    (deployment,) = [one for one in host.services.deployments.all() if one.name == "engine"]
    assert deployment.profile == "vllm"
    host.cli("deployment", "remove", "engine")


@scenario("History that was changed")
def test_history_that_was_changed_is_named(host, shell):
    subscriber, key = host.subscriber()
    assert host.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
    (record,) = host.usage(subscriber, 1)
    with host.owner() as owner:

        def change(latency_ms):
            with owner.transaction():
                owner.execute("SET LOCAL session_replication_role = replica")
                owner.execute(
                    "UPDATE usage SET latency_ms = latency_ms + %s WHERE account_id = %s AND usage_id = %s",
                    (latency_ms, subscriber.account_id, record["usage_id"]),
                )

        change(1)
        with shell.page("History that was changed") as page:
            said = page.run("ledger verify", code=1)
        assert "chain: history is what it was when it was chained" in said and str(record["usage_id"]) in said
        change(-1)
    assert host.findings() == []


def code(host, key):
    status, said, _ = host.chat(key)
    return status, json.loads(said).get("error", {}).get("code")


@scenario("A leaked key")
def test_a_leaked_key_is_taken_by_nobody(host, shell):
    subscriber, key = host.subscriber()
    key_id = str(host.services.keys.of_account(subscriber.account_id, {})[0].key_id)
    other = host.key(subscriber)
    (other_id,) = {str(k.key_id) for k in host.services.keys.of_account(subscriber.account_id, {})} - {key_id}
    assert host.chat(key)[0] == host.chat(other)[0] == 200
    host.usage(subscriber, 2)
    with shell.page("A leaked key") as page:
        said = page.run("key revoke", KEY_ID=key_id, SUBSCRIBER=subscriber.subscriber_id)
        assert key_id in said and other_id in said
        (new,) = re.findall(r"\btwk_[a-z]+_[\w-]{20,}", said)
        until(lambda: code(host, key) == (401, "key_revoked"), what="the key to be refused")
        until(lambda: host.chat(new)[0] == 200, what="the one in its place to be taken")
        page.run("key block", KEY_ID=other_id)
        until(lambda: code(host, other) == (401, "key_revoked"), what="the blocked key to be refused")
        page.run("--undo", KEY_ID=other_id)
        until(lambda: host.chat(other)[0] == 200, what="the key to be taken again")
        assert "Frozen" in page.run("account freeze", SUBSCRIBER=subscriber.subscriber_id)
        until(lambda: code(host, other) == (403, "account_suspended"), what="the account to be frozen")
        assert "It can spend again." in page.run("--undo", SUBSCRIBER=subscriber.subscriber_id)
    until(lambda: host.chat(other)[0] == 200, what="service")


@scenario("A refund or a change stays pending")
def test_a_grant_is_asked_back_for_a_refund(host, shell, upstream):
    """A stream runs on it, so it is not closed yet."""
    subscriber, key = host.subscriber()
    stream = Stream(host, key)
    until(lambda: stream.shows == TOKENS_SHOWN, what="the stream to be under way")
    (order,), _ = host.services.orders.all(subscriber)
    refund = (
        "refund",
        "--order",
        str(order.order_id),
        "--part",
        "unused",
        "--reason",
        "moved away",
        "--json",
    )
    assert {one["state"] for one in json.loads(host.cli(*refund).stdout)} == {"pending"}
    (grant,) = host.services.ledger.grants(subscriber.account_id)
    with shell.page("A refund or a change stays pending") as page:
        said = page.run("grant close", SUBSCRIBER=subscriber.subscriber_id, GRANT=grant["grant_id"])
    assert str(grant["grant_id"]) in said and "asked to close" in said
    upstream.release()
    stream.join(30)
    until(lambda: host.services.ledger.grants(subscriber.account_id) == [], what="the grant to close")
