"""Consents in a running server: what is withdrawn holds from the next request on, on every worker."""

import json

import pytest

from tests.support.server import Server, StubUpstream, until


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One model at home and abroad, and one abroad alone; two workers."""
    with (
        StubUpstream() as home,
        StubUpstream() as abroad,
        Server(tmp_path_factory.mktemp("consents"), workers=2) as server,
    ):
        for name, model, region, upstream in (
            ("home", "stub", "cn-sh", home), ("abroad", "stub", "sg", abroad), ("far", "far", "sg", abroad)
        ):  # fmt: skip
            server.cli(
                "deployment", "add", "--name", name, "--model", model, "--base-url", upstream.url, "--protocol", "chat",
                "--allow-private", "--region", region, "--vendor", "works",
            )  # fmt: skip
        until(lambda: server.metrics("deployments") == [3.0, 3.0])
        yield server


def signed_in(server, subscriber):
    owner = server.services.subscriptions.owner_of(subscriber)
    text, _ = server.services.identity.open_session(subscriber.subscriber_id, owner)
    return {"authorization": f"Bearer {text}"}


def say(server, head, purpose, *, given):
    """As a person does: with the hash of the text that is shown."""
    status, content, _ = server.request("GET", "/api/consents", headers=head)
    assert status == 200, content
    digest = next(one["text_sha256"] for one in json.loads(content) if one["purpose"] == purpose)
    body = {"given": given, "text_sha256": digest}
    status, content, _ = server.request("PUT", f"/api/consents/{purpose}", None, body, head)
    assert status == 200, content


def statuses(server, key, count=8, **body):
    """On connections of their own, so that both workers are asked."""
    found = [server.chat(key, {"tokens": 2, "prompt": 3}, **body) for _ in range(count)]
    return {status for status, _, _ in found}, [content for _, content, _ in found]


def test_withdrawn_terms_stop_the_next_request(served):
    subscriber, key = served.subscriber()
    head = signed_in(served, subscriber)
    assert statuses(served, key)[0] == {200}
    say(served, head, "terms", given=False)
    # Workers hear of it within a second.
    until(lambda: statuses(served, key)[0] == {403}, what="all workers to refuse")
    assert json.loads(statuses(served, key, 1)[1][0])["error"]["code"] == "consent_missing"
    say(served, head, "terms", given=True)
    until(lambda: statuses(served, key)[0] == {200}, what="all workers to serve again")


def test_without_consent_data_stays_in_its_region(served):
    subscriber, key = served.subscriber("ctc-premium")
    head = signed_in(served, subscriber)
    assert statuses(served, key, 2, model="far")[0] == {200}
    say(served, head, "data_cross_border", given=False)
    until(lambda: statuses(served, key, model="far")[0] == {403}, what="all workers to refuse")
    assert json.loads(statuses(served, key, 1, model="far")[1][0])["error"]["code"] == "residency"
    assert statuses(served, key, 12)[0] == {200}

    def at_home_and_abroad():
        """Rows of the model that is offered at both places; of the other one, some may be settled at any time."""
        rows = [row for row in served.usage(subscriber) if row["model"] == "stub"]
        return rows if len(rows) == 12 else None

    usage = until(at_home_and_abroad, what="12 usage records")
    assert {row["deployment"] for row in usage} == {"home"}, "the place abroad is not used"
    # The wish for a region abroad leaves nowhere to go.
    served.services.subscriptions.set_profile(subscriber, regions=["sg"])
    until(lambda: statuses(served, key)[0] == {403}, what="nowhere to go")
    say(served, head, "data_cross_border", given=True)
    until(lambda: statuses(served, key, model="far")[0] == {200}, what="to go abroad again")


def test_who_is_erased_is_served_no_more(served):
    subscriber, key = served.subscriber(None)
    head = signed_in(served, subscriber)
    assert served.get("/v1/models", key)[0] == 200
    digits = subscriber.phone[-4:]
    status, content, _ = served.request("POST", "/api/erasure", None, {"confirm": digits}, head)
    assert status == 200 and json.loads(content)["state"] == "erased"
    refused = until(
        lambda: (r := served.get("/v1/models", key))[0] == 403 and r, what="the account to be closed"
    )
    assert json.loads(refused[1])["error"]["code"] == "account_closed"
    assert served.request("GET", "/api/subscriber", headers=head)[0] == 401


def test_an_export_goes_through_the_gateway(served):
    subscriber, key = served.subscriber()
    statuses(served, key, 3)
    served.usage(subscriber, 3)
    status, content, headers = served.request("GET", "/api/export", headers=signed_in(served, subscriber))
    assert status == 200 and headers["content-type"] == "application/json"
    found = json.loads(content)
    assert found["tables"]["subscriber"][0]["phone"] == subscriber.phone
    assert len(found["tables"]["usage"]) == 3
