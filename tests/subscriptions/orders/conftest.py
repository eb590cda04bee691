"""What the tests of orders begin with: the first instant of April 2027, and a subscriber with broadband."""

from datetime import UTC, datetime

import pytest

from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")
