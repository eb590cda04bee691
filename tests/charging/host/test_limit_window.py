"""A limit's minute on one host: what it admitted, and what it still admits."""

from tokenworks.charging.host.limit_window import REQUESTS, TOKENS, WINDOW_SLOTS, LimitWindow
from tokenworks.charging.messages import Limit, LimitLeft


def test_what_is_left_goes_down_with_each_request_and_comes_back_after_a_minute():
    window = LimitWindow(Limit("l", 3, 100, 0))
    assert window.left() == LimitLeft(3, 100)
    window.add(10, 1, 40)
    window.add(20, 1, 70)
    assert window.left() == LimitLeft(1, 0)  # never below zero
    window.add(10, -1, -40)  # not used after all
    assert window.left() == LimitLeft(2, 30)
    window.prune(20 + WINDOW_SLOTS + 1)
    assert window.left() == LimitLeft(3, 100) and not window.slots


def test_a_limit_without_a_maximum_has_nothing_left_of_it_to_name():
    window = LimitWindow(Limit("l", 0, 0, 4))
    window.add(1, 1, 10)
    assert window.left() == LimitLeft(0, 0)
    assert window.wait_ms(100, 0, 0, 10) is None


def test_the_wait_is_until_enough_has_left_the_minute():
    window = LimitWindow(Limit("l", 2, 100, 0))
    window.add(0, 1, 60)
    window.add(100, 1, 30)
    assert window.wait_ms(10_000, 2, 100, 20) == ((WINDOW_SLOTS + 1) * 100 - 10_000, REQUESTS)
    assert window.wait_ms(10_000, 3, 100, 100) == ((100 + WINDOW_SLOTS + 1) * 100 - 10_000, TOKENS)
