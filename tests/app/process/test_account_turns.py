"""Calls of accounts take turns: a burst of one makes another wait for one of its calls, and what waits is bounded."""

import asyncio

import pytest

from tokenworks.app.process import account_turns
from tokenworks.app.process.account_turns import AccountTurns
from tokenworks.kernel import Unavailable


class Thread:
    """Makes one call whenever it is stepped. `error`: what it raises in place of an answer."""

    def __init__(self):
        self.hangs, self.error, self.steps = False, None, asyncio.Semaphore(0)
        self.running = self.waiting = 0

    async def run(self, call):
        self.running += 1
        assert self.running == 1
        try:
            await self.steps.acquire()
            if self.error is not None:
                raise self.error
            return call(None)
        finally:
            self.running -= 1


class Calls:
    def __init__(self):
        self.thread, self.made = Thread(), []
        self.turns = AccountTurns(self.thread)

    def ask(self, account, what, *most):
        return asyncio.create_task(
            self.turns.run(account, lambda: lambda _: self.made.append((account, what)), *most)
        )

    async def step(self, count):
        for _ in range(count):
            self.thread.steps.release()
        for _ in range(4 * count + 4):
            await asyncio.sleep(0)


def test_accounts_take_turns_whatever_the_burst_of_one():
    async def case():
        calls = Calls()
        burst = [calls.ask("a", n) for n in range(50)]
        await asyncio.sleep(0)
        others = [calls.ask(name, n) for n in range(2) for name in "bc"]
        await calls.step(7)
        assert calls.made == [("a", 0), ("a", 1), ("b", 0), ("c", 0), ("a", 2), ("b", 1), ("c", 1)]
        assert all(one.done() for one in others)
        await calls.step(47)
        assert [n for account, n in calls.made if account == "a"] == list(range(50))
        await asyncio.gather(*burst)
        late = calls.ask("a", "later")
        await calls.step(1)
        assert late.done()

    asyncio.run(case())


def test_a_burst_beyond_its_bound_is_refused_and_another_account_is_not(monkeypatch):
    monkeypatch.setattr(account_turns, "WAITING_MAX", 5)

    async def case():
        calls = Calls()
        tasks = [calls.ask("a", n, 3) for n in range(6)]
        await asyncio.sleep(0)
        for task in tasks[4:]:  # one is with the thread, three wait
            with pytest.raises(Unavailable):
                await task
        other = [calls.ask("b", 0, 3), calls.ask("c", 0, 3)]
        refused = calls.ask("d", 0, 3)
        with pytest.raises(Unavailable):
            await refused
        await calls.step(6)
        await asyncio.gather(*tasks[:4], *other)
        assert sorted(calls.made) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("c", 0)]

    asyncio.run(case())


def test_what_is_not_waited_for_any_more_is_not_made(monkeypatch):
    async def case():
        calls = Calls()
        first, left, old, last = [calls.ask(name, 0) for name in "abcd"]
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        calls.turns._accounts["c"][0].since_s -= account_turns.WAIT_S + 1
        await calls.step(2)
        with pytest.raises(Unavailable):
            await old
        await asyncio.gather(first, last)
        assert calls.made == [("a", 0), ("d", 0)] and left.cancelled()

    asyncio.run(case())


def test_a_turn_that_comes_with_a_cancellation_goes_to_the_next():
    async def case():
        calls = Calls()
        first, left, last = [calls.ask(name, 0) for name in "abc"]
        await asyncio.sleep(0)
        place = calls.turns._accounts["b"][0].place
        place.add_done_callback(lambda _: left.cancel())
        await calls.step(3)
        await asyncio.gather(first, last)
        assert calls.made[0] == ("a", 0) and calls.made[-1] == ("c", 0)
        assert not calls.turns._busy and not calls.turns._count

    asyncio.run(case())


@pytest.mark.parametrize("hangs", [True, False])
def test_what_waits_fails_with_a_database_that_does_not_answer(hangs):
    async def case():
        calls = Calls()
        tasks = [calls.ask(name, 0) for name in "aab"]
        await asyncio.sleep(0)
        calls.thread.error, calls.thread.hangs = Unavailable("away"), hangs
        await calls.step(1)
        assert [task.done() for task in tasks] == [True, hangs, hangs]
        calls.thread.error, calls.thread.hangs = None, False
        await calls.step(2)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Unavailable, *[Unavailable if hangs else type(None)] * 2]
        again = calls.ask("a", 1)
        await calls.step(1)
        assert again.done() and calls.made[-1] == ("a", 1)

    asyncio.run(case())


def test_a_cancelled_call_that_has_failed_already_gives_its_turn_to_nobody():
    """Its turn never came: a second call would be with the thread."""

    async def case():
        calls = Calls()
        first, left = calls.ask("a", 0), calls.ask("b", 0)
        await asyncio.sleep(0)
        fail_all = calls.turns._fail_all

        def fail_and_leave(why):
            fail_all(why)
            left.cancel()
            calls.thread.error, calls.thread.hangs = None, False

        calls.turns._fail_all = fail_and_leave
        calls.thread.error, calls.thread.hangs = Unavailable("away"), True
        calls.thread.steps.release()
        later = [calls.ask(name, 1) for name in "cd"]
        await calls.step(0)
        await calls.step(2)
        await asyncio.gather(*later)
        found = await asyncio.gather(first, left, return_exceptions=True)
        assert [type(one) for one in found] == [Unavailable, asyncio.CancelledError]
        assert calls.made == [("c", 1), ("d", 1)]

    asyncio.run(case())
