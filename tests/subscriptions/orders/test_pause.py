"""Products that are suspended."""

from datetime import datetime, timedelta

import pytest

from tests.support.ordered import charges
from tests.support.spend import balances
from tokenworks.subscriptions import BILLING_ZONE, ChangeNotAllowed

M = 1_000_000


def test_nothing_is_spent_of_a_suspended_product_and_it_does_not_renew(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "ctc-light").product_id
    services.orders.suspend(product)
    with pytest.raises(ChangeNotAllowed):
        services.orders.suspend(product)
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    assert spender.open(subscriber.account_id, bucket, 1000) is None
    assert services.ledger.load_terms(subscriber.account_id.hex) == []
    services.orders.resume(product)
    assert spender.spend(subscriber.account_id, M)
    services.orders.suspend(product)
    clock.move(timedelta(days=70))
    services.orders.run_cycles()
    assert charges(services, subscriber) == [("cycle", 9_900_000_000)]
    services.orders.resume(product)
    # On 10 June: 21 of its 30 days.
    assert charges(services, subscriber) == [("cycle", 9_900_000_000), ("cycle", 6_930_000_000)]
    (resumed,) = services.orders.products(subscriber)
    assert (resumed.cycle_no, resumed.cycle_end) == (2, datetime(2027, 7, 1, tzinfo=BILLING_ZONE))
    assert spender.spend(subscriber.account_id, 7 * M)
    assert not spender.spend(subscriber.account_id, 1)
    services.orders.run_cycles()
    assert balances(services)


def test_what_rolls_over_of_a_suspended_product_is_not_spent_either(services, subscriber, spender, clock):
    product = services.orders.place(subscriber, "sample-rollover").product_id
    services.orders.suspend(product)
    clock.move(timedelta(days=31))
    services.orders.run_cycles()
    rolled = [b for b in services.ledger.buckets(subscriber.account_id) if b.remaining]
    assert len(rolled) == 1 and services.ledger.load_terms(subscriber.account_id.hex) == []
    services.orders.resume(product)
    assert len(services.ledger.load_terms(subscriber.account_id.hex)) == 2
    assert balances(services)
