"""Commands of orders for later: a day is the seller's, the list says it, and an order is taken back before it begins."""

import contextlib
import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from tokenworks.cli.base import Context
from tokenworks.cli.main import cli
from tokenworks.kernel import ManualClock, TokenworksError
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    """The 16th in the seller's zone, the 15th in UTC."""
    return ManualClock(datetime(2027, 4, 16, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def run(services):
    class Here(Context):
        @contextlib.contextmanager
        def services(self):
            yield services

    def run(*arguments):
        done = CliRunner().invoke(cli.commands["order"], [str(one) for one in arguments], obj=Here(None))
        if isinstance(done.exception, TokenworksError):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_an_order_for_a_later_day_is_placed_listed_and_withdrawn(services, run, clock):
    li = services.subscriptions.register("+8613800000001", "Li")
    place = ("place", "--subscriber", li.subscriber_id, "--offering")
    assert "2027-04-15 is over" in run(*place, "ctc-light", "--start", "2027-04-15")
    assert "at most 90 days" in run(*place, "ctc-light", "--start", "2027-09-01")
    text = run(*place, "ctc-light", "--start", "2027-05-01", "--dry-run")
    assert "begins on 2027-05-01" in text and services.orders.all(li)[1] == 0
    text = run(*place, "ctc-light", "--start", "2027-05-01")
    assert "ctc-light begins on 2027-05-01 (acknowledged); nothing is charged before" in text
    (made,) = services.orders.to_come(li)
    assert "2027-05-01" in run("list", "--subscriber", li.subscriber_id)
    (listed,) = json.loads(run("list", "--subscriber", li.subscriber_id, "--json"))
    assert (listed["state"], listed["has_product"]) == ("acknowledged", False)
    assert services.charges.receivable(li.account_id) == 0
    assert "is cancelled" in run("withdraw", made.order_id, "--reason", "a mistake")
    assert "cancelled" in run("withdraw", made.order_id)
    clock.move(datetime(2027, 5, 2, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()
    assert services.orders.products(li) == []


def test_today_is_now(services, run):
    li = services.subscriptions.register("+8613800000001", "Li")
    assert "product" in run(
        "place", "--subscriber", li.subscriber_id, "--offering", "ctc-light", "--start", "2027-04-16"
    )
    assert [product.state for product in services.orders.products(li)] == ["active"]
