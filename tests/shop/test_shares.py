"""Shares of the shipped catalogue, in seconds by hand: April is 2 592 000 of them, May 2 678 400."""

from datetime import UTC, datetime

import pytest

from tests.support.spend import balances
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def to(clock, text):
    clock.move(datetime.fromisoformat(text).replace(tzinfo=BILLING_ZONE) - clock.now())


@pytest.mark.parametrize(
    ("offering", "at", "right"),
    [
        ("security-protection", "2027-04-01 00:00", 5_000_000_000),
        ("security-protection", "2027-04-16 00:00", 2_500_000_000),
        ("security-protection", "2027-04-30 23:59", 115_740),  # 5.00 * 60 / 2592000
        ("mobile-coding-lite", "2027-04-25 12:00", 1_448_333_333),  # 7.90 * 475200 / 2592000
        ("uplink-acceleration", "2027-04-30 23:59:59.999999", 0),
    ],
)
@pytest.mark.parametrize("recognised", [False, True])
def test_what_is_unused_of_what_time_earns(services, subscriber, clock, offering, at, right, recognised):
    order = services.orders.place(subscriber, offering)
    for work in services.orders.work_orders():
        services.orders.answer(work.work_order_id, done=True)
    to(clock, at)
    if recognised:
        services.charges.recognise()
    (done,) = services.refunds.refund(order.order_id, "unused", "a test's reason")
    assert abs(done.amount_nano - right) <= (offering == "uplink-acceleration") * 10
    services.charges.recognise()
    assert balances(services)


def test_a_plan_that_is_resumed_for_an_hour(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-premium").product_id
    to(clock, "2027-04-20 00:00")
    services.orders.suspend(product)
    to(clock, "2027-05-31 23:00")
    services.orders.resume(product)
    assert services.charges.of_product(product)[-1].amount_nano == 67_069_892  # 49.90 * 3600 / 2678400
    assert balances(services)


def test_a_plan_that_is_ordered_in_the_last_minute(services, subscriber, clock):
    to(clock, "2027-06-30 23:59")
    assert services.orders.place(subscriber, "ctc-premium").amount_nano == 1_155_092  # 49.90 * 60 / 2592000
    assert balances(services)


def test_a_change_after_the_end_and_before_the_job(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, "2027-05-01 00:00:10")
    services.orders.change(product, "ctc-premium")
    services.orders.run_cycles()
    left = 2_678_400 - 10
    assert [c.amount_nano for c in services.charges.of_product(product)] == [
        9_900_000_000, 9_900_000_000, 49_900_000_000 * left // 2_678_400, -(9_900_000_000 * left // 2_678_400),
    ]  # fmt: skip
    assert balances(services)
