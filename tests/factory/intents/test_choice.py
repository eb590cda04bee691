"""Which model an intent gets, and what that saves and keeps on labelled requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory import (
    BUILT_IN,
    OBJECTIVES,
    SYNTHETIC_REQUESTS,
    ModelCard,
    Option,
    Requirements,
    TraceFaulty,
    difficulty,
    evaluate,
    features,
    make_intent,
    make_model,
    rank,
    read_requests,
    unfit,
)
from tokenworks.factory.intents.choice import Intent, quality_needed
from tokenworks.kernel import Invalid

SMALL, MIDDLE, LARGE = (
    ModelCard(name=name, quality=q) for name, q in (("small", 35), ("middle", 62), ("large", 92))
)


def option(card, ms=100.0, cost=1, paid=True):
    return Option(card.name, card, ms, cost, "thousandths of a token", paid)


ALL = [option(SMALL, 80.0, 10), option(MIDDLE, 150.0, 40), option(LARGE, 400.0, 200)]


def first(name, hard, options=ALL):
    return rank(BUILT_IN[name], Requirements(hard), options)[0]


def test_easy_ones_go_to_what_is_cheap_and_hard_ones_to_what_is_good():
    assert [first("auto", hard).model for hard in (0.05, 0.45, 0.97)] == ["small", "middle", "large"]
    assert [first("auto:cheap", hard).model for hard in (0.05, 0.45, 0.97)] == ["small", "middle", "large"]
    assert [first("auto:fast", hard).model for hard in (0.05, 0.97)] == ["small", "large"]
    assert first("auto:best", 0.0).model == "large"
    reason = first("auto", 0.05).reason
    assert reason.startswith("auto: seems easy (0.05)") and "costs about 10 thousandths of a token" in reason
    assert "seems hard" in first("auto:fast", 0.97).reason and "400 ms" in first("auto:fast", 0.97).reason


def test_what_nothing_pays_for_comes_last_and_the_best_is_enough_where_none_is():
    options = [option(SMALL), option(LARGE, paid=False)]
    assert [choice.model for choice in rank(BUILT_IN["auto"], Requirements(0.97), options)] == [
        "small",
        "large",
    ]
    assert first("auto", 0.97, [option(SMALL), option(MIDDLE, cost=9)]).model == "middle"
    assert rank(BUILT_IN["auto"], Requirements(), []) == []
    floor = Intent(name="auto:safe", objective="cost", quality_min=60)
    assert rank(floor, Requirements(0.0), ALL)[0].model == "middle"


def test_what_is_fast_is_told_in_steps_of_what_anybody_notices():
    near = [option(SMALL, 101.0, 5), option(ModelCard(name="other", quality=35), 99.0, 9)]
    assert first("auto:fast", 0.0, near).model == "small", "two milliseconds are not worth twice the price"


@given(
    st.sampled_from(OBJECTIVES),
    st.floats(0, 1),
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 1000), st.floats(0, 5000), st.booleans()),
        min_size=1,
        max_size=8,
    ),
)
def test_every_option_is_ranked_once_and_good_enough_ones_are_first(objective, hard, drawn):
    options = [
        Option(f"m{n}", ModelCard(name=f"m{n}", quality=q), ms, cost, "", paid)
        for n, (q, cost, ms, paid) in enumerate(drawn)
    ]
    intent = Intent(name="auto:x", objective=objective)
    found = rank(intent, Requirements(hard), options)
    assert sorted(choice.model for choice in found) == sorted(option.model for option in options)
    chosen = next(option for option in options if option.model == found[0].model)
    if any(option.paid for option in options):
        assert chosen.paid
    if objective != "quality":
        bar = min(quality_needed(hard, objective), max(option.card.quality for option in options))
        payable = [option for option in options if option.paid] or options
        if any(option.card.quality >= bar for option in payable):
            assert chosen.card.quality >= bar
            if objective in {"cost", "balance"}:
                assert chosen.cost == min(o.cost for o in payable if o.card.quality >= bar)


def test_what_a_model_does_not_take_it_does_not_get():
    assert unfit(SMALL, Requirements(modalities=frozenset({"image"}))) == "modality: it takes no image"
    assert (
        unfit(
            make_model(name="sees", modalities=("text", "image")),
            Requirements(modalities=frozenset({"image"})),
        )
        is None
    )
    assert unfit(make_model(name="plain", tools=False), Requirements(tools=True)) == "tools: it calls none"
    assert unfit(SMALL, Requirements(), filing_required=True) == "filing: small is not filed (none)"
    assert (
        unfit(
            make_model(name="f", filing="filed", filing_no="Shanghai-1"), Requirements(), filing_required=True
        )
        is None
    )
    assert unfit(make_model(name="f", filing="pending"), Requirements(), filing_required=True) is not None


@pytest.mark.parametrize("fields", [{"name": "Auto"}, {"name": "auto:"}, {"name": "a b"}, {"name": "auto:x", "objective": "luck"}])  # fmt: skip
def test_a_faulty_intent_is_refused(fields):
    with pytest.raises(Invalid):
        make_intent(**fields)


def test_harder_words_seem_harder_and_plain_ones_easier():
    plain = difficulty(features("Translate to German: good morning"))
    proof = difficulty(features("Prove by induction that the invariant holds and derive the complexity."))
    assert plain < 0.3
    assert proof > 0.7
    same = "Write something about the sea."
    assert difficulty(features(same, effort="high")) > difficulty(features(same))
    assert difficulty(features(same, tools=8)) > difficulty(features(same))
    assert difficulty(features("")) < 0.2


def test_the_labelled_requests_show_the_saving_and_what_is_kept():
    """On the half that no weight was fitted on, and on all."""
    requests = read_requests(SYNTHETIC_REQUESTS)
    assert len(requests) > 100 and 0.4 < sum(r.hard for r in requests) / len(requests) < 0.6
    small, large = (make_model(name="small", quality=40), 1), (make_model(name="large", quality=90), 16)
    for part in (requests[1::2], requests):
        found = evaluate(BUILT_IN["auto"], part, small, large)
        assert found.hard_kept >= 0.95 * found.hard
        assert found.well_answered >= 0.97
        assert found.saving >= 0.4
    best = evaluate(BUILT_IN["auto:best"], requests, small, large)
    assert best.saving == 0 and best.well_answered == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "- [simple, hi]", "- [easy]", "- easy", "{a: 1}", "- [easy, ''", "\x00"]
)
def test_faulty_requests_are_refused(tmp_path, text):
    path = tmp_path / "requests.yaml"
    path.write_text(text)
    with pytest.raises(TraceFaulty):
        read_requests(path)


def test_costs_in_several_units_are_not_compared():
    calls = Option("large", LARGE, 400.0, 1, "thousandths of a call", operator_nano=900)
    tokens = Option("small", SMALL, 80.0, 5000, "thousandths of a token", operator_nano=5)
    found = rank(BUILT_IN["auto"], Requirements(0.0), [calls, tokens])
    assert found[0].model == "small" and "costs" not in found[0].reason
