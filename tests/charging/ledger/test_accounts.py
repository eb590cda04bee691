"""The database side on real PostgreSQL, against a naive oracle, and corruption by hand."""

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tokenworks.catalog import Counts
from tokenworks.charging import model, verify
from tokenworks.charging.errors import GrantNotInDoubt, GrantStillOpen, RecordRefused
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Amount, Loss, Part, UsageRecord
from tokenworks.kernel import uuid7

IDS = ("01a207a0000070008000000000000001", "01a207a0000070008000000000000002")


def first_attempt(request_id=None):
    """(usage id, request id, 1): the first attempt of a request has the request's id."""
    request_id = request_id or uuid7().hex
    return request_id, request_id, 1


def usage_record(seq, account_id, part, counts, usage_id=None, loss=(), state="complete", **more):
    parts = [Part(part[0], part[1], part[2], "token", "balance", part[3], 1, None)]
    return seq, UsageRecord(
        account_id.hex, *first_attempt(usage_id), *IDS, "chat", "m", "d", state, "completed", "provider",
        1_790_000_000_000, 1_790_000_000_500, 100, 500, counts, sum(counts), parts, list(loss), [], None, **more,
    )  # fmt: skip


def settling(seq, record):
    used = [Amount(part.bucket_id, part.grant_id, part.amount) for part in record.parts]
    return seq, record.account_id, used, model.encode_record(record)


def no_rates(rate_version, name):
    return None


def settle(connection, journal_id, up_to, records, rates=no_rates, **more):
    batch = [settling(seq, record) for seq, record in records]
    return settle_store.settle(connection, journal_id, up_to, batch, rates, **more)


@pytest.fixture
def sold(services):
    """(works, account, bucket, journal) with a trial of 10 000 tokens, which cost nothing, and an add-on, which has a charge."""
    subscriber = services.subscriptions.register("+8613800000001", broadband="sh87654321")
    services.orders.place(subscriber, "sample-trial")
    services.orders.place(subscriber, "uplink-acceleration")
    services.orders.answer(services.orders.work_orders()[0].work_order_id, done=True)
    journal_id = uuid7()
    services.ledger.register_journal(journal_id, "test")
    return services, subscriber.account_id, services.ledger.buckets(subscriber.account_id)[0], journal_id


def grant(services, account_id, bucket, journal_id, amount, grant_id=None):
    return services.ledger.grant(
        account_id=account_id.hex,
        bucket_id=bucket.bucket_id.hex,
        journal_id=journal_id,
        grant_id=grant_id,
        amount=amount,
        spend_for_s=900,
    )


def findings(services):
    return verify(services.connection, services.offerings.rate_cards())


def test_settling_twice_applies_once(sold):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 5_000_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 7_000)
    one = usage_record(3, account_id, part, Counts(fresh_input=3, output=4))
    assert settle(services.connection, journal_id, 3, [one]) == 1
    assert settle(services.connection, journal_id, 3, [one]) == 0
    two = usage_record(5, account_id, part, Counts(fresh_input=3, output=4))
    # A batch that overlaps: only what is above the settled sequence is applied.
    assert settle(services.connection, journal_id, 5, [one, two]) == 1
    now = services.ledger.buckets(account_id)[0]
    assert (now.left, now.spent, now.remaining) == (10_000_000 - 14_000, 14_000, 5_000_000)
    assert findings(services) == []


def test_a_usage_id_is_unique_whatever_the_sequence(sold):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 5_000_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 1_000)
    one = usage_record(1, account_id, part, Counts(output=1))
    settle(services.connection, journal_id, 1, [one])
    again = usage_record(2, account_id, part, Counts(output=1), usage_id=one[1].usage_id)
    with pytest.raises(psycopg.errors.UniqueViolation):
        settle(services.connection, journal_id, 2, [again])
    assert services.ledger.buckets(account_id)[0].spent == 1_000
    assert findings(services) == []


def test_a_grant_is_not_overdrawn(sold):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 1_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 2_000)
    with pytest.raises(psycopg.errors.CheckViolation):
        settle(services.connection, journal_id, 1, [usage_record(1, account_id, part, Counts(output=2))])
    assert services.ledger.usage(account_id) == []


def test_a_grant_is_closed_only_when_its_records_are_settled(sold):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 5_000_000)
    with pytest.raises(GrantStillOpen):
        services.ledger.close_grant(account_id.hex, granted.grant_id, journal_id, 1)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 2_000)
    settle(services.connection, journal_id, 1, [usage_record(1, account_id, part, Counts(output=2))])
    services.ledger.close_grant(account_id.hex, granted.grant_id, journal_id, 1)
    services.ledger.close_grant(account_id.hex, granted.grant_id, journal_id, 1)
    now = services.ledger.buckets(account_id)[0]
    assert (now.remaining, now.granted, now.used) == (9_998_000, 0, 2_000)
    assert findings(services) == []


def test_another_journals_grant_cannot_be_drawn_on(sold):
    services, account_id, bucket, journal_id = sold
    other = uuid7()
    services.ledger.register_journal(other, "other")
    granted = grant(services, account_id, bucket, other, 5_000_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 2_000)
    with pytest.raises(RecordRefused, match="not open"):
        settle(services.connection, journal_id, 1, [usage_record(1, account_id, part, Counts(output=2))])
    assert services.ledger.usage(account_id) == []


def test_expiry_takes_what_remains_and_the_granted_part_when_its_grant_closes(sold, clock):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 4_000_000)
    clock.move(timedelta(days=31))
    assert services.ledger.expire_due() == 1
    now = services.ledger.buckets(account_id)[0]
    assert (now.remaining, now.granted, now.expired) == (0, 4_000_000, 6_000_000)
    assert grant(services, account_id, bucket, journal_id, 1) is None
    services.ledger.close_grant(account_id.hex, granted.grant_id, journal_id, 0)
    now = services.ledger.buckets(account_id)[0]
    assert (now.granted, now.expired, now.left) == (0, 10_000_000, 0)
    assert findings(services) == []


def test_history_is_not_changed(sold, owner):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 5_000_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 1_000)
    settle(services.connection, journal_id, 1, [usage_record(1, account_id, part, Counts(output=1))])
    for statement in (
        "UPDATE usage SET output = 0",
        "DELETE FROM posting",
        "UPDATE entry SET kind = 'x'",
        "UPDATE offering SET content = ''",
        "DELETE FROM rate_card",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            services.connection.execute(statement)
        # Its owner has the right, and is stopped by a trigger.
        with pytest.raises(psycopg.errors.RaiseException, match="history"):
            owner.execute(statement)


CORRUPTIONS = {
    "a bucket's remainder": "ALTER TABLE bucket DROP CONSTRAINT bucket_check; UPDATE bucket SET remaining = remaining + 1",
    "a bucket's total and remainder": "UPDATE bucket SET total = total + 1, remaining = remaining + 1",
    "a grant's use": "UPDATE grants SET used = used + 1",
    "a grant's amount": "UPDATE grants SET amount = amount + 1",
    "a closed grant": "UPDATE grants SET state = 'closed'",
    "a record's tokens": "ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET output = output + 1",
    "a record's price": """ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET parts = jsonb_set(parts, '{0,5}', '999')""",
    "a record's rate": """ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET parts = jsonb_set(parts, '{0,2}', '"rate-x"')""",
    "a record that is gone": "ALTER TABLE usage DISABLE TRIGGER ALL; DELETE FROM usage",
    "a record beyond the journal": "ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET seq = 99",
    "a posting": "ALTER TABLE posting DISABLE TRIGGER ALL; UPDATE posting SET amount = amount + 1 WHERE ledger_account = 'used'",
    "an entry that is gone": "ALTER TABLE entry DISABLE TRIGGER ALL; DELETE FROM entry WHERE kind = 'usage'",
    "a charge": "UPDATE charge SET price_nano = price_nano + 1, amount_nano = amount_nano + 1",
    "a charge that is gone": "DELETE FROM charge",
    "a bucket for nothing": "UPDATE bucket SET used = used + 1, remaining = remaining - 1",
    "a class of a record": "ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET cache_write_1h = 1, provider_total = NULL",
    "a loss that is gone": "ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET loss = NULL",
    "a loss for no cause": """ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET loss = jsonb_set(loss, '{0,0}', '"luck"')""",
    "a loss of another class": """ALTER TABLE usage DISABLE TRIGGER ALL;
        UPDATE usage SET loss = jsonb_set(loss, '{0,2}', '[2, 0, 0, 0, 0, 0, 0, 0]')""",
    "a loss's request": "ALTER TABLE usage DISABLE TRIGGER ALL; UPDATE usage SET loss = jsonb_set(loss, '{0,1}', '1')",
    "the posting of a loss": """ALTER TABLE posting DISABLE TRIGGER ALL;
        UPDATE posting SET amount = 2 * amount WHERE ledger_account IN ('operator_loss', 'produced')""",
    "a loss's posting that is gone": """ALTER TABLE posting DISABLE TRIGGER ALL;
        DELETE FROM posting WHERE ledger_account IN ('operator_loss', 'produced')""",
}


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_one_corrupted_row_is_found(sold, owner, name):
    services, account_id, bucket, journal_id = sold
    granted = grant(services, account_id, bucket, journal_id, 5_000_000)
    part = (bucket.bucket_id.hex, granted.grant_id, bucket.rate_version, 7_000)
    _, record = usage_record(
        1, account_id, part, Counts(fresh_input=3, output=6), loss=[Loss("client_gone", 0, Counts(output=2))]
    )
    record.parts = [part._replace(counts=Counts(fresh_input=3, output=4)) for part in record.parts]
    settle(services.connection, journal_id, 1, [(1, record)])
    assert findings(services) == []
    for statement in CORRUPTIONS[name].split(";"):
        owner.execute(statement)
    assert findings(services), name


class LedgerMachine(RuleBasedStateMachine):
    """Grants, settlement, closing and expiry against an oracle that keeps plain numbers."""

    services = None
    clock = None

    @initialize()
    def sell(self):
        self.subscriber = self.services.subscriptions.register(f"+8613{uuid7().int % 10**9:09d}")
        self.services.orders.place(self.subscriber, "sample-trial")
        self.account = self.subscriber.account_id
        # Settlement goes by the database's clock, which does not move as the test's does.
        self.services.connection.execute(
            "UPDATE bucket SET valid_from = least(valid_from, now()) WHERE account_id = %s", (self.account,)
        )
        self.bucket = self.services.ledger.buckets(self.account)[0]
        self.journals = [uuid7(), uuid7()]
        self.seq = dict.fromkeys(self.journals, 0)
        for journal_id in self.journals:
            self.services.ledger.register_journal(journal_id, "test")
        self.remaining, self.expired, self.used = 10_000_000, 0, 0
        self.grants = {}  # journal -> [grant id, amount, used]
        self.lost = {}  # journal -> a grant of it that was written off
        self.over = self.frozen = False
        cards = self.services.offerings.rate_cards()
        self.rates = lambda version, name: ("standard", cards[version].rate_for(name).weights())

    def free(self, amount):
        """What comes back is there again, or expires at once where the bucket's time is over."""
        if self.over:
            self.expired += amount
        else:
            self.remaining += amount

    @rule(which=st.integers(0, 1), amount=st.integers(0, 4_000_000))
    def grant(self, which, amount):
        journal_id = self.journals[which]
        held = self.grants.get(journal_id)
        granted = grant(
            self.services, self.account, self.bucket, journal_id, amount, held[0] if held else None
        )
        closed = self.over or self.frozen
        expected = 0 if closed else min(amount, self.remaining)
        if closed or (held is None and not expected):
            assert granted is None
            return
        assert granted.added == expected
        self.remaining -= expected
        if held is None:
            self.grants[journal_id] = [granted.grant_id, expected, 0]
        else:
            held[1] += expected

    @precondition(lambda self: self.grants)
    @rule(
        which=st.integers(0, 1),
        tokens=st.lists(st.integers(0, 500), min_size=1, max_size=4),
        repeat=st.booleans(),
    )
    def settle(self, which, tokens, repeat):
        journal_id = self.journals[which]
        held = self.grants.get(journal_id)
        if held is None or held[2] + 1000 * sum(tokens) > held[1]:
            return
        records = []
        for count in tokens:
            self.seq[journal_id] += 1
            part = (self.bucket.bucket_id.hex, held[0], self.bucket.rate_version, 1000 * count)
            records.append(usage_record(self.seq[journal_id], self.account, part, Counts(output=count)))
        for _ in range(1 + repeat):
            settle(self.services.connection, journal_id, self.seq[journal_id], records)
        held[2] += 1000 * sum(tokens)

    @rule(which=st.integers(0, 1))
    def close(self, which):
        journal_id = self.journals[which]
        held = self.grants.pop(journal_id, None)
        if held is None:
            return
        self.services.ledger.close_grant(self.account.hex, held[0], journal_id, self.seq[journal_id])
        self.used += held[2]
        self.free(held[1] - held[2])

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 1), amount=st.integers(1, 2_000_000))
    def give_back(self, which, amount):
        journal_id = self.journals[which]
        held = self.grants.get(journal_id)
        if held is None:
            return
        fits = amount <= held[1] - held[2]
        assert self.services.ledger.return_grant(self.account.hex, held[0], journal_id, amount) is fits
        if fits:
            held[1] -= amount
            self.free(amount)

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 1))
    def write_off(self, which):
        journal_id = self.journals[which]
        held = self.grants.get(journal_id)
        if held is None:
            return
        with pytest.raises(GrantNotInDoubt):
            self.services.ledger.write_off(UUID(held[0]))
        self.services.connection.execute(
            "UPDATE grants SET spend_until = now() - interval '1 hour' WHERE grant_id = %s", (held[0],)
        )
        assert self.services.ledger.write_off_old(7200) == 0
        assert self.services.ledger.write_off_old(1800) == 1
        del self.grants[journal_id]
        self.lost[journal_id] = held[0]
        self.used += held[2]
        self.free(held[1] - held[2])

    @precondition(lambda self: self.lost)
    @rule(which=st.integers(0, 1), tokens=st.integers(1, 3000))
    def settle_late(self, which, tokens):
        """A lost host comes back: its records draw on what is free, whole tokens, and never below zero."""
        journal_id = self.journals[which]
        lost = self.lost.get(journal_id)
        if lost is None:
            return
        self.seq[journal_id] += 1
        part = (self.bucket.bucket_id.hex, lost, self.bucket.rate_version, 1000 * tokens)
        record = usage_record(self.seq[journal_id], self.account, part, Counts(output=tokens))
        settle(self.services.connection, journal_id, self.seq[journal_id], [record], self.rates)
        drawn = min(tokens, self.remaining // 1000) * 1000
        self.remaining -= drawn
        self.used += drawn

    @rule(which=st.integers(0, 1), tokens=st.integers(1, 3000), repeat=st.booleans())
    def settle_unpaid(self, which, tokens, repeat):
        """What a host could not pay is drawn once from what no host has, and what is not there is lost."""
        journal_id = self.journals[which]
        self.seq[journal_id] += 1
        part = (self.bucket.bucket_id.hex, self.bucket.bucket_id.hex, self.bucket.rate_version, 0)
        _, record = usage_record(0, self.account, part, Counts(output=tokens))
        record.parts, record.unpaid = [], (1, Counts(output=tokens))
        for _ in range(1 + repeat):
            settle(
                self.services.connection,
                journal_id,
                self.seq[journal_id],
                [(self.seq[journal_id], record)],
                self.rates,
            )
        drawn = min(tokens, self.remaining // 1000)
        self.remaining -= 1000 * drawn
        self.used += 1000 * drawn
        row = self.services.ledger.usage_record(self.account, UUID(record.usage_id))
        assert sum(loss["counts"].get("output", 0) for loss in row["loss"]) == tokens - drawn

    @rule(frozen=st.booleans())
    def freeze(self, frozen):
        self.services.subscriptions.set_state(self.subscriber, "suspended" if frozen else "active")
        self.frozen = frozen

    @rule()
    def expire(self):
        if not self.over:
            self.clock.move(timedelta(days=31))
            self.over = True
        self.services.ledger.expire_due()
        self.expired += self.remaining
        self.remaining = 0

    @invariant()
    def same(self):
        if not hasattr(self, "account"):
            return
        bucket = self.services.ledger.buckets(self.account)[0]
        granted = sum(held[1] for held in self.grants.values())
        in_flight = sum(held[2] for held in self.grants.values())
        assert (bucket.remaining, bucket.granted, bucket.granted_used) == (self.remaining, granted, in_flight)
        assert (bucket.used, bucket.expired, bucket.withdrawn) == (self.used, self.expired, 0)
        assert bucket.total == 10_000_000
        assert findings(self.services) == []


@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=pytest.mark.nightly)])
def test_the_ledger_agrees_with_a_naive_oracle(services, clock, examples):
    def machine():
        made = LedgerMachine()
        made.services, made.clock = services, clock
        return made

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
