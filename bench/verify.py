"""How many rows a second `ledger verify` reads: in full, and of what is new since its last run with a part of the accounts.

Run: python -m bench.verify [RECORDS]
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database import connect, ensure_usage_months
from tokenworks.app.embedded import Embedded
from tokenworks.app.schema import migrate
from tokenworks.app.settings import load_settings
from tokenworks.app.verifier import audit_on
from tokenworks.catalog import Counts, seed_catalogue
from tokenworks.charging import settle_store
from tokenworks.charging.messages import Part, UsageRecord
from tokenworks.charging.model import encode_record
from tokenworks.charging.verify import rolling
from tokenworks.kernel import uuid7
from tokenworks.trust import ensure_pepper

ACCOUNTS_MIN = 60
PER_ACCOUNT = 20
# Of a trial's 10 000 tokens, at one a record.
RECORDS_AN_ACCOUNT = 5000
TABLES = ("usage", "entry", "posting", "chain_link", "bucket", "grants", "charge")


class Host:
    """Real subscribers with a trial each, and a journal that has all of it."""

    def __init__(self, works, accounts):
        self.works, self.seq, self.journal_id = works, 0, uuid7()
        works.ledger.register_journal(self.journal_id, "bench")
        self.spenders = []
        for number in range(accounts):
            subscriber = works.subscriptions.register(f"+86138{number:08d}")
            works.orders.place(subscriber, "sample-trial")
            member_id = works.subscriptions.owner_of(subscriber)
            key_id, _ = works.keys.issue(account_id=subscriber.account_id, member_id=member_id, name="bench")
            (bucket, *_) = works.ledger.buckets(subscriber.account_id)
            grant = works.ledger.grant(
                account_id=subscriber.account_id.hex, bucket_id=bucket.bucket_id.hex, journal_id=self.journal_id, grant_id=None,
                amount=bucket.remaining, spend_for_s=86400,
            )  # fmt: skip
            self.spenders.append((subscriber.account_id, key_id, member_id, bucket, grant.grant_id))

    def settle(self):
        """One batch: `PER_ACCOUNT` records of a token each, of every account."""
        batch, heads = [], {}
        now_ms = time.time_ns() // 1_000_000
        for account_id, key_id, member_id, bucket, grant_id in self.spenders * PER_ACCOUNT:
            self.seq += 1
            request_id = uuid7().hex
            record = UsageRecord(
                account_id.hex, request_id, request_id, 1, key_id.hex, member_id.hex, "chat", "m", "stub", "complete",
                "completed", "provider", now_ms - 500, now_ms, 100, 500, Counts(output=1), 1,
                [Part(bucket.bucket_id.hex, grant_id, bucket.rate_version, "token", "balance", 1000, 1, None)], [], [], None,
            )  # fmt: skip
            batch.append(
                (self.seq, account_id.hex, [(bucket.bucket_id.hex, grant_id, 1000)], encode_record(record))
            )
        settle_store.settle(
            self.works.connection, self.journal_id, self.seq, batch, lambda *_: None, heads=heads
        )


def timed(works, what, **more):
    began, cpu = time.perf_counter(), time.process_time()
    postgres = Path(f"/proc/{works.connection.info.backend_pid}/schedstat")
    before = int(postgres.read_text().split()[0])
    found, read = audit_on(works.connection, works.offerings.rate_cards(), **more)
    assert found == [], found[:3]
    took = time.perf_counter() - began
    busy = time.process_time() - cpu + (int(postgres.read_text().split()[0]) - before) / 1e9
    return what, read, took, busy


def main(records):
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Path(folder, "database"))
        with embedded.use(), contextlib.closing(connect(embedded.owner_url)) as connection:
            migrate(embedded.owner_url)
            ensure_usage_months(connection)
            settings = load_settings({"data_dir": folder}).settings
            ensure_pepper(settings.secrets)
            works = make_works(settings, connection)
            works.offerings.load(seed_catalogue())
            accounts = max(ACCOUNTS_MIN, records // RECORDS_AN_ACCOUNT)
            host = Host(works, accounts)
            for _ in range(max(2, records // (accounts * PER_ACCOUNT))):
                host.settle()
            connection.execute("ANALYZE")
            rows = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)
            what, _, took, busy = timed(works, "full", full=True)
            print(
                f"{what}: {rows} rows in {took:.1f} s ({rows / took:.0f} a second; {rows / busy:.0f} a busy second)"
            )
            rolling.PART_ACCOUNTS_MIN = 1
            host.settle()
            what, read, took, busy = timed(works, "since the last run")
            fresh = read.links * (PER_ACCOUNT + 4)
            print(
                f"{what}: {fresh} new rows and {read.accounts} of {read.accounts_total} accounts whole in {took:.1f} s "
                f"({busy:.1f} s busy) beside {rows} old ones"
            )
        embedded.destroy()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
