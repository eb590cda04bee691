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
def subscriber(works):
    return works.subscriptions.register("+8613800000001", "Li", broadband="sh87654321")


def test_another_number_is_the_same_subscriber_and_the_old_one_is_free(works, subscriber):
    other = works.subscriptions.register("+8613800000009")
    works.members.invite(other, subscriber.phone, "Guest")
    with pytest.raises(PhoneTaken):
        works.subscriptions.change_phone(subscriber, other.phone)
    moved = works.subscriptions.change_phone(subscriber, "+8613800000005", "port_in")
    assert (moved.subscriber_id, moved.account_id) == (subscriber.subscriber_id, subscriber.account_id)
    assert works.subscriptions.find("+8613800000005").subscriber_id == subscriber.subscriber_id
    assert works.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    # Where one was invited goes with the person, not with the number.
    assert works.members.memberships("+8613800000001") == []
    assert [m.name for m in works.members.memberships("+8613800000005")] == ["Guest"]


def test_closing_ends_everything_and_frees_the_number(works, subscriber, spender):
    works.orders.place(subscriber, "ctc-light")
    assert spender.spend(subscriber.account_id, M)
    works.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        works.subscriptions.close(subscriber)
    with pytest.raises(SubscriberNotActive):
        works.orders.place(subscriber, "ctc-light")
    assert left(works, subscriber) == 0
    # 1 M of 10 M were used, at once.
    assert works.charges.receivable(subscriber.account_id) == 990_000_000
    assert works.subscriptions.register("+8613800000001").subscriber_id != subscriber.subscriber_id
    works.charges.recognise()
    assert balances(works)


def test_a_subscriber_is_found_by_broadband_number(works):
    made = works.subscriptions.register("+8613800000006", broadband="ad12345678@sh")
    assert works.subscriptions.find("ad12345678@sh") == made
    with pytest.raises(Invalid):
        works.subscriptions.set_profile(made, broadband="x")
    with pytest.raises(Invalid, match="can't be set"):
        works.subscriptions.set_profile(made, account_id=uuid4())
    assert works.subscriptions.set_profile(made, bill_day=15, language="en").bill_day == 15
    works.consents.keep(made, "marketing", given=True)
    assert works.consents.said(made) == {"marketing": True}
    with pytest.raises(Invalid, match="a consent is for"):
        works.consents.keep(made, "anything", given=True)
