"""All routes × roles × foreign ids: nobody sees or moves what isn't theirs."""

import re
from datetime import datetime

import pytest

from tests.support.auditor import verify
from tests.support.authenticator import Authenticator
from tokenworks.app.http_app import openapi_document
from tokenworks.app.openapi import document
from tokenworks.kernel import uuid7
from tokenworks.subscriptions import BILLING_ZONE, Person
from tokenworks.trust import Approval

ROLES = ("owner", "admin", "member", "operator", "finance", "auditor")
# Routes for an API key, which no session and no staff token opens.
WITH_A_KEY = {"GET /v1/key", "GET /v1/usage"}
PUBLIC = {
    "POST /api/sign-in/code",
    "POST /api/sign-in",
    # By the token of a mail's link.
    *(
        f"{method} /api/notices/{link}"
        for method in ("GET", "POST")
        for link in ("email/confirm", "unsubscribe")
    ),
    "POST /api/sign-in/passkey",
    "POST /api/sign-in/passkey/options",
    *(
        f"GET /tmf-api/productCatalogManagement/v4/{name}{one}"
        for name in ("productOffering", "productOfferingPrice", "productSpecification", "category")
        for one in ("", "/{id}")
    ),
    "GET /tmf-api/usageManagement/v4/usageSpecification",
    "GET /tmf-api/usageManagement/v4/usageSpecification/{id}",
}
PRIVACY = {"/api/consents", "/api/consents/{purpose}", "/api/real-name", "/api/export", "/api/erasure"}
M = 1_000_000
BASES = {
    "order": "/tmf-api/productOrderingManagement/v4",
    "bill": "/tmf-api/customerBillManagement/v4",
    "pay": "/tmf-api/paymentManagement/v4",
    "balance": "/tmf-api/prepayBalanceManagement/v4",
    "usage": "/tmf-api/usageManagement/v4",
    "inventory": "/tmf-api/productInventory/v4",
}


DRAFT = {
    "id": "drafted", "name": "Drafted", "name_zh": "草案", "carrier": "Sample", "kind": "plan", "audiences": ["person"], "price": "5",
    "cycle": "calendar_month", "rate_card": "one-price", "source": "a test",
    "buckets": [{"unit": "token", "quantity": 1000}],
}  # fmt: skip


HUBS = (*(BASES[name] for name in ("order", "inventory", "bill", "pay")), "/tmf-api/serviceOrdering/v4")


class Household:
    """A subscriber with something of everything: products, usage, a bill, a payment, a refund, keys, members."""

    def __init__(self, services, spender, signed_in, number):
        self.phone = f"+861380000{number:04d}"
        self.subscriber = services.subscriptions.register(
            self.phone, f"Family {number}", broadband=f"sh8765000{number}"
        )
        self.order = services.orders.place(self.subscriber, "ctc-light")
        self.payg = services.orders.place(self.subscriber, "shanghai-mobile-payg")
        self.waits = services.orders.place(self.subscriber, "uplink-acceleration")
        self.work = services.orders.work_orders()[-1].work_order_id
        asked = Approval(
            uuid7(), "refund", f"order {number}", "k", 2000 * 10**9, "somebody", services.clock.now()
        )
        services.approvals.ask(asked)
        self.approval = asked.approval_id
        spender.spend(self.subscriber.account_id, M)
        self.listener = services.hub.subscribe("customerBill", "https://crm.example/hook", "", "test")[
            0
        ].listener_id
        services.hub.enqueue_own(self.order.order_id, "test", self.subscriber.subscriber_id, "{}")
        self.bucket = services.ledger.buckets(self.subscriber.account_id)[0].bucket_id
        self.usage = services.ledger.usage(self.subscriber.account_id)[0]["usage_id"]
        admin = services.members.invite(self.subscriber, f"+861370000{number:04d}", "Admin", role="admin")
        member = services.members.invite(self.subscriber, f"+861360000{number:04d}", "Child")
        for person in (admin, member):
            services.members.accept(person.phone, person.member_id)
        self.member = member.member_id
        for person in (admin, member):
            services.members.set_cap(services.members.find(self.subscriber, str(person.member_id)), 10**6)
        self.department = services.members.add(self.subscriber, "Sales", department=True).member_id
        self.guest = services.members.invite(self.subscriber, f"+861350000{number:04d}", "Guest").member_id
        self.key, _ = services.keys.issue(
            account_id=self.subscriber.account_id,
            member_id=services.subscriptions.owner_of(self.subscriber),
            name="own",
        )
        self._sign_in, self._admin = signed_in, admin.member_id
        self.transfer = services.members.transfer(
            self.subscriber, member, admin, 10, "gift", made_by="test", idempotency_key="before"
        )

    def bill_up(self, services):
        """A month later: the bill, a payment, a refund, and sessions of today."""
        self.bucket = next(
            b.bucket_id
            for b in services.ledger.buckets(self.subscriber.account_id)
            if b.kind == "balance" and b.closing is None
        )
        self.headers = {
            "owner": self._sign_in(self.subscriber),
            "admin": self._sign_in(self.subscriber, self._admin),
            "member": self._sign_in(self.subscriber, self.member),
        }
        self.passkey = Authenticator().planted(services, self.subscriber)
        self.session = services.identity.sessions(self.subscriber.subscriber_id)[0].session_id
        for delivery in services.hub.lease(10, own=True):
            services.hub.mark_delivered(delivery, 204)
        self.delivery = services.hub.log()[0][0].delivery_id
        with services.transaction():
            services.notices.fan_out(1000, ())
        self.notice = services.notices.shown(self.subscriber, self.subscriber.subscriber_id)[0][0].notice_id
        self.notice_failed = next(
            one.delivery_id
            for one in services.notices.log(self.subscriber, "skipped")[0]
            if one.cause == "no_port"
        )
        services.notice_choices.set_webhook(
            Person(self.subscriber.subscriber_id, self.subscriber.subscriber_id), "https://hooks.example/own"
        )
        (self.bill,), _ = services.bills.all(self.subscriber)
        self.top_up = services.payg.top_up(self.subscriber, 10**9, f"counter-{self.phone}")
        self.line = f"{self.bill.bill_id}-1"
        self.dispute = services.disputes.ask(self.bill, 1, "What is this?")
        self.payment = services.payments.pay(self.bill, "cash", f"counter-{self.phone}", 10**9)
        surplus = services.payments.pay(self.bill, "cash", f"counter2-{self.phone}", 100 * 10**9)
        self.case = next(c for c in services.payments.cases()[0] if c.payment_id == surplus.payment_id)
        services.payments.reverse(surplus, "booked twice")
        (self.refund,) = services.refunds.refund(self.order.order_id, "amount", "sorry", amount_nano=10**9)

    def ids(self):
        return {
            "productOffering": "ctc-light", "productOrder": self.order.order_id, "product": self.order.product_id, "bucket": self.bucket, "usage": self.usage,
            "accumulatedBalance": f"{self.subscriber.account_id}-token", "customerBill": self.bill.bill_id,
            "appliedCustomerBillingRate": self.line, "keys": self.key, "members": self.member, "memberships": self.guest,
            "subscribers": self.subscriber.subscriber_id, "work-orders": self.work, "topupBalance": self.top_up.top_up_id,
            "transferBalance": self.transfer.transfer_id, "payment": self.payment.payment_id, "refund": self.refund.refund_id,
            "cancelProductOrder": self.waits.order_id, "usageSpecification": "tokens", "payments": self.payment.payment_id,
            "reconciliation-cases": self.case.case_id, "bills": self.bill.bill_id, "sessions": self.session,
            "notices": self.notice, "notice-deliveries": self.notice_failed,
            "passkeys": self.passkey,
            "hub": self.listener, "webhooks": self.listener, "webhook-deliveries": self.delivery, "serviceOrder": self.work,
            "approvals": self.approval,
            "disputes": self.dispute.dispute_id, "balanceActionHistory": f"{self.transfer.transfer_id}-{self.transfer.from_bucket_id}",
        }  # fmt: skip

    def bodies(self):
        """What a request that moves something of this household says."""
        money = {"unit": "CNY", "value": 1}
        return {
            f"POST {BASES['order']}/productOrder": {
                "relatedParty": [{"id": str(self.subscriber.subscriber_id), "role": "customer", "@referredType": "Customer"}],
                # Each role orders it once.
                "productOrderItem": [{
                    "id": "1", "action": "add", "productOffering": {"id": "ctc-standard"},
                    "product": {"productCharacteristic": [{"name": "confirm", "value": True}]},
                }],
            },
            f"POST {BASES['order']}/cancelProductOrder": {"productOrder": {"id": str(self.waits.order_id)}},
            f"POST {BASES['balance']}/topupBalance": {
                "amount": {"amount": 1, "units": "CNY"}, "usageType": "other", "bucket": {"id": str(self.bucket)},
                "partyAccount": {"id": str(self.subscriber.account_id)},
            },
            f"POST {BASES['balance']}/adjustBalance": {
                "amount": {"amount": 5, "units": "token"}, "usageType": "other", "bucket": {"id": str(self.bucket)},
                "reason": "test",
            },
            f"POST {BASES['balance']}/transferBalance": {
                "amount": {"amount": 5, "units": "token"}, "usageType": "other", "reason": "test",
                "bucket": {"id": str(self.member)}, "receiverBucket": {"id": str(self._admin)},
                "receiverBucketUsageType": "other", "channel": {"id": "app"},
                "logicalResource": [{"id": "a"}], "receiverLogicalResource": {"id": "b"},
            },
            f"PATCH {BASES['balance']}/adjustBalance/{{id}}": {"status": "completed"},
            f"POST {BASES['bill']}/customerBill/{{id}}/creditNote": {"line": 1, "amount": money, "reason": "test"},
            f"POST {BASES['pay']}/payment": {
                "account": {"id": str(self.subscriber.account_id)}, "paymentMethod": {"@type": "cash"}, "totalAmount": money,
                "paymentItem": [{"item": {"id": str(self.bill.bill_id)}}],
            },
            f"POST {BASES['pay']}/refund": {
                "order": {"id": str(self.order.order_id)}, "part": "amount", "totalAmount": money, "reason": "test",
            },
            "POST /tmf-api/productCatalogManagement/v4/productOffering": {"name": "Drafted", "catalogueEntry": DRAFT},
            "PATCH /tmf-api/productCatalogManagement/v4/productOffering/{id}": {
                "catalogueEntry": DRAFT | {"id": "ctc-light", "name": "Light, anew"},
            },
            "PATCH /api/subscriber": {"spend_locked": True},
            "PATCH /api/suspensions": {"cause": "own_wish", "state": "active"},
            "PUT /api/operations/subscribers/{id}/identity": {"document": "passport", "number": "E12345678"},
            "POST /api/passkeys": {"name": "another", "credential": {"response": {"clientDataJSON": "e30", "attestationObject": "oA"}}},
            "PATCH /api/passkeys/{id}": {"name": "named"},
            "POST /api/keys": {"name": "another"},
            "PATCH /api/keys/{id}": {"fallback_models": ["m"]},
            "PUT /api/keys/{id}/log": {"on": True},
            "POST /api/notices/read": {"last": str(self.notice)},
            "PUT /api/notices/{id}/read": {"read": True},
            "PUT /api/notices/choices": {"choices": [{"kind": "spend", "channel": "sms", "wanted": False}]},
            "PUT /api/notices/addresses/email": {"email": "family@example.com"},
            "PUT /api/notices/addresses/webhook": {"url": "https://hooks.example/a"},
            "POST /api/notices/addresses/webhook/secret": {"overlap_h": 0},
            "POST /api/operations/incidents": {
                "ref": "INC-1", "text": "Slow.", "text_zh": "变慢。", "subscribers": [str(self.subscriber.subscriber_id)],
            },
            "POST /api/quotes": {"action": "delete", "product": str(self.order.product_id)},
            "POST /api/operations/failed-jobs/{id}/release": {"job": "cycle"},
            "POST /api/members": {"phone": "+8613333333333", "name": "Aunt"},
            "PATCH /api/members/{id}": {"cap_tokens": 500_000, "department": "Sales"},
            "POST /api/departments": {"name": "Research", "cap_tokens": 5},
            "POST /api/operations/subscribers/{id}/contract-prices": {
                "offering": "ctc-light", "price": "7", "contract": "C-1",
            },
            "PATCH /api/memberships/{id}": {"state": "active"},
            "PUT /api/consents/{purpose}": {"given": False},
            "POST /api/real-name": {"name": "Family", "id_number": f"11010519491231{self.phone[-4:]}"},
            # Not confirmed: an erasure would end all that is asked for after it.
            "POST /api/erasure": {"confirm": "9999"},
            "POST /api/operations/subscribers": {"phone": "+8613444444444"},
            "POST /api/operations/subscribers/{id}/actions": {"action": "suspend", "reason": "test"},
            "PATCH /api/operations/work-orders/{id}": {"state": "done"},
            "POST /api/disputes": {"bill": self.bill.bill_no, "line": 1, "text": "And this?"},
            "PATCH /api/operations/disputes/{id}": {"text": "It is your plan."},
            "POST /api/operations/payments/{id}/reversal": {"reason": "chargeback"},
            "PATCH /api/operations/reconciliation-cases/{id}": {"resolution": "stays as credit"},
            "POST /api/operations/bills/{id}/actions": {"action": "direct", "reason": "test"},
            "POST /api/operations/charge-files/{sequence}/lapse": {"reason": "never answered"},
            "PATCH /tmf-api/serviceOrdering/v4/serviceOrder/{id}": {"state": "completed"},
            "PATCH /api/operations/approvals/{id}": {"state": "approved"},
            "POST /api/operations/staff/token": {"overlap_h": 1},
            "POST /api/operations/webhooks/{id}/secret": {"overlap_h": 1},
            **{f"POST {base}/hub": {"callback": "https://crm.example/events"} for base in HUBS},
            "POST /api/operations/charge-files/acknowledgements": "A|tokenworks-phone-1|9",
        }  # fmt: skip

    def query(self, path):
        """What names this household where a route takes it."""
        if path.endswith("/appliedCustomerBillingRate"):
            return {"bill.id": str(self.bill.bill_id)}
        if path.endswith("/refund"):
            return {"order.id": str(self.order.order_id)}
        if path.endswith("/focus"):
            return {"month": "2027-04", "relatedParty.id": str(self.subscriber.subscriber_id)}
        if path.startswith("/tmf-api") and path.rsplit("/", 1)[1] in {
            "productOrder", "product", "bucket", "accumulatedBalance", "usage", "customerBill", "payment", "topupBalance",
            "transferBalance", "balanceActionHistory",
        }:  # fmt: skip
            return {"relatedParty.id": str(self.subscriber.subscriber_id)}
        return (
            {"of": str(self.subscriber.subscriber_id)}
            if path
            in {
                "/api/subscriber",
                "/api/suspensions",
                "/api/keys",
                "/api/keys/{id}",
                "/api/usage-sums",
                "/api/members",
                "/api/disputes",
                *PRIVACY,
            }
            else {}
        )


@pytest.fixture
def town(services, spender, signed_in, clock):
    ours, theirs = (Household(services, spender, signed_in, number) for number in (1, 2))
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    for household in (ours, theirs):
        household.bill_up(services)
    return ours, theirs


def routes():
    for path, operations in openapi_document()["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", method.upper(), path, set(operation.get("x-roles", ()))


def call(client, household, method, path, headers, key):
    parts = path.split("/")
    name = parts[parts.index("{id}") - 1] if "{id}" in parts else ""
    url = (
        path.replace("{id}", str(household.ids().get(name, "x")))
        .replace("{sequence}", "1")
        .replace("{request_id}", uuid7().hex)
    )
    body = household.bodies().get(f"{method} {path}")
    content = body if isinstance(body, str) else None
    url = url.replace("{purpose}", "marketing").replace("{channel}", "webhook")
    query = household.query(path) if method in {"GET", "PATCH", "DELETE"} or path in PRIVACY else {}
    return client.request(
        method, url, params=query, json=None if content else body, content=content,
        headers={**headers, "Idempotency-Key": key},
    )  # fmt: skip


_TABLES = (
    "subscriber", "member", "api_key", "product_order", "product", "charge", "bucket", "bill", "bill_line", "payment", "refund",
    "credit_note", "adjustment", "top_up", "transfer", "contract_price", "work_order", "charge_file", "account", "audit", "dispute",
    "approval", "hub_listener", "hub_delivery", "notification", "notice_delivery", "notice_choice", "notice_address", "passkey",
)  # fmt: skip


def everything(services):
    return {
        table: services.connection.execute(
            f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t"
        ).fetchone()
        for table in _TABLES
    }


def test_every_route_says_who_may_ask():
    public = {name for name, _, _, roles in routes() if not roles}
    assert public == PUBLIC | WITH_A_KEY
    credentials = {
        f"{method.upper()} {path}": operation["x-credential"]
        for path, operations in openapi_document()["paths"].items()
        for method, operation in operations.items()
        if "x-credential" in operation
    }
    assert credentials == dict.fromkeys(WITH_A_KEY, "api-key")
    assert all(roles <= set(ROLES) for *_, roles in routes())


def test_nobody_is_let_in_without_a_role(client, services, town):
    before = everything(services)
    for name, method, path, roles in routes():
        if roles or name in WITH_A_KEY:
            for headers in (
                {},
                {"authorization": "Bearer tws_x"},
                {"authorization": "Bearer twf_x"},
                {"authorization": "Basic x"},
            ):
                assert call(client, town[0], method, path, headers, "k").status_code == 401, name
    assert everything(services) == before


def test_a_role_that_may_not_is_refused_and_moves_nothing(client, services, town, staff):
    ours, _ = town
    before = everything(services)
    seen = 0
    for name, method, path, roles in routes():
        for role in set(ROLES) - roles if roles else ():
            answer = call(client, ours, method, path, {**staff, **ours.headers}[role], "k")
            assert answer.status_code == 403, (name, role, answer.text)
            assert answer.json()["title"] == "NotAllowed"
            seen += 1
    assert seen > 100
    assert everything(services) == before


def test_what_is_somebody_elses_is_not_there(client, services, town):
    """Every route that a member of a subscriber may use, with the other household's ids."""
    ours, theirs = town
    before = everything(services)
    foreign = 0
    theirs_texts = {str(id_) for id_ in theirs.ids().values()} | {
        theirs.phone,
        str(theirs.subscriber.account_id),
    }
    for name, method, path, roles in routes():
        for role in roles & {"owner", "admin", "member"}:
            if method in {"POST"} and path in {
                "/api/keys", "/api/members", "/api/departments", "/api/sign-out",
            }:  # fmt: skip
                continue  # they name nobody
            if path in {
                "/api/sessions",
                "/api/notices",
                "/api/passkeys",
                "/api/passkeys/options",
            } or path.startswith("/api/me/"):
                continue  # one's own
            if path.startswith("/api/notices/") and "{id}" not in path:
                continue  # one's own
            answer = call(client, theirs, method, path, ours.headers[role], f"k-{role}")
            if path == "/api/memberships" and method == "GET":
                assert answer.json() == [] or not theirs_texts & set(
                    re.findall(r"[0-9a-f-]{36}", answer.text)
                )
                continue
            assert answer.status_code == 404, (name, role, answer.status_code, answer.text)
            said = f"{answer.request.url} {answer.request.content!r}"  # what they named themselves is no news
            assert not any(text in answer.text for text in theirs_texts if text not in said), (name, role)
            foreign += 1
    assert foreign > 60
    assert everything(services) == before


def test_who_may_can(client, services, town, staff):
    """Every route for each role that it is for, on what is theirs: no 401, 403, 404 or 5xx; and the books balance after."""
    ours, _ = town
    headers = {**staff, **ours.headers}
    asked = services.adjustments.ask(ours.bucket, 1000, "test", "somebody")
    services.charge_files.make_file()
    refused = []
    # What ends something comes last.
    order = sorted(
        routes(),
        key=lambda route: (
            route[1] == "DELETE" or "sign-out" in route[0] or "actions" in route[0],
            "members" in route[0],
            route[0],
        ),
    )
    for name, method, path, roles in order:
        for role in sorted(roles):
            if "sign-out" in path and role in {"owner", "admin", "member"}:
                continue
            at = path.replace("{id}", str(asked.adjustment_id)) if "adjustBalance/" in path else path
            answer = (
                call(
                    client,
                    ours,
                    method,
                    at if method == "GET" else path,
                    headers[role],
                    f"key-{role}-{name.replace(' ', '-')}",
                )
                if at == path
                else client.request(method, at, json={"status": "completed"}, headers=headers[role])
            )
            if answer.status_code >= 400:
                refused.append((name, role, answer.status_code, answer.json()["title"]))
    # Done once; what was done before, or is another's to do, is told so.
    explained = {
        ("cancelProductOrder", "ChangeNotAllowed"), ("adjustBalance/{id}", "AdjustmentNotFound"), ("memberships/{id}", "MemberNotFound"),
        ("memberships/{id}/session", "NotFound"), ("charge-files/acknowledgements", "ChargeFileNotFound"), ("members", "MemberExists"),
        ("operations/subscribers", "PhoneTaken"), ("work-orders/{id}", "WorkOrderAnswered"), ("topupBalance", "TopUpNotAllowed"),
        ("keys/{id}", "NotFound"), ("keys/{id}/log", "NotFound"), ("keys/{id}/log/{request_id}", "NotFound"),
        ("keys/{id}/log/{request_id}", "ContentNotLogged"), ("usage/{id}", "NotFound"), ("topupBalance", "KeyReused"), ("members/{id}", "MemberNotFound"),
        ("departments", "MemberExists"), ("suspensions", "NotSuspended"), ("disputes/{id}", "DisputeAnswered"),
        ("productOffering/{id}", "DraftNotFound"), ("productOffering", "Conflict"),
        ("cancelProductOrder/{id}", "NotFound"), ("operations/bills/{id}/actions", "CarrierNotAnswered"),
        ("reconciliation-cases/{id}", "CaseClosed"), ("failed-jobs/{id}/release", "FailedJobNotFound"),
        ("failed-jobs/{id}/release", "NotFound"), ("sessions/{id}", "NotFound"),
        ("subscribers/{id}/identity", "IdentityKnown"), ("approvals/{id}", "ApprovalNotFound"), ("hub/{id}", "ListenerNotFound"), ("erasure", "Invalid"),
        ("operations/requests/{id}", "RequestNotFound"), ("notices/{id}/read", "NoticeNotFound"),
        ("addresses/email", "Refused"), ("addresses/webhook/secret", "AddressNotFound"), ("passkeys", "PasskeysOff"),
        ("passkeys/options", "PasskeysOff"), ("passkeys/{id}", "PasskeyNotFound"),
    }  # fmt: skip
    for name, role, status, title in refused:
        assert any(name.endswith(end) and title == said for end, said in explained), (
            name,
            role,
            status,
            title,
        )
    done = {(name, role) for name, _, _, roles in routes() for role in roles} - {
        (name, role) for name, role, _, _ in refused
    }
    assert len(done) > 150
    assert verify(services.connection, services.offerings.rate_cards()) == []
    trail, count = services.identity.audited()
    assert {row["role"] for row in trail} <= set(ROLES)
    assert all(
        row["actor"].startswith("member:") for row in trail if row["role"] in {"owner", "admin", "member"}
    )
    assert count >= 10
    assert {"order.add", "refund", "bill.correct", "payment", "subscriber.suspend", "balance.adjust"} <= {
        row["action"] for row in trail
    }


def test_two_persons_adjust_a_balance(client, services, town, staff):
    ours, _ = town
    bucket = next(
        b
        for b in services.ledger.buckets(ours.subscriber.account_id)
        if b.kind == "balance" and b.closing is None
    )
    body = {
        "amount": {"amount": 1000, "units": "token"},
        "usageType": "other",
        "bucket": {"id": str(bucket.bucket_id)},
        "reason": "goodwill",
    }
    base = BASES["balance"]
    asked = client.post(
        f"{base}/adjustBalance", json=body, headers={**staff["operator"], "Idempotency-Key": "a"}
    )
    assert (asked.status_code, asked.json()["status"]) == (201, "created")
    again = client.post(
        f"{base}/adjustBalance", json=body, headers={**staff["operator"], "Idempotency-Key": "a"}
    )
    assert again.json()["id"] == asked.json()["id"]
    other = {**body, "amount": {"amount": 2000, "units": "token"}}
    reused = client.post(
        f"{base}/adjustBalance", json=other, headers={**staff["operator"], "Idempotency-Key": "a"}
    )
    assert reused.status_code == 409
    url = f"{base}/adjustBalance/{asked.json()['id']}"
    assert client.patch(url, json={"status": "completed"}, headers=staff["operator"]).status_code == 409
    assert (
        client.patch(url, json={"status": "completed"}, headers=staff["finance"]).json()["status"]
        == "completed"
    )
    assert client.patch(url, json={"status": "completed"}, headers=staff["finance"]).status_code == 404
    after = next(
        b for b in services.ledger.buckets(ours.subscriber.account_id) if b.bucket_id == bucket.bucket_id
    )
    assert after.left == bucket.left + 1_000_000
    body["amount"]["amount"] = -(10**12)
    too_much = client.post(
        f"{base}/adjustBalance", json=body, headers={**staff["operator"], "Idempotency-Key": "b"}
    ).json()["id"]
    assert (
        client.patch(
            f"{base}/adjustBalance/{too_much}", json={"status": "completed"}, headers=staff["finance"]
        ).status_code
        == 409
    )
    assert verify(services.connection, services.offerings.rate_cards()) == []


def test_the_committed_document_is_what_is_served(client):
    from pathlib import Path

    committed = (Path(__file__).parents[2] / "docs/openapi.json").read_text()
    assert committed == document(), "run: make openapi"
    served = client.get("/openapi.json").json()
    assert served["openapi"].startswith("3.1") and served == openapi_document()


def test_what_moves_money_wants_an_idempotency_key(client, services, town, staff):
    ours, _ = town
    people = {**staff, **ours.headers}
    before = everything(services)
    seen = 0
    for name, body in ours.bodies().items():
        method, path = name.split(" ")
        if method == "POST" and path.endswith(
            ("/productOrder", "Balance", "/payment", "/refund", "creditNote")
        ):
            url = path.replace("{id}", str(ours.bill.bill_id))
            operation = openapi_document()["paths"][path]["post"]
            assert any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", ())), name
            assert client.post(url, json=body).status_code == 401
            for role in operation["x-roles"]:
                refused = client.post(url, json=body, headers=people[role])
                assert refused.status_code == 400 and "Idempotency-Key" in refused.json()["detail"], (
                    name,
                    role,
                )
                seen += 1
    assert seen >= 9
    assert everything(services) == before
