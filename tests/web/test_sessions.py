"""Who asks: attempts by asker and challenge, sessions, pages of other sites, what an admin may not."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from tokenworks.app.http_app import make_api
from tokenworks.kernel import Unavailable
from tokenworks.trust import CodeWrong, TooManyCodes, asker_of

PHONE = "+8613800000001"


def from_(address):
    return {"x-forwarded-for": address}


def ask(client, address="203.0.113.1", identifier=PHONE):
    client.cookies.clear()
    return client.post("/api/sign-in/code", json={"identifier": identifier}, headers=from_(address))


def enter(client, code, challenge=None, address="203.0.113.1", identifier=PHONE):
    client.cookies.clear()
    body = {"identifier": identifier, "code": code, "challenge": challenge}
    return client.post("/api/sign-in", json=body, headers=from_(address))


def other(code):
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"


@pytest.mark.parametrize(
    ("address", "asker"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_an_asker_is_an_ipv4_address_or_a_64_of_ipv6(address, asker):
    assert asker_of(address) == asker


def test_nobody_locks_another_ones_number_out(client, codes, clock):
    """Whoever asks for a number's codes all day, and guesses, takes nothing from its owner."""
    for hour in range(12):
        for attacker in range(9):
            sent = ask(client, f"198.51.100.{attacker}")
            if sent.status_code == 202:
                for _ in range(6):
                    guess = enter(client, "000000", sent.json()["challenge"], f"198.51.100.{attacker}")
                    assert guess.status_code == 422
        clock.move(timedelta(minutes=30))
        if hour % 4 == 3:
            mine = ask(client)
            assert mine.status_code == 202
            assert enter(client, codes[-1][1], mine.json()["challenge"]).status_code == 201
    assert {phone for phone, _ in codes} == {PHONE}


def test_attempts_of_one_challenge_are_not_anothers(client, codes):
    mine = ask(client).json()["challenge"]
    theirs = ask(client, "198.51.100.1").json()["challenge"]
    assert len(codes) == 1, "a moment later the same code is good for both"
    code = codes[0][1]
    for _ in range(5):
        assert enter(client, other(code), theirs, "198.51.100.1").status_code == 422
    assert enter(client, code, theirs, "198.51.100.1").status_code == 422, "their five attempts are over"
    # Guesses without the challenge, from the same address even, are counted apart.
    for _ in range(6):
        assert enter(client, other(code)).status_code == 422
    assert enter(client, code).status_code == 422
    assert enter(client, code, mine).status_code == 201
    assert enter(client, code, mine).status_code == 422, "used"


def test_a_challenge_is_of_its_number(client, codes):
    ask(client)
    elsewhere = ask(client, identifier="+8613800000002").json()["challenge"]
    for challenge in (elsewhere, "twc_nothing", None):
        assert enter(client, codes[0][1], challenge, "198.51.100.1").status_code == 422
    # One of another number is as none: who asked from here may go on.
    assert enter(client, codes[0][1], elsewhere).status_code == 201


def test_a_code_is_good_once_for_all_who_share_it(services, clock):
    identity = services.identity
    first = identity.request_code(PHONE, "203.0.113.1")
    second = identity.request_code(PHONE, "203.0.113.2")
    assert second.code is None
    identity.check_code(PHONE, first.code, second.text)
    with pytest.raises(CodeWrong):
        identity.check_code(PHONE, first.code, first.text)


def test_a_number_under_attack_gets_longer_codes_and_few_of_them(services, clock):
    """Many addresses, each with its own limits: the phone does not ring all day, and its owner's code is good for an hour."""
    sent = []
    for number in range(600):
        made = services.identity.request_code(PHONE, f"2001:db8:{number:x}::1")
        if made.code is not None:
            sent.append(made.code)
        clock.move(timedelta(minutes=2))
    assert len(sent) <= 20 + 24
    assert {len(code) for code in sent[20:]} == {10}
    mine = services.identity.request_code(PHONE, "203.0.113.1")
    services.identity.check_code(PHONE, mine.code or sent[-1], mine.text)


def test_a_code_that_was_not_sent_is_nobodys(services, api, clock):
    """Else who comes a moment later would wait for a message that never went out."""
    services.subscriptions.register("+8613800000007", broadband="sh87654321")
    sent, fails = [], [True]

    def send(phone, code):
        if fails[0]:
            raise Unavailable("the message centre does not answer")
        sent.append(code)

    api.state.send_code = send
    with TestClient(api, raise_server_exceptions=False) as client:
        for identifier, status in ((PHONE, 503), ("sh87654321", 202)):
            fails[0] = True
            assert ask(client, "203.0.113.1", identifier).status_code == status
            fails[0] = False
            mine = ask(client, "203.0.113.2", identifier)
            assert mine.status_code == 202
            made = enter(client, sent[-1], mine.json()["challenge"], "203.0.113.2", identifier)
            assert made.status_code == 201
    assert len(sent) == 2


def test_limits_are_by_64_of_ipv6_and_roomy_for_a_carriers_nat(services):
    for number in range(30):
        services.identity.request_code(f"+86137000{number:05d}", f"2001:db8:0:1::{number:x}")
    with pytest.raises(TooManyCodes):
        services.identity.request_code("+8613700099999", "2001:db8:0:1::ffff")
    services.identity.request_code("+8613700099999", "2001:db8:0:2::1")
    # A thousand customers behind one address of a NAT have theirs within the hour, the next one waits.
    for number in range(1000):
        services.identity.request_code(f"+86136000{number:05d}", "100.64.0.1")
    with pytest.raises(TooManyCodes):
        services.identity.request_code("+8613600099999", "100.64.0.1")


def test_sessions_are_listed_and_ended(client, services, clock):
    one = services.subscriptions.register(PHONE, "Li")
    owner = services.subscriptions.owner_of(one)
    child = services.members.invite(one, "+8613800000002", "Mei")
    services.members.accept(child.phone, child.member_id)
    texts = {
        name: services.identity.open_session(one.subscriber_id, member, address, client_name)[0]
        for name, member, address, client_name in (
            ("phone", owner, "203.0.113.1", "Phone \u202e/1"),
            ("laptop", owner, "2001:db8::1", "Laptop/2"),
            ("child", child.member_id, "203.0.113.9", None),
        )
    }

    def as_(name, address="203.0.113.1"):
        return {"authorization": f"Bearer {texts[name]}", **from_(address)}

    listed = client.get("/api/sessions", headers=as_("phone")).json()
    assert [(s["member"], s.get("address"), s.get("client"), s["this"]) for s in listed] == [
        ("Mei", "203.0.113.9", None, False),
        ("Li", "2001:db8::1", "Laptop/2", False),
        ("Li", "203.0.113.1", "Phone \\u202e/1", True),
    ]
    (own,) = client.get("/api/sessions", headers=as_("child", "198.51.100.4")).json()
    assert (own["this"], own["address"], own["seen_address"]) == (True, "203.0.113.9", "198.51.100.4")
    mine = next(s["id"] for s in listed if s.get("client") == "Laptop/2")
    assert client.delete(f"/api/sessions/{mine}", headers=as_("child")).status_code == 404
    assert client.delete("/api/sessions", headers=as_("laptop")).status_code == 204
    assert client.get("/api/sessions", headers=as_("phone")).status_code == 401
    assert client.get("/api/sessions", headers=as_("child")).status_code == 200
    assert client.delete(f"/api/sessions/{own['id']}", headers=as_("laptop")).status_code == 204
    assert client.get("/api/sessions", headers=as_("child")).status_code == 401
    clock.move(timedelta(days=8))
    assert services.identity.sessions(one.subscriber_id) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://testserver.evil.example"}, 403),
        ({"origin": "http://testserver:8080"}, 403),
        ({"referer": "https://evil.example/page"}, 403),
        ({"origin": "http://testserver"}, 200),
        ({"origin": "https://testserver:443"}, 200),
        ({"referer": "http://testserver/bill"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://testserver"}, 200),
        ({}, 200),
    ],
)
def test_where_the_fetch_site_is_not_said_the_origin_is_looked_at(
    client, services, signed_in, headers, status
):
    text = signed_in(services.subscriptions.register(PHONE))["authorization"].split()[1]
    client.cookies.set("tokenworks_session", text)
    assert client.patch("/api/subscriber", json={"spend_locked": True}, headers=headers).status_code == status
    client.cookies.clear()
    sent = client.post("/sign-in", data={"identifier": PHONE, "code": "123456"}, headers=headers)
    assert sent.status_code == (403 if status == 403 else 422)


def test_a_public_url_of_https_makes_cookies_secure(services, codes):
    import contextlib

    @contextlib.contextmanager
    def open_services():
        yield services

    app = make_api(open_services, lambda phone, code: codes.append((phone, code)), "https://shop.example")
    with TestClient(app, base_url="http://10.0.0.1") as client:
        sent = client.post("/api/sign-in/code", json={"identifier": PHONE})
        assert "Secure" in sent.headers["set-cookie"]
        made = enter(client, codes[-1][1], sent.json()["challenge"], address="testclient")
        assert "Secure" in made.headers["set-cookie"]
        assert client.patch(
            "/api/subscriber",
            json={"spend_locked": True},
            headers={
                "cookie": f"tokenworks_session={made.json()['token']}",
                "origin": "https://shop.example",
            },
        ).is_success


@pytest.fixture
def household(services, signed_in):
    owner = services.subscriptions.register(PHONE, "Li")
    people = {}
    for name, role, number in (("Ann", "admin", 2), ("Bo", "admin", 3), ("Mei", "member", 4)):
        made = services.members.invite(owner, f"+861380000000{number}", name, role=role)
        people[name] = services.members.accept(made.phone, made.member_id).member_id
    people["Li"] = services.subscriptions.owner_of(owner)
    return owner, people, signed_in(owner), signed_in(owner, people["Ann"])


def test_an_admin_can_t_cap_or_take_out_the_owner_or_an_admin(client, services, household):
    _, people, owner, admin = household
    for name, status in (("Li", 403), ("Bo", 403), ("Ann", 403), ("Mei", 200)):
        answer = client.patch(f"/api/members/{people[name]}", json={"cap_tokens": 5}, headers=admin)
        assert answer.status_code == status, name
    assert client.delete(f"/api/members/{people['Bo']}", headers=admin).status_code == 403
    assert client.delete(f"/api/members/{people['Mei']}", headers=admin).status_code == 204
    assert (
        client.patch(f"/api/members/{people['Ann']}", json={"cap_tokens": 5}, headers=owner).status_code
        == 200
    )
    assert client.delete(f"/api/members/{people['Bo']}", headers=owner).status_code == 204


def test_an_admin_lowers_what_may_be_spent_and_never_raises_it_nor_agrees_for_others(
    client, services, household
):
    subscriber, _, owner, admin = household
    services.payg.control(subscriber, cap_nano=20 * 10**9)

    def set_(who, **body):
        return client.patch("/api/subscriber", json=body, headers=who).status_code

    refused = (
        {"monthly_cap": "20.01"},
        {"spill_over": True},
        {"consents": {"data_cross_border": True}},
        {"consents": {"terms": False}},
        {"regions": None},
        {"home_region": "cn-sh"},
    )
    for body in refused:
        assert set_(admin, **body) == 403, body
    assert set_(admin, monthly_cap="10") == 200
    assert set_(admin, spend_locked=True) == 200
    assert set_(admin, spend_locked=False) == 403
    found = services.subscriptions.find(PHONE)
    assert (found.cap_nano, found.spend_locked, found.spill_over) == (10 * 10**9, True, False)
    assert services.consents.latest_answers(found) == {}
    for body in refused:
        assert set_(owner, **body) == 200, body
    # The page asks the same rule.
    client.cookies.set("tokenworks_session", admin["authorization"].split()[1])
    for what, cap in (("cap", "500"), ("unlock", "")):
        assert client.post("/bill/spending", data={"what": what, "cap": cap}).status_code == 403
    assert services.subscriptions.find(PHONE).cap_nano == 20_010_000_000
