"""Suspensions over HTTP: what the subscriber may say of itself, and what the operator says."""

import re
from datetime import timedelta

import pytest

from tests.support.spend import balances
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import SUSPENSIONS


@pytest.fixture
def subscriber(services):
    made = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(made, "ctc-light")
    return made


def test_a_subscriber_pauses_and_goes_on(client, services, subscriber, signed_in):
    owner = signed_in(subscriber)
    asked = {"cause": "own_wish", "state": "suspended"}
    answer = client.patch("/api/suspensions", json=asked, headers=owner)
    assert (answer.status_code, answer.json()["suspended_by"]) == (200, ["own_wish"])
    (now,) = client.get("/api/suspensions", headers=owner).json()
    assert (now["cause"], now["stops"]) == ("own_wish", ["serving", "renewing", "charging"])
    assert (
        client.patch("/api/suspensions", json=asked | {"state": "active"}, headers=owner).status_code == 200
    )
    again = client.patch("/api/suspensions", json=asked | {"state": "active"}, headers=owner)
    assert (again.status_code, again.json()["title"]) == (409, "NotSuspended")
    assert client.get("/api/suspensions", headers=owner).json() == []
    for cause in ("fraud", "operator", "payment", "x"):
        refused = client.patch("/api/suspensions", json={"cause": cause, "state": "suspended"}, headers=owner)
        assert refused.status_code in {400, 422}
    assert services.subscriptions.find(subscriber.phone).state == "active" and balances(services)


def test_a_lost_phone_ends_the_sessions_and_is_not_lifted_by_whoever_has_it(
    client, services, subscriber, signed_in, staff
):
    owner = signed_in(subscriber)
    lost = {"cause": "lost_phone", "state": "suspended"}
    assert client.patch("/api/suspensions", json=lost, headers=owner).status_code == 200
    assert client.get("/api/suspensions", headers=owner).status_code == 401
    thief = signed_in(subscriber)
    refused = client.patch("/api/suspensions", json=lost | {"state": "active"}, headers=thief)
    assert (refused.status_code, refused.json()["title"]) == (403, "NotAllowed")
    url = f"/api/operations/subscribers/{subscriber.subscriber_id}"
    found = {"action": "resume", "cause": "lost_phone", "reason": "new SIM"}
    assert client.post(f"{url}/actions", json=found, headers=staff["operator"]).status_code == 200
    (past,) = client.get(f"{url}/suspensions", headers=staff["auditor"]).json()
    assert (past["cause"], past["end_reason"], past["stops"]) == ("lost_phone", "new SIM", ["serving"])
    assert balances(services)


def test_a_phone_that_the_operator_is_told_of_opens_nothing(
    client, services, subscriber, signed_in, staff, codes
):
    """Whoever lost it calls: the phone's own sessions end, here and where its number is a member, and its codes open none."""
    host = services.subscriptions.register("+8613955556666", "Host")
    member = services.members.invite(host, subscriber.phone, "Li")
    services.members.accept(subscriber.phone, member.member_id)
    heads = [signed_in(subscriber), signed_in(host, member.member_id)]
    url = f"/api/operations/subscribers/{subscriber.subscriber_id}/actions"
    told = {"action": "suspend", "cause": "lost_phone", "reason": "called the hotline"}
    assert client.post(url, json=told, headers=staff["operator"]).status_code == 200
    assert [client.get("/api/keys", headers=head).status_code for head in heads] == [401, 401]

    def enter():
        client.post("/api/sign-in/code", json={"identifier": subscriber.phone})
        return client.post("/api/sign-in", json={"identifier": subscriber.phone, "code": codes[-1][1]})

    refused = enter()
    assert (refused.status_code, refused.json()["title"]) == (422, "PhoneLost")
    assert "tokenworks_session" not in refused.headers.get("set-cookie", "")
    client.post(url, json=told | {"action": "resume"}, headers=staff["operator"])
    services.clock.move(timedelta(minutes=2))
    assert enter().status_code == 201


def test_an_operator_names_the_cause_and_lifts_each_by_itself(client, services, subscriber, staff):
    url = f"/api/operations/subscribers/{subscriber.subscriber_id}"

    def act(action, cause, **more):
        said = {"action": action, "cause": cause, "reason": "a reason"} | more
        return client.post(f"{url}/actions", json=said, headers=staff["operator"])

    assert act("suspend", "fraud").json()["suspended_by"] == ["fraud"]
    assert act("suspend", "operator").json()["suspended_by"] == ["fraud", "operator"]
    assert act("resume", "operator").json()["suspended_by"] == ["fraud"]
    assert act("resume", "operator").status_code == 409
    assert act("suspend", "payment").status_code in {400, 422}
    assert act("resume", "fraud").json()["suspended_by"] == []


def test_a_second_one_is_confirmed_over_tmf622(client, services, subscriber, signed_in):
    owner = signed_in(subscriber)

    def order(key, **product):
        item = {"id": "1", "action": "add", "productOffering": {"id": "ctc-light"}} | product
        return client.post(
            "/tmf-api/productOrderingManagement/v4/productOrder",
            json={"productOrderItem": [item]},
            headers={**owner, "Idempotency-Key": key},
        )

    refused = order("a")
    assert (refused.status_code, refused.json()["title"]) == (409, "SecondNotConfirmed")
    for key, value in (("b", True), ("c", "true")):
        confirmed = {"productCharacteristic": [{"name": "confirm", "value": value}]}
        assert order(key, product=confirmed).status_code == 201
    bad = {"productCharacteristic": [{"name": "confirm", "value": "maybe"}]}
    assert order("d", product=bad).status_code == 400
    assert len(services.orders.products(subscriber)) == 3


def test_the_order_page_asks_before_a_second_one_and_shows_the_price_that_is_given(
    client, services, subscriber, signed_in
):
    client.cookies.set("tokenworks_session", signed_in(subscriber)["authorization"].removeprefix("Bearer "))
    page = client.post("/order", data={"offering": "ctc-light", "key": "k1"})
    assert 'name="second"' in page.text and len(services.orders.products(subscriber)) == 1
    done = client.post("/order", data={"offering": "ctc-light", "key": "k2", "second": "yes"})
    assert done.status_code == 200 and len(services.orders.products(subscriber)) == 2
    assert "7.9" in client.get("/order?offering=mobile-coding-lite").text
    order = services.orders.place(subscriber, "mobile-coding-lite")
    services.orders.cancel(order.product_id)
    assert "7.9" not in client.get("/order?offering=mobile-coding-lite").text


def test_a_change_to_what_is_had_beside_it_asks_first(client, services, subscriber, signed_in):
    client.cookies.set("tokenworks_session", signed_in(subscriber)["authorization"].removeprefix("Bearer "))
    services.orders.place(subscriber, "ctc-standard")
    light = services.orders.products(subscriber)[0]
    assert light.offering_id == "ctc-light"
    url = f"/products/{light.product_id}/change"
    assert client.get(url, params={"offering": "ctc-premium"}).text.count('name="second"') == 0
    assert client.get(url, params={"offering": "ctc-standard"}).text.count('name="second"') == 2
    form = {"offering": "ctc-standard", "when": "now", "key": "k1"}
    refused = client.post(url, data=form)
    assert refused.status_code == 422 and "请勾选确认" in refused.text
    assert services.orders.product(light.product_id)[0].offering_id == "ctc-light"
    done = client.post(url, data={**form, "second": "yes"}, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "/products?done=change")
    assert services.orders.product(light.product_id)[0].offering_id == "ctc-standard"


def test_the_products_page_says_each_cause_of_a_suspension(client, services, subscriber, signed_in):
    def enter():
        text = signed_in(subscriber)["authorization"].removeprefix("Bearer ")
        client.cookies.set("tokenworks_session", text)

    enter()

    def notices():
        return re.findall(r'<p class="error">([^<]*)</p>', client.get("/products").text)

    services.subscriptions.set_dunned(subscriber, restricted=True, suspended=False)
    assert notices() == [WORDS["zh"]["notice_restricted"]]
    services.subscriptions.set_dunned(subscriber, restricted=True, suspended=True)
    for cause in SUSPENSIONS:
        if cause != "payment":
            services.subscriptions.suspend(subscriber, cause, "a test")
    enter()  # fraud, and a lost phone, have ended the session
    assert notices() == [WORDS["zh"][f"suspended_{cause}"] for cause in SUSPENSIONS]
    services.subscriptions.set_dunned(subscriber, restricted=False, suspended=False)
    assert WORDS["zh"]["suspended_payment"] not in notices() and len(notices()) == len(SUSPENSIONS) - 1


def test_an_identity_is_set_by_the_operator_and_never_shown(client, services, subscriber, staff):
    url = f"/api/operations/subscribers/{subscriber.subscriber_id}/identity"
    number = "11010519491231002X"
    assert client.put(url, json={"number": number}, headers=staff["operator"]).status_code == 204
    other = client.put(url, json={"number": "440524188001010014"}, headers=staff["operator"])
    assert (other.status_code, other.json()["title"]) == (409, "IdentityKnown")
    for bad in ("110105194912310021", "x" * 64, "1\x002345"):
        refused = client.put(url, json={"number": bad}, headers=staff["operator"])
        assert refused.status_code in {400, 422} and bad not in refused.text
    trail, _ = services.identity.audited()
    assert trail[0]["action"] == "subscriber.identify" and number not in str(trail)
