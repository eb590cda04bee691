"""Whatever comes in, by our own OpenAPI document and beyond it: never an error of ours, always problem details."""

import os
from random import Random
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.auditor import verify
from tests.web.hostile import TEXTS, VALUES, spoiled
from tests.web.test_roles import BASES, Household, routes
from tokenworks.app.http_app import ROUTERS, openapi_document

EXAMPLES = 12
# A route. Fewer with FUZZ_EXAMPLES, for a machine that has less than a night.
EXAMPLES_NIGHTLY = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
_schema = schemathesis.openapi.from_dict(openapi_document())
_operations = [result.ok() for result in _schema.get_all_operations()]


@pytest.fixture
def family(services, spender, signed_in, clock):
    made = Household(services, spender, signed_in, 1)
    services.orders.run_cycles()
    services.connection.execute("UPDATE subscriber SET bill_day = 1")
    clock.move(_until(clock, 2027, 5, 1))
    services.orders.run_cycles()
    services.bills.run()
    made.bill_up(services)
    return made


def _until(clock, *at):
    from datetime import datetime

    from tokenworks.subscriptions import BILLING_ZONE

    return datetime(*at, 1, tzinfo=BILLING_ZONE) - clock.now()


def _settings(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


_MORE = {
    "POST /api/sign-in/code": {"identifier": "+8613800000001"},
    "POST /api/sign-in": {"identifier": "+8613800000001", "code": "123456"},
}


def _optional(document, path, method):
    """The names of a body's attributes, by its schema."""
    schema = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return sorted(schema.get("properties", ()))


OF_MAILS = {
    f"{method} /api/notices/{link}" for method in ("GET", "POST") for link in ("email/confirm", "unsubscribe")
}


class _Hits:
    """Sends requests and looks at what is answered."""

    def __init__(self, client, services, family, staff):
        self.client, self.services, self.family, self.staff = client, services, family, staff
        self.seen = set()

    def send(self, label, **sent):
        answer = self.client.request(**sent)
        assert answer.status_code < 500, (label, sent, answer.text)
        if answer.status_code >= 400:
            kind = answer.headers["content-type"]
            # A person opens the links of mails in a browser; a body that is none is refused as on every route.
            allowed = (
                {"application/problem+json", "text/html; charset=utf-8"}
                if label in OF_MAILS
                else {"application/problem+json"}
            )
            assert kind in allowed, (label, sent, answer.text)
        self.seen.add(answer.status_code)

    def by_schema(self, operation, examples):
        """Whatever the OpenAPI document allows, and what it does not."""
        people = [{}, self.family.headers["owner"], *self.staff.values()]

        @_settings(examples)
        @given(case=operation.as_strategy(), person=st.sampled_from(people))
        def hit(case, person):
            sent = case.as_transport_kwargs(base_url="http://testserver")
            headers = {**dict(sent.get("headers") or {}), **person}
            sent["headers"] = {k: v for k, v in headers.items() if v.isascii() and v.isprintable()}
            sent.pop("cookies", None)
            self.send(operation.label, **sent)

        hit()

    def spoiled(self, name, method, path, roles, examples):
        """Requests that this route would take, each with one thing that it should not."""
        parameters = openapi_document()["paths"][path][method.lower()].get("parameters", [])
        names = [p["name"] for p in parameters if p["in"] == "query"] or ["x"]
        body = {**self.family.bodies(), **_MORE}.get(name)
        more = _optional(openapi_document(), path, method) if isinstance(body, dict) else []
        who = {**self.staff, **self.family.headers}
        people = [who[role] for role in sorted(roles)] or [{}]
        parts = path.split("/")
        of = parts[parts.index("{id}") - 1] if "{id}" in parts else ""
        right = str(self.family.ids().get(of, "x"))
        random = Random(f"{name} {examples}")
        for number in range(examples):
            sent, query, part, headers = spoiled(random, body, names, more)
            value = right if part is None else quote(part.encode("utf-8", "surrogatepass"), safe="") or "x"
            url = path.replace("{id}", value).replace("{sequence}", value if part is not None else "1")
            wanted = self.family.query(path) if method in {"GET", "PATCH", "DELETE"} else {}
            asked = urlencode({**wanted, **query}, errors="surrogatepass")
            person = people[number % len(people)]
            self.send(
                name,
                method=method,
                url=f"http://testserver{url}?{asked}",
                content=sent,
                headers={"content-type": "application/json", "Idempotency-Key": f"k{number}", **person, **headers},
            )  # fmt: skip

    def balance(self):
        assert {200, 400, 401, 403, 404} <= self.seen
        assert verify(self.services.connection, self.services.offerings.rate_cards()) == []


@pytest.fixture
def hits(client, services, family, staff):
    return _Hits(client, services, family, staff)


def _sample(found):
    """All that move something, and every third that reads: the others are in the nightly run."""
    found = list(found)
    reads = [one for one in found if _label(one).startswith("GET ")]
    return [one for one in found if one not in reads or reads.index(one) % 3 == 0]


def _label(one):
    return one[0] if isinstance(one, tuple) else one.label


@pytest.mark.fuzz
def test_no_request_makes_us_fail(hits):
    for operation in _sample(_operations)[::3]:
        hits.by_schema(operation, EXAMPLES)
    hits.balance()


# What ends the household, or the sessions of who asks, comes last.
_LAST = ("actions", "sign-out", "DELETE", "sign-in")
_ROUTES = sorted(routes(), key=lambda route: (any(word in route[0] for word in _LAST), route[0]))


@pytest.mark.fuzz
def test_no_spoiled_request_makes_us_fail(hits):
    for route in _sample(_ROUTES)[::4]:
        hits.spoiled(*route, EXAMPLES)
    assert verify(hits.services.connection, hits.services.offerings.rate_cards()) == []
    assert {200, 400, 404} <= hits.seen


@pytest.mark.nightly
@pytest.mark.parametrize("label", sorted(operation.label for operation in _operations))
def test_no_request_makes_us_fail_at_length(hits, label):
    (operation,) = [operation for operation in _operations if operation.label == label]
    hits.by_schema(operation, EXAMPLES_NIGHTLY)
    assert verify(hits.services.connection, hits.services.offerings.rate_cards()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("route", _ROUTES, ids=[route[0] for route in _ROUTES])
def test_no_spoiled_request_makes_us_fail_at_length(hits, route):
    hits.spoiled(*route, EXAMPLES_NIGHTLY)
    assert verify(hits.services.connection, hits.services.offerings.rate_cards()) == []


# Pages: their forms and queries, which the document does not have.


# Streams of events: they go on for minutes (tests/pages/test_events.py).
STREAMS = {"/style/events"}


def _forms():
    """(method, path, names of its fields and of its query) of every route that is no part of the document, but for streams."""
    for route in (route for router in ROUTERS for route in router.routes):
        if not route.include_in_schema and route.path not in STREAMS:
            names = [p.alias for p in (*route.dependant.body_params, *route.dependant.query_params)]
            for method in sorted(route.methods - {"HEAD"}):
                yield method, route.path, names


def _page_hits(client, services, family, method, path, names, examples):
    """Forms and queries with what they should not have, by an owner and by a member in turns; right ids now and then."""
    random = Random(f"forms {method} {path}")
    product = str(services.orders.products(family.subscriber)[0].product_id)
    for number in range(examples):
        role = ("owner", "member", "admin")[number % 3]
        session = family.headers[role]["authorization"].removeprefix("Bearer ")
        chosen = random.sample(names, k=min(len(names), random.randint(1, 3))) or ["x"]
        asked = urlencode({name: str(random.choice(VALUES)) for name in chosen}, errors="surrogatepass")
        part = quote(str(random.choice(TEXTS)).encode("utf-8", "surrogatepass"), safe="") or "x"
        parts = {"{id}": random.choice([product, part]), "{what}": random.choice(["change", "cancel", part])}
        url = "/".join(
            parts.get(piece, part) if piece.startswith("{") else piece for piece in path.split("/")
        )
        more = {"url": f"http://testserver{url}?{asked}"} if method == "GET" else {"url": f"http://testserver{url}", "content": asked}  # fmt: skip
        answer = client.request(
            method,
            **more,
            follow_redirects=False,
            headers={
                "cookie": f"tokenworks_session={session}",
                "content-type": "application/x-www-form-urlencoded",
                "sec-fetch-site": "same-origin",
                "accept": "text/html",
            },
        )
        assert answer.status_code < 500, (method, more, answer.text)
        client.cookies.clear()
    assert verify(services.connection, services.offerings.rate_cards()) == []


_PAGES = sorted(_forms(), key=lambda page: (any(word in page[1] for word in ("sign", "erase", "end")), page))


@pytest.mark.fuzz
def test_no_form_makes_us_fail(client, services, family):
    assert len(_PAGES) > 30
    for method, path, names in _PAGES:
        _page_hits(client, services, family, method, path, names, EXAMPLES // 2)


@pytest.mark.nightly
@pytest.mark.parametrize("page", _PAGES, ids=[f"{method} {path}" for method, path, _ in _PAGES])
def test_no_form_makes_us_fail_at_length(client, services, family, page):
    _page_hits(client, services, family, *page, EXAMPLES_NIGHTLY)


# What needs more than one request.


def _contract(client, staff, family, **more):
    body = {"offering": "shanghai-mobile-payg", "price": "1", "contract": "C"} | more
    url = f"/api/operations/subscribers/{family.subscriber.subscriber_id}/contract-prices"
    return client.post(url, json=body, headers=staff["operator"])


@pytest.mark.parametrize("price", ["0", "0.0", "0.000000000"])
def test_a_step_costs_more_than_zero(client, services, family, staff, price):
    refused = _contract(client, staff, family, price=price)
    assert (refused.status_code, "more than zero" in refused.json()["detail"]) == (400, True)
    # What was agreed before that rule: nothing can be bought, and nothing fails.
    services.connection.execute(
        """INSERT INTO contract_price (subscriber_id, offering_id, price_nano, contract, valid_from)
           SELECT subscriber_id, 'shanghai-mobile-payg', 0, 'old', '2020-01-01' FROM subscriber"""
    )
    base = BASES["balance"]
    answer = client.post(
        f"{base}/topupBalance",
        json=family.bodies()[f"POST {base}/topupBalance"],
        headers={**family.headers["owner"], "Idempotency-Key": "zero"},
    )
    assert (answer.status_code, answer.json()["title"]) == (409, "TopUpNotAllowed")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])  # fmt: skip
def test_instants_at_the_ends_of_time(client, services, family, staff, at):
    for field in ("valid_from", "valid_until"):
        assert _contract(client, staff, family, **{field: at}).status_code in {201, 400, 409}, field
    url = f"/api/operations/subscribers/{family.subscriber.subscriber_id}/contract-prices"
    assert client.get(url, headers=staff["operator"]).status_code == 200
    head = family.headers["owner"]
    assert client.get(f"{BASES['usage']}/usage", params={"usageDate.gte": at}, headers=head).status_code in {200, 400}  # fmt: skip


def test_many_of_the_largest(client, services, family, staff):
    """10^15 thousandths, again and again: refused when the bucket would hold more than can be counted."""
    base = BASES["balance"]
    body = family.bodies()[f"POST {base}/adjustBalance"] | {"amount": {"amount": 10**12, "units": "token"}}
    services.connection.execute("UPDATE bucket SET total = total + 9000000000000000000, remaining = remaining + 9000000000000000000 WHERE bucket_id = %s", (family.bucket,))  # fmt: skip
    states = []
    for number in range(225):
        asked = services.adjustments.ask(family.bucket, 10**15, "test", "first", f"k{number}")
        if number >= 222 or not number:
            answer = client.patch(f"{base}/adjustBalance/{asked.adjustment_id}", json={"status": "completed"}, headers=staff["operator"])  # fmt: skip
            states.append(answer.status_code)
        else:
            services.adjustments.decide(asked.adjustment_id, "second", do=True)
    assert states[0] == 200 and states[-1] == 409 and 500 not in states
    refused = client.post(f"{base}/adjustBalance", json=body | {"amount": {"amount": 10**12 + 1, "units": "token"}}, headers={**staff["operator"], "Idempotency-Key": "x"})  # fmt: skip
    assert refused.status_code == 400
