"""A connection gives back exactly what it took, whatever it was for and under which address."""

import pytest

from tokenworks.gateway.http.connection_memory import ConnectionMemory
from tokenworks.gateway.memory import Budget


@pytest.fixture
def budget():
    return Budget(10_000, 50)


@pytest.fixture
def memory(budget):
    made = ConnectionMemory(budget)
    made.address = "10.0.0.1"
    return made


def test_each_purpose_is_given_back_by_itself(budget, memory):
    assert memory.take_request(1000) and memory.take_waiting(200)
    assert memory.take_unread(4, force=False)
    assert budget.of("10.0.0.1") == 1204 and memory.request_bytes == 1000
    memory.give_request()
    assert budget.used == 204
    memory.give_waiting()
    assert budget.used == 4
    memory.give_unread()
    assert budget.used == 0


def test_a_second_give_gives_nothing(budget, memory):
    memory.take_request(10)
    for give in (memory.give_request, memory.give_waiting, memory.give_unread):
        give()
        give()
    assert budget.used == 0


def test_unread_answers_stay_counted_after_the_end_of_a_request(budget, memory):
    memory.take_request(1000)
    memory.take_unread(500, force=False)
    memory.give_all_but_unread()
    assert budget.used == 500 and memory.request_bytes == 0


def test_beyond_the_budget_only_a_counted_answer_is_taken(budget, memory):
    assert not memory.take_request(6000)
    assert memory.refusal(6000).status == 429
    assert not memory.take_unread(6000, force=False)
    assert memory.take_unread(6000, force=True)
    assert budget.used == 6000


def test_all_of_it_moves_to_another_address(budget, memory):
    memory.take_request(1000)
    memory.take_waiting(200)
    assert budget.take_memo("10.0.0.1", 30)
    memory.memo_bytes = 30
    memory.move_to("10.0.0.2")
    assert budget.of("10.0.0.1") == 0 and budget.of("10.0.0.2") == 1230
    memory.give_all_but_unread()
    assert budget.used == 0
