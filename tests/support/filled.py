"""Fills an installation as the release does whose code is on the path: `python filled.py DATA_DIR ROWS ACCOUNTS`.

It is run with the code of an older release, so it imports nothing of the tests and uses only what was there at schema 0026. Two months
of people, orders, bills, payments, caps, windows and steps, and ROWS usage records of ACCOUNTS subscribers, settled in batches by the
release's own settlement; this month's cycles are begun, last month's bills are left to be made. Prints JSON: texts of keys that can
spend and of a staff token, ids of a family and of a member of it with a cap.
"""

import contextlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from tokenworks.app.bootstrap import make_works
from tokenworks.app.database import connect
from tokenworks.app.settings import load_settings
from tokenworks.billing import TestProvider
from tokenworks.catalog import Counts, split
from tokenworks.charging import Loss, Part, UsageRecord
from tokenworks.charging.model import CAP_RATE, encode_record
from tokenworks.kernel import ManualClock, ids, uuid7
from tokenworks.subscriptions import month_start
from tokenworks.subscriptions.model import add_months

try:
    from tokenworks.charging.ledger import settle_store
except ImportError:  # of releases whose rooms have no packages
    from tokenworks.charging.ledger import settle_store

MODEL = "m"
BATCH_RECORDS = 2000
PER_ACCOUNT_AND_BATCH = 20
# What a record asks and gets, by its number.
SHAPES = [Counts(fresh_input=7 + at % 5, cached_input=at % 3, output=3 + at % 7) for at in range(35)]
LOST = Counts(output=2)
LOSES_EVERY = 50

# The database's own times, as if its clock had been the one that stands still.
_AT = "to_timestamp(('x' || left(replace({}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
ONE_CLOCK = (
    f"UPDATE entry SET posted_at = {_AT.format('entry_id')} WHERE substr(entry_id::text, 15, 1) = '7'",
    """UPDATE entry e SET posted_at = u.at FROM (SELECT account_id, entry_id, max(ended_at) + interval '1 second' AS at FROM usage GROUP BY 1, 2) u
       WHERE u.account_id = e.account_id AND u.entry_id = e.entry_id""",
    "UPDATE usage u SET settled_at = e.posted_at FROM entry e WHERE e.account_id = u.account_id AND e.entry_id = u.entry_id",
    """UPDATE journal j SET settled_at = u.at FROM (SELECT journal_id, max(settled_at) AS at FROM usage GROUP BY 1) u
       WHERE u.journal_id = j.journal_id""",
    *(f"UPDATE {table} SET {column} = {_AT.format(id_)}" for table, column, id_ in (
        ("account", "created_at", "account_id"), ("api_key", "created_at", "key_id"), ("bucket", "created_at", "bucket_id"),
        ("grants", "opened_at", "grant_id"), ("journal", "created_at", "journal_id"))),
)  # fmt: skip


class Filling:
    def __init__(self, services, clock):
        self.services, self.clock = services, clock
        self.journal_id, self.seq = uuid7(), 0
        self.cards = services.offerings.rate_cards()
        self.number = 0
        services.ledger.register_journal(self.journal_id, "filled")

    def person(self, offering_id, **profile):
        """(subscriber, its owner's member id) of a new one with a plan."""
        self.number += 1
        made = self.services.subscriptions.register(
            f"+86139{self.number:08d}", f"Person {self.number}", **profile
        )
        self.services.orders.place(made, offering_id)
        return made, self.services.subscriptions.owner_of(made)

    def key(self, person, member_id, name, **more):
        return self.services.keys.issue(account_id=person.account_id, member_id=member_id, name=name, **more)

    def next_month(self):
        """To one hour into the next month: its cycles."""
        after = add_months(month_start(self.clock.now()), 1) + timedelta(hours=1)
        self.clock.move(after - self.clock.now())
        self.services.orders.run_cycles()
        self.services.charges.recognise()

    def days(self, count):
        self.clock.move(timedelta(days=count))
        self.services.orders.run_cycles()
        self.services.charges.recognise()

    # Spending.

    def bucket(self, account_id, *kinds):
        now = self.clock.now()
        return [
            b for b in self.services.ledger.buckets(account_id)
            if b.kind in kinds and b.closing is None and b.valid_from <= now and (b.valid_until is None or b.valid_until > now)
        ]  # fmt: skip

    def grant(self, account_id, bucket_id, amount):
        found = self.services.ledger.grant(
            account_id=account_id.hex, bucket_id=bucket_id.hex, journal_id=self.journal_id, grant_id=None, amount=amount,
            spend_for_s=900,
        )  # fmt: skip
        assert found is not None and found.added == amount, (found, amount)
        return found.grant_id

    def close(self, account_id, grant_id):
        self.services.ledger.close_grant(account_id.hex, grant_id, self.journal_id, self.seq)

    def rates(self, version, model):
        card = self.cards.get(version)
        rate = card.rate_for(model) if card else None
        return None if rate is None else (rate.model_class, rate.weights())

    def cost(self, bucket, counts):
        (share,), _, left = split([(self.rates(bucket.rate_version, MODEL)[1], bucket.remaining)], counts, 1)
        assert not any(left)
        return share.amount

    def record(self, account_id, key_id, member_id, at_ms, counts, parts, lost=()):
        total = Counts(*map(sum, zip(counts, *(loss.counts for loss in lost), strict=True)))
        # The first attempt of a request has the request's id.
        usage_id = uuid7(at_ms).hex
        return UsageRecord(
            account_id.hex, usage_id, usage_id, 1, key_id.hex, member_id.hex, "chat", MODEL, "stub", "complete", "completed",
            "provider", at_ms, at_ms + 500, 100, 500, total, sum(total), parts, list(lost), [], f"up-{self.seq}",
            risk_tokens=sum(sum(loss.counts) for loss in lost),
        )  # fmt: skip

    def settle(self, records):
        batch = []
        for record in records:
            self.seq += 1
            used = [(part[0], part[1], part[5]) for part in record.parts]
            batch.append((self.seq, record.account_id, used, encode_record(record)))
        settle_store.settle(self.services.connection, self.journal_id, self.seq, batch, self.rates)

    def spend(self, person, key_id, member_id, counts, caps=()):
        """One record of what a person has: balances and windows, and caps of the member."""
        parts, at_ms = [], int(self.clock.now().timestamp() * 1000)
        for bucket in self.bucket(person.account_id, "balance", "window"):
            amount = 1000 if bucket.kind == "window" else self.cost(bucket, counts)
            grant_id = self.grant(person.account_id, bucket.bucket_id, amount)
            requests = 1
            parts.append(
                Part(bucket.bucket_id.hex, grant_id, bucket.rate_version, bucket.unit, bucket.kind, amount, requests, counts)
            )  # fmt: skip
            if bucket.kind == "balance":
                break
        for cap in caps:
            grant_id = self.grant(person.account_id, cap, 1000 * sum(counts))
            parts.append(Part(cap.hex, grant_id, CAP_RATE, "token", "cap", 1000 * sum(counts), 0, counts))
        self.settle([self.record(person.account_id, key_id, member_id, at_ms, counts, parts)])
        for part in parts:
            self.close(person.account_id, part[1])

    def bulk(self, spenders, rows):
        """`rows` records, as even as can be over the spenders; their grants are closed afterwards."""
        each = rows // len(spenders)
        at_ms = int(self.clock.now().timestamp() * 1000)
        held = []
        for person, key_id, member_id in spenders:
            (bucket,) = self.bucket(person.account_id, "balance")
            costs = [self.cost(bucket, counts) for counts in SHAPES]
            amount = sum(costs[at % len(SHAPES)] for at in range(each))
            grant_id = self.grant(person.account_id, bucket.bucket_id, amount)
            parts = [
                [Part(bucket.bucket_id.hex, grant_id, bucket.rate_version, bucket.unit, "balance", costs[at], 1, counts)]
                for at, counts in enumerate(SHAPES)
            ]  # fmt: skip
            held.append((person.account_id, key_id, member_id, grant_id, parts))
        in_batch = BATCH_RECORDS // PER_ACCOUNT_AND_BATCH
        for first in range(0, len(held), in_batch):
            crowd = held[first : first + in_batch]
            for low in range(0, each, PER_ACCOUNT_AND_BATCH):
                self.settle(
                    [
                        self.record(account_id, key_id, member_id, at_ms + at, SHAPES[at % len(SHAPES)], parts[at % len(SHAPES)],
                                    [Loss("worker_lost", 0, LOST)] if at % LOSES_EVERY == 0 else ())
                        for account_id, key_id, member_id, _, parts in crowd
                        for at in range(low, min(each, low + PER_ACCOUNT_AND_BATCH))
                    ]
                )  # fmt: skip
        for account_id, _, _, grant_id, _ in held:
            self.close(account_id, grant_id)

    # What happens.

    def first_month(self, accounts):
        w, add = self.services, self.services.subscriptions.add_member
        self.family, owner = self.person("ctc-standard", bill_day=1)
        self.family_key = (self.key(self.family, owner, "owner")[0], owner)
        add(self.family, "shop", department=True)
        son = add(self.family, "son", cap_tokens=100_000, cap_period="month")
        self.son_key = (self.key(self.family, son.member_id, "son")[0], son.member_id)
        self.payer, _ = self.person("ctc-light")
        self.debtor, _ = self.person("ctc-light")
        self.steps, owner = self.person("shanghai-mobile-payg")
        self.steps_key = (self.key(self.steps, owner, "steps")[0], owner)
        w.payg.top_up(self.steps, 3_000_000_000, "top-1")
        self.coder, owner = self.person("tianyi-coding-lite", audiences=["developer"])
        self.coder_key = (self.key(self.coder, owner, "coder")[0], owner)
        self.changer, _ = self.person("ctc-light")
        self.roller, _ = self.person("sample-rollover")
        firm = w.subscriptions.register(
            "+8613800000001", "Firm", audiences=["enterprise"], credit_limit_nano=10**14
        )
        w.subscriptions.set_contract_price(
            firm, "sample-enterprise", "2999.99", "frame contract", self.clock.now() - timedelta(days=1)
        )
        w.orders.place(firm, "sample-enterprise")
        self.firm = firm
        self.staff = w.identity.add_staff("Kim", "operator")
        self.spenders, self.texts = [], []
        for _ in range(accounts):
            person, owner = self.person("ctc-premium")
            key_id, text = self.key(person, owner, "all")
            cap = w.ledger.add_cap(person.account_id, 20_000_000)
            self.key(person, owner, "capped", cap_bucket_id=cap)
            self.spenders.append((person, key_id, owner))
            self.texts.append(text)
        self.days(1)
        self.few()
        self.days(6)
        (plan,) = [p for p in w.orders.products(self.changer) if p.state == "active"]
        w.orders.change(plan.product_id, "ctc-standard", "now", "change-1")

    def few(self):
        (cap, *_), _ = self.services.subscriptions.caps(self.son_key[1])
        self.spend(self.family, *self.family_key, SHAPES[1])
        self.spend(self.family, *self.son_key, SHAPES[2], caps=[cap])
        self.spend(self.steps, *self.steps_key, SHAPES[3])
        self.spend(self.coder, *self.coder_key, SHAPES[4])

    def bills(self):
        w = self.services
        assert w.bills.run().bills >= len(self.spenders)
        bill = {
            person.subscriber_id: w.bills.all(person)[0][0]
            for person in (self.family, self.payer, self.debtor, self.firm)
        }
        w.payments.collect(bill[self.firm.subscriber_id], TestProvider(), "card-1")
        w.bills.correct(bill[self.family.subscriber_id], 1, 1_000_000_000, "goodwill", "cn-1")
        paid = bill[self.payer.subscriber_id]
        w.payments.pay(paid, "counter", "c-1", paid.amount_nano + 5_000_000_000)
        part = w.payments.pay(bill[self.debtor.subscriber_id], "bank_transfer", "b-1", 1_000_000_000)
        w.payments.reverse(part, "charged back")
        w.payments.make_file()

    def build(self, rows, accounts, now):
        self.first_month(accounts)
        self.bulk(self.spenders, rows // 2)
        self.next_month()
        self.bills()
        self.days(3)
        self.few()
        self.bulk(self.spenders, rows - rows // 2)
        self.next_month()
        self.clock.move(max(now - self.clock.now(), timedelta(0)))
        self.services.orders.run_cycles()
        # Grants of a host that does not answer: open, and in doubt.
        for person, _, _ in self.spenders[:3]:
            (bucket,) = self.bucket(person.account_id, "balance")
            self.grant(person.account_id, bucket.bucket_id, 1_000_000)


@contextlib.contextmanager
def ids_follow(clock):
    """Ids are made at the instants of a clock that stands still."""
    before = ids.time, ids._sequence
    ids.time = SimpleNamespace(time_ns=lambda: int(clock.now().timestamp() * 1000) * 1_000_000)
    ids._sequence = ids._Sequence()
    try:
        yield
    finally:
        ids.time, ids._sequence = before


def main(data_dir, rows, accounts):
    settings = load_settings({"data_dir": data_dir}).settings
    now = datetime.now(UTC)
    clock = ManualClock(add_months(month_start(now), -2) + timedelta(days=2, hours=9))
    with contextlib.closing(connect(settings.database_url)) as connection:
        services = make_works(settings, connection, clock)
        for back in range(3):
            connection.execute("SELECT ensure_usage_month(%s)", (add_months(month_start(now), -back),))
        with ids_follow(clock):
            filling = Filling(services, clock)
            filling.build(rows, accounts, now)
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            for statement in ONE_CLOCK:
                connection.execute(statement)
    found = {
        "keys": filling.texts, "staff": filling.staff, "family": str(filling.family.subscriber_id), "son": str(filling.son_key[1]),
        "code": str(Path(settle_store.__file__)),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
