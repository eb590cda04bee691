"""What goes on from one cycle to the next."""

from datetime import timedelta

from tests.support.ordered import left
from tests.support.spend import balances

M = 1_000_000


def test_what_is_left_rolls_over_once_and_up_to_the_cap(services, subscriber, spender, clock):
    services.orders.place(subscriber, "sample-rollover")  # 30 M a month, 15 M of it roll over
    account = subscriber.account_id
    assert spender.spend(account, 5 * M)
    clock.move(timedelta(days=30))
    services.orders.run_cycles()
    assert left(services, subscriber) == 45 * M
    # What rolled over is spent first; the rest of it ends with this month, and does not roll again.
    assert spender.spend(account, 12 * M)
    clock.move(timedelta(days=31))
    services.orders.run_cycles()
    assert left(services, subscriber) == 30 * M + 15 * M
    services.charges.recognise()
    first, second, third = services.charges.of_subscriber(subscriber.subscriber_id)
    # Of the first month 17 M were used, 5 M of them before and 12 M after; the rest is breakage.
    assert first.recognised_nano == first.net_nano * 17 // 30
    assert first.recognised_nano + first.broken_nano == first.net_nano and first.closed_at
    assert (second.recognised_nano, third.recognised_nano) == (0, 0)
    assert balances(services)


def test_granted_quantity_rolls_over_when_its_grant_closes(services, subscriber, spender, clock):
    services.orders.place(subscriber, "sample-rollover")
    (bucket,) = services.ledger.buckets(subscriber.account_id)
    granted = spender.open(subscriber.account_id, bucket, 20 * M * 1000)
    clock.move(timedelta(days=30))
    services.orders.run_cycles()
    # 10 M of it roll over at once; of what is granted 5 M more have room.
    assert sum(b.remaining for b in spender.usable(subscriber.account_id)) == 40 * M * 1000
    spender.close(subscriber.account_id, granted.grant_id)
    assert sum(b.remaining for b in spender.usable(subscriber.account_id)) == 45 * M * 1000
    assert sum(b.expired for b in services.ledger.buckets(subscriber.account_id)) == 15 * M * 1000
    assert balances(services)


def test_the_last_token_closes_the_plan_exactly(services, subscriber, spender):
    services.orders.place(subscriber, "ctc-premium")
    seen = 0
    for tokens in (1, 7_777_777, 33_333_333, 38_888_888):
        assert spender.spend(subscriber.account_id, tokens)
        services.charges.recognise([subscriber.account_id])
        seen += tokens
        (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
        assert charge.recognised_nano == charge.net_nano * seen // (80 * M)
        assert balances(services)
    assert seen == 79_999_999
    assert spender.spend(subscriber.account_id, 1)
    assert services.charges.recognise() == 1
    assert services.charges.recognise() == 0
    (charge,) = services.charges.of_subscriber(subscriber.subscriber_id)
    assert (charge.recognised_nano, charge.broken_nano, charge.owed_nano) == (charge.net_nano, 0, 0)
    assert charge.tax_nano == 2_824_528_302  # 49.9 * 6 / 106, to the nearest nano
    assert balances(services)
