"""Protective limits: exact on a host against an oracle that keeps a list, within a tenth across hosts, in simulated time."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from tests.sim.loop import SimClock, SimLoop
from tokenworks.charging import HostLimits, Limit, wire
from tokenworks.charging.errors import LimitNotFound
from tokenworks.charging.host.limit_window import STREAMS, TOKENS, Lease
from tokenworks.charging.host.limits import LEASE_SPEND_S
from tokenworks.charging.messages import LimitAnswer, LimitRequest, LimitReturn
from tokenworks.charging.worker.admission import Admissions
from tokenworks.kernel import Invalid, Unavailable, uuid7

MINUTE_S = 60.0


class NaiveLeases:
    """What the tables would say of leases: a list."""

    def __init__(self, loop):
        self.loop = loop
        self.leases = []
        self.streams = {}
        self.away = False

    def port(self, host):
        leases = self

        class Port:
            async def lease_limit(self, limit, requests, tokens, streams):
                await asyncio.sleep(0.003)
                if leases.away:
                    raise Unavailable("away")
                now = leases.loop.time()
                live = [row for row in leases.leases if row[0] > now - MINUTE_S - LEASE_SPEND_S]
                given_r = min(requests, max(0, limit.requests_per_min - sum(row[2] for row in live)))
                given_t = min(tokens, max(0, limit.tokens_per_min - sum(row[3] for row in live)))
                others = sum(n for name, n in leases.streams.items() if name != host)
                given_s = min(streams, max(0, limit.streams_max - others))
                leases.streams[host] = given_s
                wait = 0
                if given_r < min(1, requests) or given_t < tokens:
                    oldest = min((row[0] for row in live if row[2] + row[3]), default=now)
                    wait = max(1, int((oldest + MINUTE_S + LEASE_SPEND_S - now) * 1000))
                if given_s < streams:
                    wait = wait or 1000
                leases.leases.append([now, host, given_r, given_t])
                return Lease(given_r, given_t, given_s, wait)

            async def return_lease(self, limit_id, requests, tokens):
                await asyncio.sleep(0.003)
                if leases.away:
                    raise Unavailable("away")
                for row in reversed(leases.leases):
                    if row[1] == host:
                        less_r, less_t = max(0, min(requests, row[2])), max(0, min(tokens, row[3]))
                        row[2] -= less_r
                        row[3] -= less_t
                        requests -= less_r
                        tokens -= less_t
                if tokens < 0:
                    leases.leases.append([leases.loop.time(), host, 0, -tokens])

        return Port()


class Host:
    def __init__(self, loop, leases, name, offset_s=0.0):
        self.loop = loop
        self.limits = HostLimits(
            leases.port(name), self._send, SimClock(loop, offset_s), on_fatal=self._fatal
        )
        self.limits.start()
        self.answers = {}
        self.number = 0

    def _fatal(self, error):
        raise error

    def _send(self, worker, kind, content):
        assert kind == wire.LIMIT_ANSWER
        for number, *rest in map(astuple, content):
            self.answers[number].set_result(rest[:4])
        return True

    async def ask(self, limit, tokens=1, worker="w"):
        """[wait in ms, which limit, what, slot]"""
        self.number += 1
        number = self.number
        self.answers[number] = self.loop.create_future()
        self.limits.request(worker, LimitRequest(number, tokens, [limit]))
        answer = await self.answers[number]
        del self.answers[number]
        return answer

    def back(self, limit, slot, requests=0, tokens=0, worker="w"):
        self.limits.return_unused(worker, LimitReturn(limit.limit_id, slot, requests, tokens, True))


def simulate(main):
    loop = SimLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()


steps = st.lists(
    st.tuples(st.floats(0, 40), st.integers(1, 60), st.integers(0, 60), st.sampled_from(["a", "b"])),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(steps, st.sampled_from([0, 1, 3, 10]), st.sampled_from([0, 50, 200]))
def test_on_one_host_a_limit_is_exact_and_the_wait_is_right(asked, requests_max, tokens_max):
    limit = Limit("l" * 32, requests_max, tokens_max, 0)

    async def main(loop):
        host = Host(loop, NaiveLeases(loop), "a")
        admitted = []  # [when, tokens]
        for gap_s, reserve, used, worker in asked:
            await asyncio.sleep(gap_s)
            wait_ms, _, _, slot = await host.ask(limit, reserve, worker)
            now = loop.time()
            lately = [row for row in admitted if row[0] > now - MINUTE_S]
            taken = min(reserve, tokens_max) if tokens_max else reserve
            fits = (not requests_max or len(lately) < requests_max) and (
                not tokens_max or sum(row[1] for row in lately) + taken <= tokens_max
            )
            if wait_ms == 0:
                assert fits, "never more than the limit"
                admitted.append([now, min(used, reserve)])
                host.back(limit, slot, 0, taken - min(used, reserve), worker)
            else:
                # A slot is over when its last moment is a minute ago: at most a tenth of a second late.
                old = [row for row in admitted if row[0] > now - MINUTE_S - 0.21]
                assert (requests_max and len(old) >= requests_max) or (
                    tokens_max and sum(row[1] for row in old) + taken > tokens_max
                ), "no refusal while there is room"
                await asyncio.sleep((wait_ms + 1) / 1000)
                again, _, _, slot = await host.ask(limit, reserve, worker)
                assert again == 0, "Retry-After is right"
                admitted.append([loop.time(), taken])
                host.back(limit, slot, 0, 0, worker)

    simulate(main)


def test_what_is_used_beyond_the_reserve_counts():
    limit = Limit("l" * 32, 0, 100, 0)

    async def main(loop):
        host = Host(loop, NaiveLeases(loop), "a")
        _, _, _, slot = await host.ask(limit, 20)
        host.back(limit, slot, 0, -70)
        assert (await host.ask(limit, 20))[0] > 0
        assert (await host.ask(limit, 10))[0] == 0

    simulate(main)


def test_a_request_larger_than_the_limit_is_admitted_alone():
    limit = Limit("l" * 32, 0, 100, 0)

    async def main(loop):
        host = Host(loop, NaiveLeases(loop), "a")
        assert (await host.ask(limit, 5000))[0] == 0
        wait_ms, _, what, _ = await host.ask(limit, 1)
        assert (59_000 < wait_ms <= 60_100, what) == (True, TOKENS)

    simulate(main)


def test_requests_at_once_are_given_back_by_their_end_and_by_a_workers_death():
    limit = Limit("l" * 32, 0, 0, 3)

    async def main(loop):
        host = Host(loop, NaiveLeases(loop), "a")
        slots = [(await host.ask(limit, 1, worker))[3] for worker in ("a", "a", "b")]
        wait_ms, _, what, _ = await host.ask(limit)
        assert (wait_ms, what) == (1000, STREAMS)
        host.back(limit, slots[0], worker="a")
        assert (await host.ask(limit, 1, "b"))[0] == 0
        assert (await host.ask(limit, 1, "b"))[0] > 0
        host.limits.worker_lost("b")
        assert [(await host.ask(limit, 1, "a"))[0] for _ in range(3)] == [0, 0, 1000]

    simulate(main)


def test_what_a_lost_worker_asked_before_the_recorder_began_takes_nothing():
    limit = Limit("l" * 32, 0, 0, 1)

    async def main(loop):
        answered = []
        limits = HostLimits(
            NaiveLeases(loop).port("a"),
            lambda *said: answered.append(said),
            SimClock(loop),
            on_fatal=pytest.fail,
        )
        limits.request("a", LimitRequest(1, 10, [limit]))
        limits.request("b", LimitRequest(2, 10, [limit]))
        limits.worker_lost("a")
        limits.start()
        assert [(worker, rows[0].number, rows[0].wait_ms) for worker, _, rows in answered] == [("b", 2, 0)]
        assert limits.streams(limit) == 1

    simulate(main)


def test_a_new_recorder_learns_from_the_workers():
    limit = Limit("l" * 32, 5, 0, 4)

    async def main(loop):
        leases = NaiveLeases(loop)
        old = Host(loop, leases, "a")
        admissions = Admissions(SimClock(loop), lambda: None)
        begun = []

        async def pump(host):
            for frame in admissions.frames():
                for kind, body in wire.FrameReader().feed(frame):
                    for row in wire.BODIES[kind](body):
                        if kind == wire.LIMIT_REQUEST:
                            answer = loop.create_future()
                            host.answers[row.number] = answer
                            host.limits.request("w", row)
                            admissions.answered(LimitAnswer(row.number, *(await answer)))
                        elif kind == wire.LIMIT_RETURN:
                            host.limits.return_unused("w", row)

        for _ in range(4):
            admissions.request((limit,), 10, lambda got, *_: begun.append(got))
            await pump(old)
        admissions.end(begun[0], 10, begun=True)
        admissions.end(begun[1], 0, begun=False)  # nothing was sent: it does not count
        await pump(old)
        await asyncio.sleep(5)
        new = Host(loop, leases, "a")
        (state,) = [wire.decode_limit_state(body) for _, body in wire.FrameReader().feed(admissions.state())]
        new.limits.adopt_state("w", state)
        # Three of five a minute are used, two of four are in flight.
        assert [(await new.ask(limit))[0] > 0 for _ in range(3)] == [False, False, True]
        await asyncio.sleep(61)
        new.limits.worker_lost("w")
        assert (await new.ask(limit))[0] == 0

    simulate(main)


async def flood(loop, hosts, limit, seconds, rng, rate=40, tokens=1):
    """When each request was admitted."""
    admitted = []
    until = loop.time() + seconds

    async def client(host):
        while loop.time() < until:
            wait_ms, _, _, slot = await host.ask(limit, tokens)
            if wait_ms == 0:
                admitted.append(loop.time())
                host.back(limit, slot)
            await asyncio.sleep(rng.expovariate(rate))

    async def tend():
        while loop.time() < until:
            await asyncio.sleep(1)
            for host in hosts:
                await host.limits.tend()

    await asyncio.gather(tend(), *(client(host) for host in hosts))
    return admitted


def most_in_a_minute(admitted):
    return max(sum(1 for at in admitted if begin <= at < begin + MINUTE_S) for begin in admitted)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hosts", [2, 3])
def test_across_hosts_a_limit_holds_within_a_tenth(seed, hosts):
    limit = Limit("l" * 32, 600, 0, 0)

    async def main(loop):
        rng = random.Random(seed)
        leases = NaiveLeases(loop)
        made = [Host(loop, leases, f"h{n}", rng.random() * 1000) for n in range(hosts)]
        for host in made:
            host.limits.set_hosts(hosts)
        admitted = await flood(loop, made, limit, 400, rng)
        assert most_in_a_minute(admitted) <= 600
        begin = admitted[0] + 100
        assert sum(1 for at in admitted if begin <= at < begin + 189) >= 0.9 * 600 * 189 / 60

    simulate(main)


def test_a_second_host_hears_of_what_the_first_admitted():
    limit = Limit("l" * 32, 100, 0, 0)

    async def main(loop):
        leases = NaiveLeases(loop)
        first, second = Host(loop, leases, "a"), Host(loop, leases, "b")
        assert [(await first.ask(limit))[0] for _ in range(100)] == [0] * 100
        first.limits.set_hosts(2)
        second.limits.set_hosts(2)
        await asyncio.sleep(0.1)
        assert (await second.ask(limit))[0] > 0

    simulate(main)


def test_without_the_ledger_hosts_keep_their_last_share():
    limit = Limit("l" * 32, 300, 0, 0)

    async def main(loop):
        rng = random.Random(1)
        leases = NaiveLeases(loop)
        hosts = [Host(loop, leases, name) for name in "ab"]
        for host in hosts:
            host.limits.set_hosts(2)
        before = await flood(loop, hosts, limit, 250, rng)
        leases.away = True
        during = await flood(loop, hosts, limit, 200, rng)
        assert most_in_a_minute(before + during) <= 330
        assert len(during) >= 0.8 * 300 * 200 / 60, "service goes on"

    simulate(main)


def test_streams_are_claimed_across_hosts():
    limit = Limit("l" * 32, 0, 0, 40)

    async def main(loop):
        leases = NaiveLeases(loop)
        hosts = [Host(loop, leases, name) for name in "ab"]
        for host in hosts:
            host.limits.set_hosts(2)
        answers = [(await hosts[n % 2].ask(limit))[0] for n in range(60)]
        assert 36 <= answers.count(0) <= 40
        await asyncio.sleep(2)
        answers = [(await hosts[0].ask(limit))[0] for n in range(10)] + [
            (await hosts[1].ask(limit))[0] for n in range(10)
        ]
        assert sum(host.limits._windows[limit.limit_id].streams for host in hosts) <= 40

    simulate(main)


# On real PostgreSQL.


def test_leases_of_two_hosts_never_exceed_the_limit(services):
    ledger = services.ledger
    a, b = uuid7(), uuid7()
    limit_id = ledger.set_limit(
        "deployment", "d", None, requests_per_min=100, tokens_per_min=5000, streams_max=8
    )
    (limit,) = ledger.deployment_limits().values()
    assert limit == Limit(limit_id.hex, 100, 5000, 8)
    assert ledger.lease_limit(a, limit, 60, 1000, 5) == Lease(60, 1000, 5, 0)
    lease = ledger.lease_limit(b, limit, 60, 1000, 5)
    assert lease[:3] == (40, 1000, 3)
    lease = ledger.lease_limit(b, limit, 1, 0, 3)
    assert (lease.requests, 60_000 < lease.wait_ms <= 63_000) == (0, True)
    ledger.return_lease(a, limit.limit_id, 10, 1000)
    assert ledger.lease_limit(b, limit, 60, 9999, 3)[:3] == (10, 4000, 3)
    ledger.return_lease(b, limit.limit_id, 0, -500)  # used beyond
    assert services.connection.execute("SELECT sum(requests), sum(tokens) FROM limit_lease").fetchone() == (
        100,
        5500,
    )
    services.connection.execute("UPDATE limit_lease SET leased_at = leased_at - interval '64 seconds'")
    services.connection.execute("UPDATE limit_streams SET seen_at = seen_at - interval '1 minute'")
    assert ledger.lease_limit(b, limit, 100, 5000, 8) == Lease(100, 5000, 8, 0)
    assert services.connection.execute("SELECT count(*) FROM limit_lease").fetchone() == (1,)


def test_a_limit_is_replaced_and_taken_away(services):
    subscriber = services.subscriptions.register("+8613800000001")
    ref = str(subscriber.account_id)
    first = services.ledger.set_limit(
        "subscriber", ref, subscriber.account_id, requests_per_min=5, tokens_per_min=None, streams_max=None
    )
    again = services.ledger.set_limit(
        "subscriber", ref, subscriber.account_id, requests_per_min=None, tokens_per_min=7, streams_max=None
    )
    assert first == again
    assert services.ledger.limits_of([("subscriber", ref), ("key", "x")]) == [
        ("subscriber", Limit(first.hex, 0, 7, 0))
    ]
    services.ledger.remove_limit(first)
    assert services.ledger.limits() == []
    with pytest.raises(LimitNotFound):
        services.ledger.remove_limit(first)
    for bad in (0, -1, 10**13):
        with pytest.raises(Invalid):
            services.ledger.set_limit(
                "key", "k", subscriber.account_id, requests_per_min=bad, tokens_per_min=None, streams_max=None
            )


def test_hosts_that_are_silent_are_not_counted(services):
    a, b = uuid7(), uuid7()
    for journal_id in (a, b):
        services.ledger.register_journal(journal_id, "h")
    assert services.ledger.hosts_alive(a) == 1
    assert services.ledger.hosts_alive(b) == 2
    services.connection.execute(
        "UPDATE journal SET seen_at = seen_at - interval '11 seconds' WHERE journal_id = %s", (a,)
    )
    assert services.ledger.hosts_alive(b) == 1
    services.ledger.host_leaves(b)
    assert services.ledger.hosts_alive(a) == 1
