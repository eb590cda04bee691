from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.support.auditor import verify
from tokenworks.catalog import OfferingNotActive, OfferingNotFound
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import KeyReused, PhoneTaken, ProductEnded, ProductNotFound, SubscriberNotFound
from tokenworks.subscriptions.model import BILLING_ZONE, cycle_end, parse_phone


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li")


def balances(services):
    return verify(services.connection, services.offerings.rate_cards()) == []


@pytest.mark.parametrize("text", ["13800000001", "+0138", "+86 138", "+861380000000112345", "+86138x", ""])
def test_a_phone_number_is_e164(text):
    with pytest.raises(Invalid):
        parse_phone(text)
    assert parse_phone("+86 138-0000 0001") == "+8613800000001"


def test_a_number_has_one_subscriber(services, subscriber):
    with pytest.raises(PhoneTaken) as caught:
        services.subscriptions.register("+86 13800000001")
    assert "13800000001" not in str(caught.value)
    assert (
        services.subscriptions.find("+8613800000001")
        == services.subscriptions.find(str(subscriber.subscriber_id))
        == subscriber
    )
    with pytest.raises(SubscriberNotFound):
        services.subscriptions.find(str(uuid4()))


def test_an_order_makes_buckets_and_a_bill_line(services, subscriber):
    order = services.orders.place(subscriber, "ctc-light")
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    (line,) = services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)
    assert (bucket.total, bucket.left, bucket.product_id) == (
        10_000_000_000,
        10_000_000_000,
        order.product_id,
    )
    assert (line.amount_nano, line.currency, line.product_id) == (9_900_000_000, "CNY", order.product_id)
    assert balances(services)


def test_the_same_key_orders_once(services, subscriber):
    first = services.orders.place(subscriber, "ctc-light", "key-1")
    again = services.orders.place(subscriber, "ctc-light", "key-1")
    assert (first.order_id, first.product_id, first.amount_nano) == (
        again.order_id,
        again.product_id,
        again.amount_nano,
    )
    assert (first.new, again.new) == (True, False)
    with pytest.raises(KeyReused):
        services.orders.place(subscriber, "ctc-standard", "key-1")
    with pytest.raises(Invalid):
        services.orders.place(subscriber, "ctc-light", "bad key\n")
    assert len(services.ledger.buckets(subscriber.account_id)) == 1
    services.orders.place(subscriber, "ctc-light", "key-2", confirm=True)
    assert len(services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)) == 2


@pytest.mark.parametrize(
    ("offering", "error"), [("none", OfferingNotFound), ("sample-study", OfferingNotActive)]
)
def test_what_is_not_on_sale_changes_nothing(services, subscriber, offering, error):
    with pytest.raises(error):
        services.orders.place(subscriber, offering)
    assert services.orders.products(subscriber) == []
    assert services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True) == []


def test_every_active_offering_can_be_ordered(services):
    for number, sold in enumerate(services.offerings.for_sale(None)):
        one = services.subscriptions.register(f"+86138{number:08d}", broadband=f"sh{number:08d}")
        services.orders.place(one, sold.offering.id)
        assert services.orders.products(one)
    assert balances(services)


def test_a_cancelled_product_gives_nothing_more(services, subscriber):
    order = services.orders.place(subscriber, "ctc-light")
    assert services.orders.cancel(order.product_id).action == "delete"
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    assert (bucket.left, bucket.withdrawn) == (0, bucket.total)
    with pytest.raises(ProductEnded):
        services.orders.cancel(order.product_id)
    with pytest.raises(ProductNotFound):
        services.orders.cancel(uuid4())
    assert balances(services)


def test_months_come_and_each_has_its_line_and_bucket(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light")
    for month in range(1, 5):
        (product,) = services.orders.products(subscriber)
        clock.move(product.cycle_end - clock.now() + timedelta(days=1))
        services.orders.run_cycles()
        services.orders.run_cycles()  # twice does nothing more
        (product,) = services.orders.products(subscriber)
        assert product.cycle_no == month + 1
        assert product.cycle_end > clock.now()
        assert len(services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True)) == month + 1
        assert [b.left for b in services.ledger.buckets(subscriber.account_id)].count(10_000_000_000) == 1
        assert balances(services)


def test_what_does_not_renew_expires(services, subscriber, clock):
    services.orders.place(subscriber, "sample-trial")
    clock.move(timedelta(days=32))
    assert services.orders.run_cycles() == 1
    assert services.orders.products(subscriber)[0].state == "expired"
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    assert (bucket.left, bucket.expired) == (0, bucket.total)
    assert balances(services)


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
