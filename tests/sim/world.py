"""Several hosts' recorders and workers, one ledger, under a seed: crashes, lost replies, outages, races of recall and renewal.

Real: `HostGrants`, `Slices`. Naive, and meant to be read: the ledger, the journal (a list that survives), the network (in
order per connection, late by whatever the seed says), the workers' clients.
"""

import asyncio
import random
from types import SimpleNamespace

from tests.sim.loop import SimClock, SimLoop
from tokenworks.catalog import Counts, Weights
from tokenworks.charging import FOLLOW_UP, HostGrants, Need, Slices, wire
from tokenworks.charging.errors import GrantStillOpen
from tokenworks.charging.host.account import PendingSliceRequest
from tokenworks.charging.ledger.model import GrantAnswer
from tokenworks.charging.messages import Amount, BucketTerms, Verdict
from tokenworks.charging.model import spending_order
from tokenworks.kernel import Unavailable

TOKENS = Weights(0, *[1000] * 8)
PROMPTS = Weights(1000, *[0] * 8)
WINDOW_S = 40.0
LEASE_S = 30.0
WAIT_S_MAX = 1.0  # as the ledger's: who waits longer is not waited for


def lookup(version, model):
    return "standard", PROMPTS if version == "prompt" else TOKENS


STEP = 30_000


def is_balance(bucket):
    return bucket == "plan" or bucket.startswith("step")


class Used(list):
    """What a record drew of each (bucket, grant), and the tokens that nothing on its host could pay."""

    unpaid = 0


class NaiveLedger:
    """What the tables would say, and nothing clever."""

    def __init__(self, loop, totals):
        self.loop = loop
        self.buckets = {
            bucket: SimpleNamespace(total=total, remaining=total, used=0, terms=BucketTerms(bucket, "acc", kind, unit, at, None, ("*",), unit, windows))
            for at, (bucket, kind, unit, total, windows) in enumerate(totals)
        }  # fmt: skip
        self.grants = {}
        self.settled = {}
        self.uses = []  # of windows: (when, bucket, amount)
        self.recalls = []
        self.drawn = {}  # in settlement, of what was unpaid: by bucket
        self.lost = 0
        self.numbers = iter(range(1, 10**9))

    def refill(self):
        """What was used of a window longer ago than it is long comes back."""
        for at, bucket, amount in [use for use in self.uses if use[0] <= self.loop.time() - WINDOW_S]:
            self.uses.remove((at, bucket, amount))
            self.buckets[bucket].total += amount
            self.buckets[bucket].remaining += amount

    def check(self):
        for name, bucket in self.buckets.items():
            granted = sum(g.amount for g in self.grants.values() if g.bucket == name and g.open)
            assert bucket.remaining >= 0, name
            assert bucket.total == bucket.remaining + granted + bucket.used, (name, bucket, granted)
        for grant in self.grants.values():
            assert 0 <= grant.used <= grant.amount, grant

    def settle(self, host, records):
        """Records above what is settled, once each, by sequence."""
        for seq, used in records:
            if seq <= self.settled.get(host, 0):
                continue
            assert seq == self.settled.get(host, 0) + 1, "records are settled in order"
            self.settled[host] = seq
            for part in used:
                grant_id, amount = part.grant_id, part.amount
                if not amount:
                    continue  # what costs nothing draws on no grant
                grant = self.grants[grant_id]
                assert grant.open, "a record of a closed grant"
                assert grant.host == host
                grant.used += amount
                assert grant.used <= grant.amount, "a grant was overdrawn"
                if grant.bucket == "window" and amount:
                    self.uses.append((self.loop.time(), grant.bucket, amount))
            self.draw(used.unpaid, [self.buckets["cap"] for part in used if part.bucket_id == "cap"])

    def draw(self, tokens, caps):
        """Of what nobody has leased, in spending order, as far as the caps have it; the rest is lost."""
        left = min([tokens, *(cap.remaining // 1000 for cap in caps)])
        self.lost += tokens - left
        balances = [bucket for name, bucket in self.buckets.items() if is_balance(name)]
        for bucket in sorted(balances, key=lambda b: spending_order(b.terms)):
            taken = min(left, bucket.remaining // 1000)
            for one in (bucket, *caps):
                one.remaining -= 1000 * taken
                one.used += 1000 * taken
            name = bucket.terms.bucket_id
            self.drawn[name] = self.drawn.get(name, 0) + 1000 * taken
            left -= taken
        self.lost += left

    def waiting(self):
        return [r for r in self.recalls if not r.ended and self.loop.time() - r.asked_s < WAIT_S_MAX]


class Port:
    """The ledger as one host reaches it: late, sometimes away, and sometimes it does what is asked and the answer is lost."""

    def __init__(self, world, host):
        self.world = world
        self.host = host
        self.ledger = world.ledger
        self._thread = asyncio.Lock()  # a host's calls come one after the other

    async def _call(self, act):
        async with self._thread:
            return await self._one(act)

    async def _one(self, act):
        world = self.world
        epoch = self.host.epoch
        await asyncio.sleep(world.rng.choice((0.0, 0.001, 0.004, 0.03)))
        if world.away or world.rng.random() < world.trouble / 2:
            raise Unavailable("away")
        if epoch != self.host.epoch:
            await asyncio.sleep(10**6)  # the process that asked is gone
        result = act()
        self.ledger.check()
        await asyncio.sleep(world.rng.choice((0.0, 0.001, 0.004, 0.03)))
        if epoch != self.host.epoch:
            await asyncio.sleep(10**6)
        if world.rng.random() < world.trouble / 2:
            raise Unavailable("the answer was lost")
        return result

    async def load_terms(self, account_id):
        def act():
            self.ledger.refill()
            return [(b.terms, b.remaining) for b in self.ledger.buckets.values()]

        return await self._call(act)

    async def granted_elsewhere(self, account_id):
        return await self._call(
            lambda: sum(
                g.amount - g.used for g in self.ledger.grants.values() if g.open and g.host != self.host.name
            )
        )

    async def open_grants_of(self, account_id):
        return await self._call(
            lambda: [
                (g.bucket, i, g.amount, g.used)
                for i, g in self.ledger.grants.items()
                if g.open and g.host == self.host.name
            ]
        )

    async def grant(self, account_id, bucket_id, grant_id, amount, spend_for_s):
        def act():
            bucket = self.ledger.buckets[bucket_id]
            added = min(bucket.remaining, amount)
            first = next((r.host for r in self.ledger.waiting()), None)
            behind = bool(added) and first is not None and first != self.host.name
            if behind:
                added = 0
            if grant_id is None and not added:
                return GrantAnswer("", 0, 0, 0.0, behind=True) if behind else None
            name = grant_id or f"g{next(self.ledger.numbers)}"
            if grant_id is None:
                self.ledger.grants[name] = SimpleNamespace(
                    host=self.host.name, bucket=bucket_id, amount=0, used=0, open=True
                )
            grant = self.ledger.grants[name]
            assert grant.open, "a closed grant is extended"
            assert grant.host == self.host.name
            bucket.remaining -= added
            grant.amount += added
            return GrantAnswer(name, added, bucket.remaining, spend_for_s, behind)

        return await self._call(act)

    async def return_grant(self, account_id, grant_id, amount):
        def act():
            grant = self.ledger.grants[grant_id]
            if not grant.open or grant.amount - amount < grant.used:
                return False
            grant.amount -= amount
            self.ledger.buckets[grant.bucket].remaining += amount
            return True

        return await self._call(act)

    async def close_grant(self, account_id, grant_id):
        if not await self._call(lambda: self.host.settle()):
            raise GrantStillOpen("not settled")

        def act():
            grant = self.ledger.grants[grant_id]
            if grant.open:
                grant.open = False
                bucket = self.ledger.buckets[grant.bucket]
                bucket.remaining += grant.amount - grant.used
                bucket.used += grant.used

        await self._call(act)

    async def top_up(self, account_id, model, need):
        """Steps of pay-as-you-go, up to the cap: what a lost answer bought is there all the same."""

        def act():
            ledger, world = self.ledger, self.world
            steps = [b for name, b in ledger.buckets.items() if name.startswith("step")]
            lacks = 1000 * (need.input_tokens + need.output_tokens) - sum(b.remaining for b in steps)
            more = max(0, -(-lacks // STEP))
            if len(steps) + more > world.steps_max:
                return lacks <= 0
            for number in range(len(steps) + 1, len(steps) + more + 1):
                name = f"step{number}"
                terms = BucketTerms(name, "acc", "balance", "token", 100 + number, None, ("*",), "token", ())
                ledger.buckets[name] = SimpleNamespace(total=STEP, remaining=STEP, used=0, terms=terms)
            return True

        return await self._call(act)

    async def window_back_s(self, account_id, bucket_ids):
        return await self._call(lambda: 1)  # how long is the ledger's to say, on real PostgreSQL

    async def request_recall(self, account_id):
        def act():
            recall = SimpleNamespace(
                number=next(self.ledger.numbers),
                host=self.host.name,
                asked_s=self.ledger.loop.time(),
                ended=False,
                answers=set(),
            )
            self.ledger.recalls.append(recall)
            for host in self.world.hosts:
                if host is not self.host:
                    self.ledger.loop.call_later(self.world.rng.choice((0.001, 0.02)), host.hear)
            return recall.number

        return await self._call(act)

    def _recall(self, number):
        return next(r for r in self.ledger.recalls if r.number == number)

    async def recall_answered(self, recall_id, account_id):
        def act():
            answers = self._recall(recall_id).answers
            return all(
                g.host in answers
                for g in self.ledger.grants.values()
                if g.open and g.host != self.host.name and g.amount > g.used
            )

        return await self._call(act)

    async def end_recall(self, recall_id):
        def act():
            self._recall(recall_id).ended = True

        await self._call(act)

    async def recalls(self):
        return await self._call(
            lambda: [
                (r.number, "acc") for r in self.ledger.waiting() if r.host != self.host.name and self.host.name not in r.answers
                and any(g.open and g.host == self.host.name for g in self.ledger.grants.values())
            ]
        )  # fmt: skip

    async def answer_recall(self, recall_id):
        await self._call(lambda: self._recall(recall_id).answers.add(self.host.name))


class Host:
    """One recorder: it may die and come back, its journal stays."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.journal = []
        self.pending = []  # written, not on disk yet: (worker, used)
        self.down = False
        self.epoch = 0
        self.workers = [Worker(self, f"{name}w{n}") for n in range(2)]
        self.grants = None
        self.start()

    def start(self):
        """A new recorder: grants from the ledger, use from the journal, slices from the workers that live."""
        world, ledger, epoch = self.world, self.world.ledger, self.epoch

        def send(worker_name, kind, content):
            return epoch == self.epoch and self._send(worker_name, kind, content)

        self.grants = HostGrants(
            Port(world, self), lookup, send, SimClock(world.loop, world.rng.random() * 100), spend_for_s=LEASE_S, idle_s=5.0,
            on_fatal=world.fatal,
        )  # fmt: skip
        unsettled = {}
        self.down = False
        for seq, used in self.journal:
            if seq > ledger.settled.get(self.name, 0):
                for part in used:
                    unsettled[part.grant_id] = unsettled.get(part.grant_id, 0) + part.amount
        for grant_id, grant in ledger.grants.items():
            if grant.open and grant.host == self.name:
                self.grants.adopt(
                    "acc", grant.bucket, grant_id, grant.amount, grant.used + unsettled.get(grant_id, 0)
                )
        for worker in self.workers:
            worker.meet(self)
        self.grants.start()

    def die(self):
        """kill -9 of the recorder: what was not on disk is gone, unless its worker still has it."""
        if not self.down:
            self._stop()
            self.start()

    def _stop(self):
        self.epoch += 1
        for task in list(self.grants._tasks):
            task.cancel()
        for worker, used in self.pending:
            if worker.dead:
                self.world.uncommit([used])
        self.pending.clear()

    async def vanish(self, seconds):
        """The machine is gone, all of it, and comes back with its journal, long after its leases ended perhaps."""
        if self.down:
            return
        self.down = True
        for worker in list(self.workers):
            self.replace(worker)
        self._stop()
        await asyncio.sleep(seconds)
        self.start()

    def settle(self):
        """Whether everything that was written is settled."""
        self.world.ledger.settle(self.name, self.journal)
        return not self.pending

    def hear(self):
        self.grants.answer_recalls()

    def record(self, worker, used):
        """Used as soon as it is written; acknowledged when the disk, which may be slow, says so."""
        self.grants.record_used(worker.name, "acc", used)
        self.pending.append((worker, used))
        epoch = self.epoch
        delay_s = self.world.rng.choice((0.0001, 0.001, 0.05))

        def committed():
            # Everything up to this one is on disk, in order.
            if epoch != self.epoch:
                return
            while self.pending:
                writer, written = self.pending.pop(0)
                self.journal.append((len(self.journal) + 1, written))
                if any(row is written for row in writer.unacked):
                    writer.unacked = [row for row in writer.unacked if row is not written]
                if written is used:
                    break

        self.world.loop.call_later(delay_s, committed)

    def _send(self, worker_name, kind, content):
        worker = next((w for w in self.workers if w.name == worker_name), None)
        if worker is None:
            return False
        worker.deliver(kind, content)
        return True

    def lose(self, worker):
        """kill -9 of a worker: what it held is free, what it had acknowledged stays used; another one comes."""
        if not self.down:
            self.grants.worker_lost(worker.name)
            self.replace(worker)

    def replace(self, worker):
        at = self.workers.index(worker)
        worker.dead = True
        self.workers[at] = Worker(self, f"{worker.name.split('.')[0]}.{next(self.world.ledger.numbers)}")
        # What the recorder has written goes on to the disk; what it never heard of is lost.
        written = [used for writer, used in self.pending if writer is worker]
        self.world.uncommit([used for used in worker.unacked if not any(used is row for row in written)])


class Worker:
    """Slices, holds, and the client: records first, then what is given back or asked for; in order, and late."""

    def __init__(self, host, name):
        self.host = host
        self.name = name
        self.slices = Slices(lookup)
        self.pending = {}
        self.prefetches = {}
        self.unacked = []
        self.dead = False
        self.epoch = host.epoch
        self.queue_s = {"out": 0.0, "in": 0.0}

    def meet(self, host):
        """A new recorder: tell it what is outstanding, then send again what was not acknowledged."""
        self.epoch = host.epoch
        outstanding = {}
        for account, bucket, grant_id, amount in self.slices.outstanding():
            outstanding[bucket, grant_id] = amount
        for used in self.unacked:
            for part in used:
                key = part.bucket_id, part.grant_id
                outstanding[key] = outstanding.get(key, 0) + part.amount
        for (bucket, grant_id), amount in outstanding.items():
            assert host.grants.adopt_slice(self.name, "acc", bucket, grant_id, amount), (
                "a slice that nobody gave"
            )
        for used in self.unacked:
            host.record(self, used)
        for number in list(self.pending):
            self._request_slices(number)
        for account in self.prefetches.values():
            account.prefetching = False
        self.prefetches.clear()

    def _post(self, way, act):
        """In order on its connection, and lost with it."""
        loop, epoch = self.host.world.loop, self.epoch
        at = max(self.queue_s[way] + 1e-6, loop.time() + self.host.world.rng.choice((0.0, 0.0001, 0.002)))
        self.queue_s[way] = at

        def arrive():
            if not self.dead and epoch == self.host.epoch:
                act()

        loop.call_at(at, arrive)

    def deliver(self, kind, content):
        self._post("in", lambda: self._received(kind, content))

    def _received(self, kind, content):
        if kind == wire.SLICE_GRANT:
            for grant in content:
                self.slices.receive(
                    grant.account_id, grant.grant_id, grant.terms, grant.amount, grant.spend_until_boot_ns
                )
        elif kind == wire.RECALL:
            number, account = content.number, content.account_id
            given = self.slices.recall(account, content.bucket_ids, content.closing)
            self._post("out", lambda: self.host.grants.take_back(self.name, number, account, given))
        elif kind == wire.SLICE_ANSWER:
            for answer in content:
                number = answer.number
                verdict, _ = wire.verdict_of(answer.code)
                filled = self.prefetches.pop(number, None)
                if filled is not None:
                    filled.prefetching = False
                asked = self.pending.pop(number, None)
                if asked is not None:
                    asked.set_result(verdict)

    async def request(self, need, caps, use, model="m"):
        """One request: hold, work, commit. Returns what it was charged, or None where it was refused."""
        world = self.host.world
        clock = self.host.grants._clock
        for _ in range(20):
            account = self.slices.account("acc")
            hold = self.slices.hold(account, caps, model, need, clock.boot_ns())
            if hold is not None:
                if account.low and not account.prefetching:
                    account.low, account.prefetching = False, True
                    self._prefetch(account, need, caps)
                break
            number = next(world.ledger.numbers)
            self.pending[number] = asyncio.get_running_loop().create_future()
            self.pending[number].slice_request = (need, caps, model)
            future = self.pending[number]
            self._request_slices(number)
            try:
                verdict = await asyncio.wait_for(future, 20)
            except TimeoutError:
                self.pending.pop(number, None)
                return None
            if self.dead:
                return None
            if verdict in {Verdict.NOTHING_LEFT, Verdict.WINDOW_USED_UP}:
                world.refused(need)
            if verdict != Verdict.ENOUGH:
                return None
        else:
            return None
        await asyncio.sleep(world.rng.choice((0.0, 0.01, 0.3, 2.0)))
        if self.dead:
            return None
        counts = Counts(fresh_input=min(use[0], need.input_tokens), output=min(use[1], need.output_tokens))
        beyond = world.rng.choice((0, 0, 0, 0, 0, 7, 300))  # reported, and not held
        counts = counts._replace(cache_write_1h=beyond)
        parts, unpaid = self.slices.commit(hold, counts, clock.boot_ns)
        assert beyond or unpaid is None, "what was held covers what was used"
        used = Used(Amount(part.bucket_id, part.grant_id, part.amount) for part in parts)
        used.unpaid = sum(unpaid[1]) if unpaid else 0
        world.committed += sum(part[5] for part in parts if part[4] == "balance")
        self.unacked.append(used)

        def arrive():
            self.host.record(self, used)

        self._post("out", arrive)
        self._released(account)
        return counts

    def _request_slices(self, number):
        need, caps, model = self.pending[number].slice_request
        account = self.slices.account("acc")
        free = {s.terms.bucket_id: s.free for s in account.all() if not s.closing and s.free}
        self._post(
            "out",
            lambda: self.host.grants.request(
                "acc", PendingSliceRequest(self.name, number, caps, model, need, free)
            ),
        )

    def _prefetch(self, account, need, caps):
        """Request more ahead, which no request waits for."""
        number = next(self.host.world.ledger.numbers)
        self.prefetches[number] = account
        free = {s.terms.bucket_id: s.free for s in account.all() if not s.closing and s.free}
        ahead = Need(0, 64 * need.input_tokens, 64 * need.output_tokens)
        self._post(
            "out",
            lambda: self.host.grants.request(
                "acc", PendingSliceRequest(self.name, number, caps, "m", ahead, free, prefetch=True)
            ),
        )

    def _released(self, account):
        given = self.slices.take_closing(account)
        if given:
            self._post("out", lambda: self.host.grants.take_back(self.name, 0, "acc", given))


class World:
    def __init__(self, seed):
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = SimLoop()
        self.away = False
        self.trouble = self.rng.choice((0.0, 0.02, 0.1))
        self.total = self.rng.choice((40, 400, 4000)) * 1000
        self.cap = self.rng.choice((None, self.total // 3))
        # Every fourth works sells prompts, with a window beside.
        self.unit = "token" if seed % 4 else "prompt"
        self.window = None if seed % 4 else self.rng.choice((3, 10)) * 1000
        totals = [("plan", "balance", self.unit, self.total, () if self.window is None else ("window",))]
        if self.window is not None:
            totals.append(("window", "window", "prompt", self.window, ()))
        if self.cap is not None:
            totals.append(("cap", "cap", "token", self.cap, ()))
        self.ledger = NaiveLedger(self.loop, totals)
        # Every third sells steps beside, too.
        self.steps_max = self.rng.choice((1, 3, 10)) if seed % 3 == 0 and self.unit == "token" else 0
        self.committed = 0
        self.failure = None
        self.served = self.denied = 0
        self.hosts = []

    def fatal(self, error):
        self.failure = self.failure or error

    def uncommit(self, lost):
        """Records that nobody saw finished are gone with their process."""
        self.committed -= sum(part.amount for used in lost for part in used if is_balance(part.bucket_id))

    def refused(self, need):
        """Nothing left was said. It may be said only where what nobody holds or waits for does not cover it."""
        self.denied += 1

    async def _user(self, caps):
        rng = self.rng
        for _ in range(rng.randrange(3, 12)):
            await asyncio.sleep(rng.choice((0.0, 0.05, 1.0)))
            host = rng.choice(self.hosts)
            worker = rng.choice(host.workers)
            need = Need(1, rng.randrange(1, 10), rng.randrange(1, 30))
            use = (rng.randrange(0, 10), rng.randrange(0, 30))
            model = FOLLOW_UP + "m" if self.window is not None and rng.random() < 0.3 else "m"
            if not host.down and await worker.request(need, caps, use, model) is not None:
                self.served += 1

    async def _chaos(self):
        rng = self.rng
        for _ in range(rng.randrange(0, 12)):
            await asyncio.sleep(rng.random() * 3)
            event = rng.randrange(6)
            host = rng.choice(self.hosts)
            if event == 0:
                host.die()
            elif event == 1:
                host.lose(rng.choice(host.workers))
            elif event == 2:
                self.away = True
                await asyncio.sleep(rng.choice((0.1, 3.0, 2 * LEASE_S)))
                self.away = False
            elif event == 3 and not host.down:
                host.hear()
            elif event == 4:
                await host.vanish(rng.choice((0.5, 5.0, 2 * LEASE_S)))

    async def _housekeeping(self):
        while True:
            await asyncio.sleep(1.0)
            for host in self.hosts:
                epoch = host.epoch
                if host.down:
                    continue
                if not self.away and self.rng.random() < 0.8:
                    host.settle()
                await host.grants.tend()
                host.grants.answer_recalls()
                if epoch == host.epoch:
                    for account in host.grants.accounts.values():
                        for bucket in account.buckets.values():
                            bucket.check()
            self.ledger.check()

    async def _run(self):
        self.hosts = [Host(self, f"h{n}") for n in range(self.rng.choice((1, 2, 3)))]
        keeping = asyncio.ensure_future(self._housekeeping())
        users = [
            self._user(("cap",) if self.cap is not None and n % 2 else ())
            for n in range(self.rng.randrange(1, 12))
        ]
        await asyncio.wait_for(asyncio.gather(self._chaos(), *users), 3600)
        keeping.cancel()
        # Calm: everything is given back, settled and closed.
        self.trouble, self.away = 0.0, False
        for host in self.hosts:
            host.grants._leases.draining = False
            for _ in range(200):
                host.settle()
                await asyncio.sleep(0.5)
                if await host.grants.drain():
                    break
            else:
                raise AssertionError(
                    f"{host.name} does not close its grants: {host.grants.accounts['acc'].buckets}"
                )
            host.settle()

    def run(self):
        """Raises where an invariant breaks; the seed reproduces it."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.close()
        if self.failure is not None:
            raise self.failure
        self.ledger.check()
        if self.window is not None:
            # Never more within its length than it has; and nothing of it is lost.
            window = self.ledger.buckets["window"]
            assert window.remaining + sum(amount for _, _, amount in self.ledger.uses) == self.window
        plan = self.ledger.buckets["plan"]
        journaled = sum(
            part.amount
            for host in self.hosts
            for _, used in host.journal
            for part in used
            if part.bucket_id == "plan"
        )
        drawn = self.ledger.drawn
        unpaid = sum(used.unpaid for host in self.hosts for _, used in host.journal)
        assert 1000 * (unpaid - self.ledger.lost) == sum(drawn.values()), "paid or lost, once"
        assert plan.used == journaled + drawn.get("plan", 0), (plan.used, journaled, drawn)
        assert plan.remaining == plan.total - plan.used
        steps = {name: bucket for name, bucket in self.ledger.buckets.items() if name.startswith("step")}
        assert len(steps) <= self.steps_max
        for name, bucket in steps.items():
            used = [
                part.amount
                for host in self.hosts
                for _, used in host.journal
                for part in used
                if part.bucket_id == name
            ]
            assert bucket.used == sum(used) + drawn.get(name, 0) <= STEP, name
            assert bucket.remaining == STEP - bucket.used, name
        spent = plan.used + sum(bucket.used for bucket in steps.values())
        assert spent == self.committed + sum(drawn.values()), (spent, self.committed, drawn)
