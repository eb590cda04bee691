"""Pay-as-you-go: a step is bought as the last one runs out, up to the cap, under the lock, with consent."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.spend import Spender, balances
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect
from tokenworks.app.settings import load_settings
from tokenworks.charging import Need
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import BILLING_ZONE, CapBelowSpent

YUAN = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    """Pays as it goes: 1 yuan for 400 000 tokens."""
    made = services.subscriptions.register("+8613800000001", "Li")
    services.orders.place(made, "shanghai-mobile-payg")
    return made


def steps(services, subscriber):
    return [c for c in services.charges.of_subscriber(subscriber.subscriber_id) if c.kind == "step"]


def alerts(services, subscriber):
    rows = services.connection.execute(
        "SELECT ref, content->>'spent_nano' FROM notification WHERE subscriber_id = %s AND kind = 'spend' ORDER BY ref",
        (subscriber.subscriber_id,),
    )
    return {row[0]: int(row[1]) for row in rows}


def test_a_step_is_bought_when_the_last_one_runs_out(services, subscriber, spender):
    assert steps(services, subscriber) == []  # nothing is used, nothing is bought
    assert spender.spend(subscriber.account_id, 100)
    assert spender.spend(subscriber.account_id, 399_900)
    assert len(steps(services, subscriber)) == 1
    assert spender.spend(subscriber.account_id, 1)
    assert [(s.number, s.amount_nano, s.quantity) for s in steps(services, subscriber)] == [
        (1, YUAN, 400_000_000),
        (2, YUAN, 400_000_000),
    ]
    assert services.payg.spent(subscriber) == 2 * YUAN
    services.charges.recognise()
    first, second = steps(services, subscriber)
    assert first.closed_at and first.recognised_nano == first.net_nano
    assert second.recognised_nano == second.net_nano * 1 // 400_000
    assert balances(services)


def test_as_many_steps_as_a_request_lacks_and_none_where_the_cap_does_not_allow_all(
    services, subscriber, spender
):
    services.payg.control(subscriber, cap_nano=3 * YUAN)
    assert not spender.spend(subscriber.account_id, 1_200_001)
    assert steps(services, subscriber) == []
    assert spender.spend(subscriber.account_id, 1_200_000)
    assert len(steps(services, subscriber)) == 3
    assert not spender.spend(subscriber.account_id, 1)
    assert balances(services)


def test_the_cap_is_a_calendar_months(services, subscriber, spender, clock):
    services.payg.control(subscriber, cap_nano=YUAN)
    assert spender.spend(subscriber.account_id, 400_000)
    assert not spender.spend(subscriber.account_id, 1)
    clock.move(timedelta(days=29, hours=23, minutes=59))
    assert not spender.spend(subscriber.account_id, 1)
    clock.move(timedelta(minutes=1))
    assert spender.spend(subscriber.account_id, 1)
    assert balances(services)


def test_a_lock_a_credit_limit_and_a_suspension_stop_it(services, subscriber, spender):
    services.payg.control(subscriber, locked=True)
    assert not spender.spend(subscriber.account_id, 1)
    services.payg.control(subscriber, locked=False)
    services.subscriptions.set_profile(subscriber, credit_limit_nano=YUAN)
    assert spender.spend(subscriber.account_id, 400_000)
    assert not spender.spend(subscriber.account_id, 1)
    services.subscriptions.set_profile(subscriber, credit_limit_nano=2 * YUAN)
    services.subscriptions.set_state(subscriber, "suspended")
    assert not services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))
    services.subscriptions.set_state(subscriber, "active")
    services.subscriptions.set_dunned(subscriber, restricted=True, suspended=False)
    assert not services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))
    services.subscriptions.set_dunned(subscriber, restricted=False, suspended=False)
    assert spender.spend(subscriber.account_id, 1)


def test_it_goes_on_from_a_plan_only_with_consent(services, subscriber, spender):
    services.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, 10_000_000)
    assert not spender.spend(subscriber.account_id, 1)
    services.payg.control(subscriber, spill_over=True)
    assert services.consents.latest_answers(subscriber) == {"spill_over": True}
    assert spender.spend(subscriber.account_id, 1)
    assert len(steps(services, subscriber)) == 1
    assert balances(services)


def test_a_cap_below_what_is_spent_is_refused(services, subscriber, spender):
    assert spender.spend(subscriber.account_id, 800_000)
    with pytest.raises(CapBelowSpent):
        services.payg.control(subscriber, cap_nano=2 * YUAN - 1, locked=True)
    with pytest.raises(Invalid):
        services.payg.control(subscriber, cap_nano=-1)
    now = services.subscriptions.find(subscriber.phone)
    assert (now.cap_nano, now.spend_locked) == (50 * YUAN, False)
    assert services.payg.control(subscriber, cap_nano=2 * YUAN).cap_nano == 2 * YUAN


def test_alerts_come_once_a_month_at_each_threshold(services, subscriber, spender, clock):
    services.payg.control(subscriber, cap_nano=4 * YUAN)
    seen = []
    for _ in range(5):
        spender.spend(subscriber.account_id, 400_000)
        seen.append(sorted(alerts(services, subscriber)))
    half, most, all_ = "2027-04:50", "2027-04:80", "2027-04:100"
    assert seen == [[], [half], [half], sorted([half, most, all_]), sorted([half, most, all_])]
    assert alerts(services, subscriber) == {half: 2 * YUAN, most: 4 * YUAN, all_: 4 * YUAN}
    clock.move(timedelta(days=30))
    for _ in range(2):
        spender.spend(subscriber.account_id, 400_000)
    assert "2027-05:50" in alerts(services, subscriber)


def test_a_step_that_has_ended_is_no_step(services, subscriber, spender, clock):
    """Also before anybody has noticed its end."""
    assert spender.spend(subscriber.account_id, 1)
    clock.move(timedelta(days=31))
    assert services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))
    assert len(steps(services, subscriber)) == 2
    assert spender.spend(subscriber.account_id, 1)
    services.orders.run_cycles()
    assert balances(services)


def test_a_model_that_the_rate_card_does_not_sell_buys_nothing(services, subscriber):
    assert services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))
    assert services.payg.buy(subscriber.account_id, "m", Need(1, 0, 1))  # there is enough now
    assert len(steps(services, subscriber)) == 1
    stranger = services.subscriptions.register("+8613800000002")
    assert not services.payg.buy(stranger.account_id, "m", Need(1, 0, 1))


def test_many_hosts_that_run_out_at_once_buy_one_step(services, subscriber, database_url, session_dir, clock):
    setup = load_settings({"data_dir": str(session_dir / "seed")}).settings

    def buy(_):
        with contextlib.closing(connect(database_url)) as connection:
            return make_works(setup, connection, clock).payg.buy(subscriber.account_id, "m", Need(1, 0, 100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(buy, range(16)))
    assert len(steps(services, subscriber)) == 1
    assert balances(services)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asks=st.lists(st.integers(1, 1_500_000), min_size=1, max_size=12),
    cap=st.integers(0, 6),
)
def test_never_beyond_the_cap_and_never_a_step_too_many(services, asks, cap):
    """Against plain arithmetic: what is served, what is bought."""
    number = services.connection.execute("SELECT count(*) FROM subscriber").fetchone()[0]
    subscriber = services.subscriptions.register(f"+86139{number:08d}")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    services.payg.control(subscriber, cap_nano=cap * YUAN)
    spender = Spender(services)
    bought = there = 0
    for ask in asks:
        more = -(-max(0, ask - there) // 400_000)
        served = bought + more <= cap
        if served:
            bought, there = bought + more, there + more * 400_000 - ask
        assert spender.spend(subscriber.account_id, ask) == served
        assert len(steps(services, subscriber)) == bought
    assert services.payg.spent(subscriber) == bought * YUAN <= cap * YUAN
