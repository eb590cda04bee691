"""Lists: pages, links, filters, what is behind the end; usage of any age; and every href leads somewhere."""

import re
from datetime import datetime, timedelta

import pytest

from tests.api.tmf.test_tmf import FILES, SERVED
from tests.charging.ledger.test_accounts import first_attempt, settling
from tests.web.test_roles import BASES, Household
from tokenworks.app.database.connections import ensure_usage_months
from tokenworks.catalog import Counts
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import UsageRecord
from tokenworks.kernel import uuid7
from tokenworks.subscriptions import BILLING_ZONE

CATALOG = "/tmf-api/productCatalogManagement/v4"


@pytest.fixture
def family(services, spender, signed_in, clock):
    made = Household(services, spender, signed_in, 1)
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    services.bills.run()
    made.bill_up(services)
    return made


def hrefs(value):
    if isinstance(value, dict):
        for name, part in value.items():
            if name in {"href", "url"} and isinstance(part, str):
                yield part
            else:
                yield from hrefs(part)
    elif isinstance(value, list):
        for part in value:
            yield from hrefs(part)


def linked(answer):
    return {rel: url for url, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', answer.headers["link"])}


def test_every_href_leads_to_what_it_names(client, services, family, staff):
    """All that the lists of all resources name, and what that names in turn."""
    base = BASES["balance"]
    services.adjustments.ask(family.bucket, 5000, "test", "somebody")
    cancelled = client.post(
        f"{BASES['order']}/cancelProductOrder",
        json={"productOrder": {"id": str(family.waits.order_id)}},
        headers=family.headers["owner"],
    )
    assert cancelled.status_code == 201
    todo = list(hrefs(cancelled.json()))
    for name, resources in SERVED.items():
        for resource in resources:
            path = f"{FILES[name]}/{resource}"
            headers = staff["finance"] if resource == "adjustBalance" else family.headers["owner"]
            answer = client.get(path, params={"limit": 100, **family.query(path)}, headers=headers)
            assert answer.status_code in {200, 206}, answer.text
            rows = answer.json()
            assert rows, path
            todo += list(hrefs(rows))
    seen = set()
    while todo:
        url = todo.pop()
        if url in seen:
            continue
        seen.add(url)
        assert url.startswith("http://testserver/tmf-api/"), url
        headers = staff["finance"] if f"{base}/adjustBalance" in url else family.headers["owner"]
        answer = client.get(url, headers=headers)
        assert answer.status_code == 200, (url, answer.text)
        if answer.headers["content-type"] == "application/json":
            if "id" in answer.json():
                assert answer.json()["href"] == url
            todo += list(hrefs(answer.json()))
    kinds = {url.split("/")[-2] for url in seen}
    assert {"payment", "refund", "cancelProductOrder", "usageSpecification", "adjustBalance", "bucket", "product"} <= kinds  # fmt: skip


def test_pages_link_to_each_other_and_end(client, family):
    url = f"{CATALOG}/productOffering"
    whole = client.get(url, params={"limit": 100})
    total = int(whole.headers["x-total-count"])
    assert (whole.status_code, len(whole.json())) == (200, total)
    assert whole.headers["content-range"] == f"items 0-{total - 1}/{total}"
    found, at, answer = [], f"{url}?limit=7&lifecycleStatus=Active,In+study", None
    while at is not None:
        answer = client.get(at)
        assert answer.status_code == 206
        found += [row["id"] for row in answer.json()]
        at = linked(answer).get("next")
    assert found == [row["id"] for row in whole.json() if row["lifecycleStatus"] in {"Active", "In study"}]
    assert set(linked(answer)) == {"first", "last", "prev"}
    assert client.get(linked(answer)["last"]).json() == answer.json()
    assert client.get(linked(answer)["first"]).json()[0]["id"] == found[0]
    behind = client.get(url, params={"offset": total})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"items */{total}")
    assert behind.headers["content-type"] == "application/problem+json"
    nothing = client.get(url, params={"name": "nothing"})
    assert (nothing.status_code, nothing.json(), nothing.headers["x-total-count"]) == (200, [], "0")


@pytest.mark.parametrize(
    ("path", "query", "count"),
    [
        (f"{BASES['order']}/productOrder", {"state": "inProgress"}, 1),
        (f"{BASES['order']}/productOrder", {"productOrderItem.productOffering.id": "ctc-light"}, 1),
        (f"{BASES['order']}/productOrder", {"orderDate.gt": "2027-05-01T00:00:00Z"}, 0),
        (f"{BASES['order']}/productOrder", {"orderDate.lte": "2027-05-01T00:00:00Z"}, 3),
        (f"{BASES['bill']}/customerBill", {"state": "partiallyPaid"}, 1),
        (f"{BASES['bill']}/customerBill", {"billDate.lt": "2027-04-01T00:00:00Z"}, 0),
        (f"{BASES['pay']}/payment", {"status": "Accepted", "paymentDate.gte": "2027-05-01T00:00:00+08:00"}, 1),
        (f"{BASES['inventory']}/product", {"productOffering.id": "ctc-light"}, 1),
        (f"{BASES['balance']}/bucket", {"status": "expired", "description": "balance"}, 1),
        (f"{BASES['balance']}/topupBalance", {"status": "completed"}, 1),
        (f"{BASES['balance']}/balanceActionHistory", {"description": "nothing"}, 0),
        (f"{CATALOG}/productOffering", {"category.id": "bundle", "isBundle": "false"}, 0),
        (f"{CATALOG}/productOfferingPrice", {"price.value.lt": "0"}, 0),
    ],
)  # fmt: skip
def test_lists_have_the_filters_of_the_standard(client, family, path, query, count):
    answer = client.get(path, params={"limit": 100, **query}, headers=family.headers["owner"])
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == int(answer.headers["x-total-count"]) == count, answer.text


@pytest.mark.parametrize("query", [{"colour": "red"}, {"orderDate.gte": "yesterday"}, {"orderDate.about": "2027-05-01T00:00:00Z"}, {"orderDate.gte": "0001-01-01T00:00:00+23:59"}])  # fmt: skip
def test_a_filter_that_is_none_is_refused(client, family, query):
    answer = client.get(f"{BASES['order']}/productOrder", params=query, headers=family.headers["owner"])
    assert answer.status_code == 400, answer.text


# Usage of any age.


@pytest.fixture
def used(services, spender, clock, signed_in):
    """(path, headers, ids): 25 records of a subscriber, an hour apart, newest first."""
    subscriber = services.subscriptions.register("+8613800000077")
    ensure_usage_months(services.connection, clock.now())
    member = services.subscriptions.owner_of(subscriber).hex
    ids = []
    for _ in range(25):
        clock.move(timedelta(hours=1))
        at_ms = int(clock.now().timestamp() * 1000)
        ids.append(uuid7(at_ms))
        spender.seq += 1
        record = UsageRecord(
            subscriber.account_id.hex, *first_attempt(ids[-1].hex), uuid7().hex, member, "chat", "m", "d", "complete", "completed",
            "provider", at_ms, at_ms, 1, 1, Counts(output=1), 1, [], [], [], None,
        )  # fmt: skip
        settle_store.settle(
            services.connection,
            spender.journal_id,
            spender.seq,
            [settling(spender.seq, record)],
            lambda *_: None,
        )
    return (
        f"{BASES['usage']}/usage",
        signed_in(subscriber),
        [f"{id_}.{subscriber.subscriber_id}" for id_ in reversed(ids)],
    )


def walk(client, url, headers, **params):
    found, answer = [], client.get(url, params=params, headers=headers)
    while True:
        assert answer.status_code in {200, 206}, answer.text
        found += [row["id"] for row in answer.json()]
        following = linked(answer).get("next")
        if following is None:
            return found, answer
        answer = client.get(following, headers=headers)


def test_usage_is_listed_to_its_oldest_record(client, used, monkeypatch):
    url, head, used = used
    found, last = walk(client, url, head, limit=4)
    assert found == used
    assert (last.status_code, last.headers["x-total-count"], last.headers["x-result-count"]) == (
        206,
        "25",
        "1",
    )
    assert client.get(url, params={"limit": 100}, headers=head).status_code == 200
    assert client.get(url, params={"offset": 25}, headers=head).status_code == 416
    # More than are counted: no total, rather than a wrong one; the links go on.
    monkeypatch.setattr("tokenworks.charging.ledger.usage.USAGE_COUNTED_MAX", 24)
    found, last = walk(client, url, head, limit=10)
    assert found == used and "x-total-count" not in last.headers
    for cursor in ("x", "１" * 32, ""):
        assert client.get(url, params={"cursor": cursor}, headers=head).status_code == 400


def test_a_usage_record_is_found_by_its_subscriber(client, used, services, signed_in, staff):
    staff = staff["operator"]
    url, head, used = used
    record_id, _, subscriber_id = used[3].partition(".")
    one = client.get(f"{url}/{used[3]}", headers=head)
    assert (one.status_code, one.json()["id"], one.json()["relatedParty"][0]["id"]) == (
        200,
        used[3],
        subscriber_id,
    )
    # Of one's own the record is enough; staff has to say whose.
    assert client.get(f"{url}/{record_id}", headers=head).json() == one.json()
    assert client.get(f"{url}/{used[3]}", headers=staff).json() == one.json()
    other = services.subscriptions.register("+8613800000078")
    for asker, name in (
        (staff, record_id), (staff, f"{record_id}.{other.subscriber_id}"), (staff, f"{record_id}.x"), (head, f"{record_id}.{uuid7()}"),
        (signed_in(other), used[3]), (signed_in(other), record_id),
    ):  # fmt: skip
        assert client.get(f"{url}/{name}", headers=asker).status_code == 404, name


def test_usage_is_found_by_time(client, used, clock):
    url, head, used = used
    at = lambda hours: (clock.now() - timedelta(hours=hours)).isoformat()
    for query, expected in [
        ({"usageDate.gte": at(3)}, used[:4]),
        ({"usageDate.gt": at(3)}, used[:3]),
        ({"usageDate.lt": at(20)}, used[21:]),
        ({"usageDate.lte": at(20), "usageDate.gt": at(22)}, used[20:22]),
        ({"status": "rated,billed", "usageDate.gte": at(0)}, used[:1]),
        ({"status": "rejected"}, []),
        ({"usageType": "voice"}, []),
    ]:
        found, last = walk(client, url, head, limit=3, **query)
        assert (found, last.headers["x-total-count"]) == (expected, str(len(expected))), query


def test_an_order_says_when_it_is_to_begin(client, services, family, clock):
    url, head = f"{BASES['order']}/productOrder", family.headers["owner"]
    number = iter(range(100))

    def order(when, **item):
        body = {"requestedStartDate": when, "productOrderItem": [{"id": "1", **item}]}
        return client.post(url, json=body, headers={**head, "Idempotency-Key": f"s{next(number)}"})

    later = (clock.now() + timedelta(days=3)).isoformat()
    waits = order(later, action="add", productOffering={"id": "ctc-basic"})
    assert (waits.status_code, waits.json()["state"]) == (201, "acknowledged")
    over = order(
        (clock.now() - timedelta(days=1)).isoformat(), action="add", productOffering={"id": "ctc-standard"}
    )
    assert (over.status_code, "is over" in over.json()["detail"]) == (400, True)
    made = order(clock.now().isoformat(), action="add", productOffering={"id": "ctc-standard"})
    assert (made.status_code, "requestedStartDate" in made.json()) == (201, True)
    product = made.json()["productOrderItem"][0]["product"]["id"]
    change = {"action": "modify", "productOffering": {"id": "ctc-premium"}, "product": {"id": product}}
    assert order(later, **change).status_code == 400
    (found,) = [p for p in services.orders.products(family.subscriber) if str(p.product_id) == product]
    planned = order(found.cycle_end.isoformat(), **change)
    assert (planned.status_code, planned.json()["state"]) == (201, "pending")
    for when in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "tomorrow", "2027-05-01"):
        assert order(when, **change).status_code == 400, when
