"""The keys that a worker remembers, and those who wait for one that is looked up."""

import time

import pytest
from msgspec import structs

from tests.charging.test_messages import LIVE_KEY
from tokenworks.charging import EndedKey
from tokenworks.gateway import KeyCache
from tokenworks.trust import key_mac


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


def test_a_key_that_has_ended_is_known_to_have_and_is_looked_up_again_when_it_changes():
    asked, heard = [], []
    cache = KeyCache({1: b"p" * 32}, lambda macs, answered: asked.append((macs, answered)), 10, 10)
    cache.look_up("twk_a", heard.append)
    macs, answered = asked.pop()
    answered([EndedKey(macs[0], "revoked")])
    (entry,) = heard
    assert (entry.known, entry.ended) == (False, "revoked")
    assert cache.get("twk_a", time.monotonic()) is entry
    cache.forget(macs[0])
    assert cache.get("twk_a", time.monotonic()) is None


def test_what_was_not_found_is_looked_up_again_under_a_pepper_that_came():
    asked = []
    cache = KeyCache({1: b"p" * 32}, lambda macs, answered: asked.append((macs, answered)), 10, 10)
    cache.look_up("twk_a", lambda _: None)
    asked[-1][1]([])
    assert len(asked[-1][0]) == 1 and cache.get("twk_a", time.monotonic()) is not None
    cache.set_peppers({1: b"p" * 32, 2: b"q" * 32})
    assert cache.get("twk_a", time.monotonic()) is None
    cache.look_up("twk_a", lambda _: None)
    assert asked[-1][0] == [key_mac(b"q" * 32, "twk_a"), key_mac(b"p" * 32, "twk_a")]


@pytest.mark.parametrize(
    ("own", "expected"),
    [(None, ("plan-a", "plan-b")), ((), ()), (("mine",), ("mine",))],
    ids=["plan", "none", "key"],
)
def test_the_models_to_fall_back_to_are_the_keys_own_or_else_the_plans(cache, own, expected):
    keys, asked = cache
    told = []
    keys.look_up("k", told.append)
    service = '{"fallback_models": ["plan-a", "plan-b"]}'
    asked[0]([structs.replace(LIVE_KEY, service=service, fallbacks=own)])
    assert told[0].known and told[0].fallbacks == expected
