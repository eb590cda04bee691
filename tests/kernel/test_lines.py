"""How often a line may be written: a burst, then a rate; what is left out is counted, and every kind has a bound."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import LineLimit
from tokenworks.kernel.lines import KINDS_MAX, OTHER


def test_a_burst_then_a_rate_and_the_others_are_counted():
    limit = LineLimit(3, 0.5, 10)
    assert [limit.admits("a", 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert limit.admits("b", 100.0)
    assert limit.left_out(105.0) == []
    assert limit.admits("a", 102.0)
    assert not limit.admits("a", 103.0)
    assert limit.left_out(110.0) == [("a", 3)]
    assert limit.left_out(200.0) == []
    assert limit.left_out(200.0, include_recent=True) == []


def test_kinds_are_bounded_and_those_at_rest_are_forgotten():
    limit = LineLimit(1, 1.0, 10)
    for kind in range(KINDS_MAX):
        assert limit.admits(kind, 0.0)
    assert limit.admits("one more", 0.5)
    assert not limit.admits("and another", 0.5), "they share a place"
    assert limit.left_out(0.5, include_recent=True) == [(OTHER, 1)]
    assert limit.admits("much later", 1000.0)
    assert limit.admits("and another one", 1000.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2000)), max_size=300))
def test_nothing_is_lost_and_no_more_is_written_than_may(asks):
    """What was admitted and what is said to be left out are all that was asked, and the rate holds over the whole time."""
    limit, now_s, admitted, said = LineLimit(5, 0.1, 10), 0.0, 0, 0
    for kind, wait_ms in asks:
        now_s += wait_ms / 1000
        admitted += limit.admits(kind, now_s)
        said += sum(count for _, count in limit.left_out(now_s))
    said += sum(count for _, count in limit.left_out(now_s, include_recent=True))
    assert admitted + said == len(asks)
    assert admitted <= 3 * (5 + 0.1 * now_s) + 1e-6
