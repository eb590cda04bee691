from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.support.auditor import verify
from tokenworks.catalog import OfferingNotActive, OfferingNotFound
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import KeyReused, PhoneTaken, ProductEnded, ProductNotFound, SubscriberNotFound
from tokenworks.subscriptions.model import BILLING_ZONE, cycle_end, parse_phone


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li")


def balances(works):
    return verify(works.connection, works.offerings.rate_cards()) == []


@pytest.mark.parametrize("text", ["13800000001", "+0138", "+86 138", "+861380000000112345", "+86138x", ""])
def test_a_phone_number_is_e164(text):
    with pytest.raises(Invalid):
        parse_phone(text)
    assert parse_phone("+86 138-0000 0001") == "+8613800000001"


def test_a_number_has_one_subscriber(works, subscriber):
    with pytest.raises(PhoneTaken) as caught:
        works.subscriptions.register("+86 13800000001")
    assert "13800000001" not in str(caught.value)
    assert (
        works.subscriptions.find("+8613800000001")
        == works.subscriptions.find(str(subscriber.subscriber_id))
        == subscriber
    )
    with pytest.raises(SubscriberNotFound):
        works.subscriptions.find(str(uuid4()))


def test_an_order_makes_buckets_and_a_bill_line(works, subscriber):
    order = works.orders.place(subscriber, "ctc-light")
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    (line,) = works.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)
    assert (bucket.total, bucket.left, bucket.product_id) == (
        10_000_000_000,
        10_000_000_000,
        order.product_id,
    )
    assert (line.amount_nano, line.currency, line.product_id) == (9_900_000_000, "CNY", order.product_id)
    assert balances(works)


def test_the_same_key_orders_once(works, subscriber):
    first = works.orders.place(subscriber, "ctc-light", "key-1")
    again = works.orders.place(subscriber, "ctc-light", "key-1")
    assert (first.order_id, first.product_id, first.amount_nano) == (
        again.order_id,
        again.product_id,
        again.amount_nano,
    )
    assert (first.new, again.new) == (True, False)
    with pytest.raises(KeyReused):
        works.orders.place(subscriber, "ctc-standard", "key-1")
    with pytest.raises(Invalid):
        works.orders.place(subscriber, "ctc-light", "bad key\n")
    assert len(works.ledger.buckets(subscriber.account_id)) == 1
    works.orders.place(subscriber, "ctc-light", "key-2", confirm=True)
    assert len(works.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)) == 2


@pytest.mark.parametrize(
    ("offering", "error"), [("none", OfferingNotFound), ("sample-study", OfferingNotActive)]
)
def test_what_is_not_on_sale_changes_nothing(works, subscriber, offering, error):
    with pytest.raises(error):
        works.orders.place(subscriber, offering)
    assert works.orders.products(subscriber) == []
    assert works.charges.of_subscriber(subscriber.subscriber_id, unbilled=True) == []


def test_every_active_offering_can_be_ordered(works):
    for number, sold in enumerate(works.offerings.for_sale(None)):
        one = works.subscriptions.register(f"+86138{number:08d}", broadband=f"sh{number:08d}")
        works.orders.place(one, sold.offering.id)
        assert works.orders.products(one)
    assert balances(works)


def test_a_cancelled_product_gives_nothing_more(works, subscriber):
    order = works.orders.place(subscriber, "ctc-light")
    assert works.orders.cancel(order.product_id).action == "delete"
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    assert (bucket.left, bucket.withdrawn) == (0, bucket.total)
    with pytest.raises(ProductEnded):
        works.orders.cancel(order.product_id)
    with pytest.raises(ProductNotFound):
        works.orders.cancel(uuid4())
    assert balances(works)


def test_months_come_and_each_has_its_line_and_bucket(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light")
    for month in range(1, 5):
        (product,) = works.orders.products(subscriber)
        clock.move(product.cycle_end - clock.now() + timedelta(days=1))
        works.orders.run_cycles()
        works.orders.run_cycles()  # twice does nothing more
        (product,) = works.orders.products(subscriber)
        assert product.cycle_no == month + 1
        assert product.cycle_end > clock.now()
        assert len(works.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)) == month + 1
        assert [b.left for b in works.ledger.buckets(subscriber.account_id)].count(10_000_000_000) == 1
        assert balances(works)


def test_what_does_not_renew_expires(works, subscriber, clock):
    works.orders.place(subscriber, "sample-trial")
    clock.move(timedelta(days=32))
    assert works.orders.run_cycles() == 1
    assert works.orders.products(subscriber)[0].state == "expired"
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    assert (bucket.left, bucket.expired) == (0, bucket.total)
    assert balances(works)


def test_cycles_of_the_calendar_and_of_the_anniversary():
    start = datetime(2026, 1, 31, 10, tzinfo=BILLING_ZONE)
    assert cycle_end("calendar_month", start, start, None) == datetime(2026, 2, 1, tzinfo=BILLING_ZONE)
    ends = []
    at = start
    for _ in range(1, 5):
        at = cycle_end("anniversary_month", start, at, None)
        ends.append((at.month, at.day))
    assert ends == [(2, 28), (3, 31), (4, 30), (5, 31)]
    # A month begins at midnight in UTC+8.
    assert cycle_end("calendar_month", start, datetime(2026, 1, 31, 16, 30, tzinfo=UTC), None) == datetime(
        2026, 3, 1, tzinfo=BILLING_ZONE
    )
    assert cycle_end("once", start, start, None) is None
