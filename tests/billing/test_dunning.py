"""Dunning."""

from datetime import timedelta

import pytest

from tests.support.spend import balances
from tokenworks.subscriptions import SubscriberNotActive

YUAN = 1_000_000_000


def test_who_does_not_pay_is_reminded_restricted_and_suspended_and_lifted_by_paying(
    billed, subscriber, spender, clock
):
    services, bill = billed

    def state():
        now = services.subscriptions.find(str(subscriber.subscriber_id))
        return now.state, now.restricted

    clock.move(timedelta(days=15 + 3) - timedelta(seconds=1))
    assert services.dunning.run_dunning() == {}
    clock.move(timedelta(seconds=2))
    assert services.dunning.run_dunning() == {"remind": 1}
    assert services.dunning.run_dunning() == {}
    clock.move(timedelta(days=7))
    assert services.dunning.run_dunning() == {"restrict": 1}
    assert state() == ("active", True)
    with pytest.raises(SubscriberNotActive):
        services.orders.place(subscriber, "ctc-standard")
    clock.move(timedelta(days=10))
    services.orders.run_cycles()
    assert services.dunning.run_dunning() == {"suspend": 1}
    assert state() == ("suspended", True)
    assert (
        not spender.usable(subscriber.account_id)
        or spender.open(subscriber.account_id, spender.usable(subscriber.account_id)[0], 1000) is None
    )
    kinds = services.connection.execute(
        "SELECT kind FROM notification WHERE kind LIKE 'dunning.%' ORDER BY notification_id"
    ).fetchall()
    assert [kind for (kind,) in kinds] == ["dunning.remind", "dunning.restrict", "dunning.suspend"]
    services.payments.pay(bill, "cash", "at last", 9 * YUAN)
    assert state() == ("suspended", True)
    services.payments.pay(bill, "cash", "and the rest")
    assert state() == ("active", False)
    assert spender.spend(subscriber.account_id, 100)
    assert balances(services)
