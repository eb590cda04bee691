"""What other systems deliver."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.support.ordered import charges, left
from tests.support.server import until
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.subscriptions import WorkOrderAnswered, WorkOrderNotFound

M = 1_000_000


def test_a_delivery_locks_its_subscriber_before_anything_else(
    services, subscriber, database_url, session_dir, clock
):
    """As orders do: who cancels while a delivery is answered waits for it, or it for them, and neither for both."""
    services.orders.place(subscriber, "uplink-acceleration")
    (work,) = services.orders.work_orders()
    setup = load_settings({"data_dir": str(session_dir / "seed")}).settings

    def answer():
        with contextlib.closing(connect(database_url)) as connection:
            return make_works(setup, connection, clock).orders.answer(work.work_order_id, done=True)

    with ThreadPoolExecutor(1) as pool:
        with services.connection.transaction():
            services.connection.execute("SELECT 1 FROM subscriber FOR UPDATE")
            answered = pool.submit(answer)
            with contextlib.closing(connect(database_url)) as watch:
                until(
                    lambda: watch.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(),
                    what="the answer to wait",
                )
            services.connection.execute("SELECT 1 FROM work_order FOR UPDATE NOWAIT")
            services.connection.execute("SELECT 1 FROM product FOR UPDATE NOWAIT")
        assert answered.result(30) == "done"
    assert services.orders.products(subscriber)[0].state == "active"


def test_a_bundle_is_charged_by_its_parts_and_when_they_are_delivered(services, subscriber):
    order = services.orders.place(subscriber, "sample-home-bundle", delivery="cloud_computer")
    assert order.state == "inProgress"
    assert left(services, subscriber) == 40 * M  # the plan can be used at once
    uplink, security = services.orders.work_orders()
    assert [(w.port, w.delivery, w.action) for w in (uplink, security)] == [
        ("broadband", "cloud_computer", "deliver"),
        ("security", "cloud_computer", "deliver"),
    ]
    services.orders.answer(uplink.work_order_id, done=True)
    assert services.orders.find(order.order_id)[0].state == "inProgress"
    services.orders.answer(security.work_order_id, done=True)
    done = services.orders.find(order.order_id)[0]
    assert (done.state, done.amount_nano) == ("completed", 39_900_000_000)
    assert sum(amount for _, amount in charges(services, subscriber)) == 39_900_000_000
    with pytest.raises(WorkOrderAnswered):
        services.orders.answer(uplink.work_order_id, done=False)
    with pytest.raises(WorkOrderNotFound):
        services.orders.answer(uuid4(), done=True)
    # It ends as a whole, and what was delivered is taken away.
    services.orders.cancel(order.product_id)
    assert {p.state for p in services.orders.products(subscriber)} == {"cancelled"}
    assert [w.action for w in services.orders.work_orders()] == ["withdraw", "withdraw"]
    services.charges.recognise()
    assert balances(services)


def test_a_delivery_that_fails_takes_the_order_back(services, subscriber):
    order = services.orders.place(subscriber, "sample-home-bundle")
    uplink, security = services.orders.work_orders()
    services.orders.answer(uplink.work_order_id, done=True)
    for attempt in (1, 2):
        assert (
            services.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home")
            == "open"
        )
        assert services.orders.work_orders()[0].attempts == attempt + 1
    assert (
        services.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home")
        == "refused"
    )
    failed = services.orders.find(order.order_id)[0]
    assert (failed.state, failed.reason, failed.amount_nano) == ("failed", "nobody home", 0)
    assert sum(amount for _, amount in charges(services, subscriber)) == 0
    assert left(services, subscriber) == 0
    assert [(w.port, w.action) for w in services.orders.work_orders()] == [("broadband", "withdraw")]
    services.charges.recognise()
    assert balances(services)
