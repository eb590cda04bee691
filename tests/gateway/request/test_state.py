"""A field of a later stage is unset before its moment, and a new attempt knows nothing of the last one."""

import pytest

from tests.gateway.request.support import Worker, answering
from tokenworks.gateway.request.state import (
    AnsweredAttempt,
    ArrivedRequest,
    HeldRequest,
    KnownRequest,
    PlacedAttempt,
)

STAGES = {ArrivedRequest: (), KnownRequest: (ArrivedRequest,), HeldRequest: (KnownRequest, ArrivedRequest)}


def test_a_field_of_a_later_stage_is_no_none():
    worker = Worker()
    exchange = worker.arrives()
    for name in (*KnownRequest.__slots__, *HeldRequest.__slots__):
        with pytest.raises(AttributeError):
            getattr(exchange, name)
    exchange = worker.known()
    for name in set(KnownRequest.__slots__) - {"route"}:
        getattr(exchange, name)
    for name in set(HeldRequest.__slots__) - {"capacity_request", "asked_s", "more_output"}:
        with pytest.raises(AttributeError):
            getattr(exchange, name)
    worker.parts.holds.size(exchange)
    for name in set(HeldRequest.__slots__) - {"capacity_request", "asked_s", "more_output"}:
        getattr(exchange, name)


def test_no_stage_has_a_field_of_another_or_a_dictionary():
    fields = [
        name
        for stage in (ArrivedRequest, KnownRequest, HeldRequest, PlacedAttempt, AnsweredAttempt)
        for name in stage.__slots__
    ]
    assert len(set(ArrivedRequest.__slots__ + KnownRequest.__slots__ + HeldRequest.__slots__)) == len(
        ArrivedRequest.__slots__ + KnownRequest.__slots__ + HeldRequest.__slots__
    )
    assert len(set(PlacedAttempt.__slots__ + AnsweredAttempt.__slots__)) == len(
        PlacedAttempt.__slots__ + AnsweredAttempt.__slots__
    )
    worker = Worker()
    for made in (worker.arrives(), answering(worker, worker.held_state())):
        assert not hasattr(made, "__dict__")
    assert fields


def test_all_of_an_attempt_is_new_with_it():
    worker = Worker()
    request = worker.held_state()
    attempt = answering(worker, request)
    attempt.chunks.append(b"x")
    other = answering(worker, request)
    assert (other.meter, other.chunks, other.size, other.over) == (None, [], 0, False)
