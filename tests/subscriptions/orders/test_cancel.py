"""What ends now, with its cycle, or before it began."""

from datetime import timedelta

import pytest

from tests.support.ordered import charges, left
from tests.support.spend import balances
from tokenworks.kernel import Invalid

M = 1_000_000


def test_a_plan_that_is_cancelled_for_its_end_ends_there(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    order = services.orders.cancel(product, "cycle_end")
    assert order.state == "pending"
    assert left(services, subscriber) == 10 * M
    clock.move(timedelta(days=30))
    services.orders.run_cycles()
    assert services.orders.products(subscriber)[0].state == "expired"
    assert services.orders.find(order.order_id)[0].state == "completed"
    assert charges(services, subscriber) == [("cycle", 9_900_000_000)]
    services.charges.recognise()
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.recognised_nano, charge.broken_nano) == (0, charge.net_nano)
    assert balances(services)


def test_an_order_that_is_cancelled_before_delivery_costs_nothing(services, subscriber):
    order = services.orders.place(subscriber, "uplink-acceleration")
    assert charges(services, subscriber) == []
    services.orders.cancel(order.product_id)
    assert services.orders.find(order.order_id)[0].state == "cancelled"
    assert services.orders.work_orders() == []
    assert charges(services, subscriber) == []
    with pytest.raises(Invalid, match="is delivered as"):
        services.orders.place(subscriber, "security-protection", delivery="network")
