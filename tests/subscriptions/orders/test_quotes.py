"""What an operation would cost is what it costs, and asking changes nothing."""

from datetime import UTC, datetime

import pytest

from tests.shop.tariffs import POLICIES, catalogue, plan
from tests.support.spend import balances
from tokenworks.app.views import quote_text
from tokenworks.kernel import ManualClock
from tokenworks.subscriptions import BILLING_ZONE, ChangeNotAllowed, NotEligible

MAY = datetime(2027, 5, 1, tzinfo=BILLING_ZONE)
M = 1_000_000
YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 16, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def state(services):
    """Everything that a quote might have touched."""
    tables = (
        "product",
        "product_order",
        "charge",
        "bucket",
        "work_order",
        "posting",
        "notification",
        "change",
    )
    return {
        name: services.connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in tables
    }


@pytest.mark.parametrize(
    ("policy", "now"), [("prorate", 4_950_000_000), ("full", 9_900_000_000), ("free_until_next_cycle", 0)]
)
def test_an_order_says_its_price_its_end_and_its_renewal(services, subscriber, policy, now):
    services.offerings.load(catalogue(plan("one", "9.9", policy)))
    before = state(services)
    quote = services.quotes.place(subscriber, "one")
    assert state(services) == before
    assert (quote.amount_nano, quote.ends_at, quote.renews_at, quote.renewal_nano) == (
        now,
        MAY,
        MAY,
        9_900_000_000,
    )
    assert quote.proration == policy and quote.begins_at == services.clock.now()
    assert quote.tax_nano == sum(line.tax_nano for line in quote.lines)
    assert services.orders.place(subscriber, "one").amount_nano == quote.amount_nano


def test_an_order_of_what_others_deliver_says_what_it_will_cost(services, subscriber):
    before = state(services)
    quote = services.quotes.place(subscriber, "sample-home-bundle", delivery="cloud_computer")
    assert state(services) == before
    assert sum(line.amount_nano for line in quote.lines) == quote.amount_nano
    assert len(quote.lines) == 3
    # Half a month of 39.90, each of three shares rounded down.
    assert 19_950_000_000 - 3 <= quote.amount_nano <= 19_950_000_000
    assert (quote.renewal_nano, quote.renews_at) == (39_900_000_000, MAY)
    with pytest.raises(NotEligible):
        services.offerings.load(
            catalogue(plan("beside", "1").replace("cycle:", "requires: [beside], cycle:"))
        )
        services.quotes.place(subscriber, "beside")


def test_a_first_months_price_is_followed_by_the_usual_one(services, subscriber):
    quote = services.quotes.place(subscriber, "mobile-coding-lite")
    assert (quote.amount_nano, quote.renewal_nano) == (3_950_000_000, 40 * YUAN)
    assert quote_text(quote) == (
        "3.95 CNY now; to the end of 2027-04-30; then 40.00 CNY a cycle from 2027-05-01 on. A part of a cycle: its share by "
        "time; what is not earned comes back when it is changed or cancelled."
    )


def test_what_is_sold_once_does_not_renew(services, subscriber):
    quote = services.quotes.place(subscriber, "sample-trial")
    assert (quote.amount_nano, quote.renews_at, quote.renewal_nano) == (0, None, None)
    assert (quote.ends_at - quote.begins_at).days == 30


@pytest.mark.parametrize("policy", POLICIES)
def test_a_change_a_cancellation_and_a_resume_are_quoted_as_they_come(
    services, subscriber, spender, clock, policy
):
    services.offerings.load(
        catalogue(plan("one", "9.9", policy, tokens=10 * M), plan("two", "29.9", policy, tokens=40 * M))
    )
    to(clock, 2027, 4, 1)
    order = services.orders.place(subscriber, "one")
    product = order.product_id
    assert spender.spend(subscriber.account_id, 7 * M)
    to(clock, 2027, 4, 11)
    before = state(services)
    change = services.quotes.change(product, "two")
    cancel = services.quotes.cancel(product)
    at_end = services.quotes.cancel(product, "cycle_end")
    assert state(services) == before
    assert (at_end.amount_nano, at_end.ends_at, at_end.renews_at) == (0, MAY, None)
    if policy == "free_until_next_cycle":
        assert (change.amount_nano, change.begins_at, change.renewal_nano) == (0, MAY, 29_900_000_000)
    else:
        assert change.begins_at == clock.now() and change.renewal_nano == 29_900_000_000
        assert change.amount_nano == services.orders.change(product, "two").amount_nano
        cancel = services.quotes.cancel(product)
    assert cancel.amount_nano == services.orders.cancel(product).amount_nano
    assert (cancel.ends_at, cancel.renews_at) == (clock.now(), None)
    again = services.orders.place(subscriber, "one").product_id
    services.orders.suspend(again)
    to(clock, 2027, 5, 11)
    quote = services.quotes.resume(again)
    services.orders.resume(again)
    charged = [c for c in services.charges.of_product(again) if c.period_start >= MAY]
    assert quote.amount_nano == sum(c.amount_nano for c in charged)
    assert quote.renews_at == datetime(2027, 6, 1, tzinfo=BILLING_ZONE)
    assert balances(services)


def test_what_is_still_granted_is_said_to_be_at_most(services, subscriber, spender, clock):
    to(clock, 2027, 5, 1)
    product = services.orders.place(subscriber, "ctc-light").product_id
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 4 * M * 1000)
    quote = services.quotes.cancel(product)
    assert (quote.amount_nano, quote.at_most) == (-9_900_000_000, True)
    assert quote_text(quote).startswith("9.90 CNY come back, at most; it ends at 2027-05-01 00:00:00.")
    spender.close(subscriber.account_id, granted.grant_id)
    assert not services.quotes.cancel(product).at_most


def test_a_quote_before_the_job_is_of_the_next_cycle(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    to(clock, 2027, 5, 1, 0, 0, 10)
    quote = services.quotes.cancel(product)
    # What the job would charge first is not a part of it.
    assert [line.amount_nano for line in quote.lines] == [
        -(9_900_000_000 * (31 * 86_400 - 10) // (31 * 86_400))
    ]
    assert services.orders.cancel(product).amount_nano == quote.amount_nano


def test_what_would_be_refused_is_refused(services, subscriber):
    product = services.orders.place(subscriber, "ctc-light").product_id
    before = state(services)
    with pytest.raises(ChangeNotAllowed):
        services.quotes.change(product, "ctc-light")
    with pytest.raises(ChangeNotAllowed):
        services.quotes.resume(product)
    assert state(services) == before
