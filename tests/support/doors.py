import contextlib
import functools
import socket
import threading
from datetime import UTC, datetime

import pytest
import uvicorn
from fastapi.testclient import TestClient

from tests.pages.person import CHROMIUM, Person
from tests.support.server import until
from tokenworks.app.http_app import make_api
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def codes():
    """(phone, code) of what was sent."""
    return []


@functools.cache
def _shared_app():
    """One application for all tests of a process: its routes are made ready by the first requests, which takes a tenth of a second."""
    return make_api(None, None, is_dev=True)


@pytest.fixture
def api(services, codes):
    """The application on the test's own connection."""

    @contextlib.contextmanager
    def open_services():
        yield services

    app = _shared_app()
    app.state.open_services = open_services
    app.state.send_code = lambda phone, code: codes.append((phone, code))
    yield app
    app.dependency_overrides.clear()


@pytest.fixture
def client(api):
    with TestClient(api, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def staff(services):
    """Headers by role."""
    return {
        role: {"authorization": f"Bearer {services.identity.add_staff(role, role)}"}
        for role in ("operator", "finance", "auditor")
    }


@pytest.fixture
def signed_in(services):
    """Headers of the owner of a number."""

    def sign_in(subscriber, member_id=None):
        owner = member_id or services.subscriptions.owner_of(subscriber)
        text, _ = services.identity.open_session(subscriber.subscriber_id, owner)
        return {"authorization": f"Bearer {text}"}

    return sign_in


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def base(api):
    """The address of the real server."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, what="the pages")
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def person(browser, base):
    made = Person(browser, base)
    yield made
    assert made.complaints == []
    made.context.close()
