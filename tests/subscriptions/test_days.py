"""Days as people read them: the seller's zone, the last day that belongs to a period."""

from datetime import UTC, datetime

import pytest

from tokenworks.subscriptions import BILLING_ZONE, day_of, end_of_day, last_day, minute_of, second_of


@pytest.mark.parametrize(
    ("end", "day"),
    [
        (datetime(2027, 5, 1, tzinfo=BILLING_ZONE), "2027-04-30"),
        (datetime(2027, 4, 30, 16, tzinfo=UTC), "2027-04-30"),
        (datetime(2027, 5, 1, 0, 0, 1, tzinfo=BILLING_ZONE), "2027-05-01"),
        (datetime(2027, 5, 1, 15, 59, 59, tzinfo=UTC), "2027-05-01"),
        (datetime(2028, 3, 1, tzinfo=BILLING_ZONE), "2028-02-29"),
        (datetime(2027, 1, 1, tzinfo=BILLING_ZONE), "2026-12-31"),
    ],
)
def test_a_period_ends_with_its_last_day(end, day):
    assert last_day(end) == day


def test_an_instant_is_told_in_the_sellers_zone():
    at = datetime(2027, 4, 30, 17, 5, 9, tzinfo=UTC)
    assert (day_of(at), minute_of(at), second_of(at)) == ("2027-05-01", "2027-05-01 01:05", "2027-05-01 01:05:09")  # fmt: skip


def test_a_day_that_is_named_counts_whole():
    end = end_of_day(datetime(2027, 6, 30))
    assert end == datetime(2027, 7, 1, tzinfo=BILLING_ZONE) and last_day(end) == "2027-06-30"
