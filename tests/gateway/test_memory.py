"""A budget of bytes: together, and an address's share."""

import pytest

from tokenworks.gateway.memory import Budget


def test_what_is_taken_is_there_no_more_and_comes_back():
    budget = Budget(1000, 60)
    assert budget.take("a", 600)
    assert not budget.take("a", 1)
    assert budget.refusal("a", 1).status == 429
    assert budget.take("b", 400)
    assert not budget.take("c", 1)
    assert (budget.refusal("c", 1).status, budget.refusal("c", 1).code) == (503, "memory_full")
    budget.give("a", 600)
    assert budget.take("c", 1)
    assert (budget.used, budget.peak, budget.refused, budget.of("a")) == (401, 1000, 2, 0)
    budget.give("b", 400)
    budget.give("c", 1)
    assert budget.used == 0
    assert budget._by_address == {}


def test_more_than_was_taken_does_not_come_back():
    budget = Budget(1000, 100)
    assert budget.take("a", 5)
    with pytest.raises(AssertionError):
        budget.give("a", 6)


def test_what_only_saves_work_leaves_room():
    budget = Budget(1000, 100)
    assert budget.take_memo("a", 250)
    assert not budget.take_memo("a", 1)
    budget.force("a", 900)
    assert budget.used == 1150
    assert not budget.take("b", 1)
