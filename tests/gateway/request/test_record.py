"""What is charged and what is loss: all that was counted is one or the other, and the record says which."""

import pytest

from tests.gateway.request.support import Worker, answering, events, piece, used, whole
from tokenworks.catalog import ChargingPolicy, Counts
from tokenworks.charging import Verdict
from tokenworks.gateway.protocol.usage import Usage
from tokenworks.gateway.request.losses import NO_COUNTS


class Attempted:
    """A held request with an attempt at its deployment, and what its records say."""

    def __init__(self, worker=None, **fields):
        self.worker = worker or Worker()
        self.request = self.worker.held_state(**fields)
        assert self.worker.parts.holds.take(self.request)
        self.request.usage_id, self.request.attempt_no = self.request.request_id, 1
        self.attempt = answering(self.worker, self.request)
        self.attempt.chunks = [whole()]
        self.charges = []

    def streams(self, *chunks):
        self.worker.parts.answers.begin_stream(self.attempt)
        self.attempt.meter.feed(events(*chunks))
        return self

    def completes(self, counts, total=None):
        usage = Usage(counts, total, ())
        self.worker.parts.records.complete(self.attempt, usage, "u-1", NO_COUNTS, self.charges.append)
        return self.charges[0]

    def stops(self, reason, charge=None):
        self.worker.parts.records.interrupted(self.attempt, reason, charge, self.charges.append)
        return self.charges[0] if self.charges else None

    def written(self):
        self.worker.parts.records.write(self.charges[0], print)
        record, risk_tokens = self.worker.recorder.records[-1]
        paid_mtok = sum(part[5] for part in record.parts)
        lost = sum(sum(loss.counts) for loss in record.loss)
        assert paid_mtok + 1000 * lost == 1000 * sum(record.c), record
        return record, risk_tokens


def test_a_record_has_what_the_request_was():
    case = Attempted()
    case.request.failures = [("d9", "timeout")]
    case.request.first_byte_ms = 3
    case.worker.loop.now_s += 0.25
    case.completes(Counts(fresh_input=5, output=2), 7)
    record, _ = case.written()
    assert (record.account_id, record.key_id, record.member_id) == ("acc", "key", "member")
    assert (record.model, record.protocol, record.attempt_no, record.tried) == ("m", "chat", 1, [("d9", "timeout")])  # fmt: skip
    assert (record.first_byte_ms, record.latency_ms, record.provider_total) == (3, 250, 7)
    assert (record.state, record.reason, record.counted_by, record.upstream_id) == ("complete", "completed", "provider", "u-1")  # fmt: skip
    assert record.prompt and record.unpaid is None and case.request.hold is None


def test_an_attempt_says_what_it_holds():
    case = Attempted()
    start = case.worker.parts.records.start_op(case.attempt)
    assert (start.usage_id, start.account_id, start.request_id) == (
        case.request.usage_id,
        "acc",
        case.request.request_id,
    )
    assert start.held == case.request.hold.held()


def test_what_is_beyond_the_hold_is_taken_from_what_is_free_here():
    case = Attempted(stream=True)
    case.streams(piece("one"), piece(None, "stop"), used(400, 3), "[DONE]")
    before = case.worker.free_tokens
    charge = case.completes(Counts(fresh_input=400, output=3), 403)
    assert charge.counts.input_tokens > case.request.need.input_tokens
    assert case.worker.free_tokens <= before
    case.written()


def test_where_nothing_is_free_here_the_account_is_asked_before_the_record():
    worker = Worker(tokens=0)
    worker.grant(worker.held_state().need.input_tokens + 100)
    case = Attempted(worker)
    beyond = Counts(fresh_input=case.request.need.input_tokens + 3, output=90)
    # A count of our own tokenizer is not doubted: it is charged as far as the account has it.
    worker.parts.records.complete(case.attempt, None, None, NO_COUNTS, case.charges.append)
    assert case.charges.pop().counted_by == "estimate"
    case.attempt.view = worker.view("d1")
    worker.parts.records._completed(case.attempt, beyond, None, [], "tokenizer", None, case.charges.append)
    (asked,) = worker.recorder.asked
    assert asked.need.input_tokens == 3 and not case.charges and case.request.counting
    asked.answered(None, Verdict.NOTHING_LEFT, 0)
    assert case.charges and not case.request.counting and case.request.pending_hold is None


def test_what_is_beyond_the_maximum_that_was_sent_is_the_operators():
    case = Attempted()
    charge = case.completes(Counts(fresh_input=5, output=130), 135)
    assert next((loss.cause, sum(loss.counts)) for loss in charge.losses) == ("beyond_maximum", 30)
    record, risk_tokens = case.written()
    assert "waived" in record.flags and risk_tokens >= 30


@pytest.mark.parametrize(("waived", "reason"), [("nothing", "empty_answer"), ("produced", "empty_answer")])
def test_an_empty_answer_costs_what_the_plan_says(waived, reason):
    case = Attempted()
    case.worker.user.policy = ChargingPolicy(empty_answer=waived)
    case.attempt.chunks = [b'{"choices": [{"message": {"content": ""}}]}']
    charge = case.completes(Counts(fresh_input=5), 5)
    assert charge.reason == reason
    assert [loss.cause for loss in charge.losses] == (["empty_answer"] if waived == "nothing" else [])
    case.written()


def test_a_stream_that_stops_half_way_is_charged_for_what_it_showed():
    case = Attempted(stream=True).streams(piece("one"), piece(" two"), piece(" three"))
    charge = case.stops("upstream_error")
    assert (charge.state, charge.counted_by, charge.counts.output) == ("interrupted", "progress", 3)
    assert charge.counts.input_tokens > 0
    record, _ = case.written()
    assert record.reason == "upstream_error"


def test_the_plan_may_have_the_operator_bear_it_until_the_loss_budget_is_spent():
    case = Attempted(stream=True).streams(piece("one"))
    case.worker.user.policy = ChargingPolicy(upstream_error="nothing")
    charge = case.stops("upstream_error")
    assert [loss.cause for loss in charge.losses] == ["upstream_error"]
    case.written()
    case.worker.shared.risk.lossy = frozenset({"acc"})
    spent = Attempted(case.worker, stream=True).streams(piece("one"))
    assert not spent.stops("upstream_error").losses


def test_what_a_stream_reported_at_its_end_is_charged_though_it_was_cut():
    case = Attempted(stream=True).streams(piece("one"), piece(None, "stop"), used(5, 1))
    charge = case.stops("client_gone")
    assert (charge.counted_by, charge.counts) == ("provider", Counts(fresh_input=5, output=1))


def test_what_a_failed_attempt_reports_is_loss_and_its_hold_stays():
    case = Attempted()
    usage = Usage(Counts(fresh_input=9), 9, ())
    case.worker.parts.records.write_loss(case.attempt, "failed_attempt", usage, "u-9")
    ((record, risk_tokens),) = case.worker.recorder.records
    assert (record.parts, risk_tokens, record.loss[0].cause) == ([], 9, "failed_attempt")
    assert case.request.usage_id == "" and case.request.hold is not None
    case.worker.parts.records.drop(case.request)
    assert not case.worker.recorder.dropped
