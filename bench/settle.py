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


def child(per):
    """Settle one batch for each line of stdin, and say what it cost: [seconds, our CPU, PostgreSQL's CPU]."""
    from tokenworks.app.database.connections import connect, ensure_usage_months
    from tokenworks.app.database.embedded import Embedded
    from tokenworks.app.database.schema import migrate
    from tokenworks.catalog import Counts
    from tokenworks.charging.ledger import settle_store
    from tokenworks.charging.messages import Part, UsageRecord
    from tokenworks.charging.model import encode_record
    from tokenworks.kernel import uuid7

    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Path(folder, "database"))
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(embedded.use())
            # As the owner, whom a tree to compare with may not tell from the role that serves.
            url = getattr(embedded, "owner_url", url)
            connection = stack.enter_context(contextlib.closing(connect(url)))
            migrate(url)
            ensure_usage_months(connection)
            journal_id = uuid7()
            connection.execute("INSERT INTO journal (journal_id, host) VALUES (%s, 'bench')", (journal_id,))
            accounts = [(uuid7(), uuid7(), uuid7()) for _ in range(BATCH // per)]
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
                    [(account, grant, bucket, journal_id) for account, bucket, grant in accounts],
                )
            more = {"heads": {}} if "heads" in inspect.signature(settle_store.settle).parameters else {}
            # Nanoseconds that a process ran: its times are counted in ticks of ten milliseconds.
            postgres = Path(f"/proc/{connection.info.backend_pid}/schedstat")
            # As the recorder has it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            seq = 0
            for _ in sys.stdin:
                batch = []
                now_ms = time.time_ns() // 1_000_000
                for at in range(BATCH):
                    seq += 1
                    account, bucket, grant = accounts[at % len(accounts)]
                    record = UsageRecord(
                        account.hex, uuid7().hex, f"req_{uuid7().hex}", 1, bucket.hex, bucket.hex, "chat", "best-1", "stub", "complete",
                        "completed", "provider", now_ms - 500, now_ms, 100, 500, Counts(fresh_input=30, output=50), 80,
                        [Part(bucket.hex, grant.hex, "r", "token", "balance", 80_000, 1, None)], [], [], None,
                    )  # fmt: skip
                    batch.append((seq, account.hex, [(bucket.hex, grant.hex, 80_000)], encode_record(record)))
                began, ours, theirs = (
                    time.perf_counter(),
                    time.process_time(),
                    int(postgres.read_text().split()[0]),
                )
                settle_store.settle(connection, journal_id, seq, batch, lambda *_: None, **more)
                cost = [
                    time.perf_counter() - began,
                    time.process_time() - ours,
                    (int(postgres.read_text().split()[0]) - theirs) / 1e9,
                ]
                print(json.dumps(cost), flush=True)
        embedded.destroy()


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
