"""What the credit limit holds back goes on by itself, once, when there is room again, and says so."""

import threading
from datetime import UTC, datetime

import pytest

from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE, text_of

YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li", credit_limit_nano=12 * YUAN)


@pytest.fixture
def held(works, subscriber, clock):
    """A plan whose second month the limit did not allow."""
    product_id = works.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    assert works.orders.product(product_id)[0].state == "suspended"
    assert works.orders.product(product_id)[0].held
    return product_id


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def notices(works):
    rows = works.connection.execute("SELECT kind, content FROM notification ORDER BY notification_id")
    return [(kind, content) for kind, content in rows if kind.startswith("credit_limit")]


def pay(works, subscriber):
    works.bills.run()
    ((bill,), _) = works.bills.all(subscriber)
    works.payments.pay(bill, "cash", "c")


def credit(works, subscriber):
    works.bills.run()
    ((bill,), _) = works.bills.all(subscriber)
    works.bills.correct(bill, 1, 9_900_000_000, "an outage")


def refund(works, subscriber):
    ((order,), _) = works.orders.all(subscriber)
    works.refunds.refund(order.order_id, "amount", "sorry", amount_nano=9 * YUAN)


def raise_limit(works, subscriber):
    works.subscriptions.set_profile(subscriber, credit_limit_nano=20 * YUAN)


@pytest.mark.parametrize("event", [pay, credit, refund, raise_limit])
def test_it_goes_on_once_with_a_notice(works, subscriber, clock, held, event):
    to(clock, 2027, 5, 11)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "suspended"
    event(works, subscriber)
    works.orders.run_cycles()
    product, _ = works.orders.product(held)
    assert (product.state, product.cycle_no, product.cycle_start, product.held) == (
        "active",
        2,
        clock.now(),
        False,
    )
    charged = [c.amount_nano for c in works.charges.of_product(held) if c.kind == "cycle"]
    # Time that it stood still is not charged.
    assert charged == [9_900_000_000, 9_900_000_000 * 21 // 31]
    told = notices(works)
    assert [kind for kind, _ in told] == ["credit_limit", "credit_limit.released"]
    for kind, content in told:
        assert "中国电信轻享版" in text_of(kind, content, "zh") and "China Telecom Light" in text_of(
            kind, content, "en"
        )
    works.orders.run_cycles()
    assert len(works.charges.of_product(held)) == len(charged) + (event is refund or event is credit)
    assert notices(works) == told and balances(works)


def test_where_there_is_room_for_a_part_it_waits_for_the_rest(works, subscriber, held, clock):
    works.subscriptions.set_profile(subscriber, credit_limit_nano=15 * YUAN)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "suspended" and len(notices(works)) == 1
    # Later in the month its share is less.
    to(clock, 2027, 5, 20)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "active" and balances(works)


def test_what_was_paused_by_hand_stays_paused(works, subscriber, clock):
    product_id = works.orders.place(subscriber, "ctc-light").product_id
    works.orders.suspend(product_id)
    raise_limit(works, subscriber)
    to(clock, 2027, 5, 2)
    works.orders.run_cycles()
    assert works.orders.product(product_id)[0].state == "suspended" and notices(works) == []


def test_a_suspension_of_the_subscriber_comes_first(works, subscriber, held):
    works.subscriptions.suspend(subscriber, "own_wish")
    raise_limit(works, subscriber)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "suspended"
    works.subscriptions.lift(subscriber, "own_wish")
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "active" and balances(works)


def test_it_can_be_resumed_or_cancelled_by_hand_all_the_same(works, subscriber, held):
    raise_limit(works, subscriber)
    works.orders.resume(held)
    works.orders.run_cycles()
    assert len(works.charges.of_product(held)) == 2
    assert [kind for kind, _ in notices(works)] == ["credit_limit"]
    works.orders.cancel(held)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "cancelled" and balances(works)


def test_what_is_cancelled_for_its_end_ends_and_is_not_told(works, subscriber, held):
    works.orders.cancel(held, "cycle_end")
    raise_limit(works, subscriber)
    works.orders.run_cycles()
    assert works.orders.product(held)[0].state == "expired"
    assert len(works.charges.of_product(held)) == 1
    assert [kind for kind, _ in notices(works)] == ["credit_limit"]


def test_hosts_at_once_let_it_go_on_once(works, subscriber, held, clock, database_url, session_dir):
    raise_limit(works, subscriber)
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    asked = threading.Barrier(3, timeout=30)

    def run():
        with connect(database_url) as connection:
            there = make_works(settings, connection, ManualClock(clock.now()))
            asked.wait()
            there.orders.run_cycles()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(works.charges.of_product(held)) == 2 and works.failed_jobs.all() == []
    assert [kind for kind, _ in notices(works)] == ["credit_limit", "credit_limit.released"] and balances(
        works
    )
