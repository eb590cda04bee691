"""What is held: enough before anything is sent, more before it is spent, and all of it given back."""

import pytest

from tests.gateway.request.support import Worker, deployment
from tokenworks.charging import COUNT_NEED, Verdict
from tokenworks.charging.worker.admission import Admission
from tokenworks.gateway.counting import TokenizerCounts


def test_a_stream_holds_a_little_and_what_can_not_be_cut_holds_all():
    worker = Worker()
    stream, whole = worker.held_state(stream=True), worker.held_state()
    assert (stream.cuttable, stream.held_output, stream.need.output_tokens) == (True, 64, 100)
    assert (whole.cuttable, whole.held_output) == (False, 100)
    short = worker.held_state(stream=True, max_tokens=20)
    assert (short.cuttable, short.held_output) == (False, 20)


def test_hidden_reasoning_is_held_whole():
    worker = Worker(deployment("d1", hides_reasoning=True))
    assert worker.held_state(stream=True).held_output == 100


@pytest.mark.parametrize(("stream", "sent"), [(True, None), (False, 1000)])
def test_a_maximum_is_written_where_nobody_else_ends_the_answer(stream, sent):
    request = Worker().held_state(stream=stream, max_tokens=None)
    assert request.maximum == sent
    assert request.need.input_tokens <= 10_000


def test_a_count_of_tokens_holds_next_to_nothing():
    worker = Worker()
    request = worker.held_state(free=True, protocol="chat")
    assert (request.need, request.held_output, request.maximum) == (COUNT_NEED, 0, None)
    assert worker.parts.holds.estimate_tokens(request) == 0
    assert worker.parts.holds.take(request) and request.hold.paid_whole is not None


def test_what_is_taken_is_given_back():
    worker = Worker()
    holds, request = worker.parts.holds, worker.held_state()
    before = worker.free_tokens
    assert holds.take(request) and worker.held
    assert worker.free_tokens == before - request.need.input_tokens - 100
    holds.release(request)
    holds.release(request)
    assert not worker.held and worker.free_tokens == before and request.hold is None
    assert len(worker.recorder.given) == 1


def test_while_others_of_the_account_ask_this_one_asks_too():
    worker = Worker()
    request = worker.held_state()
    worker.slices.account("acc").requests_pending = 1
    assert not worker.parts.holds.take(request)
    worker.parts.holds.request_hold(request, print)
    (asked,) = worker.recorder.asked
    assert request.pending_hold is asked and asked.need.output_tokens == 100


def test_a_counted_input_is_held_and_an_estimate_costs_the_loss_budget():
    worker = Worker()
    holds, request = worker.parts.holds, worker.held_state(content="word " * 200)
    bound = request.need.input_tokens
    assert holds.may_hold_less(request)
    assert holds.hold_less(request, TokenizerCounts(210, 0))
    assert request.need.input_tokens == 210 + request.beside_text < bound and not request.at_risk
    other = worker.held_state(content="word " * 200)
    assert holds.hold_less(other, None) and other.at_risk == bound - other.need.input_tokens
    holds.end(other)
    assert other.at_risk == 0


def test_where_the_loss_budget_is_spent_the_worst_case_is_held():
    worker = Worker(operator_loss_budget_tokens=1)
    first, request = worker.held_state(content="word " * 200), worker.held_state(content="word " * 200)
    assert worker.parts.holds.hold_less(first, None)
    assert not worker.parts.holds.hold_less(request, None) and not request.at_risk
    worker.parts.holds.end(first)
    assert worker.parts.holds.hold_less(request, None)


def test_what_is_left_is_held_where_it_makes_an_answer_and_not_where_it_does_not():
    worker = Worker(tokens=0)
    holds, request = worker.parts.holds, worker.held_state(max_tokens=1000)
    worker.grant(request.need.input_tokens + 15)
    assert not holds.hold_rest(request) and not worker.held
    worker.grant(10)
    assert holds.hold_rest(request)
    assert request.held_output == request.maximum == 25


def test_why_nothing_is_held_is_said_with_what_lacks():
    worker = Worker(tokens=0)
    request = worker.held_state()
    refusal = worker.parts.holds.refusal(request, Verdict.NOTHING_LEFT, 0)
    assert refusal.status in {402, 429}
    assert worker.shared.stats.c["free_rider_over_balance"] == 1
    assert worker.parts.holds.refusal(request, Verdict.AWAY, 0).status == 503
    later = worker.parts.holds.refusal(request, Verdict.WINDOW_USED_UP, 90)
    assert (later.status, later.retry_after_s) == (429, 90)
    assert worker.shared.stats.c["free_rider_over_balance"] == 1


def test_a_stream_holds_more_before_what_it_holds_is_spent():
    worker = Worker()
    holds, request = worker.parts.holds, worker.held_state(stream=True, max_tokens=500)
    holds.take(request)
    holds.extend(request, 60, print)
    assert request.held_output == 128 and not worker.recorder.asked
    holds.extend(request, 480, print)
    assert request.held_output == 500  # and never more than it needs
    holds.release(request)
    assert worker.free_tokens == 100_000


def test_an_extension_that_has_to_be_asked_for_is_asked_for_once():
    worker = Worker(tokens=0)
    holds, request = worker.parts.holds, worker.held_state(stream=True, max_tokens=500)
    worker.grant(request.need.input_tokens + 64)
    assert holds.take(request)
    holds.extend(request, 60, print)
    holds.extend(request, 62, print)
    (asked,) = worker.recorder.asked
    assert asked.need.output_tokens == request.more_output == 64 and request.held_output == 64
    worker.grant(20)
    assert holds.extend_rest(request, request.hold) and request.held_output == 84


def test_limits_end_once_with_what_was_spent():
    worker = Worker()
    request = worker.held_state()
    request.admission = admission = Admission((), 10, 1)
    request.spent_tokens = 7
    worker.parts.holds.end(request)
    worker.parts.holds.end(request)
    assert worker.recorder.admissions.ended == [(admission, 7, False)]  # nothing was sent
