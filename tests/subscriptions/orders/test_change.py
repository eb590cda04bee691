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
    works, subscriber, spender, clock
):
    product = works.orders.place(subscriber, "ctc-light").product_id
    assert spender.spend(subscriber.account_id, 7 * M)  # 3 M of 10 M are left
    clock.move(MID_APRIL - clock.now())  # half of April is left
    order = works.orders.change(product, "ctc-standard")
    assert (order.state, order.action, order.product_id) == ("completed", "modify", product)
    # 29.9 for half a month; of 9.9 three tenths, not the half.
    assert charges(works, subscriber) == [
        ("cycle", 9_900_000_000),
        ("change", 14_950_000_000),
        ("credit", -2_970_000_000),
    ]
    assert order.amount_nano == 14_950_000_000 - 2_970_000_000
    assert left(works, subscriber) == 20 * M
    (kept,) = works.orders.products(subscriber)
    assert (kept.product_id, kept.offering_id, kept.cycle_no, kept.state) == (
        product,
        "ctc-standard",
        1,
        "active",
    )
    works.charges.recognise()
    assert balances(works)
    # The next month is the new plan in full.
    clock.move(timedelta(days=15))
    works.orders.run_cycles()
    assert charges(works, subscriber)[3:] == [("cycle", 29_900_000_000)]
    assert balances(works)


def test_of_an_unused_plan_the_time_that_is_left_is_credited(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    clock.move(MID_APRIL - clock.now())
    works.orders.change(product, "ctc-standard")
    assert charges(works, subscriber)[2] == ("credit", -4_950_000_000)
    assert balances(works)


def test_a_change_waits_for_what_is_granted_and_is_not_begun_twice(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 4 * M * 1000)
    clock.move(MID_APRIL - clock.now())
    order = works.orders.change(product, "ctc-standard", "now", "k1")
    assert order.state == "inProgress"
    assert works.orders.change(product, "ctc-standard", "now", "k1").order_id == order.order_id
    with pytest.raises(ChangeNotAllowed, match="in progress"):
        works.orders.change(product, "ctc-premium")
    assert works.orders.finish_changes() == 0
    assert left(works, subscriber) == 24 * M  # what is granted of the old plan, and the new one
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 4 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert works.orders.finish_changes() == 1
    assert works.orders.finish_changes() == 0
    assert works.orders.find(order.order_id)[0].state == "completed"
    # 6 M of 10 M were not used, half of the time was left: half.
    assert charges(works, subscriber)[2:] == [("credit", -4_950_000_000)]
    works.charges.recognise()
    assert balances(works)


def test_a_downgrade_comes_with_the_next_cycle_and_can_be_replaced(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-premium").product_id
    first = works.orders.change(product, "ctc-light", "cycle_end")
    second = works.orders.change(product, "ctc-standard", "cycle_end")
    assert [works.orders.find(o.order_id)[0].state for o in (first, second)] == ["cancelled", "pending"]
    assert charges(works, subscriber) == [("cycle", 49_900_000_000)]
    clock.move(timedelta(days=30))
    works.orders.run_cycles()
    assert works.orders.find(second.order_id)[0].state == "completed"
    assert charges(works, subscriber) == [("cycle", 49_900_000_000), ("cycle", 29_900_000_000)]
    assert left(works, subscriber) == 40 * M
    assert balances(works)


def test_a_reply_that_was_lost_is_given_again_whatever_the_product_is_by_now(works, subscriber, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    changed = works.orders.change(product, "ctc-standard", "now", "change")
    ended = works.orders.cancel(product, "now", "end")
    for key, again in (("change", lambda: works.orders.change(product, "ctc-standard", "now", "change")),
                       ("end", lambda: works.orders.cancel(product, "now", "end"))):  # fmt: skip
        order = again()
        assert order.order_id == {"change": changed, "end": ended}[key].order_id
        assert not order.new
    with pytest.raises(ProductEnded):
        works.orders.cancel(product, "now", "another")
    # At once, so each in full.
    assert [kind for kind, _ in charges(works, subscriber)] == ["cycle", "change", "credit", "credit"]
    assert works.charges.receivable(subscriber.account_id) == 0
    assert balances(works)


def test_changes_that_make_no_sense_are_refused_and_change_nothing(works, subscriber):
    plan = works.orders.place(subscriber, "ctc-light").product_id
    payg = works.orders.place(subscriber, "shanghai-mobile-payg").product_id
    bundle = works.orders.place(subscriber, "sample-home-bundle").product_id
    part = next(p.product_id for p in works.orders.products(subscriber) if p.parent_id == bundle)
    before = charges(works, subscriber)
    for product, offering, reason in [
        (plan, "shanghai-mobile-payg", "to a plan"),
        (payg, "ctc-light", "to a plan"),
        (part, "ctc-light", "of its own"),
        (plan, "ctc-light", "already"),
        (plan, "sample-rollover", "different cycles"),
    ]:
        with pytest.raises(ChangeNotAllowed, match=reason):
            works.orders.change(product, offering)
    with pytest.raises(OfferingNotActive):
        works.orders.change(plan, "sample-study")
    with pytest.raises(ChangeNotAllowed, match="part of a bundle"):
        works.orders.cancel(part)
    with pytest.raises(ChangeNotAllowed, match="no cycle"):
        works.orders.cancel(payg, "cycle_end")
    works.orders.cancel(plan, "cycle_end", "k")
    with pytest.raises(KeyReused):
        works.orders.change(plan, "ctc-standard", "cycle_end", "k")
    assert charges(works, subscriber) == before
    assert balances(works)
