import contextlib
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from tokenworks.console import make_api
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def codes():
    """(phone, code) of what was sent."""
    return []


@pytest.fixture
def api(works, codes):
    """The application on the test's own connection."""

    @contextlib.contextmanager
    def open_rooms():
        yield works

    return make_api(open_rooms, lambda phone, code: codes.append((phone, code)))


@pytest.fixture
def client(api):
    with TestClient(api, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def staff(works):
    """Headers by role."""
    return {
        role: {"authorization": f"Bearer {works.identity.add_staff(role, role)}"}
        for role in ("operator", "finance", "auditor")
    }


@pytest.fixture
def signed_in(works):
    """Headers of the owner of a number."""

    def sign_in(subscriber, member_id=None):
        owner = member_id or works.subscriptions.owner_of(subscriber)
        text, _ = works.identity.open_session(subscriber.subscriber_id, owner)
        return {"authorization": f"Bearer {text}"}

    return sign_in
