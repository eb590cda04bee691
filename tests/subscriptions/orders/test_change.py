"""Another plan, now or with the next cycle."""

from datetime import datetime, timedelta

import pytest

from tests.support.ordered import charges, left
from tests.support.spend import balances
from tokenworks.catalog import OfferingNotActive
from tokenworks.subscriptions import BILLING_ZONE, ChangeNotAllowed, KeyReused, ProductEnded

MID_APRIL = datetime(2027, 4, 16, tzinfo=BILLING_ZONE)
M = 1_000_000


def test_an_upgrade_costs_the_rest_of_the_cycle_and_credits_the_lesser_of_time_and_quantity(
    services, subscriber, spender, clock
):
    product = services.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 7 * M)  # 3 M of 10 M are left
    clock.move(MID_APRIL - clock.now())  # half of April is left
    order = services.orders.change(product, "ctc-standard")
    assert (order.state, order.action, order.product_id) == ("completed", "modify", product)
    # 29.9 for half a month; of 9.9 three tenths, not the half.
    assert charges(services, subscriber) == [
        ("cycle", 9_900_000_000),
        ("change", 14_950_000_000),
        ("credit", -2_970_000_000),
    ]
    assert order.amount_nano == 14_950_000_000 - 2_970_000_000
    assert left(services, subscriber) == 20 * M
    (kept,) = services.orders.products(subscriber)
    assert (kept.product_id, kept.offering_id, kept.cycle_no, kept.state) == (
        product,
        "ctc-standard",
        1,
        "active",
    )
    services.charges.recognise()
    assert balances(services)
    # The next month is the new plan in full.
    clock.move(timedelta(days=15))
    services.orders.run_cycles()
    assert charges(services, subscriber)[3:] == [("cycle", 29_900_000_000)]
    assert balances(services)


def test_of_an_unused_plan_the_time_that_is_left_is_credited(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    clock.move(MID_APRIL - clock.now())
    services.orders.change(product, "ctc-standard")
    assert charges(services, subscriber)[2] == ("credit", -4_950_000_000)
    assert balances(services)


def test_a_change_waits_for_what_is_granted_and_is_not_begun_twice(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 4 * M * 1000)
    clock.move(MID_APRIL - clock.now())
    order = services.orders.change(product, "ctc-standard", "now", "k1")
    assert order.state == "inProgress"
    assert services.orders.change(product, "ctc-standard", "now", "k1").order_id == order.order_id
    with pytest.raises(ChangeNotAllowed, match="in progress"):
        services.orders.change(product, "ctc-premium")
    assert services.orders.finish_changes() == 0
    assert left(services, subscriber) == 24 * M  # what is granted of the old plan, and the new one
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 4 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert services.orders.finish_changes() == 1
    assert services.orders.finish_changes() == 0
    assert services.orders.find(order.order_id)[0].state == "completed"
    # 6 M of 10 M were not used, half of the time was left: half.
    assert charges(services, subscriber)[2:] == [("credit", -4_950_000_000)]
    services.charges.recognise()
    assert balances(services)


def test_a_downgrade_comes_with_the_next_cycle_and_can_be_replaced(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-premium").product_id
    first = services.orders.change(product, "ctc-light", "cycle_end")
    second = services.orders.change(product, "ctc-standard", "cycle_end")
    assert [services.orders.find(o.order_id)[0].state for o in (first, second)] == ["cancelled", "pending"]
    assert charges(services, subscriber) == [("cycle", 49_900_000_000)]
    clock.move(timedelta(days=30))
    services.orders.run_cycles()
    assert services.orders.find(second.order_id)[0].state == "completed"
    assert charges(services, subscriber) == [("cycle", 49_900_000_000), ("cycle", 29_900_000_000)]
    assert left(services, subscriber) == 40 * M
    assert balances(services)


def test_a_reply_that_was_lost_is_given_again_whatever_the_product_is_by_now(services, subscriber, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    changed = services.orders.change(product, "ctc-standard", "now", "change")
    ended = services.orders.cancel(product, "now", "end")
    for key, again in (("change", lambda: services.orders.change(product, "ctc-standard", "now", "change")),
                       ("end", lambda: services.orders.cancel(product, "now", "end"))):  # fmt: skip
        order = again()
        assert order.order_id == {"change": changed, "end": ended}[key].order_id
        assert not order.new
    with pytest.raises(ProductEnded):
        services.orders.cancel(product, "now", "another")
    # At once, so each in full.
    assert [kind for kind, _ in charges(services, subscriber)] == ["cycle", "change", "credit", "credit"]
    assert services.charges.receivable(subscriber.account_id) == 0
    assert balances(services)


def test_changes_that_make_no_sense_are_refused_and_change_nothing(services, subscriber):
    plan = services.orders.place(subscriber, "ctc-light").product_id
    payg = services.orders.place(subscriber, "shanghai-mobile-payg").product_id
    bundle = services.orders.place(subscriber, "sample-home-bundle").product_id
    part = next(p.product_id for p in services.orders.products(subscriber) if p.parent_id == bundle)
    before = charges(services, subscriber)
    for product, offering, reason in [
        (plan, "shanghai-mobile-payg", "to a plan"),
        (payg, "ctc-light", "to a plan"),
        (part, "ctc-light", "of its own"),
        (plan, "ctc-light", "already"),
        (plan, "sample-rollover", "different cycles"),
    ]:
        with pytest.raises(ChangeNotAllowed, match=reason):
            services.orders.change(product, offering)
    with pytest.raises(OfferingNotActive):
        services.orders.change(plan, "sample-study")
    with pytest.raises(ChangeNotAllowed, match="part of a bundle"):
        services.orders.cancel(part)
    with pytest.raises(ChangeNotAllowed, match="no cycle"):
        services.orders.cancel(payg, "cycle_end")
    services.orders.cancel(plan, "cycle_end", "k")
    with pytest.raises(KeyReused):
        services.orders.change(plan, "ctc-standard", "cycle_end", "k")
    assert charges(services, subscriber) == before
    assert balances(services)
