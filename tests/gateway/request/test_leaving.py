"""Whether an upstream is read to its end after its client left, and by which name that is counted."""

import pytest

from tests.gateway.request.support import Worker, answering, events, piece
from tokenworks.gateway.request.leaving import drain_of, drain_until_s, name_leaving, tokens_left


def left(worker, *chunks, sent=True, **fields):
    request = worker.held_state(**fields)
    attempt = answering(worker, request)
    if fields.get("stream"):
        worker.parts.answers.begin_stream(attempt)
        attempt.meter.feed(events(*chunks))
        request.sent = sent
    return attempt


@pytest.mark.parametrize(
    ("fields", "chunks", "drain", "name"),
    [
        ({}, (), "whole", "left_unstreamed"),
        ({"stream": True, "max_tokens": 900}, (piece("one"),), "cut", "left_in_content"),
        ({"stream": True, "max_tokens": 90}, (piece("one"),), "whole", "left_near_the_end"),
        ({"stream": True, "max_tokens": 900}, (piece("one"), piece(None, "stop")), "whole", "left_near_the_end"),
    ],
)  # fmt: skip
def test_what_ends_soon_is_read_to_its_end(fields, chunks, drain, name):
    worker = Worker()
    attempt = left(worker, *chunks, **fields)
    assert drain_of(worker.shared, attempt) == drain
    assert name_leaving(attempt, drain) == name


def test_before_content_it_has_a_name_of_its_own():
    worker = Worker()
    assert name_leaving(left(worker, sent=False, stream=True), "cut") == "left_before_content"


def test_what_was_shown_is_not_left():
    worker = Worker()
    attempt = left(worker, stream=True, max_tokens=900)
    before = tokens_left(attempt)
    attempt.meter.feed(events(piece("one"), piece(" two")))
    assert before == 900 and tokens_left(attempt) < before


def test_where_the_account_may_lose_nothing_more_all_is_read_as_long_as_it_takes():
    worker = Worker()
    attempt = left(worker, piece("one"), stream=True, max_tokens=900)
    assert drain_until_s(worker.shared, attempt) == worker.loop.now_s + 30
    worker.shared.risk.lossy = frozenset({"acc"})
    assert drain_of(worker.shared, attempt) == "whole"
    assert drain_until_s(worker.shared, attempt) == attempt.request.began_s + 600
