"""A small works in which everything has happened once: the valid database that the auditor's mutations corrupt."""

import contextlib
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

from tests.charging.ledger.test_accounts import first_attempt
from tests.support.rechain import rechain
from tokenworks.billing import TestProvider, bill_store
from tokenworks.catalog import Counts, split
from tokenworks.charging import chain_all
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.messages import Amount, Loss, Part, UsageRecord
from tokenworks.charging.model import CAP_RATE, decode_record, encode_record
from tokenworks.kernel import ManualClock, ids, uuid7
from tokenworks.subscriptions import month_start
from tokenworks.subscriptions.model import add_months
from tokenworks.subscriptions.people import privacy_store
from tokenworks.trust.identity.approvals import Approval

MODEL = "m"
MONTHS_BACK = 4


@contextlib.contextmanager
def ids_follow(clock):
    """Ids are made at the instants of a clock that stands still, as they are where all clocks are one."""
    before = ids.time, ids._sequence
    ids.time = SimpleNamespace(time_ns=lambda: int(clock.now().timestamp() * 1000) * 1_000_000)
    ids._sequence = ids._Sequence()
    try:
        yield
    finally:
        ids.time, ids._sequence = before


# What the database dates by its own clock is dated as if that had been the same one.
_AT = "to_timestamp(('x' || left(replace({}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"
ONE_CLOCK = (
    f"UPDATE entry SET posted_at = {_AT.format('entry_id')} WHERE substr(entry_id::text, 15, 1) = '7'",
    """UPDATE entry e SET posted_at = u.at FROM (SELECT account_id, entry_id, max(ended_at) + interval '1 second' AS at FROM usage GROUP BY 1, 2) u
       WHERE u.account_id = e.account_id AND u.entry_id = e.entry_id""",
    "UPDATE usage u SET settled_at = e.posted_at FROM entry e WHERE e.account_id = u.account_id AND e.entry_id = u.entry_id",
    """UPDATE journal j SET settled_at = u.at FROM (SELECT journal_id, max(settled_at) AS at FROM usage GROUP BY 1) u
       WHERE u.journal_id = j.journal_id""",
    # What was put apart was settled after that.
    """UPDATE journal j SET settled_at = settled_at + interval '1 second'
       WHERE EXISTS (SELECT 1 FROM quarantine q WHERE q.journal_id = j.journal_id)""",
    *(f"UPDATE {table} SET {column} = {_AT.format(id_)}" for table, column, id_ in (
        ("account", "created_at", "account_id"), ("api_key", "created_at", "key_id"), ("bucket", "created_at", "bucket_id"),
        ("grants", "opened_at", "grant_id"), ("rate_limit", "created_at", "limit_id"), ("journal", "created_at", "journal_id"),
        ("quarantine", "quarantined_at", "quarantine_id"))),
    "UPDATE api_key SET revoked_at = created_at + interval '1 minute' WHERE revoked_at IS NOT NULL",
    "UPDATE member SET cap_set_at = created_at",
)  # fmt: skip


def settling(seq, record):
    used = [Amount(part.bucket_id, part.grant_id, part.amount) for part in record.parts]
    return seq, record.account_id, used, encode_record(record)


class Spending:
    """What a host does: grants, records, settlement. Records are of real keys and happened when the clock says."""

    def __init__(self, services, host):
        self.services = services
        self.journal_id = uuid7()
        self.seq = 0
        self.cards = services.offerings.rate_cards()
        services.ledger.register_journal(self.journal_id, host)

    def rates(self, version, model):
        card = self.cards.get(version)
        rate = card.rate_for(model) if card else None
        return None if rate is None else (rate.model_class, rate.weights())

    def grant(self, account_id, bucket_id, amount, grant_id=None, spend_for_s=900):
        found = self.services.ledger.grant(
            account_id=account_id.hex, bucket_id=bucket_id.hex, journal_id=self.journal_id, grant_id=grant_id,
            amount=amount, spend_for_s=spend_for_s,
        )  # fmt: skip
        assert found is not None and found.added == amount, (found, amount)
        return found.grant_id

    def open_buckets(self, account_id, *kinds):
        now = self.services.clock.now()
        return [
            b for b in self.services.ledger.buckets(account_id)
            if b.kind in kinds and b.closing is None and b.valid_from <= now
            and (b.valid_until is None or b.valid_until > now) and (b.remaining or b.kind == "window")
        ]  # fmt: skip

    def record(self, person, counts, parts, *, lost=(), unpaid=None, key=0, state="complete", flags=()):
        now = self.services.clock.now()
        now_ms = int(now.timestamp() * 1000)
        settle_store.ensure_usage_months(self.services.connection, [month_start(now), now])
        key_id, member_id = person.keys[key]
        return UsageRecord(
            person.account_id.hex, *first_attempt(uuid7(now_ms).hex), key_id.hex, member_id.hex, "chat", MODEL, "stub",
            state, "completed" if state == "complete" else "client_gone", "provider", now_ms, now_ms + 500, 100, 500, counts,
            sum(counts), list(parts), list(lost), list(flags), f"up-{self.seq}", unpaid=unpaid,
            risk_tokens=sum(sum(loss.counts) for loss in lost),
        )  # fmt: skip

    def settle(self, *records, quarantine=None):
        first = self.seq + 1
        self.seq += len(records) + 1  # a progress record is settled, too, and makes no usage
        batch = [settling(first + at, record) for at, record in enumerate(records)]
        settle_store.settle(
            self.services.connection, self.journal_id, self.seq, batch, self.rates, quarantine=quarantine,
            lost_tokens=Counter(),
        )  # fmt: skip

    def spend(
        self,
        person,
        counts,
        *,
        lost=(),
        unpaid=None,
        key=0,
        close=True,
        caps=(),
        state="complete",
        requests=1,
    ):
        """What the balances pay, in spending order, beside windows and caps; `lost` and `unpaid` are beside that."""
        held, parts, left, asked = [], [], counts, requests
        for bucket in sorted(
            self.open_buckets(person.account_id, "balance"), key=lambda b: (b.priority, b.bucket_id)
        ):
            weights = self.rates(bucket.rate_version, MODEL)[1]
            (share,), asked, left = split([(weights, bucket.remaining)], left, asked)
            if not share.amount:
                continue
            grant_id = self.grant(person.account_id, bucket.bucket_id, share.amount)
            held.append((bucket, grant_id))
            parts.append(
                Part(bucket.bucket_id.hex, grant_id, bucket.rate_version, bucket.unit, "balance", share.amount, share.requests,
                     share.counts)
            )  # fmt: skip
        assert not any(left), left
        for window in self.open_buckets(person.account_id, "window"):
            grant_id = self.grant(person.account_id, window.bucket_id, 1000)
            held.append((window, grant_id))
            parts.append(
                Part(
                    window.bucket_id.hex,
                    grant_id,
                    window.rate_version,
                    window.unit,
                    "window",
                    1000,
                    1,
                    counts,
                )
            )
        for cap in caps:
            grant_id = self.grant(person.account_id, cap, 1000 * sum(counts))
            held.append((None, grant_id))
            parts.append(Part(cap.hex, grant_id, CAP_RATE, "token", "cap", 1000 * sum(counts), 0, counts))
        total = Counts(
            *(
                sum(each)
                for each in zip(
                    counts, *(loss.counts for loss in lost), *([unpaid[1]] if unpaid else []), strict=True
                )
            )
        )
        record = self.record(person, total, parts, lost=lost, unpaid=unpaid, key=key, state=state)
        self.settle(record)
        if close:
            for _, grant_id in held:
                self.services.ledger.close_grant(person.account_id.hex, grant_id, self.journal_id, self.seq)
        return UUID(record.usage_id)


class Person:
    """A subscriber with keys of its owner and of its members."""

    def __init__(self, services, number, **profile):
        self.services = services
        self.subscriber = services.subscriptions.register(
            f"+86138000{number:05d}", f"Person {number}", **profile
        )
        self.account_id = self.subscriber.account_id
        self.owner_id = services.subscriptions.owner_of(self.subscriber)
        self.keys = []
        self.key(self.owner_id)

    def key(self, member_id, **more):
        key_id, _ = self.services.keys.issue(
            account_id=self.account_id, member_id=member_id, name="a key", **more
        )
        self.keys.append((key_id, member_id))

    def product(self, offering_id):
        return next(
            p for p in self.services.orders.products(self.subscriber)
            if p.offering_id == offering_id and p.state == "active"
        )  # fmt: skip

    def bills(self):
        return sorted(self.services.bills.all(self.subscriber)[0], key=lambda b: b.period_end)

    def find(self):
        return self.services.subscriptions.find(str(self.subscriber.subscriber_id))


def start_clock(now):
    """`MONTHS_BACK` months ago, so that all that happens has happened by now."""
    return ManualClock(add_months(month_start(now), -MONTHS_BACK) + timedelta(days=2, hours=9))


class World:
    """Everything once, in five months."""

    def __init__(self, services, clock):
        self.services, self.clock = services, clock
        with ids_follow(clock):
            self.build()
        with services.connection.transaction():
            services.connection.execute("SET LOCAL session_replication_role = replica")
            for statement in ONE_CLOCK:
                services.connection.execute(statement)
            rechain(services.connection)
        # All of it is in a chain, what names heads too.
        now = services.connection.execute("SELECT clock_timestamp()").fetchone()[0]
        for hours in (2, 4):
            chain_all(services.connection, now + timedelta(hours=hours))

    def build(self):
        services = self.services
        self.host = Spending(services, "host-a")
        self.other = Spending(services, "host-b")
        self.first_month()
        self.next_month()
        self.second_month()
        self.next_month()
        self.third_month()
        self.next_month()
        self.fourth_month()

    def next_month(self):
        """To one hour into the next month: cycles, bills, and a charge file's turn."""
        after = add_months(month_start(self.clock.now()), 1) + timedelta(hours=1)
        self.clock.move(after - self.clock.now())
        self.services.orders.run_cycles()
        self.services.charges.recognise()
        self.services.bills.run()
        self.services.dunning.run_dunning()

    def days(self, count):
        self.clock.move(timedelta(days=count))
        self.services.orders.run_cycles()
        self.services.charges.recognise()

    def first_month(self):
        w = self.services
        add = w.members.add
        self.family = Person(w, 1, bill_day=1)
        w.orders.place(self.family.subscriber, "ctc-standard", "order-1")
        self.shop = add(self.family.subscriber, "shop", department=True)
        self.son = add(self.family.subscriber, "son", cap_tokens=100_000, cap_period="month")
        self.daughter = add(
            self.family.subscriber, "daughter", cap_tokens=50_000, cap_period="total", parent="shop"
        )
        self.family.key(self.son.member_id)
        self.family.key(
            self.daughter.member_id, cap_bucket_id=w.ledger.add_cap(self.family.account_id, 20_000), cap_tokens=20_000,
            models=["m"], origins=["https://a.example"], expires_at=self.clock.now() + timedelta(days=365),
        )  # fmt: skip
        w.keys.revoke(self.family.keys[2][0])
        self.clock.move(timedelta(minutes=10))
        w.members.transfer(
            self.family.subscriber,
            self.son,
            self.daughter,
            30_000,
            "pocket money",
            made_by="owner",
            idempotency_key="t-1",
        )
        w.ledger.set_limit(
            "subscriber", self.family.account_id.hex, self.family.account_id, requests_per_min=60, tokens_per_min=None,
            streams_max=4,
        )  # fmt: skip
        w.ledger.set_limit(
            "key", self.family.keys[0][0].hex, self.family.account_id, requests_per_min=None, tokens_per_min=9000,
            streams_max=None,
        )  # fmt: skip
        self.steps = Person(w, 2)
        w.orders.place(self.steps.subscriber, "shanghai-mobile-payg")
        w.payg.top_up(self.steps.subscriber, 3_000_000_000, "top-1")
        self.roller = Person(w, 3)
        w.orders.place(self.roller.subscriber, "sample-rollover")
        self.changer = Person(w, 4)
        w.orders.place(self.changer.subscriber, "ctc-light")
        self.coder = Person(w, 5, audiences=["developer"])
        w.orders.place(self.coder.subscriber, "tianyi-coding-lite")
        self.home = Person(w, 6, broadband="sh87654321")
        w.orders.place(self.home.subscriber, "sample-home-bundle")
        for work in w.orders.work_orders():
            w.orders.answer(work.work_order_id, done=True)
        self.firm = Person(w, 7, audiences=["enterprise"], credit_limit_nano=10**14)
        w.subscriptions.set_contract_price(
            self.firm.subscriber,
            "sample-enterprise",
            "2999.99",
            "frame contract",
            self.clock.now() - timedelta(days=1),
        )
        w.orders.place(self.firm.subscriber, "sample-enterprise")
        self.debtor = Person(w, 8)
        w.orders.place(self.debtor.subscriber, "ctc-light")
        self.leaver = Person(w, 9)
        w.orders.place(self.leaver.subscriber, "ctc-premium")
        self.trial = Person(w, 10)
        self.trial_order = w.orders.place(self.trial.subscriber, "sample-trial")
        w.orders.place(self.trial.subscriber, "sample-weighted")
        w.identity.add_staff("Kim", "operator")
        w.identity.add_staff("Lee", "finance")
        w.consents.keep(self.family.subscriber, "terms", given=True)
        w.payg.control(self.steps.subscriber, cap_nano=60_000_000_000)
        self.days(1)
        self.spend_all()
        self.days(6)
        w.orders.change(self.changer.product("ctc-light").product_id, "ctc-standard", "now", "change-1")
        self.refund = w.refunds.refund(
            self.trial_weighted().order_id, "unused", "did not want it", idempotency_key="rf-1"
        )
        self.adjust()

    def trial_weighted(self):
        return self.trial.product("sample-weighted")

    def spend_all(self):
        spend, add = self.host.spend, Counts
        spend(self.family, add(fresh_input=1200, cached_input=300, output=400, reasoning=100))
        (cap, *_), _ = self.services.members.caps(self.son.member_id)
        spend(self.family, add(fresh_input=200, output=400), key=1, caps=[cap])
        spend(
            self.family,
            add(fresh_input=700, output=100),
            lost=[Loss("worker_lost", 0, Counts(output=250))],
            state="interrupted",
        )
        spend(self.steps, add(fresh_input=900, output=399_000))
        spend(self.steps, add(fresh_input=20, output=50), unpaid=(0, Counts(output=900_000)))
        spend(self.coder, add(fresh_input=3, output=4))
        spend(self.coder, add(fresh_input=3, output=4), close=False)
        spend(self.trial, add(fresh_input=30, cached_input=10, cache_write=5, output=400))
        spend(self.firm, add(fresh_input=30_000, audio_input=7, output=900, audio_output=3))
        self.other.spend(self.roller, add(fresh_input=2_000_000, output=1_000_000))
        self.other.spend(self.leaver, add(fresh_input=2_000_000, output=1_000_000), close=False)

    def adjust(self):
        w = self.services
        bucket = self.host.open_buckets(self.family.account_id, "balance")[0]
        made = w.adjustments.ask(bucket.bucket_id, 5_000_000, "an outage", "Kim", "a-1")
        w.adjustments.decide(made.adjustment_id, "Lee", do=True)
        made = w.adjustments.ask(bucket.bucket_id, -1_000_000, "a mistake", "Kim")
        w.adjustments.decide(made.adjustment_id, "Lee", do=True)
        made = w.adjustments.ask(bucket.bucket_id, 7_000_000, "not this", "Kim")
        w.adjustments.decide(made.adjustment_id, "Lee", do=False)
        w.adjustments.ask(bucket.bucket_id, 1_000_000, "undecided", "Kim")

    def second_month(self):
        w = self.services
        self.provider = TestProvider()
        family, debtor = self.family.bills()[0], self.debtor.bills()[0]
        w.payments.collect(self.firm.bills()[0], self.provider, "card-1")
        # A line of the family's bill is questioned, and credited in part.
        made = w.disputes.ask(family, 1, "What is this?")
        w.disputes.answer(made.dispute_id, "The plan.", "Kim")
        w.disputes.ask(family, 1, "And why so much?")
        w.bills.correct(family, 1, 1_000_000_000, "goodwill", "cn-1")
        _, text = w.charge_files.make_file()
        rows = [row.split("|") for row in text.split("\n") if row.startswith("D|")]
        answers = "".join(
            f"R|{row[1]}|rejected|no such number\n" if row[2] == debtor.bill_no else f"R|{row[1]}|accepted|\n"
            for row in rows
        )
        w.charge_files.acknowledge(self.answer(text, answers))
        # Too much came in over the counter, and one payment did not last.
        changer = self.changer.bills()[0]
        w.payments.pay(changer, "counter", "c-1", changer.amount_nano + 5_000_000_000)
        leaver = self.leaver.bills()[0]
        w.payments.pay(leaver, "bank_transfer", "b-1", 1_000_000_000)
        found = w.payments.pay(leaver, "bank_transfer", "b-2", 500_000_000)
        w.payments.reverse(found, "charged back")
        self.days(2)
        self.spend_all_again()
        w.subscriptions.suspend(self.trial.subscriber, "lost_phone", "lost in a taxi")
        self.days(3)
        w.subscriptions.lift(self.trial.find(), "lost_phone", "found again")
        w.subscriptions.suspend(self.steps.subscriber, "operator", "looked at")
        self.days(1)
        w.subscriptions.lift(self.steps.find(), "operator")
        w.orders.cancel(self.changer.product("ctc-standard").product_id, "now", "cancel-1")
        self.close_open_grants()
        w.orders.cancel(self.home.product("sample-home-bundle").product_id, "cycle_end")
        for _ in range(3):
            self.days(8)
            w.dunning.run_dunning()

    def answer(self, text, answers):
        head = text.split("\n", 1)[0].split("|")
        layout = head[1]
        sequence_no = next(int(field) for field in head[2:] if field.isdigit() and len(field) < 8)
        return f"A|{layout}|{sequence_no}\n{answers}"

    def spend_all_again(self):
        self.host.spend(self.family, Counts(fresh_input=11, output=12))
        self.host.spend(self.coder, Counts(fresh_input=5, output=6))
        self.host.spend(self.steps, Counts(fresh_input=5, output=6))
        # A grant of a host that is lost is written off; what it settles after that is late.
        lost = Spending(self.services, "host-lost")
        bucket = self.host.open_buckets(self.family.account_id, "balance")[0]
        grant_id = lost.grant(self.family.account_id, bucket.bucket_id, 60_000)
        self.services.ledger.write_off(UUID(grant_id))
        part = Part(
            bucket.bucket_id.hex,
            grant_id,
            bucket.rate_version,
            "token",
            "balance",
            7_000,
            1,
            Counts(output=7),
        )
        lost.settle(lost.record(self.family, Counts(output=7), [part]))
        # Records that the database refuses: one is held, one dropped, one released.
        for decided in (False, True, None):
            grant_id = lost.grant(self.family.account_id, bucket.bucket_id, 50_000)
            part = Part(
                bucket.bucket_id.hex,
                grant_id,
                bucket.rate_version,
                "token",
                "balance",
                3_000,
                1,
                Counts(output=3),
            )
            good = lost.record(self.family, Counts(output=3), [part])
            bad = decode_record(encode_record(good))
            bad.counted_by = "nobody" if decided is not True else good.counted_by
            bad.usage_id = bad.request_id = uuid7(int(good.usage_id[:12], 16)).hex
            if decided is True:
                # A character that the database refuses: it is mended by hand before the record is released.
                bad.upstream_id = "a\x00b"
            quarantine = {}
            lost.settle(bad, quarantine=quarantine)
            assert quarantine, decided
            found = self.services.ledger.quarantined()[-1]
            if decided is False:
                self.services.ledger.decide_quarantine(
                    found["quarantine_id"], release=False, rates=lost.rates
                )
                self.services.ledger.close_grant(
                    self.family.account_id.hex, grant_id, lost.journal_id, lost.seq
                )
            if decided is True:
                self.services.connection.execute(
                    "UPDATE quarantine SET record = replace(record, '\\u0000', '-') WHERE quarantine_id = %s",
                    (found["quarantine_id"],),
                )
                self.services.ledger.decide_quarantine(found["quarantine_id"], release=True, rates=lost.rates)

    def close_open_grants(self):
        for host in (self.host, self.other):
            for account, _bucket, grant_id, _amount, _used in self.services.ledger.open_grants(
                host.journal_id
            ):
                self.services.ledger.close_grant(account, grant_id, host.journal_id, host.seq)
        self.services.orders.finish_changes()
        self.services.refunds.finish()

    def third_month(self):
        w = self.services
        w.dunning.run_dunning()
        found = w.charge_files.make_file()
        if found is not None:
            rows = [row.split("|") for row in found[1].split("\n") if row.startswith("D|")]
            w.charge_files.acknowledge(
                self.answer(found[1], "".join(f"R|{row[1]}|accepted|\n" for row in rows))
            )
        debt = [bill for bill in self.debtor.bills() if bill.remaining_nano]
        if debt:
            w.payments.set_channel(debt[0], "direct", "no phone any more")
        w.members.invite(self.family.subscriber, "+8613800009999", "guest", cap_tokens=1000)
        self.days(2)
        self.host.spend(self.family, Counts(fresh_input=11, output=12))
        self.close_open_grants()
        # Who has credit leaves, and is paid out.
        w.orders.place(self.changer.subscriber, "ctc-light")
        w.subscriptions.close(self.changer.find())
        w.bills.run()
        self.leaving = Person(w, 11)
        w.orders.place(self.leaving.subscriber, "ctc-premium")
        self.days(4)

    def fourth_month(self):
        w = self.services
        bill = self.leaving.bills()[0]
        w.payments.pay(bill, "counter", "c-2")
        w.bills.correct(bill, 1, 2_000_000_000, "too much", "cn-2")
        w.refunds.refund(
            self.leaving.product("ctc-premium").order_id, "amount", "goodwill", amount_nano=1_000_000_000
        )
        w.subscriptions.close(self.leaving.find())
        self.days(1)
        w.bills.run()
        for bill in self.leaving.bills():
            if bill.remaining_nano:
                w.payments.pay(bill, "counter", f"c-{bill.bill_no}")
        self.next_month()
        for bill in self.leaving.bills():
            if bill.remaining_nano:
                w.payments.pay(bill, "counter", f"c-{bill.bill_no}")
        if -w.charges.receivable(self.leaving.account_id) >= 10_000_000:
            w.payments.pay_out(self.leaving.find(), "bank_transfer", "out-1")
        debt = [bill for bill in self.debtor.bills() if bill.remaining_nano]
        if debt:
            w.payments.write_off(debt[0], "hopeless", "wo-1")
        self.host.spend(self.family, Counts(fresh_input=3, output=4))
        w.charge_files.make_file()
        w.charges.recognise()
        self.people()

    def people(self):
        """Who changes its number, is checked, asks for more than one person may do, and is erased."""
        w = self.services
        w.subscriptions.change_phone(self.firm.subscriber, "+8613800077777")
        privacy_store.add_real_name_check(
            w.connection, uuid7(), self.firm.subscriber.subscriber_id, self.clock.now()
        )
        for number, key in enumerate(("open", "given", "used")):
            wanted = Approval(
                uuid7(),
                "bill.pay_out",
                str(self.firm.account_id),
                key,
                10**13 + number,
                "Kim",
                self.clock.now(),
            )
            w.approvals.ask(wanted)
            if key != "open":
                w.approvals.decide(wanted.approval_id, "Lee", approve=True)
            if key == "used":
                w.approvals.check("Kim", wanted.action, wanted.ref, wanted.amount_nano, key)
        w.privacy.erase(self.changer.find(), even_if_owed=True)
        # A number that a release before gave to a bill that it rolled back.
        (number,) = bill_store.next_numbers(w.connection, "bill", 1)
        w.connection.execute("INSERT INTO document_gap VALUES ('bill', %s, 'rolled back')", (number,))
