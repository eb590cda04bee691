"""One act is one row of the audit trail: every form of every page, sent twice as a double tap or a reload does."""

import json
from datetime import datetime, timedelta

import pytest

from tests.support.authenticator import Authenticator
from tokenworks.app.http_app import ROUTERS
from tokenworks.subscriptions import BILLING_ZONE

PHONE, MEI = "+8613800000001", "+8613800000002"


class House:
    """An owner who is signed in by a cookie, with a plan, a bill, a key and a member."""

    def __init__(self, services, client, codes, clock):
        self.services, self.client, self.codes, self.clock = services, client, codes, clock
        self.owner = services.subscriptions.register(PHONE, "Li")
        self.plan = self.named = str(services.orders.place(self.owner, "ctc-light").product_id)
        clock.move(datetime(2027, 5, 2, tzinfo=BILLING_ZONE) - clock.now())
        services.orders.run_cycles()
        services.bills.run()
        self.bill = services.bills.all(self.owner)[0][0].bill_no
        self.member = services.members.invite(self.owner, MEI, "Mei")
        host = services.subscriptions.register("+8613800000003", "Host")
        self.invited = services.members.invite(host, PHONE, "Li")
        owner_id = services.subscriptions.owner_of(self.owner)
        self.key, _ = services.keys.issue(account_id=self.owner.account_id, member_id=owner_id, name="laptop")
        text, _ = services.identity.open_session(self.owner.subscriber_id, owner_id)
        other, _ = services.identity.open_session(self.owner.subscriber_id, owner_id)
        self.other = services.identity.sessions(self.owner.subscriber_id)[0].session_id
        assert services.identity.session(other)[0] == self.other
        self.text = text
        self.client.cookies.set("tokenworks_session", text)

    def consent(self):
        state = self.services.consents.states(self.owner)[0]
        return {"purpose": "terms", "given": "true", "text_sha256": state.text.sha256}

    def code(self):
        self.client.cookies.clear()
        self.client.post("/sign-in/code", data={"identifier": PHONE})
        return {"identifier": PHONE, "code": self.codes[-1][1]}

    def as_member(self):
        member_id = self.services.members.accept(MEI, self.member.member_id).member_id
        text, _ = self.services.identity.open_session(self.owner.subscriber_id, member_id)
        self.client.cookies.set("tokenworks_session", text)

    def paused(self):
        self.services.orders.suspend(self.services.orders.products(self.owner)[0].product_id)
        return {}

    def all_paused(self):
        self.services.subscriptions.suspend(self.owner, "own_wish", "test")
        return {}

    def to_come(self):
        start = self.clock.now() + timedelta(days=5)
        self.named = str(self.services.orders.place(self.owner, "ctc-standard", start=start).order_id)
        return {}

    def pending(self):
        self.services.orders.cancel(self.services.orders.products(self.owner)[0].product_id, "cycle_end")
        return {}


LOCAL = "http://localhost:8000"


def device(house):
    """A passkey of the owner, at an address that has passkeys."""
    house.client.base_url = LOCAL
    key = Authenticator()
    return key, str(key.planted(house.services, house.owner))


def new_passkey(house):
    house.client.base_url = LOCAL
    asked = house.client.post("/api/passkeys/options").json()
    return {"name": "phone", "credential": json.dumps(Authenticator().make(asked, LOCAL))}


def used_passkey(house):
    key, _ = device(house)
    house.client.cookies.clear()
    asked = house.client.post("/api/sign-in/passkey/options").json()
    return {"credential": json.dumps(key.answer(asked, LOCAL))}


def joined(house):
    house.services.members.accept(PHONE, house.invited.member_id)
    return {"id": house.invited.member_id, "what": "leave"}


# route: name of the case, the form, the rows that both together leave.
FORMS = {
    "/order": {"order": (lambda h: {"offering": "ctc-standard", "key": "k"}, ["order.add", "key.create"])},
    "/products/{id}/{what}": {
        "change": (lambda h: {"key": "k", "when": "now", "offering": "ctc-standard"}, ["product.change"]),
        "change-later": (lambda h: {"key": "k", "when": "cycle_end", "offering": "ctc-standard"}, ["product.change"]),
        "cancel": (lambda h: {"key": "k", "when": "now"}, ["product.cancel"]),
        "cancel-later": (lambda h: {"key": "k", "when": "cycle_end"}, ["product.cancel"]),
        "cancel-without-key": (lambda h: {"when": "now"}, ["product.cancel"]),
        "pause": (lambda h: {}, ["product.pause"]),
        "resume": (House.paused, ["product.resume"]),
    },
    "/products/to-come/{id}/withdraw": {"withdraw": (House.to_come, ["order.withdraw"])},
    "/account/{what}": {
        "suspend": (lambda h: {}, ["subscriber.suspended"]),
        "resume": (House.all_paused, ["subscriber.active"]),
    },
    "/order/broadband": {
        "broadband": (lambda h: {"offering": "uplink-acceleration", "number": "sh87654321"}, ["subscriber.set"])
    },
    "/products/{id}/keep": {"keep": (House.pending, ["order.withdraw"])},
    "/bill/spending": {
        "lock": (lambda h: {"what": "lock"}, ["subscriber.set"]),
        "unlock-what-is-not-locked": (lambda h: {"what": "unlock"}, []),
        "cap": (lambda h: {"what": "cap", "cap": "77"}, ["subscriber.set"]),
        "spill_on": (lambda h: {"what": "spill_on"}, ["subscriber.set"]),
    },
    "/bill/dispute": {"dispute": (lambda h: {"bill": h.bill, "line": "1", "text": "Why?"}, ["dispute.ask"])},
    "/family/invite": {"invite": (lambda h: {"phone": "13800000009", "name": "Bo"}, ["member.invite"])},
    "/family/cap": {"cap": (lambda h: {"id": h.member.member_id, "cap": "5000"}, ["member.set"])},
    "/family/remove": {"remove": (lambda h: {"id": h.member.member_id}, ["member.remove"])},
    "/family/join": {
        "accept": (lambda h: {"id": h.invited.member_id, "what": "accept"}, ["member.accept"]),
        "decline": (lambda h: {"id": h.invited.member_id, "what": "decline"}, ["member.leave"]),
        "leave": (joined, ["member.leave"]),
    },
    # Each makes a key, which is shown, and can be stopped.
    "/keys": {"keys": (lambda h: {"name": "phone"}, ["key.create", "key.create"])},
    "/key": {"another": (lambda h: {}, ["key.create", "key.create"])},
    "/keys/stop": {"stop": (lambda h: {"id": h.key}, ["key.revoke"])},
    "/privacy/consent": {"consent": (House.consent, ["subscriber.consent"])},
    "/privacy/erase": {"erase": (lambda h: {"confirm": "0001"}, ["subscriber.erase"])},
    "/privacy/leave": {"leave": (lambda h: h.as_member() or {"confirm": "0002"}, ["member.erase"])},
    "/sessions/end": {"end": (lambda h: {"id": h.other}, ["session.end"])},
    "/sessions/end-others": {"end-others": (lambda h: {}, ["session.end_others"])},
    "/sign-in/passkey": {"passkey": (used_passkey, ["sign_in"])},
    "/passkeys/add": {"add": (new_passkey, ["passkey.add"])},
    "/passkeys/rename": {"rename": (lambda h: {"id": device(h)[1], "name": "phone"}, ["passkey.rename"])},
    "/passkeys/remove": {"remove": (lambda h: {"id": device(h)[1]}, ["passkey.remove"])},
    "/sign-in/code": {"code": (lambda h: {"identifier": PHONE}, [])},
    "/sign-in": {"sign-in": (House.code, ["sign_in"])},
    "/sign-out": {"sign-out": (lambda h: {}, ["sign_out"])},
    "/theme": {"theme": (lambda h: {"to": "dark"}, [])},
    "/language": {"language": (lambda h: {"to": "en"}, [])},
}  # fmt: skip
CASES = [(route, name, *case) for route, cases in FORMS.items() for name, case in cases.items()]


@pytest.mark.parametrize(("route", "name", "form", "rows"), CASES, ids=[name for _, name, *_ in CASES])
def test_a_form_that_comes_twice_is_one_row(services, client, codes, clock, route, name, form, rows):
    house = House(services, client, codes, clock)
    what = name.partition("-")[0]
    data = {key: str(value) for key, value in form(house).items()}
    path = route.replace("{id}", house.named).replace("{what}", what)
    _, before = services.identity.audited()
    first = client.post(path, data=data, follow_redirects=False)
    assert first.status_code in {200, 303}, first.text
    client.post(path, data=data, follow_redirects=False)
    trail, count = services.identity.audited(limit=count_of(before))
    assert [row["action"] for row in reversed(trail[: count - before])] == rows


def count_of(before):
    """More rows than any form leaves."""
    return before + 20


def test_every_form_of_the_pages_is_sent_twice():
    found = [route for router in ROUTERS for route in router.routes]
    posted = {route.path for route in found if not route.include_in_schema and "POST" in route.methods}
    # Of staff: tests/web/test_staff_door.py.
    assert {path for path in posted if not path.startswith("/ops/")} == set(FORMS)
