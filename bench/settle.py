"""CPU and time of settling a record, against another checkout, in pairs: each tree settles the same batch in turns, each into a
database of its own. Both processes and their PostgreSQL count.

Run: python -m bench.settle OTHER_CHECKOUT [ROUNDS]
"""

import contextlib
import gc
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH = 2000
PER_ACCOUNT = (20, 1)
WARM_ROUNDS = 2


class Settling:
    """A database with accounts that each have one bucket and one open grant, and batches of records to settle there."""

    def __init__(self, stack, per):
        from tokenworks.app.database.connections import connect, ensure_usage_months
        from tokenworks.app.database.embedded import Embedded
        from tokenworks.app.database.schema import migrate
        from tokenworks.charging.ledger import settle_store
        from tokenworks.kernel import uuid7

        embedded = Embedded(Path(stack.enter_context(tempfile.TemporaryDirectory()), "database"))
        stack.callback(embedded.destroy)
        url = stack.enter_context(embedded.use())
        # As the owner, whom a tree to compare with may not tell from the role that serves.
        url = getattr(embedded, "owner_url", url)
        self.connection = connection = stack.enter_context(contextlib.closing(connect(url)))
        migrate(url)
        ensure_usage_months(connection)
        self._store, self.journal_id, self.seq = settle_store, uuid7(), 0
        connection.execute("INSERT INTO journal (journal_id, host) VALUES (%s, 'bench')", (self.journal_id,))
        self._accounts = accounts = [(uuid7(), uuid7(), uuid7()) for _ in range(BATCH // per)]
        with connection.cursor() as cursor:
            cursor.executemany(
                """INSERT INTO bucket (account_id, bucket_id, kind, unit, total, remaining, granted, priority, valid_from,
                       model_classes, rate_version)
                   VALUES (%s, %s, 'balance', 'token', 1000000000, 0, 1000000000, 1, now(), '{*}', 'r')""",
                [(account, bucket) for account, bucket, _ in accounts],
            )
            cursor.executemany(
                """INSERT INTO grants (account_id, grant_id, bucket_id, journal_id, amount, spend_until)
                   VALUES (%s, %s, %s, %s, 1000000000, now() + interval '1 day')""",
                [(account, grant, bucket, self.journal_id) for account, bucket, grant in accounts],
            )
        self._more = {"heads": {}} if "heads" in inspect.signature(settle_store.settle).parameters else {}
        # As the recorder has it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    def batch(self):
        """[(sequence number, account, what was used, record as JSON)] of the next records."""
        from tokenworks.catalog import Counts
        from tokenworks.charging.messages import Part, UsageRecord
        from tokenworks.charging.model import encode_record
        from tokenworks.kernel import uuid7

        made, now_ms = [], time.time_ns() // 1_000_000
        for at in range(BATCH):
            self.seq += 1
            account, bucket, grant = self._accounts[at % len(self._accounts)]
            record = UsageRecord(
                account.hex, uuid7().hex, f"req_{uuid7().hex}", 1, bucket.hex, bucket.hex, "chat", "best-1", "stub", "complete",
                "completed", "provider", now_ms - 500, now_ms, 100, 500, Counts(fresh_input=30, output=50), 80,
                [Part(bucket.hex, grant.hex, "r", "token", "balance", 80_000, 1, None)], [], [], None,
            )  # fmt: skip
            made.append((self.seq, account.hex, [(bucket.hex, grant.hex, 80_000)], encode_record(record)))
        return made

    def settle(self, batch):
        last = batch[-1][0]
        self._store.settle(self.connection, self.journal_id, last, batch, lambda *_: None, **self._more)


def child(per):
    """Settle one batch for each line of stdin, and say what it cost: [seconds, our CPU, PostgreSQL's CPU]."""
    with contextlib.ExitStack() as stack:
        settling = Settling(stack, per)
        # Nanoseconds that a process ran: its times are counted in ticks of ten milliseconds.
        postgres = Path(f"/proc/{settling.connection.info.backend_pid}/schedstat")
        for _ in sys.stdin:
            batch = settling.batch()
            began, ours, theirs = (
                time.perf_counter(),
                time.process_time(),
                int(postgres.read_text().split()[0]),
            )
            settling.settle(batch)
            cost = [
                time.perf_counter() - began,
                time.process_time() - ours,
                (int(postgres.read_text().split()[0]) - theirs) / 1e9,
            ]
            print(json.dumps(cost), flush=True)


def against_copy(per, batches):
    """(records, rows, busy s of settling them, busy s of a bare COPY of the same rows): ours and PostgreSQL's CPU."""
    from bench.copying import copied_in
    from bench.verify import ROWS, Timed

    with contextlib.ExitStack() as stack:
        settling = Settling(stack, per)
        made = [settling.batch() for _ in range(batches)]
        with Timed(settling.connection) as timed:
            for batch in made:
                settling.settle(batch)
        rows, bare = copied_in(settling.connection, ROWS)
    return batches * BATCH, rows, timed.busy, bare.busy


def compare(other, rounds):
    for per in PER_ACCOUNT:
        children = []
        for tree in (other, ROOT):
            # The other tree's code, this file.
            env = os.environ | {"PYTHONPATH": f"{tree}/src:{ROOT}"}
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.settle", "--child", str(per)],
                    env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        costs = [[], []]
        for at in range(rounds + WARM_ROUNDS):
            for which in (0, 1) if at % 2 else (1, 0):
                children[which].stdin.write("\n")
                children[which].stdin.flush()
                cost = json.loads(children[which].stdout.readline())
                if at >= WARM_ROUNDS:
                    costs[which].append(cost)
        for one in children:
            one.stdin.close()
            one.wait()
        before, after = (
            [statistics.median(c[i] for c in one) / BATCH * 1e6 for i in range(3)] for one in costs
        )
        cpu = sum(c[1] + c[2] for c in costs[1]) / sum(c[1] + c[2] for c in costs[0])
        wall = statistics.median(b[0] / a[0] for a, b in zip(*costs, strict=True))
        print(
            f"{per} records an account: µs a record (time, our CPU, PostgreSQL's) {[round(c) for c in before]} before, "
            f"{[round(c) for c in after]} now; time × {wall:.2f}, CPU × {cpu:.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(int(sys.argv[2]))
    else:
        compare(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 12)
