"""Quotes and failed jobs over HTTP."""

from datetime import timedelta

import pytest

from tokenworks.kernel import uuid7


@pytest.fixture
def person(services, signed_in):
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    return subscriber, signed_in(subscriber)


def test_what_an_order_costs_is_said_before_it(client, services, person, signed_in, clock):
    clock.move(timedelta(days=15))
    headers = signed_in(person[0])
    body = {"action": "add", "offering": "ctc-light"}
    quote = client.post("/api/quotes", json=body, headers=headers)
    assert quote.status_code == 200, quote.text
    assert quote.json() == {
        "action": "add",
        "offering": "ctc-light",
        "offering_version": services.offerings.on_sale("ctc-light").offering_version,
        "proration": "prorate",
        "amount": {"unit": "CNY", "value": 4.95},
        "tax": {"unit": "CNY", "value": 0.280188679},
        "now": {"unit": "CNY", "value": 4.95},
        "at_most": False,
        "begins_at": "2027-04-15T16:00:00Z",
        "ends_at": "2027-04-30T16:00:00Z",
        "renews_at": "2027-04-30T16:00:00Z",
        "renewal": {"unit": "CNY", "value": 9.9},
        "lines": [
            {
                "description": "China Telecom Light",
                "description_zh": "中国电信轻享版",
                "amount": {"unit": "CNY", "value": 4.95},
                "tax": {"unit": "CNY", "value": 0.280188679},
            }
        ],
    }
    assert services.connection.execute("SELECT count(*) FROM product_order").fetchone() == (0,)


def test_changes_ends_and_resumes_are_quoted(client, services, person, signed_in, clock):
    subscriber = person[0]
    product = services.orders.place(subscriber, "ctc-light").product_id
    clock.move(timedelta(days=15))

    def ask(**body):
        asked = {"product": str(product), **body}
        return client.post("/api/quotes", json=asked, headers=signed_in(subscriber))

    assert ask(action="modify", offering="ctc-standard").json()["amount"]["value"] == 10.0
    assert ask(action="delete").json()["amount"]["value"] == -4.95
    later = ask(action="delete", at="cycle_end").json()
    assert (later["amount"]["value"], later["ends_at"]) == (0, "2027-04-30T16:00:00Z")
    assert "renews_at" not in later
    assert ask(action="resume").status_code == 409
    services.orders.suspend(product)
    clock.move(timedelta(days=30))
    assert ask(action="resume").json()["renews_at"] == "2027-05-31T16:00:00Z"
    assert services.orders.product(product)[0].state == "suspended"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "add"}, 400),
        ({"action": "add", "offering": "nothing"}, 404),
        ({"action": "modify", "product": "x", "offering": "ctc-light"}, 404),
        ({"action": "modify"}, 404),
        ({"action": "delete", "product": str(uuid7())}, 404),
        ({"action": "burn"}, 400),
        ({"action": "add", "offering": "ctc-light", "more": 1}, 400),
        ({"action": "add", "offering": "ctc\x00light"}, 400),
    ],
)
def test_what_is_not_a_question_is_refused(client, person, body, status):
    assert client.post("/api/quotes", json=body, headers=person[1]).status_code == status


def test_nobody_sees_what_another_ones_product_costs(client, services, person, signed_in, staff):
    subscriber, _ = person
    product = services.orders.place(subscriber, "ctc-light").product_id
    other = signed_in(services.subscriptions.register("+8613800000002"))
    body = {"action": "delete", "product": str(product)}
    assert client.post("/api/quotes", json=body, headers=other).status_code == 404
    assert client.post("/api/quotes", json=body).status_code == 401
    assert client.post("/api/quotes", json=body, headers=staff["operator"]).status_code == 200
    assert client.post("/api/quotes", json=body, headers=staff["auditor"]).status_code == 403
    mine = {"action": "add", "offering": "ctc-light", "subscriber": str(subscriber.subscriber_id)}
    assert client.post("/api/quotes", json=mine, headers=other).status_code == 404
    # A second one of what is had wants its word.
    assert client.post("/api/quotes", json=mine, headers=staff["operator"]).status_code == 409
    mine["confirm"] = True
    assert client.post("/api/quotes", json=mine, headers=staff["operator"]).status_code == 200


def test_failed_jobs_are_listed_and_released_by_staff(client, services, staff, person):
    ref = uuid7()
    services.failed_jobs.note("cycle", ref, ValueError("a fault"))
    url = "/api/operations/failed-jobs"
    (row,) = client.get(url, headers=staff["auditor"]).json()
    assert (row["job"], row["ref"], row["state"], row["attempts"]) == ("cycle", str(ref), "retrying", 1)
    assert row["reason"] == "ValueError: a fault" and row["next_at"]
    assert client.get(url, headers=person[1]).status_code == 403

    def release(role, id_=ref, job="cycle"):
        return client.post(f"{url}/{id_}/release", json={"job": job}, headers=staff[role])

    assert release("auditor").status_code == 403
    assert release("operator", job="bill").status_code == 404
    assert release("operator").json() == {"job": "cycle", "ref": str(ref), "state": "released"}
    assert release("operator").status_code == 404
    assert release("operator", job="nothing").status_code == 400
    assert release("operator", id_="x").status_code == 404
    (trail,) = services.identity.audited(str(ref))[0]
    assert trail["action"] == "job.release"
