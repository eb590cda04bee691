"""Members, departments and the periods of their caps."""

from datetime import UTC, datetime, timedelta

import pytest

from tokenworks.kernel import Invalid
from tokenworks.subscriptions import MemberExists, MemberNotFound
from tokenworks.subscriptions.model import period_of

MADE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "now", "begin", "end"),
    [
        # A carrier's day begins at 16:00 UTC of the day before.
        ("day", "2026-11-23T15:59", "2026-11-22T16:00", "2026-11-23T16:00"),
        ("day", "2026-11-23T16:00", "2026-11-23T16:00", "2026-11-24T16:00"),
        ("month", "2026-11-30T15:59", "2026-10-31T16:00", "2026-11-30T16:00"),
        ("month", "2026-12-31T16:00", "2026-12-31T16:00", "2027-01-31T16:00"),
        ("total", "2026-11-23T16:00", "2026-01-01T00:00", None),
    ],
)
def test_periods(period, now, begin, end):
    at = lambda text: None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
    assert period_of(period, MADE, at(now)) == (at(begin), at(end))


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register("+8613800000001")


def test_a_cap_has_a_bucket_for_each_period_and_what_was_used_stays(services, subscriber, clock):
    member = services.members.add(subscriber, "a", cap_tokens=100, cap_period="day")
    (first,), end = services.members.caps(member.member_id)
    assert services.members.caps(member.member_id) == ([first], end)
    clock.move(end - clock.now() + timedelta(seconds=1))
    (second,), later = services.members.caps(member.member_id)
    assert second != first
    assert later == end + timedelta(days=1)
    services.members.set_cap(member, 40, "day")
    services.members.caps(member.member_id)
    totals = {b.bucket_id: b.total for b in services.ledger.buckets(subscriber.account_id)}
    assert totals == {first: 100_000, second: 40_000}
    services.ledger.expire_due()
    expired = {b.bucket_id: b.expired for b in services.ledger.buckets(subscriber.account_id)}
    assert expired == {first: 100_000, second: 0}


def test_the_line_of_departments(services, subscriber):
    add = services.members.add
    one = add(subscriber, "one", department=True, cap_tokens=10)
    two = add(subscriber, "two", department=True, parent="one", cap_tokens=20)
    person = add(subscriber, "person", parent="two", cap_tokens=30)
    caps, _ = services.members.caps(person.member_id)
    totals = {b.bucket_id: b.total for b in services.ledger.buckets(subscriber.account_id)}
    assert [totals[cap] for cap in caps] == [30_000, 20_000, 10_000]
    assert [m.parent_id for m in (one, two, person)] == [None, one.member_id, two.member_id]
    with pytest.raises(Invalid, match="two levels"):
        add(subscriber, "three", department=True, parent="two")
    with pytest.raises(Invalid, match="not a department"):
        add(subscriber, "x", parent="person")
    with pytest.raises(MemberExists):
        add(subscriber, "two")
    with pytest.raises(MemberNotFound):
        add(subscriber, "x", parent="nobody")
    with pytest.raises(Invalid):
        add(subscriber, "")


def test_names_that_look_the_same_are_one_name(services):
    """Full-width letters, other spaces: one member has the name, and is found by either writing."""
    family = services.subscriptions.register("+8613800000055")
    made = services.members.add(family, "Ａnna  Li")
    assert made.name == "Anna Li"
    for name in ("Anna Li", "Ａｎｎａ\u3000Li"):
        with pytest.raises(MemberExists):
            services.members.add(family, name)
        assert services.members.find(family, name).member_id == made.member_id
