"""What an answer is read by: its head, its meter, and no more memory than there is."""

import pytest

from tests.gateway.request.support import Upstream, Worker, answering, deployment, events, piece
from tokenworks.gateway.counting import TokenizerCounts
from tokenworks.gateway.memory import UNCOUNTED_BYTES
from tokenworks.gateway.request.answer import REFUSAL_BYTES_MAX


def made(worker, **fields):
    request = worker.held_state(**fields)
    return request, answering(worker, request)


def test_the_head_names_the_request_and_what_was_done_with_it():
    worker = Worker()
    request, attempt = made(worker, headers=b"x-client-request-id: mine\r\n")
    upstream = Upstream(None)
    upstream.headers[b"x-ratelimit-limit-requests"] = b"9"
    request.intent, request.choice, request.queued_ms, request.restricted = "best", "quality", 12, True
    attempt.dropped = ("seed",)
    worker.parts.answers.head(attempt, upstream)
    ids = request.request_id.encode()
    for line in (
        b"content-type: application/json", b"x-request-id: " + ids, b"request-id: " + ids, b"x-tokenworks-model: m",
        b"x-tokenworks-choice: quality", b"x-tokenworks-queued-ms: 12", b"x-tokenworks-restricted-to: m", b"x-tokenworks-dropped: seed",
    ):  # fmt: skip
        assert b"\r\n" + line + b"\r\n" in request.response_head
    assert b"ratelimit" not in request.response_head and attempt.meter is None


@pytest.mark.parametrize(("kind", "decided"), [(b"text/event-stream", True), (b"application/json", False)])
def test_a_stream_is_one_at_once_or_when_its_first_bytes_say_so(kind, decided):
    worker = Worker()
    request, attempt = made(worker, stream=True)
    upstream = Upstream(None)
    upstream.content_type = kind
    worker.parts.answers.head(attempt, upstream)
    assert (attempt.meter is not None, attempt.undecided) == (decided, not decided)
    assert b"content-type: text/event-stream" in request.response_head


def test_an_answer_is_counted_from_a_size_on_and_given_back_whole():
    worker = Worker()
    answers, memory = worker.parts.answers, worker.shared.memory
    request, attempt = made(worker)
    assert answers.keep(attempt, b"x" * UNCOUNTED_BYTES) == "kept" and memory.used == 0
    assert answers.keep(attempt, b"x") == "kept" and memory.used == UNCOUNTED_BYTES + 1
    assert answers.keep(attempt, b"x" * 10) == "kept" and memory.used == UNCOUNTED_BYTES + 11
    answers.give_memory(request)
    answers.give_memory(request)
    assert memory.used == 0


def test_what_a_refusal_says_is_read_up_to_a_size():
    worker = Worker()
    _, attempt = made(worker)
    attempt.refused_status = 500
    assert worker.parts.answers.keep(attempt, b"x" * REFUSAL_BYTES_MAX) == "kept"
    assert worker.parts.answers.keep(attempt, b"x") == "too_large"


@pytest.mark.parametrize(("data", "well"), [(b'{"id": 1', True), (b'{"error": {', False)])
def test_good_bytes_are_a_success_of_the_deployment_and_an_error_is_none(data, well):
    worker = Worker()
    view, now_s = worker.view("d1"), worker.loop.now_s
    for _ in range(20):
        view.failed(now_s)
    assert view.open(now_s)
    _, attempt = made(worker)
    assert worker.parts.answers.keep(attempt, data) == "kept"
    assert bool(view.open(now_s)) != well


def test_a_text_that_is_too_long_by_its_bytes_is_measured_once_at_a_time():
    worker = Worker(deployment("d1", tokenizer="own"))
    _, attempt = made(worker, stream=True, max_tokens=10)
    answers = worker.parts.answers
    answers.begin_stream(attempt)
    attempt.meter.feed(events(*[piece("word ") for _ in range(20)]))
    assert answers.is_below_maximum(attempt, attempt.meter)
    assert answers.is_below_maximum(attempt, attempt.meter)
    ((job, done),) = worker.jobs
    assert job.tokenizer == "own"
    done(TokenizerCounts(0, 8))
    assert not attempt.meter.over_maximum
    assert answers.is_below_maximum(attempt, attempt.meter) and len(worker.jobs) == 2
    worker.jobs[1][1](None)
    assert not answers.is_below_maximum(attempt, attempt.meter)  # its bytes say it from now on


def test_progress_is_what_would_be_charged_if_the_worker_died():
    worker = Worker()
    request, attempt = made(worker, stream=True)
    worker.parts.answers.begin_stream(attempt)
    attempt.meter.feed(events(piece("one")))
    worker.parts.answers.report_progress(attempt, attempt.meter)
    assert not worker.recorder.progressed  # nothing is held
    worker.parts.holds.take(request)
    worker.parts.answers.report_progress(attempt, attempt.meter)
    ((_, counts, *_),) = worker.recorder.progressed
    assert counts.output == 1 and attempt.reported and attempt.progress_at == 1001
