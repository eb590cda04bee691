"""Through a real `serve`: the control plane counts the asker that the gateway vetted, and links what a TLS proxy says."""

import json

import pytest

from tests.support.server import Server


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("proxied"), trusted_proxies="127.0.0.0/8") as server:
        yield server


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("alone")) as server:
        yield server


def ask(server, number, **headers):
    status, body, answered = server.request(
        "POST",
        "/api/sign-in/code",
        body={"identifier": f"+86138{number:08d}"},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    return status, json.loads(body), answered


def askers(server):
    rows = server.connection.execute("SELECT address, count(*) FROM sign_in_code GROUP BY address")
    return dict(rows.fetchall())


def test_askers_are_counted_apart_behind_a_proxy(proxied):
    for number in range(35):
        assert ask(proxied, number, x_forwarded_for=f"203.0.113.{number}")[0] == 202
    # One line of IPv6 has its limit, whichever addresses it takes, and nobody else has it.
    answers = [ask(proxied, 100 + n, x_forwarded_for=f"2001:db8:7:7::{n:x}")[0] for n in range(32)]
    assert answers == [202] * 30 + [429] * 2
    assert ask(proxied, 200, x_forwarded_for="2001:db8:7:8::1")[0] == 202
    found = askers(proxied)
    assert found["2001:db8:7:7::/64"] == 30
    assert found["203.0.113.0"] == 1


def test_what_a_client_says_of_itself_is_not_taken(alone):
    for number in range(3):
        said = f"198.51.100.{number}"
        assert ask(alone, number, x_forwarded_for=said, x_real_ip=said, forwarded=f"for={said}")[0] == 202
    assert askers(alone) == {"127.0.0.1": 3}
    status, _, headers = ask(alone, 9, x_forwarded_proto="https")
    assert status == 202 and "Secure" not in headers["set-cookie"]


def test_behind_a_tls_proxy_cookies_are_secure_and_links_right(proxied):
    headers = {"x-forwarded-for": "203.0.113.77", "x-forwarded-proto": "https", "host": "shop.example"}
    _, body, answered = proxied.request(
        "POST", "/api/sign-in/code", body={"identifier": "+8613912345678"}, headers=headers
    )
    assert "Secure" in answered["set-cookie"]
    code = (proxied.data_dir / "one-time-codes").read_text().split()[-1]
    status, made, answered = proxied.request(
        "POST",
        "/api/sign-in",
        body={"identifier": "+8613912345678", "code": code, "challenge": json.loads(body)["challenge"]},
        headers={**headers, "origin": "https://shop.example"},
    )
    assert status == 201 and "tokenworks_session" in answered["set-cookie"]
    assert "Secure" in answered["set-cookie"]
    token = json.loads(made)["token"]
    path = "/tmf-api/productCatalogManagement/v4/productOffering?limit=1"
    (offering,) = json.loads(proxied.request("GET", path, headers=headers)[1])
    assert offering["href"].startswith("https://shop.example/tmf-api/")
    named = {**headers, "x-forwarded-host": "kiosk.example"}
    (offering,) = json.loads(proxied.request("GET", path, headers=named)[1])
    assert offering["href"].startswith("https://kiosk.example/tmf-api/")
    (session,) = json.loads(proxied.get("/api/sessions", token, headers)[1])
    assert session["address"] == "203.0.113.77"
    # Another site's page is refused by its origin, where the browser says nothing better.
    cookie = {**headers, "cookie": f"tokenworks_session={token}"}
    for origin, want in (("https://evil.example", 403), ("https://shop.example", 200)):
        status, _, _ = proxied.request(
            "PATCH", "/api/subscriber", body={"spend_locked": True}, headers={**cookie, "origin": origin}
        )
        assert status == want
