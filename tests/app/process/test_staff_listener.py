"""The staff port: what a start refuses, whose headers are believed, bounds of a request."""

import asyncio
import contextlib
import logging
import socket
import threading
import time

import pytest
import uvicorn

from tests.support.server import until
from tokenworks.app.process import staff_listener
from tokenworks.app.process.staff_listener import (
    BODY_BYTES_MAX,
    StaffEdge,
    check_staff,
    oidc_client,
    public_door,
    server_config,
    staff_base_url,
    staff_door,
)
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, Unavailable

FAR = {"staff_listen": "0.0.0.0:8443", "staff_url": "https://ops.example"}
TLS = {"tls_certificate": "/c.pem", "tls_key": "/k.pem"}
OIDC = {"staff_oidc_issuer": "https://id.example", "staff_oidc_client_id": "tw"}


def settings(tmp_path, **given):
    return load_settings({"data_dir": str(tmp_path), **given}, {}).settings


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"listen": "0.0.0.0:443", **TLS},
        {"staff_listen": "127.0.0.1:8082"},
        {"staff_listen": "[::1]:8082", "staff_url": "http://localhost:8082"},
        {**FAR, **TLS, "staff_totp": True},
        {**FAR, **TLS, **OIDC},
        {**FAR, "trusted_proxies": "10.0.0.0/8", **OIDC},
        {**FAR, "staff_url": "http://ops.example", "allow_plain_http": True, "staff_totp": True},
        {**OIDC, "staff_oidc_issuer": "http://127.0.0.1:9000"},
        {**OIDC, "staff_oidc_roles": "a=operator", "staff_oidc_creates": True},
    ],
)
def test_a_start_that_is_safe(tmp_path, given):
    check_staff(settings(tmp_path, **given))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({**FAR, **TLS}, "staff enrol"),
        ({"staff_listen": "10.0.0.1:8443", "staff_totp": True}, "staff_url"),
        ({**FAR, "staff_totp": True}, "tls_certificate"),
        ({**FAR, **TLS, "staff_totp": True, "staff_url": "http://ops.example"}, "https"),
        # Loopback behind a proxy, or under a name of the world, is not near.
        ({"staff_listen": "127.0.0.1:8082", "trusted_proxies": "127.0.0.0/8"}, "second factor"),
        ({"staff_listen": "127.0.0.1:8082", "staff_url": "https://ops.example"}, "second factor"),
        ({"staff_url": "https://ops.example"}, "staff_listen"),
        ({"staff_oidc_issuer": "https://id.example"}, "staff_oidc_client_id"),
        ({**OIDC, "staff_oidc_issuer": "http://id.example"}, "https"),
        ({**OIDC, "staff_oidc_creates": True}, "staff_oidc_roles"),
        ({"staff_oidc_roles": "a=operator"}, "staff_oidc_issuer"),
    ],
)
def test_a_start_that_would_let_in_too_much_is_refused_with_what_to_do(tmp_path, given, says):
    with pytest.raises(Invalid, match=says):
        check_staff(settings(tmp_path, **given))


@pytest.mark.parametrize("roles", ["a", "a=owner", "=operator", "a=operator,b"])
def test_roles_of_groups_are_checked(tmp_path, roles):
    with pytest.raises(Invalid, match="staff_oidc_roles"):
        settings(tmp_path, staff_oidc_roles=roles)


def test_a_client_secret_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "secrets").mkdir()
    path = tmp_path / "secrets/oidc-client-secret"
    path.write_text("s3cret\n")
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        check_staff(settings(tmp_path, **OIDC))
    path.chmod(0o600)
    check_staff(settings(tmp_path, **OIDC))
    assert oidc_client(settings(tmp_path, **OIDC)).config.secret() == "s3cret"


def test_ops_is_on_the_public_port_only_where_that_is_near(tmp_path):
    assert public_door(settings(tmp_path)).needs_code is False
    assert public_door(settings(tmp_path, staff_totp=True)).needs_code is True
    for given in (
        {"listen": "0.0.0.0:8080"}, {"staff_listen": "127.0.0.1:8082"}, {"trusted_proxies": "127.0.0.1/32"},
        {"public_url": "https://tokens.example"},
    ):  # fmt: skip
        assert public_door(settings(tmp_path, **given)) is None, given
    near = staff_door(settings(tmp_path, staff_listen="127.0.0.1:8082"))
    assert (near.listener, near.hosts, near.needs_code) == ("staff", frozenset(), False)
    far = staff_door(settings(tmp_path, **FAR, **TLS, **OIDC))
    assert (far.hosts, far.needs_code) == ({"ops.example"}, True), (
        "the provider's second factor is the provider's"
    )
    for url in ("https://Ops.example:443/", "https://ops.example"):
        assert staff_door(settings(tmp_path, **(FAR | {"staff_url": url}), **TLS)).hosts == {"ops.example"}
    other = FAR | {"staff_url": "https://ops.example:8443"}
    assert staff_door(settings(tmp_path, **other, **TLS)).hosts == {"ops.example:8443"}
    assert far.oidc.config.redirect_url == "https://ops.example/ops/sign-in/oidc/back"
    assert staff_base_url(settings(tmp_path)) == "http://127.0.0.1:8080"


class Echo:
    """Keeps the headers of what reached it."""

    def __init__(self):
        self.seen = None

    async def __call__(self, scope, receive, send):
        self.seen = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def asked(edge, peer, headers):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": headers, "client": (peer, 5), "method": "GET", "path": "/ops"}
    asyncio.run(edge(scope, None, send))
    return sent[0]["status"]


def test_headers_that_a_client_writes_about_itself_are_not_believed():
    echo = Echo()
    edge = StaffEdge(echo, (), tls=True)
    lies = [
        (b"host", b"ops.example"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"evil"),
        (b"forwarded", b"for=1"),
    ]
    assert asked(edge, "203.0.113.5", lies) == 204
    assert echo.seen == {
        b"host": b"ops.example",
        b"x-forwarded-for": b"203.0.113.5",
        b"x-forwarded-proto": b"https",
    }


def test_a_proxys_word_counts_and_who_goes_round_it_is_refused(tmp_path):
    echo = Echo()
    edge = StaffEdge(echo, settings(tmp_path, trusted_proxies="10.0.0.0/8").proxy_networks, tls=False)
    headers = [
        (b"x-forwarded-for", b"127.0.0.1, 203.0.113.5, 10.0.0.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"ops.example"),
        (b"host", b"inner"),
    ]
    assert asked(edge, "10.0.0.1", headers) == 204
    assert echo.seen == {
        b"host": b"ops.example",
        b"x-forwarded-for": b"203.0.113.5",
        b"x-forwarded-proto": b"https",
    }
    assert asked(edge, "203.0.113.5", headers) == 403 == asked(edge, "nonsense", headers)
    assert (
        asked(edge, "10.0.0.1", [(b"x-forwarded-for", b"<script>")]) == 204
        and echo.seen[b"x-forwarded-for"] == b"10.0.0.1"
    )


@pytest.mark.parametrize(
    "header",
    [
        (b"content-length", str(BODY_BYTES_MAX + 1).encode()),
        (b"content-length", b"-1"),
        (b"content-length", b"9" * 20),
        (b"transfer-encoding", b"chunked"),
    ],
)
def test_a_body_without_a_bound_is_refused(header):
    assert asked(StaffEdge(Echo(), (), tls=True), "203.0.113.5", [header]) == 413


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a staff port whose clients have a third of a second for a request."""
    monkeypatch.setattr(staff_listener, "REQUEST_S", 0.3)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(Echo(), settings(tmp_path, staff_listen="127.0.0.1:0"), None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, what="the staff port")
    yield listener.getsockname()
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /ops HTTP/1.1\r\nHost: a", b"POST /ops HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"],
)
def test_a_client_that_does_not_go_on_is_cut(served, sent):
    with contextlib.closing(socket.create_connection(served, 10)) as sock:
        began_s = time.monotonic()
        sock.sendall(sent)
        received = b""
        while piece := sock.recv(1000):
            received += piece
    assert time.monotonic() - began_s < 9
    assert b"200" not in received.split(b"\r\n")[0]


def test_a_request_is_served(served):
    with contextlib.closing(socket.create_connection(served, 10)) as sock:
        sock.sendall(b"GET /ops HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 204")


def test_what_the_server_logs_goes_through_our_own_limits(tmp_path, monkeypatch):
    """uvicorn's own set-up would give its loggers handlers of their own: without a rate, and on a stream that may be full."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error")]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
    server_config(Echo(), settings(tmp_path, staff_listen="127.0.0.1:0"), None)
    assert all(logger.propagate and not logger.handlers for logger in loggers)
