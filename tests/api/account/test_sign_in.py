from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from tokenworks.app.ports.messages import code_sender
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Unavailable

PHONE = "+8613800000001"


def ask(client, identifier=PHONE, headers=None):
    return client.post("/api/sign-in/code", json={"identifier": identifier}, headers=headers)


def same(one, other):
    """Two answers but for their challenges, which are never the same."""
    said = [answer.json() | {"challenge": "", "length": len(answer.content)} for answer in (one, other)]
    return one.status_code == other.status_code and said[0] == said[1]


def enter(client, code, identifier=PHONE):
    return client.post("/api/sign-in", json={"identifier": identifier, "code": code})


def wrong(code):
    return f"{(int(code) + 1) % 1_000_000:06d}"


def test_a_new_number_is_registered_with_its_code_and_comes_back_as_the_same(client, codes, clock):
    asked = ask(client, "138 0000 0001").json()
    assert asked.pop("challenge").startswith("twc_")
    assert asked == {"sent": True, "valid_for_s": 300}
    ((phone, code),) = codes
    assert phone == PHONE
    made = enter(client, code, "13800000001")
    assert made.status_code == 201
    cookie = made.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    me = client.get("/api/subscriber", headers={"authorization": f"Bearer {made.json()['token']}"})
    assert me.json()["id"] == made.json()["subscriber_id"]
    assert me.json()["consents"] == {"terms": True}
    assert PHONE not in me.text
    clock.move(timedelta(minutes=2))
    client.cookies.clear()
    ask(client)
    assert enter(client, codes[-1][1]).json()["subscriber_id"] == made.json()["subscriber_id"]


def test_a_code_is_good_once_for_five_minutes_and_five_attempts(client, codes, clock):
    ask(client)
    code = codes[-1][1]
    for _ in range(4):
        assert enter(client, wrong(code)).status_code == 422
    assert enter(client, code).status_code == 201
    assert enter(client, code).status_code == 422  # used
    clock.move(timedelta(minutes=2))
    ask(client)
    code = codes[-1][1]
    for _ in range(5):
        assert enter(client, wrong(code)).status_code == 422
    assert enter(client, code).status_code == 422  # five attempts are over
    clock.move(timedelta(minutes=2))
    ask(client)
    clock.move(timedelta(minutes=5, seconds=1))
    assert enter(client, codes[-1][1]).status_code == 422  # too old
    ask(client)
    first = codes[-1][1]
    clock.move(timedelta(minutes=1, seconds=1))
    ask(client)
    assert len(codes) == 5
    if codes[-1][1] != first:  # one in a million
        assert enter(client, first).status_code == 422  # another one was asked for
    assert enter(client, codes[-1][1]).status_code == 201


def test_codes_are_limited_for_a_number_and_from_an_address(client, codes, clock):
    assert ask(client).status_code == 202
    again = ask(client)
    assert again.status_code == 429 and 1 <= int(again.headers["retry-after"]) <= 61
    for _ in range(4):
        clock.move(timedelta(minutes=2))
        assert ask(client).status_code == 202
    clock.move(timedelta(minutes=2))
    assert ask(client).status_code == 429  # five an hour
    line = {"x-forwarded-for": "2001:db8::7"}
    sent = len(codes)
    for number in range(40):
        ask(client, f"+8613900000{number:03d}", line)
    assert len(codes) - sent == 30  # an hour from one line
    clock.move(timedelta(hours=1))
    assert ask(client).status_code == 202


def test_an_unknown_number_gets_the_same_answer_as_a_known_one(client, codes, services):
    services.subscriptions.register("+8613800000007", broadband="sh87654321")
    known, unknown = ask(client, "sh87654321"), ask(client, "sh00000000")
    assert same(known, unknown)
    assert [phone for phone, _ in codes] == ["+8613800000007"]
    assert enter(client, codes[0][1], "sh87654321").status_code == 201
    assert enter(client, "123456", "sh00000000").json() == enter(client, "123456", "+8613812345678").json()


def test_one_signs_in_by_a_number_and_by_nothing_else_that_names_one(client, codes, services):
    """Limits are kept by what is asked for: a name that can be spelled in many ways would be one limit for each."""
    made = services.subscriptions.register("+8613800000007", "Wilhelmina", broadband="sh87654321")
    for name in (made.subscriber_id.hex, made.subscriber_id.hex.upper(), "Wilhelmina"):
        assert same(ask(client, name), ask(client, f"sh{len(name)}{name[:4]}"))
        assert codes == []
        client.cookies.clear()


def test_a_code_that_can_t_be_sent_tells_nobody_who_has_a_broadband_account(services, api, codes):
    services.subscriptions.register("+8613800000007", broadband="sh87654321")
    asked = []

    def fails(phone, code):
        asked.append(phone)
        raise Unavailable("the message centre does not answer")

    api.state.send_code = fails
    with TestClient(api, raise_server_exceptions=False) as client:
        known, unknown = ask(client, "sh87654321"), ask(client, "sh00000000")
        assert same(known, unknown)
        assert known.status_code == 202 and asked == ["+8613800000007"]
        # A phone number is always sent to: who has it plays no part.
        assert ask(client, "+8613800000007").status_code == ask(client, "+8613812345678").status_code == 503


def test_a_session_ends(client, services, signed_in, clock):
    one = services.subscriptions.register(PHONE)
    headers = signed_in(one)
    assert client.get("/api/subscriber", headers=headers).status_code == 200
    assert client.post("/api/sign-out", headers=headers).status_code == 204
    gone = client.get("/api/subscriber", headers=headers)
    assert gone.status_code == 401 and gone.headers["www-authenticate"] == "Bearer"
    assert gone.headers["content-type"] == "application/problem+json"
    headers = signed_in(one)
    clock.move(timedelta(days=7, seconds=1))
    assert client.get("/api/subscriber", headers=headers).status_code == 401
    headers = signed_in(one)
    services.subscriptions.close(one)
    assert client.get("/api/subscriber", headers=headers).status_code == 401


def test_a_cookie_is_for_this_sites_own_pages(client, services, signed_in):
    text = signed_in(services.subscriptions.register(PHONE))["authorization"].split()[1]
    client.cookies.set("tokenworks_session", text)
    assert client.get("/api/subscriber").status_code == 200
    body = {"spend_locked": True}
    assert (
        client.patch("/api/subscriber", json=body, headers={"sec-fetch-site": "cross-site"}).status_code
        == 403
    )
    assert (
        client.patch("/api/subscriber", json=body, headers={"sec-fetch-site": "same-origin"}).status_code
        == 200
    )


def test_another_sites_page_has_no_codes_sent(client, codes):
    """Its visitors' browsers would ask from as many addresses as there are visitors."""
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert ask(client, headers=headers).status_code == 403
        asked = client.post("/sign-in/code", data={"identifier": PHONE}, headers=headers)
        assert asked.status_code == 403 and "set-cookie" not in asked.headers
    assert codes == []
    assert client.post(
        "/sign-in/code", data={"identifier": PHONE}, headers={"sec-fetch-site": "same-origin"}
    ).is_success


@pytest.mark.parametrize("environment", ["prod", "live"])
def test_the_built_in_sender_is_for_dev_alone(tmp_path, environment):
    dev = load_settings({"data_dir": str(tmp_path)}).settings
    code_sender(dev)(PHONE, "123456")
    assert (tmp_path / "one-time-codes").read_text().endswith(f"{PHONE} 123456\n")
    assert (tmp_path / "one-time-codes").stat().st_mode & 0o777 == 0o600
    other = dev.model_copy(update={"environment": environment})
    with pytest.raises(Unavailable, match="sms_url"):
        code_sender(other)(PHONE, "123456")


# Families.


def test_invite_accept_and_leave(client, services, codes, signed_in, spender):
    parent = services.subscriptions.register(PHONE, "Li")
    services.orders.place(parent, "ctc-light")
    head = signed_in(parent)
    invited = client.post(
        "/api/members", json={"phone": "13800000002", "name": "Mei", "cap_tokens": 1000}, headers=head
    )
    assert (invited.status_code, invited.json()["state"]) == (201, "invited")
    assert (
        client.post("/api/members", json={"phone": "13800000002", "name": "Mei2"}, headers=head).status_code
        == 409
    )
    # Mei signs in with her own number, accepts, goes on as a member there, and makes a key.
    ask(client, "13800000002")
    own = {"authorization": f"Bearer {enter(client, codes[-1][1], '13800000002').json()['token']}"}
    client.cookies.clear()
    (offer,) = client.get("/api/memberships", headers=own).json()
    assert (offer["of"], offer["state"]) == ("Li", "invited")
    assert client.post(f"/api/memberships/{offer['id']}/session", headers=own).status_code == 404
    assert (
        client.patch(f"/api/memberships/{offer['id']}", json={"state": "active"}, headers=own).status_code
        == 200
    )
    there = client.post(f"/api/memberships/{offer['id']}/session", headers=own).json()["token"]
    client.cookies.clear()
    there = {"authorization": f"Bearer {there}"}
    key = client.post("/api/keys", json={"name": "phone"}, headers=there).json()
    assert key["key"].startswith("twk_")
    # A member sees its own keys and the pool's balance, and neither orders nor bills.
    services.keys.issue(
        account_id=parent.account_id, member_id=services.subscriptions.owner_of(parent), name="parent's"
    )
    assert [k["id"] for k in client.get("/api/keys", headers=there).json()] == [key["id"]]
    assert len(client.get("/api/keys", headers=head).json()) == 2
    assert (
        client.get("/tmf-api/prepayBalanceManagement/v4/accumulatedBalance", headers=there).status_code == 200
    )
    assert client.get("/tmf-api/customerBillManagement/v4/customerBill", headers=there).status_code == 403
    assert (
        client.patch(f"/api/memberships/{offer['id']}", json={"state": "left"}, headers=own).status_code
        == 200
    )
    assert client.get("/api/keys", headers=there).status_code == 401
    assert client.get("/api/keys", headers=head).json()[0]["revoked_at"]
    assert client.get("/api/memberships", headers=own).json() == []
