"""Every text that comes in over HTTP has the shared rule and bounds; what is stored is shown harmlessly."""

import csv
import io
import typing
from datetime import timedelta

import pypdfium2
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from tests.kernel.test_text import BAD
from tokenworks.app.http_app import ROUTERS, make_api
from tokenworks.billing import invoice_data, render_pdf
from tokenworks.subscriptions import BILLING_ZONE
from tokenworks.subscriptions.people import people_store
from tokenworks.web.bodies import CheckedBody

HOSTILE = {name: text for name, text in BAD.items() if name != "lone surrogate"}
BASE = "/tmf-api/productOrderingManagement/v4"


def routes():
    """Every route of the application: it includes these routers and adds none of its own."""
    found = [route for router in ROUTERS for route in router.routes]
    assert all(isinstance(route, APIRoute) for route in found)
    paths = {path for route in found if route.include_in_schema for path in [route.path]}
    assert paths == set(make_api(lambda: None, lambda phone, code: None).openapi()["paths"])
    return found


def fields(dependant, *names):
    """Those of a route and of all that it depends on."""
    for name in names:
        yield from getattr(dependant, name)
    for under in dependant.dependencies:
        yield from fields(under, *names)


def unbounded(schema, where=""):
    """Texts of a JSON schema without a length, a pattern, a choice or a format; lists without a length."""
    if schema.get("type") == "string":
        if not {"maxLength", "pattern", "enum", "const", "format"} & schema.keys():
            yield where
        return
    if schema.get("type") == "array":
        if "maxItems" not in schema and "prefixItems" not in schema:
            yield f"{where}[]"
        yield from unbounded(schema.get("items", {}), f"{where}[]")
    for name, part in {**schema.get("properties", {}), **schema.get("$defs", {})}.items():
        yield from unbounded(part, f"{where}.{name}")
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())):
        yield from unbounded(part, where)


def models_in(annotation):
    """The pydantic models that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for part in typing.get_args(annotation):
        yield from models_in(part)


def test_every_text_of_every_route_has_bounds():
    seen, missing = 0, []
    for route in routes():
        # A part of a path is bounded before any route sees it: `CleanUrl`.
        for field in fields(route.dependant, "query_params", "header_params", "cookie_params", "body_params"):
            seen += 1
            kind = typing.Annotated[field.field_info.annotation, field.field_info]
            missing += [
                f"{route.path} {field.name}{where}" for where in unbounded(TypeAdapter(kind).json_schema())
            ]
    assert seen > 60
    # What a characteristic or an unread attribute of the standard may be is looked into by the rule itself.
    assert missing == []


def test_every_body_is_checked_by_the_shared_rule():
    found = set()
    for route in routes():
        for field in fields(route.dependant, "body_params"):
            found |= set(models_in(field.field_info.annotation))
    assert len(found) > 20
    assert [model for model in found if not issubclass(model, CheckedBody)] == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_is_refused_in_every_place_where_one_comes_in(
    client, services, staff, signed_in, text
):
    subscriber = services.subscriptions.register("+8613800000001", "Ann")
    order = services.orders.place(subscriber, "ctc-light")
    owner = signed_in(subscriber)
    operator, finance = staff["operator"], staff["finance"]
    asked = [
        ("post", "/api/operations/subscribers", operator, {"phone": "+8613800000002", "name": text}),
        ("post", "/api/operations/subscribers", operator, {"phone": f"+86138000{text}02"}),
        ("post", f"/api/operations/subscribers/{subscriber.subscriber_id}/actions", operator,
         {"action": "suspend", "reason": text}),
        ("patch", "/api/subscriber", owner, {"name": text}),
        ("patch", "/api/subscriber", owner, {"regions": ["cn", text]}),
        ("post", "/api/keys", owner, {"name": text}),
        ("post", "/api/keys", owner, {"name": "x", "models": ["m", text]}),
        ("post", "/api/members", owner, {"phone": "+8613800000003", "name": text}),
        ("post", "/api/departments", owner, {"name": text}),
        ("post", "/api/sign-in/code", {}, {"identifier": f"123456{text}"}),
        ("post", "/api/sign-in", {}, {"identifier": "+8613800000001", "code": text}),
        ("post", f"{BASE}/cancelProductOrder", owner,
         {"productOrder": {"id": str(order.order_id)}, "cancellationReason": text}),
        ("post", f"{BASE}/productOrder", owner,
         {"productOrderItem": [{"id": "1", "action": "add", "productOffering": {"id": text}}]}),
        ("post", f"{BASE}/productOrder", owner,
         {"productOrderItem": [{"id": "1", "action": "delete", "product": {"id": str(order.product_id),
          "productCharacteristic": [{"name": "when", "value": {"deep": [text]}}]}}]}),
        ("post", "/tmf-api/paymentManagement/v4/refund", finance,
         {"order": {"id": str(order.order_id)}, "part": "whole", "reason": text}),
    ]  # fmt: skip
    for number, (method, path, headers, body) in enumerate(asked):
        answer = getattr(client, method)(path, json=body, headers=headers | {"Idempotency-Key": f"k{number}"})
        assert answer.status_code == 400, (path, body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert services.subscriptions.find(str(subscriber.subscriber_id)).name == "Ann"
    assert services.keys.of_account(subscriber.account_id, {}) == []
    for method, url, more in (
        ("get", "/tmf-api/productCatalogManagement/v4/productOffering", {"params": {"name": f"x{text}"}}),
        ("get", "/order", {"params": {"offering": f"x{text}"}}),
        ("post", "/sign-in/code", {"data": {"identifier": f"123456{text}"}}),
        ("post", "/order", {"data": {"offering": f"x{text}", "key": "k"}}),
    ):
        assert getattr(client, method)(url, **more).status_code == 400, url


def test_paths_and_queries_have_bounds(client):
    catalog = "/tmf-api/productCatalogManagement/v4/productOffering"
    assert client.get(f"{catalog}/{'x' * 200}").status_code == 404
    for path in (f"{catalog}/{'x' * 201}", f"{catalog}/x%00", f"{catalog}/%e2%80%ae", "/a" * 501):
        assert client.get(path).status_code == 400, path
    assert client.get(catalog + "?name=%ff").status_code == 400
    assert client.get(catalog + "?name=" + "x" * 9000).status_code == 400


@pytest.mark.parametrize("digits", ["٤٩", "４９", "४९"], ids=ascii)
def test_no_other_scripts_digits_where_a_number_or_a_phone_is_meant(
    client, services, staff, signed_in, digits
):
    subscriber = services.subscriptions.register("+8613800000001")
    owner = signed_in(subscriber)
    account = {"id": str(subscriber.account_id)}
    for path, body in (
        ("/api/sign-in/code", {"identifier": f"+8613800{digits}0001"}),
        ("/api/sign-in", {"identifier": "+8613800000001", "code": f"1234{digits}"}),
        ("/api/members", {"phone": f"138000000{digits}", "name": "x"}),
        ("/tmf-api/prepayBalanceManagement/v4/topupBalance",
         {"amount": {"amount": digits, "units": "CNY"}, "usageType": "other", "partyAccount": account}),
        ("/api/keys", {"name": "x", "expires_in_days": digits}),
    ):  # fmt: skip
        answer = client.post(path, json=body, headers=owner | {"Idempotency-Key": "k"})
        assert answer.status_code == 400, (path, answer.text)
    fullwidth = str(subscriber.subscriber_id).translate({ord(str(n)): chr(0xFF10 + n) for n in range(10)})
    answer = client.get(f"/api/operations/subscribers/{fullwidth}/contract-prices", headers=staff["operator"])
    assert answer.status_code in {400, 404}


def stored(services, name):
    """A subscriber whose name was kept before there was a rule."""
    made = services.subscriptions.register("+8613800000001", "x")
    assert people_store.set_texts(services.vault, made.subscriber_id, name=name)
    return services.subscriptions.find(str(made.subscriber_id))


MARKUP = '#panic("x") *bold* $x$ @ref <label> \\ [link](http://e) <script>alert(1)</script> {{7*7}}'


def test_a_bill_shows_markup_as_text_and_hides_nothing(services, spender, clock):
    subscriber = stored(services, f"{MARKUP}\u202e")
    services.orders.place(subscriber, "ctc-light")
    spender.spend(subscriber.account_id, 1_000_000)
    clock.move(timedelta(days=40))
    services.orders.run_cycles()
    services.bills.run()
    (bill, *_), _ = services.bills.all(subscriber, 0, 1)
    data = invoice_data(bill, services.bills.lines(bill), [], subscriber, {}, "op\u202eerator", "en")
    assert data["subscriber"].startswith(MARKUP + "\\u202e") and data["operator"] == "op\\u202eerator"
    document = pypdfium2.PdfDocument(render_pdf(data))
    text = " ".join("".join(page.get_textpage().get_text_range() for page in document).split())
    assert "#panic" in text and "*bold*" in text and "<script>" in text and "\u202e" not in text


def test_a_csv_has_no_formula_in_it(services, clock):
    subscriber = stored(services, '=HYPERLINK("http://example.com","pay")')
    services.orders.place(subscriber, "ctc-light")
    now = clock.now().astimezone(BILLING_ZONE)
    rows = list(csv.DictReader(io.StringIO(services.focus.csv(subscriber, f"{now:%Y-%m}"))))
    assert rows and all(row["BillingAccountName"].startswith("'=") for row in rows)
    for row in rows:
        for name, cell in row.items():
            assert cell[:1] not in set("=+@\t\r") and (cell[:1] != "-" or name.endswith("Cost")), (name, cell)


def test_a_page_escapes_markup_and_spells_out_what_turns_text(client, services, signed_in):
    subscriber = stored(services, "x")
    services.orders.place(subscriber, "ctc-light")
    services.connection.execute(
        "UPDATE charge SET description = %s, description_zh = %s",
        ("<script>alert(1)</script>\u202e", "\u2066甲"),
    )
    session = signed_in(subscriber)["authorization"].removeprefix("Bearer ")
    client.cookies.set("tokenworks_session", session)
    client.cookies.set("tokenworks_language", "en")
    page = client.get("/bill").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "\\u202e" in page
    assert "<script>" not in page and "\u202e" not in page


def test_keys_over_http_come_a_page_at_a_time(client, services, signed_in):
    subscriber = services.subscriptions.register("+8613800000001")
    owner_id = services.subscriptions.owner_of(subscriber)
    for number in range(105):
        services.keys.issue(account_id=subscriber.account_id, member_id=owner_id, name=f"k{number}")
    owner = signed_in(subscriber)
    first = client.get("/api/keys", headers=owner)
    rest = client.get("/api/keys?offset=100", headers=owner)
    assert first.status_code == 206 and first.headers["x-total-count"] == "105"
    assert [key["name"] for key in first.json() + rest.json()] == [f"k{n}" for n in range(105)]
