"""Who may order what, and what it costs."""

from datetime import timedelta

import pytest

from tests.support.ordered import charges
from tests.support.spend import balances
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import NotEligible


def test_an_add_on_is_earned_with_time(services, subscriber, clock):
    services.orders.place(subscriber, "uplink-acceleration")
    (work,) = services.orders.work_orders()
    services.orders.answer(work.work_order_id, done=True)
    clock.move(timedelta(days=10))
    services.charges.recognise()
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    assert charge.recognised_nano == charge.net_nano * 10 // 30
    assert balances(services)
    clock.move(timedelta(days=20))
    services.charges.recognise()
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.owed_nano, charge.broken_nano) == (0, 0)
    assert balances(services)


def test_whom_an_offering_is_for(services):
    person = services.subscriptions.register("+8613800000002", audiences=["person"])
    with pytest.raises(NotEligible, match="is for developer"):
        services.orders.place(person, "ctc-basic")
    services.orders.place(person, "ctc-light")
    assert [p.offering_id for p in services.orders.products(person)] == ["ctc-light"]
    with pytest.raises(Invalid, match="audiences are"):
        services.subscriptions.register("+8613800000003", audiences=["king"])
    assert services.orders.place(person, "shanghai-mobile-payg").amount_nano == 0
    with pytest.raises(NotEligible, match="there already"):
        services.orders.place(person, "shanghai-mobile-payg")


def test_a_contract_has_its_own_price_from_a_time_to_a_time(services, clock):
    firm = services.subscriptions.register("+8613800000004", "Firm", audiences=["enterprise"])
    services.subscriptions.set_contract_price(
        firm, "sample-enterprise", "3999.99", "2027-17", valid_until=clock.now() + timedelta(days=40)
    )
    services.orders.place(firm, "sample-enterprise")
    for _ in range(2):
        clock.move(timedelta(days=31))
        services.orders.run_cycles()
    assert [amount for _, amount in charges(services, firm)] == [
        3_999_990_000_000,
        3_999_990_000_000,
        4_999_000_000_000,
    ]
    assert balances(services)
