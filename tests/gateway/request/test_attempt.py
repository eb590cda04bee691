"""One attempt: whatever its upstream does, its owner is told once, and its connection is nobody else's meanwhile."""

import pytest

from tests.gateway.request.support import Upstream, Worker, events, piece, used, whole
from tokenworks.charging import RecorderAway, Start, Verdict
from tokenworks.gateway.request.attempt import FAILOVER_CONNECT_S, Attempt

EVENTS = b"text/event-stream"


class Owner:
    """Notes what becomes of the attempt."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        if not name.startswith("attempt_"):
            raise AttributeError(name)
        return lambda attempt, *args, **named: self.told.append((name.removeprefix("attempt_"), *args, *named.values()))  # fmt: skip


class Case:
    def __init__(self, *names, cold=False, reused=False, worker=None, **fields):
        self.worker = worker or Worker(*names)
        self.request = self.worker.held_state(**fields)
        assert self.worker.parts.holds.take(self.request)
        pool = self.worker.pool("d1")
        pool.cold, pool.reused = cold, reused
        self.owner = Owner()
        chosen = self.worker.view("d1").unscored
        self.worker.parts.placements.choose(self.request)
        self.request.tried.append("d1")
        self.request.attempt_no = 1
        self.attempt = Attempt(self.worker.parts, self.request, self.owner, chosen, None)
        self.attempt.begin(chosen)

    @property
    def upstream(self):
        return self.worker.upstream()

    @property
    def told(self):
        return self.owner.told


def test_what_is_sent_is_the_deployments_and_is_known_to_the_journal():
    case = Case()
    assert case.upstream.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 192.0.2.1\r\n")
    assert case.upstream.body["model"] == "m" and case.upstream.user is case.attempt
    assert case.worker.recorder.began == {case.request.usage_id: case.attempt}
    assert isinstance(case.attempt.start_op(), Start)


def test_where_another_could_be_tried_a_connection_is_not_waited_for_long():
    case = Case("d1", "d2", cold=True)
    ((connected, timeout_s),) = case.worker.pool("d1").connecting
    assert timeout_s == FAILOVER_CONNECT_S
    connected(None, "can't connect: refused")
    assert case.told == [("failed", "can't connect: refused", True, "")]


def test_a_connection_that_comes_too_late_is_given_back():
    case = Case(cold=True)
    ((connected, _),) = case.worker.pool("d1").connecting
    case.request.conn = None
    late = Upstream(case.worker.pool("d1"))
    connected(late, "")
    assert case.worker.pool("d1").back == [late] and not case.told and late.user is None


def test_what_can_not_be_recorded_is_not_sent():
    worker = Worker()

    def away(usage_id, attempt):
        raise RecorderAway("the recorder is away")

    worker.recorder.begin = away
    case = Case(worker=worker)
    ((what, refusal),) = case.told
    assert (what, refusal.code) == ("not_begun", "recorder_away") and case.upstream.user is None


def test_a_kept_alive_connection_that_was_closing_costs_no_deployment():
    case = Case("d1", "d2", reused=True)
    first = case.request.usage_id
    case.attempt.upstream_failed(case.upstream, "the connection closed before a response")
    assert not case.told and case.worker.recorder.dropped == [first]
    ((connected, _),) = case.worker.pool("d1").connecting
    fresh = Upstream(case.worker.pool("d1"))
    connected(fresh, "")
    assert fresh.user is case.attempt and case.request.usage_id != first and case.request.attempt_no == 2
    case.attempt.upstream_failed(fresh, "the connection broke")
    assert case.told == [("failed", "upstream_error", True, "")]


def test_a_whole_answer_and_its_usage():
    case = Case()
    case.upstream.answers(whole(5, 2))
    case.upstream.ends()
    ((what, usage, upstream_id, progress),) = case.told
    assert (what, usage.counts.output, upstream_id, progress.output) == ("completed", 2, "u-1", 0)


def test_an_answer_that_says_error_is_none_whatever_its_status():
    case = Case()
    case.upstream.answers(b'{"error": {"message": "overloaded", "type": "overloaded_error"}}')
    case.upstream.ends()
    assert [what for what, _ in case.told] == ["faulted"]


def test_events_without_their_content_type_are_events_all_the_same():
    case = Case(stream=True)
    case.upstream.answers(events(piece("one")), kind=b"text/plain")
    assert case.attempt.meter is not None and b"one" in case.request.conn.written


@pytest.mark.parametrize("shown", [False, True])
def test_a_stream_that_breaks_off_failed_or_was_interrupted(shown):
    case = Case("d1", "d2", stream=True)
    case.upstream.answers(events(piece("one")) if shown else b": hello\n\n", kind=EVENTS)
    case.attempt.upstream_failed(case.upstream, "the connection broke")
    assert case.told == ([("interrupted", "upstream_error", None)] if shown else [("failed", "upstream_error", True, "")])  # fmt: skip


def test_a_stream_that_said_everything_but_its_goodbye_is_whole():
    case = Case(stream=True)
    case.upstream.answers(events(piece("one"), piece(None, "stop"), used(5, 1), "[DONE]"), kind=EVENTS)
    case.attempt.upstream_failed(case.upstream, "the connection broke")
    assert [what for what, *_ in case.told] == ["completed"]


def test_an_end_and_nothing_before_it_is_a_failure():
    case = Case(stream=True)
    case.upstream.answers(events("[DONE]"), kind=EVENTS)
    case.upstream.ends()
    assert [what for what, *_ in case.told] == ["failed"]


def test_a_stream_waits_for_its_hold_and_for_its_client_apart():
    worker = Worker(tokens=0)
    worker.grant(worker.held_state(stream=True, max_tokens=500).need.input_tokens + 64)
    case = Case(worker=worker, stream=True, max_tokens=500)
    case.upstream.answers(events(piece("x" * 100)), kind=EVENTS)
    (asked,) = worker.recorder.asked
    case.request.conn.write_paused = True
    assert case.upstream.paused
    case.attempt.pause(1)
    worker.grant(1000)
    granted = worker.slices.hold(asked.account, (), "m", asked.need, 10)
    asked.answered(granted, Verdict.ENOUGH, 0)
    assert case.upstream.paused and case.request.held_output >= 100
    case.attempt.resume(1)
    assert not case.upstream.paused


def test_where_nothing_more_is_left_the_stream_ends_when_its_tail_is_read():
    worker = Worker(tokens=0)
    worker.grant(worker.held_state(stream=True, max_tokens=500).need.input_tokens + 64)
    case = Case(worker=worker, stream=True, max_tokens=500)
    case.upstream.answers(events(piece("x" * 100)), kind=EVENTS)
    worker.recorder.asked[0].answered(None, Verdict.NOTHING_LEFT, 0)
    assert case.upstream.half_closed and case.request.counting and not case.told
    case.upstream.user.upstream_end(case.upstream)
    assert case.told == [("interrupted", "nothing_left", None)] and not case.request.counting
    assert worker.shared.stats.c["free_rider_over_balance"] == 1


def test_an_extension_that_comes_after_the_end_is_given_back():
    worker = Worker(tokens=0)
    worker.grant(worker.held_state(stream=True, max_tokens=500).need.input_tokens + 64)
    case = Case(worker=worker, stream=True, max_tokens=500)
    case.upstream.answers(events(piece("x" * 100)), kind=EVENTS)
    (asked,) = worker.recorder.asked
    worker.parts.holds.release(case.request)
    worker.grant(100)
    granted = worker.slices.hold(asked.account, (), "m", asked.need, 10)
    asked.answered(granted, Verdict.ENOUGH, 0)
    assert not worker.held


def test_a_stream_beyond_its_maximum_is_cut():
    case = Case(stream=True, max_tokens=10)
    case.upstream.answers(events(*[piece("word ") for _ in range(200)]), kind=EVENTS)
    case.attempt.upstream_data(case.upstream, events(piece("word ")))
    assert case.told == [("interrupted", "beyond_maximum", None)] and case.upstream.aborted


def test_an_answer_larger_than_what_is_kept_is_the_operators():
    case = Case(worker=Worker(response_bytes_max=1000))
    case.upstream.answers(b"x" * 2000)
    assert case.told == [("interrupted", "response_too_large", "nothing")] and case.upstream.aborted


def test_a_worker_without_memory_says_so():
    case = Case(worker=Worker(memory_bytes_max=1000))
    case.upstream.answers(b"x" * 20_000)
    assert case.told == [("interrupted", "no_memory", "nothing")]
    assert case.request.last_refusal.status in {429, 503}
