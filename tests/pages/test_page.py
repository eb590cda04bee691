"""The frame of the pages: who gets which page or part of one, under which status, and where errors stand."""

import re

import pytest

from tests.pages.test_page_rules import BROWSER, ENGLISH
from tokenworks.pages.navigation import entries_of

PART = {**ENGLISH, "hx-request": "true", "hx-request-type": "partial"}
PAGES = (
    "/usage",
    "/keys",
    "/plans",
    "/products",
    "/bills",
    "/bill",
    "/family",
    "/team",
    "/sessions",
    "/privacy",
    "/account/suspend",
)


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def enter(client, signed_in):
    def sign_in(subscriber, member_id=None):
        client.cookies.set("tokenworks_session", signed_in(subscriber, member_id)["authorization"].split()[1])

    return sign_in


def test_a_browser_without_a_session_gets_the_form_and_a_part_is_sent_to_it(client):
    for path in PAGES:
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 401 and 'action="/sign-in/code"' in answer.text, path
        assert (
            answer.headers["www-authenticate"] == "Bearer" and answer.headers["cache-control"] == "no-store"
        )
        part = client.get(path, headers=PART)
        assert part.status_code == 401 and part.text == ""
        assert re.fullmatch(r"/sign-in\?back=/[a-z/-]+", part.headers["hx-redirect"])
    assert client.get("/sign-in", headers=BROWSER).status_code == 200


def test_every_entry_of_the_navigation_is_there_for_its_role(client, services, li, enter):
    admin = services.members.invite(li, "+8613800000002", "Mei", role="admin")
    member = services.members.invite(li, "+8613800000003", "Bo")
    for one in (admin, member):
        services.members.accept(one.phone, one.member_id)
    for role, member_id in (("owner", None), ("admin", admin.member_id), ("member", member.member_id)):
        enter(li, member_id)
        for entry in entries_of(role):
            page = client.get(entry.address, headers=BROWSER)
            assert page.status_code == 200, (role, entry)
            assert (
                page.text.count('aria-current="page"') == 1
                and f'href="{entry.address}" aria-current' in page.text
            )
    client.cookies.clear()
    assert [client.get(entry.address).status_code for entry in entries_of(None)] == [200]


def test_a_part_is_the_part_alone_and_going_back_gets_the_page(client, services, li, enter, spender):
    services.orders.place(li, "ctc-light")
    spender.spend(li.account_id, 1000)
    enter(li)
    part = client.get("/usage?size=50", headers=PART)
    assert part.status_code == 200 and part.text.strip().startswith('<div class="table" id="requests">')
    assert "<html" not in part.text and part.headers["vary"] == "HX-Request-Type"
    whole = client.get("/usage?size=50", headers={**PART, "hx-history-restore-request": "true"})
    assert "<html" in whole.text and 'id="requests"' in whole.text
    for headers, begins in ((PART, '<p class="error" role="alert">'), (BROWSER, "<!doctype html>")):
        refused = client.get("/usage?sort=drop", headers=headers)
        assert refused.status_code == 400 and refused.text.startswith(begins)
    sheet = client.get("/usage?format=csv", headers=BROWSER)
    assert sheet.headers["content-type"].startswith("text/csv") and len(sheet.text.splitlines()) == 2


def test_an_error_stands_beside_its_field_and_what_was_entered_stays(client, li, enter):
    enter(li)
    for path, form, field in (
        ("/keys", {"name": "phone", "cap": "a lot"}, "cap"),
        ("/family/invite", {"phone": "13800000009", "name": "<i>Bo</i>", "cap": "a lot"}, "cap"),
        ("/family/invite", {"phone": "x", "name": "Bo", "cap": "5000"}, "phone"),
        ("/bill/spending", {"what": "cap", "cap": "cheap"}, "cap"),
    ):
        answer = client.post(path, data=form, headers=ENGLISH)
        assert answer.status_code == 422, path
        (tag,) = re.findall(rf'<input id="{field}"[^>]*>', answer.text)
        assert (
            f'aria-describedby="{field}-error' in tag and 'aria-invalid="true"' in tag and form[field] in tag
        )
        assert f'<p id="{field}-error" class="field-error">' in answer.text
        assert f'role="alert"><a href="#{field}">' in answer.text
        assert "<i>Bo" not in answer.text
    assert client.post("/keys", data={"name": "phone"}, headers=ENGLISH).text.count("aria-invalid") == 0


def test_a_choice_of_language_or_appearance_comes_back_to_the_page(client):
    page = client.get("/order?offering=ctc-light").text
    assert page.count('name="back" value="/order?offering=ctc-light"') == 2
    assert 'name="back" value="/order"' in client.get("/order?offering=%27%22").text
    chosen = client.post("/theme", data={"to": "dark", "back": "//evil"}, follow_redirects=False)
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/order")
    assert 'data-theme="dark"' in client.get("/order").text
    client.post("/theme", data={"to": "system"})
    assert "data-theme" not in client.get("/order").text
    client.cookies.set("tokenworks_theme", '"><script>')
    assert "data-theme" not in client.get("/order").text and "<script>" not in client.get("/order").text
    assert client.post("/theme", data={"to": "pink"}).status_code == 400


def test_the_parts_are_shown_in_a_dev_environment_alone(api, client):
    assert client.get("/style").status_code == 200
    api.state.is_dev = False
    try:
        assert client.get("/style").status_code == client.get("/style/events").status_code == 404
    finally:
        api.state.is_dev = True
