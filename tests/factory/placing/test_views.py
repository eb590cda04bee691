"""A worker's view of a deployment: what a snapshot swap keeps, what another process takes over, when a check is due."""

from tests.factory.placing.test_health import broken
from tests.factory.placing.test_placement import Router, view
from tokenworks.factory import (
    FAILURES_TO_OPEN,
    TRIVIAL_REQUEST,
    PlacementRequest,
    carry_over,
    retry_after_wait_s,
)


def test_a_snapshot_keeps_what_is_unchanged():
    old = [view("a"), view("b")]
    old[0].outstanding = 3
    new = carry_over(old, [view("a"), view("b", region="cn-sh")])
    assert new[0] is old[0]
    assert new[1] is not old[1]


def test_a_draining_deployment_keeps_what_it_serves_and_gets_nothing_new():
    one, two = view("one"), view("two")
    one.began(1.0)
    router = Router(one, two)
    (kept, other) = carry_over(router.views, [view("one", draining=True), view("two")])
    assert kept is one and other is two and one.outstanding == 1 and one.draining
    router.placement.set_views([kept, other], 2.0)
    assert all(router.choose(now_s=2.0) is two for _ in range(5))
    said = router.placement.explain([one, two], (), PlacementRequest(1, 1), 2.0)
    assert said[-1].excluded == "draining: it takes nothing new"
    assert router.placement.choose([one], (), PlacementRequest(1, 1), 2.0) is None, (
        "not even where there is no other"
    )
    (again, _) = carry_over([one, two], [view("one"), view("two")])
    assert again is one and not one.draining
    one.ended()
    # With any other changed declaration it is another deployment.
    (new, _) = carry_over([one, two], [view("one", context_tokens=5), view("two")])
    assert new is not one


def test_what_one_worker_saw_another_one_restores():
    seen = view("seen")
    seen.forecast.begin_with(80.0, 0.2, 1.5, 40)
    for _ in range(FAILURES_TO_OPEN):
        seen.failed(10.0)
    seen.outstanding = 4
    seen.forecast.sent("t", 10_000.0, 1000, sure=True)
    other = view("seen")
    other.restore(seen.seen(12.0), 0.0)
    assert other.forecast.latency_ms == 80.0 and other.forecast.ms_per_token == 0.2
    assert other.open(0.0) and not other.open(8.1)
    assert other.outstanding == 4 and other.forecast.wait_ms(0.0) > 0
    # It is a beginning, and nothing that was seen here is thrown away for it.
    other.learn_from({"latency_ms": 1, "ms_per_token": 1, "running_ms": 1, "answers": 1})
    assert other.forecast.latency_ms == 80.0


def test_no_check_asks_a_deployment_before_its_named_time():
    one = view("one")
    one.rest(100.0, 50.0)
    assert not one.check_due(149.0, 10.0), "although it idles for long"
    assert one.check_due(150.0, 10.0)
    failed = view("failed")
    broken(failed, 100.0)
    assert not failed.check_due(105.0, 60.0) and failed.check_due(110.0, 60.0)


def test_of_several_the_one_that_named_no_time_is_tried_and_the_wait_is_the_shortest_named_one():
    named, cooling, third = view("named"), view("cooling"), view("third")
    router = Router(named, cooling)
    named.rest(0.0, 2.0)
    broken(cooling)
    assert router.placement.choose([named, cooling], (), PlacementRequest(9, 9), 1.0).view is cooling
    assert retry_after_wait_s([named, cooling], TRIVIAL_REQUEST, 1.0) == 0.0
    third.rest(0.0, 5.0)
    assert retry_after_wait_s([named, third], TRIVIAL_REQUEST, 0.5) == 1.5
    assert retry_after_wait_s([], TRIVIAL_REQUEST, 0.5) == 0.0
    assert router.placement.choose([named, third], (), PlacementRequest(9, 9), 1.0) is None
