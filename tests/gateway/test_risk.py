from tokenworks.gateway.risk import DAY_S, LossBudgets


class Day:
    def __init__(self):
        self.s = 10.0 * DAY_S

    def __call__(self):
        return self.s


def test_the_loss_is_at_most_the_budget_and_one_request_more():
    book = LossBudgets(1000, Day())
    assert book.take("a", 900)
    assert book.take("a", 900)  # the one that reaches it
    assert not book.take("a", 1)
    assert book.take("b", 1)
    book.give("a", 900)
    assert book.take("a", 50)  # what was not lost is free again


def test_what_was_lost_counts_for_the_day():
    day = Day()
    book = LossBudgets(1000, day)
    book.lost("a", 1000)
    assert book.spent("a")
    assert not book.take("a", 1)
    assert not book.spent("b")
    day.s += DAY_S
    assert not book.spent("a")
    assert book.take("a", 1)


def test_the_recorder_knows_of_other_hosts():
    book = LossBudgets(1000, Day())
    book.lossy = frozenset({"a"})
    assert book.spent("a")
    assert not book.take("a", 1)


def test_no_budget_refuses_nothing():
    book = LossBudgets(0, Day())
    book.lost("a", 10**9)
    book.lossy = frozenset({"a"})
    assert book.take("a", 10**9)
    assert not book.spent("a")
    book.give("a", 10**9)
