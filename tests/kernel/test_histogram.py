"""Counts below bounds: one by one, many at once, and added up, they are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import Histogram

BOUNDS = (1, 5, 100)


@given(st.lists(st.integers(0, 200)), st.lists(st.integers(0, 200)))
def test_one_by_one_or_together(first, second):
    one, many, both = Histogram(BOUNDS), Histogram(BOUNDS), Histogram(BOUNDS)
    for value in first:
        one.observe(value)
    many.observe_all(first)
    assert one.wire() == many.wire()
    assert one.count == len(first)
    assert one.total == sum(first)
    both.observe_all(first + second)
    many = Histogram(BOUNDS)
    many.observe_all(second)
    one.add(many.wire())
    assert one.wire() == both.wire()
    for at, bound in enumerate(BOUNDS):
        assert sum(both.counts[: at + 1]) == sum(value <= bound for value in first + second)


def test_another_ones_bounds_are_refused():
    with pytest.raises(AssertionError):
        Histogram(BOUNDS).add(Histogram((1, 2)).wire())
