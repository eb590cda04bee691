"""Who may order what, and what it costs."""

from datetime import timedelta

import pytest

from tests.support.ordered import charges
from tests.support.spend import balances
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import NotEligible


def test_an_add_on_is_earned_with_time(works, subscriber, clock):
    works.orders.place(subscriber, "uplink-acceleration")
    (work,) = works.orders.work_orders()
    works.orders.answer(work.work_order_id, done=True)
    clock.move(timedelta(days=10))
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert charge.recognised_nano == charge.net_nano * 10 // 30
    assert balances(works)
    clock.move(timedelta(days=20))
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.owed_nano, charge.broken_nano) == (0, 0)
    assert balances(works)


def test_whom_an_offering_is_for(works):
    person = works.subscriptions.register("+8613800000002", audiences=["person"])
    with pytest.raises(NotEligible, match="is for developer"):
        works.orders.place(person, "ctc-basic")
    works.orders.place(person, "ctc-light")
    assert [p.offering_id for p in works.orders.products(person)] == ["ctc-light"]
    with pytest.raises(Invalid, match="audiences are"):
        works.subscriptions.register("+8613800000003", audiences=["king"])
    assert works.orders.place(person, "shanghai-mobile-payg").amount_nano == 0
    with pytest.raises(NotEligible, match="there already"):
        works.orders.place(person, "shanghai-mobile-payg")


def test_a_contract_has_its_own_price_from_a_time_to_a_time(works, clock):
    firm = works.subscriptions.register("+8613800000004", "Firm", audiences=["enterprise"])
    works.subscriptions.set_contract_price(
        firm, "sample-enterprise", "3999.99", "2027-17", valid_until=clock.now() + timedelta(days=40)
    )
    works.orders.place(firm, "sample-enterprise")
    for _ in range(2):
        clock.move(timedelta(days=31))
        works.orders.run_cycles()
    assert [amount for _, amount in charges(works, firm)] == [
        3_999_990_000_000,
        3_999_990_000_000,
        4_999_000_000_000,
    ]
    assert balances(works)
