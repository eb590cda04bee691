from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts, Weights, amount, split

weights = st.builds(Weights, *[st.integers(0, 5000)] * 9)
counts = st.builds(Counts, *[st.integers(0, 1000)] * 8)


@given(weights, counts)
def test_one_bucket_that_is_large_enough_pays_for_all(rate, tokens):
    cost = amount(rate, tokens)
    shares, request, left = split([(rate, cost)], tokens)
    assert (shares[0].amount, request, sum(left)) == (cost, 0, 0)


@given(st.lists(st.tuples(weights, st.integers(0, 2_000_000)), min_size=1, max_size=5), counts)
def test_a_split_loses_nothing_and_overdraws_nothing(buckets, tokens):
    shares, request, left = split(buckets, tokens)
    assert request + sum(share.requests for share in shares) == 1
    for at, total in enumerate(tokens):
        assert left[at] + sum(share.counts[at] for share in shares) == total
    for (rate, available), share in zip(buckets, shares, strict=False):
        assert 0 <= share.amount <= available
        assert share.amount == amount(rate, share.counts) - rate.request * (1 - share.requests)


def test_classes_are_drawn_in_declared_order():
    rate = Weights(0, *[1000] * 8)
    shares, _, left = split([(rate, 3_500), (rate, 2_000)], Counts(fresh_input=2, output=4))
    assert shares[0].counts == Counts(fresh_input=2, output=1)
    assert shares[1].counts == Counts(output=2)
    assert left == Counts(output=1)
