"""Waiting for a deployment, in simulated time: nobody is served twice or beyond a limit, everybody gets his share."""

import asyncio
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from tests.charging.host.test_limits import NaiveLeases, simulate
from tests.sim.loop import SimClock
from tokenworks.charging import SHED, TIMED_OUT, Admission, HostLimits, HostQueues, Limit, QueueEntry, wire
from tokenworks.charging.messages import LimitReturn, QueueAnswer, QueueRequest, QueueReturn
from tokenworks.charging.worker.admission import Admissions
from tokenworks.factory import FLEX, PRIORITY, STANDARD


class Queueing:
    """A host's limits and queues, and workers that ask them."""

    def __init__(self, loop, waiting_max=1000):
        self.loop = loop
        self.clock = SimClock(loop)
        self.leases = NaiveLeases(loop)
        self.limits = HostLimits(self.leases.port("a"), self._send, self.clock, on_fatal=self._fatal)
        self.queues = HostQueues(self.limits, self._send, self.clock, waiting_max)
        self.limits.start()
        self.answers = {}
        self.numbers = itertools.count(1)

    def _fatal(self, error):
        raise error

    def _send(self, worker, kind, content):
        assert kind == wire.QUEUE_ANSWER
        for number, *rest in map(astuple, content):
            self.answers.pop((worker, number)).set_result(rest)
        return True

    def begin(
        self,
        limits,
        account="x",
        tokens=10,
        wait_ms=30_000,
        weight=1,
        service=STANDARD,
        worker="w",
        queue="m",
    ):
        """(number, future of [wait, which, what, slot, counted])"""
        number = next(self.numbers)
        answer = self.answers[worker, number] = self.loop.create_future()
        queued = QueueEntry(queue, account, weight, service, wait_ms)
        self.queues.request(worker, QueueRequest(number, tokens, limits, queued))
        return number, answer

    async def ask(self, limits, **more):
        return await self.begin(limits, **more)[1]

    def end(self, limits, answer, account="x", used=10, tokens=10, worker="w", queue="m"):
        _, which, _, slot, counted = answer
        self.limits.return_unused(worker, LimitReturn(limits[which].limit_id, slot, 0, tokens - used, True))
        self.queues.request_ended(worker, QueueReturn(queue, account, counted, used))

    async def tend(self):
        while True:
            await asyncio.sleep(1)
            await self.limits.tend()
            self.queues.tend()


def streams(name, most):
    return Limit(name * 32, 0, 0, most)


def test_the_first_with_room_in_the_requests_own_order_then_the_queue():
    a, b = streams("a", 1), streams("b", 2)

    async def main(loop):
        host = Queueing(loop)
        first = await host.ask([a, b])
        second = await host.ask([a, b], account="y")
        third = await host.ask([a, b], account="z")
        assert [answer[:2] for answer in (first, second, third)] == [[0, 0], [0, 1], [0, 1]]
        _, fourth = host.begin([a, b])
        assert not fourth.done() and len(host.queues._queues["m"]) == 1
        host.end([a, b], second, account="y")
        assert (await fourth)[:2] == [0, 1], "what came free, and not what it liked best"

    simulate(main)


def test_waiting_ends_and_says_why():
    a = streams("a", 1)

    async def main(loop):
        host = Queueing(loop, waiting_max=2)
        tending = loop.create_task(host.tend())
        assert (await host.ask([a]))[0] == 0
        began = loop.time()
        refused = await host.ask([a], wait_ms=4000)
        assert refused[0] > 0 and refused[2] == TIMED_OUT and 4 <= loop.time() - began <= 5.5
        assert (await host.ask([a], wait_ms=0))[:3] == [1000, 0, 0]
        waiting = [host.begin([a])[1] for _ in range(2)]
        assert (await host.ask([a]))[2] == SHED, "he has most of those who wait"
        assert await host.begin([a], account="other")[1] if False else host.begin([a], account="other")
        assert waiting[1].done() and waiting[1].result()[2] == SHED and not waiting[0].done()
        tending.cancel()

    simulate(main)


def test_a_window_that_is_far_from_free_is_said_at_once():
    limit = Limit("l" * 32, 1, 0, 0)

    async def main(loop):
        host = Queueing(loop)
        assert (await host.ask([limit]))[0] == 0
        wait_ms, _, what, *_ = await host.ask([limit], wait_ms=30_000)
        assert 59_000 < wait_ms <= 61_000 and what == 1
        tending = loop.create_task(host.tend())
        assert (await host.ask([limit], wait_ms=90_000))[0] == 0
        tending.cancel()

    simulate(main)


def test_who_is_gone_waits_for_nothing_and_holds_nothing():
    a = streams("a", 1)

    async def main(loop):
        host = Queueing(loop)
        first = await host.ask([a], worker="dies")
        number, forgotten = host.begin([a], worker="w")
        _, lost = host.begin([a], worker="dies")
        _, waits = host.begin([a], worker="w", account="y")
        host.queues.cancel("w", number)
        assert (await forgotten)[2] == TIMED_OUT
        host.limits.worker_lost("dies")
        host.queues.worker_lost("dies")
        assert (await waits)[0] == 0 and first[0] == 0 and not lost.done()
        host.end([a], await waits, account="y")
        assert (await host.ask([a]))[0] == 0

    simulate(main)


def test_flex_leaves_room_and_is_served_last():
    a = streams("a", 8)

    async def main(loop):
        host = Queueing(loop)
        flex = [host.begin([a], service=FLEX)[1] for _ in range(12)]
        assert sum(answer.done() for answer in flex) == 7, "the last eighth is not for it"
        assert (await host.ask([a], account="y"))[0] == 0
        _, standard = host.begin([a], account="y")
        _, first = host.begin([a], account="z", service=PRIORITY)
        host.end([a], flex[0].result())
        assert first.done() and not standard.done()
        host.end([a], flex[1].result())
        assert standard.done() and sum(answer.done() for answer in flex) == 7

    simulate(main)


def run_a_flood(flood, seed=7, seconds=300, slots=(16, 16)):
    """Latencies of six who ask now and then, and how many requests of a seventh were served beside, who always has 300 waiting."""
    limits = [streams(name, most) for name, most in zip("ab", slots, strict=True)]
    found = []
    served = Counter()

    async def main(loop):
        host = Queueing(loop)
        tending = loop.create_task(host.tend())
        running = Counter()
        until = loop.time() + seconds

        async def one(account, rng):
            began = loop.time()
            order = limits if rng.random() < 0.5 else limits[::-1]
            answer = await host.ask(order, account=account)
            if answer[0]:
                return
            name = order[answer[1]].limit_id
            running[name] += 1
            assert running[name] <= order[answer[1]].streams_max
            tokens = round(rng.lognormvariate(5.5, 0.6))
            await asyncio.sleep(0.2 + tokens * 0.01)
            running[name] -= 1
            host.end(order, answer, account=account, used=tokens)
            served[account] += 1
            if account != "flood":
                found.append(loop.time() - began)

        async def polite(account):
            rng = random.Random(f"{seed}{account}")
            while loop.time() < until:
                await asyncio.sleep(rng.expovariate(0.55))
                loop.create_task(one(account, rng))

        async def floods():
            rng = random.Random(seed)

            async def again():
                while loop.time() < until:
                    await one("flood", rng)

            await asyncio.gather(*(again() for _ in range(300)))

        work = [polite(name) for name in "pqrstu"] + ([floods()] if flood else [])
        await asyncio.gather(*work)
        await asyncio.sleep(60)
        tending.cancel()

    simulate(main)
    return sorted(found), served


def test_a_flood_leaves_the_others_as_they_were():
    quiet, _ = run_a_flood(flood=False)
    flooded, served = run_a_flood(flood=True)
    assert len(quiet) > 800 and abs(len(flooded) - len(quiet)) < 60
    for part in (0.5, 0.9, 0.99):
        before, after = quiet[int(part * len(quiet))], flooded[int(part * len(flooded))]
        assert after <= 1.2 * before, (part, before, after)
    # And nothing is left idle for it: the flood gets what they don't use.
    assert served["flood"] > 1500


def test_two_floods_share_by_weight():
    limit = streams("a", 10)

    async def main(loop):
        host = Queueing(loop)
        served = Counter()
        rng = random.Random(3)
        until = loop.time() + 200

        async def again(account, weight):
            while loop.time() < until:
                answer = await host.ask([limit], account=account, weight=weight)
                if answer[0]:
                    continue
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                host.end([limit], answer, account=account)
                served[account] += 1

        tending = loop.create_task(host.tend())
        await asyncio.gather(*(again(name, w) for name, w in (("gold", 3), ("plain", 1)) for _ in range(100)))
        tending.cancel()
        assert abs(served["gold"] / served["plain"] - 3) < 0.4

    simulate(main)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 4), st.integers(1, 4))
def test_never_beyond_a_limit_and_everybody_is_answered_once(seed, most_a, most_b):
    limits = [streams("a", most_a), streams("b", most_b)]
    rng = random.Random(seed)

    async def main(loop):
        host = Queueing(loop, waiting_max=rng.choice([0, 3, 1000]))
        tending = loop.create_task(host.tend())
        running = Counter()
        answered = 0

        async def one(account):
            nonlocal answered
            order = rng.sample(limits, rng.randint(1, 2))
            answer = await host.ask(
                order, account=account, wait_ms=rng.choice([0, 2000, 60_000]), service=rng.randint(0, 2)
            )
            answered += 1
            if answer[0]:
                return
            name = order[answer[1]].limit_id
            running[name] += 1
            assert running[name] <= order[answer[1]].streams_max
            await asyncio.sleep(rng.uniform(0, 4))
            running[name] -= 1
            host.end(order, answer, account=account, used=rng.randint(0, 20))

        tasks = []
        for _ in range(60):
            await asyncio.sleep(rng.expovariate(3))
            tasks.append(loop.create_task(one(rng.choice("xyz"))))
        await asyncio.gather(*tasks)
        assert answered == 60 and not host.answers
        assert all(not window.in_flight for window in host.limits._windows.values())
        tending.cancel()

    simulate(main)


def given(host):
    """What the host asked the ledger for that it was given any of."""
    return [row for row in host.leases.leases if row[2] + row[3]]


@pytest.mark.parametrize(
    "limit", [Limit("l" * 32, 0, 1000, 0), Limit("l" * 32, 100, 0, 2)], ids=["tokens", "streams"]
)
def test_between_hosts_what_is_leased_is_waited_for(limit):
    """A request that is larger than the twentieth of a limit that is leased at a time, too."""

    async def main(loop):
        host = Queueing(loop)
        host.limits.set_hosts(2)
        tending = loop.create_task(host.tend())
        answers = [await asyncio.wait_for(host.ask([limit], tokens=400, account=name), 25) for name in "xy"]
        assert [answer[0] for answer in answers] == [0, 0]
        # For all of a request at once, and not in eight parts of a twentieth each; streams are claimed once a second, too.
        assert len(given(host)) <= 2, given(host)
        _, third = host.begin([limit], tokens=400, account="z", wait_ms=90_000)
        await asyncio.sleep(5)
        assert not third.done(), "beyond the limit"
        for name, answer in zip("xy", answers, strict=True):
            host.end([limit], answer, account=name, used=400, tokens=400)
        assert (await asyncio.wait_for(third, 80))[0] == 0
        tending.cancel()

    simulate(main)


def test_a_new_recorder_is_asked_for_what_still_waits_and_knows_what_runs():
    a = streams("a", 2)

    async def main(loop):
        admissions = Admissions(SimClock(loop), lambda: None)
        got = []

        def frames():
            return [
                (kind, wire.BODIES[kind](body))
                for frame in admissions.frames()
                for kind, body in wire.FrameReader().feed(frame)
            ]

        queued = QueueEntry("m", "x", 1, STANDARD, 30_000)
        for _ in range(3):
            admissions.request((a,), 10, lambda admission, *_: got.append(admission), queued)
        ((kind, rows),) = frames()
        assert kind == wire.QUEUE_REQUEST and len(rows) == 3
        admissions.answered(QueueAnswer(rows[0].number, 0, 0, 0, 5, 10))
        admissions.answered(QueueAnswer(rows[1].number, 0, 0, 0, 5, 10))
        assert all(isinstance(admission, Admission) for admission in got) and len(got) == 2
        await asyncio.sleep(10)
        # The recorder dies; the next one hears of two that run, and of one that waits, for what is left of its time.
        (state,) = [wire.decode_limit_state(body) for _, body in wire.FrameReader().feed(admissions.state())]
        ((kind, rows),) = frames()
        assert (
            kind == wire.QUEUE_REQUEST
            and [row.number for row in rows] == [3]
            and rows[0].queued.wait_ms == 20_000
        )
        host = Queueing(loop)
        host.limits.adopt_state("w", state)
        answer = host.answers["w", 3] = loop.create_future()
        host.queues.request("w", rows[0])
        assert not answer.done()
        admissions.end(got[0], 7, begun=True)
        for kind, rows in frames():
            for row in rows:
                if kind == wire.LIMIT_RETURN:
                    host.limits.return_unused("w", row)
                else:
                    assert kind == wire.QUEUE_RETURN
                    host.queues.request_ended("w", row)
        assert (await answer)[0] == 0
        # A worker that does not wait any more says so, and what was given to it meanwhile goes back.
        number = admissions.request((a,), 10, lambda admission, *_: got.append(admission), queued)
        frames()
        admissions.cancel(number)
        assert frames() == [(wire.QUEUE_LEAVE, [number])]
        # Who leaves in the turn in which he came is heard to come, and then to leave.
        number = admissions.request((a,), 10, lambda admission, *_: got.append(admission), queued)
        admissions.cancel(number)
        assert [kind for kind, _ in frames()] == [wire.QUEUE_REQUEST, wire.QUEUE_LEAVE]

    simulate(main)
