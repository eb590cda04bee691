"""Circuits, outliers, slow starts, draining, and what a bad hour may cost."""

from tests.factory.placing.test_placement import Router, view
from tokenworks.factory import (
    FAILURES_TO_OPEN,
    TRIVIAL_REQUEST,
    PlacementRequest,
    RetryBudget,
    eject_outlier,
)
from tokenworks.factory.placing.health import (
    EJECTION_S,
    SLOW_START_S,
    SLOW_STARTS,
    Health,
)


def fails_half(health, requests, now_s):
    for n in range(requests):
        if n % 2:
            health.failed(now_s)
        else:
            health.succeeded(now_s)


def test_one_that_fails_half_and_never_five_in_a_row_is_ejected_for_longer_each_time():
    bad, peers = Health(), [Health(), Health(), Health()]
    fails_half(bad, 30, 100.0)
    assert bad.failures < FAILURES_TO_OPEN
    assert eject_outlier(bad, [bad, *peers], 100.0)
    assert bad.open(100.0 + EJECTION_S - 1) and not bad.open(100.0 + EJECTION_S + 1)
    bad.succeeded(131.0)
    fails_half(bad, 30, 140.0)
    assert eject_outlier(bad, [bad, *peers], 140.0)
    assert bad.open(140.0 + 2 * EJECTION_S - 1)


def test_a_few_errors_among_many_answers_eject_nobody():
    well = Health()
    for n in range(1000):
        well.succeeded(n / 100)
        if n % 20 == 0:
            well.failed(n / 100)
    assert not eject_outlier(well, [well, Health(), Health()], 10.0)


def test_at_most_half_are_ejected():
    views = [Health() for _ in range(4)]
    for one in views:
        fails_half(one, 30, 50.0)
    assert [eject_outlier(one, views, 50.0) for one in views] == [True, True, False, False]


def test_what_comes_back_begins_slowly():
    back, other = view("back"), view("other")
    for _ in range(FAILURES_TO_OPEN):
        back.failed(0.0)
    router = Router(back, other)
    back.began(20.0)
    back.ended()
    back.succeeded(20.0)
    takes = [back.takes(20.0 + SLOW_START_S * step) for step in range(4)]
    assert takes == [1, 2, 4, 8]
    back.outstanding, other.outstanding = 1, 50
    said = {
        c.view.name: c.excluded
        for c in router.placement.explain(router.views, (), PlacementRequest(9, 9), 20.5)
    }
    assert said["back"] == "slow start: it takes 1 at once for now" and said["other"] is None
    assert router.choose(PlacementRequest(9, 9), now_s=20.5) is other
    assert back.takes(20.0 + SLOW_START_S * SLOW_STARTS) is None


def test_a_deployment_that_is_new_to_others_begins_slowly_and_the_first_ones_do_not():
    one, two = view("one"), view("two")
    router = Router(one)
    assert one.takes(0.0) is None
    router.placement.set_views([one, two], 5.0)
    assert two.takes(5.0) == 1 and one.takes(5.0) is None
    # Where nobody else may have it, it takes more.
    two.outstanding = 3
    assert router.placement.choose([two], (), PlacementRequest(9, 9), 5.0).view is two


def test_a_bad_hour_costs_a_fifth_more_and_not_three_times_as_much():
    budget = RetryBudget(10)
    retries = 0
    for n in range(10_000):
        now_s = n / 1000  # a thousand a second, ten seconds, and all of them fail
        budget.request(now_s)
        retries += budget.may_retry(now_s)
        retries += budget.may_retry(now_s)
    assert retries <= 0.2 * 10_000 + 100
    assert retries >= 0.2 * 10_000
    # Few requests may be tried again in any case, and what was spent comes back.
    assert all(budget.may_retry(30.0) for _ in range(100)) and not budget.may_retry(30.0)
    assert budget.may_retry(45.0)


def broken(one, now_s=0.0):
    for _ in range(FAILURES_TO_OPEN):
        one.began(now_s)
        one.failed(now_s)
        one.ended()


def test_the_first_good_byte_of_a_trial_closes_the_circuit_and_not_the_answers_end():
    alone = view("alone")
    router = Router(alone)
    broken(alone)
    assert router.placement.choose([alone], (), TRIVIAL_REQUEST, 1.0).view is alone, (
        "the next try is not put off"
    )
    alone.began(1.0)
    assert router.placement.choose([alone], (), TRIVIAL_REQUEST, 1.5) is None, "one trial at once"
    alone.succeeded(2.0)
    assert not alone.trial and not alone.open(2.0)
    assert router.placement.choose([alone], (), TRIVIAL_REQUEST, 2.0).view is alone, (
        "while the trial still streams"
    )
    assert router.placement.choose([alone], (), PlacementRequest(9, 9), 2.0).view is alone
    alone.ended()


def test_a_trial_that_fails_leaves_the_circuit_open_for_the_next_one():
    alone = view("alone")
    broken(alone)
    alone.began(1.0)
    alone.failed(1.2)
    alone.ended()
    assert alone.open(1.2) and not alone.trial
    assert Router(alone).placement.choose([alone], (), TRIVIAL_REQUEST, 1.3).view is alone


def test_until_the_time_that_an_upstream_named_nobody_asks_it():
    alone = view("alone")
    router = Router(alone)
    alone.began(10.0)
    alone.rest(10.0, 7.5)
    alone.failed(10.0)
    alone.ended()
    for request in (TRIVIAL_REQUEST, PlacementRequest(9, 9)):
        assert router.placement.choose([alone], (), request, 17.4) is None
        assert router.placement.choose([alone], (), request, 17.5).view is alone, "and not a moment later"
    assert alone.resting_s(10.0) == 7.5 and alone.resting_s(17.0) == 0.5 and alone.resting_s(17.5) == 0.0
    assert not alone.open(17.5), "a cool-down of our own is not added to it"


def test_nothing_shortens_a_named_time():
    one = view("one")
    one.began(0.0)
    one.began(0.0)
    one.rest(1.0, 20.0)
    one.ended()
    # An answer from before, a check that was on its way, a shorter time that another answer names.
    one.succeeded(2.0)
    one.rest(3.0, 2.0)
    one.failed(4.0)
    one.cool_down(5.0, 1.0)
    one.ended()
    assert one.resting_s(5.0) == 16.0 and one.open(20.9)
    one.began(21.0)
    assert one.trial
    one.succeeded(21.5)
    assert not one.open(21.5) and one.failures == 0
