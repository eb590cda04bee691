"""Subscribers and their numbers."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tests.support.ordered import left
from tests.support.spend import balances
from tokenworks.kernel import Invalid, ManualClock
from tokenworks.subscriptions import BILLING_ZONE, PhoneTaken, SubscriberNotActive

M = 1_000_000


@pytest.fixture
def clock():
    return ManualClock(datetime(2027, 4, 1, tzinfo=BILLING_ZONE).astimezone(UTC))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def test_another_number_is_the_same_subscriber_and_the_old_one_is_free(services, subscriber):
    other = services.subscriptions.register("+8613800000009")
    services.members.invite(other, subscriber.phone, "Guest")
    with pytest.raises(PhoneTaken):
        services.subscriptions.change_phone(subscriber, other.phone)
    moved = services.subscriptions.change_phone(subscriber, "+8613800000005", "port_in")
    assert (moved.subscriber_id, moved.account_id) == (subscriber.subscriber_id, subscriber.account_id)
    assert services.subscriptions.find("+8613800000005").subscriber_id == subscriber.subscriber_id
    assert services.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    # Where one was invited goes with the person, not with the number.
    assert services.members.memberships("+8613800000001") == []
    assert [m.name for m in services.members.memberships("+8613800000005")] == ["Guest"]


def test_closing_ends_everything_and_frees_the_number(services, subscriber, spender):
    services.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, M)
    services.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        services.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        services.orders.place(subscriber, "ctc-light")
    assert left(services, subscriber) == 0
    # 1 M of 10 M were used, at once.
    assert services.charges.receivable(subscriber.account_id) == 990_000_000
    assert services.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    services.charges.recognise()
    assert balances(services)


def test_a_subscriber_is_found_by_broadband_number(services):
    made = services.subscriptions.register("+8613800000006", broadband="ad12345678@sh")
    assert services.subscriptions.find("ad12345678@sh") == made
    with pytest.raises(Invalid):
        services.subscriptions.set_profile(made, broadband="x")
    with pytest.raises(Invalid, match="can't be set"):
        services.subscriptions.set_profile(made, account_id=uuid4())
    assert services.subscriptions.set_profile(made, bill_day=15, language="en").bill_day == 15
    services.consents.keep(made, "marketing", given=True)
    assert services.consents.latest_answers(made) == {"marketing": True}
    with pytest.raises(Invalid, match="a consent is for"):
        services.consents.keep(made, "anything", given=True)
