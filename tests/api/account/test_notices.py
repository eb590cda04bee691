"""Notices by their doors: each person sees and changes its own; links work without a session, and a GET changes nothing."""

from datetime import timedelta

import pytest

from tests.support.notices import fan_out, person
from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings


@pytest.fixture
def works(services, session_dir, clock, api):
    """The application's services send mails."""
    import contextlib

    clock.move(timedelta(hours=10))
    settings = load_settings(
        {"data_dir": str(session_dir / "seed"), "smtp_host": "mail.example", "smtp_from": "n@c.example", "public_url": "https://c.example"}
    ).settings  # fmt: skip
    made = make_works(settings, services.connection, clock)

    @contextlib.contextmanager
    def open_services():
        yield made

    api.state.open_services = open_services
    return made


@pytest.fixture
def family(works, signed_in):
    """(the owner's account, headers by person)"""
    li = works.subscriptions.register("+8613800000001", "Li", language="en")
    mei = works.members.invite(li, "+8613700000001", "Mei")
    works.members.accept(mei.phone, mei.member_id)
    wu = works.subscriptions.register("+8613800000002", "Wu")
    works.connection.execute("DELETE FROM notification")
    return li, {"li": signed_in(li), "mei": signed_in(li, mei.member_id), "wu": signed_in(wu)}


def mail(works):
    fan_out(works)
    (delivery,) = works.notices.lease(["email"], 10)
    works.notices.mark_sent(delivery)
    return works.notices.message(delivery)


def spend(works, li, ref="1"):
    content = {"percent": 50, "spent_nano": 10**9, "cap_nano": 2 * 10**9}
    works.subscriptions.notify(li.subscriber_id, "spend", ref, content)


def test_each_person_reads_its_own(client, works, family):
    li, heads = family
    for ref in ("1", "2", "3"):
        spend(works, li, ref)
    client.post("/api/keys", json={"name": "tablet"}, headers=heads["mei"])
    fan_out(works)
    listed = client.get("/api/notices", params={"limit": 2}, headers=heads["li"])
    assert (listed.status_code, listed.headers["x-total-count"]) == (206, "3")
    newest = listed.json()[0]
    assert newest["kind"] == "spend" and newest["read_at"] is None and "50%" in newest["text"]
    assert [one["kind"] for one in client.get("/api/notices", headers=heads["mei"]).json()] == ["key.made"]
    assert client.get("/api/notices", headers=heads["wu"]).json() == []
    assert client.get("/api/notices/count", headers=heads["li"]).json() == {"unread": 3}
    for other in ("mei", "wu"):
        refused = client.put(f"/api/notices/{newest['id']}/read", json={"read": True}, headers=heads[other])
        assert refused.status_code == 404
    client.put(f"/api/notices/{newest['id']}/read", json={"read": True}, headers=heads["li"])
    assert client.get("/api/notices/count", headers=heads["li"]).json() == {"unread": 2}
    assert len(client.get("/api/notices", params={"unread": True}, headers=heads["li"]).json()) == 2
    assert client.post("/api/notices/read", json={"last": newest["id"]}, headers=heads["li"]).json() == {
        "marked": 2
    }


def test_choices_are_a_persons_own(client, works, family):
    li, heads = family
    path = "/api/notices/choices"
    change = {"choices": [{"kind": "spend", "channel": "sms", "wanted": False}]}
    after = client.put(path, json=change, headers=heads["li"])
    assert {"kind": "spend", "channel": "sms", "wanted": False, "required": False} in after.json()
    assert {"kind": "spend", "channel": "sms", "wanted": True, "required": False} in client.get(
        path, headers=heads["mei"]
    ).json()
    must = {"choices": [{"kind": "plan.move", "channel": "sms", "wanted": False}]}
    assert client.put(path, json=must, headers=heads["li"]).status_code == 422
    for bad in (
        {"choices": []},
        {"choices": [{"kind": "x", "channel": "sms", "wanted": True}]},
        {"choices": change["choices"] * 201},
    ):
        assert client.put(path, json=bad, headers=heads["li"]).status_code == 400
    assert works.identity.audited(str(li.subscriber_id))[0][0]["action"] == "notice.choose"


def test_a_link_confirms_by_a_button_and_a_reader_that_opens_it_does_not(client, works, family):
    li, heads = family
    asked = client.put("/api/notices/addresses/email", json={"email": "li@example.com"}, headers=heads["li"])
    assert (asked.status_code, asked.json()["confirmed"]) == (202, False)
    link = {"token": mail(works).token}
    page = client.get("/api/notices/email/confirm", params=link)
    assert page.status_code == 200 and '<form method="post">' in page.text
    assert "script" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert works.notice_choices.address(li.subscriber_id, "email").confirmed_at is None
    assert client.post("/api/notices/email/confirm", params=link).status_code == 200
    assert client.get("/api/notices/addresses", headers=heads["li"]).json()[0]["confirmed"] is True
    assert (
        client.post("/api/notices/email/confirm", params={"token": f"1.{'0' * 32}..{'A' * 43}"}).status_code
        == 404
    )
    assert client.post("/api/notices/email/confirm", params={"token": "<script>"}).status_code == 400


def test_one_click_needs_no_session_and_no_page(client, works, family):
    li, heads = family
    works.notice_choices.ask_email(person(li), "li@example.com")
    works.notice_choices.confirm(mail(works).token)
    spend(works, li)
    link = {"token": mail(works).token}
    client.get("/api/notices/unsubscribe", params=link)
    assert {"kind": "spend", "channel": "email", "wanted": True, "required": False} in client.get(
        "/api/notices/choices", headers=heads["li"]
    ).json()
    # As RFC 8058 has mail servers send it: a form, from another site, without a cookie.
    answer = client.post(
        "/api/notices/unsubscribe", params=link, data={"List-Unsubscribe": "One-Click"},
        headers={"origin": "https://mail.example", "sec-fetch-site": "cross-site"},
    )  # fmt: skip
    assert answer.status_code == 200
    assert {"kind": "spend", "channel": "email", "wanted": False, "required": False} in client.get(
        "/api/notices/choices", headers=heads["li"]
    ).json()
    trail = works.identity.audited(str(li.subscriber_id))[0]
    assert [row["actor"] for row in trail][:1] == ["link:email"]


def test_a_webhook_is_set_rotated_and_removed(client, works, family):
    _, heads = family
    path = "/api/notices/addresses/webhook"
    made = client.put(path, json={"url": "https://hooks.example/mei"}, headers=heads["mei"])
    assert made.json()["secret"].startswith("whsec_") and made.headers["cache-control"] == "no-store"
    assert "secret" not in client.get("/api/notices/addresses", headers=heads["mei"]).json()[0]
    rotated = client.post(f"{path}/secret", json={"overlap_h": 1}, headers=heads["mei"])
    assert rotated.status_code == 201 and rotated.json()["secret"] != made.json()["secret"]
    assert client.post(f"{path}/secret", json={}, headers=heads["li"]).status_code == 404
    assert client.put(path, json={"url": "http://10.0.0.1/"}, headers=heads["li"]).status_code == 400
    assert client.delete(path, headers=heads["mei"]).status_code == 204
    assert client.get("/api/notices/addresses", headers=heads["mei"]).json() == []


def test_staff_sees_what_was_not_delivered_and_tells_of_an_incident(client, works, family, staff):
    li, heads = family
    said = {"ref": "INC-7", "text": "Answers were slow.", "text_zh": "响应变慢。", "subscribers": [li.phone]}
    told = [
        client.post("/api/operations/incidents", json=said, headers=staff["operator"]).json()["told"]
        for _ in range(2)
    ]
    assert told == [1, 0]
    spend(works, li)
    fan_out(works)
    assert client.get("/api/notices", headers=heads["li"]).json()[-1]["text"] == "Answers were slow."
    (sms,) = works.notices.lease(["sms"], 10)
    works.notices.mark_failed(sms, "http_400", for_good=True)
    query = {"state": "failed", "of": li.phone}
    (failed,) = client.get("/api/operations/notice-deliveries", params=query, headers=staff["auditor"]).json()
    assert (failed["channel"], failed["cause"]) == ("sms", "http_400")
    path = f"/api/operations/notice-deliveries/{failed['id']}/resend"
    assert client.post(path, headers=staff["auditor"]).status_code == 403
    assert client.post(path, headers=staff["operator"]).status_code == 202
    assert client.post(path, headers=staff["operator"]).status_code == 409
