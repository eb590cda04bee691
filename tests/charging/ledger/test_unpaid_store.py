"""What a host could not pay, drawn in settlement from what the account has left, on real PostgreSQL.

Invariant, tried against an oracle that pays token by token: per class, parts and losses are the record; a bucket gives at most
what remains of it; a token is lost only where no bucket, cap or window has room for it; whatever is done twice counts once.
"""

import contextlib
import threading
import time
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.charging.ledger.test_accounts import IDS, findings, first_attempt, settling
from tokenworks.app.database.connections import connect
from tokenworks.catalog import Counts, Weights
from tokenworks.charging.errors import RecordRefused
from tokenworks.charging.ledger import bucket_store, settle_store
from tokenworks.charging.messages import Loss, Part, UsageRecord
from tokenworks.charging.model import CAP_RATE, NO_GRANT, encode_record
from tokenworks.kernel import uuid7


def card_versions(services):
    """One that counts tokens, one with weights, one that counts calls: of the shipped catalogue, by what they weigh."""
    cards = services.offerings.rate_cards()
    by_id = {card.id: version for version, card in cards.items()}
    return by_id["one-price"], by_id["weighted-sample"], by_id["per-call"]


class Account:
    """An account with whatever buckets, and what a host settles of it."""

    def __init__(self, services):
        self.services = services
        self.account_id = services.ledger.open_account()
        self.journals = [uuid7(), uuid7()]
        self.seq = dict.fromkeys(self.journals, 0)
        for journal_id in self.journals:
            services.ledger.register_journal(journal_id, "test")
        self.cards = services.offerings.rate_cards()
        self.flat, self.heavy, self.calls = card_versions(services)

    def rates(self, version, model):
        card = self.cards.get(version)
        rate = card.rate_for(model) if card else None
        return None if rate is None else (rate.model_class, rate.weights())

    def bucket(
        self,
        total,
        *,
        rate=None,
        kind="balance",
        unit="token",
        priority=10,
        product_id=None,
        classes=("*",),
        **more,
    ):
        return bucket_store.add_bucket(
            self.services.connection, account_id=self.account_id, product_id=product_id, kind=kind, unit=unit, total=total,
            priority=0 if kind == "cap" else priority, valid_from=self.services.clock.now(), valid_until=None, model_classes=classes,
            rate_version=rate or (CAP_RATE if kind == "cap" else self.flat), **more,
        )  # fmt: skip

    def record(self, counts, unpaid, *, beside=(), parts=(), requests=0, model="m", prompt=True, loss=()):
        """`beside`: caps that it is under."""
        caps = [Part(cap.hex, NO_GRANT, CAP_RATE, "token", "cap", 0, 0, Counts()) for cap in beside]
        return UsageRecord(
            self.account_id.hex, *first_attempt(), *IDS, "chat", model, "d", "complete", "completed", "provider",
            1_790_000_000_000, 1_790_000_000_500, 100, 500, counts, sum(counts), [*parts, *caps], list(loss), [], None, prompt,
            unpaid=(requests, unpaid),
        )  # fmt: skip

    def settle(self, *records, journal=0, connection=None, seq=None, lost=None):
        journal_id = self.journals[journal]
        if seq is None:
            self.seq[journal_id] += len(records)
            seq = self.seq[journal_id]
        batch = [settling(seq - len(records) + at, record) for at, record in enumerate(records, 1)]
        return settle_store.settle(
            connection or self.services.connection, journal_id, seq, batch, self.rates, lost_tokens=lost
        )

    def read(self, record):
        return self.services.ledger.usage_record(self.account_id, UUID(record.usage_id))

    def left(self):
        return {b.bucket_id: b.remaining for b in self.services.ledger.buckets(self.account_id)}

    def check(self):
        assert findings(self.services) == []


@pytest.fixture
def account(services):
    return Account(services)


def lost(row):
    return [(loss["cause"], loss["requests"], sum(loss["counts"].values())) for loss in row["loss"]]


# The oracle.


def naive(buckets, caps, requests, counts):
    """Token by token: `buckets` are [weights, whole, left] in spending order, `caps` lists of one number. Returns what is lost."""
    queue = [("request", 0)] * requests + [
        (at, at + 1) for at, count in enumerate(counts) for _ in range(count)
    ]
    over = 0
    while caps and sum(counts) - over > min(cap[0] // 1000 for cap in caps):
        over += 1
    payable, beyond = queue[: len(queue) - over], queue[len(queue) - over :]
    paid = 0
    for bucket in buckets:
        weights, whole, _ = bucket
        if whole and not (payable and payable[0][0] == "request"):
            continue
        if whole and bucket[2] < weights[0]:
            continue
        first = payable[0] if payable else None
        token = next((item for item in payable if item[0] != "request"), None)
        need = (weights[0] if first and first[0] == "request" else 0) + (weights[token[1]] if token else 0)
        if not whole and token and bucket[2] < need:
            continue  # a bucket that counts tokens takes a request only with a token
        while payable and bucket[2] >= weights[payable[0][1]]:
            bucket[2] -= weights[payable[0][1]]
            paid += payable[0][0] != "request"
            payable.pop(0)
    for cap in caps:
        cap[0] -= 1000 * paid
    rest = payable + beyond
    tokens = [sum(1 for item in rest if item[0] == at) for at in range(len(counts))]
    return sum(1 for item in rest if item[0] == "request"), Counts(*tokens)


FLAT = Weights(0, *[1000] * 8)
count = st.integers(0, 12)
tokens = st.builds(Counts, *[count] * 8)
one_bucket = st.tuples(
    st.sampled_from(["flat", "heavy"]), st.integers(0, 60_000), st.integers(0, 3), st.integers(0, 60_000), st.booleans()
)  # fmt: skip


def test_what_is_unpaid_is_drawn_as_a_naive_oracle_draws_it(services):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(one_bucket, max_size=4),
        st.lists(st.integers(0, 200_000), max_size=2),
        tokens,
        st.sampled_from(["m", "glm-5", "deepseek-v3"]),
        st.integers(0, 1),
        st.booleans(),
    )
    def run(made, caps, unpaid, model, requests, again):
        account = Account(services)
        buckets = []
        for at, (rate, total, priority, granted, closing) in enumerate(made):
            version = getattr(account, rate)
            bucket_id = account.bucket(max(1, total), rate=version, priority=priority)
            took = account.services.ledger.grant(
                account_id=account.account_id.hex, bucket_id=bucket_id.hex, journal_id=account.journals[at % 2], grant_id=None,
                amount=granted, spend_for_s=900,
            )  # fmt: skip
            if closing and at == 0:
                services.connection.execute(
                    "UPDATE bucket SET paused = true WHERE bucket_id = %s", (bucket_id,)
                )
            found = account.rates(version, model)
            usable = found is not None and not (closing and at == 0)
            remaining = max(1, total) - (took.added if took else 0)
            buckets.append((priority, bucket_id, [found[1] if found else FLAT, False, remaining], usable))
        cap_ids = [account.bucket(max(1, cap), kind="cap") for cap in caps]
        expected_caps = [[max(1, cap)] for cap in caps]
        before = account.left()
        order = [b for _, _, b, usable in sorted(buckets, key=lambda b: b[:2]) if usable]
        expected = naive(order, expected_caps, requests, unpaid)
        record = account.record(unpaid, unpaid, beside=cap_ids, model=model, requests=1)
        if not requests:  # somebody else bears the request
            record.unpaid = (0, unpaid)
            record.loss = [Loss("failed_attempt", 1, Counts())]
        for _ in range(1 + again):
            account.settle(record, seq=1)
        row = account.read(record)
        beyond = [Loss(**loss) for loss in row["loss"] if loss["cause"] == "beyond_hold"]
        found = (beyond[0].requests, Counts(**beyond[0].counts)) if beyond else (0, Counts())
        assert found == expected
        left = account.left()
        for _, bucket_id, bucket, usable in buckets:
            assert left[bucket_id] == (bucket[2] if usable else before[bucket_id])
        for cap_id, cap in zip(cap_ids, expected_caps, strict=True):
            assert left[cap_id] == cap[0]
        account.check()

    run()


def test_buckets_are_drawn_in_spending_order(account):
    late, first = account.bucket(10_000, priority=9), account.bucket(10_000, priority=1)
    account.settle(account.record(Counts(output=4), Counts(output=4), requests=1))
    assert account.left() == {late: 10_000, first: 6_000}
    account.settle(account.record(Counts(output=9), Counts(output=9), requests=1))
    assert account.left() == {late: 7_000, first: 0}
    account.check()


def test_a_bucket_that_counts_calls_pays_a_whole_request_or_nothing(account):
    product = uuid7()
    calls = account.bucket(1_000, rate=account.calls, unit="call", priority=1, product_id=product)
    window = account.bucket(
        1_000, rate=account.calls, unit="call", kind="window", priority=1, product_id=product, window_s=18_000
    )
    plan = account.bucket(50_000)
    counts = Counts(fresh_input=7, output=3)
    remainder = account.record(counts, counts, loss=[Loss("failed_attempt", 1, Counts())])
    account.settle(remainder)
    assert account.left() == {calls: 1_000, window: 1_000, plan: 40_000}
    whole, another = (account.record(counts, counts, requests=1) for _ in range(2))
    whole.ended_ms = time.time_ns() // 1_000_000  # or its window would have it back by now
    account.settle(whole)
    assert account.left() == {calls: 0, window: 0, plan: 40_000}
    account.settle(another)
    assert account.left() == {calls: 0, window: 0, plan: 30_000}
    account.check()


def test_a_call_that_its_window_has_not_is_not_taken_from_its_plan(account):
    product = uuid7()
    calls = account.bucket(9_000, rate=account.calls, unit="call", product_id=product)
    account.bucket(500, rate=account.calls, unit="call", kind="window", product_id=product, window_s=18_000)
    record = account.record(Counts(output=3), Counts(output=3), requests=1)
    account.settle(record)
    assert account.left()[calls] == 9_000
    assert lost(account.read(record)) == [("beyond_hold", 1, 3)]
    account.check()


def test_what_hosts_have_granted_is_not_drawn(account):
    plan = account.bucket(20_000)
    granted = account.services.ledger.grant(
        account_id=account.account_id.hex, bucket_id=plan.hex, journal_id=account.journals[0], grant_id=None,
        amount=15_000, spend_for_s=900,
    )  # fmt: skip
    part = Part(plan.hex, granted.grant_id, account.flat, "token", "balance", 4_000, 1, Counts(fresh_input=4))
    record = account.record(Counts(fresh_input=12), Counts(fresh_input=8), parts=[part])
    account.settle(record)
    row = account.read(record)
    assert account.left() == {plan: 0}
    assert lost(row) == [("beyond_hold", 0, 3)]
    assert [part[5] for part in row["parts"]] == [4_000, 5_000]
    account.check()
    # What was granted goes on being spent, and comes back.
    account.services.ledger.close_grant(
        account.account_id.hex, granted.grant_id, account.journals[0], account.seq[account.journals[0]]
    )
    assert account.left() == {plan: 11_000}
    account.check()


def test_a_frozen_account_pays_for_what_it_had_and_a_closing_bucket_nothing(account):
    plan, ending = account.bucket(20_000), account.bucket(20_000, priority=1)
    account.services.connection.execute(
        "UPDATE bucket SET closing = 'withdraw' WHERE bucket_id = %s", (ending,)
    )
    account.services.ledger.set_frozen(account.account_id, frozen=True)
    record = account.record(Counts(output=5), Counts(output=5), requests=1)
    account.settle(record)
    assert account.left() == {plan: 15_000, ending: 20_000}
    assert account.read(record)["loss"] == []


def test_a_crash_before_the_commit_and_a_replay_after_it_draw_once(account):
    plan = account.bucket(100_000)
    record = account.record(Counts(output=30), Counts(output=30), requests=1)

    class Crash(Exception):
        pass

    with pytest.raises(Crash), account.services.connection.transaction():
        account.settle(record, seq=1)
        raise Crash
    assert account.left() == {plan: 100_000}
    assert account.read(record) is None
    assert account.settle(record, seq=1) == 1
    assert account.settle(record, seq=1) == 0
    assert account.settle(record, account.record(Counts(output=1), Counts(output=1), requests=1), seq=2) == 1
    assert account.left() == {plan: 69_000}
    account.check()


def test_a_record_that_contradicts_itself_goes_to_quarantine_and_the_others_are_paid(account):
    plan = account.bucket(100_000)
    good = [account.record(Counts(output=n), Counts(output=n), requests=1) for n in (1, 2, 3)]
    bad = account.record(Counts(output=4), Counts(output=-4), requests=1)
    with pytest.raises(RecordRefused):
        account.settle(bad, seq=1)
    refused, lost_tokens = {}, settle_store.Counter()
    batch = [settling(at, record) for at, record in enumerate([good[0], bad, good[1], good[2]], 1)]
    settle_store.settle(
        account.services.connection, account.journals[0], 4, batch, account.rates, quarantine=refused, lost_tokens=lost_tokens
    )  # fmt: skip
    assert list(refused) == [bad.usage_id]
    assert account.left() == {plan: 94_000}
    assert lost_tokens == {}
    account.check()


def test_a_late_record_with_an_unpaid_rest_is_paid_from_what_is_free(account):
    plan = account.bucket(20_000)
    granted = account.services.ledger.grant(
        account_id=account.account_id.hex, bucket_id=plan.hex, journal_id=account.journals[0], grant_id=None,
        amount=10_000, spend_for_s=900,
    )  # fmt: skip
    account.services.connection.execute("UPDATE grants SET spend_until = now() - interval '1 hour'")
    account.services.ledger.write_off(UUID(granted.grant_id))
    part = Part(plan.hex, granted.grant_id, account.flat, "token", "balance", 8_000, 1, Counts(fresh_input=8))
    record = account.record(Counts(fresh_input=25), Counts(fresh_input=17), parts=[part])
    account.settle(record)
    row = account.read(record)
    assert account.left() == {plan: 0}
    assert (row["flags"], lost(row)) == (["late"], [("beyond_hold", 0, 5)])
    account.check()


def test_losses_are_counted_by_cause_and_the_day_of_the_account(account):
    account.bucket(10_000)
    counted = settle_store.Counter()
    waived = [Loss("client_gone", 0, Counts(output=5))]
    record = account.record(Counts(fresh_input=20, output=5), Counts(fresh_input=20), requests=1, loss=waived)
    record.risk_tokens = 7
    account.settle(record, lost=counted)
    assert counted == {"client_gone": 5, "beyond_hold": 10}
    account.settle(record, seq=1, lost=counted)
    assert counted == {"client_gone": 5, "beyond_hold": 10}
    rows = account.services.connection.execute("SELECT account_id, day::text, risk_tokens FROM account_loss").fetchall()  # fmt: skip
    assert rows == [
        (account.account_id, "2026-09-21", 17)
    ]  # what the worker named, and what settlement could not draw
    shown = account.services.ledger.losses()
    assert [(row["day"], row["cause"], row["records"], row["tokens"], row["counts"]) for row in shown] == [
        ("2026-09-21", "beyond_hold", 1, 10, {"fresh_input": 10}),
        ("2026-09-21", "client_gone", 1, 5, {"output": 5}),
    ]
    assert account.services.ledger.losses(account_id=uuid7()) == []
    account.check()


def test_records_of_earlier_releases_settle(account):
    plan = account.bucket(100_000)
    granted = account.services.ledger.grant(
        account_id=account.account_id.hex, bucket_id=plan.hex, journal_id=account.journals[0], grant_id=None,
        amount=50_000, spend_for_s=900,
    )  # fmt: skip
    part = Part(plan.hex, granted.grant_id, account.flat, "token", "balance", 3_000, 1, Counts(output=3))
    new = account.record(Counts(output=5), Counts(), parts=[part])
    new.unpaid = None
    text = encode_record(new)
    old = text.replace(b'"c":[0,0,0,0,5,0,0,0]', b'"c":[0,0,0,0,5,0,0]')
    old = old.replace(b"1,[0,0,0,0,3,0,0,0]", b"1,[0,0,0,0,3,0,0]")
    old = old.replace(b'"loss":[]', b'"loss":[0,[0,0,0,0,2,0,0]]')
    assert len(old) == len(text) - 4 + len("0,[0,0,0,0,2,0,0]")
    whole = new.__copy__()
    whole.usage_id = whole.request_id = uuid7().hex
    whole.c, whole.provider_total = Counts(output=3), 3
    without = encode_record(whole).replace(b'"loss":[]', b'"loss":null')
    used = [(plan.hex, granted.grant_id, 3_000)]
    batch = [(1, account.account_id.hex, used, old), (2, account.account_id.hex, used, without)]
    settle_store.settle(account.services.connection, account.journals[0], 2, batch, account.rates)
    assert lost(account.read(new)) == [("unnamed", 0, 2)]
    assert account.read(whole)["loss"] == []
    assert account.read(new)["cache_write_1h"] == 0
    account.check()


@contextlib.contextmanager
def at_once(*jobs):
    """Runs the jobs in threads, and the body meanwhile; what one of them raises is raised."""
    errors = []

    def run(job):
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_two_hosts_draw_at_once_from_one_account_while_grants_come_and_go(account, database_url):
    """Nothing is drawn twice, nothing below zero, and nobody waits for ever: buckets are locked before grants everywhere."""
    plans = [account.bucket(400_000, priority=n) for n in (1, 2)]
    cap = account.bucket(500_000, kind="cap")
    rounds, records = 25, {0: [], 1: []}

    def lease(ledger, which, grant_id=None):
        return ledger.grant(
            account_id=account.account_id.hex, bucket_id=plans[0].hex, journal_id=account.journals[which], grant_id=grant_id,
            amount=50_000, spend_for_s=900,
        )  # fmt: skip

    held = [lease(account.services.ledger, which).grant_id for which in (0, 1)]

    def host(which):
        def run():
            with contextlib.closing(connect(database_url)) as connection:
                for seq in range(1, rounds + 1):
                    part = Part(
                        plans[0].hex,
                        held[which],
                        account.flat,
                        "token",
                        "balance",
                        1_000,
                        1,
                        Counts(output=1),
                    )
                    found = account.record(Counts(output=16), Counts(output=15), parts=[part], beside=[cap])
                    records[which].append(found)
                    account.settle(found, journal=which, connection=connection, seq=seq)

        return run

    def leases(which):
        def run():
            with contextlib.closing(connect(database_url)) as connection:
                ledger = type(account.services.ledger)(connection, account.services.clock)
                for _ in range(rounds):
                    # A host gives back no more than it has free: what its records will draw stays.
                    got = lease(ledger, which, held[which])
                    if got is not None and got.added:
                        back = min(20_000, got.added)
                        ledger.return_grant(
                            account.account_id.hex, held[which], account.journals[which], back
                        )

        return run

    with at_once(host(0), host(1), leases(0), leases(1)):
        pass
    rows = [account.read(record) for which in records.values() for record in which]
    drawn = sum(part[5] for row in rows for part in row["parts"] if part[4] == "cap") // 1000
    gone = sum(n for row in rows for _, _, n in lost(row))
    assert drawn + gone == 15 * 2 * rounds
    assert account.left()[cap] == 500_000 - 1000 * drawn
    account.check()
