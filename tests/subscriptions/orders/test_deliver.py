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
    works, subscriber, database_url, session_dir, clock
):
    """As orders do: who cancels while a delivery is answered waits for it, or it for them, and neither for both."""
    works.orders.place(subscriber, "uplink-acceleration")
    (work,) = works.orders.work_orders()
    setup = load_settings({"data_dir": str(session_dir / "seed")}).settings

    def answer():
        with contextlib.closing(connect(database_url)) as connection:
            return make_works(setup, connection, clock).orders.answer(work.work_order_id, done=True)

    with ThreadPoolExecutor(1) as pool:
        with works.connection.transaction():
            works.connection.execute("SELECT 1 FROM subscriber FOR UPDATE")
            answered = pool.submit(answer)
            with contextlib.closing(connect(database_url)) as watch:
                until(
                    lambda: watch.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(),
                    what="the answer to wait",
                )
            works.connection.execute("SELECT 1 FROM work_order FOR UPDATE NOWAIT")
            works.connection.execute("SELECT 1 FROM product FOR UPDATE NOWAIT")
        assert answered.result(30) == "done"
    assert works.orders.products(subscriber)[0].state == "active"


def test_a_bundle_is_charged_by_its_parts_and_when_they_are_delivered(works, subscriber):
    order = works.orders.place(subscriber, "sample-home-bundle", delivery="cloud_computer")
    assert order.state == "inProgress"
    assert left(works, subscriber) == 40 * M  # the plan can be used at once
    uplink, security = works.orders.work_orders()
    assert [(w.port, w.delivery, w.action) for w in (uplink, security)] == [
        ("broadband", "cloud_computer", "deliver"),
        ("security", "cloud_computer", "deliver"),
    ]
    works.orders.answer(uplink.work_order_id, done=True)
    assert works.orders.find(order.order_id)[0].state == "inProgress"
    works.orders.answer(security.work_order_id, done=True)
    done = works.orders.find(order.order_id)[0]
    assert (done.state, done.amount_nano) == ("completed", 39_900_000_000)
    assert sum(amount for _, amount in charges(works, subscriber)) == 39_900_000_000
    with pytest.raises(WorkOrderAnswered):
        works.orders.answer(uplink.work_order_id, done=False)
    with pytest.raises(WorkOrderNotFound):
        works.orders.answer(uuid4(), done=True)
    # It ends as a whole, and what was delivered is taken away.
    works.orders.cancel(order.product_id)
    assert {p.state for p in works.orders.products(subscriber)} == {"cancelled"}
    assert [w.action for w in works.orders.work_orders()] == ["withdraw", "withdraw"]
    works.charges.recognise()
    assert balances(works)


def test_a_delivery_that_fails_takes_the_order_back(works, subscriber):
    order = works.orders.place(subscriber, "sample-home-bundle")
    uplink, security = works.orders.work_orders()
    works.orders.answer(uplink.work_order_id, done=True)
    for attempt in (1, 2):
        assert (
            works.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home")
            == "open"
        )
        assert works.orders.work_orders()[0].attempts == attempt + 1
    assert (
        works.orders.answer(security.work_order_id, done=False, again=True, reason="nobody home") == "refused"
    )
    failed = works.orders.find(order.order_id)[0]
    assert (failed.state, failed.reason, failed.amount_nano) == ("failed", "nobody home", 0)
    assert sum(amount for _, amount in charges(works, subscriber)) == 0
    assert left(works, subscriber) == 0
    assert [(w.port, w.action) for w in works.orders.work_orders()] == [("broadband", "withdraw")]
    works.charges.recognise()
    assert balances(works)
