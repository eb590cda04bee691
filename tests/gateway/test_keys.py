"""The keys that a worker remembers, and those who wait for one that is looked up."""

import pytest

from tokenworks.gateway import KeyCache


@pytest.fixture
def cache():
    """A cache, and what answers its questions."""
    asked = []
    made = KeyCache({1: b"p" * 32}, lambda macs, answered: asked.append(answered), 10, 10)
    return made, asked


def test_one_request_that_fails_keeps_no_other_from_its_answer(cache):
    keys, asked = cache
    told = []

    def fails(entry):
        raise TypeError("unhashable type: 'list'")

    assert all(keys.look_up("k", waiter) for waiter in (told.append, fails, told.append))
    asked[0]([])
    assert [entry.known for entry in told] == [False, False]


def test_an_answer_that_can_not_be_kept_is_none(cache):
    keys, asked = cache
    told = []
    keys.look_up("k", told.append)
    asked[0]([["of another shape"]])
    assert told == [None]
    assert keys.look_up("k", told.append) and len(asked) == 2
