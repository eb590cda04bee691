"""TMF620 managed: one person drafts an offering, another approves it, then it is published and sold."""

import pytest

from tests.api.tmf.test_tmf import check
from tests.web.test_roles import DRAFT
from tokenworks.kernel import Invalid

BASE = "/tmf-api/productCatalogManagement/v4/productOffering"


@pytest.fixture
def two(services):
    """Headers of two operators."""
    return [
        {"authorization": f"Bearer {services.identity.add_staff(name, 'operator')}"}
        for name in ("Li", "Wang")
    ]


def test_an_offering_is_drafted_approved_and_published(client, services, two, signed_in):
    li, wang = two
    made = client.post(BASE, json={"name": "Drafted", "catalogueEntry": DRAFT}, headers=li)
    assert (made.status_code, made.json()["lifecycleStatus"]) == (201, "In design"), made.text
    check("TMF620", "/productOffering", "POST", made)
    # Nobody but staff sees it, and nobody can order it.
    assert client.get(f"{BASE}/drafted").status_code == 404
    assert "drafted" not in {row["id"] for row in client.get(BASE, params={"limit": 100}).json()}
    assert client.get(made.json()["href"], headers=li).json() == made.json()
    patch = lambda who, **body: client.patch(f"{BASE}/drafted", json=body, headers=who)
    assert patch(wang, lifecycleStatus="Active").json()["title"] == "DraftNotReady"
    assert patch(li, lifecycleStatus="In test").json()["title"] == "DraftNotReady", "its writer"
    assert patch(wang, lifecycleStatus="In test").json()["lifecycleStatus"] == "In test"
    # Another content is another draft: its approval is taken back.
    changed = patch(li, catalogueEntry=DRAFT | {"price": "6"})
    assert changed.json()["lifecycleStatus"] == "In design"
    approved = patch(wang, lifecycleStatus="In test")
    check("TMF620", "/productOffering/{id}", "PATCH", approved)
    before = {s.offering.id: s.offering_version for s in services.offerings.all()}
    published = patch(li, lifecycleStatus="Active")
    assert (published.status_code, published.json()["lifecycleStatus"]) == (200, "Active"), published.text
    assert client.get(f"{BASE}/drafted").json() == published.json()
    after = {s.offering.id: s.offering_version for s in services.offerings.all()}
    assert after.pop("drafted") and after == before, "the others stay as they are"
    subscriber = services.subscriptions.register("+8613800000001")
    assert services.orders.place(subscriber, "drafted").amount_nano > 0
    assert patch(li, lifecycleStatus="Active").status_code == 404
    trail = [row["action"] for row in services.identity.audited("drafted")[0]]
    assert trail == ["offering.active", "offering.in test", "offering.change", "offering.in test", "offering.draft"]  # fmt: skip


def test_a_published_offering_gets_a_new_version_the_same_way(client, services, two):
    li, wang = two
    entry = DRAFT | {"id": "ctc-light", "name": "Light, anew", "status": "retired"}
    sold = services.offerings.on_sale("ctc-light")
    made = client.patch(f"{BASE}/ctc-light", json={"catalogueEntry": entry}, headers=li)
    assert made.status_code == 200, made.text
    assert client.get(f"{BASE}/ctc-light").json()["name"] == sold.offering.name
    assert client.get(f"{BASE}/ctc-light", headers=li).json()["name"] == sold.offering.name
    assert client.get(f"{BASE}/ctc-light?draft=true", headers=li).json()["name"] == "Light, anew"
    assert client.get(f"{BASE}/ctc-light?draft=true").json()["name"] == sold.offering.name
    client.patch(f"{BASE}/ctc-light", json={"lifecycleStatus": "In test"}, headers=wang)
    done = client.patch(f"{BASE}/ctc-light", json={"lifecycleStatus": "Active"}, headers=wang)
    assert (done.status_code, done.json()["lifecycleStatus"]) == (200, "Retired"), done.text
    assert services.offerings.sold(sold.offering_version).offering == sold.offering, "what was sold stays"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"price": 5}, "price"),
        ({"price": "-1", "cycle": "weekly"}, "cycle"),
        ({"rate_card": "nothing"}, "rate card"),
        ({"requires": ["nothing"]}, "nothing"),
        ({"colour": "red"}, "colour"),
        ({"name": "Drafted\u202e"}, "turns the direction"),
        ({"id": "Ｄ"}, "id"),
        ({"buckets": []}, "buckets"),
        ({"buckets": [{"unit": "token", "quantity": 10**30}]}, "quantity"),
    ],
)
def test_a_faulty_draft_is_refused_with_its_faults(client, services, two, change, says):
    entry = DRAFT | change
    answer = client.post(BASE, json={"name": entry["name"], "catalogueEntry": entry}, headers=two[0])
    assert answer.status_code == 400 and says in answer.json()["detail"], answer.text
    assert services.drafts.all() == []


def test_drafts_are_thrown_away_and_not_drafted_twice(client, services, two):
    body = {"name": "Drafted", "catalogueEntry": DRAFT}
    assert client.post(BASE, json=body, headers=two[0]).status_code == 201
    assert client.post(BASE, json=body, headers=two[1]).status_code == 409
    assert client.post(BASE, json=body | {"name": "Other"}, headers=two[1]).status_code == 400
    assert client.patch(f"{BASE}/drafted", json={}, headers=two[0]).status_code == 400
    assert client.delete(f"{BASE}/drafted", headers=two[1]).status_code == 204
    assert client.delete(f"{BASE}/drafted", headers=two[1]).status_code == 404
    assert client.delete(f"{BASE}/ctc-light", headers=two[1]).status_code == 404
    with pytest.raises(Invalid):
        services.drafts.write({"id": "x"}, "Li")


def test_who_drafts_is_no_approver_in_the_database_either(services):
    services.drafts.write(dict(DRAFT), "Li")
    with pytest.raises(Exception, match="offering_draft"):
        services.connection.execute("UPDATE offering_draft SET approved_by = 'Li', approved_at = now()")
