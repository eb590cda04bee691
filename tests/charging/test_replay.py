"""The share of a charge: integers, rounded down class by class, never more than the original's."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.charging.messages import Loss, Need
from tokenworks.charging.model import COUNT_NEED
from tokenworks.charging.replay import charged_counts, need_of, share_of

counts = st.builds(Counts, *[st.integers(0, 10**9)] * 8)


@given(counts, st.integers(0, 100))
def test_a_share_is_at_most_the_charge_and_exact_to_a_token_of_each_class(charged, percent):
    share = share_of(charged, percent)
    for whole, part in zip(charged, share, strict=True):
        assert 0 <= whole * percent - part * 100 < 100
    assert share_of(charged, 100) == charged
    assert share_of(charged, 0) == Counts()
    need = need_of(share, percent)
    counts_alone = percent and (share.input_tokens, share.output_tokens) == (1, 0)
    assert need.input_tokens == (share.input_tokens + bool(counts_alone) if percent else 0)
    assert need != COUNT_NEED
    assert need.output_tokens == (share.output_tokens if percent else 0)
    assert need.requests == bool(percent)


def test_what_the_operator_bore_is_not_charged_again():
    losses = [
        Loss("implausible", 0, Counts(output=3)),
        Loss("beyond_maximum", 0, Counts(output=2, reasoning=1)),
    ]
    assert charged_counts(Counts(fresh_input=4, output=9, reasoning=1), losses) == Counts(
        fresh_input=4, output=4
    )
    assert need_of(Counts(), 0) == Need(0, 0, 0)


def test_a_replay_of_one_token_is_no_count_for_which_nothing_is_bought():
    assert need_of(Counts(fresh_input=1), 5) == Need(1, 2, 0) and need_of(Counts(output=1), 5) == Need(
        1, 0, 1
    )
