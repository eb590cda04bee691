"""What a settled record costs the database: CPU of the settling connection, by what keeps flat reads flat, and bytes on disk.

The statement of settlement itself, of records as the gateway writes them, on a server's own PostgreSQL. Each way runs in a transaction
that takes something away (an index, the trigger of usage by day), settles and is undone; ways take turns, so that a busy
machine is the same for all.
"""

import random
import statistics
from collections import defaultdict
from pathlib import Path

import psycopg
from psycopg import Rollback

from bench.cold import ColdWorks
from tokenworks.catalog import Counts
from tokenworks.charging import Ledger
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Part, UsageRecord
from tokenworks.charging.model import encode_record
from tokenworks.kernel import SystemClock, uuid7

BATCH = 2000
WAYS = {
    "as it is": "",
    "no usage by day": "DROP TRIGGER usage_rolls_up ON usage",
    "no usage_member": "DROP INDEX IF EXISTS usage_member",
    "no usage_response": "DROP INDEX IF EXISTS usage_response",
    "no usage_flagged": "DROP INDEX IF EXISTS usage_flagged",
    "no posting_receivable": "DROP INDEX IF EXISTS posting_receivable",
    "none of it": "DROP TRIGGER usage_rolls_up ON usage; "
    "DROP INDEX IF EXISTS usage_member, usage_response, usage_flagged, posting_receivable",
}
SIZES = """SELECT coalesce(p.relname, c.relname) || CASE c.relkind WHEN 'i' THEN ' (indexes)' ELSE '' END, sum(pg_relation_size(c.oid))::bigint
FROM (SELECT coalesce(i.indrelid, c.oid) AS of, c.oid, c.relkind, c.relname FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
      WHERE c.relkind IN ('r', 'i') AND c.relnamespace = 'public'::regnamespace) c
LEFT JOIN LATERAL (SELECT pg_partition_root(c.of) AS root) r ON true LEFT JOIN pg_class p ON p.oid = coalesce(r.root, c.of)
WHERE p.relname IN ('usage', 'entry', 'posting', 'usage_day') GROUP BY 1"""


class Settling:
    """Accounts with open grants of one journal, and records of them."""

    def __init__(self, connection: psycopg.Connection, accounts: int) -> None:
        self.connection = connection
        self.journal_id = uuid7()
        self.seq = 0
        ledger = Ledger(connection, SystemClock())
        ledger.register_journal(self.journal_id, "bench")
        rows = connection.execute(
            """SELECT b.account_id, b.bucket_id, b.rate_version, m.member_id, k.key_id FROM bucket b JOIN member m USING (account_id)
               JOIN api_key k USING (account_id) WHERE b.priority = 10 LIMIT %s""",
            (accounts,),
        ).fetchall()
        self.accounts = []
        with connection.transaction():
            for account, bucket, rate, member, key in rows:
                granted = ledger.grant(
                    account_id=account.hex, bucket_id=bucket.hex, journal_id=self.journal_id, grant_id=None,
                    amount=5_000_000_000, spend_for_s=900,
                )  # fmt: skip
                self.accounts.append((account.hex, bucket.hex, granted.grant_id, rate, member.hex, key.hex))

    def batch(self, count: int, an_account: int) -> list[tuple[int, str, list, bytes]]:
        found = []
        for n in range(count):
            account, bucket, grant_id, rate, member, key = self.accounts[
                (n // an_account) % len(self.accounts)
            ]
            self.seq += 1
            counts = Counts(fresh_input=350, cached_input=512, output=300)
            part = Part(bucket, grant_id, rate, "token", "balance", 1000, 1, None)
            now_ms = int(SystemClock().now().timestamp() * 1000)
            record = UsageRecord(
                account, uuid7().hex, f"req_{uuid7().hex}", 1, key, member, "chat", "deepseek-v3.2", "bench", "complete", "completed",
                "provider", now_ms - 500, now_ms, 100, 500, counts, counts.total, [part], [], [], f"chatcmpl-{uuid7().hex}",
            )  # fmt: skip
            found.append((self.seq, account, [(bucket, grant_id, 1000)], encode_record(record)))
        return found

    def settle(self, count: int, an_account: int) -> None:
        batch = self.batch(count, an_account)
        settle_store.settle(self.connection, self.journal_id, self.seq, batch, lambda *_: None)

    def cpu_us(self) -> float:
        """Of the connection's server process."""
        return int(Path(f"/proc/{self.connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1000


def ways(settling: Settling, an_account: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of CPU a record, by way, a figure a round."""
    found = defaultdict(list)
    for _ in range(rounds):
        # What the rounds leave behind makes the later way dearer: another order each time.
        for name, change in random.sample(sorted(WAYS.items()), len(WAYS)):
            batches = [settling.batch(BATCH, an_account) for _ in range(2)]
            with settling.connection.transaction() as undone:
                if change:
                    settling.connection.execute(change.encode())
                spent = []
                for batch in batches:
                    before = settling.cpu_us()
                    settle_store.settle(
                        settling.connection, settling.journal_id, batch[-1][0], batch, lambda *_: None
                    )
                    spent.append((settling.cpu_us() - before) / BATCH)
                found[name].append(spent[-1])  # the first plans what the change has made to be planned anew
                raise Rollback(undone)
        settling.connection.execute("VACUUM usage, posting, entry, usage_day, grants")
    return found


def bytes_each(settling: Settling, count: int, an_account: int) -> dict[str, float]:
    """By table and its indexes: bytes a record, as it is after settlement."""
    sizes = dict(settling.connection.execute(SIZES).fetchall())
    for _ in range(count // BATCH):
        settling.settle(BATCH, an_account)
    after = dict(settling.connection.execute(SIZES).fetchall())
    return {name: (size - sizes.get(name, 0)) / count for name, size in sorted(after.items())}


def bench_rows(rounds: int = 5, count: int = 40_000) -> dict[str, object]:
    services = ColdWorks(BATCH)
    try:
        with services.connection() as connection:
            connection.autocommit = True
            settling = Settling(connection, BATCH)
            connection.execute("ANALYZE")
            settling.settle(BATCH, 20)
            found: dict[str, object] = {}
            for an_account in (20, 1):
                figures = ways(settling, an_account, rounds)
                base = statistics.median(figures["as it is"])
                found[f"us_each_{an_account}"] = {
                    name: (round(statistics.median(row), 1), round(base - statistics.median(row), 1))
                    for name, row in figures.items()
                }
                connection.execute("VACUUM FULL usage, posting, entry, usage_day")
                each = bytes_each(settling, count, an_account)
                found[f"bytes_each_{an_account}"] = {name: round(size) for name, size in each.items()} | {
                    "all": round(sum(each.values()))
                }
            return found
    finally:
        services.ours.stop()


if __name__ == "__main__":
    import json
    import sys

    for name, row in bench_rows(int(sys.argv[1]) if len(sys.argv) > 1 else 5).items():
        print(name, json.dumps(row, indent=1))
