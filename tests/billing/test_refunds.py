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


def test_what_was_not_used_is_refunded_on_the_next_bill(services, subscriber, spender, clock):
    order = services.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    (dry,) = services.refunds.refund(order.order_id, "unused", "moved away", dry_run=True)
    assert dry.amount_nano == 5_940_000_000
    assert services.orders.products(subscriber)[0].state == "active"
    (done,) = services.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert (done.state, done.amount_nano) == ("done", 5_940_000_000)
    (again,) = services.refunds.refund(order.order_id, "unused", "moved away", idempotency_key="k")
    assert again.refund_id == done.refund_id
    with pytest.raises(RefundNotAllowed):
        services.refunds.refund(order.order_id, "whole", "more")
    with pytest.raises(RefundNotAllowed):  # a key is a text, not a pattern
        services.refunds.refund(order.order_id, "unused", "more", idempotency_key="%")
    assert services.orders.products(subscriber)[0].state == "cancelled"
    to_may(services, clock)
    assert services.bills.run().amount_nano == 3_960_000_000
    services.charges.recognise()
    first = services.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert first.owed_nano == 0 and first.recognised_nano == first.net_nano * 4 // 10
    assert balances(services)


def test_a_whole_refund_reverses_revenue_by_an_entry_of_its_own(services, subscriber, spender):
    order = services.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 4 * M)
    services.charges.recognise()
    (done,) = services.refunds.refund(order.order_id, "whole", "did not work")
    assert done.amount_nano == 9_900_000_000
    assert services.charges.receivable(subscriber.account_id) == 0
    first = services.charges.of_subscriber(subscriber.subscriber_id)[0]
    assert (
        first.recognised_nano == first.net_nano * 4 // 10
    )  # what was recognised stays; the refund stands against it
    refunds = services.connection.execute(
        "SELECT sum(amount) FROM posting WHERE ledger_account = 'refund'"
    ).fetchone()[0]
    assert refunds == first.recognised_nano
    services.charges.recognise()
    assert balances(services)


def test_a_refund_waits_for_what_is_granted(services, subscriber, spender):
    order = services.orders.place(subscriber, "ctc-light")
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 5 * M * 1000)
    (waits,) = services.refunds.refund(order.order_id, "unused", "moved away")
    assert (waits.state, waits.amount_nano) == ("pending", None)
    assert services.refunds.finish() == 0
    with pytest.raises(RefundNotAllowed):
        services.refunds.refund(order.order_id, "unused", "moved away")
    spender.settle(subscriber.account_id, [(bucket, granted.grant_id, 2 * M)])
    spender.close(subscriber.account_id, granted.grant_id)
    assert services.refunds.finish() == 1
    assert services.refunds.finish() == 0
    (done,) = services.refunds.of_order(order.order_id)
    assert (done.state, done.amount_nano) == ("done", 9_900_000_000 * 8 // 10)
    assert balances(services)


def test_an_amount_is_given_back_and_the_product_goes_on(services, subscriber):
    order = services.orders.place(subscriber, "ctc-light")
    services.refunds.refund(order.order_id, "amount", "sorry", amount_nano=2 * YUAN)
    services.refunds.refund(order.order_id, "amount", "sorry again", amount_nano=3 * YUAN)
    assert services.orders.products(subscriber)[0].state == "active"
    with pytest.raises(RefundTooMuch):
        services.refunds.refund(order.order_id, "amount", "and again", amount_nano=5 * YUAN)
    with pytest.raises(Invalid):
        services.refunds.refund(order.order_id, "amount", "no amount")
    with pytest.raises(OrderNotFound):
        services.refunds.refund(uuid4(), "whole", "none")
    assert services.charges.receivable(subscriber.account_id) == 4_900_000_000
    (rest,) = services.refunds.refund(order.order_id, "whole", "all of it")
    assert rest.amount_nano == 4_900_000_000
    services.charges.recognise()
    assert services.charges.receivable(subscriber.account_id) == 0
    assert balances(services)


def test_unused_steps_are_refunded_and_used_ones_are_not(services, subscriber, spender):
    order = services.orders.place(subscriber, "shanghai-mobile-payg")
    with pytest.raises(RefundNotAllowed):
        services.refunds.refund(order.order_id, "unused", "nothing bought yet")
    assert spender.spend(subscriber.account_id, 500_000)
    (done,) = services.refunds.refund(order.order_id, "unused", "no more of it")
    assert done.amount_nano == YUAN * 3 // 4
    assert services.payg.spent(subscriber) == 2 * YUAN - YUAN * 3 // 4
    services.charges.recognise()
    assert balances(services)
