"""A member has rights over what is theirs: they see it, take it with them, and have it erased; the account stays the owner's."""

import json
import re

import pytest

from tests.pages.person import needs_browser
from tests.support.auditor import verify
from tests.support.people import where
from tokenworks.pages.sessions import device_of, place_of

PHONE, MEI, ANN = "+8613800000001", "+8613876543210", "+8613876540002"


@pytest.fixture
def family(services, signed_in, spender):
    payer = services.subscriptions.register(PHONE, "Li")
    services.orders.place(payer, "ctc-light")
    people = {}
    for name, role, phone in (("Meimei Zephyr", "member", MEI), ("Ann", "admin", ANN)):
        made = services.members.invite(payer, phone, name, role=role)
        people[role] = services.members.accept(phone, made.member_id)
    member_id = people["member"].member_id
    key_id, _ = services.keys.issue(account_id=payer.account_id, member_id=member_id, name="Meimei's tablet")
    services.identity.open_session(payer.subscriber_id, member_id, "203.0.113.9", "iPhone")
    spender.spend(payer.account_id, 1_000_000, (key_id.hex, member_id.hex))
    heads = {role: signed_in(payer, one.member_id) for role, one in people.items()}
    return payer, people, heads | {"owner": signed_in(payer)}


def test_a_member_takes_out_what_is_theirs(client, services, family):
    owner, people, heads = family
    answer = client.get("/api/me/export", headers=heads["member"])
    assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]
    found = json.loads(answer.content)
    assert (found["member"]["name"], found["member"]["phone"]) == ("Meimei Zephyr", MEI)
    assert [key["name"] for key in found["keys"]] == ["Meimei's tablet"]
    assert {one["address"] for one in found["sessions"]} == {"203.0.113.9", None}
    assert len(found["usage"]) == 1 and found["consents"] == []
    # Nothing of the owner's, nor of another member's.
    assert (
        PHONE not in answer.text and "Li" not in answer.text.replace("Limit", "") and "Ann" not in answer.text
    )
    other = json.loads(client.get("/api/me/export", headers=heads["admin"]).content)
    assert (other["member"]["name"], other["usage"], other["keys"]) == ("Ann", [], [])
    assert client.get("/api/me/export", headers=heads["owner"]).status_code == 403
    assert client.get("/api/me/export").status_code == 401
    assert client.get("/api/export", headers=heads["member"]).status_code == 403


def test_many_records_are_taken_out_in_pages(services, family, monkeypatch):
    from tokenworks.subscriptions.people import member_rights

    _, people, _ = family
    monkeypatch.setattr(member_rights, "USAGE_AT_ONCE", 1)
    found = json.loads(b"".join(services.privacy.members.export(people["member"])))
    assert len(found["usage"]) == 1


def test_a_member_is_erased_and_the_account_goes_on(client, services, family):
    owner, people, heads = family
    before = services.connection.execute("SELECT count(*) FROM usage").fetchone()
    for confirm in ("0001", "9999"):
        refused = client.post("/api/me/erasure", json={"confirm": confirm}, headers=heads["member"])
        assert refused.status_code == 400
    assert client.post("/api/me/erasure", json={"confirm": "0001"}, headers=heads["owner"]).status_code == 403
    done = client.post("/api/me/erasure", json={"confirm": "3210"}, headers=heads["member"])
    assert done.status_code == 204
    assert client.get("/api/sessions", headers=heads["member"]).status_code == 401
    assert where(services.connection, "Meimei", "Zephyr", "203.0.113.9", "13876543210") == set()
    member_id = people["member"].member_id
    assert services.vault.key(member_id) is None and services.keys.of_member(member_id) == set()
    members = {m.member_id: (m.name, m.phone, m.state) for m in services.members.of(owner)}
    assert members[member_id] == ("", None, "left")
    assert services.subscriptions.find(PHONE).state == "active"
    assert services.connection.execute("SELECT count(*) FROM usage").fetchone() == before
    assert verify(services.connection, services.offerings.rate_cards()) == []
    assert services.identity.audited(str(member_id))[0][0]["action"] == "member.erase"
    # The number is free for another invitation.
    services.members.invite(owner, MEI, "Another")


@pytest.fixture
def browse(client, family):
    def enter(role):
        client.cookies.set("tokenworks_session", family[2][role]["authorization"].split()[1])
        return client

    return enter


def test_the_footers_link_leads_everybody_to_their_own(browse, family):
    html = {"accept": "text/html", "accept-language": "en"}
    page = browse("member").get("/privacy", headers=html)
    assert page.status_code == 200
    assert (
        "Meimei Zephyr" in page.text
        and "/api/me/export" in page.text
        and 'action="/privacy/leave"' in page.text
    )
    assert "/privacy/erase" not in page.text and "/privacy/consent" not in page.text
    page = browse("admin").get("/privacy", headers=html)
    assert (
        "/api/me/export" in page.text
        and "/privacy/consent" in page.text
        and "/privacy/erase" not in page.text
    )
    page = browse("owner").get("/privacy", headers=html)
    assert "/api/export" in page.text and "/privacy/erase" in page.text and "/privacy/leave" not in page.text


def test_a_member_leaves_on_the_page(browse, services, family):
    page = browse("member")
    for role in ("owner",):
        assert browse(role).post("/privacy/leave", data={"confirm": "0001"}).status_code == 403
    page = browse("member")
    assert page.post("/privacy/erase", data={"confirm": "3210"}).status_code == 403
    for wrong in ("12", "0001"):
        assert page.post("/privacy/leave", data={"confirm": wrong}).status_code == 422
    assert page.post("/privacy/leave", data={"confirm": "3210"}).status_code == 200
    assert services.vault.key(family[1]["member"].member_id) is None
    again = page.get("/privacy", headers={"accept": "text/html"})
    assert 'name="identifier"' in again.text


# Where one is signed in.


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("203.0.113.9", "203.0.*.*"), ("2001:db8:1:2::1", "2001:0db8:…"), ("::ffff:203.0.113.9", "203.0.*.*"),
        ("fe80::1%eth0", "fe80:0000:…"), ("local", None), (None, None),
    ],
)  # fmt: skip
def test_a_place_is_coarse(address, place):
    assert place_of(address) == place


def test_a_device_is_a_word_of_ours():
    agent = "Mozilla/5.0 ({}) AppleWebKit/605.1.15"
    assert device_of(agent.format("iPhone; CPU iPhone OS 18_0 like Mac OS X")) == "iphone"
    assert device_of(agent.format("Linux; Android 15; Pixel")) == "android"
    assert device_of(agent.format("Macintosh; Intel Mac OS X 10_15")) == "mac"
    assert device_of("<script>alert(1)</script>") == "other" and device_of(None) == "other"


def test_sessions_are_listed_and_ended_on_the_page(browse, services, family):
    owner, people, _ = family
    owner_id = services.subscriptions.owner_of(owner)
    services.identity.open_session(owner.subscriber_id, owner_id, "198.51.100.7", "Mozilla (Windows NT)")
    html = {"accept": "text/html", "accept-language": "en"}
    member = browse("member")
    shown = member.get("/sessions", headers=html).text
    assert shown.count("<article") == 2 and "203.0.*.*" in shown and "203.0.113.9" not in shown
    assert "198.51" not in shown, "the owner's are the owner's"
    theirs = services.identity.sessions(owner.subscriber_id, owner_id)[0].session_id
    assert member.post("/sessions/end", data={"id": str(theirs)}).status_code == 404
    (phone,) = re.findall(r'name="id" value="([^"]+)"', shown)
    done = member.post("/sessions/end", data={"id": phone}, headers=html)
    assert done.status_code == 200 and "Signed out." in done.text and done.text.count("<article") == 1
    # The owner sees everybody's, and ends one or all of its own.
    page = browse("owner")
    shown = page.get("/sessions", headers={"accept": "text/html"}).text
    assert "Meimei Zephyr" in shown and "198.51.*.*" in shown and "当前设备" in shown
    done = page.post("/sessions/end-others", headers=html)
    assert done.status_code == 200
    assert [s.member_id for s in services.identity.sessions(owner.subscriber_id, owner_id)] == [owner_id]
    assert page.get("/sessions", headers=html).status_code == 200
    assert services.identity.sessions(owner.subscriber_id, people["member"].member_id) != []


@needs_browser
@pytest.mark.parametrize("locale", ["zh-CN", "en-GB"])
def test_the_pages_fit_a_phone(browser, base, codes, services, locale):
    from tests.pages.person import Person

    owner = services.subscriptions.register(PHONE, "Li", language=locale[:2])
    services.identity.open_session(
        owner.subscriber_id, services.subscriptions.owner_of(owner), "203.0.113.9", "iPhone"
    )
    person = Person(browser, base, locale)
    person.go("/sessions")
    person.sign_in(codes)
    person.go("/sessions")
    person.looks_right(chinese=locale == "zh-CN")
    person.tap("button", "退出其他所有设备" if locale == "zh-CN" else "Sign all other devices out")
    person.looks_right(chinese=locale == "zh-CN")
    assert len(services.identity.sessions(owner.subscriber_id)) == 1
    person.go("/privacy")
    person.fits()
    person.accessible()
    assert person.complaints == []
    person.context.close()
