"""What ends now, with its cycle, or before it began."""

from datetime import timedelta

import pytest

from tests.support.ordered import charges, left
from tests.support.spend import balances
from tokenworks.kernel import Invalid

M = 1_000_000


def test_a_plan_that_is_cancelled_for_its_end_ends_there(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    order = works.orders.cancel(product, "cycle_end")
    assert order.state == "pending"
    assert left(works, subscriber) == 10 * M
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    assert works.orders.products(subscriber)[0].state == "expired"
    assert works.orders.find(order.order_id)[0].state == "completed"
    assert charges(works, subscriber) == [("cycle", 9_900_000_000)]
    works.charges.recognise()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.recognised_nano, charge.broken_nano) == (0, charge.net_nano)
    assert balances(works)


def test_an_order_that_is_cancelled_before_delivery_costs_nothing(works, subscriber):
    order = works.orders.place(subscriber, "uplink-acceleration")
    assert charges(works, subscriber) == []
    works.orders.cancel(order.product_id)
    assert works.orders.find(order.order_id)[0].state == "cancelled"
    assert works.orders.work_orders() == []
    assert charges(works, subscriber) == []
    with pytest.raises(Invalid, match="is delivered as"):
        works.orders.place(subscriber, "security-protection", delivery="network")
