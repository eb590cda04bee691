"""What a lifted suspension begins is charged its share of the month, within the credit limit; a reversed payment suspends again."""

from datetime import UTC, datetime

import pytest

from tests.support.spend import balances
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE

YUAN = 1_000_000_000


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=BILLING_ZONE).astimezone(UTC)


@pytest.fixture
def clock():
    return ManualClock(at("2027-04-01"))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li")


def charged(services, subscriber):
    return [c.amount_nano for c in services.charges.of_subscriber(subscriber.subscriber_id)]


def test_a_lifted_suspension_begins_a_cycle_at_its_share(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    services.subscriptions.suspend(subscriber, "own_wish")
    clock.move(at("2027-05-11") - clock.now())
    services.orders.run_cycles()
    services.subscriptions.lift(subscriber, "own_wish")
    assert charged(services, subscriber) == [9_900_000_000, 9_900_000_000 * 21 // 31]
    assert balances(services)


def test_a_cycle_beyond_the_credit_limit_holds_its_product_when_a_suspension_is_lifted(
    services, subscriber, clock
):
    product = services.orders.place(subscriber, "ctc-light").product_id
    services.subscriptions.set_profile(subscriber, credit_limit_nano=10 * YUAN)
    services.subscriptions.suspend(subscriber, "own_wish")
    clock.move(at("2027-05-11") - clock.now())
    lifted = services.subscriptions.lift(subscriber, "own_wish")
    assert lifted.state == "active"
    assert services.orders.product(product)[0].state == "suspended"
    assert charged(services, subscriber) == [9_900_000_000] and balances(services)


def test_a_payment_lifts_dunning_and_its_reversal_suspends_by_payment_again(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    for day in ("2027-05-01", "2027-06-01", "2027-07-01", "2027-07-02"):
        clock.move(at(day) - clock.now())
        services.orders.run_cycles()
        services.bills.run()
        services.dunning.run_dunning()
    assert services.subscriptions.find("+8613800000001").suspended_by == ("payment",)
    services.subscriptions.suspend(subscriber, "fraud")
    payments = [
        services.payments.pay(bill, "cash", f"r{number}", bill.remaining_nano)
        for number, bill in enumerate(services.bills.all(subscriber)[0])
        if bill.remaining_nano
    ]
    paid = services.subscriptions.find("+8613800000001")
    assert (paid.suspended_by, paid.restricted, paid.state) == (("fraud",), False, "suspended")
    for payment in payments:
        services.payments.reverse(payment, "chargeback")
    again = services.subscriptions.find("+8613800000001")
    assert set(again.suspended_by) == {"fraud", "payment"} and again.restricted
    assert balances(services)
