"""Refunds."""

from uuid import uuid4

import pytest

from tests.support.april import to_may
from tests.support.spend import balances
from tokenworks.billing import RefundNotAllowed
from tokenworks.charging import RefundTooMuch
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import OrderNotFound

YUAN = 1_000_000_000
M = 1_000_000


def test_what_was_not_used_is_refunded_on_the_next_bill(works, subscriber, spender, clock):
    order = works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    (dry,) = works.refunds.refund(order.order_id, "unused", "moved away", dry_run=True)
    assert dry.amount_nano == 5_940_000_000
    assert works.orders.products(subscriber)[0].state == "active"
    (done,) = works.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert (done.state, done.amount_nano) == ("done", 5_940_000_000)
    (again,) = works.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert again.refund_id == done.refund_id
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "whole", "more")
    with pytest.raises(RefundNotAllowed):  # a key is a text, not a pattern
        works.refunds.refund(order.order_id, "unused", "more", idempotency_key="%")
    assert works.orders.products(subscriber)[0].state == "cancelled"
    to_may(works, clock)
    assert works.bills.run().amount_nano == 3_960_000_000
    works.charges.recognise()
    first = works.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert first.owed_nano == 0 and first.recognised_nano == first.net_nano * 4 // 10
    assert balances(works)


def test_a_whole_refund_reverses_revenue_by_an_entry_of_its_own(works, subscriber, spender):
    order = works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    works.charges.recognise()
    (done,) = works.refunds.refund(order.order_id, "whole", "did not work")
    assert done.amount_nano == 9_900_000_000
    assert works.charges.receivable(subscriber.account_id) == 0
    first = works.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert (
        first.recognised_nano == first.net_nano * 4 // 10
    )  # what was recognised stays; the refund stands against it
    refunds = works.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'refund'"
    ).fetchone()[0]
    assert refunds == first.recognised_nano
    works.charges.recognise()
    assert balances(works)


def test_a_refund_waits_for_what_is_granted(works, subscriber, spender):
    order = works.orders.place(subscriber, "ctc-light")
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 5 * M * 1000)
    (waits,) = works.refunds.refund(order.order_id, "unused", "moved away")
    assert (waits.state, waits.amount_nano) == ("pending", None)
    assert works.refunds.finish() == 0
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "unused", "moved away")
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 2 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert works.refunds.finish() == 1
    assert works.refunds.finish() == 0
    (done,) = works.refunds.of_order(order.order_id)
    assert (done.state, done.amount_nano) == ("done", 9_900_000_000 * 8 // 10)
    assert balances(works)


def test_an_amount_is_given_back_and_the_product_goes_on(works, subscriber):
    order = works.orders.place(subscriber, "ctc-light")
    works.refunds.refund(order.order_id, "amount", "sorry", amount_nano=2 * YUAN)
    works.refunds.refund(order.order_id, "amount", "sorry again", amount_nano=3 * YUAN)
    assert works.orders.products(subscriber)[0].state == "active"
    with pytest.raises(RefundTooMuch):
        works.refunds.refund(order.order_id, "amount", "and again", amount_nano=5 * YUAN)
    with pytest.raises(Invalid):
        works.refunds.refund(order.order_id, "amount", "no amount")
    with pytest.raises(OrderNotFound):
        works.refunds.refund(uuid4(), "whole", "none")
    assert works.charges.receivable(subscriber.account_id) == 4_900_000_000
    (rest,) = works.refunds.refund(order.order_id, "whole", "all of it")
    assert rest.amount_nano == 4_900_000_000
    works.charges.recognise()
    assert works.charges.receivable(subscriber.account_id) == 0
    assert balances(works)


def test_unused_steps_are_refunded_and_used_ones_are_not(works, subscriber, spender):
    order = works.orders.place(subscriber, "shanghai-mobile-payg")
    with pytest.raises(RefundNotAllowed):
        works.refunds.refund(order.order_id, "unused", "nothing bought yet")
    assert spender.spend(subscriber.account_id, 500_000)
    (done,) = works.refunds.refund(order.order_id, "unused", "no more of it")
    assert done.amount_nano == YUAN * 3 // 4
    assert works.payg.spent(subscriber) == 2 * YUAN - YUAN * 3 // 4
    works.charges.recognise()
    assert balances(works)
