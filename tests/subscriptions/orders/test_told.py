"""People are told of what their orders and plans did, once, and of nothing that was rolled back."""

from datetime import timedelta

import pytest

from tokenworks.subscriptions import month_start, next_month


@pytest.fixture
def li(services):
    return services.subscriptions.register("+8613800000001", "Li", language="en")


def told(services, prefix):
    rows = services.connection.execute(
        "SELECT kind, content FROM notification WHERE kind LIKE %s ORDER BY notification_id", (f"{prefix}%",)
    )
    return rows.fetchall()


def test_an_order_that_is_done_and_a_plan_that_renews_and_ends(services, li, clock):
    services.orders.place(li, "ctc-light")
    assert [kind for kind, _ in told(services, "order")] == ["order.done"]
    begin = next_month(month_start(clock.now()))
    clock.move(begin - clock.now() + timedelta(hours=1))
    services.orders.run_cycles()
    services.orders.run_cycles()
    ((kind, content),) = told(services, "plan")
    assert kind == "plan.renewed" and content["at"] < next_month(begin).isoformat()
    services.subscriptions.close(li)
    assert [kind for kind, _ in told(services, "plan")] == ["plan.renewed"]


def test_a_plan_that_runs_low_is_told_once_when_its_use_is_settled(services, spender, li):
    services.orders.place(li, "ctc-light")
    (bucket,) = [b for b in services.ledger.buckets(li.account_id) if b.kind == "balance"]
    tokens = bucket.total // 1000
    spender.spend(li.account_id, tokens * 79 // 100)
    assert services.orders.tell_balances() == 0
    spender.spend(li.account_id, tokens * 2 // 100)
    assert services.orders.tell_balances() == 1 and services.orders.tell_balances() == 0
    ((kind, content),) = told(services, "balance")
    assert kind == "balance.low" and 80 <= content["percent"] <= 81 and content["name"]
    left = services.ledger.buckets(li.account_id)[0].left // 1000
    spender.spend(li.account_id, left)
    services.orders.tell_balances()
    assert [kind for kind, _ in told(services, "balance")] == ["balance.low", "balance.used_up"]
    assert told(services, "balance")[1][1]["percent"] == 100


def test_steps_of_pay_as_you_go_are_told_by_the_cap_alone(services, spender, li):
    services.orders.place(li, "shanghai-mobile-payg")
    spender.spend(li.account_id, 3_000_000)
    services.orders.tell_balances()
    assert told(services, "balance") == []
