"""Work in turns: much of it at once never, and everything else goes on between."""

import asyncio
import time

from tokenworks.gateway.lag import LoopLag
from tokenworks.gateway.stats import Stats, WorkerStats
from tokenworks.gateway.turns import AT_ONCE_S, Turns


def test_one_piece_in_a_turn_in_the_order_that_they_came():
    async def main():
        turns, done = Turns(), []
        for n in range(5):
            turns.later(lambda n=n: done.append(n))
        assert done == []
        assert not turns.free()
        for n in range(5):
            await asyncio.sleep(0)
            assert done == list(range(n + 1))
        assert turns.free()

    asyncio.run(main())


def test_a_piece_that_fails_keeps_nobody_from_theirs():
    async def main():
        failed, turns, done = [], Turns(), []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
        turns.later(lambda: 1 / 0)
        turns.later(lambda: done.append(1))
        while not done:
            await asyncio.sleep(0)
        assert len(failed) == 1

    asyncio.run(main())


def test_what_was_spent_at_once_is_over_all(monkeypatch):
    async def main():
        turns = Turns()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 5.0)
        assert turns.free()
        turns.spent(time.perf_counter() - AT_ONCE_S)
        assert not turns.free()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 5.1)
        assert turns.free()

    asyncio.run(main())


def test_a_loop_that_is_held_up_says_so(tmp_path):
    async def main():
        stats = Stats(tmp_path / "worker-0.stats", 1)
        lag = LoopLag(stats)
        lag.start()
        while not stats.loop_lag_ms:
            await asyncio.sleep(0)
        until_s = time.thread_time() + 0.3
        while time.thread_time() < until_s:
            pass
        seen = len(stats.loop_lag_ms)
        while len(stats.loop_lag_ms) == seen:
            await asyncio.sleep(0)
        lag.stop()
        stats.beat()

    asyncio.run(main())
    reading = WorkerStats(tmp_path / "worker-0.stats")
    for name in ("loop_lag_second_ms", "loop_lag_max_ms", "loop_busy_second_ms", "loop_busy_max_ms"):
        assert reading.counters[name] >= 250
    buckets, count, total = reading.histograms["loop_lag_ms"]
    assert count >= 2
    assert total >= 250
