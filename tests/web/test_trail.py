"""The audit trail has what subscribers do, with their addresses; two persons over HTTP; staff rotate their own tokens."""

import json
from datetime import datetime

import pytest

from tokenworks.subscriptions import BILLING_ZONE

PHONE = "+8613800000001"
BILL = "/tmf-api/customerBillManagement/v4"
PAY = "/tmf-api/paymentManagement/v4"
YUAN = 10**9


def test_what_subscribers_do_is_in_the_trail_with_where_from(client, services, codes, staff):
    there = {"x-forwarded-for": "203.0.113.9"}
    challenge = client.post("/api/sign-in/code", json={"identifier": PHONE}, headers=there).json()[
        "challenge"
    ]
    made = client.post(
        "/api/sign-in",
        json={"identifier": PHONE, "code": codes[-1][1], "challenge": challenge},
        headers=there,
    ).json()
    client.cookies.clear()
    me = {"authorization": f"Bearer {made['token']}", **there}
    key = client.post("/api/keys", json={"name": "Li's phone"}, headers=me).json()["id"]
    child = client.post("/api/members", json={"phone": "13800000002", "name": "Mei"}, headers=me).json()["id"]
    client.patch(f"/api/members/{child}", json={"cap_tokens": 7}, headers=me)
    client.patch("/api/subscriber", json={"consents": {"marketing": True}, "monthly_cap": "9"}, headers=me)
    client.delete(f"/api/members/{child}", headers=me)
    client.delete(f"/api/keys/{key}", headers=me)
    client.post("/api/sign-out", headers=me)
    trail, _ = services.identity.audited()
    did = [row["action"] for row in reversed(trail)]
    assert did == [
        "sign_in", "key.create", "member.invite", "member.set", "subscriber.set", "member.remove", "key.revoke", "sign_out",
    ]  # fmt: skip
    owner = services.subscriptions.owner_of(services.subscriptions.find(PHONE))
    assert {(row["actor"], row["role"], row["address"]) for row in trail} == {
        (f"member:{owner}", "owner", "203.0.113.9")
    }
    said = json.dumps(trail, default=str)
    assert "13800000002" not in said and PHONE not in said
    shown = client.get("/api/operations/audit", headers=staff["auditor"]).json()
    assert shown[0]["address"] == "203.0.113.9"


def test_staff_acts_have_their_address_too(client, services, staff):
    client.post(
        "/api/operations/subscribers",
        json={"phone": PHONE},
        headers={**staff["operator"], "x-forwarded-for": "198.51.100.3"},
    )
    assert services.identity.audited()[0][0]["address"] == "198.51.100.3"


def test_a_member_of_the_staff_rotates_its_own_token(client, services, staff):
    made = client.post("/api/operations/staff/token", json={"overlap_h": 0}, headers=staff["auditor"])
    assert made.status_code == 201
    assert client.get("/api/operations/audit", headers=staff["auditor"]).status_code == 401
    fresh = {"authorization": f"Bearer {made.json()['token']}"}
    assert client.get("/api/operations/audit", headers=fresh).status_code == 200
    (row,) = [
        one for one in client.get("/api/operations/staff", headers=fresh).json() if one["name"] == "auditor"
    ]
    assert row["token_expires_at"] and row["seen_at"]


@pytest.fixture
def rich(services, clock):
    """A bill of 2 000 yuan."""
    subscriber = services.subscriptions.register(PHONE, "Li")
    services.subscriptions.set_contract_price(subscriber, "ctc-light", "2000", "C-1")
    order = services.orders.place(subscriber, "ctc-light")
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    return subscriber, order, bill


def test_a_credit_above_the_limit_waits_for_a_second_person(client, services, staff, rich):
    _, _, bill = rich
    second = {"authorization": f"Bearer {services.identity.add_staff('Bo', 'finance')}"}
    body = {"line": 1, "amount": {"unit": "CNY", "value": 1500}, "reason": "sorry"}

    def correct(who, key="k"):
        return client.post(
            f"{BILL}/customerBill/{bill.bill_id}/creditNote",
            json=body,
            headers={**who, "Idempotency-Key": key},
        )

    before, _ = services.identity.audited()
    refused = correct(staff["finance"])
    assert (refused.status_code, refused.json()["title"]) == (409, "ApprovalNeeded")
    assert services.bills.credit_notes(bill) == [] and services.identity.audited()[0] == before
    assert correct(staff["finance"]).status_code == 409
    (asked,) = client.get("/api/operations/approvals?state=open", headers=second).json()
    assert asked["id"] in refused.json()["detail"] and float(asked["amount"]) == 1500
    url = f"/api/operations/approvals/{asked['id']}"
    assert client.patch(url, json={"state": "approved"}, headers=staff["finance"]).status_code == 403
    assert client.patch(url, json={"state": "approved"}, headers=staff["operator"]).status_code == 403
    assert client.patch(url, json={"state": "approved"}, headers=second).status_code == 200
    assert correct(staff["finance"]).status_code == 201
    assert len(services.bills.credit_notes(bill)) == 1
    # The note of the credit that is below the limit needs nobody.
    body["amount"]["value"] = 400
    assert correct(staff["finance"], "k2").status_code == 201


def test_a_refund_above_the_limit_waits_and_changes_nothing_before(client, services, staff, rich):
    subscriber, order, _ = rich
    second = {"authorization": f"Bearer {services.identity.add_staff('Bo', 'finance')}"}
    body = {"order": {"id": str(order.order_id)}, "part": "whole", "reason": "sorry"}
    head = {**staff["finance"], "Idempotency-Key": "k"}
    assert client.post(f"{PAY}/refund", json=body, headers=head).status_code == 409
    assert services.refunds.of_order(order.order_id) == []
    assert {p.state for p in services.orders.products(subscriber)} == {"active"}
    (asked,) = client.get("/api/operations/approvals", headers=second).json()
    client.patch(f"/api/operations/approvals/{asked['id']}", json={"state": "approved"}, headers=second)
    for _ in range(2):
        assert client.post(f"{PAY}/refund", json=body, headers=head).status_code == 201
    assert len(services.refunds.of_order(order.order_id)) == 1
