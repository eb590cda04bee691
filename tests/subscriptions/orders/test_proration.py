"""Shares of a cycle: exact instants, whatever the zone's clocks show."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.charging import share
from tokenworks.subscriptions import model
from tokenworks.subscriptions.model import cycle_begin, cycle_end
from tokenworks.subscriptions.orders.proration import (
    NOTHING,
    WHOLE,
    changed_to,
    given_back,
    instants,
    joined,
    rest,
    unearned,
)

ZONES = ["Asia/Shanghai", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2032, 1, 1), timezones=st.just(UTC))


def epoch_us(at):
    """Microseconds since 1970, by the calendar alone."""
    at = at.astimezone(UTC)
    days = at.toordinal() - datetime(1970, 1, 1).toordinal()
    return ((days * 24 + at.hour) * 60 + at.minute) * 60 * 10**6 + at.second * 10**6 + at.microsecond


@given(st.sampled_from(ZONES), TIMES, TIMES)
def test_instants_are_counted_and_not_read_from_a_clock(zone, one, other):
    begin, end = sorted((one.astimezone(ZoneInfo(zone)), other.astimezone(ZoneInfo(zone))), key=epoch_us)
    assert instants(begin, end) == epoch_us(end) - epoch_us(begin)
    assert instants(end, begin) == 0


def test_a_month_with_a_change_of_clocks_has_the_hours_that_it_has():
    zone = ZoneInfo("America/New_York")
    begin, end = datetime(2027, 3, 1, tzinfo=zone), datetime(2027, 4, 1, tzinfo=zone)
    assert instants(begin, end) == (31 * 24 - 1) * 3600 * 10**6
    part = rest(begin, end, datetime(2027, 3, 31, 23, tzinfo=zone))
    assert Fraction(part.num, part.den) == Fraction(1, 31 * 24 - 1)


@given(
    st.sampled_from(ZONES),
    TIMES,
    st.sampled_from(["calendar_month", "anniversary_month"]),
    TIMES,
    st.integers(1, 10**12),
)
def test_every_instant_is_in_one_cycle_and_its_shares_add_up(zone, started, cycle, at, price):
    """In zones with changes of clocks, too: the seller's zone is a constant, and nothing here leans on which."""
    started, at = sorted((started, at))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "BILLING_ZONE", ZoneInfo(zone))
        begin = cycle_begin(cycle, started, at)
        end = cycle_end(cycle, started, at, None)
        assert begin <= at < end
        assert cycle_end(cycle, started, begin, None) == end
        assert cycle_begin(cycle, started, end) == end
    part = rest(begin, end, at)
    whole, left = epoch_us(end) - epoch_us(begin), epoch_us(end) - epoch_us(at)
    assert (part.num, part.den) == (left, whole)
    assert share(price, part.num, part.den) == price * left // whole
    # What is earned and what is not are the price.
    not_earned = share(price, *unearned(begin, end, at)[:2])
    assert 0 <= not_earned <= price
    assert price - not_earned == -(-price * (whole - left) // whole)


def test_the_table():
    begin, end = datetime(2027, 4, 1, tzinfo=UTC), datetime(2027, 5, 1, tzinfo=UTC)
    half = begin + timedelta(days=15)
    for policy, num, free in (("prorate", 1, False), ("full", 2, False), ("free_until_next_cycle", 1, True)):
        part = joined(policy, begin, end, half)
        assert (Fraction(part.num, part.den), part.free) == (Fraction(num, 2), free)
        # From the first instant on it is a month like any other.
        part = joined(policy, begin, end, begin)
        assert (Fraction(part.num, part.den), part.free) == (1, False)
        assert joined(policy, begin, None, half) == WHOLE
    assert changed_to("full", begin, end, half) == WHOLE
    assert Fraction(*changed_to("prorate", begin, end, half)[:2]) == Fraction(1, 2)
    assert Fraction(*given_back("prorate", begin, end, half)[:2]) == Fraction(1, 2)
    assert (
        given_back("full", begin, end, half)
        == given_back("free_until_next_cycle", begin, end, half)
        == NOTHING
    )
    assert unearned(begin, None, half) == NOTHING
    # An empty cycle has no parts, and what is over has none left.
    assert rest(begin, begin, begin) == NOTHING
    assert rest(begin, end, end + timedelta(days=1)).num == 0
