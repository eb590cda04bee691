"""Every TM Forum resource that is served, against the official files where they are present."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import schemathesis

from tests.support.auditor import verify
from tests.web.test_roles import BASES, Household
from tokenworks.subscriptions import BILLING_ZONE

OFFICIAL = Path(__file__).parents[4] / "shared/conformance/tmforum"
CATALOG = "/tmf-api/productCatalogManagement/v4"
FILES = {"TMF620": CATALOG, "TMF622": BASES["order"], "TMF635": BASES["usage"], "TMF637": BASES["inventory"],
         "TMF654": BASES["balance"], "TMF676": BASES["pay"], "TMF678": BASES["bill"]}  # fmt: skip
# The resources that are served of each, with what has to be asked for beside.
SERVED = {
    "TMF620": ["productOffering", "productOfferingPrice", "productSpecification", "category"],
    "TMF622": ["productOrder"],
    "TMF635": ["usage", "usageSpecification"],
    "TMF637": ["product"],
    "TMF654": [
        "bucket",
        "accumulatedBalance",
        "adjustBalance",
        "topupBalance",
        "transferBalance",
        "balanceActionHistory",
    ],
    "TMF676": ["payment", "refund"],
    "TMF678": ["customerBill", "appliedCustomerBillingRate"],
}


def official(name):
    found = sorted(OFFICIAL.glob(f"{name}-*.json"))
    if not found:
        pytest.skip(f"the official file of {name} is not here: shared/conformance/tmforum")
    return json.loads(found[0].read_text())


def check(name, path, method, answer):
    """The official response schema, by schemathesis; and the mandatory attributes of the resource."""
    raw = official(name)
    schema = schemathesis.openapi.from_dict(raw)
    schema[path][method].validate_response(schemathesis.Response.from_any(answer))
    return raw


@pytest.fixture
def family(services, spender, signed_in, clock):
    made = Household(services, spender, signed_in, 1)
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    made.bill_up(services)
    services.adjustments.ask(
        next(
            b.bucket_id
            for b in services.ledger.buckets(made.subscriber.account_id)
            if b.closing is None and b.kind == "balance"
        ),
        5,
        "x",
        "y",
    )
    return made


@pytest.mark.parametrize(("name", "resource"), [(n, r) for n, rs in SERVED.items() for r in rs])
def test_lists_and_single_resources_are_as_the_standard_says(client, services, family, staff, name, resource):
    base = FILES[name]
    headers = {**family.headers["owner"], **(staff["finance"] if resource == "adjustBalance" else {})}
    answer = client.get(
        f"{base}/{resource}", params={"limit": 100, **family.query(f"{base}/{resource}")}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    rows = answer.json()
    assert rows, "nothing to check"
    assert answer.headers["x-total-count"] == str(len(rows))
    single = resource not in {"usageSpecification", "payment", "refund"}
    if single:
        one = client.get(f"{base}/{resource}/{rows[0]['id']}", headers=headers)
        assert one.status_code == 200
        assert one.json() == rows[0]
        assert one.json()["href"] == f"http://testserver{base}/{resource}/{rows[0]['id']}"
        not_modified = client.get(
            f"{base}/{resource}/{rows[0]['id']}", headers={**headers, "if-none-match": one.headers["etag"]}
        )
        assert (not_modified.status_code, not_modified.content) == (304, b"")
        few = client.get(f"{base}/{resource}/{rows[0]['id']}", params={"fields": "@type"}, headers=headers)
        assert set(few.json()) == {"id", "href", "@type"}
    raw = check(name, f"/{resource}", "GET", answer)
    if single:
        check(name, f"/{resource}/{{id}}", "GET", one)
    definition = raw["definitions"][resource[0].upper() + resource[1:]]
    for row in rows:
        for attribute in [*definition.get("required", ()), "id", "href", "@type"]:
            assert attribute in row, attribute
        assert set(row) <= set(definition["properties"]) | EXTENSIONS.get(resource, set()), set(row) - set(
            definition["properties"]
        )


# What we say beside what the standard has; it allows more.
EXTENSIONS = {"refund": {"order"}}


def test_orders_come_in_as_the_standard_says(client, services, family, staff):
    base = BASES["order"]
    head = family.headers["owner"]

    def order(key, **item):
        body = {
            "productOrderItem": [{"id": "1", **item}],
            "@type": "ProductOrder",
            "description": "from a BSS",
        }
        return client.post(f"{base}/productOrder", json=body, headers={**head, "Idempotency-Key": key})

    made = order("a", action="add", productOffering={"id": "ctc-standard"})
    assert made.status_code == 201
    check("TMF622", "/productOrder", "POST", made)
    again = order("a", action="add", productOffering={"id": "ctc-standard"})
    assert (again.status_code, again.json()) == (201, made.json())
    assert order("a", action="add", productOffering={"id": "ctc-light"}).status_code == 409
    product = made.json()["productOrderItem"][0]["product"]["id"]
    when = {"productCharacteristic": [{"name": "when", "value": "cycle_end"}]}
    later = order(
        "b", action="modify", productOffering={"id": "ctc-premium"}, product={"id": product, **when}
    )
    assert (later.status_code, later.json()["state"]) == (201, "pending")
    taken_back = client.post(
        f"{base}/cancelProductOrder", json={"productOrder": {"id": later.json()["id"]}}, headers=head
    )
    assert taken_back.status_code == 201
    check("TMF622", "/cancelProductOrder", "POST", taken_back)
    assert (
        client.get(f"{base}/productOrder/{later.json()['id']}", headers=head).json()["state"] == "cancelled"
    )
    ended = order("c", action="delete", product={"id": product})
    assert (ended.status_code, ended.json()["state"]) == (201, "completed")
    for key, item, status in [
        ("d", {"action": "add", "productOffering": {"id": "sample-study"}}, 409),
        ("e", {"action": "add", "productOffering": {"id": "nothing"}}, 404),
        ("f", {"action": "add"}, 400),
        ("g", {"action": "modify", "product": {"id": product}, "productOffering": {"id": "ctc-light"}}, 409),
        ("h", {"action": "noChange"}, 400),
        ("i", {"action": "add", "quantity": 2, "productOffering": {"id": "ctc-light"}}, 400),
    ]:
        refused = order(key, **item)
        assert refused.status_code == status, (item, refused.text)
        assert refused.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} == set(refused.json())
    assert (
        client.post(
            f"{base}/productOrder", json={"productOrderItem": []}, headers={**head, "Idempotency-Key": "z"}
        ).status_code
        == 400
    )
    assert client.post(f"{base}/productOrder", json={}, headers=head).status_code == 400
    assert verify(services.connection, services.offerings.rate_cards()) == []


def test_top_ups_and_payments_come_in_as_the_standard_says(client, services, family, staff):
    bodies = family.bodies()
    base = BASES["balance"]
    head = {**family.headers["owner"], "Idempotency-Key": "t"}
    made = client.post(f"{base}/topupBalance", json=bodies[f"POST {base}/topupBalance"], headers=head)
    assert made.status_code == 201
    check("TMF654", "/topupBalance", "POST", made)
    again = client.post(f"{base}/topupBalance", json=bodies[f"POST {base}/topupBalance"], headers=head)
    assert again.json()["id"] == made.json()["id"]
    for amount in (0, -1, 1.5, 10**6):
        body = {**bodies[f"POST {base}/topupBalance"], "amount": {"amount": amount, "units": "CNY"}}
        assert client.post(
            f"{base}/topupBalance", json=body, headers={**head, "Idempotency-Key": str(amount)}
        ).status_code in {400, 409}
    pay = BASES["pay"]
    paid = client.post(
        f"{pay}/payment",
        json=bodies[f"POST {pay}/payment"],
        headers={**staff["finance"], "Idempotency-Key": "p"},
    )
    assert paid.status_code == 201, paid.text
    check("TMF676", "/payment", "POST", paid)
    assert verify(services.connection, services.offerings.rate_cards()) == []


def test_members_give_each_other_as_the_standard_says(client, services, family, staff):
    base = BASES["balance"]
    body = family.bodies()[f"POST {base}/transferBalance"]
    give = lambda who, key, **more: client.post(
        f"{base}/transferBalance", json=body | more, headers={**who, "Idempotency-Key": key}
    )
    made = give(family.headers["member"], "a")
    assert made.status_code == 201
    again = give(family.headers["member"], "a")
    assert (again.status_code, again.json()["id"]) == (201, made.json()["id"])
    # By the buckets of the caps, too; but nobody gives what is another's.
    by_bucket = {
        "bucket": {"id": made.json()["receiverBucket"]["id"]},
        "receiverBucket": made.json()["bucket"],
    }
    assert give(family.headers["member"], "b", **by_bucket).status_code == 404
    assert give(family.headers["owner"], "b", **by_bucket).status_code == 201
    cap = client.get(f"{base}/bucket/{made.json()['bucket']['id']}", headers=family.headers["owner"]).json()
    assert cap["logicalResource"][0]["id"] == str(family.member)
    for at, (more, status) in enumerate(
        [
            ({"amount": {"amount": 10**9, "units": "token"}}, 409),
            ({"amount": {"amount": 1.5, "units": "token"}}, 400),
            ({"amount": {"amount": -1, "units": "token"}}, 400),
            ({"amount": {"amount": 1, "units": "call"}}, 400),
            ({"bucket": {"id": str(family.bucket)}}, 400),
            ({"receiverBucket": {"id": str(family.guest)}}, 404),
            ({"receiverBucket": {"id": "nothing"}}, 404),
            ({"reason": ""}, 400),
        ]
    ):
        assert give(family.headers["owner"], f"c{at}", **more).status_code == status, more
    seen = client.get(f"{base}/transferBalance", headers=family.headers["member"]).json()
    assert len(seen) == 3
    history = client.get(f"{base}/balanceActionHistory?limit=100", headers=family.headers["owner"]).json()
    assert sum(row["description"] == "transfer" for row in history) == 6
    assert verify(services.connection, services.offerings.rate_cards()) == []


def test_an_enterprise_has_departments_and_contract_prices(client, services, family, staff):
    owner = family.headers["owner"]
    sales = client.post(
        "/api/departments", json={"name": "West", "under": "Sales", "cap_tokens": 100}, headers=owner
    )
    assert sales.status_code == 201 and sales.json()["department"] == str(family.department)
    deeper = client.post("/api/departments", json={"name": "Further", "under": "West"}, headers=owner)
    assert (deeper.status_code, "two levels" in deeper.json()["detail"]) == (400, True)
    put = client.patch(f"/api/members/{family.member}", json={"department": "West"}, headers=owner).json()
    assert put["department"] == sales.json()["id"] and put["cap_tokens"] == 10**6, "what is left out stays"
    daily = client.patch(f"/api/members/{family.member}", json={"cap_period": "day"}, headers=owner).json()
    assert (daily["cap_tokens"], daily["cap_period"]) == (10**6, "day")
    more = client.patch(f"/api/members/{family.member}", json={"cap_tokens": 2 * 10**6}, headers=owner).json()
    assert (more["cap_tokens"], more["cap_period"]) == (2 * 10**6, "day")
    out = client.patch(
        f"/api/members/{family.member}", json={"department": None, "cap_tokens": None}, headers=owner
    ).json()
    assert "department" not in out and "cap_tokens" not in out
    url = f"/api/operations/subscribers/{family.subscriber.subscriber_id}/contract-prices"
    body = {"offering": "ctc-premium", "price": "33.3", "contract": "C-7"}
    assert client.post(url, json=body, headers=staff["operator"]).status_code == 201
    assert client.post(url, json=body | {"price": "-1"}, headers=staff["operator"]).status_code == 400
    assert client.post(url, json=body | {"offering": "nothing"}, headers=staff["operator"]).status_code == 404
    (price,) = client.get(url, headers=staff["finance"]).json()
    assert (price["offering"], price["price"], price["contract"]) == ("ctc-premium", 33.3, "C-7")
    made = services.orders.place(family.subscriber, "ctc-premium")
    (charge,) = services.charges.of_product(made.product_id)
    assert charge.price_nano == 33_300_000_000
    assert made.amount_nano == 33_300_000_000 * (31 * 24 - 1) // (31 * 24)  # an hour of May has passed
    (trail,) = services.identity.audited(str(family.subscriber.subscriber_id))[0]
    assert trail["action"] == "subscriber.contract" and trail["before"] == []


def test_lists_have_pages_fields_and_filters(client, family):
    base = f"{CATALOG}/productOffering"
    whole = client.get(base, params={"limit": 100}).json()
    first = client.get(base, params={"limit": 5, "fields": "name"})
    assert (first.status_code, first.headers["x-total-count"], first.headers["x-result-count"]) == (
        206,
        str(len(whole)),
        "5",
    )
    assert first.json() == [{k: row[k] for k in ("id", "href", "name")} for row in whole[:5]]
    assert client.get(base, params={"limit": 5, "offset": 5}).json() == whole[5:10]
    study = client.get(base, params={"lifecycleStatus": "In study", "limit": 100}).json()
    assert study and {row["lifecycleStatus"] for row in study} == {"In study"}
    for params in ({"limit": 0}, {"limit": 1000}, {"offset": -1}, {"colour": "red"}):
        assert client.get(base, params=params).status_code == 400, params
    assert client.get(f"{base}/nothing").status_code == 404


def test_money_is_exact_in_json(client, family):
    prices = client.get(f"{CATALOG}/productOfferingPrice", params={"limit": 100}).text
    assert '"value":49.9}' in prices and '"value":9.9}' in prices
    bill = client.get(f"{BASES['bill']}/customerBill", headers=family.headers["owner"]).text
    assert '"taxIncludedAmount":{"unit":"CNY","value":9.9}' in bill


def test_focus_has_a_row_for_each_charge(client, services, family):
    import csv
    import io

    answer = client.get(
        f"{BASES['usage']}/focus", params={"month": "2027-04"}, headers=family.headers["owner"]
    )
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    charges = [
        c
        for c in services.charges.of_subscriber(family.subscriber.subscriber_id)
        if c.charged_at.astimezone(BILLING_ZONE).month == 4 and c.amount_nano > 0
    ]
    assert len(rows) == len(charges) >= 1
    assert {row["BillingCurrency"] for row in rows} == {"CNY"}
    assert rows[0]["BilledCost"] == "9.9"
    assert (
        client.get(
            f"{BASES['usage']}/focus", params={"month": "2027-13"}, headers=family.headers["owner"]
        ).status_code
        == 400
    )


def test_a_bill_comes_as_a_pdf(client, family):
    answer = client.get(
        f"{BASES['bill']}/customerBill/{family.bill.bill_id}/document", headers=family.headers["owner"]
    )
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF-")


def test_what_has_changed_since_it_was_read_is_not_overwritten(client, family):
    head = family.headers["owner"]
    first = client.get("/api/subscriber", headers=head)
    tag = {"if-match": first.headers["etag"]}
    assert (
        client.patch("/api/subscriber", json={"monthly_cap": "60"}, headers={**head, **tag}).status_code
        == 200
    )
    agreed = client.patch("/api/subscriber", json={"consents": {"marketing": True}}, headers=head)
    assert agreed.json()["consents"] == {"marketing": True}
    assert (
        client.patch("/api/subscriber", json={"consents": {"other": True}}, headers=head).status_code == 400
    )
    late = client.patch("/api/subscriber", json={"monthly_cap": "70"}, headers={**head, **tag})
    assert (late.status_code, late.json()["title"]) == (412, "Changed")
    assert client.get("/api/subscriber", headers=head).json()["monthly_cap"] == 60


@pytest.mark.parametrize(
    ("name", "create", "route"),
    [
        ("TMF622", "ProductOrder_Create", f"POST {BASES['order']}/productOrder"),
        ("TMF622", "CancelProductOrder_Create", f"POST {BASES['order']}/cancelProductOrder"),
        ("TMF654", "TopupBalance_Create", f"POST {BASES['balance']}/topupBalance"),
        ("TMF654", "AdjustBalance_Create", f"POST {BASES['balance']}/adjustBalance"),
        ("TMF654", "TransferBalance_Create", f"POST {BASES['balance']}/transferBalance"),
        ("TMF676", "Payment_Create", f"POST {BASES['pay']}/payment"),
    ],
)
def test_requests_as_the_standard_has_them_are_understood(client, family, staff, name, create, route):
    """A request that the official schema accepts, with attributes that are of no use here, is taken."""
    import jsonschema_rs

    raw = official(name)
    method, path = route.split(" ")
    body = family.bodies()[route] | {"description": "from elsewhere", "@type": create.removesuffix("_Create")}
    schema = {"definitions": raw["definitions"], **raw["definitions"][create]}
    jsonschema_rs.validate(schema, body)
    who = staff["finance"] if name == "TMF676" or "adjust" in path else family.headers["owner"]
    taken = client.request(method, path, json=body, headers={**who, "Idempotency-Key": "as-the-standard"})
    assert taken.status_code == 201, taken.text
    check(name, path.removeprefix(FILES[name]), "POST", taken)
