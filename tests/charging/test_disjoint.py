"""Two hosts with disjoint accounts never wait for each other: one holds all that it locks, right before its commit, and the other one
does everything meanwhile; then two settlers under load, whose locks are looked at all the time.
"""

import contextlib
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.charging.ledger.test_accounts import IDS, first_attempt, settle, settling, usage_record
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database.connections import connect, connect_planned
from tokenworks.app.settings import load_settings
from tokenworks.catalog import Counts
from tokenworks.charging.host.settlement import Settler
from tokenworks.charging.ledger import (
    account_store,
    bucket_store,
    chain_store,
    closing_store,
    grant_store,
    settle_store,
    store,
    turn_store,
)
from tokenworks.charging.ledger.turn_store import CloseRequest, GrantRequest
from tokenworks.charging.messages import Loss, Part, UsageRecord
from tokenworks.charging.model import NO_GRANT
from tokenworks.kernel import ManualClock, uuid7

LONG_AGO_MS = 1_700_000_000_000  # November 2023: no partition is made for it ahead
WINDOW_S = 18_000


@pytest.fixture
def clock():
    """The database's time: a grant is in doubt when that is past its end."""
    return ManualClock(datetime.now(UTC).replace(microsecond=0))


class Host:
    """A journal, a connection and accounts of one shard, the same for all hosts, each with what one of `acts` needs."""

    def __init__(self, services, connection, number):
        self.services, self.connection, self.number = services, connection, number
        self.journal = uuid7()
        self.seq = 0
        services.ledger.register_journal(self.journal, f"host-{number}")
        self.accounts = {}
        self.grants = {}
        self.cards = services.offerings.rate_cards()
        for act in self.acts():
            self.accounts[act] = self.account(act)

    def acts(self):
        return {
            "many records of an account": self.many,
            "a record that spends of a window": self.window,
            "a late record": self.late,
            "an unpaid record": self.unpaid,
            "a record whose output was the operator's risk": self.risk,
            "a record that is refused": self.refused,
            "a record of a month that has no partition": self.long_ago,
            "a record out of quarantine": self.release,
            "terms": self.terms,
            "a window that refills": self.refill,
            "a grant in a turn": self.turn,
            "a grant by itself": self.alone,
            "a part given back": self.give_back,
            "a grant closed in a turn": self.close,
            "a grant closed by itself": self.close_alone,
            "a grant written off": self.write_off,
            "a bucket that expires": self.expire,
            "links of what no journal settled": self.chain,
        }

    def account(self, act):
        """On shard 7, with a balance and a window of which something is granted."""
        account_id = uuid7()
        while account_id.hex[-1] != "7":
            account_id = uuid7()
        account_store.add_account(self.connection, account_id)
        rate = next(iter(self.cards))
        made = {
            "account_id": account_id,
            "product_id": None,
            "unit": "token",
            "priority": 1,
            "model_classes": ["*"],
            "rate_version": rate,
        }
        now = self.services.clock.now() - timedelta(days=2)
        window = bucket_store.add_bucket(
            self.connection,
            kind="window",
            total=10_000_000,
            valid_from=now,
            valid_until=None,
            window_s=WINDOW_S,
            **made,
        )
        balance = bucket_store.add_bucket(
            self.connection, kind="balance", total=10_000_000, valid_from=now, valid_until=None, **made
        )  # fmt: skip
        for bucket in (balance, window):
            granted = self.services.ledger.grant(
                account_id=account_id.hex, bucket_id=bucket.hex, journal_id=self.journal, grant_id=None, amount=1_000_000, spend_for_s=900
            )  # fmt: skip
            self.grants[act, bucket] = granted.grant_id
        return account_id, balance, window, rate

    def rates(self, version, model):
        rate = self.cards[version].rate_for(model)
        return None if rate is None else (rate.model_class, rate.weights())

    def record(self, act, *, amount=1000, **more):
        account_id, balance, _, rate = self.accounts[act]
        self.seq += 1
        part = (balance.hex, self.grants[act, balance], rate, amount)
        return usage_record(self.seq, account_id, part, Counts(output=1), **more)

    def settle(self, *records, **more):
        return settle(self.connection, self.journal, self.seq, records, self.rates, **more)

    def many(self, act):
        assert self.settle(*(self.record(act) for _ in range(20))) == 20
        # A part of it is settled already: the mark of the journal and the heads say so.
        assert self.settle(self.record(act)) == 1

    def window(self, act):
        account_id, *buckets, rate = self.accounts[act]
        self.seq += 1
        now_ms = int(self.services.clock.now().timestamp() * 1000)
        parts = [
            Part(bucket.hex, self.grants[act, bucket], rate, "token", kind, 1000, 1, Counts(output=1))
            for bucket, kind in zip(buckets, ("balance", "window"), strict=True)
        ]
        record = UsageRecord(
            account_id.hex, *first_attempt(), *IDS, "chat", "m", "d", "complete", "completed", "provider",
            now_ms, now_ms, 1, 2, Counts(output=1), 1, parts, [], [], None,
        )  # fmt: skip
        assert self.settle((self.seq, record)) == 1

    def late(self, act):
        record = self.record(act)
        account_id, balance, *_ = self.accounts[act]
        self.doubt(act)
        grant_store.write_off(self.connection, account_id, self.uuid(act, balance), self.services.clock.now())
        assert self.settle(record) == 1

    def unpaid(self, act):
        account_id, balance, _, rate = self.accounts[act]
        self.seq += 1
        part = Part(balance.hex, NO_GRANT, rate, "token", "balance", 0, 0, Counts())
        record = UsageRecord(
            account_id.hex, *first_attempt(), *IDS, "chat", "m", "d", "complete", "completed", "provider",
            1_790_000_000_000, 1_790_000_000_500, 100, 500, Counts(output=3), 3, [part], [], [], None, True, unpaid=(0, Counts(output=3)),
        )  # fmt: skip
        assert self.settle((self.seq, record)) == 1

    def risk(self, act):
        loss = [Loss("operator_risk", 0, Counts(output=1))]
        assert self.settle(self.record(act, loss=loss)) == 1

    def refused(self, act):
        refused = {}
        assert self.settle(self.record(act, amount=50_000_000), quarantine=refused) == 0
        assert len(refused) == 1

    def long_ago_ms(self, which):
        """In a month of this host alone."""
        return LONG_AGO_MS + (2 * self.number + which) * 86_400_000 * 40

    def make_months(self):
        """As settlement does, in a transaction of its own."""
        months = {settle_store.month_of(uuid7(self.long_ago_ms(which)).hex) for which in range(2)}
        settle_store.ensure_usage_months(self.connection, months)

    def long_ago(self, act):
        record = self.record(act, usage_id=uuid7(self.long_ago_ms(0)).hex)
        batch = [settling(*record)]
        settle_store.ensure_usage_months(self.connection, settle_store.months_of(batch, 10))
        assert self.settle(record) == 1

    def release(self, act):
        amount = 50_000_000
        refused = self.record(act, usage_id=uuid7(self.long_ago_ms(1)).hex, amount=amount)
        self.settle(refused, quarantine={})
        account_id, balance, *_ = self.accounts[act]
        self.connection.execute(
            "UPDATE grants SET amount = %s WHERE account_id = %s AND bucket_id = %s",
            (amount, account_id, balance),
        )
        (held,) = [row for row in self.services.ledger.quarantined() if row["account_id"] == account_id]
        self.services.ledger.decide_quarantine(held["quarantine_id"], release=True, rates=self.rates)

    def terms(self, act):
        (found,) = turn_store.load_terms(self.connection, [self.accounts[act][0]], self.services.clock.now())
        assert found

    def refill(self, act):
        self.window(act)
        later = self.services.clock.now() + timedelta(seconds=WINDOW_S + 1)
        assert bucket_store.load_terms(self.connection, self.accounts[act][0], later)

    def ask(self, act):
        account_id, balance, *_ = self.accounts[act]
        return GrantRequest(account_id, balance, None, 1000, 900.0)

    def turn(self, act):
        (granted,), _ = self.services.ledger.turn(self.journal, [self.ask(act)], [])
        assert granted.added == 1000
        more = self.ask(act)._replace(grant_id=self.uuid(act, self.accounts[act][1]))
        (granted,), _ = self.services.ledger.turn(self.journal, [more], [])
        assert granted.added == 1000

    def alone(self, act):
        account_id, balance, *_ = self.accounts[act]
        granted = self.services.ledger.grant(
            account_id=account_id.hex,
            bucket_id=balance.hex,
            journal_id=self.journal,
            grant_id=None,
            amount=7,
            spend_for_s=900,
        )
        assert granted.added == 7

    def uuid(self, act, bucket):
        return UUID(self.grants[act, bucket])

    def give_back(self, act):
        account_id, balance, *_ = self.accounts[act]
        assert self.services.ledger.return_grant(account_id.hex, self.grants[act, balance], self.journal, 10)

    def close(self, act):
        account_id, balance, *_ = self.accounts[act]
        asked = CloseRequest(account_id, self.uuid(act, balance), 0)
        assert self.services.ledger.turn(self.journal, [], [asked]) == ([], [True])

    def close_alone(self, act):
        account_id, balance, *_ = self.accounts[act]
        self.services.ledger.close_grant(account_id.hex, self.grants[act, balance], self.journal, 0)

    def doubt(self, act):
        self.connection.execute(
            "UPDATE grants SET spend_until = now() - interval '1 hour' WHERE account_id = %s AND bucket_id = %s",
            self.accounts[act][:2],
        )

    def write_off(self, act):
        account_id, balance, *_ = self.accounts[act]
        self.doubt(act)
        assert self.services.ledger.write_off(self.uuid(act, balance)) == 1_000_000
        assert account_id

    def expire(self, act):
        account_id, balance, *_ = self.accounts[act]
        now = self.services.clock.now()
        with self.connection.transaction():
            self.connection.execute(
                "UPDATE bucket SET valid_until = %s WHERE account_id = %s AND bucket_id = %s",
                (now, account_id, balance),
            )
            closing_store.finish_closing(self.connection, account_id, balance, now)
            store.notify_hosts(self.connection, account_id)

    def chain(self, act):
        account_id, *_ = self.accounts[act]
        store.post(self.connection, account_id, "heads", "none", [])
        until = self.services.clock.now() + timedelta(days=1)
        assert chain_store.chain_own(self.connection, account_id, until)

    def do(self, act):
        self.acts()[act](act)


@pytest.fixture
def hosts(database_url, session_dir, clock):
    """Two, each with a connection and all rooms of its own."""
    settings = load_settings({"data_dir": str(session_dir / "seed")}).settings
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(connect(database_url))) for _ in range(2)]
        yield [Host(make_works(settings, one, clock), one, number) for number, one in enumerate(connections)]


def test_what_a_host_locks_until_its_commit_holds_up_no_other_one(hosts):
    """Every act of one in one transaction that stays open, then every act of the other: a wait for a lock is an error at once."""
    held, other = hosts
    other.connection.execute("SET lock_timeout = '50ms'")
    held.make_months()
    waits = []
    with held.connection.transaction():
        for act in held.acts():
            held.do(act)
        for act in other.acts():
            try:
                other.do(act)
            except psycopg.errors.LockNotAvailable as error:
                waits.append((act, str(error)))
    assert waits == []
    accounts = {row[0] for host in hosts for row in host.accounts.values()}
    assert {account_id.hex[-1] for account_id in accounts} == {"7"}


def test_the_same_account_is_waited_for(hosts):
    """So that what the other test finds could be found."""
    held, other = hosts
    other.connection.execute("SET lock_timeout = '50ms'")
    act = "a grant by itself"
    other.accounts[act] = held.accounts[act]
    with held.connection.transaction():
        held.do(act)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.do(act)


WAITS = """SELECT l.locktype, l.mode, coalesce(l.relation::regclass::text, ''), cardinality(pg_blocking_pids(l.pid)) > 0
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND a.datname = current_database() AND a.pid <> pg_backend_pid()"""
RECORDS = 6000
ACCOUNTS = 40


def test_settlers_under_load_wait_for_no_lock_of_each_other(services, database_url):
    """Two, of disjoint accounts on all shards. Another page of a table is no lock of rows: one extends it, then the other."""
    with contextlib.ExitStack() as stack:
        settlers, done = [], []
        for number in range(2):
            journal_id = uuid7()
            services.ledger.register_journal(journal_id, f"host-{number}")
            batch = records(services, journal_id)
            ended = threading.Event()
            failed = []
            settler = Settler(
                lambda: connect_planned(database_url), journal_id, 0,
                lambda seq, ended=ended: ended.set() if seq == RECORDS else None, lambda *_: None, failed.append,
            )  # fmt: skip
            settler.put(batch)
            settlers.append((settler, batch))
            done.append(ended)
        seen = Counter()
        looking = stack.enter_context(contextlib.closing(connect(database_url)))
        for settler, _ in settlers:
            # A batch at a time: what is written grows as it is settled.
            settler.advance(RECORDS)
            settler.start()
            stack.callback(settler.stop, 30.0)
        looks = 0
        while not all(one.is_set() for one in done):
            seen.update(looking.execute(WAITS).fetchall())
            looks += 1
        assert {settler.applied for settler, _ in settlers} == {RECORDS}
    assert looks > 10
    assert {kind for kind in seen if kind[0] != "extend"} == set(), seen
    assert services.connection.execute("SELECT count(*) FROM usage").fetchone() == (2 * RECORDS,)


def records(services, journal_id):
    """Of accounts of this journal alone."""
    accounts = []
    for _ in range(ACCOUNTS):
        account_id = services.ledger.open_account()
        bucket_id = bucket_store.add_bucket(
            services.connection, account_id=account_id, product_id=None, kind="balance", unit="token", total=10**9, priority=1,
            valid_from=services.clock.now(), valid_until=None, model_classes=["*"], rate_version="r",
        )  # fmt: skip
        granted = services.ledger.grant(
            account_id=account_id.hex,
            bucket_id=bucket_id.hex,
            journal_id=journal_id,
            grant_id=None,
            amount=10**8,
            spend_for_s=900,
        )
        accounts.append((account_id, (bucket_id.hex, granted.grant_id, "r", 1000)))
    return [
        settling(*usage_record(seq, *accounts[seq % ACCOUNTS], Counts(output=1)))
        for seq in range(1, RECORDS + 1)
    ]
