"""Which deployment: none twice, none that is full or broken, and its slot free again exactly once."""

import pytest

from tests.gateway.request.support import Worker, answering, deployment
from tokenworks.charging import SHED, TIMED_OUT, Limit
from tokenworks.charging.worker.admission import Admission
from tokenworks.factory import Candidate

FULL = Limit("d1", 1, 0, 0)


def test_none_is_tried_twice_and_then_there_is_none():
    worker = Worker("d1", "d2")
    places, request = worker.parts.placements, worker.held_state()
    names = set()
    for _ in range(2):
        chosen = places.choose(request)
        assert isinstance(chosen, Candidate)
        names.add(chosen.view.name)
        request.tried.append(chosen.view.name)
        request.attempt_no += 1
    assert names == {"d1", "d2"} and places.choose(request) is None
    assert places.refusal(request).code == "no_deployment"


def test_a_retry_budget_that_is_spent_ends_it():
    worker = Worker("d1", "d2", retries_per_s=0)
    request = worker.held_state()
    request.tried, request.attempt_no = ["d1"], 1
    # No request in the window, and so no part of them may be a retry.
    assert worker.parts.placements.choose(request) is None


def test_one_whose_credential_can_not_be_read_is_passed_over():
    worker = Worker("d1", "d2")
    worker.shared.broken_credentials = frozenset({"d1", "d2"})
    request = worker.held_state()
    assert worker.parts.placements.choose(request) is None
    assert sorted(request.tried) == ["d1", "d2"] and request.last_refusal.retry_after_s == 5


def test_a_full_one_is_waited_for_unless_another_has_room():
    worker = Worker("d1", limits={"d1": FULL})
    request = worker.held_state()
    room = worker.parts.placements.choose(request)
    assert (room.limits, room.wait_ms, room.otherwise) == ((FULL,), 2000, None)
    worker.loop.now_s += 1.5
    assert worker.parts.placements.choose(request).wait_ms == 500  # of the same two seconds
    worker = Worker("d1", "d2", limits={"d1": FULL, "d2": FULL._replace(limit_id="d2")})
    assert len(worker.parts.placements.choose(worker.held_state()).candidates) == 2
    worker = Worker("d1", "d2", limits={"d1": FULL})
    chosen = worker.parts.placements.choose(worker.held_state())
    assert (chosen if isinstance(chosen, Candidate) else chosen.otherwise).view.name == "d2"


@pytest.mark.parametrize(("what", "status"), [(SHED, 503), (TIMED_OUT, 503), (1, 429)])
def test_why_there_was_no_room(what, status):
    worker = Worker(limits={"d1": FULL})
    refusal = worker.parts.placements.no_capacity(worker.held_state(), FULL, what, 1500)
    assert (refusal.status, refusal.retry_after_s) == (status, 2)


def test_room_at_one_that_went_bad_is_given_back():
    worker = Worker(limits={"d1": FULL})
    places, request = worker.parts.placements, worker.held_state()
    places.request_capacity(request, places.choose(request), print)
    admission = Admission((FULL,), 1, 1)
    assert places.admitted(request, admission).view.name == "d1"
    worker.view("d1").draining = True
    assert places.admitted(request, admission) is None
    assert worker.recorder.admissions.ended == [(admission, 0, False)]


def test_what_may_wait_waits_for_the_cheapest_until_its_time_is_nearly_over():
    cheap = deployment("cheap", price={"fresh_input_nano": 1, "output_nano": 1})
    dear = deployment("dear", price={"fresh_input_nano": 900, "output_nano": 900})
    worker = Worker(cheap, dear)
    request = worker.held_state(service_tier="flex")
    assert request.flex
    assert worker.parts.placements.choose(request).view.name == "cheap"
    worker.view("cheap").cool_down(worker.loop.now_s, 1000.0)
    assert worker.parts.placements.choose(request) is None and request.deferred
    worker.loop.now_s += 95  # of a hundred seconds
    assert worker.parts.placements.choose(request).view.name == "dear"
    assert not request.deferred and not request.flex


def test_a_slot_is_free_again_exactly_once():
    worker = Worker()
    places, request = worker.parts.placements, worker.held_state()
    chosen = places.choose(request)
    attempt = answering(worker, request)
    attempt.admission = admission = Admission((FULL,), 1, 1)
    places.began(request, attempt, chosen)
    assert worker.view("d1").outstanding == 1
    request.spent_tokens = 9
    places.end(attempt)
    places.end(attempt)
    assert worker.view("d1").outstanding == 0
    assert worker.recorder.admissions.ended == [(admission, 9, True)]
