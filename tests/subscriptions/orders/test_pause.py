"""Products that are suspended."""

from datetime import datetime, timedelta

import pytest

from tests.support.ordered import charges
from tests.support.spend import balances
from tokenworks.subscriptions import BILLING_ZONE, ChangeNotAllowed

M = 1_000_000


def test_nothing_is_spent_of_a_suspended_product_and_it_does_not_renew(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "ctc-light").product_id
    works.orders.suspend(product)
    with pytest.raises(ChangeNotAllowed):
        works.orders.suspend(product)
    (bucket,) = works.ledger.buckets(subscriber.account_id)
    assert spender.open(subscriber.account_id, bucket, 1000) is None
    assert works.ledger.load_terms(subscriber.account_id.hex) == []
    works.orders.resume(product)
    assert spender.spend(subscriber.account_id, M)
    works.orders.suspend(product)
    clock.move(timedelta(days=70))
    works.orders.run_cycles()
    assert charges(works, subscriber) == [("cycle", 9_900_000_000)]
    works.orders.resume(product)
    # On 10 June: 21 of its 30 days.
    assert charges(works, subscriber) == [("cycle", 9_900_000_000), ("cycle", 6_930_000_000)]
    (resumed,) = works.orders.products(subscriber)
    assert (resumed.cycle_no, resumed.cycle_end) == (2, datetime(2027, 7, 1, tzinfo=BILLING_ZONE))
    assert spender.spend(subscriber.account_id, 7 * M)
    assert not spender.spend(subscriber.account_id, 1)
    works.orders.run_cycles()
    assert balances(works)


def test_what_rolls_over_of_a_suspended_product_is_not_spent_either(works, subscriber, spender, clock):
    product = works.orders.place(subscriber, "sample-rollover").product_id
    works.orders.suspend(product)
    clock.move(timedelta(days=31))
    works.orders.run_cycles()
    rolled = [b for b in works.ledger.buckets(subscriber.account_id) if b.remaining]
    assert len(rolled) == 1 and works.ledger.load_terms(subscriber.account_id.hex) == []
    works.orders.resume(product)
    assert len(works.ledger.load_terms(subscriber.account_id.hex)) == 2
    assert balances(works)
