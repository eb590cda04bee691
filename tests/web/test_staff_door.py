"""The door of staff: every route of /ops × who asks × whose sessions × which listener; cookies, names of hosts, other sites' pages."""

import contextlib
import re

import pyotp
import pytest
from fastapi.testclient import TestClient

from tests.support.openid import BACK, Provider
from tokenworks.app.http_app import make_staff_app
from tokenworks.pages import STAFF_ROUTERS
from tokenworks.trust import Origin
from tokenworks.web.staff_door import StaffDoor, is_loopback

HOST = "ops.carrier.example"
SITE = f"https://{HOST}"
# Routes for those who are not signed in; each of them opens nothing without a secret.
OPEN = {
    "GET /ops", "GET /ops/sign-in", "POST /ops/sign-in", "GET /ops/sign-in/oidc", "GET /ops/sign-in/oidc/back", "POST /ops/sign-out",
    "GET /ops/enrol", "POST /ops/enrol", "POST /ops/enrol/confirm",
}  # fmt: skip
STYLE = {"GET /static/{name}", "POST /language", "POST /theme", "GET /", "HEAD /", "GET /sign-in"}


@pytest.fixture
def provider(clock):
    return Provider(now_s=lambda: clock.now().timestamp())


@pytest.fixture
def staff_app(services, provider):
    @contextlib.contextmanager
    def open_services():
        yield services

    door = StaffDoor("staff", frozenset({HOST}), needs_code=True, oidc=provider.client())
    return make_staff_app(open_services, door, SITE)


@pytest.fixture
def ops(staff_app):
    with TestClient(staff_app, base_url=SITE, follow_redirects=False) as made:
        yield made


@pytest.fixture
def near(api):
    """The public port on loopback, where a token alone is enough."""
    api.state.staff_door = StaffDoor("public", frozenset(), needs_code=False)
    with TestClient(
        api, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 4000), follow_redirects=False
    ) as made:
        yield made
    api.state.staff_door = None


def opened(services, name, listener="staff"):
    staff_id = services.staff_sign_in.staff_id_of(name)
    text, _ = services.staff_sessions.open(staff_id, listener, "totp", "203.0.113.7", "Firefox")
    return text, services.staff_sessions.find(text, listener).session_id


def cookie(text):
    return {"cookie": f"__Host-tokenworks_staff={text}"}


def routes():
    for router in STAFF_ROUTERS:
        for route in router.routes:
            for method in sorted(route.methods):
                yield (
                    f"{method} {route.path}",
                    method,
                    route.path,
                    set((route.openapi_extra or {}).get("x-staff-roles", ())),
                )


# The walk.


def test_every_route_says_who_may_ask():
    assert {name for name, *_, roles in routes() if not roles} == OPEN | STYLE
    assert all(roles == {"operator", "finance", "auditor"} for *_, roles in routes() if roles)


@pytest.fixture
def people(services, staff, signed_in):
    """(cookies that must not open anything, by why)."""
    subscriber = services.subscriptions.register("+8613800000001", "Li")
    member = signed_in(subscriber)["authorization"].removeprefix("Bearer ")
    services.identity.add_staff("gone", "operator")
    revoked, _ = opened(services, "gone")
    services.identity.revoke_staff("gone")
    elsewhere, _ = opened(services, "operator", "public")
    ended, session_id = opened(services, "finance")
    services.staff_sessions.end(services.staff_sign_in.staff_id_of("finance"), session_id)
    return {
        "nobody": {}, "a subscriber": cookie(member) | {"authorization": f"Bearer {member}"},
        "a subscriber's cookie": {"cookie": f"tokenworks_session={member}; __Host-tokenworks_session={member}"},
        "a staff token": staff["operator"], "a staff token as a cookie": cookie(staff["operator"]["authorization"][7:]),
        "a session of the other listener": cookie(elsewhere), "a revoked person": cookie(revoked), "an ended session": cookie(ended),
        "a cookie without its prefix": {"cookie": f"tokenworks_staff={opened(services, 'auditor')[0]}"},
    }  # fmt: skip


def test_nobody_is_let_in_without_a_session_of_this_listener(ops, services, people):
    services.connection.execute("SELECT 1")
    body = {
        "id": str(opened(services, "auditor")[1]),
        "link": "twl_x",
        "token": "twf_x",
        "code": "1",
        "to": "zh",
    }
    before = services.staff_sessions.live()
    for name, method, path, roles in routes():
        for who, headers in people.items():
            if name in STYLE:
                continue
            answer = ops.request(method, path, headers=headers, data=body if method == "POST" else None)
            if roles:
                assert answer.status_code == 401, (name, who, answer.text)
            else:
                assert answer.status_code in {200, 303, 401, 422}, (name, who, answer.status_code)
                assert "__Host-tokenworks_staff=two_" not in answer.headers.get("set-cookie", ""), (name, who)
            assert "auditor" not in answer.text or "finance" not in answer.text, (name, who)
        ops.cookies.clear()
    assert {s.session_id for s in services.staff_sessions.live()} == {s.session_id for s in before}


def test_each_role_sees_and_ends_its_own_sessions_alone(ops, services, staff):
    for name in ("operator", "finance", "auditor"):
        mine, _ = opened(services, name)
        _, other = opened(services, name)
        foreign = {who: opened(services, who)[1] for who in {"operator", "finance", "auditor"} - {name}}
        page = ops.get("/ops", headers=cookie(mine))
        assert page.status_code == 200 and str(other) in page.text
        assert not any(str(session_id) in page.text for session_id in foreign.values())
        for session_id in (*foreign.values(), "x", "00000000-0000-0000-0000-000000000000"):
            answer = ops.post("/ops/sessions/end", data={"id": str(session_id)}, headers=cookie(mine))
            assert answer.status_code == 404
        assert ops.post("/ops/sessions/end", data={"id": str(other)}, headers=cookie(mine)).status_code == 303
        assert ops.post("/ops/sessions/end", data={"id": str(other)}, headers=cookie(mine)).status_code == 303
        third, _ = opened(services, name)
        assert ops.post("/ops/sessions/end-others", headers=cookie(mine)).status_code == 303
        assert services.staff_sessions.find(third, "staff") is None
        assert services.staff_sessions.find(mine, "staff") is not None
        assert {session.name for session in services.staff_sessions.live()} >= set(foreign), "others go on"
    actions = [row["action"] for row in services.identity.audited()[0]]
    assert actions.count("staff.session_end") == 3 and actions.count("staff.session_end_others") == 3


def test_a_form_that_comes_twice_is_one_row(ops, services, staff):
    """As forms of subscribers (tests/pages/test_once.py)."""
    mine, _ = opened(services, "finance")
    _, other = opened(services, "finance")
    opened(services, "finance")
    for path, body in (
        ("/ops/sessions/end", {"id": str(other)}),
        ("/ops/sessions/end-others", {}),
        ("/ops/sign-out", {}),
    ):
        _, before = services.identity.audited()
        for _ in range(2):
            ops.post(path, data=body, headers=cookie(mine))
        assert services.identity.audited()[1] - before == 1, path
    assert services.staff_sessions.live() == []


def test_a_page_of_another_site_ends_and_opens_nothing(ops, services, staff):
    mine, _ = opened(services, "finance")
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ):
        for name, method, path, _ in routes():
            if method == "POST" and name not in STYLE:
                body = {"id": "x", "link": "twl_x", "token": "twf_x", "code": "1"}
                answer = ops.post(path, data=body, headers={**cookie(mine), **headers})
                assert answer.status_code == 403, (name, headers)
    assert services.staff_sessions.find(mine, "staff") is not None


# Where /ops is.


def test_the_public_port_has_no_ops_unless_it_is_near(client, near, api, services, staff):
    for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080"):
        assert near.get("/ops", headers={"host": host}).status_code == 401
    # A page of another site whose name leads to loopback, a proxy's client, a name that is no name.
    for headers in (
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"x-forwarded-for": "203.0.113.1"},
        {"host": "[::1"},
    ):
        assert near.get("/ops", headers=headers).status_code == 404, headers
    api.state.staff_door = None
    for name, method, path, _ in routes():
        if name not in STYLE:
            assert (
                near.request(
                    method, path, data={"id": "x", "link": "x", "token": "x", "code": "x"}
                ).status_code
                == 404
            ), name


def test_the_staff_port_has_nothing_else(ops, services, staff):
    for path in (
        "/order",
        "/usage",
        "/bill",
        "/api/operations/staff",
        "/openapi.json",
        "/v1/models",
        "/tmf-api/customerBillManagement/v4/customerBill",
    ):
        assert ops.get(path, headers=staff["operator"]).status_code == 404, path
    assert ops.get("/").headers["location"] == "/ops" and ops.get("/static/tokenworks.css").status_code == 200
    assert ops.get("/ops", headers={"host": "another.example"}).status_code == 404
    assert ops.post("/language", data={"to": "en", "back": "/ops"}).headers["location"] == "/ops"


def test_names_of_loopback():
    assert [
        is_loopback(host) for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]")
    ] == [True] * 6
    assert not any(map(is_loopback, ("", "0.0.0.0", "10.0.0.1", "localhost.evil.example", "1", "::")))


# Signing in and out.


def test_a_token_alone_signs_in_near_and_not_elsewhere(near, ops, services, staff):
    token = staff["finance"]["authorization"].removeprefix("Bearer ")
    done = near.post("/ops/sign-in", data={"token": token})
    assert done.status_code == 303 and done.headers["location"] == "/ops"
    said = done.headers["set-cookie"]
    assert (
        said.startswith("tokenworks_staff=two_")
        and "HttpOnly" in said
        and "SameSite=strict" in said
        and "Secure" not in said
    )
    assert "finance" in near.get("/ops").text
    refused = ops.post("/ops/sign-in", data={"token": token})
    assert refused.status_code == 422 and "set-cookie" not in refused.headers


def test_a_session_of_one_factor_opens_nothing_once_a_code_is_needed(ops, near, api, services, staff):
    """The settings changed, or the port was opened to the world, within the life of the session."""
    staff_id = services.staff_sign_in.staff_id_of("finance")
    by_token, _ = services.staff_sessions.open(staff_id, "staff", "token", "127.0.0.1", None)
    answers = [
        ops.get("/ops", headers=cookie(by_token)),
        ops.post("/ops/sessions/end-others", headers=cookie(by_token)),
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert ops.get("/ops", headers=cookie(opened(services, "finance")[0])).status_code == 200
    near_text, _ = services.staff_sessions.open(staff_id, "public", "token", "127.0.0.1", None)
    named = {"cookie": f"tokenworks_staff={near_text}"}
    assert near.get("/ops", headers=named).status_code == 200
    api.state.staff_door = StaffDoor("public", frozenset(), needs_code=True)
    assert near.get("/ops", headers=named).status_code == 401


@pytest.fixture
def ann(services, ops, clock):
    """(token, the secret of her authenticator), set up by its pages."""
    token = services.identity.add_staff("Ann <b>", "finance")
    link = services.staff_sign_in.make_link("Ann <b>")
    assert link in ops.get("/ops/enrol", params={"link": link}).text
    assert ops.post("/ops/enrol", data={"link": link, "token": "twf_x"}).status_code == 422
    shown = ops.post("/ops/enrol", data={"link": link, "token": token})
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", shown.text)[1]
    code = pyotp.TOTP(secret).at(clock.now())
    done = ops.post("/ops/enrol/confirm", data={"link": link, "token": token, "code": code})
    assert len(re.findall(r"<code>[a-z2-7-]{19}</code>", done.text)) == 10
    assert done.headers["cache-control"] == "no-store"
    from datetime import timedelta

    clock.move(timedelta(minutes=2))
    return token, secret


def test_a_sign_in_sets_a_strict_cookie_of_this_host_and_ends_the_session_before(ops, services, ann, clock):
    token, secret = ann
    fixed, _ = opened(services, "Ann <b>")
    done = ops.post(
        "/ops/sign-in",
        data={"token": token, "code": pyotp.TOTP(secret).at(clock.now())},
        headers=cookie(fixed),
    )
    said = done.headers["set-cookie"]
    assert re.match(r"__Host-tokenworks_staff=two_[\w-]{43};", said)
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=strict"} <= set(
        said.split("; ")
    ) and "Domain" not in said
    assert services.staff_sessions.find(fixed, "staff") is None
    page = ops.get("/ops")
    assert page.status_code == 200 and "Ann &lt;b&gt;" in page.text and "<b>" not in page.text
    assert "<script>" not in page.text and "frame-ancestors 'none'" in page.headers["content-security-policy"]
    out = ops.post("/ops/sign-out")
    assert out.headers["location"] == "/ops/sign-in" and 'staff=""; ' in out.headers["set-cookie"]
    assert services.staff_sessions.live() == []
    assert ops.post("/ops/sign-out", headers=cookie(fixed)).status_code == 303, (
        "again, by a button of an old page"
    )


def test_pages_are_in_both_languages(ops):
    for language, words in (("zh", "员工登录"), ("en", "Staff sign-in")):
        assert words in ops.get("/ops/sign-in", headers={"accept-language": language}).text


def test_the_provider_signs_in_with_a_page_between(ops, services, provider, ann):
    services.staff_sign_in.set_email("Ann <b>", "ann@carrier.example")
    fixed, _ = opened(services, "Ann <b>")
    away = ops.get("/ops/sign-in/oidc", headers=cookie(fixed))
    assert away.status_code == 303 and away.headers["location"].startswith(f"{provider.issuer}/authorize?")
    said = away.headers["set-cookie"]
    assert (
        said.startswith("__Host-tokenworks_staff_flow=")
        and "SameSite=lax" in said
        and "Secure" in said
        and "Max-Age=600" in said
    )
    flow = ops.cookies.get("__Host-tokenworks_staff_flow")
    answer = provider.authorize(away.headers["location"])
    path = BACK.removeprefix(SITE)
    headers = {"cookie": f"__Host-tokenworks_staff_flow={flow}; __Host-tokenworks_staff={fixed}"}
    back = ops.get(path, params=answer, headers=headers)
    # A redirect would come to /ops without the strict cookie; the page leads on, and to nowhere else.
    assert back.status_code == 200 and 'http-equiv="refresh" content="0; url=/ops"' in back.text
    assert "SameSite=strict" in back.headers["set-cookie"]
    assert services.staff_sessions.find(fixed, "staff") is None
    assert "Ann &lt;b&gt;" in ops.get("/ops").text
    for again in (answer, answer | {"code": "code-0"}):
        replayed = ops.get(path, params=again, headers=headers)
        assert replayed.status_code == 422 and "set-cookie" not in replayed.headers
    assert len(services.staff_sessions.live()) == 1
    out = ops.post("/ops/sign-out")
    assert out.status_code == 200 and f"{provider.issuer}/end?client_id=tokenworks" in out.text
    assert "eyJ" not in out.text + back.text


def test_an_answer_for_another_browser_opens_nothing(ops, services, provider, ann):
    """A page of another site can send a browser here with the attacker's code and state (session fixation by sign-in)."""
    services.staff_sign_in.set_email("Ann <b>", "ann@carrier.example")
    attackers = provider.authorize(ops.get("/ops/sign-in/oidc").headers["location"])
    ops.cookies.clear()
    path = BACK.removeprefix(SITE)
    assert ops.get(path, params=attackers).status_code == 422
    ops.get("/ops/sign-in/oidc")
    assert ops.get(path, params=attackers).status_code == 422
    for wrong in (
        {},
        {"state": "x"},
        {"code": "x"},
        {"state": "x" * 2048, "code": "x"},
        {"error": "<script>", "state": "x"},
    ):
        answer = ops.get(path, params=wrong)
        assert answer.status_code == 422 and "<script>" not in answer.text
    assert ops.get(path, params={"state": "x" * 3000}).status_code == 400
    assert services.staff_sessions.live() == []


def test_no_page_leads_to_another_site(ops, provider):
    for path in ("/ops", "/ops/sign-in", "/ops/sign-in/oidc/back"):
        answer = ops.get(
            path,
            params={"back": "https://evil.example", "next": "//evil.example", "to": "https://evil.example"},
        )
        assert "evil.example" not in answer.text + answer.headers.get("location", "")


def test_a_provider_that_is_away_leaves_the_form(ops, provider):
    provider.away = True
    answer = ops.get("/ops/sign-in/oidc")
    assert answer.status_code == 503 and 'action="/ops/sign-in"' in answer.text


def test_without_a_provider_there_is_no_such_way(near):
    assert near.get("/ops/sign-in/oidc").status_code == 404
    assert near.get("/ops/sign-in/oidc/back", params={"state": "x", "code": "y"}).status_code == 404


def test_too_many_sign_ins_are_told_so(ops, services, ann):
    token, _ = ann
    answers = [ops.post("/ops/sign-in", data={"token": token, "code": "1"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    assert "次数过多" in answers[5].text and "次数过多" not in answers[0].text
    assert 0 < int(answers[5].headers["retry-after"]) <= 901 and "retry-after" not in answers[0].headers
    factor = services.staff_sign_in._second_factor
    link = services.staff_sign_in.make_link("Ann <b>")
    for _ in range(50):
        factor.count_attempt(None, "203.0.113.50")
    there = {"x-forwarded-for": "203.0.113.50"}
    refused = ops.post("/ops/enrol", data={"link": link, "token": "twf_x"}, headers=there)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert ops.post("/ops/enrol", data={"link": link, "token": token}, headers=there).status_code == 200


def test_refused_answers_of_the_provider_are_counted(ops, services, provider):
    factor = services.staff_sign_in._second_factor
    path, there = BACK.removeprefix(SITE), {"x-forwarded-for": "203.0.113.50"}
    for _ in range(49):
        factor.count_attempt(None, "203.0.113.50")
    for status in (422, 429):
        answer = provider.authorize(ops.get("/ops/sign-in/oidc").headers["location"])
        refused = ops.get(path, params={"state": answer["state"], "error": "access_denied"}, headers=there)
        assert refused.status_code == status
    assert int(refused.headers["retry-after"]) > 0


def test_where_a_sign_in_came_from_is_kept(ops, services, ann, clock):
    token, secret = ann
    ops.post(
        "/ops/sign-in",
        data={"token": token, "code": pyotp.TOTP(secret).at(clock.now())},
        headers={"x-forwarded-for": "203.0.113.50", "user-agent": "Safari"},
    )
    (session,) = services.staff_sessions.live()
    assert (session.address, session.client, session.listener) == ("203.0.113.50", "Safari", "staff")
    assert Origin("staff", "a").client is None
