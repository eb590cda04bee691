"""What the tests of this room begin with: the first instant of April 2027."""

from datetime import UTC, datetime

import pytest

from tests.support.april import to_may
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li")


@pytest.fixture
def billed(services, subscriber, clock):
    """(works, bill): April of a light plan."""
    services.orders.place(subscriber, "ctc-light")
    to_may(services, clock)
    services.bills.run()
    (bills, count) = services.bills.all(subscriber)
    assert count == 1
    return services, bills[0]
