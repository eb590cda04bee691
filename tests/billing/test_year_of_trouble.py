"""A year in which much goes wrong: suspensions by every cause, payments taken back, credits, numbers that go to somebody else, and a
carrier that answers at once, late, twice, otherwise the second time, and never. At the end of every month the ledger verifies, every
bill is explained line by line, and what each subscriber owes is what a book in plain arithmetic says.
"""

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from tests.support.auditor import verify
from tests.support.spend import Spender
from tokenworks.billing import LAYOUT, DunningPlan
from tokenworks.kernel import ManualClock, TokenworksError
from tokenworks.subscriptions import BILLING_ZONE

BEGIN = datetime(2027, 1, 1, 9, 30)
FEN = 10_000_000
CAUSES = ("operator", "fraud", "lost_phone", "own_wish")
PLANS = ("ctc-light", "ctc-standard", "ctc-premium", "sample-rollover")


@pytest.fixture
def clock():
    return ManualClock(BEGIN.replace(tzinfo=BILLING_ZONE).astimezone(UTC))


def half_up(value):
    return int(value + Fraction(1, 2)) if value >= 0 else -int(-value + Fraction(1, 2))


class Carrier:
    """Collects by phone bill, and answers as its mood is."""

    def __init__(self, services, dice, paid):
        self.services, self.dice, self.paid = services, dice, paid
        # (when, the answer's text, what it says of each bill) that is still to come.
        self.coming, self.moods, self.said = [], {}, {}
        self.unanswered = []

    def collect(self, now):
        made = self.services.charge_files.make_file()
        if made is None:
            return
        sequence, text = made
        rows = [line.split("|") for line in text.splitlines() if line.startswith("D|")]
        mood = ("at once", "late", "twice", "otherwise", "never")[sequence % 5]
        self.moods[mood] = self.moods.get(mood, 0) + 1
        if mood == "never":
            self.unanswered.append((now + timedelta(days=50), sequence))
            return
        first = {int(row[1]): (row, self.dice.random() < 0.85) for row in rows}
        wait = timedelta(days=40 if mood == "late" else 2)
        self.coming.append((now + wait, sequence, first))
        if mood == "twice":
            self.coming.append((now + wait + timedelta(days=3), sequence, first))
        if mood == "otherwise":
            other = {no: (row, yes if no % 2 else not yes) for no, (row, yes) in first.items()}
            self.coming.append((now + timedelta(days=9), sequence, other))

    def answer(self, now):
        for due, sequence in [one for one in self.unanswered if one[0] <= now]:
            self.unanswered.remove((due, sequence))
            self.services.charge_files.lapse(sequence, "no answer for fifty days")
        for one in [one for one in self.coming if one[0] <= now]:
            self.coming.remove(one)
            _, sequence, lines = one
            rows = [f"R|{no}|{'accepted' if yes else 'rejected'}|{'' if yes else 'no money'}" for no, (_, yes) in lines.items()]  # fmt: skip
            try:
                self.services.charge_files.acknowledge("\n".join([f"A|{LAYOUT}|{sequence}", *rows, ""]))
            except TokenworksError as refused:
                assert "already" in str(refused), refused
                continue
            for no, (row, yes) in lines.items():
                before = self.said.get((sequence, no), False)
                if yes != before:
                    self.said[sequence, no] = yes
                    self._book(row, 1 if yes else -1)

    def _book(self, row, sign):
        bill = self.services.bills.find(row[2])
        self.paid[bill.subscriber_id] = self.paid.get(bill.subscriber_id, 0) + sign * int(row[6]) * FEN


class Household:
    """Subscribers, and what is known of each without asking the product."""

    def __init__(self, services, dice, clock):
        self.services, self.dice, self.clock = services, dice, clock
        self.people, self.paid, self.events = [], {}, {}
        self.stopped = []
        self.number = 0

    def note(self, what):
        self.events[what] = self.events.get(what, 0) + 1

    def join(self, phone=None):
        self.number += 1
        phone = phone or f"+861380000{self.number:04d}"
        found = self.services.subscriptions.register(phone, f"Person {self.number}")
        self._plan(found)
        return found

    def _plan(self, subscriber):
        self.people.append(subscriber.subscriber_id)
        self.services.orders.place(subscriber, self.dice.choice(PLANS))
        if self.dice.random() < 0.5:
            self.services.orders.place(subscriber, "shanghai-mobile-payg")
            self.services.payg.control(subscriber, cap_nano=20 * 10**9, spill_over=True)

    def find(self, subscriber_id):
        return self.services.subscriptions.find(str(subscriber_id))

    def trouble(self, day):
        """One or two things that happen on a day."""
        acts = (self.suspend, self.lift, self.reverse, self.pay, self.correct, self.refund, self.hand_over, self.write_off, self.change)  # fmt: skip
        for _ in range(2):
            subscriber = self.find(self.dice.choice(self.people))
            act = self.dice.choice(acts)
            try:
                act(subscriber, day)
            except TokenworksError:
                self.note("refused")

    def suspend(self, subscriber, day):
        cause = self.dice.choice(CAUSES)
        if subscriber.state != "closed" and cause not in subscriber.suspended_by:
            self.services.subscriptions.suspend(subscriber, cause, "a reason")
            self.note(f"suspended by {cause}")
            if cause != "lost_phone":
                self.stopped.append([subscriber.subscriber_id, cause, self.clock.now(), None])

    def lift(self, subscriber, day):
        for cause in set(subscriber.suspended_by) - {"payment"}:
            self.services.subscriptions.lift(subscriber, cause, "over")
            self.note(f"lifted {cause}")
            for one in self.stopped:
                if one[:2] == [subscriber.subscriber_id, cause] and one[3] is None:
                    one[3] = self.clock.now()

    def _add(self, subscriber, amount):
        self.paid[subscriber.subscriber_id] = self.paid.get(subscriber.subscriber_id, 0) + amount

    def pay(self, subscriber, day):
        for bill in self.services.bills.all(subscriber)[0]:
            if bill.remaining_nano > 0:
                made = self.services.payments.pay(bill, "cash", f"P{day}-{bill.bill_no}", None)
                self._add(subscriber, made.amount_nano)
                self.note("paid in cash")

    def reverse(self, subscriber, day):
        for payment in self.services.payments.all(subscriber)[0]:
            if payment.reversed_at is None and payment.method == "cash":
                made = self.services.payments.reverse(payment, "a chargeback")
                self._add(subscriber, -made.amount_nano)
                self.note("reversed")
                return

    def correct(self, subscriber, day):
        for bill in self.services.bills.all(subscriber)[0]:
            lines = [line for line in self.services.bills.lines(bill) if line.amount_nano > 100 * FEN]
            if lines:
                self.services.bills.correct(bill, lines[0].line_no, 37 * FEN, "goodwill")
                self.note("credit note")
                return

    def refund(self, subscriber, day):
        live = [p for p in self.services.orders.products(subscriber) if p.state == "active" and p.renews]
        if live:
            self.services.refunds.refund(live[0].order_id, "unused", "not needed")
            self.services.orders.place(subscriber, self.dice.choice(PLANS))
            self.note("refund")

    def change(self, subscriber, day):
        live = [p for p in self.services.orders.products(subscriber) if p.state == "active" and p.renews]
        if live:
            when = self.dice.choice(["now", "cycle_end"])
            self.services.orders.change(live[0].product_id, self.dice.choice(PLANS), when)
            self.note("change")

    def write_off(self, subscriber, day):
        if subscriber.state == "closed":
            for bill in self.services.bills.all(subscriber)[0]:
                if bill.remaining_nano > 0:
                    made = self.services.payments.write_off(bill, "given up", f"W{bill.bill_no}")
                    self._add(subscriber, made.amount_nano)
                    self.note("written off")
                    return

    def hand_over(self, subscriber, day):
        """A number that goes to somebody else; some leave, and their number is given out again later."""
        if subscriber.state == "closed" or self.dice.random() < 0.8:
            return
        if self.dice.random() < 0.5:
            self._plan(self.services.subscriptions.change_owner(subscriber, "Next holder"))
            self.note("owner changed")
        else:
            self.services.subscriptions.close(subscriber)
            self.join(subscriber.phone)
            self.note("closed, and the number given out again")

    def spend(self, spender):
        for subscriber_id in self.people:
            subscriber = self.find(subscriber_id)
            if subscriber.state == "active":
                spender.spend(subscriber.account_id, self.dice.randrange(1, 1_500_000))


def explained(services, house):
    """Every bill from its lines, every line from its charges, and what is owed from bills, charges, credits and payments."""
    for subscriber_id in house.people:
        subscriber = house.find(subscriber_id)
        charges = services.charges.of_subscriber(subscriber_id, limit=100_000)
        bills, _ = services.bills.all(subscriber, 0, 1000)
        for bill in bills:
            lines = services.bills.lines(bill)
            assert bill.amount_nano == sum(line.amount_nano for line in lines), bill.bill_no
            assert bill.tax_nano == sum(line.tax_nano for line in lines), bill.bill_no
            for line in lines:
                of_line = [c for c in charges if (c.bill_id, c.line_no) == (bill.bill_id, line.line_no)]
                exact = sum(c.amount_nano for c in of_line)
                assert of_line and (len(of_line), exact) == (line.charges, line.charged_nano), bill.bill_no
                assert line.amount_nano == half_up(Fraction(exact, FEN)) * FEN, bill.bill_no
                assert all(c.charged_at < bill.period_end for c in of_line), "a charge of a later period"
        # A credit of a billed charge is taken off that bill in whole fen; any other charge waits for a bill.
        settled = sum(c.settled_nano for c in charges if c.settles_bill_id is not None)
        waits = sum(c.amount_nano for c in charges if c.bill_id is None and c.settles_bill_id is None)
        owed = sum(bill.amount_nano for bill in bills) - settled + waits - house.paid.get(subscriber_id, 0)
        assert services.charges.receivable(subscriber.account_id) == owed, subscriber.phone_masked
    for subscriber_id, cause, begin, end in house.stopped:
        for charge in services.charges.of_subscriber(subscriber_id, limit=100_000):
            if charge.kind in {"cycle", "step", "change"}:
                within = begin < charge.charged_at < (end or datetime.max.replace(tzinfo=UTC))
                assert not within, (cause, charge.kind, charge.charged_at)


@pytest.mark.parametrize(
    ("seed", "people", "days"),
    [(1, 6, 365), *(pytest.param(seed, 30, 730, marks=pytest.mark.nightly) for seed in (2, 3, 4))],
)
def test_a_year_of_trouble(services, clock, seed, people, days):
    dice = random.Random(seed)
    house, spender = Household(services, dice, clock), Spender(services)
    services.dunning._plan = DunningPlan(5, 15, 30, None)
    carrier = Carrier(services, dice, house.paid)
    for _ in range(people):
        house.join()
    suspended_by_payment = 0
    for day in range(days):
        now = BEGIN + timedelta(days=day, minutes=dice.randrange(600))
        clock.move(now.replace(tzinfo=BILLING_ZONE) - clock.now())
        services.orders.run_cycles()
        house.trouble(day)
        if day % 5 == 0:
            house.spend(spender)
        if now.day <= 2:
            services.bills.run()
        carrier.answer(now)
        if now.day in {3, 18}:
            carrier.collect(now)
        if day % 4 == 0:
            suspended_by_payment += services.dunning.run_dunning().get("suspend", 0)
        if (now + timedelta(days=1)).day == 1:
            services.refunds.finish()
            services.charges.recognise()
            assert verify(services.connection, services.offerings.rate_cards()) == [], now
            explained(services, house)
    # All of it happened.
    happened = house.events.keys()
    assert {f"suspended by {cause}" for cause in CAUSES} <= happened and suspended_by_payment
    assert {"reversed", "credit note", "refund", "owner changed", "closed, and the number given out again", "written off"} <= happened  # fmt: skip
    assert carrier.moods.keys() == {"at once", "late", "twice", "otherwise", "never"}
