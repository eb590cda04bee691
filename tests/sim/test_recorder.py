"""The real recorder on a real journal under a seed: it dies between and within commits, workers die and resend, the database
settles what it likes. What a worker was told is on disk is settled, once; nothing is settled twice, whatever died.
"""

import asyncio
import fcntl
import json
import os
import random
from types import SimpleNamespace

import pytest

from tests.sim.loop import SimLoop
from tests.sim.test_sim import ONE, SEEDS
from tests.support.builds import on_sources
from tokenworks.charging import Journal, Recorder, WorkerConnection, wire
from tokenworks.charging.host import recorder

IDS = ("01a207a0000070008000000000000001", "01a207a0000070008000000000000002")
HELD = [["b" * 32, "c" * 32, "r", "token", "balance", 10**9, [0, *[1000] * 7]]]


class Transport:
    def __init__(self, received):
        self.received = received
        self.closed = False

    def write(self, data):
        if not self.closed:
            self.received(bytes(data))

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True


class Worker:
    """Says what begins, goes on and ends; keeps what is not acknowledged and sends it again."""

    def __init__(self, world):
        self.world = world
        self.id = f"{world.rng.getrandbits(128):032x}"
        self.number = 0
        self.unacked = []  # [number, body, usage ids that it ends]
        self.open = {}  # usage id -> progress
        self.ready = False
        self.connection = None
        self.lock = os.open(world.workers_dir / f"{self.id}.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def connect(self):
        self.reader = wire.FrameReader()
        self.ready = False
        self.connection = WorkerConnection(self.world.recorder)
        self.connection.connection_made(Transport(self.received))
        self.connection.data_received(wire.frame(wire.HELLO, wire.encode([self.id, 1])))

    def received(self, data):
        for kind, body in self.reader.feed(data):
            content = wire.decode(body)
            if kind == wire.WELCOME:
                self.acknowledged(content[0])
                self.ready = True
                self.connection.data_received(wire.frame(wire.STATE, wire.encode([])))
                for _, frame, _ in list(self.unacked):
                    self.connection.data_received(frame)
            elif kind == wire.ACK:
                self.acknowledged(content[0])
            elif kind == wire.FENCE:
                raise AssertionError("a living worker was fenced")

    def acknowledged(self, number):
        while self.unacked and self.unacked[0][0] <= number:
            self.world.seen.update(self.unacked.pop(0)[2])

    def speak(self):
        rng, ops, ended = self.world.rng, [], {}
        for _ in range(rng.randrange(1, 4)):
            kind = rng.randrange(4)
            if kind == 0 or not self.open:
                usage = f"{next(self.world.numbers):032x}"
                self.open[usage] = 0
                ops.append([wire.START, usage, "a" * 32, usage, 1, *IDS, "chat", "m", "d", 1000, HELD])
                continue
            usage = rng.choice(sorted(self.open))
            if kind == 1:
                self.open[usage] += rng.randrange(1, 9)
                self.world.progress[usage] = self.open[usage]
                ops.append([wire.PROGRESS, usage, [0, 0, 0, 0, self.open[usage], 0, 0], 5, 2000, HELD])
            elif kind == 2:
                del self.open[usage]
                record = json.dumps({"usage_id": usage, "state": "complete"}).encode()
                ops.append([wire.FINISH, usage, "a" * 32, [], record])
                ended[usage] = "complete"
            else:
                del self.open[usage]
                ops.append([wire.DROP, usage])
                self.world.dropped.add(usage)
        self.number += 1
        frame = wire.frame(wire.JOURNAL, wire.encode([self.number, ops]))
        self.unacked.append([self.number, frame, ended])
        if self.ready:
            self.connection.data_received(frame)

    def die(self):
        os.close(self.lock)  # as the kernel does
        self.world.workers.remove(self)
        if self.connection is not None and self.world.recorder is not None:
            self.connection.connection_lost(None)


class World:
    def __init__(self, seed, folder):
        self.rng = random.Random(seed)
        self.numbers = iter(range(1, 10**9))
        self.folder = folder
        self.workers_dir = folder / "workers"
        self.workers_dir.mkdir()
        self.recorder = None
        self.seen = {}  # usage id -> state: what some worker was told is on disk
        self.progress = {}
        self.dropped = set()
        self.settled = {}  # the database: usage id -> record
        self.settled_seq = 0
        self.queue = []
        self.workers = []

    def fatal(self, error):
        raise error

    def start(self):
        self.journal = Journal(self.folder / "journal", 64 * 1024, zeroes_ahead=False)
        made = Recorder(self.journal, self.workers_dir, None, on_fatal=self.fatal)
        grants = SimpleNamespace(
            open=False, record_used=lambda *_: None, worker_lost=lambda _: None, adopt_slice=lambda *_: True
        )
        grants.start = lambda: setattr(grants, "open", True)
        made.grants = grants
        made.limits = made.queues = SimpleNamespace(start=lambda: None, worker_lost=lambda _: None)
        made.settler = SimpleNamespace(
            put=self.queue.extend, advance=lambda seq: setattr(self, "written", seq)
        )
        self.queue[:] = made.recover(self.settled_seq)
        self.written = self.journal.next_seq - 1
        self.recorder = made
        self.check()
        made.begin()
        for worker in self.workers:
            worker.connect()

    def crash(self):
        """kill -9, perhaps in the middle of a write: a part of it may be on disk."""
        pending = b"".join(self.journal._pending)
        if pending and self.rng.random() < 0.7:
            os.pwrite(self.journal._file, pending[: self.rng.randrange(len(pending) + 1)], self.journal._at)
        # A commit that it had scheduled comes to nothing.
        self.journal._pending.clear()
        self.recorder._uncommitted, self.recorder._records = [], []
        self.recorder.settler = SimpleNamespace(put=lambda _: None, advance=lambda _: None)
        self.journal.close()
        self.recorder = None
        self.queue.clear()
        for worker in self.workers:
            worker.connection.transport.closed = True
            worker.ready = False

    def settle(self):
        """Some of what is on disk, in order, whole sequences."""
        if self.queue:
            up_to = self.rng.choice(self.queue)[0]
            for seq, _, _, record in [row for row in self.queue if row[0] <= up_to]:
                assert seq > self.settled_seq
                self.put(record)
            self.queue[:] = [row for row in self.queue if row[0] > up_to]
            self.settled_seq = up_to

    def put(self, text):
        record = json.loads(text)
        assert record["usage_id"] not in self.settled, "settled twice"
        self.settled[record["usage_id"]] = record

    def check(self):
        """What was seen is settled or waits for it, once; what is interrupted was not seen finished."""
        waiting = [json.loads(row[3]) for row in self.queue]
        names = [record["usage_id"] for record in waiting]
        assert len(names) == len(set(names)), "twice in the journal"
        assert not set(names) & set(self.settled), "would be settled twice"
        records = self.settled | {record["usage_id"]: record for record in waiting}
        for usage, state in self.seen.items():
            assert usage in records, "finished and lost"
            assert records[usage]["state"] == state
        for usage, record in records.items():
            if record["state"] == "interrupted":
                assert 0 < record["c"][4] <= self.progress[usage]

    async def run(self):
        rng = self.rng
        self.start()
        for _ in range(rng.randrange(40, 160)):
            event = rng.random()
            if len(self.workers) < 2:
                self.workers.append(Worker(self))
                self.workers[-1].connect()
            elif event < 0.6:
                rng.choice(self.workers).speak()
            elif event < 0.8:
                for _ in range(rng.randrange(1, 6)):
                    await asyncio.sleep(0)
            elif event < 0.88:
                self.settle()
            elif event < 0.93:
                rng.choice(self.workers).die()
            else:
                self.crash()
                if rng.random() < 0.3:
                    rng.choice(self.workers).die()
                self.start()
        for worker in list(self.workers):
            worker.die()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not self.recorder.attempts, "an open attempt of a dead worker"
        self.check()
        assert self.written == self.journal.next_seq - 1
        self.journal.close()


@on_sources
@pytest.mark.parametrize("seed", [int(ONE)] if ONE else range(SEEDS))
def test_seed(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "COMMIT_PACE_S", 0.0)
    loop = SimLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(World(seed, tmp_path).run())
    finally:
        loop.close()
