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
    text_of,
)
from tokenworks.subscriptions.orders import place
from tokenworks.subscriptions.orders.starts import START_DAYS_MAX, TO_COME_MAX, same_start, start_of

YUAN = 1_000_000_000
MAY = datetime(2027, 5, 1, tzinfo=BILLING_ZONE)


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 16, 9, 30, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li")


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


def notices(works):
    rows = works.connection.execute("SELECT kind, ref, content FROM notification ORDER BY notification_id")
    return [(kind, ref, content) for kind, ref, content in rows if kind.startswith("order.")]


def untouched(works, subscriber):
    return (
        works.orders.products(subscriber) == []
        and works.charges.of_subscriber(subscriber.subscriber_id) == []
        and works.ledger.buckets(subscriber.account_id) == []
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


def test_it_waits_and_begins_at_its_instant(works, subscriber, clock):
    made = works.orders.place(subscriber, "ctc-light", "k", start=date(2027, 5, 1))
    assert (made.state, made.starts_at, made.amount_nano, made.has_product) == ("acknowledged", MAY, 0, False)
    to(clock, 2027, 4, 30, 23, 59, 59)
    assert works.orders.run_cycles() == 0 and untouched(works, subscriber)
    # The job comes 40 seconds late: the month is whole all the same.
    to(clock, 2027, 5, 1, 0, 0, 40)
    assert works.orders.run_cycles() == 1
    (product,) = works.orders.products(subscriber)
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    found, _ = works.orders.find(made.order_id)
    assert (found.state, found.amount_nano, found.product_id, found.has_product) == (
        "completed", 9_900_000_000, product.product_id, True,
    )  # fmt: skip
    assert (product.cycle_start, charge.period_start, charge.amount_nano) == (MAY, MAY, 9_900_000_000)
    assert works.orders.run_cycles() == 0 and len(works.orders.products(subscriber)) == 1
    again = works.orders.place(subscriber, "ctc-light", "k", start=date(2027, 5, 1))
    assert (again.order_id, again.new) == (made.order_id, False)
    for start in (None, date(2027, 5, 2)):
        with pytest.raises(KeyReused):
            works.orders.place(subscriber, "ctc-light", "k", start=start)
    assert notices(works) == [] and balances(works)


def test_today_is_now_and_other_days_have_bounds(works, subscriber):
    made = works.orders.place(subscriber, "ctc-light", start=date(2027, 4, 16))
    assert (made.state, made.starts_at) == ("completed", None)
    for day in (date(2027, 4, 15), date(2027, 4, 16) + timedelta(days=START_DAYS_MAX + 1)):
        with pytest.raises(Invalid):
            works.orders.place(subscriber, "ctc-standard", start=day)
    assert len(works.orders.all(subscriber)[0]) == 1


def test_the_version_that_was_ordered_is_what_begins(works, subscriber, clock):
    works.offerings.load(catalogue(plan("one", "9.9", "prorate")))
    made = works.orders.place(subscriber, "one", start=MAY)
    works.offerings.load(catalogue(plan("one", "19.9", "prorate")))
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    assert works.orders.find(made.order_id)[0].amount_nano == 9_900_000_000
    assert works.orders.products(subscriber)[0].offering_version == made.offering_version


def test_what_is_refused_then_fails_charges_nothing_and_is_told(works, subscriber, clock):
    orders = {
        "credit": works.orders.place(subscriber, "ctc-light", start=MAY),
        "consent": works.orders.place(subscriber, "ctc-standard", start=MAY + timedelta(days=1)),
        "suspended": works.orders.place(subscriber, "ctc-premium", start=MAY + timedelta(days=2)),
        "had": works.orders.place(subscriber, "sample-trial", start=MAY + timedelta(days=3)),
    }
    works.subscriptions.set_profile(subscriber, credit_limit_nano=5 * YUAN)
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    works.subscriptions.set_profile(subscriber, credit_limit_nano=None)
    works.consents.keep(subscriber, "terms", given=False)
    to(clock, 2027, 5, 2)
    works.orders.run_cycles()
    works.consents.keep(subscriber, "terms", given=True)
    works.subscriptions.suspend(subscriber, "own_wish")
    to(clock, 2027, 5, 3)
    works.orders.run_cycles()
    works.subscriptions.lift(subscriber, "own_wish")
    assert untouched(works, subscriber)
    works.orders.place(subscriber, "sample-trial", confirm=True)
    to(clock, 2027, 5, 4)
    works.orders.run_cycles()
    reasons = {name: works.orders.find(order.order_id)[0] for name, order in orders.items()}
    assert {order.state for order in reasons.values()} == {"failed"}
    for name, word in (
        ("credit", "credit limit"),
        ("consent", "terms"),
        ("suspended", "own wish"),
        ("had", "in all"),
    ):
        assert word in reasons[name].reason and not reasons[name].has_product, name
    told = notices(works)
    assert [ref for _, ref, _ in told] == [str(order.order_id) for order in orders.values()]
    assert all(kind == "order.failed" for kind, *_ in told)
    assert "2027-05-01" in text_of("order.failed", told[0][2], "zh")
    assert "2027-05-01" in text_of("order.failed", told[0][2], "en")
    assert works.charges.receivable(subscriber.account_id) == 0
    assert works.orders.run_cycles() == 0 and len(notices(works)) == 4 and balances(works)


def test_time_that_a_suspension_stopped_is_not_charged(works, subscriber, clock):
    works.orders.place(subscriber, "ctc-light", start=MAY)
    to(clock, 2027, 4, 30)
    works.subscriptions.suspend(subscriber, "operator")
    to(clock, 2027, 5, 11)
    works.subscriptions.lift(subscriber, "operator")
    works.orders.run_cycles()
    (charge,) = works.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.period_start, charge.amount_nano) == (clock.now(), 9_900_000_000 * 21 // 31)
    assert balances(works)


def test_it_can_be_cancelled_before_and_not_after(works, subscriber, clock):
    made = works.orders.place(subscriber, "ctc-light", start=MAY)
    kept = works.orders.place(subscriber, "ctc-standard", start=MAY)
    works.orders.withdraw(made.order_id, "changed my mind")
    assert [order.order_id for order in works.orders.to_come(subscriber)] == [kept.order_id]
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    found, _ = works.orders.find(made.order_id)
    assert (found.state, found.reason, found.has_product) == ("cancelled", "changed my mind", False)
    assert [p.offering_id for p in works.orders.products(subscriber)] == ["ctc-standard"]
    for order in (made, kept):
        with pytest.raises(ChangeNotAllowed):
            works.orders.withdraw(order.order_id)


def test_who_is_closed_gets_nothing_more(works, subscriber, clock):
    made = works.orders.place(subscriber, "ctc-light", start=MAY)
    works.subscriptions.close(subscriber)
    assert works.orders.find(made.order_id)[0].state == "cancelled"
    to(clock, 2027, 5, 2)
    assert works.orders.run_cycles() == 0 and untouched(works, subscriber)


def test_what_is_to_come_asks_before_a_second_one(works, subscriber, clock):
    first = works.orders.place(subscriber, "ctc-light", start=MAY)
    with pytest.raises(SecondNotConfirmed):
        works.orders.place(subscriber, "ctc-light")
    works.orders.place(subscriber, "ctc-light", confirm=True)
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    # The second one was confirmed; so was this.
    assert works.orders.find(first.order_id)[0].state == "completed"


def test_what_others_deliver_is_asked_for_then(works, subscriber, clock):
    with pytest.raises(NotEligible):
        works.orders.place(subscriber, "uplink-acceleration", start=MAY)
    works.subscriptions.set_profile(subscriber, broadband="sh87654321")
    bundle = works.orders.place(subscriber, "sample-home-bundle", delivery="cloud_computer", start=MAY)
    assert works.orders.work_orders() == []
    to(clock, 2027, 5, 1)
    works.orders.run_cycles()
    assert works.orders.find(bundle.order_id)[0].state == "inProgress"
    found = works.orders.work_orders()
    assert found and any(work.delivery == "cloud_computer" for work in found)
    for work in found:
        works.orders.answer(work.work_order_id, done=True)
    done, _ = works.orders.find(bundle.order_id)
    assert done.state == "completed" and 39 * YUAN < done.amount_nano <= 39_900_000_000
    assert balances(works)


def test_so_many_wait_at_most(works, subscriber):
    for _ in range(TO_COME_MAX):
        works.orders.place(subscriber, "ctc-light", start=MAY, confirm=True)
    with pytest.raises(TooManyToCome):
        works.orders.place(subscriber, "ctc-light", start=MAY, confirm=True)


def test_hosts_at_once_begin_it_once(works, subscriber, clock, database_url, session_dir):
    works.orders.place(subscriber, "ctc-light", start=MAY)
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
    assert len(works.orders.products(subscriber)) == 1
    assert works.charges.receivable(subscriber.account_id) == 9_900_000_000
    assert works.failed_jobs.all() == [] and balances(works)


def test_one_that_raises_is_tried_again_and_keeps_no_other_from_its_turn(
    works, subscriber, clock, monkeypatch
):
    first = works.orders.place(subscriber, "ctc-light", start=MAY)
    second = works.orders.place(subscriber, "ctc-standard", start=MAY)
    to(clock, 2027, 5, 1)
    begin = place.begin

    def broken(context, known, order, *more):
        if order.order_id == first.order_id:
            raise RuntimeError("a fault")
        return begin(context, known, order, *more)

    monkeypatch.setattr(place, "begin", broken)
    works.orders.run_cycles()
    states = [works.orders.find(order.order_id)[0].state for order in (first, second)]
    assert states == ["acknowledged", "completed"]
    assert [(job.job, job.ref) for job in works.failed_jobs.all()] == [("start", first.order_id)]
    monkeypatch.undo()
    clock.move(timedelta(minutes=2))
    works.orders.run_cycles()
    assert works.orders.find(first.order_id)[0].state == "completed" and works.failed_jobs.all() == []
