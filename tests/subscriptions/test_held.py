"""What the credit limit holds back goes on by itself, once, when there is room again, and says so."""

import threading
from datetime import UTC, datetime

import pytest

from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE, notice_text

YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", credit_limit_nano=12 * YUAN)


@pytest.fixture
def held(services, subscriber, clock):
    """A plan whose second month the limit did not allow."""
    product_id = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert services.orders.product(product_id)[0].state == "suspended"
    assert services.orders.product(product_id)[0].held
    return product_id


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def notices(services):
    rows = services.connection.execute("SELECT kind, content FROM notification ORDER BY notification_id")
    return [(kind, content) for kind, content in rows if kind.startswith("credit_limit")]


def pay(services, subscriber):
    services.bills.run()
    ((bill,), _) = services.bills.all(subscriber)
    services.payments.pay(bill, "cash", "c")


def credit(services, subscriber):
    services.bills.run()
    ((bill,), _) = services.bills.all(subscriber)
    services.bills.correct(bill, 1, 9_900_000_000, "an outage")


def refund(services, subscriber):
    ((order,), _) = services.orders.all(subscriber)
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=9 * YUAN)


def raise_limit(services, subscriber):
    services.subscriptions.set_profile(subscriber, credit_limit_nano=20 * YUAN)


@pytest.mark.parametrize("event", [pay, credit, refund, raise_limit])
def test_it_goes_on_once_with_a_notice(services, subscriber, clock, held, event):
    to(clock, 2027, 5, 11)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "suspended"
    event(services, subscriber)
    services.orders.run_cycles()
    product, _ = services.orders.product(held)
    assert (product.state, product.cycle_no, product.cycle_start, product.held) == (
        "active",
        2,
        clock.now(),
        False,
    )
    charged = [c.amount_nano for c in services.charges.of_product(held) if c.kind == "cycle"]
    # Time that it stood still is not charged.
    assert charged == [9_900_000_000, 9_900_000_000 * 21 // 31]
    told = notices(services)
    assert [kind for kind, _ in told] == ["credit_limit", "credit_limit.released"]
    for kind, content in told:
        assert "中国电信轻享版" in notice_text(kind, content, "zh") and "China Telecom Light" in notice_text(
            kind, content, "en"
        )
    services.orders.run_cycles()
    assert len(services.charges.of_product(held)) == len(charged) + (event is refund or event is credit)
    assert notices(services) == told and balances(services)


def test_where_there_is_room_for_a_part_it_waits_for_the_rest(services, subscriber, held, clock):
    services.subscriptions.set_profile(subscriber, credit_limit_nano=15 * YUAN)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "suspended" and len(notices(services)) == 1
    # Later in the month its share is less.
    to(clock, 2027, 5, 20)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "active" and balances(services)


def test_what_was_paused_by_hand_stays_paused(services, subscriber, clock):
    product_id = services.orders.place(subscriber, "ctc-light").product_id
    services.orders.suspend(product_id)
    raise_limit(services, subscriber)
    to(clock, 2027, 5, 2)
    services.orders.run_cycles()
    assert services.orders.product(product_id)[0].state == "suspended" and notices(services) == []


def test_a_suspension_of_the_subscriber_comes_first(services, subscriber, held):
    services.subscriptions.suspend(subscriber, "own_wish")
    raise_limit(services, subscriber)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "suspended"
    services.subscriptions.lift(subscriber, "own_wish")
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "active" and balances(services)


def test_it_can_be_resumed_or_cancelled_by_hand_all_the_same(services, subscriber, held):
    raise_limit(services, subscriber)
    services.orders.resume(held)
    services.orders.run_cycles()
    assert len(services.charges.of_product(held)) == 2
    assert [kind for kind, _ in notices(services)] == ["credit_limit"]
    services.orders.cancel(held)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "cancelled" and balances(services)


def test_what_is_cancelled_for_its_end_ends_and_is_not_told(services, subscriber, held):
    services.orders.cancel(held, "cycle_end")
    raise_limit(services, subscriber)
    services.orders.run_cycles()
    assert services.orders.product(held)[0].state == "expired"
    assert len(services.charges.of_product(held)) == 1
    assert [kind for kind, _ in notices(services)] == ["credit_limit"]


def test_hosts_at_once_let_it_go_on_once(services, subscriber, held, clock, database_url, session_dir):
    raise_limit(services, subscriber)
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
    assert len(services.charges.of_product(held)) == 2 and services.failed_jobs.all() == []
    assert [kind for kind, _ in notices(services)] == ["credit_limit", "credit_limit.released"] and balances(
        services
    )
