"""Orders for later: nothing is there and nothing is charged until their instant; then they are placed by the ordinary rules."""

import threading
from datetime import UTC, date, datetime, timedelta

import pytest

from tests.shop.tariffs import catalogue, plan
from tests.support.spend import balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import (
    BILLING_ZONE,
    ChangeNotAllowed,
    KeyReused,
    NotEligible,
    SecondNotConfirmed,
    TooManyToCome,
    notice_text,
)
from tokenworks.subscriptions.orders import place
from tokenworks.subscriptions.orders.starts import START_DAYS_MAX, TO_COME_MAX, same_start, start_of

YUAN = 1_000_000_000
MAY = datetime(2027, 5, 1, tzinfo=BILLING_ZONE)


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 16, 9, 30, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li")


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def notices(services):
    rows = services.connection.execute("SELECT kind, ref, content FROM notification ORDER BY notification_id")
    return [(kind, ref, content) for kind, ref, content in rows if kind == "order.failed"]


def untouched(services, subscriber):
    return (
        services.orders.products(subscriber) == []
        and services.charges.of_subscriber(subscriber.subscriber_id) == []
        and services.ledger.buckets(subscriber.account_id) == []
    )


def test_a_day_is_read_in_the_sellers_zone():
    now = datetime(2027, 4, 15, 17, tzinfo=UTC)  # the 16th there
    assert start_of(date(2027, 4, 16), now) is None
    assert start_of(date(2027, 4, 17), now) == datetime(2027, 4, 17, tzinfo=BILLING_ZONE)
    later = now + timedelta(hours=3)
    assert start_of(later, now) == later and start_of(now - timedelta(minutes=59), now) is None
    for over in (date(2027, 4, 15), now - timedelta(minutes=61)):
        with pytest.raises(Invalid, match=r"today \(2027-04-16\) or later: 2027-04-15 is over"):
            start_of(over, now)
    last = date(2027, 4, 16) + timedelta(days=START_DAYS_MAX)
    assert start_of(last, now) is not None
    with pytest.raises(Invalid, match=f"at most {START_DAYS_MAX} days"):
        start_of(last + timedelta(days=1), now)


def test_a_repeat_says_the_same_start_also_when_it_is_over():
    ordered = datetime(2027, 4, 16, tzinfo=UTC)
    assert same_start(None, ordered, None) and same_start(None, ordered, date(2027, 4, 16))
    assert same_start(MAY, ordered, date(2027, 5, 1)) and same_start(MAY.astimezone(UTC), ordered, MAY)
    assert not same_start(MAY, ordered, None) and not same_start(MAY, ordered, date(2027, 5, 2))
    assert not same_start(None, ordered, date(2027, 4, 17))


def test_it_waits_and_begins_at_its_instant(services, subscriber, clock):
    made = services.orders.place(subscriber, "ctc-light", "k", start=date(2027, 5, 1))
    assert (made.state, made.starts_at, made.amount_nano, made.has_product) == ("acknowledged", MAY, 0, False)
    to(clock, 2027, 4, 30, 23, 59, 59)
    assert services.orders.run_cycles() == 0 and untouched(services, subscriber)
    # The job comes 40 seconds late: the month is whole all the same.
    to(clock, 2027, 5, 1, 0, 0, 40)
    assert services.orders.run_cycles() == 1
    (product,) = services.orders.products(subscriber)
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    found, _ = services.orders.find(made.order_id)
    assert (found.state, found.amount_nano, found.product_id, found.has_product) == (
        "completed", 9_900_000_000, product.product_id, True,
    )  # fmt: skip
    assert (product.cycle_start, charge.period_start, charge.amount_nano) == (MAY, MAY, 9_900_000_000)
    assert services.orders.run_cycles() == 0 and len(services.orders.products(subscriber)) == 1
    again = services.orders.place(subscriber, "ctc-light", "k", start=date(2027, 5, 1))
    assert (again.order_id, again.new) == (made.order_id, False)
    for start in (None, date(2027, 5, 2)):
        with pytest.raises(KeyReused):
            services.orders.place(subscriber, "ctc-light", "k", start=start)
    assert notices(services) == [] and balances(services)


def test_today_is_now_and_other_days_have_bounds(services, subscriber):
    made = services.orders.place(subscriber, "ctc-light", start=date(2027, 4, 16))
    assert (made.state, made.starts_at) == ("completed", None)
    for day in (date(2027, 4, 15), date(2027, 4, 16) + timedelta(days=START_DAYS_MAX + 1)):
        with pytest.raises(Invalid):
            services.orders.place(subscriber, "ctc-standard", start=day)
    assert len(services.orders.all(subscriber)[0]) == 1


def test_the_version_that_was_ordered_is_what_begins(services, subscriber, clock):
    services.offerings.load(catalogue(plan("one", "9.9", "prorate")))
    made = services.orders.place(subscriber, "one", start=MAY)
    services.offerings.load(catalogue(plan("one", "19.9", "prorate")))
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert services.orders.find(made.order_id)[0].amount_nano == 9_900_000_000
    assert services.orders.products(subscriber)[0].offering_version == made.offering_version


def test_what_is_refused_then_fails_charges_nothing_and_is_told(services, subscriber, clock):
    orders = {
        "credit": services.orders.place(subscriber, "ctc-light", start=MAY),
        "consent": services.orders.place(subscriber, "ctc-standard", start=MAY + timedelta(days=1)),
        "suspended": services.orders.place(subscriber, "ctc-premium", start=MAY + timedelta(days=2)),
        "had": services.orders.place(subscriber, "sample-trial", start=MAY + timedelta(days=3)),
    }
    services.subscriptions.set_profile(subscriber, credit_limit_nano=5 * YUAN)
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    services.subscriptions.set_profile(subscriber, credit_limit_nano=None)
    services.consents.keep(subscriber, "terms", given=False)
    to(clock, 2027, 5, 2)
    services.orders.run_cycles()
    services.consents.keep(subscriber, "terms", given=True)
    services.subscriptions.suspend(subscriber, "own_wish")
    to(clock, 2027, 5, 3)
    services.orders.run_cycles()
    services.subscriptions.lift(subscriber, "own_wish")
    assert untouched(services, subscriber)
    services.orders.place(subscriber, "sample-trial", confirm=True)
    to(clock, 2027, 5, 4)
    services.orders.run_cycles()
    reasons = {name: services.orders.find(order.order_id)[0] for name, order in orders.items()}
    assert {order.state for order in reasons.values()} == {"failed"}
    for name, word in (
        ("credit", "credit limit"),
        ("consent", "terms"),
        ("suspended", "own wish"),
        ("had", "in all"),
    ):
        assert word in reasons[name].reason and not reasons[name].has_product, name
    told = notices(services)
    assert [ref for _, ref, _ in told] == [str(order.order_id) for order in orders.values()]
    assert all(kind == "order.failed" for kind, *_ in told)
    assert "2027-05-01" in notice_text("order.failed", told[0][2], "zh")
    assert "2027-05-01" in notice_text("order.failed", told[0][2], "en")
    assert services.charges.receivable(subscriber.account_id) == 0
    assert services.orders.run_cycles() == 0 and len(notices(services)) == 4 and balances(services)


def test_time_that_a_suspension_stopped_is_not_charged(services, subscriber, clock):
    services.orders.place(subscriber, "ctc-light", start=MAY)
    to(clock, 2027, 4, 30)
    services.subscriptions.suspend(subscriber, "operator")
    to(clock, 2027, 5, 11)
    services.subscriptions.lift(subscriber, "operator")
    services.orders.run_cycles()
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.period_start, charge.amount_nano) == (clock.now(), 9_900_000_000 * 21 // 31)
    assert balances(services)


def test_it_can_be_cancelled_before_and_not_after(services, subscriber, clock):
    made = services.orders.place(subscriber, "ctc-light", start=MAY)
    kept = services.orders.place(subscriber, "ctc-standard", start=MAY)
    services.orders.withdraw(made.order_id, "changed my mind")
    assert [order.order_id for order in services.orders.to_come(subscriber)] == [kept.order_id]
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    found, _ = services.orders.find(made.order_id)
    assert (found.state, found.reason, found.has_product) == ("cancelled", "changed my mind", False)
    assert [p.offering_id for p in services.orders.products(subscriber)] == ["ctc-standard"]
    for order in (made, kept):
        with pytest.raises(ChangeNotAllowed):
            services.orders.withdraw(order.order_id)


def test_who_is_closed_gets_nothing_more(services, subscriber, clock):
    made = services.orders.place(subscriber, "ctc-light", start=MAY)
    services.subscriptions.close(subscriber)
    assert services.orders.find(made.order_id)[0].state == "cancelled"
    to(clock, 2027, 5, 2)
    assert services.orders.run_cycles() == 0 and untouched(services, subscriber)


def test_what_is_to_come_asks_before_a_second_one(services, subscriber, clock):
    first = services.orders.place(subscriber, "ctc-light", start=MAY)
    with pytest.raises(SecondNotConfirmed):
        services.orders.place(subscriber, "ctc-light")
    services.orders.place(subscriber, "ctc-light", confirm=True)
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    # The second one was confirmed; so was this.
    assert services.orders.find(first.order_id)[0].state == "completed"


def test_what_others_deliver_is_asked_for_then(services, subscriber, clock):
    with pytest.raises(NotEligible):
        services.orders.place(subscriber, "uplink-acceleration", start=MAY)
    services.subscriptions.set_profile(subscriber, broadband="sh87654321")
    bundle = services.orders.place(subscriber, "sample-home-bundle", delivery="cloud_computer", start=MAY)
    assert services.orders.work_orders() == []
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert services.orders.find(bundle.order_id)[0].state == "inProgress"
    found = services.orders.work_orders()
    assert found and any(work.delivery == "cloud_computer" for work in found)
    for work in found:
        services.orders.answer(work.work_order_id, done=True)
    done, _ = services.orders.find(bundle.order_id)
    assert done.state == "completed" and 39 * YUAN < done.amount_nano <= 39_900_000_000
    assert balances(services)


def test_so_many_wait_at_most(services, subscriber):
    for _ in range(TO_COME_MAX):
        services.orders.place(subscriber, "ctc-light", start=MAY, confirm=True)
    with pytest.raises(TooManyToCome):
        services.orders.place(subscriber, "ctc-light", start=MAY, confirm=True)


def test_hosts_at_once_begin_it_once(services, subscriber, clock, database_url, session_dir):
    services.orders.place(subscriber, "ctc-light", start=MAY)
    to(clock, 2027, 5, 1)
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
    assert len(services.orders.products(subscriber)) == 1
    assert services.charges.receivable(subscriber.account_id) == 9_900_000_000
    assert services.failed_jobs.all() == [] and balances(services)


def test_one_that_raises_is_tried_again_and_keeps_no_other_from_its_turn(
    services, subscriber, clock, monkeypatch
):
    first = services.orders.place(subscriber, "ctc-light", start=MAY)
    second = services.orders.place(subscriber, "ctc-standard", start=MAY)
    to(clock, 2027, 5, 1)
    begin = place.begin

    def broken(context, known, order, *more):
        if order.order_id == first.order_id:
            raise RuntimeError("a fault")
        return begin(context, known, order, *more)

    monkeypatch.setattr(place, "begin", broken)
    services.orders.run_cycles()
    states = [services.orders.find(order.order_id)[0].state for order in (first, second)]
    assert states == ["acknowledged", "completed"]
    assert [(job.job, job.ref) for job in services.failed_jobs.all()] == [("start", first.order_id)]
    monkeypatch.undo()
    clock.move(timedelta(minutes=2))
    services.orders.run_cycles()
    assert services.orders.find(first.order_id)[0].state == "completed" and services.failed_jobs.all() == []
