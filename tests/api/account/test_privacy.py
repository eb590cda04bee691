"""Consents, export, real names and erasure over HTTP and on the page."""

import contextlib
import json

import pytest

from tokenworks.api.account.privacy import EXPORTS_AT_ONCE

PHONE, NAME = "+8613876543210", "Wilhelmina Xylander"


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register(PHONE, NAME)


@pytest.fixture
def head(signed_in, subscriber):
    return signed_in(subscriber)


def test_what_is_agreed_to_is_what_was_shown(client, services, subscriber, head):
    shown = {one["purpose"]: one for one in client.get("/api/consents", headers=head).json()}
    assert set(shown) == {"terms", "marketing", "spill_over", "data_cross_border"}
    assert "given" not in shown["marketing"] and shown["marketing"]["text"]
    said = client.put("/api/consents/marketing", json={"given": True}, headers=head)
    assert said.status_code == 400 and "text_sha256" in said.json()["detail"]
    said = client.put("/api/consents/marketing", json={"given": True, "text_sha256": "0" * 64}, headers=head)
    assert said.status_code == 409
    digest = shown["marketing"]["text_sha256"]
    said = client.put("/api/consents/marketing", json={"given": True, "text_sha256": digest}, headers=head)
    assert said.status_code == 200 and said.json()["said_text_sha256"] == digest and said.json()["given"]
    said = client.put("/api/consents/marketing", json={"given": False}, headers=head)
    assert said.json()["given"] is False
    assert services.consents.latest_answers(subscriber) == {"marketing": False}
    rows = services.connection.execute("SELECT said_by FROM consent ORDER BY consent_id").fetchall()
    assert set(rows) == {(f"member:{services.subscriptions.owner_of(subscriber)}",)}
    # Going on from a plan is a consent and a switch in one.
    digest = shown["spill_over"]["text_sha256"]
    client.put("/api/consents/spill_over", json={"given": True, "text_sha256": digest}, headers=head)
    assert services.subscriptions.find(PHONE).spill_over
    assert client.put("/api/consents/other", json={"given": True}, headers=head).status_code == 400


def test_what_staff_says_for_a_subscriber_is_not_what_it_said(client, services, subscriber, head, staff):
    """Evidence of a consent names whoever said it."""
    owner = f"member:{services.subscriptions.owner_of(subscriber)}"
    body = {"spill_over": True, "consents": {"data_cross_border": True}}
    of = f"?of={subscriber.subscriber_id}"
    assert client.patch(f"/api/subscriber{of}", json=body, headers=staff["operator"]).status_code == 200
    assert client.patch("/api/subscriber", json=body, headers=head).status_code == 200
    rows = services.connection.execute("SELECT purpose, said_by FROM consent ORDER BY consent_id").fetchall()
    assert rows == [
        ("spill_over", "operator"), ("data_cross_border", "operator"),
        ("spill_over", owner), ("data_cross_border", owner),
    ]  # fmt: skip


def test_who_may(client, services, subscriber, head, signed_in, staff):
    member = services.members.add(subscriber, "Son")
    son = signed_in(subscriber, member.member_id)
    body = {"given": False}
    of = f"?of={subscriber.subscriber_id}"
    assert client.put("/api/consents/terms", json=body).status_code == 401
    assert client.put("/api/consents/terms", json=body, headers=son).status_code == 403
    assert client.get("/api/export", headers=son).status_code == 403
    assert client.post("/api/erasure", json={"confirm": "3210"}, headers=son).status_code == 403
    assert client.get(f"/api/export{of}", headers=staff["auditor"]).status_code == 403
    assert client.put(f"/api/consents/terms{of}", json=body, headers=staff["finance"]).status_code == 403
    other = services.subscriptions.register("+8613800000002")
    assert client.get(f"/api/export?of={other.subscriber_id}", headers=head).status_code == 404
    assert client.put(f"/api/consents/terms{of}", json=body, headers=staff["operator"]).status_code == 200
    trail, _ = services.identity.audited(str(subscriber.subscriber_id))
    assert (trail[0]["action"], trail[0]["after"]["given"]) == ("subscriber.consent", False)


def test_withdrawn_terms_refuse_an_order(client, services, subscriber, head):
    client.put("/api/consents/terms", json={"given": False}, headers=head)
    refused = client.post(
        "/tmf-api/productOrderingManagement/v4/productOrder",
        json={"productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": "ctc-light"}}]},
        headers=head | {"Idempotency-Key": "k"},
    )
    assert refused.status_code == 422 and refused.json()["title"] == "ConsentNeeded"
    assert services.orders.products(subscriber) == []


def test_a_person_takes_along_what_is_stored(client, services, subscriber, head, staff):
    services.orders.place(subscriber, "ctc-light")
    found = client.get("/api/export", headers=head)
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.headers["content-disposition"].endswith('.json"')
    assert found.headers["cache-control"] == "no-store"
    assert found.json()["tables"]["subscriber"][0]["name"] == NAME
    found = client.get(f"/api/export?of={PHONE.replace('+', '%2B')}", headers=staff["operator"])
    assert found.json()["subscriber_id"] == str(subscriber.subscriber_id)


def test_so_many_exports_at_once(client, api, services, head):
    slots = api.state.exports
    for _ in range(EXPORTS_AT_ONCE):
        assert slots.acquire(blocking=False)
    assert client.get("/api/export", headers=head).status_code == 503
    slots.release()
    # One that fails before its first piece, and one that ends, leave their slot.
    open_services = api.state.open_services

    @contextlib.contextmanager
    def broken():
        with open_services() as rooms:
            yield rooms

    for _ in range(3):
        assert client.get("/api/export", headers=head).status_code == 200
    assert slots.acquire(blocking=False)
    slots.release()
    slots.release()


def test_a_real_name_is_checked(client, services, subscriber, head):
    body = {"name": NAME, "id_number": "11010519491231002X"}
    assert client.post("/api/real-name", json=body, headers=head).json()["real_name"] == "verified"
    assert (
        client.post(
            "/api/real-name", json=body | {"id_number": "11010519491231002\u202e"}, headers=head
        ).status_code
        == 400
    )
    other = client.post("/api/real-name", json=body | {"id_number": "110105194912310038"}, headers=head)
    assert other.status_code == 422 and other.json()["title"] == "RealNameRefused"


def test_an_erasure_ends_everything(client, services, subscriber, head):
    _, key = services.keys.issue(
        account_id=subscriber.account_id, member_id=services.subscriptions.owner_of(subscriber), name="k"
    )
    assert client.post("/api/erasure", json={"confirm": "0000"}, headers=head).status_code == 400
    assert (
        client.post("/api/erasure", json={"confirm": "3210", "even_if_owed": True}, headers=head).status_code
        == 400
    )
    assert services.subscriptions.find(PHONE).state == "active"
    done = client.post("/api/erasure", json={"confirm": "3210"}, headers=head)
    assert done.status_code == 200 and done.json()["state"] == "erased" and done.json()["backups_forget_at"]
    assert client.get("/api/subscriber", headers=head).status_code == 401
    assert services.subscriptions.find(str(subscriber.subscriber_id)).phone == ""


def test_staff_find_and_see_of_one_who_was_erased_no_more_than_is_left(
    client, services, subscriber, head, staff
):
    client.post("/api/erasure", json={"confirm": "3210"}, headers=head)
    of = f"?of={subscriber.subscriber_id}"
    seen = client.get(f"/api/subscriber{of}", headers=staff["operator"]).json()
    assert (seen["phone"], seen["state"]) == ("(erased)", "closed") and "name" not in seen
    assert client.get(f"/api/members{of}", headers=staff["operator"]).status_code == 200
    trail = client.get("/api/operations/audit", headers=staff["auditor"])
    assert trail.status_code == 200 and NAME not in trail.text


@pytest.fixture
def browser(client, services, signed_in, subscriber, head):
    client.cookies.set("tokenworks_session", head["authorization"].removeprefix("Bearer "))
    client.headers["sec-fetch-site"] = "same-origin"
    return client


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Close account and erase data"), ("zh", "注销账户并删除信息")]
)
def test_the_page_says_what_is_a_persons(browser, services, subscriber, language, words):
    browser.cookies.set("tokenworks_language", language)
    page = browser.get("/privacy")
    assert page.status_code == 200 and words in page.text and NAME in page.text
    assert "+86*******3210" in page.text and PHONE not in page.text
    (state,) = [s for s in services.consents.states(subscriber, language) if s.text.purpose == "marketing"]
    assert state.text.text in page.text and state.text.sha256 in page.text
    form = {"purpose": "marketing", "given": "true", "text_sha256": state.text.sha256}
    said = browser.post("/privacy/consent", data=form, follow_redirects=False)
    assert said.status_code == 303
    assert services.consents.latest_answers(subscriber) == {"marketing": True}
    assert browser.post("/privacy/consent", data=form | {"text_sha256": "0" * 64}).status_code == 422
    # Before one signs in the texts are there, too.
    terms = browser.get("/terms")
    assert state.text.text in terms.text


def test_another_sites_page_can_not_erase(browser, services, subscriber):
    refused = browser.post(
        "/privacy/erase", data={"confirm": "3210"}, headers={"sec-fetch-site": "cross-site"}
    )
    assert refused.status_code == 403
    assert services.subscriptions.find(PHONE).state == "active"


def test_the_page_erases(browser, services, subscriber):
    assert browser.post("/privacy/erase", data={"confirm": "12"}).status_code == 422
    assert browser.post("/privacy/erase", data={"confirm": "0000"}).status_code == 422
    done = browser.post("/privacy/erase", data={"confirm": "3210"})
    assert (done.status_code == 200 and "erased" in done.text.lower()) or "已删除" in done.text
    assert services.subscriptions.find(str(subscriber.subscriber_id)).name is None
    again = browser.get("/privacy")
    assert again.status_code == 401 and NAME not in again.text
    assert NAME not in json.dumps(services.identity.audited()[0], default=str)
