"""Who has which version of an offering, and moving them to another one with their next cycle."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.shop.tariffs import bundle, catalogue, plan
from tests.support.notices import fan_out
from tests.support.spend import balances
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import BILLING_ZONE, notice_text

YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


def to(clock, *at):
    clock.move(datetime(*at, tzinfo=BILLING_ZONE) - clock.now())


@pytest.fixture
def sold(services):
    """Three who have `one` at 10 yuan; it is on sale at 12 by now."""
    services.offerings.load(catalogue(plan("one", "10"), plan("two", "20")))
    people = [services.subscriptions.register(f"+861380000000{at}") for at in range(3)]
    orders = [services.orders.place(who, "one") for who in people]
    services.offerings.load(catalogue(plan("one", "12"), plan("two", "20")))
    return people, orders


def prices(services, who):
    return [c.price_nano // YUAN for c in services.charges.of_subscriber(who.subscriber_id)]


def test_versions_in_use_and_who_has_them(services, sold):
    people, orders = sold
    services.orders.place(people[0], "two")
    old, two = services.moves.sold()
    assert (old.offering_id, old.products, old.on_sale) == ("one", 3, False)
    assert (two.offering_id, two.products, two.on_sale) == ("two", 1, True)
    assert [h.product_id for h in services.moves.holders(old.offering_version)] == [
        o.product_id for o in orders
    ]
    assert [h.subscriber_id for h in services.moves.holders(old.offering_version, 1)] == [
        people[0].subscriber_id
    ]
    services.orders.cancel(orders[0].product_id)
    assert services.moves.sold("one")[0].products == 2


def moves_told(services, clock):
    # By day: no text message is sent at night.
    clock.move(timedelta(hours=12))
    fan_out(services)
    return [told for told in services.notices.lease(["sms"], 100) if told.kind == "plan.move"]


def test_they_move_with_their_next_cycle_and_are_told(services, sold, clock):
    people, orders = sold
    services.orders.cancel(orders[1].product_id, "cycle_end")
    moved = services.moves.move("one", notice_days=20)
    assert (moved.moved, moved.too_soon, moved.left_alone) == (2, 0, 1)
    assert services.moves.move("one", notice_days=20).moved == 0
    assert services.moves.sold("one")[0].moving == 2
    notices = moves_told(services, clock)
    assert {n.subscriber_id for n in notices} == {people[0].subscriber_id, people[2].subscriber_id}
    assert notice_text("plan.move", notices[0].content, "en") == (
        "From 2027-05-01 on, one renews at a new tariff: ¥12.00 (now ¥10.00). Until then you can cancel it or change your plan."
    )
    assert "2027-05-01" in notice_text("plan.move", notices[0].content, "zh")
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert [prices(services, who) for who in people] == [[10, 12], [10], [10, 12]]
    assert balances(services)


def test_whose_cycle_ends_before_the_notice_is_over_moves_the_next_time(services, sold, clock):
    people, _ = sold
    to(clock, 2027, 4, 20)
    moved = services.moves.move("one", notice_days=20)
    assert (moved.moved, moved.too_soon) == (0, 3)
    assert moves_told(services, clock) == []
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert services.moves.move("one", notice_days=20).moved == 3
    to(clock, 2027, 6, 1)
    services.orders.run_cycles()
    assert prices(services, people[0]) == [10, 10, 12]
    assert balances(services)


def test_moves_that_make_no_sense_are_refused(services, sold):
    for offering, days, reason in (
        ("shanghai-mobile-payg", 30, "does not renew"),
        ("sample-trial", 30, "does not renew"),
        ("one", 400, "0 to 366"),
    ):
        with pytest.raises(Invalid, match=reason):
            services.moves.move(offering, notice_days=days)
    services.offerings.load(catalogue(plan("one", "12", cycle="anniversary_month")))
    with pytest.raises(Invalid, match="another kind, cycle or parts"):
        services.moves.move("one", notice_days=0)
    assert services.moves.sold("one")[0].moving == 0


def test_a_bundle_moves_with_its_price(services, clock):
    lines = (plan("core", "20"), plan("more", "10"))
    services.offerings.load(catalogue(*lines, bundle("both", "24", ["core", "more"])))
    who = services.subscriptions.register("+8613800000001")
    services.orders.place(who, "both")
    services.offerings.load(catalogue(*lines, bundle("both", "27", ["core", "more"])))
    assert services.moves.move("both", notice_days=0).moved == 1
    to(clock, 2027, 5, 1)
    services.orders.run_cycles()
    assert prices(services, who) == [16, 8, 18, 9]
    assert balances(services)
