"""Writes a journal as the release does whose code is on the path: `python old_journal.py ARCHIVE` packs it.

It is run with the code of older releases, too, so it imports nothing of the tests. Every id and time is fixed: releases that write the
same layout write the same bytes. Two workers and three recorders: one worker dies, each recorder but the first begins with what the one
before left open, and the last commit is cut off half-way. What settles is in `tests/charging/test_old_journal.py`.
"""

import asyncio
import fcntl
import gzip
import os
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

from tokenworks.catalog import Counts
from tokenworks.charging import Journal, Loss, Part, Recorder, UsageRecord, WorkerConnection, wire
from tokenworks.charging.model import encode_record

SEGMENT_BYTES = 64 * 1024
JOURNAL_ID = "01a207a3-0000-7000-8000-000000000001"
WORKERS = ("01a207a4000070008000000000000001", "01a207a4000070008000000000000002")
# The test puts those of its own ledger in their place, which are as long.
ACCOUNTS = ("01a207a2000070008000000000000001", "01a207a2000070008000000000000002")
TOKENS, CAP, FIRST, SECOND = BUCKETS = tuple(f"01a207a5000070008000{number:012x}" for number in range(4))
GRANTS = {bucket: f"01a207a6000070008000{number:012x}" for number, bucket in enumerate(BUCKETS)}
RATE = "rate-" + "0123456789abcdef" * 2
KEY, MEMBER = "01a207a0000070008000000000000001", "01a207a0000070008000000000000002"
STARTED_MS = 1_790_000_000_000
# One price for all tokens, none for a request; before releases counted the hour's cache writes there were eight of them.
WEIGHTS = [0, *[1000] * 8]
BULK = 150


def usage_id(number):
    return f"01a207a1000070008000{number:012x}"


def held(bucket, amount):
    kind, rate = ("cap", "cap") if bucket == CAP else ("balance", RATE)
    return [bucket, GRANTS[bucket], rate, "token", kind, amount, WEIGHTS]


def start(number, account, *hold):
    usage = usage_id(number)
    return [
        wire.START,
        usage,
        account,
        usage,
        1,
        KEY,
        MEMBER,
        "chat",
        "m",
        "d",
        STARTED_MS + number,
        list(hold),
    ]


def progress(number, counts, *hold):
    return [wire.PROGRESS, usage_id(number), counts, 40, STARTED_MS + number + 900, list(hold)]


def drop(number):
    return [wire.DROP, usage_id(number)]


def part(bucket, amount, requests=1, counts=None):
    kind, rate = ("cap", "cap") if bucket == CAP else ("balance", RATE)
    return Part(bucket, GRANTS[bucket], rate, "token", kind, amount, 0 if kind == "cap" else requests, counts)


def finish(number, account, counts, parts, *, state="complete", reason="completed", loss=(), risk=0, **more):
    usage, ended_ms = usage_id(number), STARTED_MS + number + 1500
    record = UsageRecord(
        account_id=account, usage_id=usage, request_id=usage, attempt_no=1, key_id=KEY, member_id=MEMBER, protocol="chat", model="m",
        deployment="d", state=state, reason=reason, counted_by="provider", started_ms=STARTED_MS + number, ended_ms=ended_ms,
        first_byte_ms=40, latency_ms=1500, c=counts, provider_total=sum(counts), parts=parts, loss=list(loss), flags=[],
        upstream_id=f"up-{number}", risk_tokens=risk, **more,
    )  # fmt: skip
    used = [[one.bucket_id, one.grant_id, one.amount] for one in parts]
    at_risk = [ended_ms, risk] if risk else []
    return [wire.FINISH, usage, account, used, encode_record(record), *at_risk]


class Transport:
    def __init__(self):
        self.closed = False

    def write(self, data):
        """What the recorder says is not looked at: what it writes is."""

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True


class Worker:
    def __init__(self, worker_id, folder):
        self.id = worker_id
        self.number = 0
        self.lock = os.open(folder / f"{worker_id}.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def connect(self, recorder):
        self.connection = WorkerConnection(recorder)
        self.connection.connection_made(Transport())
        for kind, content in ((wire.HELLO, [self.id, 1]), (wire.STATE, [])):
            self.connection.data_received(wire.frame(kind, wire.encode(content)))

    def say(self, *ops):
        self.number += 1
        self.last = wire.frame(wire.JOURNAL, wire.encode([self.number, list(ops)]))
        self.connection.data_received(self.last)

    def say_again(self):
        """The acknowledgement was lost with the recorder."""
        self.connection.data_received(self.last)

    def die(self):
        os.close(self.lock)
        self.connection.connection_lost(None)


def make_recorder(folder, workers_dir):
    made = Recorder(Journal(folder, SEGMENT_BYTES), workers_dir, None, on_fatal=sys.exit)
    made.grants = SimpleNamespace(
        open=False, record_used=lambda *_: None, worker_lost=lambda _: None, adopt_slice=lambda *_: True, start=lambda: None
    )  # fmt: skip
    made.limits = made.queues = SimpleNamespace(start=lambda: None, worker_lost=lambda _: None)
    made.settler = SimpleNamespace(put=lambda _: None, advance=lambda _: None)
    return made


async def recording(folder, workers_dir, workers, act):
    """One recorder's life: all of what is said is on disk before it ends."""
    recorder = make_recorder(folder, workers_dir)
    recorder.recover(0)
    recorder.begin()
    for worker in workers:
        worker.connect(recorder)
    act()
    while recorder._commit_scheduled:
        await asyncio.sleep(0.005)
    for worker in workers:
        worker.connection.transport = None
    recorder.handed_over = True
    recorder.journal.close()


def first_life(a, b):
    one, two = ACCOUNTS
    a.say(start(1, one, held(TOKENS, 50_000), held(CAP, 50_000)), start(2, two, held(FIRST, 10_000)))
    b.say(
        start(3, one, held(TOKENS, 20_000)),
        start(4, two, held(FIRST, 9_000)),
        start(5, two, held(FIRST, 4_000)),
    )
    counts = Counts(fresh_input=3, output=4)
    a.say(
        progress(1, counts, held(TOKENS, 50_000), held(CAP, 50_000)),
        finish(1, one, counts, [part(TOKENS, 7_000, 1, counts), part(CAP, 7_000, 0, counts)]),
    )
    for number in range(1000, 1000 + BULK):
        one_each = Counts(fresh_input=1, output=1)
        a.say(start(number, one, held(TOKENS, 5_000)), finish(number, one, one_each, [part(TOKENS, 2_000)]))
    b.say(start(6, one, held(TOKENS, 1_000)), drop(6))
    b.say(
        progress(3, Counts(fresh_input=5, output=6), held(TOKENS, 20_000)),
        # Its hold grew by another bucket, and still does not cover what it made.
        progress(5, Counts(fresh_input=2, output=9), held(FIRST, 4_000), held(SECOND, 5_000)),
    )
    b.die()


def second_life(a):
    two = ACCOUNTS[1]
    a.say_again()
    lost = Counts(fresh_input=2, output=5)
    a.say(
        finish(2, two, lost, [], state="interrupted", reason="client_gone", loss=[Loss("client_gone", 1, lost)], risk=7),
        start(7, two, held(SECOND, 30_000)),
        progress(7, Counts(output=1), held(SECOND, 30_000)),
    )  # fmt: skip
    charged, unpaid = Counts(fresh_input=4), Counts(output=6)
    counts = Counts(fresh_input=4, output=6)
    a.say(
        finish(8, two, counts, [part(FIRST, 4_000, 1, charged)], unpaid=(0, unpaid), client_request_id="call-8",
               tried=[("other", "upstream_error")], asked="fast", choice="cheapest", prompt=False)
    )  # fmt: skip


def third_life(a):
    one, two = ACCOUNTS
    a.say_again()
    a.say(progress(7, Counts(fresh_input=3, output=8), held(SECOND, 30_000)))
    a.say(start(9, one, held(TOKENS, 6_000), held(CAP, 6_000)), start(10, two, held(FIRST, 1_000)))
    a.say(progress(9, Counts(output=2), held(TOKENS, 6_000), held(CAP, 6_000)))


def cut(folder, worker):
    """A record whose commit was cut off half-way: nobody was told that it is on disk."""
    counts = Counts(output=2)
    newest = max(folder.glob("*.seg"))
    with newest.open("r+b") as out:
        end = len(newest.read_bytes().rstrip(b"\0"))
        out.seek(end)
        body = wire.encode([worker.number + 1, [finish(9, ACCOUNTS[0], counts, [part(TOKENS, 2_000)])]])
        out.write(
            (len(body) + 17).to_bytes(4, "little")
            + b"\x01" * 12
            + b"W"
            + bytes.fromhex(worker.id)
            + body[: len(body) // 2]
        )


async def write(folder):
    """A journal in `folder`."""
    workers_dir = folder.with_name(f"{folder.name}-workers")
    workers_dir.mkdir(parents=True)
    folder.mkdir(parents=True)
    (folder / "id").write_text(f"{JOURNAL_ID}\n")
    a, b = (Worker(worker_id, workers_dir) for worker_id in WORKERS)
    await recording(folder, workers_dir, [a, b], lambda: first_life(a, b))
    await recording(folder, workers_dir, [a], lambda: second_life(a))
    await recording(folder, workers_dir, [a], lambda: third_life(a))
    cut(folder, a)
    os.close(a.lock)


def pack(folder, archive):
    """Its id and its segments, without the zeros at their ends."""
    with gzip.GzipFile(archive, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as out:
        for path in [folder / "id", *sorted(folder.glob("*.seg"))]:
            entry, content = tarfile.TarInfo(path.name), path.read_bytes().rstrip(b"\0")
            entry.size = len(content)
            out.addfile(entry, BytesIO(content))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(write(Path(made) / "journal"))
        pack(Path(made) / "journal", sys.argv[1])
