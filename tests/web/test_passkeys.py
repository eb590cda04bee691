"""Passkeys over HTTP: what a person does with them, and what nobody gains with a wrong, an old, a copied or another one's answer."""

from datetime import timedelta

import cbor2
import pytest
from fastapi.testclient import TestClient

from tests.support.authenticator import ATTESTED, PRESENT, VERIFIED, Authenticator, content, text
from tokenworks.trust import PasskeySites

PHONE, MEI = "+8613800000001", "+8613800000002"
HERE = {"x-forwarded-for": "203.0.113.1"}


@pytest.fixture
def shop(services, api):
    """A client of https://shop.example, to which passkeys belong."""
    services.passkeys._sites = PasskeySites(origins="https://shop.example https://m.shop.example")
    with TestClient(api, base_url="https://shop.example", raise_server_exceptions=False) as made:
        made.headers["x-forwarded-proto"] = "https"
        yield made


@pytest.fixture
def li(services, signed_in):
    return signed_in(services.subscriptions.register(PHONE, "Li"))


def options(shop, who):
    answer = shop.post("/api/passkeys/options", headers=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


def add(shop, who, key=None, name="phone", **wrong):
    key = key or Authenticator()
    body = {"name": name, "credential": key.make(options(shop, who), **wrong)}
    return key, shop.post("/api/passkeys", json=body, headers=who)


def begin(shop, headers=HERE):
    return shop.post("/api/sign-in/passkey/options", headers=headers).json()


def enter(shop, credential, headers=HERE):
    shop.cookies.clear()
    return shop.post("/api/sign-in/passkey", json={"credential": credential}, headers=headers)


KEYS = ({}, {"algorithm": -8, "counts": False, "synced": True}, {"algorithm": -257, "id_bytes": 1023})


def test_a_person_adds_a_passkey_and_signs_in_with_it(shop, services, li):
    """With nothing that was typed, in a session as a code opens one."""
    for kind in KEYS:
        authenticator, made = add(shop, li, Authenticator(**kind))
        assert made.status_code == 201, made.text
        assert made.json()["synced"] == kind.get("synced", False)
        for _ in range(2):
            entered = enter(shop, authenticator.answer(begin(shop)))
            assert entered.status_code == 201, entered.text
        assert "HttpOnly" in entered.headers["set-cookie"] and "Secure" in entered.headers["set-cookie"]
        mine = {"authorization": f"Bearer {entered.json()['token']}"}
        (listed,) = shop.get("/api/passkeys", headers=mine).json()
        assert listed["name"] == "phone" and "used_at" in listed and "blocked_at" not in listed
        # A sign-in with a passkey is as fresh as one with a code.
        assert shop.delete(f"/api/passkeys/{listed['id']}", headers=mine).status_code == 204
        assert enter(shop, authenticator.answer(begin(shop))).status_code == 422
    assert len(shop.get("/api/sessions", headers=mine).json()) == 1 + 2 * len(KEYS)
    trail = [row["action"] for row in services.identity.audited()[0]]
    assert trail == ["passkey.remove", "sign_in", "sign_in", "passkey.add"] * len(KEYS)


def test_options_are_those_of_the_standard(shop, services, li):
    first, _ = add(shop, li)
    made = options(shop, li)
    assert made["rp"]["id"] == "shop.example" and made["attestation"] == "none"
    assert made["authenticatorSelection"]["residentKey"] == "required"
    assert made["authenticatorSelection"]["userVerification"] == "required"
    assert [one["id"] for one in made["excludeCredentials"]] == [text(first.credential_id)]
    assert made["excludeCredentials"][0]["transports"] == ["internal"], "names of the standard alone"
    assert PHONE not in str(made) and made["user"]["name"] == "…0001"
    used = begin(shop)
    assert used["allowCredentials"] == [] and used["userVerification"] == "required"
    assert len(content(used["challenge"])) >= 16


WRONG_NEW = {
    "another origin": {"origin": "https://shop.example.evil.example"},
    "an origin below that is not named": {"origin": "https://evil.shop.example"},
    "http": {"origin": "http://shop.example"},
    "another rp id": {"rp_id": "evil.example"},
    "nobody was there": {"flags": PRESENT},
    "nobody was verified": {"flags": VERIFIED},
    "no credential": {"flags": ATTESTED},
    "a frame of another site": {"said": {"crossOrigin": True}},
    "the answer to another question": {"said": {"type": "webauthn.get"}},
    "a challenge of its own": {"said": {"challenge": text(b"x" * 56)}},
    "a short challenge": {"said": {"challenge": ""}},
    "a challenge that is a number": {"said": {"challenge": 5}},
    "no CBOR": {"attestation": b"\xff" * 100},
    "deep CBOR": {"attestation": b"\x81" * 8000},
    "CBOR without data": {"attestation": cbor2.dumps({"fmt": "none"})},
    "data of another kind": {"attestation": cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": 7})},
}


def test_a_wrong_new_passkey_is_refused(shop, services, li):
    for name, wrong in WRONG_NEW.items():
        _, made = add(shop, li, **wrong)
        assert (made.status_code, made.json()["title"]) == (422, "PasskeyWrong"), name
    assert shop.get("/api/passkeys", headers=li).json() == []


def test_a_statement_that_nobody_asked_for_is_not_read(shop, li):
    """A password manager that sends one all the same leaves its person not out, and nothing in it is believed."""
    for statement in (("packed", {"alg": -7, "sig": b"x"}), ("tpm", {"x5c": [b"x"]}), ("new", {})):
        key, made = add(shop, li, statement=statement)
        assert made.status_code == 201, statement
        assert enter(shop, key.answer(begin(shop))).status_code == 201


def test_what_is_too_long_or_too_much_is_refused(shop, services, li):
    key = Authenticator()
    made = options(shop, li)
    whole = key.make(made)
    for field, chars in (("attestationObject", 21_849), ("clientDataJSON", 5_465)):
        long = whole | {"response": whole["response"] | {field: "A" * chars}}
        answer = shop.post("/api/passkeys", json={"name": "x", "credential": long}, headers=li)
        assert answer.status_code == 400, field
    for name in ("", "x" * 61, "a\nb", "\u202eb"):
        body = {"name": name, "credential": whole}
        assert shop.post("/api/passkeys", json=body, headers=li).status_code == 400, repr(name)
    huge = Authenticator(id_bytes=1024)
    assert add(shop, li, huge)[1].status_code == 422
    body = {"name": "phone", "credential": whole}
    assert shop.post("/api/passkeys", json=body, headers=li).status_code == 201, (
        "refusals use no challenge up"
    )
    assert shop.post("/api/passkeys", json=body, headers=li).status_code == 422, "it is used"
    services.connection.execute(
        """INSERT INTO passkey SELECT gen_random_uuid(), subscriber_id, member_id, credential_id || n::text::bytea, public_key, rp_id,
               sign_count, transports, is_synced, NULL, created_at, used_at, cloned_at FROM passkey, generate_series(1, 18) n"""
    )
    assert [add(shop, li)[1].status_code for _ in range(2)] == [201, 409]


def test_a_challenge_is_used_once_soon_and_where_it_was_made(shop, services, li, signed_in, clock):
    key, _ = add(shop, li)
    asked = begin(shop)
    answer = key.answer(asked)
    elsewhere = {"x-forwarded-for": "198.51.100.7"}
    assert enter(shop, answer, elsewhere).status_code == 422, "another address"
    assert enter(shop, answer).status_code == 201
    assert enter(shop, answer).status_code == 422, "again"
    assert enter(shop, key.answer(asked)).status_code == 422, "signed anew, to the same challenge"
    late = begin(shop)
    clock.move(timedelta(minutes=5, seconds=1))
    assert enter(shop, key.answer(late)).status_code == 422
    # A challenge to add is none to sign in, and is of its session.
    fresh = signed_in(services.subscriptions.find(PHONE))
    added = options(shop, fresh)
    assert (
        enter(shop, key.answer({"challenge": added["challenge"], "rpId": "shop.example"})).status_code == 422
    )
    other = signed_in(services.subscriptions.find(PHONE))
    body = {"name": "x", "credential": Authenticator().make(added)}
    assert shop.post("/api/passkeys", json=body, headers=other).status_code == 422
    body["credential"] = Authenticator().make(added | {"challenge": begin(shop)["challenge"]})
    assert shop.post("/api/passkeys", json=body, headers=fresh).status_code == 422
    # Only right answers are stored, and not for longer than they could be repeated.
    count = "SELECT count(*) FROM passkey_challenge"
    assert services.connection.execute(count).fetchone()[0] == 2
    clock.move(timedelta(minutes=6))
    services.passkeys.forget_old()
    assert services.connection.execute(count).fetchone()[0] == 0


WRONG_USE = {
    "another origin": {"origin": "https://evil.example"},
    "another rp id": {"rp_id": "evil.example"},
    "nobody was there": {"flags": PRESENT},
    "nobody was verified": {"flags": VERIFIED},
    "a frame of another site": {"said": {"crossOrigin": True}},
    "the answer to another question": {"said": {"type": "webauthn.create"}},
    "no handle": {"user_handle": b""},
    "another one's handle": {"user_handle": b"x" * 16},
}


def test_a_wrong_answer_signs_nobody_in(shop, li):
    key, _ = add(shop, li)
    for name, wrong in WRONG_USE.items():
        answer = enter(shop, key.answer(begin(shop), **wrong))
        assert (answer.status_code, answer.json()["title"]) == (422, "PasskeyWrong"), name
    assert enter(shop, key.answer(begin(shop))).status_code == 201


def test_another_ones_passkey_names_its_own_person(shop, services, li, signed_in):
    """A key, an id and a handle of three people in every mixture: only those that belong together sign in, as whom they belong to."""
    bo = signed_in(services.subscriptions.register("+8613800000003", "Bo"))
    mine, _ = add(shop, li)
    theirs, _ = add(shop, bo)
    stranger = Authenticator()
    for key, passkey_id, handle in (
        (mine, theirs.credential_id, theirs.user_handle),
        (mine, theirs.credential_id, mine.user_handle),
        (mine, mine.credential_id, theirs.user_handle),
        (stranger, mine.credential_id, mine.user_handle),
        (stranger, stranger.credential_id, mine.user_handle),
    ):
        answer = key.answer(begin(shop), user_handle=handle) | {"id": text(passkey_id)}
        assert enter(shop, answer).status_code == 422
    assert enter(shop, theirs.answer(begin(shop))).json()["member"] == "Bo"
    (own,) = shop.get("/api/passkeys", headers=bo).json()
    for method, more in (("PATCH", {"json": {"name": "mine now"}}), ("DELETE", {})):
        assert shop.request(method, f"/api/passkeys/{own['id']}", headers=li, **more).status_code == 404
    # The credential of another person can't be taken over by adding it.
    copied = Authenticator()
    copied.credential_id = theirs.credential_id
    assert add(shop, li, copied)[1].status_code == 422
    assert enter(shop, theirs.answer(begin(shop))).json()["member"] == "Bo"


def test_a_counter_that_goes_back_blocks_the_passkey(shop, services, li):
    """The copy and the original: whichever comes second shows that there are two, and neither goes on."""
    key, _ = add(shop, li)
    assert enter(shop, key.answer(begin(shop))).status_code == 201
    key.count -= 1
    cloned = enter(shop, key.answer(begin(shop)))
    assert (cloned.status_code, cloned.json()["title"]) == (422, "PasskeyCloned")
    key.count += 50
    assert enter(shop, key.answer(begin(shop))).json()["title"] == "PasskeyCloned"
    (listed,) = shop.get("/api/passkeys", headers=li).json()
    assert "blocked_at" in listed
    assert services.identity.audited()[0][0]["action"] == "passkey.cloned"
    # One that begins to say 0 is as one that goes back.
    other, _ = add(shop, li)
    assert enter(shop, other.answer(begin(shop))).status_code == 201
    other.counts = False
    assert enter(shop, other.answer(begin(shop))).json()["title"] == "PasskeyCloned"


def test_adding_and_removing_need_a_fresh_sign_in(shop, services, li, clock):
    key, made = add(shop, li)
    passkey = f"/api/passkeys/{made.json()['id']}"
    before = options(shop, li)
    clock.move(timedelta(minutes=10, seconds=1))
    for answer in (
        shop.post("/api/passkeys/options", headers=li),
        shop.post(
            "/api/passkeys", json={"name": "x", "credential": Authenticator().make(before)}, headers=li
        ),
        shop.delete(passkey, headers=li),
    ):
        assert (answer.status_code, answer.json()["title"]) == (403, "SignInTooOld")
    assert shop.patch(passkey, json={"name": "old phone"}, headers=li).json()["name"] == "old phone"
    # Nor does a session in another account, and back, make an old one fresh.
    host = services.subscriptions.register("+8613800000003", "Host")
    member = services.members.invite(host, PHONE, "Li")
    services.members.accept(PHONE, member.member_id)
    there = shop.post(f"/api/memberships/{member.member_id}/session", headers=li).json()
    moved = {"authorization": f"Bearer {there['token']}"}
    assert shop.post("/api/passkeys/options", headers=moved).json()["title"] == "SignInTooOld"
    entered = enter(shop, key.answer(begin(shop))).json()
    assert shop.delete(passkey, headers={"authorization": f"Bearer {entered['token']}"}).status_code == 204


def test_a_session_of_an_earlier_release_is_not_fresh(shop, services, li):
    services.connection.execute("UPDATE session SET proved_at = NULL")
    assert shop.post("/api/passkeys/options", headers=li).json()["title"] == "SignInTooOld"


def test_a_member_signs_in_as_itself_until_it_leaves(shop, services, li, signed_in):
    owner = services.subscriptions.find(PHONE)
    mei = services.members.accept(MEI, services.members.invite(owner, MEI, "Mei").member_id)
    key, made = add(shop, signed_in(owner, mei.member_id))
    assert made.status_code == 201
    entered = enter(shop, key.answer(begin(shop))).json()
    assert entered["member"] == "Mei"
    assert shop.get("/api/passkeys", headers=li).json() == [], "the owner does not see a member's"
    services.members.leave(MEI, mei.member_id)
    assert enter(shop, key.answer(begin(shop))).status_code == 422


def test_what_ends_all_sessions_ends_the_passkeys(shop, services, signed_in):
    """A lost phone has the passkey, and the next holder of a number must not find one that still works."""

    def lost(owner, cause):
        services.subscriptions.suspend(owner, cause, "test")
        assert enter(shop, key.answer(begin(shop))).status_code == 422
        services.subscriptions.lift(owner, cause, "test")

    events = (
        lambda owner: lost(owner, "lost_phone"),
        lambda owner: lost(owner, "fraud"),
        lambda owner: services.subscriptions.change_phone(owner, "+8613800000019"),
        services.subscriptions.close,
        services.privacy.erase,
    )
    for number, event in enumerate(events):
        owner = services.subscriptions.register(f"+861380000001{number}")
        key, _ = add(shop, signed_in(owner))
        event(owner)
        assert enter(shop, key.answer(begin(shop))).status_code == 422, number
        assert services.connection.execute("SELECT count(*) FROM passkey").fetchone()[0] == 0, number


def test_the_export_has_the_passkeys_with_their_names(services, shop, li):
    add(shop, li, name="Li's phone")
    export = b"".join(services.privacy.export(services.subscriptions.find(PHONE))).decode()
    assert "Li's phone" in export
    stored = services.connection.execute("SELECT name_sealed FROM passkey").fetchone()[0]
    assert b"phone" not in bytes(stored)


def test_another_sites_page_can_t_sign_in(shop, li):
    key, _ = add(shop, li)
    answer = key.answer(begin(shop))
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert enter(shop, answer, HERE | headers).status_code == 403
        assert shop.post("/api/sign-in/passkey/options", headers=HERE | headers).status_code == 403


def test_the_other_host_of_a_site_uses_the_same_passkeys(shop, api, li):
    """And an address that is not named has none, whatever its headers say."""
    key, _ = add(shop, li)
    with TestClient(api, base_url="https://m.shop.example") as mobile:
        mobile.headers["x-forwarded-proto"] = "https"
        asked = begin(mobile)
        assert asked["rpId"] == "shop.example"
        assert enter(mobile, key.answer(asked, "https://m.shop.example")).status_code == 201
    for address in ("https://evil.example", "http://shop.example", "http://localhost:8000"):
        with TestClient(api, base_url=address) as other:
            answer = other.post(
                "/api/sign-in/passkey/options", headers={"x-forwarded-proto": address.split(":")[0]}
            )
            assert (answer.status_code, answer.json()["title"]) == (422, "PasskeysOff"), address
