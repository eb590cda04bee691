"""A member of staff signs in on the staff port of a real server: by token and code, and at a real OpenID provider."""

import contextlib
import http.client
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pyotp
import pytest

from tests.support.server import Server, until

SUPPORT = Path(__file__).parents[1] / "support"
PROVIDER_DIR = os.environ.get("OIDC_PROVIDER_DIR", str(SUPPORT / "oidc"))
needs_provider = pytest.mark.skipif(
    shutil.which("node") is None or not Path(PROVIDER_DIR, "node_modules/oidc-provider").is_dir(),
    reason="no OpenID provider here: npm ci in tests/support/oidc, or OIDC_PROVIDER_DIR names a folder with oidc-provider",
)


class Browser:
    """Requests with cookies by host and port; follows nothing by itself."""

    def __init__(self):
        self.cookies = {}

    def ask(self, method, url, form=None):
        """(status, headers, text)."""
        parts = urlsplit(url)
        jar = self.cookies.setdefault(parts.netloc, {})
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        with contextlib.closing(connection):
            headers = {
                "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items()),
                "Accept": "text/html",
            }
            if form is not None:
                headers |= {
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Sec-Fetch-Site": "same-origin",
                }
            path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request(method, path, None if form is None else urlencode(form), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        for line in answer.headers.get_all("set-cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            if value.strip('"'):
                jar[name] = value
            else:
                jar.pop(name, None)
        return answer.status, answer.headers, text

    def follow(self, method, url, form=None):
        """(address, status, text) after all redirects."""
        for _ in range(10):
            status, headers, text = self.ask(method, url, form)
            if status not in {302, 303}:
                return url, status, text
            url, method, form = urljoin(url, headers["location"]), "GET", None
        raise AssertionError("too many redirects")


@contextlib.contextmanager
def provider(back):
    """The issuer of a running OpenID provider."""
    environ = {**os.environ, "OIDC_PROVIDER_DIR": PROVIDER_DIR, "BACK": back}
    process = subprocess.Popen(
        ["node", str(SUPPORT / "oidc_provider.mjs")],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert select.select([process.stdout], [], [], 60)[0], "the provider did not start"
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class StaffServer(Server):
    """A server with a staff port, which has the client's secret."""

    def make(self):
        super().make()
        path = self.data_dir / "secrets" / "oidc-client-secret"
        path.write_text("of-the-tests-alone")
        path.chmod(0o600)

    def said(self, *args):
        return json.loads(self.cli(*args, "--json").stdout)


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def sign_in_there(browser, url):
    """Sign in as ann at the provider's own pages; returns the address with which it sends the browser back."""
    url, _, text = browser.follow("GET", url)
    for form in ({"login": "ann", "password": "any"}, {}):
        prompt = re.search(r'name="prompt" value="(\w+)"', text)[1]
        action = unescape(re.search(r'<form[^>]*action="([^"]+)"', text)[1])
        status, headers, text = browser.ask("POST", urljoin(url, action), {"prompt": prompt, **form})
        while status in {302, 303}:
            url = urljoin(url, headers["location"])
            if "/ops/" in url:
                return url
            status, headers, text = browser.ask("GET", url)
    raise AssertionError("the provider did not send the browser back")


@needs_provider
def test_a_member_signs_in_by_code_and_at_a_real_provider(session_dir):
    port = free_port()
    site = f"http://127.0.0.1:{port}"
    with provider(f"{site}/ops/sign-in/oidc/back") as issuer:
        given = {
            "staff_oidc_issuer": issuer, "staff_oidc_client_id": "tokenworks", "staff_oidc_roles": "tw-finance=finance",
            "staff_oidc_creates": "true", "staff_totp": "true", "staff_listen": f"127.0.0.1:{port}",
        }  # fmt: skip
        with StaffServer(session_dir / "staff", **given) as running:
            by_code(running, site)
            by_provider(running, site, issuer)
            log = running.log_text()
            assert "eyJ" not in log and "twf_" not in log and "two_" not in log


def by_code(running, site):
    browser = Browser()
    assert browser.ask("GET", f"{site}/ops")[0] == 401
    token = running.said("staff", "add", "--name", "Li", "--role", "auditor")["token"]
    assert browser.ask("POST", f"{site}/ops/sign-in", {"token": token})[0] == 422
    path = running.said("staff", "enrol", "--name", "Li")["path"]
    assert browser.ask("GET", site + path)[0] == 200
    link = parse_qs(urlsplit(path).query)["link"][0]
    _, _, text = browser.ask("POST", f"{site}/ops/enrol", {"link": link, "token": token})
    found = re.search(r"<code>([A-Z2-7]{32})</code>", text)
    assert found is not None, text + running.log_text()[-3000:]
    totp = pyotp.TOTP(found[1])
    confirming = totp.at(time.time())
    _, _, text = browser.ask(
        "POST", f"{site}/ops/enrol/confirm", {"link": link, "token": token, "code": confirming}
    )
    recovery = re.search(r"<code>([a-z2-7-]{19})</code>", text)[1]
    status, headers, _ = browser.ask("POST", f"{site}/ops/sign-in", {"token": token, "code": recovery})
    assert (status, headers["location"]) == (303, "/ops")
    assert "Li" in browser.ask("GET", f"{site}/ops")[2]
    (session,) = running.said("staff", "sessions")
    assert (session["method"], session["listener"], session["address"]) == (
        "recovery_code",
        "staff",
        "127.0.0.1",
    )
    # The session is of the staff port alone, and an administrator ends it.
    text = next(iter(browser.cookies.values()))["tokenworks_staff"]
    browser.cookies[running.public] = {"tokenworks_staff": text}
    assert browser.ask("GET", f"http://{running.public}/ops")[0] == 404
    assert running.said("staff", "sign-out", "--name", "Li")["ended"] == 1
    assert browser.ask("GET", f"{site}/ops")[0] == 401


def by_provider(running, site, issuer):
    browser = Browser()
    status, headers, _ = browser.ask("GET", f"{site}/ops/sign-in/oidc")
    assert status == 303 and headers["location"].startswith(f"{issuer}/auth?")
    back = sign_in_there(browser, headers["location"])
    status, _, text = browser.ask("GET", back)
    assert status == 200 and "url=/ops" in text, text
    page = browser.ask("GET", f"{site}/ops")[2]
    assert "ann@carrier.example" in page
    shown = running.said("staff", "show", "--name", "ann@carrier.example")
    assert (shown["role"], shown["is_linked"], len(shown["sessions"])) == ("finance", True, 1)
    # The same answer again, by the same browser and by another one.
    for again in (browser, Browser()):
        assert again.ask("GET", back)[0] == 422
    _, _, text = browser.ask("POST", f"{site}/ops/sign-out", {})
    assert f"{issuer}/session/end?client_id=tokenworks" in unescape(text)
    assert browser.ask("GET", f"{site}/ops")[0] == 401
    until(lambda: running.said("staff", "sessions") == [], what="the end of the sessions")
