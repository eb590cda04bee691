"""The keys that a worker remembers, and those who wait for one that is looked up."""

import time

import pytest
from msgspec import structs

from tests.charging.test_messages import LIVE_KEY
from tokenworks.charging import EndedKey
from tokenworks.gateway import KeyCache
from tokenworks.gateway.keys import (
    FOREIGN_ADDRESSES_MAX,
    FOREIGN_MISS_PAUSE_S,
    FOREIGN_MISSES_MAX,
    ForeignMisses,
)
from tokenworks.trust import foreign_mac, foreign_sha256, key_mac


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


def test_misses_of_foreign_keys_are_limited_by_network_and_hits_are_given_back():
    misses = ForeignMisses()
    assert [misses.take("192.0.2.1", 0.0) for _ in range(FOREIGN_MISSES_MAX + 1)].count(False) == 1
    assert misses.take("192.0.2.2", 0.0)
    assert not misses.take("192.0.2.1", FOREIGN_MISS_PAUSE_S / 2) and misses.take(
        "192.0.2.1", FOREIGN_MISS_PAUSE_S
    )
    assert not misses.take("192.0.2.1", FOREIGN_MISS_PAUSE_S)
    misses.give("192.0.2.1")
    assert misses.take("192.0.2.1", FOREIGN_MISS_PAUSE_S)
    assert [misses.take(f"2001:db8::{number:x}", 0.0) for number in range(FOREIGN_MISSES_MAX + 1)].count(
        False
    ) == 1
    assert (
        misses.take("2001:db8:0:1::1", 0.0) and misses.take("::ffff:192.0.2.3", 0.0) and misses.take("", 0.0)
    )


def test_addresses_of_misses_are_bounded():
    misses = ForeignMisses()
    for number in range(FOREIGN_ADDRESSES_MAX + 5):
        misses.take(str(number), 0.0)
    assert len(misses) == FOREIGN_ADDRESSES_MAX


def test_foreign_keys_are_looked_up_only_where_there_are_any_and_half_of_the_lookups_are_for_ours():
    asked = []
    cache = KeyCache({1: b"p" * 32}, lambda macs, answered: asked.append(macs), 100, 10)
    text = "sk-" + "a" * 22
    assert not cache.well_formed(text)
    cache.foreign = True
    assert (
        cache.well_formed(text)
        and not cache.well_formed("sk-" + "a" * 20)
        and not cache.well_formed("sk-" + "a" * 200)
    )
    done = [cache.look_up(f"sk-{number:022d}", lambda _: None) for number in range(10)]
    assert 4 <= done.count(True) <= 6 and not done[-1]
    assert cache.look_up("twk_of_ours", lambda _: None)
    assert (
        asked[0]
        == [foreign_mac(b"p" * 32, foreign_sha256("sk-" + "0" * 22))]
        != [key_mac(b"p" * 32, "sk-" + "0" * 22)]
    )
