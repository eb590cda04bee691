"""The order of queued requests: shares by weight, no advantage from idle time, classes first, and what is shed."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.factory import FLEX, PRIORITY, STANDARD, FairQueue, Waiter, headroom


def waiter(ticket, account="a", weight=1, service=STANDARD, tokens=100, until_ms=10**9):
    return Waiter(ticket, account, weight, service, tokens, ("p",), until_ms)


def serve(queue, now_ms=0):
    """The next request begins, and ends with the tokens that were counted for it."""
    first = next(iter(queue.in_order()))
    queue.leave(first.ticket)
    counted = queue.began(first.account_id, first.weight, first.tokens, now_ms)
    return first, counted


def test_turns_go_round_however_many_one_of_them_asks():
    queue = FairQueue(10_000)
    for n in range(100):
        queue.join(waiter(("flood", n), "flood"))
    for n in range(10):
        queue.join(waiter(("quiet", n), "quiet"))
    first = [serve(queue)[0].account_id for _ in range(20)]
    assert Counter(first) == {"flood": 10, "quiet": 10}


def test_a_share_is_by_weight_and_by_tokens():
    queue = FairQueue(10_000)
    for n in range(300):
        queue.join(waiter(("big", n), "big", weight=3, tokens=100))
        queue.join(waiter(("small", n), "small", weight=1, tokens=100))
        queue.join(waiter(("long", n), "long", weight=1, tokens=400))
    tokens = Counter()
    for _ in range(200):
        found, counted = serve(queue)
        tokens[found.account_id] += counted
    assert abs(tokens["big"] / tokens["small"] - 3) < 0.3
    assert abs(tokens["long"] / tokens["small"] - 1) < 0.3


def test_who_was_away_does_not_save_up():
    queue = FairQueue(10_000)
    for n in range(200):
        queue.join(waiter(("a", n), "a"))
    for _ in range(100):
        serve(queue)
    for n in range(100):
        queue.join(waiter(("b", n), "b"))
    # Not a hundred in a row for what he did not use.
    assert Counter(serve(queue)[0].account_id for _ in range(20)) == {"a": 10, "b": 10}


def test_what_a_request_really_took_is_counted_in_the_end():
    queue = FairQueue(100)
    for n in range(20):
        queue.join(waiter(("a", n), "a", tokens=1000))
        queue.join(waiter(("b", n), "b", tokens=1000))
    # Both ask for a thousand; a uses ten, b all of it: a is served until he has had as much.
    served = Counter()
    for _ in range(20):
        found, counted = serve(queue)
        served[found.account_id] += 1
        queue.ended(found.account_id, counted, 10 if found.account_id == "a" else 1000, 0)
    assert served["a"] >= 17


def test_classes_go_before_counters():
    queue = FairQueue(100)
    queue.join(waiter(1, "a", service=FLEX))
    queue.join(waiter(2, "b", service=STANDARD))
    queue.join(waiter(3, "c", service=PRIORITY))
    queue.join(waiter(4, "a", service=STANDARD))
    assert [serve(queue)[0].ticket for _ in range(4)] in ([3, 2, 4, 1], [3, 4, 2, 1])
    assert len(queue) == 0


def test_the_one_who_waits_with_most_is_shed_and_says_so():
    queue = FairQueue(4)
    for n in range(4):
        assert queue.join(waiter(("flood", n), "flood")) is None
    shed = queue.join(waiter("quiet", "quiet"))
    assert shed.ticket == ("flood", 3) and len(queue) == 4
    again = waiter(("flood", 9), "flood")
    assert queue.join(again) is again, "his own next one is not taken in"
    # The lower class goes first, whoever has more of it.
    low = FairQueue(2)
    low.join(waiter(1, "a", service=FLEX))
    low.join(waiter(2, "b"))
    assert low.join(waiter(3, "b")).ticket == 1
    newcomer = waiter(4, "c", service=FLEX)
    assert low.join(newcomer) is newcomer


def test_waiting_ends():
    queue = FairQueue(10)
    queue.join(waiter(1, until_ms=500))
    queue.join(waiter(2, until_ms=1500))
    assert [w.ticket for w in queue.overdue(1000)] == [1]
    assert queue.leave(1) is None and len(queue) == 1
    queue.drop(lambda w: w.ticket == 2)
    assert len(queue) == 0
    queue.forget_idle(10**9)
    assert queue.idle


def test_headroom_is_for_others_only_while_there_are_others():
    queue = FairQueue(10)
    for _ in range(8):
        queue.began("a", 1, 10, 0)
    assert not queue.has_share("a", 1, 8, 0), "alone he may have all of it"
    queue.began("b", 1, 10, 0)
    assert queue.has_share("a", 1, 8, 0)
    assert not queue.has_share("b", 1, 8, 0)
    queue.ended("b", 10, 10, 0)
    assert not queue.has_share("a", 1, 8, 60_000), "a minute later the other is gone"
    assert (headroom(1), headroom(2), headroom(8), headroom(64)) == (0, 0, 1, 8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 40))
def test_nobody_is_lost_and_nobody_is_served_twice(seed, most):
    rng = random.Random(seed)
    queue = FairQueue(most)
    inside, out = set(), set()
    for number in range(300):
        what = rng.random()
        if what < 0.6:
            made = waiter(
                number, rng.choice("abcd"), rng.randint(1, 3), rng.randint(0, 2), rng.randint(1, 500)
            )
            shed = queue.join(made)
            inside.add(number)
            if shed is not None:
                inside.discard(shed.ticket)
                out.add(shed.ticket)
        elif what < 0.9 and len(queue):
            found, counted = serve(queue, number)
            assert found.ticket in inside
            inside.discard(found.ticket)
            out.add(found.ticket)
            if rng.random() < 0.7:
                queue.ended(found.account_id, counted, rng.randint(0, 900), number)
        elif inside:
            gone = rng.choice(sorted(inside))
            assert queue.leave(gone).ticket == gone
            inside.discard(gone)
        assert len(queue) == len(inside) <= most
        assert {w.ticket for w in queue.in_order()} <= inside
